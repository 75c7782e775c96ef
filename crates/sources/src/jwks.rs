//! Public keys of token issuers, fetched from where RequestAuthentications say that they are published.
//!
//! Who writes a RequestAuthentication chooses the URL, and need not be trusted with more than a namespace: the URL must
//! not open what the control plane can reach and its author cannot. So:
//!
//! - addresses are judged when they are dialled, after the name is resolved, and each is dialled as it was judged: a name
//!   that resolves otherwise the next time gains nothing. Loopback, link-local addresses, those of clouds' metadata
//!   services and those of the API server are refused; a list of further ranges narrows it ([`Policy`]);
//! - redirects are followed within one origin only, and from `https` nothing leads to `http`;
//! - an answer counts only when it reads as a key set. Of it public members of known kinds of keys are handed on, and
//!   nothing else of what was read: neither configuration nor findings show what a server said;
//! - answers are bounded in size, in keys and in time, and never decompressed.
//!
//! Failure policy: the last good keys stay in force while an issuer does not answer, for [`KEPT`] at most; an issuer that
//! never answered has no keys, and proxies refuse its tokens. A file keeps them over a restart. Each state is told as a [`KeysEvent`]; the first one of a
//! source comes after its first attempt, whatever came of it.

mod address;
mod fetch;
mod keys;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use lateen_lower::keys::{FetchedKeys, KeySource, KeysEvent};
use lateen_runtime::metrics::{Error as MetricsError, IntCounter, Metrics};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

pub use address::{Policy, Refused};
pub use fetch::{FetchError, Fetcher, Resolve, SystemResolver};
pub use keys::KeySetError;
use store::{Kept, Store};

/// How long keys count that could not be fetched again, as in Istio.
pub const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Attempts that are made at once: issuers that do not answer must not keep others waiting.
const AT_ONCE: usize = 32;
/// Bounds of the time that an attempt may take, whatever a rule says.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// What is fetched, and what must not be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Places, each with how long an attempt may take.
    pub sources: BTreeMap<KeySource, Duration>,
    /// Where the API server listens.
    pub api_server: BTreeSet<SocketAddr>,
}

/// How keys are fetched.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often keys are fetched again (`PILOT_JWT_PUB_KEY_REFRESH_INTERVAL`, 20 min).
    pub refresh: Duration,
    /// After how long a failed attempt is made again while there are no keys; doubled each time, up to a minute (1 s).
    pub retry: Duration,
    /// The same while there are keys, doubled up to the refresh interval (1 min).
    pub retry_with_keys: Duration,
    /// Which addresses may be dialled.
    pub policy: Policy,
    /// File with further roots for `https`, where there is one; read again when it changes.
    pub roots: Option<PathBuf>,
    /// File in which the last good keys outlive this process.
    pub store: Option<PathBuf>,
}

/// Istiod's counters of attempts.
#[derive(Debug, Clone)]
pub struct JwksMetrics {
    successes: IntCounter,
    failures: IntCounter,
}

/// What is known of one source.
#[derive(Debug)]
struct Entry {
    timeout: Duration,
    known: FetchedKeys,
    /// The last good keys, of this process or of the one before.
    kept: Option<Kept>,
    failures: u32,
    due: Instant,
    /// An attempt is under way, or none was ever made; the first tells in any case.
    fetching: bool,
    told: bool,
}

type Attempt = (KeySource, Result<Arc<str>, FetchError>);

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(20 * 60),
            retry: Duration::from_secs(1),
            retry_with_keys: Duration::from_secs(60),
            policy: Policy::default(),
            roots: None,
            store: None,
        }
    }
}

// === impl JwksMetrics ===

impl JwksMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            successes: metrics.counter(
                "pilot_jwks_resolver_network_fetch_success_total",
                "Attempts to fetch issuers' keys that succeeded.",
            )?,
            failures: metrics.counter(
                "pilot_jwks_resolver_network_fetch_fail_total",
                "Attempts to fetch issuers' keys that failed.",
            )?,
        })
    }
}

/// Fetches what is wanted, again and again, and tells what became known. Returns when nobody wants anything any more, or
/// nobody listens.
pub async fn watch(
    settings: Settings,
    resolver: Arc<dyn Resolve>,
    metrics: JwksMetrics,
    mut wanted: watch::Receiver<Wanted>,
    events: mpsc::Sender<Vec<KeysEvent>>,
) {
    let fetcher = Arc::new(Fetcher::new(settings.policy.clone(), settings.roots.clone(), resolver));
    let store = Store::new(settings.store.clone());
    let mut poller = Poller {
        settings,
        entries: BTreeMap::new(),
        metrics,
        earlier: store.load(SystemTime::now()),
        store,
    };
    let mut attempts: FuturesUnordered<BoxFuture<'static, Attempt>> = FuturesUnordered::new();
    let mut telling = poller.want(&wanted.borrow_and_update().clone(), &fetcher);
    loop {
        if !telling.is_empty() && events.send(std::mem::take(&mut telling)).await.is_err() {
            return;
        }
        for (source, timeout) in poller.begin(AT_ONCE.saturating_sub(attempts.len())) {
            let fetcher = Arc::clone(&fetcher);
            attempts.push(Box::pin(async move {
                let got = fetcher.fetch(&source, timeout).await;
                (source, got)
            }));
        }
        let next = (attempts.len() < AT_ONCE).then(|| poller.next_due()).flatten();
        tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => telling = poller.want(&wanted.borrow_and_update().clone(), &fetcher),
                Err(_) => return,
            },
            Some((source, got)) = attempts.next(), if !attempts.is_empty() => {
                telling.extend(poller.attempted(source, got));
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

/// What is known, and when to do what.
struct Poller {
    settings: Settings,
    entries: BTreeMap<KeySource, Entry>,
    metrics: JwksMetrics,
    /// What an earlier process had, until somebody wants it.
    earlier: BTreeMap<KeySource, Kept>,
    store: Store,
}

impl Poller {
    /// Takes on what is wanted now, and forgets the rest.
    fn want(&mut self, wanted: &Wanted, fetcher: &Fetcher) -> Vec<KeysEvent> {
        fetcher.refuse(wanted.api_server.clone());
        let mut gone = Vec::new();
        self.entries.retain(|source, _| {
            let kept = wanted.sources.contains_key(source);
            if !kept {
                gone.push(KeysEvent {
                    source: source.clone(),
                    fetched: None,
                });
            }
            kept
        });
        for (source, timeout) in &wanted.sources {
            let timeout = (*timeout).clamp(SHORTEST, LONGEST);
            let entry = self.entries.entry(source.clone()).or_insert_with(|| Entry {
                timeout,
                known: FetchedKeys::default(),
                kept: self.earlier.remove(source),
                failures: 0,
                due: Instant::now(),
                fetching: false,
                told: false,
            });
            entry.timeout = timeout;
        }
        gone
    }

    /// The attempts to make now, the longest due first.
    fn begin(&mut self, most: usize) -> Vec<(KeySource, Duration)> {
        let now = Instant::now();
        let mut due: Vec<(Instant, &KeySource)> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.fetching && entry.due <= now)
            .map(|(source, entry)| (entry.due, source))
            .collect();
        due.sort();
        let due: Vec<KeySource> = due.into_iter().take(most).map(|(_, source)| source.clone()).collect();
        due.into_iter()
            .filter_map(|source| {
                let entry = self.entries.get_mut(&source)?;
                entry.fetching = true;
                Some((source, entry.timeout))
            })
            .collect()
    }

    fn next_due(&self) -> Option<Instant> {
        let waiting = self.entries.values().filter(|entry| !entry.fetching);
        waiting.map(|entry| entry.due).min()
    }

    /// Writes down what came of an attempt; tells of it if anything is different.
    fn attempted(&mut self, source: KeySource, got: Result<Arc<str>, FetchError>) -> Option<KeysEvent> {
        match &got {
            Ok(_) => self.metrics.successes.inc(),
            Err(_) => self.metrics.failures.inc(),
        }
        let (now, date) = (Instant::now(), SystemTime::now());
        let settings = &self.settings;
        // Nobody may want it any more.
        let entry = self.entries.get_mut(&source)?;
        let before = entry.known.clone();
        entry.fetching = false;
        let wait = match got {
            Ok(keys) => {
                entry.kept = Some((Arc::clone(&keys), date));
                entry.known = FetchedKeys {
                    keys: Some(keys),
                    problem: None,
                };
                entry.failures = 0;
                settings.refresh
            }
            Err(error) => {
                // A clock that was set back makes nothing older.
                let old = |(_, at): &Kept| date.duration_since(*at).is_ok_and(|age| age >= KEPT);
                if entry.kept.as_ref().is_some_and(old) {
                    entry.kept = None;
                }
                entry.known.keys = entry.kept.as_ref().map(|(keys, _)| Arc::clone(keys));
                entry.known.problem = Some(error.to_string().into());
                let (first, most) = match entry.known.keys {
                    Some(_) => (settings.retry_with_keys, settings.refresh),
                    None => (settings.retry, settings.retry_with_keys.max(settings.retry)),
                };
                let wait = first.saturating_mul(1 << entry.failures.min(16)).min(most);
                entry.failures = entry.failures.saturating_add(1);
                wait
            }
        };
        entry.due = now + spread(wait, &source);
        let fetched = entry.known.problem.is_none();
        let told = std::mem::replace(&mut entry.told, true);
        let event = KeysEvent {
            source: source.clone(),
            fetched: Some(entry.known.clone()),
        };
        if fetched {
            // Often enough: an issuer is asked some times an hour.
            let kept = self.entries.iter();
            let kept = kept.filter_map(|(source, entry)| Some((source, entry.kept.as_ref()?)));
            self.store.save(kept.chain(&self.earlier));
        }
        if told && event.fetched.as_ref() == Some(&before) {
            return None;
        }
        match event.fetched.as_ref().and_then(|known| known.problem.as_ref()) {
            None => tracing::info!(%source, "keys of a token issuer are here"),
            Some(problem) => {
                let kept = event.fetched.as_ref().is_some_and(|known| known.keys.is_some());
                tracing::warn!(%source, %problem, kept, "cannot fetch keys of a token issuer");
            }
        }
        Some(event)
    }
}

/// Up to a tenth less, different for each source: what began together does not go on together.
fn spread(wait: Duration, source: &KeySource) -> Duration {
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    let share = u32::try_from(hasher.finish() % 100).unwrap_or_default();
    wait - wait / 1000 * share
}
