//! From sources to snapshots: one task owns the index.
//!
//! Sources of objects come first. What they name of issuers' keys is then fetched, and snapshots wait for the first
//! attempt at each: at the start as long as attempts take, later for a moment only, so that an issuer that does not
//! answer delays nobody's configuration.

mod keys;

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lateen_injector::InjectionSettings;
use lateen_lower::istio::analysis;
use lateen_lower::mesh::Settings;
use lateen_lower::{Index, KeysEvent, Kind, Object};
use lateen_model::deployment::Deployments;
use lateen_model::status::Statuses;
use lateen_model::{Diagnostic, Snapshot};
use lateen_runtime::metrics::Metrics;
use lateen_runtime::{Drain, Readiness, ReadyGuard, Supervisor};
use lateen_sources::file::{FileSource, watch as watch_files};
use lateen_sources::kube::{Client, watch as watch_cluster};
use lateen_sources::{Problem, Severity, Update, hold_over};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::controllers::Seen;
use crate::metrics::{self, IndexMetrics};
use crate::webhooks::Injection;

/// Batches that may wait for the index; a source that is ahead of it waits.
const WAITING: usize = 16;

/// Where snapshots come out.
pub(crate) struct Pipeline {
    /// The newest snapshot; none before all sources have synced.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// What the sources hold, for debug endpoints.
    pub objects: watch::Receiver<Arc<Objects>>,
    /// What pods get that ask for a sidecar.
    pub injection: watch::Receiver<Arc<InjectionSettings>>,
    /// What the newest snapshot holds of the cluster.
    pub seen: watch::Receiver<Seen>,
}

/// Configuration objects as the index holds them, and what is wrong with what they were read from.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    configuration: Arc<Configuration>,
    /// What users should know of the objects, each by itself and all together.
    pub findings: Arc<[Diagnostic]>,
    /// What is to be told of objects of the Gateway API.
    pub statuses: Arc<Statuses>,
    /// The proxies that Gateways ask for.
    pub deployments: Arc<Deployments>,
    problems: Arc<[Problem]>,
}

#[derive(Debug, Default)]
struct Configuration {
    objects: Vec<Arc<Object>>,
    mesh: Value,
}

impl Objects {
    /// MeshConfig, with its defaults.
    pub(crate) fn mesh(&self) -> &Value {
        &self.configuration.mesh
    }

    /// The configuration objects, each with `kind` and the rest of what the user wrote. Those of Istio's groups and of
    /// the Gateway API; never Secrets.
    pub(crate) fn as_json(&self) -> Value {
        let objects = self.configuration.objects.iter().filter(|object| {
            let group = object.kind().group();
            group.ends_with(".istio.io") || group == "gateway.networking.k8s.io"
        });
        Value::Array(objects.map(|object| object.to_json()).collect())
    }

    /// The configuration objects of a kind.
    pub(crate) fn of(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        let objects = self.configuration.objects.iter().map(|object| &**object);
        objects.filter(move |object| object.kind() == kind)
    }

    /// What is wrong with files, and with objects of the cluster.
    pub(crate) fn problems(&self) -> Value {
        serde_json::to_value(&self.problems).unwrap_or_default()
    }
}

/// Starts the source, which is the cluster where there is one and the files that are named otherwise, and the index.
pub(crate) fn start(
    config: &Config,
    cluster: Option<Client>,
    api_server: BTreeSet<SocketAddr>,
    supervisor: &Supervisor,
    readiness: &Readiness,
    metrics: &Metrics,
) -> Result<Pipeline> {
    let settings = settings(config)?;
    let (updates, arriving) = mpsc::channel(WAITING);
    let synced = match cluster {
        Some(client) => {
            let settings = settings.clone();
            let (read, held) = mpsc::channel(WAITING);
            let reading = async move { watch_cluster(client, &settings, read).await };
            supervisor.spawn("cluster", reading);
            let holding = hold_over(config.endpoint_holdover, held, updates);
            supervisor.spawn("endpoints", async move {
                holding.await;
                anyhow::Ok(())
            });
            readiness.register("configuration of the cluster")
        }
        None => {
            for path in &config.config {
                if !path.exists() {
                    bail!("--config {}: no such file or directory", path.display());
                }
            }
            let source = FileSource::new(config.config.clone(), settings.cluster.clone());
            supervisor.spawn("files", watch_files(source, updates));
            readiness.register("configuration files")
        }
    };

    let keys = keys::start(config, api_server, supervisor, metrics)?;
    let (snapshots, snapshots_seen) = watch::channel(None);
    let (objects, objects_seen) = watch::channel(Arc::new(Objects::default()));
    let (injection, injection_seen) = Injection::new(config, settings.injection.clone());
    let (seen, seen_so_far) = watch::channel(Seen::default());
    let owner = Owner {
        index: Index::new(settings),
        injection,
        snapshots,
        objects,
        metrics: IndexMetrics::new(metrics)?,
        seen,
        latest: None,
        keys,
    };
    supervisor.spawn("index", owner.run(arriving, synced, supervisor.drain()));
    Ok(Pipeline {
        snapshots: snapshots_seen,
        objects: objects_seen,
        injection: injection_seen,
        seen: seen_so_far,
    })
}

/// What the index is told of this process.
pub(crate) fn settings(config: &Config) -> Result<Settings> {
    let mut settings = Settings::new(config.revision.as_deref().unwrap_or_default())?;
    settings.cluster = config.cluster_id.clone();
    settings.domain.clone_from(&config.domain);
    settings.system_namespace = config.namespace.clone();
    settings.environment = std::env::vars().filter(|(name, _)| is_feature(name)).collect();
    Ok(settings)
}

/// Istiod's own switches, of which some change what proxies get.
fn is_feature(name: &str) -> bool {
    ["PILOT_", "ENABLE_", "ISTIO_", "DISABLE_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// The one task that owns the index.
struct Owner {
    index: Index,
    injection: Injection,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    objects: watch::Sender<Arc<Objects>>,
    metrics: IndexMetrics,
    seen: watch::Sender<Seen>,
    /// The newest snapshot, handed out or held back.
    latest: Option<Arc<Snapshot>>,
    keys: keys::Keys,
}

impl Owner {
    /// Applies updates until the drain begins. Updates that are waiting already go into one snapshot. The guard is
    /// dropped when the objects count that were there at the start.
    async fn run(mut self, mut arriving: mpsc::Receiver<Update>, synced: ReadyGuard, drain: Drain) -> Result<()> {
        let mut synced = Some(synced);
        loop {
            let held_until = self.keys.held_until();
            tokio::select! {
                update = arriving.recv() => {
                    let Some(mut update) = update else {
                        bail!("the source of configuration ended");
                    };
                    let since = Instant::now();
                    while let Ok(next) = arriving.try_recv() {
                        update.events.extend(next.events);
                        (update.problems, update.versions) = (next.problems, next.versions);
                    }
                    self = tokio::task::spawn_blocking(move || self.apply(update, since)).await?;
                }
                Some(events) = self.keys.arriving.recv() => {
                    self = tokio::task::spawn_blocking(move || self.apply_keys(events)).await?;
                }
                () = tokio::time::sleep_until(held_until.unwrap_or_else(tokio::time::Instant::now)), if held_until.is_some() => {
                    self.keys.give_up();
                    self.hand_out();
                }
                () = drain.started() => return Ok(()),
            }
            if self.snapshots.borrow().is_some() {
                drop(synced.take());
            }
        }
    }

    fn apply(mut self, update: Update, since: Instant) -> Self {
        let Update {
            events,
            problems,
            versions,
        } = update;
        if let Some(snapshot) = &self.latest
            && events.is_empty()
            && problems == self.objects.borrow().problems
        {
            // Objects were read in which nothing of interest changed.
            self.seen.send_replace(Seen::new(snapshot.generation, &versions));
            return self;
        }
        // Most batches are about endpoints; what depends on configuration alone is not made anew for them.
        let configured = self.latest.is_none() || events.iter().any(metrics::is_configuration);
        self.metrics.received(&events);
        self.injection.observe(&events);
        let begun = Instant::now();
        self.index.apply(events);
        let snapshot = self.index.publish();
        let took = begun.elapsed();
        self.injection.publish(self.index.mesh_config(), self.index.objects());
        let configuration = if configured {
            Arc::new(configuration(&self.index))
        } else {
            Arc::clone(&self.objects.borrow().configuration)
        };
        self.publish(snapshot, configuration, problems, (since.elapsed(), took));
        // Whoever learns of the snapshot finds out what it holds.
        self.seen.send_replace(Seen::new(self.generation(), &versions));
        self.hand_out();
        self
    }

    /// As [`Self::apply`], for what became known of issuers' keys.
    fn apply_keys(mut self, events: Vec<KeysEvent>) -> Self {
        let begun = Instant::now();
        self.index.apply_keys(events);
        let snapshot = self.index.publish();
        if self.latest.is_some() {
            let known = Arc::clone(&self.objects.borrow());
            let configuration = Arc::clone(&known.configuration);
            let took = begun.elapsed();
            self.publish(snapshot, configuration, Arc::clone(&known.problems), (took, took));
            self.seen.send_modify(|seen| seen.snapshot = self.generation());
        }
        self.hand_out();
        self
    }

    fn generation(&self) -> u64 {
        self.latest.as_ref().map_or(0, |snapshot| snapshot.generation)
    }

    /// Writes down what a snapshot means to users, and which keys it needs.
    fn publish(
        &mut self,
        snapshot: Arc<Snapshot>,
        configuration: Arc<Configuration>,
        problems: Arc<[Problem]>,
        (since, took): (Duration, Duration),
    ) {
        let known = Arc::clone(&self.objects.borrow());
        let findings = match &self.latest {
            Some(latest) if judged_alike(latest, &snapshot) => Arc::clone(&known.findings),
            _ => {
                let findings = findings(&snapshot);
                let told: HashSet<&Diagnostic> = known.findings.iter().collect();
                for finding in findings.iter().filter(|finding| !told.contains(finding)) {
                    tracing::warn!(%finding, "configuration");
                }
                findings.into()
            }
        };
        let broken = problems.iter().filter(|problem| problem.severity == Severity::Error);
        self.metrics
            .published(&snapshot, &findings, broken.count(), since, took);
        self.objects.send_replace(Arc::new(Objects {
            configuration,
            findings,
            statuses: Arc::clone(self.index.statuses()),
            deployments: Arc::clone(self.index.deployments()),
            problems,
        }));
        self.keys.want(self.latest.as_deref(), &snapshot);
        self.latest = Some(snapshot);
    }

    /// Hands out the newest snapshot, unless it waits for keys.
    fn hand_out(&mut self) {
        let Some(latest) = &self.latest else { return };
        if self.keys.hold(&self.index) {
            return;
        }
        self.snapshots.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, latest));
            *current = Some(Arc::clone(latest));
            !same
        });
    }
}

fn configuration(index: &Index) -> Configuration {
    Configuration {
        objects: index.objects().iter().map(|(_, object)| Arc::clone(object)).collect(),
        mesh: serde_json::to_value(index.mesh_config()).unwrap_or_default(),
    }
}

/// Whether nothing that [`findings`] looks at is different: most snapshots differ in endpoints alone.
fn judged_alike(old: &Snapshot, new: &Snapshot) -> bool {
    old.diagnostics == new.diagnostics
        && old.services == new.services
        && old.virtual_services == new.virtual_services
        && old.destination_rules == new.destination_rules
        && old.gateways == new.gateways
        && old.sidecars == new.sidecars
        && old.envoy_filters == new.envoy_filters
}

/// What users should know of the objects, each by itself and all together.
fn findings(snapshot: &Snapshot) -> Vec<Diagnostic> {
    let mut findings: Vec<Diagnostic> = snapshot.diagnostics.to_vec();
    findings.extend(analysis::check(snapshot));
    findings
}
