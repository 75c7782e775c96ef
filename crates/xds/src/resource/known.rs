//! What was found out about a set, for everybody who holds it.

use std::sync::{Arc, OnceLock};

use super::{Difference, Map, Resource, ResourceSet};
use crate::wire::Encoded;

/// From how many earlier sets the differences are kept. In step with the mesh all proxies come from one; a few are late, and
/// those that are told by turns come from as many as there are turns.
const STEPS: usize = 16;

/// See the module.
#[derive(Default)]
pub(super) struct Known {
    /// The set that it was made of, and what was added to it.
    joined: Option<(ResourceSet, Vec<Arc<Resource>>)>,
    /// In the order in which they were found. Most sets that are made of others need no room for any.
    steps: OnceLock<Box<[OnceLock<Box<Step>>; STEPS]>>,
}

/// The differences between two sets, found once.
pub(crate) struct Step {
    from: Map,
    pub(super) differences: Vec<Found>,
    adds: bool,
    removes: bool,
    /// What it brings, unless that is too much.
    encoded: OnceLock<Option<Arc<Encoded>>>,
}

/// A [`Difference`] that is kept.
pub(super) enum Found {
    Added(Arc<Resource>),
    Changed(Arc<Resource>),
    Removed(Arc<Resource>),
}

// === impl Known ===

impl Known {
    /// Of a set that was made of another and some more.
    pub(super) fn joined(first: ResourceSet, more: Vec<Arc<Resource>>) -> Self {
        Self {
            joined: Some((first, more)),
            ..Self::default()
        }
    }

    /// What leads from an earlier set to the one that this is known of, unless it was asked for from too many. What leads from
    /// nothing is the set itself.
    pub(super) fn step(&self, from: &ResourceSet, to: &ResourceSet) -> Option<&Step> {
        if from.is_empty() {
            return None;
        }
        // Where only the first differs that both were made of, it is the same step for everybody who has that one.
        if let (Some((first, more)), Some((first_from, more_from))) = (&self.joined, from.joined())
            && more.len() == more_from.len()
            && more.iter().zip(more_from).all(|(one, other)| Arc::ptr_eq(one, other))
            && let Some(step) = first.step_from(first_from)
        {
            return Some(step);
        }
        self.steps
            .get_or_init(Box::default)
            .iter()
            .map(|step| step.get_or_init(|| Box::new(Step::new(from, to))))
            .find(|step| step.from.ptr_eq(&from.map))
            .map(|step| &**step)
    }

    pub(super) fn made_of(&self) -> Option<(&ResourceSet, &[Arc<Resource>])> {
        self.joined.as_ref().map(|(first, more)| (first, &**more))
    }
}

// === impl Step ===

impl Step {
    fn new(from: &ResourceSet, to: &ResourceSet) -> Self {
        let (mut adds, mut removes) = (false, false);
        let found = |difference| match difference {
            Difference::Added(resource) => {
                adds = true;
                Found::Added(Arc::clone(resource))
            }
            Difference::Changed(resource) => Found::Changed(Arc::clone(resource)),
            Difference::Removed(resource) => {
                removes = true;
                Found::Removed(Arc::clone(resource))
            }
        };
        let differences = from.compare(to).map(found).collect();
        Self {
            from: from.map.clone(),
            differences,
            adds,
            removes,
            encoded: OnceLock::new(),
        }
    }

    /// Whether there is no difference.
    pub(crate) fn is_empty(&self) -> bool {
        self.differences.is_empty()
    }

    /// Whether there are resources of names that were not there.
    pub(crate) fn adds(&self) -> bool {
        self.adds
    }

    /// Whether resources are gone.
    pub(crate) fn removes(&self) -> bool {
        self.removes
    }

    /// What is new or has changed, as resources of a type, unless that is too much to be kept.
    pub(crate) fn encoded(&self, type_url: &str) -> Option<Arc<Encoded>> {
        let brought = self.differences.iter().filter_map(|found| match found {
            Found::Added(resource) | Found::Changed(resource) => Some(resource),
            Found::Removed(_) => None,
        });
        let encode = || Encoded::new(type_url, brought).map(Arc::new);
        self.encoded.get_or_init(encode).clone()
    }
}
