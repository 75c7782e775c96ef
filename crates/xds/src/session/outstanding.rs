//! A response that is not answered yet: what the proxy has once it takes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::resource::ResourceSet;

/// A response that is not answered yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) nonce: u64,
    pub(super) snapshot: u64,
    pub(super) version: Arc<str>,
    pub(super) brings: Brings,
    /// Once it is taken the proxy has all that `target` has of what it asked for, and nothing else.
    pub(super) exact: bool,
    /// After it nothing of `target` is missing.
    pub(super) complete: bool,
    pub(super) target: ResourceSet,
    /// All there is after it, when that is neither `target` nor known otherwise.
    pub(super) content: Option<ResourceSet>,
    /// Names asked for again since: the answer to this response says nothing of them.
    pub(super) superseded: BTreeSet<Arc<str>>,
}

/// What a response brings.
#[derive(Debug)]
pub(super) enum Brings {
    /// All of the target, to a proxy that knows of nothing else: most first responses. They are large, and many are under
    /// way at once, so that they have no list of their own.
    Target,
    /// What leads from a set to the target, and nothing of it is gone.
    Step(ResourceSet),
    /// Name and content, or that it is gone.
    Listed(Vec<(Arc<str>, Option<u64>)>),
}

impl Outstanding {
    /// What it brings, by name, or what it removes.
    pub(super) fn changes(&self) -> impl Iterator<Item = (&Arc<str>, Option<u64>)> {
        let (target, from, listed) = match &self.brings {
            Brings::Target => (Some(&self.target), None, None),
            Brings::Step(from) => (None, Some(from), None),
            Brings::Listed(listed) => (None, None, Some(listed)),
        };
        let target = target.into_iter().flat_map(ResourceSet::iter);
        let step = from.into_iter().flat_map(|from| from.brought_by(&self.target));
        let listed = listed.into_iter().flatten();
        target
            .chain(step)
            .map(|resource| (&resource.name, Some(resource.hash)))
            .chain(listed.map(|(name, hash)| (name, *hash)))
    }

    /// From now on, what the proxy asks for and what the response brings may differ.
    pub(super) fn list(&mut self) {
        self.exact = false;
        if !matches!(self.brings, Brings::Listed(_)) {
            let listed = self.changes().map(|(name, hash)| (Arc::clone(name), hash)).collect();
            self.brings = Brings::Listed(listed);
        }
    }

    /// Names of what it brings or removes.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.changes()
            .map(|(name, _)| name)
            .filter(|name| !self.superseded.contains(*name))
    }
}
