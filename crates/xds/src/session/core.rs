//! What both dialects share: the order of pushes, and answers to them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::batch::Batch;
use super::state::TypeState;
use super::warming::Warming;
use super::{Dialect, MAX_NAMES, MAX_TYPES, PATIENCE, Push, TypeStatus, Violation};
use crate::resource::{ResourceSet, Wanted};
use crate::types::{CLUSTER, ENDPOINTS, ROUTE, VIRTUAL_HOST};
use crate::{Event, ResponseId};

#[derive(Debug)]
pub(super) struct Core {
    dialect: Dialect,
    wanted: Arc<Wanted>,
    /// In the order of pushes.
    types: Vec<TypeState>,
    nonce: u64,
    warming: Warming,
    /// Since when routes wait for clusters.
    routes_wait_since: Option<Instant>,
    /// Routes waited long enough, until the next answer about clusters.
    routes_waited: bool,
    /// Since when removals wait for routes.
    removals_wait_since: Option<Instant>,
    settled: Option<u64>,
    events: VecDeque<Event>,
}

/// What a request says of a response.
pub(super) enum Answer<'a> {
    Ack,
    Nack { code: i32, reason: &'a str },
}

impl Core {
    pub(super) fn new(dialect: Dialect, wanted: Arc<Wanted>) -> Self {
        Self {
            dialect,
            wanted,
            types: Vec::new(),
            nonce: 0,
            warming: Warming::default(),
            routes_wait_since: None,
            routes_waited: false,
            removals_wait_since: None,
            settled: None,
            events: VecDeque::new(),
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(super) fn wanted(&self) -> &Arc<Wanted> {
        &self.wanted
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }

    pub(super) fn own_names(&self) -> usize {
        self.types.iter().map(TypeState::own_names).sum()
    }

    pub(super) fn status(&self) -> Vec<TypeStatus> {
        self.types.iter().map(|state| self.status_of_type(state)).collect()
    }

    pub(super) fn status_of(&self, url: &str) -> Option<TypeStatus> {
        let state = self.types.iter().find(|state| &*state.url == url)?;
        Some(self.status_of_type(state))
    }

    fn status_of_type(&self, state: &TypeState) -> TypeStatus {
        TypeStatus {
            type_url: Arc::clone(&state.url),
            wildcard: state.is_wildcard(),
            subscribed: state.subscribed_count(),
            rejected: self.set_of(&state.url).map_or_else(Vec::new, |set| {
                state.rejected(set).map(|resource| Arc::clone(&resource.name)).collect()
            }),
        }
    }

    // === input ===

    /// The state of a type, and whether the stream asks for it for the first time.
    pub(super) fn type_state(&mut self, url: &str) -> Result<(usize, bool), Violation> {
        if url.is_empty() {
            return Err(Violation::NoType);
        }
        if let Some(at) = self.types.iter().position(|state| &*state.url == url) {
            return Ok((at, false));
        }
        if self.types.len() == MAX_TYPES {
            return Err(Violation::TooManyTypes);
        }
        let state = TypeState::new(url);
        let at = self
            .types
            .partition_point(|other| (other.rank, &other.url) < (state.rank, &state.url));
        self.types.insert(at, state);
        Ok((at, true))
    }

    /// A type's state with what there is of it.
    pub(super) fn state(&mut self, at: usize) -> (&mut TypeState, ResourceSet) {
        let wanted = self.set_of(&self.types[at].url).cloned().unwrap_or_default();
        (&mut self.types[at], wanted)
    }

    /// Whether a name's endpoints must be sent whatever the proxy has.
    pub(super) fn awaits_endpoints(&self, at: usize, name: &str) -> bool {
        &*self.types[at].url == ENDPOINTS && self.warming.awaits(name)
    }

    pub(super) fn unsubscribe(&mut self, at: usize, name: &str) {
        let state = &mut self.types[at];
        state.unsubscribe(name);
        if &*state.url == ENDPOINTS {
            self.warming.forget(name);
        }
    }

    pub(super) fn check_names(&self, at: usize) -> Result<(), Violation> {
        let state = &self.types[at];
        if state.own_names() > MAX_NAMES {
            Err(Violation::TooManyNames(Arc::clone(&state.url)))
        } else {
            Ok(())
        }
    }

    /// A request answers a response that is not the last one.
    pub(super) fn expired(&mut self, at: usize) {
        self.events.push_back(Event::ExpiredNonce {
            type_url: Arc::clone(&self.types[at].url),
        });
    }

    /// The proxy answered a response.
    pub(super) fn answered(&mut self, at: usize, nonce: &str, answer: &Answer<'_>) {
        let full = self.is_full(at);
        let state = &mut self.types[at];
        let Some(outstanding) = state
            .outstanding
            .take_if(|outstanding| outstanding.nonce.to_string() == nonce)
        else {
            return self.expired(at);
        };
        let response = ResponseId {
            type_url: Arc::clone(&state.url),
            nonce: outstanding.nonce,
            snapshot: outstanding.snapshot,
            version: Arc::clone(&outstanding.version),
        };
        match answer {
            Answer::Ack => {
                state.acked(&outstanding);
                self.events.push_back(Event::Acked { response });
                if &*state.url == ENDPOINTS {
                    self.warming.endpoints_acked(outstanding.names());
                }
            }
            Answer::Nack { code, reason } => {
                let reason: Arc<str> = Arc::from(*reason);
                let culprits = state.nacked(&outstanding, &reason, full);
                let type_url = Arc::clone(&state.url);
                self.events.push_back(Event::Nacked {
                    response,
                    code: *code,
                    reason: Arc::clone(&reason),
                });
                for culprit in culprits {
                    let (type_url, reason) = (Arc::clone(&type_url), Arc::clone(&reason));
                    // Nobody waits for the endpoints of a cluster that was refused, or for endpoints that were.
                    self.warming.forget(&culprit.name);
                    self.events.push_back(Event::Rejected {
                        type_url,
                        name: culprit.name,
                        hash: culprit.hash,
                        reason,
                    });
                }
            }
        }
        if &*self.types[at].url == CLUSTER && std::mem::take(&mut self.routes_waited) {
            self.routes_wait_since = None;
        }
    }

    pub(super) fn on_wanted(&mut self, wanted: Arc<Wanted>) {
        let old = std::mem::replace(&mut self.wanted, wanted);
        for state in &mut self.types {
            let same = |before: Option<&ResourceSet>, after: Option<&ResourceSet>| match (before, after) {
                (Some(before), Some(after)) => before.is_same(after),
                (None, None) => true,
                _ => false,
            };
            let (before, after) = (old.by_name.get(&state.url), self.wanted.by_name.get(&state.url));
            state.dirty |= !same(old.set(&state.url), self.wanted.set(&state.url)) || !same(before, after);
            if before.is_none() && after.is_some() && state.is_wildcard() {
                state.keep_all();
            }
        }
    }

    // === output ===

    pub(super) fn is_settled(&self) -> bool {
        !self.types.is_empty() && self.types.iter().all(TypeState::is_settled)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let routes = self
            .routes_wait_since
            .filter(|_| !self.routes_waited)
            .map(|since| since + PATIENCE);
        let removals = self.removals_wait_since.map(|since| since + PATIENCE);
        [routes, removals, self.warming.deadline()].into_iter().flatten().min()
    }

    pub(super) fn poll(&mut self, now: Instant) -> Option<Push> {
        self.warming.on_time(now);
        let wanted = Arc::clone(&self.wanted);
        for at in 0..self.types.len() {
            let state = &self.types[at];
            if !state.dirty || state.outstanding.is_some() {
                continue;
            }
            let kind = state.kind;
            let set = self.types[at].target(&wanted);
            if kind.waits && self.types[at].has_changes(&set) && self.routes_wait(now) {
                self.types[at].waiting = true;
                continue;
            }
            if let Some(batch) = self.next(at, &set, !kind.removed_last) {
                return Some(self.send(at, batch, &set, now));
            }
        }
        if !self.types.iter().any(|state| state.waiting) {
            self.routes_wait_since = None;
        }
        while let Some(at) = self.removals_due(now) {
            let set = self.types[at].target(&wanted);
            if let Some(batch) = self.next(at, &set, true) {
                return Some(self.send(at, batch, &set, now));
            }
        }
        if self.is_settled() && self.settled != Some(wanted.snapshot) {
            self.settled = Some(wanted.snapshot);
            self.events.push_back(Event::Settled {
                snapshot: wanted.snapshot,
            });
        }
        None
    }

    /// Whether listeners and routes wait because a cluster that the proxy does not have yet, or its endpoints, is still
    /// under way.
    fn routes_wait(&mut self, now: Instant) -> bool {
        let clusters = self.types.iter_mut().find(|state| &*state.url == CLUSTER);
        let new_clusters = clusters.is_some_and(|state| {
            let set = state.target(&self.wanted);
            state.introduces(&set)
        });
        if !self.warming.holds_routes() && !new_clusters {
            self.routes_wait_since = None;
            self.routes_waited = false;
            return false;
        }
        if self.routes_waited {
            return false;
        }
        let since = *self.routes_wait_since.get_or_insert(now);
        if now < since + PATIENCE {
            return true;
        }
        tracing::debug!("new clusters are not acknowledged in time, sending routes");
        self.warming.release_routes();
        self.routes_waited = true;
        false
    }

    /// The type whose removals are to be sent now.
    fn removals_due(&mut self, now: Instant) -> Option<usize> {
        let since = self.removals_wait_since.take();
        let at = self
            .types
            .iter()
            .position(|state| state.deferred && state.outstanding.is_none())?;
        let mut routes = self.types.iter().filter(|state| state.kind.waits);
        if routes.clone().any(|state| state.waiting) {
            return None;
        }
        if routes.any(|state| state.outstanding.is_some()) {
            let since = *self.removals_wait_since.insert(since.unwrap_or(now));
            if now < since + PATIENCE {
                return None;
            }
        }
        Some(at)
    }

    fn next(&mut self, at: usize, set: &ResourceSet, removals: bool) -> Option<Batch> {
        let shared = match self.dialect {
            Dialect::Delta => self.types[at].next_shared(set),
            Dialect::StateOfTheWorld => None,
        };
        let silent = self.dialect == Dialect::StateOfTheWorld && !self.is_full(at);
        shared.or_else(|| self.types[at].next(set, removals, silent))
    }

    fn send(&mut self, at: usize, batch: Batch, set: &ResourceSet, now: Instant) -> Push {
        if &*self.types[at].url == CLUSTER {
            self.warm(at, &batch, set, now);
        }
        if &*self.types[at].url == ROUTE {
            self.fill_tables(&batch);
        }
        let full = self.is_full(at);
        let state = &mut self.types[at];
        let everything = full.then(|| state.everything(&batch, set));
        let gone = batch.pieces().filter(|piece| piece.resource.is_none());
        let removed: Vec<_> = match self.dialect {
            Dialect::Delta => gone.map(|piece| Arc::clone(piece.name)).collect(),
            Dialect::StateOfTheWorld => Vec::new(),
        };
        self.nonce += 1;
        let response = ResponseId {
            type_url: Arc::clone(&state.url),
            nonce: self.nonce,
            snapshot: self.wanted.snapshot,
            version: Arc::clone(&self.wanted.version),
        };
        state.sent(&batch, response.clone(), set, everything.as_deref());
        let resources = match everything {
            Some(everything) => everything.into_iter().collect(),
            None => batch.contents(&response.type_url),
        };
        let push = Push {
            dialect: self.dialect,
            type_url: Arc::clone(&response.type_url),
            nonce: response.nonce,
            version: Arc::clone(&response.version),
            resources,
            removed,
        };
        self.events.push_back(Event::Sent {
            response,
            resources: push.resources.len(),
            removed: push.removed.len(),
            bytes: push.resources.body_bytes(),
        });
        push
    }

    /// Has the endpoints of clusters that are sent now sent after them.
    fn warm(&mut self, at: usize, batch: &Batch, set: &ResourceSet, now: Instant) {
        let wanted = Arc::clone(&self.wanted);
        let Some(endpoints) = wanted.set(ENDPOINTS).filter(|endpoints| !endpoints.is_empty()) else {
            return;
        };
        let first = self.types[at].has_nothing() && batch.is_all_of(set);
        if first {
            self.warming.sent_all(now);
        }
        let mut state = self.types.iter_mut().find(|state| &*state.url == ENDPOINTS);
        if first && state.is_none() {
            return;
        }
        for piece in batch.pieces() {
            let Some(endpoints) = piece.resource.and_then(|cluster| endpoints.get(&cluster.name)) else {
                continue;
            };
            if !first {
                self.warming.sent(&endpoints.name, piece.is_new, now);
            }
            if let Some(state) = &mut state {
                state.resend(&endpoints.name);
            }
        }
    }

    /// Has the virtual hosts of route tables sent after them: those that came before a table that is new, or that had none
    /// until now, were lost, though acknowledged. A virtual host is named `<table>/<virtual host>`.
    fn fill_tables(&mut self, batch: &Batch) {
        let Some(hosts) = self.wanted.set(VIRTUAL_HOST) else {
            return;
        };
        let Some(state) = self.types.iter_mut().find(|state| &*state.url == VIRTUAL_HOST) else {
            return;
        };
        for piece in batch.pieces().filter(|piece| piece.resource.is_some()) {
            for host in hosts.with_prefix(&format!("{}/", piece.name)) {
                state.resend(&host.name);
            }
        }
    }

    /// Whether a response of this type stands for all there is.
    fn is_full(&self, at: usize) -> bool {
        self.dialect == Dialect::StateOfTheWorld && self.types[at].kind.full
    }

    fn set_of(&self, url: &str) -> Option<&ResourceSet> {
        self.wanted.all(url)
    }
}
