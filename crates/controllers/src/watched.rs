//! What a watch says is there, by key.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::stream::{BoxStream, StreamExt as _};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// The facts of a watch's objects. A lost watch begins anew by itself; meanwhile the last known facts count.
pub(crate) struct Watched<O, F> {
    events: BoxStream<'static, Result<Event<O>, kube::runtime::watcher::Error>>,
    read: fn(&O) -> Option<(String, F)>,
    facts: BTreeMap<String, F>,
    /// The version that each of the facts is of: an answer to an own write may be newer than what the watch says.
    versions: BTreeMap<String, u64>,
    listing: BTreeMap<String, (u64, F)>,
    synced: bool,
    what: &'static str,
}

impl<O, F: PartialEq> Watched<O, F>
where
    O: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Watches what `selection` selects; `read` gives the key of an object and what is kept of it.
    pub(crate) fn new(api: Api<O>, selection: Config, what: &'static str, read: fn(&O) -> Option<(String, F)>) -> Self {
        Self {
            events: watcher(api, selection).default_backoff().boxed(),
            read,
            facts: BTreeMap::new(),
            versions: BTreeMap::new(),
            listing: BTreeMap::new(),
            synced: false,
            what,
        }
    }

    /// What is there.
    pub(crate) fn facts(&self) -> &BTreeMap<String, F> {
        &self.facts
    }

    /// Whether everything that was there at the start is known.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    /// What was just written, before the watch tells.
    pub(crate) fn note(&mut self, object: &O) {
        if let Some((key, facts)) = (self.read)(object) {
            self.put(key, version(object), facts);
        }
    }

    /// Whether that made a difference.
    fn put(&mut self, key: String, version: u64, facts: F) -> bool {
        let known = self.versions.get(&key);
        if known.is_some_and(|known| *known > version) || self.facts.get(&key) == Some(&facts) {
            return false;
        }
        self.versions.insert(key.clone(), version);
        self.facts.insert(key, facts);
        true
    }

    /// Takes the next event in and gives the keys whose facts changed by it. Nothing is lost when it is dropped.
    pub(crate) async fn changed(&mut self) -> Vec<String> {
        let event = match self.events.next().await {
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                // A kind that is not installed, for one, is looked for again and again.
                tracing::debug!(%error, what = self.what, "watch interrupted; it begins anew");
                return Vec::new();
            }
            // A watcher never ends by itself.
            None => std::future::pending().await,
        };
        match event {
            Event::Apply(object) => {
                let read = (self.read)(&object);
                let changed =
                    read.and_then(|(key, facts)| self.put(key.clone(), version(&object), facts).then_some(key));
                changed.into_iter().collect()
            }
            Event::Delete(object) => {
                let gone = (self.read)(&object).map(|(key, _)| key);
                gone.into_iter().filter(|key| self.remove(key)).collect()
            }
            Event::Init => {
                self.listing.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let listed = (self.read)(&object).map(|(key, facts)| (key, (version(&object), facts)));
                self.listing.extend(listed);
                Vec::new()
            }
            Event::InitDone => {
                self.synced = true;
                let listing = std::mem::take(&mut self.listing);
                let known: Vec<String> = self.facts.keys().cloned().collect();
                let mut changed: Vec<String> = known.into_iter().filter(|key| !listing.contains_key(key)).collect();
                for key in &changed {
                    self.remove(key);
                }
                for (key, (version, facts)) in listing {
                    if self.put(key.clone(), version, facts) {
                        changed.push(key);
                    }
                }
                changed
            }
        }
    }

    fn remove(&mut self, key: &str) -> bool {
        self.versions.remove(key);
        self.facts.remove(key).is_some()
    }
}

/// Versions of one cluster grow.
fn version<O: Resource>(object: &O) -> u64 {
    let version = object.meta().resource_version.as_deref();
    version.and_then(|version| version.parse().ok()).unwrap_or_default()
}
