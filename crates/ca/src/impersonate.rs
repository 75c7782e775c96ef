//! Node proxies: who may ask for a certificate of somebody else.

use futures::future::BoxFuture;
use lateen_names::SpiffeId;

use crate::authenticate::Caller;

/// A caller may not have another identity certified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImpersonationError {
    /// Nobody may.
    #[error("only its own identity is certified here")]
    Disabled,
    /// The caller is not a node proxy.
    #[error("`{0}` is not one of the node proxies' accounts (CA_TRUSTED_NODE_ACCOUNTS)")]
    NotTrusted(Box<SpiffeId>),
    /// The identity asked for is none.
    #[error("`{0}` is not an identity of this mesh")]
    NotAnIdentity(String),
    /// The caller did not prove which pod it is.
    #[error("a node proxy must present the token of its pod; what it presented is bound to none")]
    NoPod,
    /// The caller's pod is not known.
    #[error("the caller's pod `{0}` is not there, or has no node")]
    UnknownPod(String),
    /// No pod of that identity runs on the caller's node.
    #[error("no pod of `{wanted}` runs on node `{node}`")]
    NotOnNode {
        /// What was asked for.
        wanted: Box<SpiffeId>,
        /// The caller's node.
        node: String,
    },
    /// Whoever can tell does not answer.
    #[error("it cannot be checked now: {0}")]
    Unavailable(String),
}

/// Decides whether a node proxy may have the identity of a workload certified.
pub trait NodeAuthorizer: Send + Sync {
    /// Fails unless the caller is a trusted node proxy and a pod of that identity runs on its node.
    fn authorize<'a>(
        &'a self,
        caller: &'a Caller,
        wanted: &'a SpiffeId,
    ) -> BoxFuture<'a, Result<(), ImpersonationError>>;
}

impl ImpersonationError {
    /// The reason in one word, for metrics and for whoever searches the log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Disabled => "impersonation_disabled",
            Self::NotTrusted(_) => "impersonation_not_trusted",
            Self::NotAnIdentity(_) => "impersonation_identity",
            Self::NoPod | Self::UnknownPod(_) => "impersonation_pod",
            Self::NotOnNode { .. } => "impersonation_other_node",
            Self::Unavailable(_) => "unavailable",
        }
    }
}
