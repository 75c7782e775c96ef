//! Pods that were started while the plugin was not there: the container that tries out interception fails with an exit
//! code of its own, again and again, until somebody helps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::agent::Worker;
use super::kube::{self, Watch};
use super::pod::{Interception, Pod};
use super::{RepairArgs, namespace};
use crate::grpc;

/// Attempts remembered, so that each failure is answered once.
const MAXIMUM_REMEMBERED: usize = 4096;

/// Looks at pods as long as the process runs.
pub(super) async fn run(worker: Arc<Worker>, args: RepairArgs) -> anyhow::Result<()> {
    let mut fields = vec![args.field_selectors.clone()];
    if !args.node_name.is_empty() {
        fields.push(format!("spec.nodeName={}", args.node_name));
    }
    let selection = kube::selection(&fields, &args.label_selectors);
    let mut repair = Repair {
        worker,
        args,
        done: BTreeMap::new(),
    };
    let mut pauses = grpc::pauses();
    loop {
        match repair.follow(&selection).await {
            Ok(()) => pauses = grpc::pauses(),
            Err(error) => {
                let pause = pauses.next().unwrap_or(Duration::from_secs(10));
                tracing::warn!(error = format!("{error:#}"), ?pause, "pods are not watched");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

struct Repair {
    worker: Arc<Worker>,
    args: RepairArgs,
    /// Pods by UID, with the number of restarts at which they were helped.
    done: BTreeMap<String, u64>,
}

impl Repair {
    /// All pods, and then their changes until the server ends the watch.
    async fn follow(&mut self, selection: &str) -> anyhow::Result<()> {
        let list = self.worker.kube.pods(selection).await?;
        let mut watch: Watch = self.worker.kube.watch(selection, list.version()).await?;
        for pod in list.items {
            self.consider(&pod).await;
        }
        while let Some(pod) = watch.next().await? {
            self.consider(&pod).await;
        }
        Ok(())
    }

    async fn consider(&mut self, pod: &Pod) {
        let Some(restarts) = broken(pod, &self.args) else {
            return;
        };
        let uid = &pod.metadata.uid;
        if self.done.get(uid).is_some_and(|done| *done >= restarts) {
            return;
        }
        let (kind, result) = if self.args.repair_pods {
            ("repair", self.set_up(pod).await)
        } else if self.args.delete_pods {
            ("delete", self.worker.kube.delete(pod).await)
        } else if self.args.label_pods {
            let (key, value) = (&self.args.label_key, &self.args.label_value);
            if pod.metadata.labels.get(key) == Some(value) {
                return;
            }
            ("label", self.worker.kube.label(pod, key, value).await)
        } else {
            return;
        };
        let (name, in_namespace) = (&pod.metadata.name, &pod.metadata.namespace);
        let outcome = match &result {
            Ok(()) => {
                tracing::info!(
                    kind,
                    pod = name,
                    namespace = in_namespace,
                    "pod without interception helped"
                );
                "success"
            }
            Err(error) => {
                tracing::warn!(
                    kind,
                    pod = name,
                    namespace = in_namespace,
                    error = format!("{error:#}"),
                    "pod not helped"
                );
                "failure"
            }
        };
        self.worker.metrics.repairs.with_label_values(&[kind, outcome]).inc();
        if result.is_ok() {
            if self.done.len() >= MAXIMUM_REMEMBERED {
                self.done.clear();
            }
            self.done.insert(uid.clone(), restarts);
        }
    }

    /// Makes up for what the plugin would have done; the container's next attempt succeeds.
    async fn set_up(&self, pod: &Pod) -> anyhow::Result<()> {
        if let Interception::None(reason) = pod.interception() {
            anyhow::bail!("nothing to set up: {reason}");
        }
        let network = namespace::of_pod(&self.worker.host_proc, &pod.metadata.uid)?;
        self.worker.set_up(pod, &network.into()).await
    }
}

/// Whether the pod's interception was found missing, and how often its container was restarted by then.
fn broken(pod: &Pod, args: &RepairArgs) -> Option<u64> {
    if !pod.metadata.annotations.contains_key(&args.sidecar_annotation) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let statuses = pod.status.init_container_statuses.iter();
    let status = statuses.into_iter().find(|status| status.name == args.container)?;
    let ended = status
        .state
        .terminated
        .as_ref()
        .or(status.last_state.terminated.as_ref())?;
    let told = args.termination_message.is_empty() || ended.message.trim() == args.termination_message;
    (ended.exit_code == args.exit_code && told).then_some(status.restart_count)
}
