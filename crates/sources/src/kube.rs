//! Configuration from a Kubernetes cluster: a watch for every kind that Lateen reads.
//!
//! Objects are pruned of what nobody reads, compared with what was handed on, decoded as the file source does it, and
//! handed on in batches. The first batch comes when every kind has been listed once; a kind whose definition is not
//! installed is empty, and is followed from when it appears. What is known of each object is a hash: a list after a lost
//! connection is compared with that, and only what differs goes on.
//!
//! Failure policy: an API server that is lost or refuses removes nothing; what was read stays in force, and reading is
//! tried again, with growing pauses. A permission that is missing is named in the log, and the kind counts as empty until
//! it is granted. An object that cannot be decoded keeps what it held before, as a [`Problem`].

mod definitions;
mod follow;
mod kinds;
mod pace;
mod prune;
mod raw;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use lateen_lower::object::{Change, Event};
use lateen_lower::{Admission, Kind, Settings};
use lateen_names::{ClusterId, Name, ObjectKey};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

pub use kinds::{Rule, rules};
pub use kube::Client;

use crate::update::{Problem, Update, log_new};
use definitions::Definitions;
use follow::{Failure, Follower, Item, Message, Target};
use prune::Pruner;

/// One `kubectl apply` writes several objects: nothing is handed on before there was quiet for this long …
const QUIET: Duration = Duration::from_millis(10);
/// … or this long had passed.
const AT_MOST: Duration = Duration::from_millis(100);
/// How often it is said what the first batch waits for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages that may wait to be put into a batch; a kind that is ahead of it waits.
const WAITING: usize = 256;

/// A cluster cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// The kubeconfig is missing or broken.
    #[error("kubeconfig {}: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<kube::config::KubeconfigError>,
    },
    /// There is no kubeconfig, and this is no pod.
    #[error("no kubeconfig is given, and there is no service account of a pod: {0}")]
    NotInCluster(#[source] Box<kube::config::InClusterError>),
    /// The client cannot be made of what it was given.
    #[error("the API server's client: {0}")]
    Client(#[source] Box<kube::Error>),
    /// A task that follows a kind ended though it must not.
    #[error("following the cluster ended: {0}")]
    Ended(String),
}

/// A client of the cluster that a kubeconfig names, or, without one, of the cluster that this is a pod of. Several files
/// may be given as in the variable `KUBECONFIG`, with colons between them.
///
/// # Errors
/// When neither is there, or what is there is broken. Whether the API server answers is not tried.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, KubeError> {
    let config = config(kubeconfig).await?;
    Client::try_from(config).map_err(|error| KubeError::Client(Box::new(error)))
}

/// Where the API server listens that [`connect`] would connect to: nothing, where that cannot be told.
pub async fn api_server(kubeconfig: Option<&Path>) -> BTreeSet<SocketAddr> {
    let Ok(config) = config(kubeconfig).await else {
        return BTreeSet::new();
    };
    let url = config.cluster_url;
    let default = if url.scheme_str() == Some("http") { 80 } else { 443 };
    let host = url
        .host()
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']');
    match tokio::net::lookup_host((host, url.port_u16().unwrap_or(default))).await {
        Ok(addresses) => addresses.collect(),
        Err(_) => BTreeSet::new(),
    }
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, KubeError> {
    match kubeconfig {
        None => Config::incluster().map_err(|error| KubeError::NotInCluster(Box::new(error))),
        Some(path) => {
            let failed = |source| KubeError::Kubeconfig {
                path: path.to_owned(),
                source: Box::new(source),
            };
            let mut all = Kubeconfig::default();
            for file in std::env::split_paths(path) {
                let next = Kubeconfig::read_from(file).map_err(failed)?;
                all = all.merge(next).map_err(failed)?;
            }
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(all, &options).await.map_err(failed)
        }
    }
}

/// Reads what the cluster holds now, all kinds of it. An API server that does not answer is waited for: give it a deadline.
///
/// # Errors
/// Only when a task of its own fails.
pub async fn read_once(client: Client, settings: &Settings) -> Result<Update, KubeError> {
    let (sender, mut updates) = mpsc::channel(1);
    let nothing = || KubeError::Ended("nothing was read".to_owned());
    tokio::select! {
        update = updates.recv() => update.ok_or_else(nothing),
        ended = watch(client, settings, sender) => Err(ended.err().unwrap_or_else(nothing)),
    }
}

/// Reads the cluster, hands on what it holds once all kinds are known, and goes on handing on what changes until the
/// receiver is gone.
///
/// # Errors
/// Only when a task of its own fails; an API server that does not answer is waited for.
pub async fn watch(client: Client, settings: &Settings, updates: mpsc::Sender<Update>) -> Result<(), KubeError> {
    let (sender, mut messages) = mpsc::channel(WAITING);
    let mut tasks = start(&client, settings, &sender);
    drop(sender);
    let mut batch = Batch::new(settings.cluster.clone());
    let mut told = Instant::now() + PATIENCE;
    while !batch.waiting.is_empty() {
        tokio::select! {
            message = messages.recv() => batch.take(message)?,
            ended = tasks.join_next() => return Err(failure(ended)),
            () = updates.closed() => return Ok(()),
            () = tokio::time::sleep_until(told) => {
                told = Instant::now() + PATIENCE;
                tracing::info!(kinds = batch.waiting(), "waiting for the API server to list all objects");
            }
        }
    }
    tracing::info!(objects = batch.changes.len(), "the cluster has been read");
    loop {
        if batch.different && updates.send(batch.update()).await.is_err() {
            return Ok(());
        }
        tokio::select! {
            message = messages.recv() => batch.take(message)?,
            ended = tasks.join_next() => return Err(failure(ended)),
            () = updates.closed() => return Ok(()),
        }
        let limit = Instant::now() + AT_MOST;
        while let Ok(message) = timeout_at(limit.min(Instant::now() + QUIET), messages.recv()).await {
            batch.take(message)?;
        }
    }
}

/// Starts a follower for every kind, and who tells them where it is served.
fn start(client: &Client, settings: &Settings, messages: &mpsc::Sender<Message>) -> JoinSet<()> {
    let named = |name: &Name| ObjectKey {
        namespace: Some(settings.system_namespace.clone()),
        name: name.clone(),
    };
    let pruner = Pruner {
        settings: [named(&settings.config_map), named(&settings.injection)].into(),
    };
    let cluster = PathBuf::from(settings.cluster.as_str());
    let mut tasks = JoinSet::new();
    let mut defined = Vec::new();
    for watched in kinds::watched() {
        let target = match (watched.built_in, watched.versions.first()) {
            (true, Some(version)) => Target::Served(watched.resource(version)),
            _ => Target::Unknown,
        };
        let (sender, target) = watch::channel(target);
        defined.push((watched.clone(), sender));
        let follower = Follower::new(
            watched,
            client.clone(),
            pruner.clone(),
            cluster.clone(),
            target,
            messages.clone(),
        );
        tasks.spawn(follower.run());
    }
    tasks.spawn(Definitions::new(client.clone(), defined).run());
    tasks
}

fn failure(ended: Option<Result<(), tokio::task::JoinError>>) -> KubeError {
    KubeError::Ended(match ended {
        Some(Err(error)) => error.to_string(),
        _ => "a task returned".to_owned(),
    })
}

/// What has changed since the last update, the last change of each object; and how reading goes.
struct Batch {
    cluster: ClusterId,
    changes: BTreeMap<(Kind, ObjectKey), Change>,
    problems: BTreeMap<(Kind, ObjectKey), Vec<Problem>>,
    /// The highest versions that were seen.
    versions: BTreeMap<Kind, u64>,
    /// Whether there is something to hand on.
    different: bool,
    /// The kinds of which no list has come yet.
    waiting: BTreeSet<Kind>,
    failing: BTreeMap<Kind, Failure>,
    /// All problems as they were handed on last; none when there are others since.
    reported: Option<Arc<[Problem]>>,
    logged: Arc<[Problem]>,
}

// === impl Batch ===

impl Batch {
    fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            changes: BTreeMap::new(),
            problems: BTreeMap::new(),
            versions: BTreeMap::new(),
            // Also an empty cluster has been read.
            different: true,
            waiting: kinds::watched().into_iter().map(|watched| watched.kind).collect(),
            failing: BTreeMap::new(),
            reported: None,
            logged: Arc::default(),
        }
    }

    fn take(&mut self, message: Option<Message>) -> Result<(), KubeError> {
        match message {
            None => return Err(KubeError::Ended("nobody follows any kind".to_owned())),
            Some(Message::Changed {
                kind,
                items,
                synced,
                version,
            }) => {
                self.different |= !items.is_empty();
                if Admission::judges(kind) && self.versions.insert(kind, version) != Some(version) {
                    self.different = true;
                }
                for Item { key, change, problems } in items {
                    let id = (kind, key);
                    let had_some = match problems.is_empty() {
                        true => self.problems.remove(&id).is_some(),
                        false => {
                            self.problems.insert(id.clone(), problems);
                            true
                        }
                    };
                    if had_some {
                        self.reported = None;
                    }
                    if let Some(change) = change {
                        self.changes.insert(id, change);
                    }
                }
                if synced {
                    self.waiting.remove(&kind);
                }
            }
            Some(Message::Health { kind, failure }) => self.health(kind, failure),
        }
        Ok(())
    }

    fn update(&mut self) -> Update {
        self.different = false;
        let problems = self.reported.get_or_insert_with(|| {
            let problems: Arc<[Problem]> = self.problems.values().flatten().cloned().collect();
            log_new(&self.logged, &problems);
            self.logged = Arc::clone(&problems);
            problems
        });
        let problems = Arc::clone(problems);
        let event = |change| Event {
            cluster: self.cluster.clone(),
            change,
        };
        Update {
            events: std::mem::take(&mut self.changes).into_values().map(event).collect(),
            versions: self.versions.clone(),
            problems,
        }
    }

    /// A lost server is one line in the log, not one for each kind; a missing permission is one for each.
    fn health(&mut self, kind: Kind, failure: Option<Failure>) {
        let unreachable = |failing: &BTreeMap<Kind, Failure>| {
            let mut all = failing.values();
            all.any(|failure| matches!(failure, Failure::Unreachable(_)))
        };
        let was = unreachable(&self.failing);
        if let Some(Failure::Forbidden(reason)) = &failure
            && !matches!(self.failing.get(&kind), Some(Failure::Forbidden(_)))
        {
            tracing::error!(
                %kind, group = kind.group(), reason, verbs = "list, watch",
                "permission is missing; objects of this kind are not read"
            );
        }
        if let (Some(Failure::Unreachable(reason)), false) = (&failure, was) {
            tracing::warn!(%kind, reason, "the API server cannot be read; what was read before stays in force");
        }
        match failure {
            Some(failure) => drop(self.failing.insert(kind, failure)),
            None => {
                if let Some(Failure::Forbidden(_)) = self.failing.remove(&kind) {
                    tracing::info!(%kind, "permission was granted");
                }
            }
        }
        if was && !unreachable(&self.failing) {
            tracing::info!("the API server is read again");
        }
    }

    fn waiting(&self) -> String {
        let names: Vec<&str> = self.waiting.iter().map(|kind| kind.name()).collect();
        names.join(", ")
    }
}
