//! The CA in a cluster.
//!
//! - [`TokenReviewer`]: the API server says whom a token names; the pod that it is bound to must run, and where it says.
//! - [`NodeProxies`]: node proxies may have identities certified whose pods run on their node.
//! - [`ClusterSigner`]: certificates by the cluster's signers, in place of a root here.
//! - [`SecretRoot`]: the self-signed root in the Secret `istio-ca-secret`, one for all replicas.
//!
//! Failure policy: while the API server does not answer, nobody is certified by token, and the root in use stays.

mod nodes;
mod pods;
mod review;
mod root;
mod signer;

pub use nodes::NodeProxies;
pub use review::TokenReviewer;
pub use root::{SECRET, SecretRoot, SecretRootError};
pub use signer::ClusterSigner;
