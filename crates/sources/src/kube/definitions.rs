//! Which custom resources are served, and in which version.
//!
//! The definitions are watched by their metadata only, since their schemas are large; of those that matter the versions
//! are read then. Who may not see definitions asks the API server at times what it serves.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::Api;
use kube::core::GroupVersion;
use kube::core::metadata::PartialObjectMeta;
use kube::discovery;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::follow::{REFUSED, Target, status};
use super::kinds::{DEFINITIONS, Watched};
use super::pace::Pace;

/// How often the API server is asked what it serves, by who may not see definitions.
const ASK: Duration = Duration::from_secs(30);

/// The kinds that are defined, with who follows each.
pub(super) struct Definitions {
    client: Client,
    /// By the names of their definitions.
    kinds: BTreeMap<String, (Watched, watch::Sender<Target>)>,
    /// Of kinds that every server has: their place never changes, and is known for as long as this is there.
    _built_in: Vec<watch::Sender<Target>>,
}

/// What is known of a definition.
enum Found {
    Served(&'static str),
    /// It is there, but not in force yet, or in no version that is understood.
    Unusable,
    Gone,
}

impl Definitions {
    pub(super) fn new(client: Client, kinds: Vec<(Watched, watch::Sender<Target>)>) -> Self {
        let (built_in, defined): (Vec<_>, Vec<_>) = kinds.into_iter().partition(|(watched, _)| watched.built_in);
        Self {
            client,
            kinds: defined.into_iter().map(|kind| (kind.0.definition(), kind)).collect(),
            _built_in: built_in.into_iter().map(|(_, sender)| sender).collect(),
        }
    }

    /// Goes on for ever.
    pub(super) async fn run(self) {
        let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(self.client.clone());
        let mut stream = pin!(watcher(api, watcher::Config::default()));
        let mut listed: BTreeSet<String> = BTreeSet::new();
        let mut pace = Pace::new();
        let (mut refused, mut told) = (None, false);
        while let Some(event) = stream.next().await {
            let name = |found: &PartialObjectMeta<_>| found.metadata.name.clone().unwrap_or_default();
            match event {
                Ok(Event::Init) => {
                    // Nothing has been read yet.
                    listed.clear();
                    continue;
                }
                Ok(Event::InitApply(found)) => {
                    listed.insert(name(&found));
                }
                Ok(Event::InitDone) => {
                    for definition in self.kinds.keys() {
                        match listed.contains(definition) {
                            true => self.read(definition).await,
                            false => self.set(definition, Target::Absent),
                        }
                    }
                }
                Ok(Event::Apply(found)) => self.read(&name(&found)).await,
                Ok(Event::Delete(found)) => self.set(&name(&found), Target::Absent),
                Err(error) if is_forbidden(&error) => {
                    let since = *refused.get_or_insert_with(Instant::now);
                    if since.elapsed() < REFUSED {
                        sleep(pace.pause()).await;
                        continue;
                    }
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(
                            %error, group = DEFINITIONS.0, resource = DEFINITIONS.1, verbs = "get, list, watch",
                            "permission is missing; the API server is asked at times for what it serves"
                        );
                    }
                    self.ask().await;
                    sleep(ASK).await;
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, "definitions cannot be watched");
                    sleep(pace.pause()).await;
                    continue;
                }
            }
            pace.reset();
            (refused, told) = (None, false);
        }
    }

    /// Reads the versions of a definition, as often as it takes.
    async fn read(&self, name: &str) {
        let Some((watched, _)) = self.kinds.get(name) else {
            return;
        };
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let mut pace = Pace::new();
        let found = loop {
            match api.get_opt(name).await {
                Ok(Some(definition)) => break usable(watched, &definition),
                Ok(None) => break Found::Gone,
                Err(error) => {
                    tracing::debug!(%error, name, "a definition cannot be read");
                    sleep(pace.pause()).await;
                }
            }
        };
        match found {
            Found::Served(version) => self.set(name, Target::Served(watched.resource(version))),
            // Where it was served before, its objects are left alone: the definition may be about to come into force again.
            Found::Unusable => self.set_unless_served(name),
            Found::Gone => self.set(name, Target::Absent),
        }
    }

    /// Asks which groups and kinds there are.
    async fn ask(&self) {
        let groups: BTreeSet<&str> = self.kinds.values().map(|(watched, _)| watched.kind.group()).collect();
        for group in groups {
            if let Err(error) = self.ask_group(group).await {
                tracing::debug!(%error, group, "the API server does not say what it serves");
            }
        }
    }

    /// Asks for each version by its name: the list of all groups lags behind the definitions.
    async fn ask_group(&self, name: &str) -> Result<(), kube::Error> {
        let of_group = || {
            self.kinds
                .iter()
                .filter(|(_, (watched, _))| watched.kind.group() == name)
        };
        let mut served: BTreeSet<(&str, String)> = BTreeSet::new();
        let versions: BTreeSet<&str> = of_group()
            .flat_map(|(_, (watched, _))| watched.versions.clone())
            .collect();
        for version in versions {
            match discovery::pinned_group(&self.client, &GroupVersion::gv(name, version)).await {
                Ok(group) => {
                    let resources = group.versioned_resources(version).into_iter();
                    served.extend(resources.map(|(resource, _)| (version, resource.plural)));
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        for (definition, (watched, _)) in of_group() {
            let is_served = |version: &&&'static str| served.contains(&(**version, watched.plural.to_owned()));
            match watched.versions.iter().find(is_served) {
                Some(version) => self.set(definition, Target::Served(watched.resource(version))),
                None => self.set_unless_served(definition),
            }
        }
        Ok(())
    }

    fn set(&self, name: &str, target: Target) {
        if let Some((watched, sender)) = self.kinds.get(name) {
            sender.send_if_modified(|current| {
                if *current == target {
                    return false;
                }
                tracing::debug!(kind = %watched.kind, ?target, "a definition changed");
                *current = target;
                true
            });
        }
    }

    fn set_unless_served(&self, name: &str) {
        let served = self
            .kinds
            .get(name)
            .is_some_and(|(_, sender)| matches!(*sender.borrow(), Target::Served(_)));
        if !served {
            self.set(name, Target::Absent);
        }
    }
}

/// The best version that is served.
fn usable(watched: &Watched, definition: &CustomResourceDefinition) -> Found {
    let conditions = definition
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let established = conditions
        .into_iter()
        .any(|condition| condition.type_ == "Established" && condition.status == "True");
    let served = |version: &&&str| {
        let mut versions = definition.spec.versions.iter();
        versions.any(|known| known.served && known.name == **version)
    };
    match watched.versions.iter().find(served) {
        Some(version) if established => Found::Served(version),
        Some(_) => Found::Unusable,
        None => {
            let understood = watched.versions.join(", ");
            tracing::warn!(kind = %watched.kind, understood, "the kind is served in no version that Lateen understands");
            Found::Unusable
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| status.code == 403)
}
