//! What istiod's dashboards show of configuration and of the process, under istiod's names. Streams, pushes and the
//! certificate authority count for themselves.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use anyhow::Result;
use lateen_lower::{Change, Event, Kind};
use lateen_model::{Diagnostic, Snapshot};
use lateen_runtime::metrics::{Histogram, IntCounterVec, IntGauge, Metrics};

use crate::version;

const DEBOUNCE: [f64; 9] = [0.01, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
const INIT: [f64; 6] = [0.01, 0.1, 0.5, 1.0, 3.0, 5.0];

/// Codes of findings that have a gauge of their own.
const FINDINGS: &[(&str, &str, &str)] = &[
    (
        "IST0109",
        "pilot_vservice_dup_domain",
        "VirtualServices that claim a host of the mesh which another one claims too.",
    ),
    (
        "IST0101",
        "lateen_missing_references",
        "References to objects that are not there.",
    ),
];

/// Counts what the index is told, and what it makes of it.
pub(crate) struct IndexMetrics {
    services: IntGauge,
    virtual_services: IntGauge,
    findings: Vec<(&'static str, IntGauge)>,
    broken_files: IntGauge,
    config_events: IntCounterVec,
    registry_events: IntCounterVec,
    updates: IntCounterVec,
    triggers: IntCounterVec,
    debounce: Histogram,
    init: Histogram,
    /// Objects that are there, by the hash of cluster, kind and key: whether an event adds or updates.
    known: HashSet<u64>,
}

/// A reason for a push, in istiod's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trigger {
    Endpoint,
    Service,
    Config,
    Secret,
    Namespace,
    Networks,
}

impl Trigger {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Pod | Kind::EndpointSlice | Kind::WorkloadEntry => Self::Endpoint,
            Kind::Service | Kind::ServiceEntry => Self::Service,
            Kind::Secret => Self::Secret,
            Kind::Namespace => Self::Namespace,
            Kind::Node => Self::Networks,
            _ => Self::Config,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Service => "service",
            Self::Config => "config",
            Self::Secret => "secret",
            Self::Namespace => "namespace",
            Self::Networks => "networks",
        }
    }
}

/// The process itself: version and age.
pub(crate) fn process(metrics: &Metrics) -> Result<()> {
    metrics
        .gauges("pilot_info", "Version of the control plane.", &["version"])?
        .with_label_values(&[&version::line()])
        .set(1);
    metrics
        .gauges("istio_build", "Version by component.", &["component", "tag"])?
        .with_label_values(&["pilot", &version::tag()])
        .set(1);
    let started = Instant::now();
    metrics.computed(
        "istiod_uptime_seconds",
        "Seconds since the control plane started.",
        move || started.elapsed().as_secs_f64(),
    )?;
    Ok(())
}

impl IndexMetrics {
    /// Registers all of them.
    pub(crate) fn new(metrics: &Metrics) -> Result<Self> {
        let labels = ["type", "event"];
        let findings = FINDINGS
            .iter()
            .map(|(code, name, help)| Ok((*code, metrics.gauge(name, help)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            services: metrics.gauge("pilot_services", "Services known.")?,
            virtual_services: metrics.gauge("pilot_virt_services", "VirtualServices known.")?,
            findings,
            broken_files: metrics.gauge(
                "lateen_broken_files",
                "Errors in configuration files, whose last good version counts.",
            )?,
            config_events: metrics.counters("pilot_k8s_cfg_events", "Events about configuration, by kind.", &labels)?,
            registry_events: metrics.counters(
                "pilot_k8s_reg_events",
                "Events about services and what is behind them, by kind.",
                &labels,
            )?,
            updates: metrics.counters(
                "pilot_inbound_updates",
                "Changes received, by what they are about.",
                &["type"],
            )?,
            triggers: metrics.counters(
                "pilot_push_triggers",
                "Snapshots, by what they were made for.",
                &["type"],
            )?,
            debounce: metrics.histogram(
                "pilot_debounce_time",
                "Seconds from the first change of a batch to its snapshot.",
                &DEBOUNCE,
            )?,
            init: metrics.histogram("pilot_pushcontext_init_seconds", "Seconds to make a snapshot.", &INIT)?,
            known: HashSet::new(),
        })
    }

    /// Counts a batch of events before they are applied.
    pub(crate) fn received(&mut self, events: &[Event]) {
        let mut triggers = BTreeSet::new();
        for event in events {
            let (kind, hash) = match &event.change {
                Change::Apply(object) => (object.kind(), hash(event, object.kind(), object.key().ok())),
                Change::Delete { kind, key } => (*kind, hash(event, *kind, Some(key.clone()))),
            };
            let deleted = matches!(event.change, Change::Delete { .. });
            let what = if deleted {
                self.known.remove(&hash);
                "delete"
            } else if self.known.insert(hash) {
                "add"
            } else {
                "update"
            };
            let counter = match class(kind) {
                Class::Configuration => Some(&self.config_events),
                Class::Registry => Some(&self.registry_events),
                Class::Other => None,
            };
            if let Some(counter) = counter {
                counter.with_label_values(&[type_label(kind), what]).inc();
            }
            let update = match kind {
                Kind::Service if deleted => Some("svcdelete"),
                Kind::Service => Some("svc"),
                Kind::EndpointSlice | Kind::Pod => Some("eds"),
                _ => (class(kind) == Class::Configuration).then_some("config"),
            };
            if let Some(update) = update {
                self.updates.with_label_values(&[update]).inc();
            }
            triggers.insert(Trigger::of(kind));
        }
        for trigger in triggers {
            self.triggers.with_label_values(&[trigger.name()]).inc();
        }
    }

    /// Writes down what a snapshot holds, and how long it took: since its first change came, and to make it.
    pub(crate) fn published(
        &self,
        snapshot: &Snapshot,
        findings: &[Diagnostic],
        file_errors: usize,
        since: Duration,
        took: Duration,
    ) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.services.set(number(snapshot.services.len()));
        self.virtual_services.set(number(snapshot.virtual_services.len()));
        for (code, gauge) in &self.findings {
            gauge.set(number(findings.iter().filter(|finding| finding.code == *code).count()));
        }
        self.broken_files.set(number(file_errors));
        self.debounce.observe(since.as_secs_f64());
        self.init.observe(took.as_secs_f64());
    }
}

fn hash(event: &Event, kind: Kind, key: Option<lateen_names::ObjectKey>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&event.cluster, kind, key).hash(&mut hasher);
    hasher.finish()
}

/// Whether an event may change configuration: the objects that users write, or the mesh's settings.
pub(crate) fn is_configuration(event: &Event) -> bool {
    class(kind(event)) != Class::Registry
}

fn kind(event: &Event) -> Kind {
    match &event.change {
        Change::Apply(object) => object.kind(),
        Change::Delete { kind, .. } => *kind,
    }
}

/// Who of istiod's parts watches objects of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// The store of configuration: Istio's kinds, those of the Gateway API, Ingress.
    Configuration,
    /// The registry of services.
    Registry,
    /// Others, which count nothing.
    Other,
}

fn class(kind: Kind) -> Class {
    match kind {
        Kind::Service | Kind::EndpointSlice | Kind::Pod | Kind::Node | Kind::Namespace => Class::Registry,
        Kind::Secret | Kind::ConfigMap | Kind::ServiceAccount => Class::Other,
        _ => Class::Configuration,
    }
}

/// Kinds as istiod's label `type` names them.
fn type_label(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "Services",
        Kind::Pod => "Pods",
        Kind::Node => "Nodes",
        Kind::Namespace => "Namespaces",
        other => other.name(),
    }
}
