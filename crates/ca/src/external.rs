//! Signers elsewhere: the authority checks who asks, somebody else signs.

use std::time::Duration;

use futures::future::BoxFuture;
use lateen_names::SpiffeId;
use lateen_pki::Csr;

use crate::authority::Issued;

/// A signer elsewhere does not sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExternalError {
    /// The request names something else than the identity that its caller proved. Whoever signs looks at nothing else.
    #[error("the request must ask for `{0}` and for nothing else: the signer certifies what it asks for")]
    Names(Box<SpiffeId>),
    /// There is no such signer.
    #[error("there is no signer `{0}` here: {1}")]
    Signer(String, &'static str),
    /// The signer refuses.
    #[error("signer `{signer}` refuses: {reason}")]
    Refused {
        /// Which one.
        signer: String,
        /// In its words.
        reason: String,
    },
    /// What came back is not what was asked for, or not trusted in this mesh.
    #[error("what signer `{signer}` made cannot be used: {reason}")]
    Unusable {
        /// Which one.
        signer: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody signs now.
    #[error("it cannot be signed now: {0}")]
    Unavailable(String),
}

impl ExternalError {
    /// The reason in one word, for metrics and for whoever searches the log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Names(_) => "request_names",
            Self::Signer(..) => "signer",
            Self::Refused { .. } => "signer_refused",
            Self::Unusable { .. } => "signer_unusable",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// Signs in place of the authority.
pub trait ExternalSigner: Send + Sync {
    /// Has the request signed for `identity`, which its caller proved. `ttl` is what the caller asks for, bounded;
    /// `signer` is the one that it names, if it names one.
    fn sign<'a>(
        &'a self,
        request: &'a Csr,
        identity: &'a SpiffeId,
        ttl: Duration,
        signer: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Issued, ExternalError>>;
}
