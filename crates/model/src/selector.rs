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

/// Selects namespaces by labels and by expressions over labels, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct NamespaceSelector {
    /// The labels that a namespace must carry, with these values.
    pub labels: Labels,
    /// What else must hold.
    pub expressions: Vec<Requirement>,
}

/// What a label must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: Arc<str>,
    /// What must hold of it.
    pub operator: Operator,
    /// The values that the operator is about.
    pub values: Vec<Arc<str>>,
}

/// What must hold of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// It is one of the values.
    In,
    /// It is none of the values, or absent.
    NotIn,
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
    /// An operator that nobody knows: selects nothing.
    Unknown,
}

impl NamespaceSelector {
    /// Whether a namespace with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.expressions.iter().all(|requirement| {
                let found = labels.get(&requirement.key);
                let among = found.is_some_and(|value| requirement.values.contains(value));
                match requirement.operator {
                    Operator::In => among,
                    Operator::NotIn => !among,
                    Operator::Exists => found.is_some(),
                    Operator::DoesNotExist => found.is_none(),
                    Operator::Unknown => false,
                }
            })
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
