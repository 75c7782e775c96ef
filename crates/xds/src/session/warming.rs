//! Clusters that were sent and whose endpoints the proxy does not have since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When to give up on endpoints that a proxy does not ask for.
const FORGET: Duration = Duration::from_secs(30);

/// Clusters that may be warming in the proxy.
#[derive(Debug, Default)]
pub(super) struct Warming {
    /// By name, whether routes wait for it.
    clusters: BTreeMap<Arc<str>, bool>,
    /// All of them: these were the stream's first. Whether routes wait for them.
    all: Option<bool>,
    forget_at: Option<Instant>,
}

impl Warming {
    /// The first clusters of a stream were sent, all there are.
    pub(super) fn sent_all(&mut self, now: Instant) {
        self.all = Some(true);
        self.forget_at = Some(now + FORGET);
    }

    /// A cluster was sent; routes wait for new ones.
    pub(super) fn sent(&mut self, name: &Arc<str>, new: bool, now: Instant) {
        *self.clusters.entry(Arc::clone(name)).or_default() |= new;
        self.forget_at = Some(now + FORGET);
    }

    /// Whether a cluster was sent and its endpoints were not since.
    pub(super) fn awaits(&self, name: &str) -> bool {
        self.all.is_some() || self.clusters.contains_key(name)
    }

    /// The proxy has endpoints.
    pub(super) fn endpoints_acked<'a>(&mut self, names: impl Iterator<Item = &'a Arc<str>>) {
        self.all = None;
        if self.clusters.is_empty() {
            return;
        }
        for name in names {
            self.clusters.remove(name);
        }
    }

    /// The proxy does not want a cluster's endpoints any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.clusters.remove(name);
    }

    /// Whether routes wait.
    pub(super) fn holds_routes(&self) -> bool {
        self.all == Some(true) || self.clusters.values().any(|new| *new)
    }

    /// Routes wait no longer.
    pub(super) fn release_routes(&mut self) {
        self.all = self.all.map(|_| false);
        self.clusters.values_mut().for_each(|new| *new = false);
    }

    /// Time passes.
    pub(super) fn on_time(&mut self, now: Instant) {
        if self.forget_at.is_some_and(|at| at <= now) {
            *self = Self::default();
        }
    }

    /// When to be told of the time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.forget_at
            .filter(|_| self.all.is_some() || !self.clusters.is_empty())
    }
}
