//! Reports on Leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use lateen_runtime::Drain;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Report;
use crate::MANAGER;
use crate::watched::Watched;

/// The label of these Leases.
const LABEL: &str = "lateen.dev/replica";
/// The annotation with the report.
const ANNOTATION: &str = "lateen.dev/progress";
/// How long a replica counts that tells nothing.
const DURATION: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(5);
/// Changes in quick succession are told together.
const PAUSE: Duration = Duration::from_millis(250);
/// An annotation has room for 256 KiB; a report is kept far below.
const MAX_REJECTIONS: usize = 64;
const MAX_TEXT: usize = 512;

/// Who reports.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Lateen's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The revision.
    pub revision: String,
}

/// What is kept of a replica's Lease.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    report: Option<Report>,
    renewed: Option<MicroTime>,
}

// === impl Replica ===

impl Replica {
    fn lease(&self) -> String {
        format!("lateen-replica-{}", self.name)
    }
}

/// Tells every change of the report until the drain begins, then takes the report back: its proxies go to others.
pub async fn publish(client: Client, replica: Replica, mut reports: watch::Receiver<Arc<Report>>, drain: Drain) {
    let leases: Api<Lease> = Api::namespaced(client, &replica.namespace);
    let name = replica.lease();
    loop {
        let report = Arc::clone(&reports.borrow_and_update());
        if let Err(error) = tell(&leases, &replica, &report).await {
            tracing::warn!(%error, lease = name, "cannot tell how far the proxies have come");
        }
        let changed = async {
            tokio::time::sleep(PAUSE).await;
            if reports.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(RENEW) => {}
            () = drain.started() => break,
        }
    }
    match tokio::time::timeout(RENEW, leases.delete(&name, &DeleteParams::default())).await {
        Ok(Ok(_)) | Err(_) => {}
        Ok(Err(error)) => tracing::warn!(%error, lease = name, "cannot delete the lease"),
    }
}

async fn tell(leases: &Api<Lease>, replica: &Replica, report: &Report) -> Result<(), kube::Error> {
    let mut report = report.clone();
    report.rejections.truncate(MAX_REJECTIONS);
    for rejection in &mut report.rejections {
        rejection.reason = rejection.reason.chars().take(MAX_TEXT).collect();
    }
    let report = serde_json::to_string(&report).map_err(kube::Error::SerdeError)?;
    let name = replica.lease();
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "labels": { LABEL: "true", "istio.io/rev": replica.revision },
            "annotations": { ANNOTATION: report },
        },
        "spec": {
            "holderIdentity": replica.name,
            "leaseDurationSeconds": DURATION.as_secs(),
            "renewTime": MicroTime(Timestamp::now()),
        },
    });
    // The Lease is this replica's alone, so it is simply set, made where it is not there.
    let params = PatchParams::apply(MANAGER).force();
    leases.patch(&name, &params, &Patch::Apply(&lease)).await.map(drop)
}

/// Follows the reports of all replicas that are alive and hands every change on; runs until it is dropped.
pub async fn observe(client: Client, namespace: String, reports: watch::Sender<Arc<BTreeMap<String, Report>>>) {
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    let selection = Config::default().labels(&format!("{LABEL}=true"));
    let mut watched = Watched::new(leases.clone(), selection, "leases of replicas", read);
    let mut heard: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let next_end = heard.values().min().map(|heard| *heard + DURATION);
        let ends = async {
            match next_end {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = watched.changed() => {
                for name in changed {
                    if watched.facts().contains_key(&name) {
                        heard.insert(name, Instant::now());
                    } else {
                        heard.remove(&name);
                    }
                }
            }
            () = ends => {
                let over = heard.extract_if(.., |_, heard| heard.elapsed() >= DURATION).map(|(name, _)| name);
                for name in over.collect::<Vec<_>>() {
                    tracing::warn!(lease = name, "a replica tells nothing any more and does not count");
                    if let Err(error) = leases.delete(&name, &DeleteParams::default()).await {
                        tracing::debug!(%error, lease = name, "cannot delete the lease of a lost replica");
                    }
                }
            }
        }
        if !watched.is_synced() {
            continue;
        }
        let alive = watched.facts().iter().filter(|(name, _)| heard.contains_key(*name));
        let alive: BTreeMap<String, Report> = alive
            .map(|(name, told)| (name.clone(), told.report.clone().unwrap_or_default()))
            .collect();
        reports.send_if_modified(|known| {
            let differs = **known != alive;
            if differs {
                *known = Arc::new(alive);
            }
            differs
        });
    }
}

fn read(lease: &Lease) -> Option<(String, Told)> {
    let annotations = lease.metadata.annotations.as_ref();
    let report = annotations.and_then(|annotations| annotations.get(ANNOTATION));
    let told = Told {
        report: report.and_then(|report| serde_json::from_str(report).ok()),
        renewed: lease.spec.as_ref().and_then(|spec| spec.renew_time.clone()),
    };
    Some((lease.metadata.name.clone()?, told))
}
