//! What to send to one proxy, and when: a state machine without I/O.
//!
//! Requests, wanted sets and the time go in; [`Session::poll`] hands out one response at a time, so that nothing is
//! computed before the connection can take it, and later changes are folded into the next response. Of each type one
//! response is under way at most.
//!
//! Order (make before break): clusters, their endpoints, then listeners and routes once new clusters and their
//! endpoints are acknowledged, removals of clusters and endpoints last. Each wait is bounded by [`PATIENCE`]. After a
//! changed or new cluster its endpoints are sent again though equal, or Envoy waits for them in vain; a cluster's
//! endpoints are known by its name.
//!
//! What there is by name only ([`Wanted::by_name`]) is sent to a stream that names it beside its wildcard subscription, and
//! then changes and goes like all the rest.
//!
//! A rejected response is sent again in parts until the culprits are alone. What was rejected is not sent to that proxy
//! again until its content changes.

mod batch;
mod blame;
mod contents;
mod core;
mod delta;
mod demand;
mod held;
mod outstanding;
mod sotw;
mod state;
mod warming;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use tonic::Status;

pub use self::contents::Contents;
pub(crate) use self::contents::Kept;
use self::core::Core;
use crate::{Event, Wanted};

/// How long routes wait for clusters, and removals of clusters for routes.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Most types one stream may ask for.
const MAX_TYPES: usize = 64;

/// Most names one stream may hold memory of its own for, by type.
const MAX_NAMES: usize = 1 << 20;

/// The variant of the protocol that a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Responses hold differences.
    Delta,
    /// Responses hold all there is of some types, and what changed of the others.
    StateOfTheWorld,
}

/// One stream.
#[derive(Debug)]
pub struct Session {
    core: Core,
}

/// A response to send.
#[derive(Debug)]
pub struct Push {
    /// The protocol to write it in.
    pub dialect: Dialect,
    /// The type of its resources.
    pub type_url: Arc<str>,
    /// Unique on the stream.
    pub nonce: u64,
    /// The snapshot's version.
    pub version: Arc<str>,
    /// What it holds.
    pub resources: Contents,
    /// Names of what is gone; never in the state of the world.
    pub removed: Vec<Arc<str>>,
}

/// What a stream knows of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeStatus {
    /// The type.
    pub type_url: Arc<str>,
    /// It subscribed to all there is.
    pub wildcard: bool,
    /// How many names it subscribed to, or holds by wildcard.
    pub subscribed: usize,
    /// Names that it rejected and that are still wanted with the content that it rejected.
    pub rejected: Vec<Arc<str>>,
}

/// Why a stream must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A request names no type.
    #[error("request without type_url: set it to the URL of the wanted resources' type")]
    NoType,
    /// Too many types.
    #[error("more than {MAX_TYPES} types on one stream")]
    TooManyTypes,
    /// Too many names.
    #[error("more than {MAX_NAMES} names of {0} on one stream")]
    TooManyNames(Arc<str>),
    /// A request of the other dialect.
    #[error("request of the other dialect")]
    Dialect,
}

impl Session {
    /// A stream that has asked for nothing yet.
    pub fn new(dialect: Dialect, wanted: Arc<Wanted>) -> Self {
        Self {
            core: Core::new(dialect, wanted),
        }
    }

    /// A request of the delta protocol.
    ///
    /// # Errors
    /// [`Violation`] ends the stream.
    pub fn on_delta_request(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Violation> {
        if self.core.dialect() == Dialect::Delta {
            delta::on_request(&mut self.core, request)
        } else {
            Err(Violation::Dialect)
        }
    }

    /// A request of the state of the world.
    ///
    /// # Errors
    /// [`Violation`] ends the stream.
    pub fn on_sotw_request(&mut self, request: &DiscoveryRequest) -> Result<(), Violation> {
        if self.core.dialect() == Dialect::StateOfTheWorld {
            sotw::on_request(&mut self.core, request)
        } else {
            Err(Violation::Dialect)
        }
    }

    /// What the proxy should hold from now on.
    pub fn on_wanted(&mut self, wanted: Arc<Wanted>) {
        self.core.on_wanted(wanted);
    }

    /// The next response to send, or `None` until something happens or [`Self::deadline`] passes.
    pub fn poll(&mut self, now: Instant) -> Option<Push> {
        self.core.poll(now)
    }

    /// Whether the proxy has answered everything and nothing is to be sent, as far as [`Self::poll`] has found.
    pub fn is_settled(&self) -> bool {
        self.core.is_settled()
    }

    /// When to poll again though nothing happened.
    pub fn deadline(&self) -> Option<Instant> {
        self.core.deadline()
    }

    /// What happened since the last call, in order.
    pub fn events(&mut self) -> Vec<Event> {
        self.core.events()
    }

    /// What the proxy should hold.
    pub fn wanted(&self) -> &Arc<Wanted> {
        self.core.wanted()
    }

    /// What is known of each type, in the order of pushes.
    pub fn status(&self) -> Vec<TypeStatus> {
        self.core.status()
    }

    /// What is known of one type; `None` if the stream never asked for it.
    pub fn status_of(&self, type_url: &str) -> Option<TypeStatus> {
        self.core.status_of(type_url)
    }

    /// Names that this stream holds memory of its own for, instead of sharing it.
    pub fn own_names(&self) -> usize {
        self.core.own_names()
    }
}

impl From<Violation> for Status {
    fn from(violation: Violation) -> Self {
        let text = violation.to_string();
        match violation {
            Violation::NoType | Violation::Dialect => Self::invalid_argument(text),
            Violation::TooManyTypes | Violation::TooManyNames(_) => Self::resource_exhausted(text),
        }
    }
}

#[cfg(test)]
mod tests;
