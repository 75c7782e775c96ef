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
    listing: BTreeMap<String, F>,
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
            self.facts.insert(key, facts);
        }
    }

    /// Takes the next event in and gives the keys whose facts changed by it. Nothing is lost when it is dropped.
    pub(crate) async fn changed(&mut self) -> Vec<String> {
        let event = match self.events.next().await {
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                tracing::warn!(%error, what = self.what, "watch interrupted; it begins anew");
                return Vec::new();
            }
            // A watcher never ends by itself.
            None => std::future::pending().await,
        };
        match event {
            Event::Apply(object) => (self.read)(&object)
                .into_iter()
                .filter_map(|(key, facts)| {
                    let differs = self.facts.get(&key) != Some(&facts);
                    self.facts.insert(key.clone(), facts);
                    differs.then_some(key)
                })
                .collect(),
            Event::Delete(object) => (self.read)(&object)
                .and_then(|(key, _)| self.facts.remove(&key).map(|_| key))
                .into_iter()
                .collect(),
            Event::Init => {
                self.listing.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                self.listing.extend((self.read)(&object));
                Vec::new()
            }
            Event::InitDone => {
                let before = std::mem::replace(&mut self.facts, std::mem::take(&mut self.listing));
                self.synced = true;
                let gone = before.keys().filter(|key| !self.facts.contains_key(*key));
                let new = self.facts.iter().filter(|(key, facts)| before.get(*key) != Some(facts));
                gone.chain(new.map(|(key, _)| key)).cloned().collect()
            }
        }
    }
}
