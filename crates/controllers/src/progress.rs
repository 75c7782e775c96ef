//! How far the proxies of every replica have come: each replica tells it on a Lease of its own, the leader reads all.
//!
//! What a snapshot holds is told by one number for every kind: the highest `resourceVersion` that its watch had brought
//! by then. A watch brings the changes of a kind in the order of their versions, so an object's state of version *v* is
//! in every snapshot whose number is *v* or more. (Between kinds there is no such order, hence one for each.) Versions
//! of one cluster are comparable between replicas; the numbers of snapshots are not.

mod lease;

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_names::ObjectRef;
use serde::{Deserialize, Serialize};

pub use lease::{Replica, observe, publish};

/// The highest `resourceVersion` that was seen, by kind: `<kind>.<group>`.
pub type Versions = BTreeMap<String, u64>;

/// How far the proxies of one replica have come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Report {
    /// How many proxies are connected.
    pub proxies: usize,
    /// What every connected proxy has acknowledged, or needed no byte of.
    pub held: Arc<Versions>,
    /// What the newest snapshot holds.
    pub seen: Arc<Versions>,
    /// How many proxies have not settled on the newest snapshot.
    #[serde(skip_serializing_if = "is_default")]
    pub behind: usize,
    /// One of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_proxy: Option<String>,
    /// What proxies rejected and would still be sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejections: Vec<Rejection>,
}

/// A resource that a proxy rejected, and an object that it was made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// The object.
    pub object: ObjectRef,
    /// The resource's name.
    pub resource: String,
    /// The proxy's ID.
    pub proxy: String,
    /// The proxy's words.
    pub reason: String,
}

/// What the snapshots that are still held somewhere hold.
#[derive(Debug, Default)]
pub struct Holdings {
    by_snapshot: BTreeMap<u64, Arc<Versions>>,
}

impl Holdings {
    /// Snapshot `number` holds these versions; earlier ones held no more than it does. Told again with more when a
    /// change of objects made no new snapshot.
    pub fn record(&mut self, number: u64, mut versions: Versions) {
        if let Some((_, before)) = self.by_snapshot.last_key_value() {
            // The object with the highest version may be gone; that it was seen remains true.
            for (kind, version) in before.iter() {
                let highest = versions.entry(kind.clone()).or_default();
                *highest = (*highest).max(*version);
            }
            if **before == versions && self.by_snapshot.contains_key(&number) {
                return;
            }
        }
        self.by_snapshot.insert(number, Arc::new(versions));
    }

    /// What a proxy has that settled on this snapshot.
    #[must_use]
    pub fn at(&self, snapshot: u64) -> Arc<Versions> {
        let held = self.by_snapshot.range(..=snapshot).next_back();
        held.map(|(_, versions)| Arc::clone(versions)).unwrap_or_default()
    }

    /// What the newest snapshot holds.
    #[must_use]
    pub fn newest(&self) -> Arc<Versions> {
        self.at(u64::MAX)
    }

    /// Nobody has an older one than this any more.
    pub fn forget_before(&mut self, snapshot: u64) {
        let kept = self
            .by_snapshot
            .range(..=snapshot)
            .next_back()
            .map(|(number, _)| *number);
        if let Some(kept) = kept {
            self.by_snapshot = self.by_snapshot.split_off(&kept);
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(of: &[(&str, u64)]) -> Versions {
        of.iter()
            .map(|(kind, version)| ((*kind).to_owned(), *version))
            .collect()
    }

    #[test]
    fn a_snapshot_holds_what_was_seen_before_it_even_when_that_is_deleted() {
        let mut holdings = Holdings::default();
        assert_eq!(*holdings.at(7), Versions::new());
        holdings.record(1, versions(&[("A", 5)]));
        holdings.record(3, versions(&[("A", 4), ("B", 9)]));
        assert_eq!(*holdings.at(2), versions(&[("A", 5)]));
        assert_eq!(*holdings.newest(), versions(&[("A", 5), ("B", 9)]));
        // Seen later without a change of the snapshot.
        holdings.record(3, versions(&[("A", 12)]));
        assert_eq!(*holdings.at(3), versions(&[("A", 12), ("B", 9)]));
        holdings.forget_before(2);
        assert_eq!(*holdings.at(2), versions(&[("A", 5)]));
        holdings.forget_before(3);
        assert_eq!(*holdings.at(2), Versions::new());
    }
}
