//! What a response brings: a list of its own, all of a set, or a step that others take, too.

use std::sync::Arc;

use super::contents::{Contents, Kept};
use super::held::Change;
use crate::resource::{Difference, Resource, ResourceSet};

/// What to send.
pub(super) struct Batch {
    pub(super) changes: Changes,
    /// The proxy subscribes to everything, and then has it.
    pub(super) complete: bool,
}

/// The changes of a batch.
pub(super) enum Changes {
    Listed(Vec<Change>),
    /// All of a set.
    Whole(ResourceSet),
    /// What leads from one set to another, for all proxies that had the one. Nothing is gone.
    Step {
        from: ResourceSet,
        to: ResourceSet,
    },
}

/// One of them.
pub(super) struct Piece<'a> {
    pub(super) name: &'a Arc<str>,
    /// What to send, or that it is gone.
    pub(super) resource: Option<&'a Arc<Resource>>,
    /// The proxy may not have it under any version.
    pub(super) is_new: bool,
}

impl Batch {
    /// The changes one by one.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let (listed, whole, step) = match &self.changes {
            Changes::Listed(changes) => (Some(changes), None, None),
            Changes::Whole(set) => (None, Some(set), None),
            Changes::Step { from, to } => (None, None, Some((from, to))),
        };
        let listed = listed.into_iter().flatten().map(|change| Piece {
            name: &change.name,
            resource: change.resource.as_ref(),
            is_new: change.is_new(),
        });
        let brings = |resource, is_new| Piece {
            name: &Arc::<Resource>::as_ref(resource).name,
            resource: Some(resource),
            is_new,
        };
        let whole = whole.into_iter().flat_map(ResourceSet::iter);
        let step = step.into_iter().flat_map(|(from, to)| from.diff(to));
        listed
            .chain(whole.map(move |resource| brings(resource, true)))
            .chain(step.filter_map(move |difference| match difference {
                Difference::Added(resource) => Some(brings(resource, true)),
                Difference::Changed(resource) => Some(brings(resource, false)),
                Difference::Removed(_) => None,
            }))
    }

    /// Whether it brings all of a set, to a proxy that has nothing.
    pub(super) fn is_all_of(&self, set: &ResourceSet) -> bool {
        match &self.changes {
            Changes::Listed(changes) => changes.len() == set.len(),
            Changes::Whole(_) => true,
            Changes::Step { .. } => false,
        }
    }

    /// Its resources.
    pub(super) fn contents(&self, type_url: &str) -> Contents {
        if let Changes::Step { from, to } = &self.changes
            && let Some(encoded) = to.step_from(from).and_then(|step| step.encoded(type_url))
        {
            let (from, to) = (from.clone(), to.clone());
            return Contents(Kept::Shared { encoded, from, to });
        }
        self.pieces().filter_map(|piece| piece.resource.cloned()).collect()
    }
}
