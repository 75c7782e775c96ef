//! `status` of Istio's kinds and of the Gateway API's: what was found, and whether a change has reached every proxy.
//!
//! Two conditions are Lateen's; others are left as they are:
//!
//! - `lateen.dev/Accepted`: False when a part of the object has no effect, with what to do;
//! - `lateen.dev/Distributed`: True once every connected proxy of every replica has acknowledged, or needed no byte of, a
//!   snapshot that holds this generation. From then on it stays True for this generation: proxies that connect later
//!   start with it. A proxy that rejects a resource made from the object makes it False.
//!
//! Objects of the Gateway API have conditions of their API instead of the first ([`Statuses`]), and the second where
//! their shape has a place for it: a Gateway's and a ListenerSet's own conditions, a route's and a policy's at each parent
//! that is Lateen's. What other controllers wrote stays.
//!
//! An object's status is written once per generation as long as all goes well: when the change has arrived, or after
//! [`PATIENCE`] with what it waits for.

mod desired;
mod gateway_api;
mod kinds;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lateen_model::Diagnostic;
use lateen_model::status::Statuses;
use lateen_names::{Namespace, ObjectRef};
use serde_json::Value;
use tokio::sync::watch;

use kinds::{KINDS, StatusKind};
pub use writer::keep;

/// The condition that says whether a change is live.
pub const DISTRIBUTED: &str = "lateen.dev/Distributed";
/// The condition that says whether all of an object has effect.
pub const ACCEPTED: &str = "lateen.dev/Accepted";

/// How long a change may take before the object says that it is under way.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What is to be said of objects: findings, sorted, by the object that they are about.
pub type Findings = BTreeMap<ObjectRef, Vec<Diagnostic>>;

/// Which objects get a status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Objects in these namespaces; the others are none of the mesh's business.
    pub namespaces: Arc<BTreeSet<Namespace>>,
    /// Objects that name another revision than this are left to it.
    pub revision: String,
    /// The controllers of the Gateway API that Lateen is: what stands in their name in a status is Lateen's.
    pub controllers: Arc<BTreeSet<String>>,
}

/// What is to be told of objects.
#[derive(Debug, Clone)]
pub struct Told {
    /// Of Istio's kinds.
    pub findings: watch::Receiver<Arc<Findings>>,
    /// Of the Gateway API's.
    pub statuses: watch::Receiver<Arc<Statuses>>,
}

/// Names an object among those that have a status.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct SubjectKey {
    /// Where its kind stands in [`KINDS`].
    kind: usize,
    /// Its namespace and name, joined by `/`.
    name: String,
}

/// An object, as far as its status is concerned.
#[derive(Debug, Clone, PartialEq)]
struct Subject {
    object: ObjectRef,
    /// Tells it from an earlier one of the same name.
    uid: String,
    /// Counts the changes of its `spec`.
    generation: i64,
    /// The version of the state that is known here.
    version: u64,
    /// The revision that it names.
    revision: Option<String>,
    /// Its status as it stands.
    status: Value,
}

impl SubjectKey {
    fn info(&self) -> &'static StatusKind {
        &KINDS[self.kind]
    }

    /// The kind as [`crate::progress::Versions`] names it.
    fn kind_name(&self) -> String {
        kind_name(self.info().kind, self.info().group)
    }
}

/// A kind as [`crate::progress::Versions`] names it: `<kind>.<group>`.
#[must_use]
pub fn kind_name(kind: &str, group: &str) -> String {
    format!("{kind}.{group}")
}
