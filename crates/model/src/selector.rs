//! Labels, what selects by them, and who may see an object.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_names::Namespace;

/// Labels of a workload or an object.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Selects workloads by labels. Without labels it selects every workload in its reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// The labels that a workload must carry, with these values.
    pub labels: Labels,
}

impl Selector {
    /// Whether a workload with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether it selects every workload in its reach.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// The namespaces whose proxies may see an object (`exportTo`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum ExportTo {
    /// `*`: every namespace.
    #[default]
    All,
    /// `~`: nobody.
    Nobody,
    /// These; `.` has become the object's own namespace. Sorted.
    Namespaces(Vec<Namespace>),
}

impl ExportTo {
    /// Whether proxies in this namespace may see the object.
    pub fn visible_in(&self, namespace: &Namespace) -> bool {
        match self {
            Self::All => true,
            Self::Nobody => false,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }
}
