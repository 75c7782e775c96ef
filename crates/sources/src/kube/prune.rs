//! Takes from objects what nobody reads, before they are compared, decoded and kept.
//!
//! What is left decides whether an object has changed: a Node's heartbeat, a controller's status or a leader's
//! annotation is no change then, and causes no work downstream.

use lateen_lower::Kind;
use lateen_lower::gateway_api::OVERLAYS;
use lateen_names::ObjectKey;
use serde_json::{Map, Value};

/// What is left of all metadata, where it is there. No `resourceVersion`: it changes with every heartbeat.
const METADATA: &[&str] = &[
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
    "generation",
    "uid",
];
/// What is left besides of Pods': whether it is going, and what owns it.
const POD_METADATA: &[&str] = &["deletionTimestamp", "generateName", "ownerReferences"];
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const POD_SPEC: &[&str] = &[
    "containers",
    "initContainers",
    "nodeName",
    "serviceAccountName",
    "hostname",
    "subdomain",
];
const POD_STATUS: &[&str] = &["phase", "podIP", "podIPs", "conditions"];
/// Where key material stands in Secrets and ConfigMaps.
const KEY_MATERIAL: &[&str] = &[
    "cert",
    "key",
    "cacert",
    "crl",
    "tls.crt",
    "tls.key",
    "tls.ocsp-staple",
    "ca.crt",
    "ca.crl",
];
/// Where credentials for registries of images stand.
const PULL_SECRET: &[&str] = &[".dockerconfigjson"];

/// Prunes objects.
#[derive(Debug, Clone)]
pub(super) struct Pruner {
    /// The ConfigMaps with settings of the mesh and of injection, which are left whole.
    pub settings: Vec<ObjectKey>,
}

impl Pruner {
    /// Leaves of an object what somebody may read; false where that is nothing at all.
    pub(super) fn prune(&self, kind: Kind, key: &ObjectKey, value: &mut Value) -> bool {
        let Some(object) = value.as_object_mut() else {
            return false;
        };
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            let pod = kind == Kind::Pod;
            metadata
                .retain(|field, _| METADATA.contains(&field.as_str()) || pod && POD_METADATA.contains(&field.as_str()));
            annotations(kind, metadata);
        }
        match kind {
            Kind::Pod => pod(object),
            Kind::Node => {
                object.remove("spec");
                retain(object.get_mut("status"), &["addresses", "nodeInfo"]);
            }
            Kind::Namespace => {
                object.remove("spec");
                object.remove("status");
            }
            Kind::EndpointSlice => {
                for endpoint in items(object.get_mut("endpoints")) {
                    endpoint.remove("hints");
                    endpoint.remove("deprecatedTopology");
                    retain(endpoint.get_mut("targetRef"), &["kind", "namespace", "name"]);
                }
            }
            Kind::Secret => return data(object, &[KEY_MATERIAL, PULL_SECRET]),
            Kind::ConfigMap => {
                object.remove("binaryData");
                return self.settings.contains(key) || data(object, &[KEY_MATERIAL, OVERLAYS]);
            }
            // Their status says something about the world; that of all others is what a controller thinks of them.
            Kind::Service | Kind::ServiceEntry | Kind::WorkloadEntry => {}
            _ => {
                object.remove("status");
            }
        }
        true
    }
}

/// Users' configuration keeps its annotations; of core objects only the mesh's own mean anything here.
fn annotations(kind: Kind, metadata: &mut Map<String, Value>) {
    let core = matches!(
        kind,
        Kind::Namespace | Kind::Node | Kind::Service | Kind::EndpointSlice | Kind::Pod | Kind::Secret | Kind::ConfigMap
    );
    if let Some(all) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        all.retain(|name, _| {
            let domain = name.split_once('/').map_or("", |(domain, _)| domain);
            let ours = || domain.ends_with("istio.io") || domain.ends_with("lateen.dev");
            // From OpenShift's annotations of a namespace, the injector takes users and groups that pods may be.
            let users = || kind == Kind::Namespace && name.starts_with("openshift.io/sa.scc.");
            name != LAST_APPLIED && (!core || ours() || users())
        });
    }
    if kind == Kind::EndpointSlice {
        metadata.remove("annotations");
    }
}

fn pod(object: &mut Map<String, Value>) {
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.retain(|field, _| POD_SPEC.contains(&field.as_str()));
        for list in ["containers", "initContainers"] {
            for container in items(spec.get_mut(list)) {
                container.retain(|field, _| ["name", "ports", "restartPolicy"].contains(&field.as_str()));
            }
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.retain(|field, _| POD_STATUS.contains(&field.as_str()));
        if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
            conditions.retain(|condition| condition.get("type").is_some_and(|kind| kind == "Ready"));
            for condition in conditions.iter_mut() {
                retain(Some(condition), &["type", "status"]);
            }
        }
    }
}

/// Leaves the entries with these names; false where there are none.
fn data(object: &mut Map<String, Value>, names: &[&[&str]]) -> bool {
    retain(object.get_mut("data"), &names.concat());
    object
        .get("data")
        .and_then(Value::as_object)
        .is_some_and(|data| !data.is_empty())
}

fn retain(value: Option<&mut Value>, fields: &[&str]) {
    if let Some(object) = value.and_then(Value::as_object_mut) {
        object.retain(|field, _| fields.contains(&field.as_str()));
    }
}

fn items(value: Option<&mut Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    value
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(namespace: &str, name: &str) -> ObjectKey {
        ObjectKey {
            namespace: Some(namespace.parse().unwrap()),
            name: name.parse().unwrap(),
        }
    }

    fn prune(kind: Kind, name: &str, mut value: Value) -> Option<Value> {
        let pruner = Pruner {
            settings: vec![key("istio-system", "istio")],
        };
        pruner
            .prune(kind, &key("istio-system", name), &mut value)
            .then_some(value)
    }

    #[test]
    fn what_changes_by_itself_is_gone() {
        let node = |version: &str, heartbeat: &str| {
            json!({
                "metadata": {"name": "n", "resourceVersion": version, "managedFields": [heartbeat],
                    "annotations": {"volumes.kubernetes.io/x": heartbeat}},
                "status": {"addresses": [{"type": "ExternalIP", "address": "1.2.3.4"}],
                    "nodeInfo": {"kubeletVersion": "v1.34.4"},
                    "conditions": [{"type": "Ready", "lastHeartbeatTime": heartbeat}]},
            })
        };
        let (one, two) = (
            prune(Kind::Node, "n", node("1", "a")),
            prune(Kind::Node, "n", node("2", "b")),
        );
        assert_eq!(one, two);
        let status = &one.unwrap()["status"];
        assert_eq!(status["addresses"][0]["address"], "1.2.3.4");
        assert_eq!(status["nodeInfo"]["kubeletVersion"], "v1.34.4");

        let rule = |status: &str| json!({"metadata": {"name": "r"}, "spec": {"host": "a"}, "status": {"x": status}});
        let of = |status: &str| prune(Kind::DestinationRule, "r", rule(status));
        assert_eq!(of("a"), of("b"));
    }

    #[test]
    fn a_pod_keeps_addresses_ports_and_owner_and_loses_its_environment() {
        let pod = json!({
            "metadata": {"name": "p", "generateName": "p-", "ownerReferences": [{"name": "p", "kind": "ReplicaSet"}],
                "annotations": {"ambient.istio.io/redirection": "enabled", "other": "x"}},
            "spec": {"containers": [{"name": "c", "env": [{"name": "SECRET", "value": "s"}],
                "ports": [{"containerPort": 80}]}], "volumes": []},
            "status": {"podIP": "10.0.0.1", "containerStatuses": [], "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "t"}, {"type": "Initialized"}]},
        });
        assert_eq!(
            prune(Kind::Pod, "p", pod).unwrap(),
            json!({
                "metadata": {"name": "p", "generateName": "p-", "ownerReferences": [{"name": "p", "kind": "ReplicaSet"}],
                    "annotations": {"ambient.istio.io/redirection": "enabled"}},
                "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
                "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
            })
        );
    }

    #[test]
    fn secrets_and_config_maps_without_key_material_are_not_kept() {
        assert!(prune(Kind::Secret, "s", json!({"data": {"password": "x"}})).is_none());
        let secret = prune(
            Kind::Secret,
            "s",
            json!({"data": {"password": "x", "tls.crt": "c", "tls.key": "k"}}),
        );
        assert_eq!(secret.unwrap()["data"], json!({"tls.crt": "c", "tls.key": "k"}));
        assert!(prune(Kind::ConfigMap, "m", json!({"data": {"a": "x"}})).is_none());
        assert!(prune(Kind::ConfigMap, "m", json!({})).is_none());
        let overlay = prune(
            Kind::ConfigMap,
            "m",
            json!({"data": {"a": "x", "deployment": "spec: {}"}}),
        );
        assert_eq!(overlay.unwrap()["data"], json!({"deployment": "spec: {}"}));
        let mesh = prune(Kind::ConfigMap, "istio", json!({"data": {"mesh": "x"}}));
        assert_eq!(mesh.unwrap()["data"]["mesh"], "x");
    }
}
