//! The node: its ID, cluster, locality and metadata, with the keys and spellings that control planes of Istio's kind
//! read.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::ISTIO_VERSION;
use crate::config::{AgentConfig, AuthenticationPolicy};

/// The label that overrides the locality of the proxy's node.
const LOCALITY_LABEL: &str = "istio-locality";
/// Metadata that marks this agent's origin.
const LATEEN_VERSION: &str = "LATEEN_VERSION";

/// Metadata by which the control plane has Envoy tell the agent of requests whose cluster is not there.
const LATEEN_ON_DEMAND: &str = "LATEEN_ON_DEMAND";

/// The node of the bootstrap.
pub(super) fn node(config: &AgentConfig) -> Value {
    json!({
        "id": config.node_id(),
        "cluster": service_cluster(config),
        "locality": locality(&config.labels),
        "metadata": metadata(config),
    })
}

/// The name under which this proxy appears in traces and in other proxies' statistics.
pub(super) fn service_cluster(config: &AgentConfig) -> String {
    let label = |key: &str| config.labels.get(key).filter(|value| !value.is_empty()).cloned();
    let workload = config.environment.get("ISTIO_META_WORKLOAD_NAME").map(str::to_owned);
    let namespace = &config.namespace;
    let canonical = || {
        label("service.istio.io/canonical-name")
            .or_else(|| label("app.kubernetes.io/name"))
            .or_else(|| label("app"))
            .or_else(|| workload.clone())
            .unwrap_or_else(|| "istio-proxy".into())
    };
    let wanted = match config.proxy.tracing_service_name.as_deref() {
        Some("CANONICAL_NAME_ONLY") => canonical(),
        Some("CANONICAL_NAME_AND_NAMESPACE") if !namespace.is_empty() => return format!("{}.{namespace}", canonical()),
        Some("CANONICAL_NAME_AND_NAMESPACE") => canonical(),
        Some(_) => String::new(),
        None => config.proxy.service_cluster.clone().unwrap_or_default(),
    };
    if !wanted.is_empty() && wanted != "istio-proxy" {
        return wanted;
    }
    match label("app").or(workload) {
        Some(name) => format!("{name}.{namespace}"),
        None if namespace.is_empty() => "istio-proxy".into(),
        None => format!("istio-proxy.{namespace}"),
    }
}

/// Region, zone and subzone of the locality label, which separates them by slashes, or by dots where there is no slash.
fn locality(labels: &BTreeMap<String, String>) -> Value {
    let text = labels
        .get(LOCALITY_LABEL)
        .map(|label| sanitized(label))
        .unwrap_or_default();
    let parts = ["region", "zone", "sub_zone"]
        .into_iter()
        .zip(text.split('/'))
        .filter(|(_, part)| !part.is_empty());
    Value::Object(parts.map(|(key, part)| (key.to_owned(), json!(part))).collect())
}

fn sanitized(locality: &str) -> String {
    if locality.contains('/') {
        locality.to_owned()
    } else {
        locality.replace('.', "/")
    }
}

fn metadata(config: &AgentConfig) -> Map<String, Value> {
    let mut metadata = raw_metadata(config);
    let mut set = |key: &str, value: Value| metadata.insert(key.to_owned(), value);
    let ips: Vec<String> = config.instance_ips.iter().map(ToString::to_string).collect();
    set("INSTANCE_IPS", json!(ips.join(",")));
    set("ENVOY_STATUS_PORT", json!(config.ports.envoy_status));
    set("ENVOY_PROMETHEUS_PORT", json!(config.ports.envoy_prometheus));
    if config.ports.secure_metrics != 0 {
        set("ENVOY_SECURE_METRICS_PORT", json!(config.ports.secure_metrics));
    }
    if config.ports.secure_merged_metrics != 0 {
        set(
            "ENVOY_SECURE_MERGED_METRICS_PORT",
            json!(config.ports.secure_merged_metrics),
        );
    }
    if config.drain.exit_on_zero_connections {
        set("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", json!("true"));
    }
    if config.proxy.control_plane_auth_policy == AuthenticationPolicy::MutualTls {
        let host = config.proxy.discovery_address.split(':').next().unwrap_or_default();
        let san = config.upstream.san.as_deref().unwrap_or(host);
        set("PILOT_SAN", json!([san]));
    }
    set("PROXY_CONFIG", Value::Object(config.proxy.document.clone()));
    set("WORKLOAD_IDENTITY_SOCKET_FILE", json!(config.workload_socket_file));
    if let Some(path) = &config.outlier_log_path {
        set("OUTLIER_LOG_PATH", json!(path));
    }
    for (key, text) in [
        ("NAME", config.pod_name.as_str()),
        ("NAMESPACE", config.namespace.as_str()),
        (
            "SERVICE_ACCOUNT",
            config.environment.get("SERVICE_ACCOUNT").unwrap_or_default(),
        ),
    ] {
        if !text.is_empty() {
            set(key, json!(text));
        }
    }
    for (key, map) in [("LABELS", &config.labels), ("STATIC_LABELS", &config.static_labels)] {
        if !map.is_empty() {
            set(key, json!(with_sane_locality(map)));
        }
    }
    if !config.annotations.is_empty() {
        set("ANNOTATIONS", json!(config.annotations));
    }
    set(LATEEN_VERSION, json!(env!("CARGO_PKG_VERSION")));
    if config.on_demand_idle.is_some() {
        set(LATEEN_ON_DEMAND, json!("true"));
    }
    let hbone = metadata.get("ENABLE_HBONE").and_then(Value::as_str) == Some("true");
    let discovery = config
        .environment
        .get("PEER_METADATA_DISCOVERY")
        .map_or(hbone, |value| value == "true");
    metadata.insert("METADATA_DISCOVERY".into(), json!(discovery.to_string()));
    metadata.entry("ISTIO_VERSION").or_insert_with(|| json!(ISTIO_VERSION));
    metadata
}

fn with_sane_locality(labels: &BTreeMap<String, String>) -> BTreeMap<&String, String> {
    let sane = |key: &String, value: &String| {
        if key == LOCALITY_LABEL {
            sanitized(value)
        } else {
            value.clone()
        }
    };
    labels.iter().map(|(key, value)| (key, sane(key, value))).collect()
}

/// What `ISTIO_META_*` and `ISTIO_METAJSON_*` say, and where the DNS proxy listens.
fn raw_metadata(config: &AgentConfig) -> Map<String, Value> {
    let mut metadata = Map::new();
    for (key, value) in config.environment.iter() {
        if let Some(key) = key.strip_prefix("ISTIO_META_") {
            metadata.insert(key.to_owned(), json!(value));
        }
    }
    for (key, value) in config
        .environment
        .iter()
        .filter(|(key, _)| key.starts_with("ISTIO_METAJSON_"))
    {
        match serde_json::from_str::<Map<String, Value>>(value) {
            Ok(object) => metadata.extend(object),
            Err(error) => tracing::warn!(%error, variable = key, "no JSON object, ignored"),
        }
    }
    if let Some(address) = config.environment.get("DNS_PROXY_ADDR") {
        metadata.insert("DNS_PROXY_ADDR".into(), json!(address));
    }
    metadata
}
