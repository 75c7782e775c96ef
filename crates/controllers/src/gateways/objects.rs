//! The objects that a Gateway's proxies are made of, before users' overlays.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_model::deployment::GatewayDeployment;
use lateen_names::ObjectKey;
use serde_json::{Map, Value, json};

use super::resource;

/// Label of everything that is made: the controller that made it.
pub(super) const MANAGED: &str = "gateway.istio.io/managed";
/// Label of everything that is made: the Gateway's name. The Service and the Deployment select pods by it.
pub(super) const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";
const CLASS: &str = "gateway.networking.k8s.io/gateway-class-name";
/// What Istio selected pods by before 1.24: a selector cannot be changed.
pub(super) const OLD_GATEWAY: &str = "istio.io/gateway-name";
/// The revision of a control plane that names none.
const DEFAULT_REVISION: &str = "default";

/// One of the kinds of objects that are made for a Gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    ServiceAccount,
    Deployment,
    Service,
    HorizontalPodAutoscaler,
    PodDisruptionBudget,
}

impl Part {
    /// All of them, in the order in which they are made.
    pub(super) const ALL: [Self; 5] = [
        Self::ServiceAccount,
        Self::Deployment,
        Self::Service,
        Self::HorizontalPodAutoscaler,
        Self::PodDisruptionBudget,
    ];

    /// Group, version, kind, plural.
    pub(super) fn place(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::HorizontalPodAutoscaler => (
                "autoscaling",
                "v2",
                "HorizontalPodAutoscaler",
                "horizontalpodautoscalers",
            ),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
        }
    }

    /// The entry of a ConfigMap whose patch is laid over it.
    pub(super) fn overlay(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceAccount",
            Self::Deployment => "deployment",
            Self::Service => "service",
            Self::HorizontalPodAutoscaler => "horizontalPodAutoscaler",
            Self::PodDisruptionBudget => "podDisruptionBudget",
        }
    }

    /// Whether it is made only where an overlay says more of it: by itself it would say nothing.
    pub(super) fn is_optional(self) -> bool {
        matches!(self, Self::HorizontalPodAutoscaler | Self::PodDisruptionBudget)
    }

    /// The object's name.
    pub(super) fn name(self, plan: &GatewayDeployment) -> &Arc<str> {
        match self {
            Self::ServiceAccount => &plan.account,
            _ => &plan.name,
        }
    }

    /// The object for a Gateway, to be injected by a control plane of this revision.
    pub(super) fn object(self, key: &ObjectKey, plan: &GatewayDeployment, revision: &str) -> Value {
        let resource = resource(self.place());
        let mut object = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {
                "name": &**self.name(plan),
                "namespace": key.namespace.as_ref().map(|namespace| namespace.as_str()),
                "labels": labels(key, plan),
                "annotations": texts(&plan.annotations),
                "ownerReferences": [{
                    "apiVersion": "gateway.networking.k8s.io/v1",
                    "kind": "Gateway",
                    "name": key.name.as_str(),
                    "uid": &*plan.uid,
                }],
            },
        });
        let spec = match self {
            Self::ServiceAccount => return object,
            Self::Deployment => deployment(key, plan, revision),
            Self::Service => service(key, plan),
            Self::HorizontalPodAutoscaler => json!({
                "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": &*plan.name },
                "maxReplicas": 1,
            }),
            Self::PodDisruptionBudget => json!({ "selector": { "matchLabels": selector(key) } }),
        };
        object["spec"] = spec;
        object
    }
}

/// The value of [`MANAGED`].
fn managed_by(plan: &GatewayDeployment) -> String {
    plan.controller.replace('/', "-")
}

fn texts(map: &BTreeMap<Arc<str>, Arc<str>>) -> Map<String, Value> {
    map.iter()
        .map(|(name, value)| (name.to_string(), (**value).into()))
        .collect()
}

fn labels(key: &ObjectKey, plan: &GatewayDeployment) -> Map<String, Value> {
    let mut labels = texts(&plan.labels);
    labels.insert(GATEWAY.to_owned(), key.name.as_str().into());
    labels.insert(CLASS.to_owned(), (*plan.class).into());
    labels.insert(MANAGED.to_owned(), managed_by(plan).into());
    labels
}

fn selector(key: &ObjectKey) -> Value {
    json!({ GATEWAY: key.name.as_str() })
}

/// A pod without a container of its own making, which the webhook fills in, as the chart `gateway` has it.
fn deployment(key: &ObjectKey, plan: &GatewayDeployment, revision: &str) -> Value {
    let mut pod_labels = Map::from_iter([
        ("service.istio.io/canonical-name".to_owned(), (*plan.name).into()),
        ("service.istio.io/canonical-revision".to_owned(), "latest".into()),
    ]);
    pod_labels.extend(labels(key, plan));
    pod_labels.insert("sidecar.istio.io/inject".to_owned(), "true".into());
    if revision != DEFAULT_REVISION {
        pod_labels.insert("istio.io/rev".to_owned(), revision.into());
    }
    let mut annotations = texts(&plan.annotations);
    for (name, value) in [
        ("inject.istio.io/templates", "gateway"),
        ("prometheus.io/path", "/stats/prometheus"),
        ("prometheus.io/port", "15020"),
        ("prometheus.io/scrape", "true"),
    ] {
        annotations.insert(name.to_owned(), value.into());
    }
    let network = plan.labels.get("topology.istio.io/network");
    let env: Vec<Value> = network
        .map(|network| json!({ "name": "ISTIO_META_REQUESTED_NETWORK_VIEW", "value": &**network }))
        .into_iter()
        .collect();
    json!({
        "selector": { "matchLabels": selector(key) },
        "template": {
            "metadata": { "labels": pod_labels, "annotations": annotations },
            "spec": {
                "serviceAccountName": &*plan.account,
                "terminationGracePeriodSeconds": 30,
                "securityContext": {
                    "runAsNonRoot": true,
                    "seccompProfile": { "type": "RuntimeDefault" },
                    // Ports below 1024 without a capability.
                    "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" }],
                },
                "containers": [{
                    "name": "istio-proxy",
                    "image": "auto",
                    "ports": [{ "name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP" }],
                    "env": env,
                    "resources": {
                        "requests": { "cpu": "100m", "memory": "128Mi" },
                        "limits": { "cpu": "2", "memory": "1Gi" },
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "privileged": false,
                        "readOnlyRootFilesystem": true,
                        "runAsNonRoot": true,
                        "capabilities": { "drop": ["ALL"] },
                    },
                }],
            },
        },
    })
}

fn service(key: &ObjectKey, plan: &GatewayDeployment) -> Value {
    let port = |name: &str, number: u16, protocol: &str| json!({ "name": name, "port": number, "protocol": "TCP", "appProtocol": protocol });
    let status = std::iter::once(port("status-port", 15021, "tcp"));
    let listeners = plan.ports.iter().map(|of| port(&of.name, of.number, &of.protocol));
    let mut service = json!({
        "type": &*plan.service_type,
        "ipFamilyPolicy": "PreferDualStack",
        "selector": selector(key),
        "ports": status.chain(listeners).collect::<Vec<_>>(),
    });
    if let Some(address) = &plan.load_balancer_ip {
        service["loadBalancerIP"] = (**address).into();
    }
    service
}
