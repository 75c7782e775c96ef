//! What a user should know about an object.

use std::fmt;
use std::sync::Arc;

use lateen_names::ObjectRef;
use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Severity {
    /// Worth knowing; nothing is lost.
    Info,
    /// Probably not what was meant.
    Warning,
    /// A part of the object has no effect, or its fixed replacement is in force.
    Error,
}

/// A finding: which object, which field, what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Diagnostic {
    /// The object it is about.
    pub object: ObjectRef,
    /// Path of the field, e.g. `spec.http[0].route[1].destination.subset`.
    pub field: Arc<str>,
    /// How bad it is.
    pub severity: Severity,
    /// A stable code in the manner of `istioctl analyze`, e.g. `IST0101`, or Lateen's own, `LTN0001`.
    pub code: &'static str,
    /// What is wrong, and what to do about it.
    pub message: Arc<str>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {} [{}]", self.object, self.field, self.message, self.code)
    }
}
