//! The certificate authority: who may have which certificate, and its signing.
//!
//! - [`CertificateAuthority`] holds the signing certificate (its own root, made and kept in a directory, or one plugged
//!   in from files), the bundle of trusted roots as a watch, and the control plane's own serving certificate. One task
//!   must drive it: [`CertificateAuthority::run`].
//! - [`Authenticator`] proves who a caller is, by the certificate of its connection or by a bearer token; the CA and the
//!   configuration server ask the same one.
//! - [`CertificateService`] is `istio.v1.auth.IstioCertificateService`. It certifies the identity that the caller proved
//!   and nothing else: names in a request are not looked at. Only a [`NodeAuthorizer`] lets a node proxy ask for more.
//! - [`kube`] is the same in a cluster: tokens reviewed by the API server, the root in a Secret, node proxies.
//! - [`TokenIssuer`] is the embedded default's own issuer of service account tokens.
//!
//! Failure policy: at start-up, a file that cannot be used is an error that names it. At run time the last good
//! certificate, root or key set stays in use and the failure is logged; a caller's bad request is that caller's error.

mod audit;
mod authenticate;
mod authority;
mod external;
mod files;
mod impersonate;
pub mod kube;
mod limits;
mod metrics;
mod service;
mod serving;
mod token;

use std::sync::Arc;
use std::time::SystemTime;

pub use audit::{AuditLog, Record};
pub use authenticate::jwt::{JwksError, JwksSource, JwtVerifier};
pub use authenticate::{
    AuthError, Authenticator, BoundPod, Caller, PeerCertificates, Proof, TokenError, TokenSubject, TokenVerifier,
};
pub use authority::{
    CaConfig, CaError, CertificateAuthority, Issued, RootContents, RootSource, RootStep, RotationPolicy, RotationStage,
    control_plane_names,
};
pub use external::{ExternalError, ExternalSigner};
pub use files::FileError;
pub use impersonate::{ImpersonationError, NodeAuthorizer};
pub use lateen_pki as pki;
pub use limits::{Allowance, network};
pub use service::CertificateService;
pub use serving::ServingCertificate;
pub use token::{TokenIssuer, TokenIssuerError};

/// Tells the time; an argument, so that tests choose it.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The audience that tokens for the CA carry, as Istio's agents ask for it.
pub const TOKEN_AUDIENCE: &str = "istio-ca";
