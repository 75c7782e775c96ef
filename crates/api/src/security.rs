//! The kinds of group `security.istio.io`.

pub mod authorization_policy;
pub mod peer_authentication;
pub mod request_authentication;

pub use self::authorization_policy::{AuthorizationPolicy, AuthorizationPolicySpec};
pub use self::peer_authentication::{PeerAuthentication, PeerAuthenticationSpec};
pub use self::request_authentication::{RequestAuthentication, RequestAuthenticationSpec};
