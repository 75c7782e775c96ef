//! All sidecars of a run: each a task with its stream, and what they have received together.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use lateen_proto::envoy::config::core::v3::Node;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::sidecar::connection::Connection;
use crate::sidecar::session::{Catalogs, Session};
use crate::sidecar::wire::{Part, Resource, framed};
use crate::watch::Watch;

/// How long a sidecar waits before it connects anew.
const PAUSE: Duration = Duration::from_secs(1);
/// How often is looked whether something has come to rest.
const LOOK: Duration = Duration::from_millis(20);

/// The sidecars. They end with it.
pub(crate) struct Fleet {
    shared: Arc<Shared>,
    sidecars: usize,
    tasks: JoinSet<()>,
}

/// What all sidecars have received so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) responses: u64,
    pub(crate) resources: u64,
    /// Of whole responses.
    pub(crate) bytes: u64,
}

struct Shared {
    catalogs: Catalogs,
    watches: RwLock<Vec<Arc<Watch>>>,
    responses: AtomicU64,
    resources: AtomicU64,
    bytes: AtomicU64,
    ready: AtomicUsize,
    /// The times from connecting to being ready, in milliseconds.
    ready_after: Mutex<Vec<f64>>,
    failures: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

// === impl Fleet ===

impl Fleet {
    pub(crate) fn new(sidecars: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                catalogs: Catalogs::new(),
                watches: RwLock::default(),
                responses: AtomicU64::new(0),
                resources: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                ready: AtomicUsize::new(0),
                ready_after: Mutex::default(),
                failures: AtomicU64::new(0),
                last_failure: Mutex::default(),
            }),
            sidecars,
            tasks: JoinSet::new(),
        }
    }

    /// Starts one over a connection, which others may use, too.
    pub(crate) fn start(&mut self, number: usize, connection: Arc<Connection>, node: Node) {
        // Its bytes take a tenth of the message.
        let first = framed(&Session::open(node));
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            let mut was_ready = false;
            loop {
                // Whoever awaits a stream learns why it has ended; nothing else ends it.
                let Err(error) = shared.stream(number, &connection, first.clone(), &mut was_ready).await;
                shared.failures.fetch_add(1, Ordering::Relaxed);
                *shared.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{error:#}"));
                sleep(PAUSE).await;
            }
        });
    }

    /// How many have had their first configuration.
    pub(crate) fn ready(&self) -> usize {
        self.shared.ready.load(Ordering::Relaxed)
    }

    /// The times that it took those, in milliseconds.
    pub(crate) fn ready_after(&self) -> Vec<f64> {
        self.shared
            .ready_after
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until all have had their first configuration, for so long at most.
    pub(crate) async fn all_ready(&self, limit: Duration, mut each_look: impl FnMut(usize)) {
        let end = Instant::now() + limit;
        while self.ready() < self.sidecars && Instant::now() < end {
            each_look(self.ready());
            sleep(LOOK).await;
        }
    }

    /// Waits until nothing has come for a while, for so long at most.
    pub(crate) async fn quiet(&self, quiet: Duration, limit: Duration) {
        let end = Instant::now() + limit;
        let (mut last, mut since) = (self.received().responses, Instant::now());
        while since.elapsed() < quiet && Instant::now() < end {
            sleep_until((Instant::now() + LOOK).min(end)).await;
            let now = self.received().responses;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    /// Begins to look for a text in what comes.
    pub(crate) fn watch(&self, text: &str) -> Arc<Watch> {
        let watch = Arc::new(Watch::start(text, self.sidecars));
        self.watches().push(watch.clone());
        watch
    }

    /// Looks for it no longer.
    pub(crate) fn unwatch(&self, watch: &Arc<Watch>) {
        self.watches().retain(|other| !Arc::ptr_eq(other, watch));
    }

    pub(crate) fn received(&self) -> Received {
        Received {
            responses: self.shared.responses.load(Ordering::Relaxed),
            resources: self.shared.resources.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
        }
    }

    /// How many streams have ended or were not opened, and why the last.
    pub(crate) fn failures(&self) -> (u64, Option<String>) {
        let last = self
            .shared
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        (self.shared.failures.load(Ordering::Relaxed), last)
    }

    fn watches(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Arc<Watch>>> {
        self.shared.watches.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Shared ===

impl Shared {
    /// One stream, until it ends. A new one begins with nothing, as a sidecar that was restarted.
    async fn stream(
        &self,
        number: usize,
        connection: &Connection,
        first: Bytes,
        was_ready: &mut bool,
    ) -> Result<std::convert::Infallible> {
        let start = Instant::now();
        let mut session = Session::default();
        let mut stream = connection.open(first).await?;
        loop {
            let response = match stream.next().await? {
                Part::Resource(resource) => {
                    self.receive(number, &resource);
                    session.take(&self.catalogs, &resource);
                    continue;
                }
                Part::End(response, length) => {
                    self.bytes.fetch_add(length as u64, Ordering::Relaxed);
                    self.responses.fetch_add(1, Ordering::Relaxed);
                    response
                }
            };
            for request in session.answer(&self.catalogs, &response) {
                stream.send(&request)?;
            }
            if !*was_ready && session.is_ready() {
                *was_ready = true;
                let millis = start.elapsed().as_secs_f64() * 1e3;
                self.ready_after
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(millis);
                self.ready.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn receive(&self, number: usize, resource: &Resource) {
        self.resources.fetch_add(1, Ordering::Relaxed);
        let watches = self.watches.read().unwrap_or_else(PoisonError::into_inner);
        for watch in watches.iter() {
            watch.receive(number, resource.body());
        }
    }
}
