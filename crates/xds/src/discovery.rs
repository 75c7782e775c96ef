//! The one question that the server asks: what should this proxy hold?

use std::net::SocketAddr;
use std::sync::Arc;

use lateen_names::SpiffeId;
use lateen_proto::Any;
use lateen_proto::envoy::config::core::v3::Node;
use tokio::sync::watch;
use tonic::Status;

use crate::{Dialect, Wanted};

/// Who is at the other end of a connection. The listener puts it into the request's extensions; without it a peer is
/// unknown.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The identity that the peer's certificate, or its token, proved. `None` on a plaintext port.
    pub identity: Option<SpiffeId>,
    /// Where it connects from.
    pub address: Option<SocketAddr>,
    /// Whether it gets no secrets: its identity may not read those of its namespace, or nobody knows it.
    pub without_secrets: bool,
}

/// Answers what proxies should hold.
pub trait Discovery: Send + Sync + 'static {
    /// What one stream holds on to while it lasts.
    type Subscription: Subscription;

    /// Called once for a stream, with the Node of its first request and the protocol that it speaks. It may take as long as a first compilation; the
    /// server bounds how many run at once. The watch's first value must be complete.
    ///
    /// # Errors
    /// The stream ends with the [`Refusal`]'s status.
    fn connect(
        &self,
        node: Node,
        peer: &Peer,
        dialect: Dialect,
    ) -> impl Future<Output = Result<Self::Subscription, Refusal>> + Send;

    /// Answers a question about the control plane itself: what `istioctl` asks over a stream of its own, by types that
    /// begin with [`QUESTIONS`](crate::types::QUESTIONS). Called for every such request that is not an acknowledgement.
    ///
    /// # Errors
    /// The stream ends with the [`Refusal`]'s status. Without an implementation there are no such questions.
    fn inspect(&self, question: Question, peer: &Peer) -> impl Future<Output = Result<Vec<NamedAny>, Refusal>> + Send {
        let _ = peer;
        std::future::ready(Err(Refusal::BadQuestion(format!(
            "nothing is known of `{}`",
            question.type_url
        ))))
    }
}

/// A question about the control plane itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is asked, e.g. `istio.io/debug/syncz`.
    pub type_url: String,
    /// About what, e.g. a proxy.
    pub names: Vec<String>,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedAny {
    /// Its name; may be empty.
    pub name: String,
    /// Its content.
    pub body: Any,
}

/// One stream's view of what it should hold. Dropped when the stream ends.
pub trait Subscription: Send + 'static {
    /// What to hold now and from now on. When its sender is gone, the stream ends and the proxy connects anew.
    fn wanted(&self) -> watch::Receiver<Arc<Wanted>>;

    /// Told of everything that happens on the stream, in order.
    fn on_event(&mut self, event: &Event);
}

/// Why a proxy gets nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// The Node makes no sense.
    #[error("node: {0}")]
    BadNode(String),
    /// The peer did not prove who it is.
    #[error("unauthenticated: {0}")]
    Unauthenticated(String),
    /// The peer is not who its Node says.
    #[error("permission denied: {0}")]
    Denied(String),
    /// Not now: the proxy tries again.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The question makes no sense.
    #[error("question: {0}")]
    BadQuestion(String),
}

/// What happened on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A response went out.
    Sent {
        /// The response.
        response: ResponseId,
        /// How many resources it holds.
        resources: usize,
        /// How many it removes.
        removed: usize,
        /// The size of all resources' encoded messages, in bytes.
        bytes: usize,
    },
    /// The proxy accepted a response.
    Acked {
        /// The response.
        response: ResponseId,
    },
    /// The proxy rejected a response. Which resources are to blame may be known only after some more.
    Nacked {
        /// The response.
        response: ResponseId,
        /// The gRPC code of the proxy's error.
        code: i32,
        /// The proxy's words.
        reason: Arc<str>,
    },
    /// This resource is to blame: it is not sent again until its content changes.
    Rejected {
        /// The resource's type.
        type_url: Arc<str>,
        /// The resource's name.
        name: Arc<str>,
        /// The version that was rejected.
        hash: u64,
        /// The proxy's words.
        reason: Arc<str>,
    },
    /// A request answered a response that is not the last one.
    ExpiredNonce {
        /// The type that the request was about.
        type_url: Arc<str>,
    },
    /// The proxy holds everything it asked for of this snapshot, but for what it rejected.
    Settled {
        /// The snapshot.
        snapshot: u64,
    },
}

/// Names a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseId {
    /// The type of its resources.
    pub type_url: Arc<str>,
    /// Its nonce, unique on the stream.
    pub nonce: u64,
    /// The snapshot it was made from.
    pub snapshot: u64,
    /// That snapshot's version.
    pub version: Arc<str>,
}

// === impl Event ===

impl Event {
    /// The type that it is about, unless it is about the stream as a whole.
    pub fn type_url(&self) -> Option<&str> {
        match self {
            Self::Sent { response, .. } | Self::Acked { response } | Self::Nacked { response, .. } => {
                Some(&response.type_url)
            }
            Self::Rejected { type_url, .. } | Self::ExpiredNonce { type_url } => Some(type_url),
            Self::Settled { .. } => None,
        }
    }
}

// === impl Refusal ===

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::BadNode(_) | Refusal::BadQuestion(_) => Self::invalid_argument(text),
            Refusal::Unauthenticated(_) => Self::unauthenticated(text),
            Refusal::Denied(_) => Self::permission_denied(text),
            Refusal::Unavailable(_) => Self::unavailable(text),
        }
    }
}
