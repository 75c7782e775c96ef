//! Records of the streams there are, for people who look for the proxy that is behind.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::{Dialect, Event, Peer, ResponseId, TypeStatus, Wanted};

/// The streams there are. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    streams: Arc<Mutex<BTreeMap<u64, Arc<Mutex<SessionRecord>>>>>,
    last: Arc<AtomicU64>,
}

/// One stream.
#[derive(Debug, Clone)]
pub struct SessionRecord {
    /// Counts streams since the start of the process.
    pub id: u64,
    /// The Node's ID.
    pub node_id: Arc<str>,
    /// The cluster that the Node says it is in: its metadata's `CLUSTER_ID`.
    pub cluster_id: Arc<str>,
    /// The version that the Node says it is: its metadata's `ISTIO_VERSION`.
    pub proxy_version: Arc<str>,
    /// Who connected.
    pub peer: Peer,
    /// What it speaks.
    pub dialect: Dialect,
    /// When it connected.
    pub connected_at: SystemTime,
    /// What it should hold.
    pub wanted: Arc<Wanted>,
    /// The last snapshot that it held all of, but for what it rejected.
    pub settled: Option<u64>,
    /// What it asked for, in the order of pushes.
    pub types: Vec<TypeRecord>,
}

/// One type of a stream.
#[derive(Debug, Clone)]
pub struct TypeRecord {
    /// What it asked for and rejects.
    pub status: TypeStatus,
    /// The last response.
    pub sent: Option<Answered>,
    /// The last response that it accepted.
    pub acked: Option<Answered>,
    /// The last response that it rejected.
    pub nack: Option<Nack>,
}

/// A response, and when something happened to it.
#[derive(Debug, Clone)]
pub struct Answered {
    /// Unique on the stream.
    pub nonce: u64,
    /// The version that it was sent with.
    pub version: Arc<str>,
    /// The snapshot that it was made from.
    pub snapshot: u64,
    /// When it was sent, or the answer came.
    pub at: SystemTime,
}

/// A rejection.
#[derive(Debug, Clone)]
pub struct Nack {
    /// The response.
    pub response: Answered,
    /// The proxy's words.
    pub reason: Arc<str>,
}

/// How a proxy stands with one type, in istioctl's words: [`fmt::Display`] writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncState {
    /// It did not ask, or nothing was there to send.
    NotSent,
    /// It has accepted the last response.
    Synced,
    /// It has not answered the last response yet.
    Stale,
    /// It has rejected the last response, or a resource that is still wanted.
    Error,
}

/// A stream's record while it lasts.
#[derive(Debug)]
pub(crate) struct Registered {
    sessions: Sessions,
    id: u64,
    record: Arc<Mutex<SessionRecord>>,
}

// === impl Sessions ===

impl Sessions {
    /// No streams.
    pub fn new() -> Self {
        Self::default()
    }

    /// All streams as they are now, the oldest first.
    pub fn snapshot(&self) -> Vec<SessionRecord> {
        // Not under the lock that every connecting proxy takes.
        let records: Vec<_> = lock(&self.streams).values().cloned().collect();
        records.iter().map(|record| lock(record).clone()).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        lock(&self.streams).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        lock(&self.streams).is_empty()
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn register(&self, record: SessionRecord) -> Registered {
        let id = record.id;
        let record = Arc::new(Mutex::new(record));
        lock(&self.streams).insert(id, Arc::clone(&record));
        Registered {
            sessions: self.clone(),
            id,
            record,
        }
    }
}

impl SessionRecord {
    /// What istiod calls a connection: the Node's ID and a number.
    pub fn connection_id(&self) -> String {
        format!("{}-{}", self.node_id, self.id)
    }
}

impl SessionRecord {
    /// How the proxy stands with a type. One that needed nothing, because it had everything from an earlier stream, is
    /// synced.
    pub fn sync_state(&self, type_url: &str) -> SyncState {
        let Some(of) = self.types.iter().find(|of| &*of.status.type_url == type_url) else {
            return SyncState::NotSent;
        };
        let nonce = |answered: &Answered| answered.nonce;
        let (sent, acked) = (of.sent.as_ref().map(nonce), of.acked.as_ref().map(nonce));
        let rejected = of.nack.as_ref().map(|nack| nack.response.nonce);
        match sent {
            _ if !of.status.rejected.is_empty() => SyncState::Error,
            None if self.settled.is_some() && of.status.subscribed > 0 => SyncState::Synced,
            None => SyncState::NotSent,
            sent if sent == acked => SyncState::Synced,
            // What it rejected is no longer wanted, and it had the rest before.
            sent if sent == rejected && self.settled >= Some(self.wanted.snapshot) => SyncState::Synced,
            sent if sent == rejected => SyncState::Error,
            Some(_) => SyncState::Stale,
        }
    }
}

impl fmt::Display for SyncState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSent => "NOT SENT",
            Self::Synced => "SYNCED",
            Self::Stale => "STALE",
            Self::Error => "ERROR",
        })
    }
}

// === impl Registered ===

impl Registered {
    pub(crate) fn wanted(&self, wanted: &Arc<Wanted>) {
        lock(&self.record).wanted = Arc::clone(wanted);
    }

    /// Writes down what the stream asks for, type by type in the order of pushes.
    pub(crate) fn describe(&self, status: Vec<TypeStatus>) {
        let mut record = lock(&self.record);
        let mut old = std::mem::take(&mut record.types);
        record.types = status
            .into_iter()
            .map(
                |status| match old.iter().position(|old| old.status.type_url == status.type_url) {
                    Some(at) => TypeRecord {
                        status,
                        ..old.swap_remove(at)
                    },
                    None => TypeRecord {
                        status,
                        sent: None,
                        acked: None,
                        nack: None,
                    },
                },
            )
            .collect();
    }

    /// Writes down what happened, and how the types stand that it happened to. What a proxy rejects may also end without a
    /// word to it, when it is no longer wanted.
    pub(crate) fn update(&self, events: &[Event], status: impl Fn(&str) -> Option<TypeStatus>, now: SystemTime) {
        let mut record = lock(&self.record);
        for of in &mut record.types {
            let concerned = |event: &Event| event.type_url() == Some(&*of.status.type_url);
            if (!of.status.rejected.is_empty() || events.iter().any(concerned))
                && let Some(status) = status(&of.status.type_url)
            {
                of.status = status;
            }
        }
        for event in events {
            match event {
                Event::Sent { response, .. } => record.of(response, |of, at| of.sent = Some(at), now),
                Event::Acked { response } => record.of(response, |of, at| of.acked = Some(at), now),
                Event::Nacked { response, reason, .. } => {
                    let reason = Arc::clone(reason);
                    record.of(response, |of, response| of.nack = Some(Nack { response, reason }), now);
                }
                Event::Settled { snapshot } => record.settled = Some(*snapshot),
                Event::Rejected { .. } | Event::ExpiredNonce { .. } => {}
            }
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.sessions.streams).remove(&self.id);
    }
}

impl SessionRecord {
    fn of(&mut self, response: &ResponseId, write: impl FnOnce(&mut TypeRecord, Answered), at: SystemTime) {
        if let Some(record) = self
            .types
            .iter_mut()
            .find(|record| record.status.type_url == response.type_url)
        {
            let (nonce, version, snapshot) = (response.nonce, Arc::clone(&response.version), response.snapshot);
            write(
                record,
                Answered {
                    nonce,
                    version,
                    snapshot,
                    at,
                },
            );
        }
    }
}

/// A record is written in one go, so one that a panic left behind is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
