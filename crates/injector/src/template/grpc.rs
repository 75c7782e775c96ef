//! `grpc-agent` and `grpc-simple`: gRPC applications that are their own proxies.

use lateen_api::mesh::config::InboundTrafficPolicyMode;
use serde_json::{Map, Value, json};

use super::parts::{self, Env, Storage};
use crate::annotations::REWRITE_PROBES;
use crate::context::Context;
use crate::{image, pod};

/// The agent without Envoy: it gets certificates and configuration for the application.
pub(super) fn agent(context: &Context<'_>) -> Value {
    let (labels, mut annotations) = super::metadata(context);
    annotations.insert(REWRITE_PROBES.to_owned(), "false".into());
    let mut storage = Storage::new(context);
    storage.sockets(false);
    storage.agent("istio-xds");
    storage.roots(false);
    storage.users();
    let (volumes, mounts) = storage.into_parts();
    let of_app = mounts.as_array().into_iter().flatten().filter(|mount| {
        ["istio-data", "istio-xds", "workload-certs", "gke-workload-certificate"].contains(&pod::name(mount))
    });
    let of_app: Vec<Value> = of_app.cloned().collect();
    let agent = pod::without_nulls(&json!({
        "name": pod::PROXY,
        "image": image::proxy(context),
        "imagePullPolicy": parts::pull_policy(context),
        "ports": [{ "containerPort": 15020, "protocol": "TCP", "name": "mesh-metrics" }],
        "args": parts::arguments(context, "sidecar"),
        "lifecycle": { "postStart": { "exec": {
            "command": ["pilot-agent", "wait", "--url=http://localhost:15020/healthz/ready"],
        } } },
        "env": environment(context),
        "readinessProbe": parts::readiness(context, 15020),
        "resources": parts::resources(context),
        "volumeMounts": mounts,
    }));
    let variables = json!([
        { "name": "GRPC_XDS_EXPERIMENTAL_SECURITY_SUPPORT", "value": "true" },
        { "name": "GRPC_XDS_BOOTSTRAP", "value": "/etc/istio/proxy/grpc-bootstrap.json" },
    ]);
    let mut containers = vec![agent];
    for name in context.app_containers() {
        containers.push(json!({ "name": name, "env": variables, "volumeMounts": of_app }));
    }
    json!({
        "metadata": { "labels": labels, "annotations": annotations },
        "spec": {
            "containers": containers,
            "volumes": volumes,
            "imagePullSecrets": parts::pull_secrets(context).unwrap_or_else(|| json!([])),
        },
    })
}

fn environment(context: &Context<'_>) -> Value {
    let mut env = Env::default();
    env.value("ISTIO_META_GENERATOR", "grpc");
    env.value("OUTPUT_CERTS", "/var/lib/istio/data");
    let inbound = context.settings.mesh.inbound_traffic_policy.as_ref();
    if inbound.is_some_and(|policy| policy.mode == InboundTrafficPolicyMode::Localhost) {
        env.value("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", "true");
    }
    parts::identity(context, &mut env);
    parts::workload(context, &mut env);
    env.proxy_metadata(context);
    // The application resolves names by xDS itself.
    env.value("ISTIO_META_DNS_CAPTURE", "false");
    env.value("DISABLE_ENVOY", "true");
    env.into_json()
}

/// No agent: an init container writes a bootstrap that names the control plane, without TLS.
pub(super) fn simple(context: &Context<'_>) -> Value {
    const DIRECTORY: &str = "/var/lib/grpc/data/";
    const VOLUME: &str = "grpc-io-proxyless-bootstrap";
    let namespace = context.settings.values.text_or("global.istioNamespace", "istio-system");
    let mut env = Env::default();
    env.field("INSTANCE_IP", "status.podIP");
    env.field("POD_NAME", "metadata.name");
    env.field("POD_NAMESPACE", "metadata.namespace");
    env.value("ISTIO_NAMESPACE", &namespace);
    let bootstrap = json!({
        "xds_servers": [{
            "server_uri": format!("dns:///istiod.{namespace}.svc:15010"),
            "channel_creds": [{ "type": "insecure" }],
            "server_features": ["xds_v3"],
        }],
        "node": {
            "id": "sidecar~${INSTANCE_IP}~${POD_NAME}.${POD_NAMESPACE}~cluster.local",
            "metadata": { "GENERATOR": "grpc" },
        },
    });
    // The shell fills in what only the started pod knows.
    let script = format!("cat > {DIRECTORY}bootstrap.json <<EOF\n{bootstrap}\nEOF\n");
    let mount = json!({ "name": VOLUME, "mountPath": DIRECTORY });
    let containers = pod::list(context.pod, pod::CONTAINERS).iter().map(|container| {
        json!({
            "name": pod::name(container),
            "env": [
                { "name": "GRPC_XDS_BOOTSTRAP", "value": format!("{DIRECTORY}bootstrap.json") },
                { "name": "GRPC_GO_LOG_VERBOSITY_LEVEL", "value": "99" },
                { "name": "GRPC_GO_LOG_SEVERITY_LEVEL", "value": "info" },
            ],
            "volumeMounts": [mount],
        })
    });
    let mut annotations = Map::new();
    annotations.insert(REWRITE_PROBES.to_owned(), "false".into());
    json!({
        "metadata": { "annotations": annotations },
        "spec": {
            "initContainers": [{
                "name": "grpc-bootstrap-init",
                "image": "busybox:1.28",
                "volumeMounts": [mount],
                "env": env.into_json(),
                "command": ["sh", "-c", script],
            }],
            "containers": containers.collect::<Vec<_>>(),
            "volumes": [{ "name": VOLUME, "emptyDir": {} }],
        },
    })
}
