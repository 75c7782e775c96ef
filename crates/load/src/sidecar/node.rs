//! What a sidecar says of itself.

use anyhow::{Context as _, Result};
use lateen_proto::envoy::config::core::v3::Node;
use serde_json::json;

use crate::mesh::{ACCOUNT, Instance, service_name};

/// What the agent of an instance would say.
///
/// # Errors
/// When the message cannot be built, which is a mistake in this program.
pub(crate) fn node(instance: &Instance<'_>) -> Result<Node> {
    let (name, namespace, address) = (instance.name(), instance.namespace(), instance.address());
    let workload = service_name(instance.service());
    let mut node = json!({
        "id": format!("sidecar~{address}~{name}.{namespace}~{namespace}.svc.cluster.local"),
        "cluster": format!("{workload}.{namespace}"),
        "userAgentName": "envoy",
        "metadata": {
            "NAME": name, "NAMESPACE": namespace, "SERVICE_ACCOUNT": ACCOUNT, "WORKLOAD_NAME": workload,
            "CLUSTER_ID": "Kubernetes", "MESH_ID": "cluster.local", "ISTIO_VERSION": "1.32.0",
            "INTERCEPTION_MODE": "REDIRECT", "INSTANCE_IPS": address, "NODE_NAME": instance.node(),
            "LABELS": instance.labels(),
        },
    });
    if let Some((region, zone)) = instance.locality() {
        node["locality"] = json!({"region": region, "zone": zone});
    }
    lateen_proto::from_json(&node).context("a sidecar's node")
}
