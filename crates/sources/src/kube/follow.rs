//! Follows one kind: lists it, watches it, and says how each state of it differs from the one before.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kube::Client;
use kube::api::{Api, ApiResource};
use kube::core::Status;
use kube::runtime::watcher::{self, Event, watcher};
use lateen_lower::object::Change;
use lateen_lower::{Admission, Kind, Object};
use lateen_names::ObjectKey;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::kinds::Watched;
use super::pace::Pace;
use super::prune::Pruner;
use super::raw::Raw;
use crate::update::{Problem, Severity};

/// How long a watch lasts, in seconds. A connection that died without a word is found out a little later.
const WATCH: u32 = 120;
/// A streaming list of which nothing came for this long is given up: the server takes it for a watch.
const LIST: Duration = Duration::from_secs(30);
/// For how long permission must be refused before the first objects are no longer waited for: an API server that has
/// just started refuses until it has read its own rules.
pub(super) const REFUSED: Duration = Duration::from_secs(3);

/// Where a kind is served.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    /// Not known yet.
    Unknown,
    /// Nowhere: there are no objects of it.
    Absent,
    /// There.
    Served(ApiResource),
}

/// What has become of a kind.
#[derive(Debug)]
pub(super) enum Message {
    /// Objects are different.
    Changed {
        kind: Kind,
        items: Vec<Item>,
        /// Whether all objects are known by now.
        synced: bool,
        /// The highest version that was seen.
        version: u64,
    },
    /// Reading it works, or not.
    Health { kind: Kind, failure: Option<Failure> },
}

/// What has become of an object.
#[derive(Debug)]
pub(super) struct Item {
    pub key: ObjectKey,
    /// `None` when only its problems are different.
    pub change: Option<Change>,
    pub problems: Vec<Problem>,
}

/// Why a kind cannot be read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Failure {
    /// The API server says that we may not.
    Forbidden(String),
    /// Anything that may pass.
    Unreachable(String),
}

/// One kind, and what is known of its objects.
pub(super) struct Follower {
    pub watched: Watched,
    pub client: Client,
    pub pruner: Pruner,
    /// Stands for the file in problems.
    pub cluster: PathBuf,
    pub target: watch::Receiver<Target>,
    pub messages: mpsc::Sender<Message>,
    /// Hashes of the objects that were handed on.
    held: HashMap<ObjectKey, u128>,
    /// The highest version that was seen, of whatever changed.
    version: u64,
    synced: bool,
    failure: Option<Failure>,
}

/// The receiver is gone.
#[derive(Debug)]
struct Closed;

/// An object that was looked at.
struct Seen {
    hash: u128,
    /// `None` when it is as it was.
    item: Option<Item>,
}

/// A list that is under way.
#[derive(Default)]
struct Listing {
    /// The objects of which something is kept.
    seen: BTreeMap<ObjectKey, Seen>,
    /// The highest version among them; it counts when the list is whole.
    version: u64,
    /// An object came twice: either it changed meanwhile, or the stream broke and began again without a word, and objects
    /// that are gone may be among those that came.
    repeated: bool,
}

/// Why reading a watch came to an end.
enum End {
    /// The list is not to be trusted, or never came to an end.
    Doubtful,
    Failed(watcher::Error),
}

impl Follower {
    pub(super) fn new(
        watched: Watched,
        client: Client,
        pruner: Pruner,
        cluster: PathBuf,
        target: watch::Receiver<Target>,
        messages: mpsc::Sender<Message>,
    ) -> Self {
        Self {
            watched,
            client,
            pruner,
            cluster,
            target,
            messages,
            held: HashMap::new(),
            version: 0,
            synced: false,
            failure: None,
        }
    }

    /// Follows the kind to wherever it is served, until nobody wants to know.
    pub(super) async fn run(mut self) {
        loop {
            let target = self.target.borrow_and_update().clone();
            let mut moved = self.target.clone();
            let done = match target {
                Target::Unknown => moved.changed().await.map_err(|_| Closed),
                Target::Absent => match self.gone().await {
                    Ok(()) => moved.changed().await.map_err(|_| Closed),
                    Err(closed) => Err(closed),
                },
                Target::Served(resource) => tokio::select! {
                    closed = self.follow(resource) => closed,
                    moved = moved.changed() => moved.map_err(|_| Closed),
                },
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Lists and watches. What is known of the objects stays known when this is dropped, so the next list says what is
    /// different then.
    async fn follow(&mut self, resource: ApiResource) -> Result<(), Closed> {
        let api: Api<Raw> = Api::all_with(self.client.clone(), &resource);
        let mut pace = Pace::new();
        let mut streaming = true;
        let mut refused: Option<Instant> = None;
        loop {
            let mut config = watcher::Config::default().timeout(WATCH);
            config.field_selector = self.watched.fields.map(str::to_owned);
            if streaming {
                config = config.streaming_lists();
            }
            let stream = watcher(api.clone(), config);
            let error = match self.read(pin!(stream), streaming, &mut pace).await? {
                End::Doubtful => {
                    streaming = false;
                    continue;
                }
                End::Failed(error) if streaming && no_streaming(&error) => {
                    tracing::debug!(kind = %self.watched.kind, %error, "no streaming lists here");
                    streaming = false;
                    continue;
                }
                End::Failed(error) => error,
            };
            let failure = Failure::of(&error);
            if matches!(failure, Failure::Forbidden(_)) {
                let since = *refused.get_or_insert_with(Instant::now);
                if !self.synced && since.elapsed() >= REFUSED {
                    self.send(Vec::new(), true).await?;
                }
            } else {
                refused = None;
            }
            self.health(Some(failure)).await?;
            sleep(pace.pause()).await;
        }
    }

    /// Reads a watch until it must begin anew.
    async fn read(
        &mut self,
        mut stream: Pin<&mut impl Stream<Item = watcher::Result<Event<Raw>>>>,
        streaming: bool,
        pace: &mut Pace,
    ) -> Result<End, Closed> {
        let messages = self.messages.clone();
        let mut listing = Some(Listing::default());
        loop {
            let event = match (&listing, streaming) {
                (Some(_), true) => match timeout(LIST, stream.next()).await {
                    Ok(event) => event,
                    Err(_) => return Ok(End::Doubtful),
                },
                _ => stream.next().await,
            };
            let event = match event {
                Some(Ok(event)) => event,
                // Watches go on for ever.
                None => return Ok(End::Doubtful),
                Some(Err(error)) if listing.is_some() || expired(&error) => return Ok(End::Failed(error)),
                // It goes on from where it was.
                Some(Err(error)) => {
                    self.health(Some(Failure::of(&error))).await?;
                    sleep(pace.pause()).await;
                    continue;
                }
            };
            // That a list begins does not mean that anything was read.
            if !matches!(event, Event::Init) {
                pace.reset();
            }
            // What is noted as held is handed on for sure: nothing can come between the two.
            let permit = messages.reserve().await.map_err(|_| Closed)?;
            let item = match (event, &mut listing) {
                (Event::Init, listing) => {
                    *listing = Some(Listing::default());
                    continue;
                }
                (Event::InitApply(raw), listing) => {
                    let listing = listing.get_or_insert_default();
                    listing.version = listing.version.max(raw.version());
                    self.list(raw, listing);
                    continue;
                }
                (Event::InitDone, listing) => {
                    let listing = listing.take().unwrap_or_default();
                    if streaming && listing.repeated {
                        return Ok(End::Doubtful);
                    }
                    self.version = self.version.max(listing.version);
                    let items = self.settle(listing);
                    tracing::debug!(kind = %self.watched.kind, different = items.len(), "listed");
                    self.synced = true;
                    permit.send(self.changed(items, true));
                    self.health(None).await?;
                    continue;
                }
                (Event::Apply(raw), _) => {
                    self.version = self.version.max(raw.version());
                    self.applied(raw)
                }
                (Event::Delete(raw), _) => {
                    self.version = self.version.max(raw.version());
                    self.deleted(&raw)
                }
            };
            // Of the mesh's own kinds it is told how far they were read, also when nothing of interest changed.
            if item.is_some() || Admission::judges(self.watched.kind) {
                permit.send(self.changed(item.into_iter().collect(), false));
            } else {
                drop(permit);
            }
            self.health(None).await?;
        }
    }

    fn list(&self, raw: Raw, listing: &mut Listing) {
        let Some(key) = raw.key(self.watched.kind) else {
            return;
        };
        match self.look(&key, raw.value) {
            Some(seen) => listing.repeated |= listing.seen.insert(key, seen).is_some(),
            None => listing.repeated |= listing.seen.remove(&key).is_some(),
        }
    }

    /// What a whole list changes.
    fn settle(&mut self, listing: Listing) -> Vec<Item> {
        let mut items = Vec::new();
        self.held.retain(|key, _| {
            let there = listing.seen.contains_key(key);
            if !there {
                items.push(deletion(self.watched.kind, key.clone()));
            }
            there
        });
        for (key, seen) in listing.seen {
            if let Some(item) = seen.item {
                self.held.insert(key, seen.hash);
                items.push(item);
            }
        }
        items
    }

    fn applied(&mut self, raw: Raw) -> Option<Item> {
        let key = raw.key(self.watched.kind)?;
        match self.look(&key, raw.value) {
            Some(Seen { hash, item }) => {
                let item = item?;
                self.held.insert(key, hash);
                Some(item)
            }
            // What was there of interest is gone.
            None => self.held.remove(&key).map(|_| deletion(self.watched.kind, key)),
        }
    }

    fn deleted(&mut self, raw: &Raw) -> Option<Item> {
        let key = raw.key(self.watched.kind)?;
        self.held.remove(&key)?;
        Some(deletion(self.watched.kind, key))
    }

    /// Compares an object with what is held, and reads it if it is different. `None` when nothing of it is of interest.
    fn look(&self, key: &ObjectKey, mut value: Value) -> Option<Seen> {
        let kind = self.watched.kind;
        if !self.pruner.prune(kind, key, &mut value) {
            return None;
        }
        // Values of JSON can always be written.
        let hash = xxhash_rust::xxh3::xxh3_128(&serde_json::to_vec(&value).unwrap_or_default());
        if self.held.get(key) == Some(&hash) {
            return Some(Seen { hash, item: None });
        }
        let (change, problems) = match Object::decode(kind, &value) {
            Ok(decoded) => {
                // Of core objects a newer server may have fields that nobody here has heard of.
                let unknown = decoded.unknown.into_iter().filter(|_| Admission::judges(kind));
                let problems = unknown.map(|field| {
                    let message = format!("{kind} has no such field here; it has no effect");
                    self.problem(key, field, Severity::Warning, message)
                });
                (Some(Change::Apply(Arc::new(decoded.value))), problems.collect())
            }
            Err(error) => {
                let message = format!("{}; what the object held before counts", error.message);
                (None, vec![self.problem(key, error.path, Severity::Error, message)])
            }
        };
        let key = key.clone();
        let item = Some(Item { key, change, problems });
        Some(Seen { hash, item })
    }

    fn problem(&self, key: &ObjectKey, field: String, severity: Severity, message: String) -> Problem {
        Problem {
            object: Some(format!("{} {key}", self.watched.kind)),
            field,
            ..Problem::of_file(&self.cluster, severity, message)
        }
    }

    /// The kind is not served any more, or never was.
    async fn gone(&mut self) -> Result<(), Closed> {
        let messages = self.messages.clone();
        let permit = messages.reserve().await.map_err(|_| Closed)?;
        let kind = self.watched.kind;
        let items = self.held.drain().map(|(key, _)| deletion(kind, key)).collect();
        self.synced = true;
        permit.send(self.changed(items, true));
        self.health(None).await
    }

    async fn send(&mut self, items: Vec<Item>, synced: bool) -> Result<(), Closed> {
        self.synced |= synced;
        let message = self.changed(items, synced);
        self.messages.send(message).await.map_err(|_| Closed)
    }

    fn changed(&self, items: Vec<Item>, synced: bool) -> Message {
        Message::Changed {
            kind: self.watched.kind,
            items,
            synced,
            version: self.version,
        }
    }

    /// Says how reading goes, when that is different from before.
    async fn health(&mut self, failure: Option<Failure>) -> Result<(), Closed> {
        if self.failure == failure {
            return Ok(());
        }
        self.failure.clone_from(&failure);
        let kind = self.watched.kind;
        let message = Message::Health { kind, failure };
        self.messages.send(message).await.map_err(|_| Closed)
    }
}

fn deletion(kind: Kind, key: ObjectKey) -> Item {
    Item {
        key: key.clone(),
        change: Some(Change::Delete { kind, key }),
        problems: Vec::new(),
    }
}

/// What the API server says, where it has said something.
pub(super) fn status(error: &watcher::Error) -> Option<&Status> {
    use watcher::Error as E;
    match error {
        E::WatchError(status)
        | E::InitialListFailed(kube::Error::Api(status))
        | E::WatchStartFailed(kube::Error::Api(status))
        | E::WatchFailed(kube::Error::Api(status)) => Some(&**status),
        _ => None,
    }
}

/// The server no longer knows what happened since; the watch begins anew.
fn expired(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| status.code == 410)
}

/// The server has no streaming lists of this kind: it does not know them, or what it stores objects in is too old. It says
/// so in several ways, of which none is about permission or load.
fn no_streaming(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| ![401, 403, 404, 410, 429].contains(&status.code))
}

impl Failure {
    fn of(error: &watcher::Error) -> Self {
        match status(error) {
            Some(status) if status.code == 403 => Self::Forbidden(status.message.clone()),
            Some(status) => Self::Unreachable(status.message.clone()),
            None => Self::Unreachable(chain(error)),
        }
    }
}

/// An error with its causes: the client's own texts stop at "cannot connect".
fn chain(error: &watcher::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
