//! Names of configuration objects.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Name, Namespace};

/// Namespace and name: what tells two objects of one kind apart. Cluster-scoped objects have no namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The object's namespace; `None` for cluster-scoped kinds.
    pub namespace: Option<Namespace>,
    /// The object's name.
    pub name: Name,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// A configuration object as a user would name it: `VirtualService default/reviews`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The kind, e.g. `VirtualService`.
    pub kind: Arc<str>,
    /// The kind's API group, e.g. `networking.istio.io`; empty for core. Two groups have a `Gateway`.
    #[serde(default)]
    pub group: Arc<str>,
    /// Namespace and name.
    pub key: ObjectKey,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}
