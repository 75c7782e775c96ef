//! What a proxy holds of one type: a shared set, and where the proxy differs from it.
//!
//! A proxy that holds what its class holds costs a pointer, however many names that is.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::resource::{Difference, Resource, ResourceSet};

/// What the proxy has under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Has {
    /// Nothing, and it knows that there is nothing.
    Absent,
    /// The resource with this content hash.
    Version(u64),
    /// Not known, or it asked and awaits an answer: whatever should be there must be said.
    Unknown,
}

/// What is known of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// The proxy asked for it, by name or by wildcard.
    pub(super) subscribed: bool,
    /// What it has.
    pub(super) has: Has,
}

/// One thing to send.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) name: Arc<str>,
    /// What was there before.
    pub(super) before: Has,
    /// What to send, or that it is gone.
    pub(super) resource: Option<Arc<Resource>>,
}

impl Change {
    /// Whether it brings something that the proxy may not have under any version.
    pub(super) fn is_new(&self) -> bool {
        self.resource.is_some() && !matches!(self.before, Has::Version(_))
    }
}

/// Names in `base` are subscribed and held with its version, other names neither, but for the exceptions.
#[derive(Debug, Default)]
pub(super) struct Held {
    base: ResourceSet,
    exceptions: BTreeMap<Arc<str>, Entry>,
}

const NOTHING: Entry = Entry {
    subscribed: false,
    has: Has::Absent,
};

fn entry_in(base: &ResourceSet, name: &str) -> Entry {
    base.get(name).map_or(NOTHING, |resource| Entry {
        subscribed: true,
        has: Has::Version(resource.hash),
    })
}

impl Held {
    pub(super) fn entry(&self, name: &str) -> Entry {
        self.exceptions
            .get(name)
            .copied()
            .unwrap_or_else(|| entry_in(&self.base, name))
    }

    pub(super) fn set(&mut self, name: &Arc<str>, entry: Entry) {
        if entry_in(&self.base, name) == entry {
            self.exceptions.remove(name);
        } else {
            self.exceptions.insert(Arc::clone(name), entry);
        }
    }

    /// The content that the proxy has under a name, when it is still at hand.
    pub(super) fn body(&self, name: &str) -> Option<&Arc<Resource>> {
        if self.exceptions.contains_key(name) {
            None
        } else {
            self.base.get(name)
        }
    }

    /// What the proxy has that `wanted` lacks and whose content is still at hand.
    pub(super) fn leftovers<'a>(&'a self, wanted: &'a ResourceSet) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.base.diff(wanted).filter_map(|difference| match difference {
            Difference::Removed(resource) if !self.exceptions.contains_key(&resource.name) => Some(resource),
            _ => None,
        })
    }

    /// Every name that is subscribed.
    pub(super) fn subscribed(&self) -> impl Iterator<Item = &Arc<str>> {
        let shared = self
            .base
            .iter()
            .map(|resource| &resource.name)
            .filter(|name| !self.exceptions.contains_key(*name));
        shared.chain(
            self.exceptions
                .iter()
                .filter(|(_, entry)| entry.subscribed)
                .map(|(name, _)| name),
        )
    }

    /// How many names are subscribed, without going through the shared ones.
    pub(super) fn subscribed_count(&self) -> usize {
        let counted = |count: usize, (name, entry): (&Arc<str>, &Entry)| match (self.base.get(name), entry.subscribed) {
            (Some(_), false) => count - 1,
            (None, true) => count + 1,
            _ => count,
        };
        self.exceptions.iter().fold(self.base.len(), counted)
    }

    /// Whether nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.base.is_empty() && self.exceptions.is_empty()
    }

    /// How many names this proxy holds memory of its own for.
    pub(super) fn own_names(&self) -> usize {
        self.exceptions.len()
    }

    /// What to send so that the proxy has what is wanted of what it subscribed to, by name.
    pub(super) fn changes(&self, wanted: &ResourceSet, wildcard: bool) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, entry) in &self.exceptions {
            if wildcard || entry.subscribed {
                let resource = wanted.get(name);
                let needed = match (entry.has, resource) {
                    (Has::Unknown, _) | (Has::Absent, Some(_)) | (Has::Version(_), None) => true,
                    (Has::Version(hash), Some(resource)) => hash != resource.hash,
                    (Has::Absent, None) => false,
                };
                if needed {
                    changes.push(Change {
                        name: Arc::clone(name),
                        before: entry.has,
                        resource: resource.cloned(),
                    });
                }
            }
        }
        // By name, an empty base says that nothing but the exceptions is subscribed.
        if !wildcard && self.base.is_empty() {
            return changes;
        }
        let exceptional = changes.len();
        for difference in self.base.diff(wanted) {
            let (name, before, resource) = match difference {
                Difference::Added(_) if !wildcard => continue,
                Difference::Added(resource) => (&resource.name, Has::Absent, Some(resource)),
                Difference::Changed(resource) => (&resource.name, Has::Unknown, Some(resource)),
                Difference::Removed(resource) => (&resource.name, Has::Version(resource.hash), None),
            };
            if self.exceptions.contains_key(name) {
                continue;
            }
            let before = if before == Has::Unknown {
                self.entry(name).has
            } else {
                before
            };
            changes.push(Change {
                name: Arc::clone(name),
                before,
                resource: resource.cloned(),
            });
        }
        if exceptional > 0 && exceptional < changes.len() {
            changes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        changes
    }

    /// The proxy is known to have nothing and asks for just what a set has.
    pub(super) fn ask_for_all(&mut self, set: &ResourceSet) {
        let asked = Entry {
            subscribed: true,
            has: Has::Unknown,
        };
        self.exceptions = set.iter().map(|resource| (Arc::clone(&resource.name), asked)).collect();
    }

    /// Whether the proxy is known to have nothing and asked for just what a set has, or for all there is.
    pub(super) fn awaits_all(&self, set: &ResourceSet, wildcard: bool) -> bool {
        if !self.is_only_asked(set.len(), wildcard) {
            return false;
        }
        let is_asked = |(name, entry): (&Arc<str>, &Entry), resource: &Resource| {
            entry.subscribed
                && !matches!(entry.has, Has::Version(_))
                && (Arc::ptr_eq(name, &resource.name) || *name == resource.name)
        };
        wildcard
            || self
                .exceptions
                .iter()
                .zip(set.iter())
                .all(|(asked, resource)| is_asked(asked, resource))
    }

    /// The shared set, of a proxy that is in step with one.
    pub(super) fn shared(&self) -> Option<&ResourceSet> {
        (self.exceptions.is_empty() && !self.base.is_empty()).then_some(&self.base)
    }

    /// Whether the proxy is known to have nothing and asked for just so many names, or for all there is.
    pub(super) fn is_only_asked(&self, names: usize, wildcard: bool) -> bool {
        self.base.is_empty() && self.exceptions.len() == if wildcard { 0 } else { names }
    }

    /// Whether so many changes are all that leads from the shared set to `target`, and the proxy is in step with the shared
    /// set. By name only changed content counts: names that come or go say nothing of what is subscribed.
    pub(super) fn is_only_behind(&self, changes: usize, target: &ResourceSet, wildcard: bool) -> bool {
        if self.base.is_empty() || !self.exceptions.is_empty() {
            return false;
        }
        let counts = |difference: &Difference<'_>| wildcard || matches!(difference, Difference::Changed(_));
        let mut left = changes;
        self.base.diff(target).all(|difference| {
            let expected = left > 0 && counts(&difference);
            left = left.saturating_sub(1);
            expected
        }) && left == 0
    }

    /// The proxy has all of `set` and nothing else, and asked for just that.
    pub(super) fn become_all(&mut self, set: ResourceSet) {
        self.base = set;
        self.exceptions = BTreeMap::new();
    }

    /// Describes the same against another shared set.
    pub(super) fn rebase(&mut self, base: &ResourceSet) {
        if self.base.is_same(base) {
            return;
        }
        let old = std::mem::replace(&mut self.base, base.clone());
        for difference in old.diff(base) {
            let name = match difference {
                Difference::Added(resource) | Difference::Changed(resource) | Difference::Removed(resource) => {
                    &resource.name
                }
            };
            let entry = self
                .exceptions
                .get(name)
                .copied()
                .unwrap_or_else(|| entry_in(&old, name));
            self.set(name, entry);
        }
    }

    /// Describes the same in less memory, now that `wanted` is what there should be: the shared set follows it, where
    /// most names agree with it.
    pub(super) fn settle(&mut self, wanted: &ResourceSet, wildcard: bool) {
        let most = |part: usize, whole: usize| part * 3 >= whole * 2;
        if wildcard || !self.base.is_empty() {
            self.rebase(wanted);
            // Most names of the set are not subscribed any more.
            if !wildcard && self.exceptions.len() > 8 && most(self.exceptions.len(), self.base.len()) {
                self.rebase(&ResourceSet::new());
            }
        } else if !wanted.is_empty() && most(self.exceptions.len(), wanted.len()) {
            self.rebase(wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn set(names: &[(&str, &'static str)]) -> ResourceSet {
        names
            .iter()
            .map(|(name, body)| Resource::new(*name, Bytes::from_static(body.as_bytes())))
            .collect()
    }

    fn described(held: &Held, names: &[&str]) -> Vec<Entry> {
        names.iter().map(|name| held.entry(name)).collect()
    }

    #[test]
    fn rebasing_changes_nothing_that_is_known() {
        let names = ["a", "b", "c", "d"];
        let (one, two) = (
            set(&[("a", "1"), ("b", "1"), ("c", "1")]),
            set(&[("b", "2"), ("c", "1"), ("d", "1")]),
        );
        let mut held = Held::default();
        held.become_all(one.clone());
        held.set(
            &Arc::from("c"),
            Entry {
                subscribed: true,
                has: Has::Unknown,
            },
        );
        let before = described(&held, &names);
        for base in [&two, &ResourceSet::new(), &one, &two] {
            held.rebase(base);
            assert_eq!(described(&held, &names), before);
            assert_eq!(held.subscribed_count(), 3);
            let mut subscribed: Vec<_> = held.subscribed().map(ToString::to_string).collect();
            subscribed.sort();
            assert_eq!(subscribed, ["a", "b", "c"]);
        }
    }

    #[test]
    fn a_proxy_in_step_owns_no_names() {
        let wanted: ResourceSet = (0..1000)
            .map(|i| Resource::new(format!("c{i}"), Bytes::from_static(b"x")))
            .collect();
        let mut held = Held::default();
        for resource in wanted.iter() {
            held.set(
                &resource.name,
                Entry {
                    subscribed: true,
                    has: Has::Version(resource.hash),
                },
            );
        }
        assert_eq!(held.own_names(), 1000);
        held.settle(&wanted, false);
        assert_eq!(held.own_names(), 0);
        assert_eq!(held.subscribed_count(), 1000);
        for resource in wanted.iter().take(900) {
            held.set(&resource.name, NOTHING);
        }
        held.settle(&wanted, false);
        assert_eq!(held.own_names(), 100);
        assert_eq!(held.subscribed_count(), 100);
    }
}
