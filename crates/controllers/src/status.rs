//! `status` of Istio's kinds: what analysis found, and whether a change has reached every proxy.
//!
//! Two conditions are Lateen's; others are left as they are:
//!
//! - `lateen.dev/Accepted`: False when a part of the object has no effect, with what to do;
//! - `lateen.dev/Distributed`: True once every connected proxy of every replica has acknowledged, or needed no byte of, a
//!   snapshot that holds this generation. From then on it stays True for this generation: proxies that connect later
//!   start with it. A proxy that rejects a resource made from the object makes it False.
//!
//! An object's status is written once per generation as long as all goes well: when the change has arrived, or after
//! [`PATIENCE`] with what it waits for.

mod desired;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use lateen_model::Diagnostic;
use lateen_names::ObjectKey;
use serde_json::Value;

pub use writer::{Subjects, keep};

/// The condition that says whether a change is live.
pub const DISTRIBUTED: &str = "lateen.dev/Distributed";
/// The condition that says whether all of an object has effect.
pub const ACCEPTED: &str = "lateen.dev/Accepted";

/// How long a change may take before the object says that it is under way.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Names an object among those that have a status.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubjectKey {
    /// API group of its kind.
    pub group: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace and name.
    pub key: ObjectKey,
}

/// An object, as far as its status is concerned.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// Tells it from an earlier one of the same name.
    pub uid: Arc<str>,
    /// Counts the changes of its `spec`.
    pub generation: i64,
    /// The version of the state that is known here.
    pub version: u64,
    /// Its status as it stands.
    pub status: Value,
    /// What is to be said of it, sorted.
    pub findings: Vec<Diagnostic>,
}

impl SubjectKey {
    /// The kind as [`crate::progress::Versions`] names it.
    #[must_use]
    pub fn kind_name(&self) -> String {
        format!("{}.{}", self.kind, self.group)
    }
}
