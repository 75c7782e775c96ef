//! What this process writes to the cluster: wiring of `lateen-controllers`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use lateen_ca::pki::TrustBundle;
use lateen_controllers::progress::{Holdings, Rejection, Replica, Report, Versions, publish};
use lateen_controllers::status::{Findings, Scope, Told, kind_name};
use lateen_controllers::{Election, Elector, Leadership, gateways, root_certificates, status, webhooks};
use lateen_distribute::Distributor;
use lateen_injector::strategic_merge_of;
use lateen_lower::{Kind, gateway_api, yaml};
use lateen_model::deployment::Deployments;
use lateen_model::mesh::is_true;
use lateen_model::status::Statuses;
use lateen_model::{Diagnostic, Snapshot};
use lateen_names::Namespace;
use lateen_runtime::{Drain, Supervisor};
use serde_json::Value;
use tokio::sync::watch;

use crate::config::Config;
use crate::pipeline::{Objects, Pipeline};
use crate::trust::Trust;

/// Changes of progress in quick succession are looked at together.
const PAUSE: Duration = Duration::from_millis(100);
/// A look takes longer the more proxies there are: it is followed by a pause of so many times as long, within limits.
const PAUSES: u32 = 50;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a snapshot holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The snapshot's number.
    pub snapshot: u64,
    /// The highest versions that the cluster's watches had brought by then, by kind.
    pub versions: Versions,
}

impl Seen {
    /// What a snapshot holds when sources have read this far.
    pub(crate) fn new(snapshot: u64, versions: &BTreeMap<Kind, u64>) -> Self {
        let versions = versions
            .iter()
            .map(|(kind, version)| (kind_name(kind.name(), kind.group()), *version));
        Self {
            snapshot,
            versions: versions.collect(),
        }
    }
}

/// What the controllers look at.
pub(crate) struct Inputs {
    /// The cluster.
    pub client: Client,
    /// Whom the mesh trusts.
    pub bundle: watch::Receiver<Arc<TrustBundle>>,
    /// The newest snapshot.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// What users should know of the objects.
    pub objects: watch::Receiver<Arc<Objects>>,
    /// What the newest snapshot holds.
    pub seen: watch::Receiver<Seen>,
    /// How far proxies have come.
    pub distributor: Distributor,
}

impl Inputs {
    /// From the parts of this process.
    pub(crate) fn new(client: Client, trust: &Trust, pipeline: &Pipeline, distributor: &Distributor) -> Self {
        Self {
            client,
            bundle: trust.authority.trust_bundle(),
            snapshots: pipeline.snapshots.clone(),
            objects: pipeline.objects.clone(),
            seen: pipeline.seen.clone(),
            distributor: distributor.clone(),
        }
    }
}

/// The revision in labels of a control plane that names none.
const DEFAULT_REVISION: &str = "default";

/// Starts all controllers. `identity` is the pod's name.
pub(crate) fn start(config: &Config, identity: &str, inputs: Inputs, supervisor: &Supervisor) {
    let namespace = config.namespace.to_string();
    let revision = config.revision.clone().filter(|revision| !revision.is_empty());
    let revision = revision.unwrap_or_else(|| DEFAULT_REVISION.to_owned());
    let Inputs {
        client,
        bundle,
        snapshots,
        objects,
        seen,
        distributor,
    } = inputs;

    let replica = Replica {
        namespace: namespace.clone(),
        name: identity.to_owned(),
        revision: revision.clone(),
    };
    let (report, reports) = watch::channel(Arc::default());
    supervisor.spawn("progress", follow(distributor, seen, report, supervisor.drain()));
    supervisor.spawn("replica", publish(client.clone(), replica, reports, supervisor.drain()));

    // One writes for the whole mesh; webhooks are each revision's own.
    let elect = |name: String| {
        let election = Election::new(namespace.clone(), name.clone(), identity);
        let (elector, leadership) = Elector::new(client.clone(), election);
        supervisor.spawn(format!("election of {name}"), elector.run(supervisor.drain()));
        leadership
    };
    let mesh = elect("lateen-leader".to_owned());
    let own = elect(format!("lateen-leader-{revision}"));

    let (scope, scopes) = watch::channel(Scope {
        revision: revision.clone(),
        ..Scope::default()
    });
    let (namespaces, namespaces_seen) = watch::channel(Arc::default());
    supervisor.spawn("namespaces", select(snapshots, namespaces, scope, supervisor.drain()));
    let (findings, findings_seen) = watch::channel(Arc::default());
    let (statuses, statuses_seen) = watch::channel(Arc::default());
    let (deployments, deployments_seen) = watch::channel(Arc::default());
    let outlets = Outlets {
        findings,
        statuses: is_on("PILOT_ENABLE_GATEWAY_API_STATUS").then_some(statuses),
        deployments,
    };
    supervisor.spawn("findings", hand_on(objects, outlets, supervisor.drain()));

    let documents = [
        ("root certificates", root_certificates::ROOTS),
        ("revocation lists", root_certificates::REVOKED),
    ];
    for (task, document) in documents {
        let (of, roots, seen) = (client.clone(), bundle.clone(), namespaces_seen.clone());
        let work = move || root_certificates::keep(of.clone(), document, seen.clone(), roots.clone());
        spawn(supervisor, task, mesh.clone(), work);
    }
    let (of, from) = (client.clone(), namespace.clone());
    let told = Told {
        findings: findings_seen,
        statuses: statuses_seen,
    };
    let work = move || status::keep(of.clone(), from.clone(), scopes.clone(), told.clone());
    spawn(supervisor, "status", mesh, work);
    if is_on("PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER") {
        let settings = gateways::Settings {
            revision: revision.clone(),
            overlay,
            classes: is_on("PILOT_ENABLE_GATEWAY_API_GATEWAYCLASS_CONTROLLER"),
        };
        let of = client.clone();
        let work = move || gateways::keep(of.clone(), settings.clone(), deployments_seen.clone());
        spawn(supervisor, "gateways", own.clone(), work);
    }
    let work = move || webhooks::keep(client.clone(), namespace.clone(), revision.clone(), bundle.clone());
    spawn(supervisor, "webhook configurations", own, work);
}

fn spawn<F>(supervisor: &Supervisor, name: &str, leadership: Leadership, work: impl FnMut() -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let drain = supervisor.drain();
    supervisor.spawn(name, async move { leadership.lead(drain, work).await });
}

/// Makes the report of this replica from what snapshots hold and how far proxies have come.
async fn follow(
    distributor: Distributor,
    mut seen: watch::Receiver<Seen>,
    report: watch::Sender<Arc<Report>>,
    drain: Drain,
) {
    let mut holdings = Holdings::default();
    seen.mark_changed();
    loop {
        tokio::select! {
            Ok(()) = seen.changed() => {
                let Seen { snapshot, versions } = seen.borrow_and_update().clone();
                if snapshot > 0 {
                    holdings.record(snapshot, versions);
                }
            }
            () = distributor.moved() => {}
            () = drain.started() => return,
        }
        let begun = Instant::now();
        let progress = distributor.progress();
        let spent = begun.elapsed();
        holdings.forget_before(progress.settled);
        let rejections = progress.rejections.iter().flat_map(|rejection| {
            rejection.objects.iter().map(|object| Rejection {
                object: object.clone(),
                resource: rejection.name.to_string(),
                proxy: rejection.proxy.to_string(),
                reason: rejection.reason.to_string(),
            })
        });
        let rejections: BTreeSet<Rejection> = rejections.collect();
        let now = Report {
            proxies: progress.proxies,
            held: holdings.at(progress.settled),
            // What is not compiled yet is in no snapshot that a proxy could reject.
            seen: holdings.at(progress.newest),
            behind: progress.behind,
            behind_proxy: progress.behind_proxy.map(|proxy| proxy.to_string()),
            rejections: rejections.into_iter().collect(),
        };
        report.send_if_modified(|known| {
            let differs = **known != now;
            if differs {
                *known = Arc::new(now);
            }
            differs
        });
        tokio::select! {
            () = tokio::time::sleep(PAUSE.max((spent * PAUSES).min(LONGEST_PAUSE))) => {}
            () = drain.started() => return,
        }
    }
}

/// The namespaces that the mesh's discovery selectors select.
async fn select(
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    namespaces: watch::Sender<Arc<BTreeSet<Namespace>>>,
    scope: watch::Sender<Scope>,
    drain: Drain,
) {
    snapshots.mark_changed();
    loop {
        tokio::select! {
            Ok(()) = snapshots.changed() => {}
            () = drain.started() => return,
        }
        let Some(snapshot) = snapshots.borrow_and_update().clone() else {
            continue;
        };
        let selectors = &snapshot.mesh.discovery_selectors;
        let selected = snapshot
            .namespaces
            .iter()
            .filter(|(_, labels)| selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels)));
        let selected: BTreeSet<Namespace> = selected.map(|(namespace, _)| namespace.clone()).collect();
        if **namespaces.borrow() != selected {
            let selected = Arc::new(selected);
            namespaces.send_replace(Arc::clone(&selected));
            scope.send_modify(|scope| scope.namespaces = selected);
        }
        let controllers = gateway_api::controllers(&snapshot.mesh);
        if *scope.borrow().controllers != controllers {
            scope.send_modify(|scope| scope.controllers = Arc::new(controllers));
        }
    }
}

/// One of istiod's own switches; all of these are on unless they are turned off.
fn is_on(name: &str) -> bool {
    std::env::var(name).map_or(true, |value| is_true(&value))
}

/// A user's patch, in YAML, over an object that is made for a Gateway.
fn overlay(kind: &str, object: &Value, patch: &str) -> Result<Value, String> {
    let patch = yaml::parse(patch).map_err(|error| error.to_string())?;
    Ok(strategic_merge_of(kind, object, &patch))
}

/// Where what is known of objects goes.
struct Outlets {
    /// Findings by the objects that they are about.
    findings: watch::Sender<Arc<Findings>>,
    /// Unless nothing is to be told of objects of the Gateway API.
    statuses: Option<watch::Sender<Arc<Statuses>>>,
    deployments: watch::Sender<Arc<Deployments>>,
}

/// Hands on what is new of what is known of objects.
async fn hand_on(mut objects: watch::Receiver<Arc<Objects>>, outlets: Outlets, drain: Drain) {
    objects.mark_changed();
    let mut sorted_last: Option<Arc<[Diagnostic]>> = None;
    loop {
        tokio::select! {
            Ok(()) = objects.changed() => {}
            () = drain.started() => return,
        }
        let objects = Arc::clone(&objects.borrow_and_update());
        if let Some(statuses) = &outlets.statuses {
            replace(statuses, &objects.statuses);
        }
        replace(&outlets.deployments, &objects.deployments);
        if sorted_last
            .as_ref()
            .is_some_and(|last| Arc::ptr_eq(last, &objects.findings))
        {
            continue;
        }
        sorted_last = Some(Arc::clone(&objects.findings));
        let mut sorted: Findings = BTreeMap::new();
        for finding in &*objects.findings {
            sorted.entry(finding.object.clone()).or_default().push(finding.clone());
        }
        for findings in sorted.values_mut() {
            findings.sort();
            findings.dedup();
        }
        outlets.findings.send_if_modified(|known| {
            let differs = **known != sorted;
            if differs {
                *known = Arc::new(sorted);
            }
            differs
        });
    }
}

fn replace<T>(outlet: &watch::Sender<Arc<T>>, new: &Arc<T>) {
    outlet.send_if_modified(|known| {
        let differs = !Arc::ptr_eq(known, new);
        if differs {
            known.clone_from(new);
        }
        differs
    });
}
