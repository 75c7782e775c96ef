//! Facts about Pods and Nodes.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Node, Pod};
use lateen_model::Labels;
use lateen_names::{Locality, Namespace, ObjectKey};

use crate::context::labels;

/// What matters of a Pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PodFacts {
    pub key: ObjectKey,
    pub namespace: Namespace,
    pub labels: Labels,
    /// All addresses, first the primary one.
    pub ips: Vec<IpAddr>,
    pub node: Option<Arc<str>>,
    pub account: Arc<str>,
    pub ports: Vec<ContainerPort>,
    /// Not finished, and with an address. One that is to be deleted is still asked by all who have not learnt of it.
    pub live: bool,
    /// Live and to stay, and its condition `Ready` holds.
    pub ready: bool,
    pub workload: Arc<str>,
    /// DNS names of StatefulSets: set where the Pod has a sub-domain.
    pub hostname: Option<Arc<str>>,
    pub subdomain: Option<Arc<str>>,
    pub hbone: bool,
}

/// A port that a container declares.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ContainerPort {
    pub name: Arc<str>,
    pub number: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub transport: Arc<str>,
}

/// What owns a Pod, as Istio names workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub name: String,
    pub kind: String,
    pub api_version: String,
}

impl PodFacts {
    pub(crate) fn new(pod: &Pod, key: &ObjectKey) -> Option<Self> {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let meta = &pod.metadata;
        let mut ips: Vec<IpAddr> = Vec::new();
        let texts = status.into_iter().flat_map(|status| {
            let more = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
            status.pod_ip.as_deref().into_iter().chain(more)
        });
        for ip in texts.filter_map(|text| text.parse().ok()) {
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        let terminal = status
            .and_then(|status| status.phase.as_deref())
            .is_some_and(|phase| phase == "Failed" || phase == "Succeeded");
        let live = !terminal && !ips.is_empty();
        let conditions = status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        let stays = live && meta.deletion_timestamp.is_none();
        let ready = stays && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        let text = |value: Option<&String>| {
            value
                .filter(|text| !text.is_empty())
                .map(|text| Arc::from(text.as_str()))
        };
        let subdomain: Option<Arc<str>> = text(spec.and_then(|spec| spec.subdomain.as_ref()));
        let hostname = subdomain.is_some().then(|| {
            text(spec.and_then(|spec| spec.hostname.as_ref())).unwrap_or_else(|| Arc::from(key.name.as_str()))
        });
        let pod_labels = labels(meta.labels.as_ref());
        let annotation = |name: &str| {
            meta.annotations
                .as_ref()
                .and_then(|all| all.get(name))
                .map(String::as_str)
        };
        Some(Self {
            namespace: key.namespace.clone()?,
            ips,
            node: text(spec.and_then(|spec| spec.node_name.as_ref())),
            account: text(spec.and_then(|spec| spec.service_account_name.as_ref())).unwrap_or_else(|| "default".into()),
            ports: containers(pod).flat_map(ports).collect(),
            live,
            ready,
            workload: workload_name(pod).into(),
            hostname,
            subdomain,
            hbone: pod_labels
                .get("networking.istio.io/tunnel")
                .is_some_and(|value| &**value == "http")
                || annotation("ambient.istio.io/redirection") == Some("enabled"),
            labels: pod_labels,
            key: key.clone(),
        })
    }

    /// The number of the port that a container declares by that name.
    pub(crate) fn port_named(&self, name: &str, transport: &str) -> Option<u16> {
        self.ports
            .iter()
            .find(|port| &*port.name == name && &*port.transport == transport)
            .map(|port| port.number)
    }
}

/// The Pod's containers, and its native sidecars (init containers that are restarted always).
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let native = spec
        .and_then(|spec| spec.init_containers.as_ref())
        .into_iter()
        .flatten();
    let native = native.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.into_iter().flat_map(|spec| &spec.containers).chain(native)
}

fn ports(container: &Container) -> impl Iterator<Item = ContainerPort> {
    container.ports.iter().flatten().filter_map(|port| {
        Some(ContainerPort {
            name: port.name.as_deref().unwrap_or_default().into(),
            number: u16::try_from(port.container_port).ok()?,
            transport: port.protocol.as_deref().unwrap_or("TCP").into(),
        })
    })
}

/// The name of the workload: by label, else of what owns the Pod.
fn workload_name(pod: &Pod) -> String {
    let label = pod
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get("service.istio.io/workload-name"));
    label.cloned().unwrap_or_else(|| owner(pod).name)
}

/// What owns the Pod, guessed from its owner reference: the Deployment behind a ReplicaSet, the CronJob behind a Job,
/// the Rollout, the DeploymentConfig. A Pod whose name was not generated owns itself.
pub(crate) fn owner(pod: &Pod) -> Owner {
    let meta = &pod.metadata;
    let itself = || Owner {
        name: meta.name.clone().unwrap_or_default(),
        kind: "Pod".to_owned(),
        api_version: "v1".to_owned(),
    };
    if meta.generate_name.as_deref().unwrap_or_default().is_empty() {
        return itself();
    }
    let mut references = meta.owner_references.iter().flatten();
    let Some(controller) = references.find(|reference| reference.controller == Some(true)) else {
        return itself();
    };
    let label = |name: &str| {
        meta.labels
            .as_ref()
            .and_then(|all| all.get(name))
            .filter(|value| !value.is_empty())
    };
    let mut owner = Owner {
        name: controller.name.clone(),
        kind: controller.kind.clone(),
        api_version: controller.api_version.clone(),
    };
    let without = |hash: &String| {
        controller
            .name
            .strip_suffix(hash.as_str())
            .map(|name| name.strip_suffix('-').unwrap_or(name))
    };
    match controller.kind.as_str() {
        "ReplicaSet" => {
            if let Some(name) = label("pod-template-hash").and_then(without) {
                owner.name = name.to_owned();
                owner.kind = "Deployment".to_owned();
            } else if let Some(name) = label("rollouts-pod-template-hash").and_then(without) {
                owner.name = name.to_owned();
                owner.kind = "Rollout".to_owned();
                owner.api_version = "v1alpha1".to_owned();
            }
        }
        "ReplicationController" => {
            if let Some(name) = label("deploymentconfig") {
                owner.name = name.clone();
                owner.kind = "DeploymentConfig".to_owned();
            }
        }
        "Job" => {
            // CronJobs name their Jobs `<name>-<8 to 10 digits>`.
            let cron = controller.name.rsplit_once('-').filter(|(name, time)| {
                !name.is_empty() && (8..=10).contains(&time.len()) && time.bytes().all(|b| b.is_ascii_digit())
            });
            if let Some((name, _)) = cron {
                owner.name = name.to_owned();
                owner.kind = "CronJob".to_owned();
                owner.api_version = "batch/v1".to_owned();
            }
        }
        _ => {}
    }
    if owner.name.is_empty() { itself() } else { owner }
}

/// What matters of a Node.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NodeFacts {
    pub locality: Locality,
    pub labels: Labels,
    /// Its first external address, by which NodePort gateways are reached.
    pub external_address: Option<Arc<str>>,
}

impl NodeFacts {
    pub(crate) fn new(node: &Node) -> Self {
        let addresses = node
            .status
            .as_ref()
            .and_then(|status| status.addresses.as_ref())
            .into_iter()
            .flatten();
        let external = addresses
            .filter(|a| a.type_ == "ExternalIP" && !a.address.is_empty())
            .map(|a| &a.address)
            .next();
        Self {
            locality: locality_of_node(node),
            labels: labels(node.metadata.labels.as_ref()),
            external_address: external.map(|address| address.as_str().into()),
        }
    }
}

/// Where a Node is, by its labels; the older names of the labels count where the newer are missing.
pub(crate) fn locality_of_node(node: &Node) -> Locality {
    let label = |names: &[&str]| -> Arc<str> {
        let all = node.metadata.labels.as_ref();
        let value = names
            .iter()
            .find_map(|name| all.and_then(|all| all.get(*name)).filter(|value| !value.is_empty()));
        value.map_or("", String::as_str).into()
    };
    Locality {
        region: label(&[
            "topology.kubernetes.io/region",
            "failure-domain.beta.kubernetes.io/region",
        ]),
        zone: label(&["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]),
        sub_zone: label(&["topology.istio.io/subzone"]),
    }
}

/// The locality that a workload's label `istio-locality` gives it; dots stand for the slashes that labels cannot have.
pub(crate) fn locality_of_label(labels: &Labels) -> Option<Locality> {
    let text = labels.get("istio-locality").filter(|text| !text.is_empty())?;
    Some(if text.contains('/') {
        Locality::parse(text)
    } else {
        Locality::parse(&text.replace('.', "/"))
    })
}
