//! The resources of a response.

use std::sync::Arc;

use crate::resource::{Resource, ResourceSet};
use crate::wire::Encoded;

/// The resources of a response.
#[derive(Debug)]
pub struct Contents(pub(crate) Kept);

/// How they are at hand.
#[derive(Debug)]
pub(crate) enum Kept {
    /// One by one.
    Listed(Vec<Arc<Resource>>),
    /// As they were written for others, too.
    Shared {
        encoded: Arc<Encoded>,
        /// The same one by one: what is new in `to`.
        from: ResourceSet,
        to: ResourceSet,
    },
}

impl Contents {
    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kept::Listed(listed) => listed.len(),
            Kept::Shared { encoded, .. } => encoded.resources,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of their bodies.
    pub(crate) fn body_bytes(&self) -> usize {
        match &self.0 {
            Kept::Listed(listed) => listed.iter().map(|resource| resource.body.len()).sum(),
            Kept::Shared { encoded, .. } => encoded.bodies,
        }
    }

    /// The resources.
    pub fn iter(&self) -> Box<dyn Iterator<Item = &Arc<Resource>> + '_> {
        match &self.0 {
            Kept::Listed(listed) => Box::new(listed.iter()),
            Kept::Shared { from, to, .. } => Box::new(from.brought_by(to)),
        }
    }
}

impl<'a> IntoIterator for &'a Contents {
    type Item = &'a Arc<Resource>;
    type IntoIter = Box<dyn Iterator<Item = &'a Arc<Resource>> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<Arc<Resource>> for Contents {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(resources: I) -> Self {
        Self(Kept::Listed(resources.into_iter().collect()))
    }
}
