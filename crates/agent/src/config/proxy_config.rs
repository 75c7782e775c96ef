//! ProxyConfig: defaults, the mesh's, the environment's, the pod's annotation, flags; each layer replaces the fields
//! it names. Kept as JSON beside its typed reading, because the control plane is shown all of it, known here or not.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Environment;
use crate::cli::ProxyArgs;

/// The fields that the agent acts on.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProxyConfig {
    pub(crate) config_path: String,
    pub(crate) binary_path: String,
    #[serde(default)]
    pub(crate) custom_config_file: String,
    #[serde(default)]
    pub(crate) service_cluster: Option<String>,
    #[serde(default)]
    pub(crate) tracing_service_name: Option<String>,
    pub(crate) drain_duration: String,
    pub(crate) termination_drain_duration: String,
    pub(crate) discovery_address: String,
    #[serde(default)]
    pub(crate) control_plane_auth_policy: AuthenticationPolicy,
    pub(crate) proxy_admin_port: u16,
    pub(crate) status_port: u16,
    #[serde(default)]
    pub(crate) concurrency: Option<u32>,
    #[serde(default)]
    pub(crate) statsd_udp_address: String,
    #[serde(default)]
    pub(crate) stats_compression: Option<bool>,
    #[serde(default)]
    pub(crate) extra_stat_tags: Vec<String>,
    #[serde(default)]
    pub(crate) proxy_stats_matcher: StatsMatcher,
    #[serde(default)]
    pub(crate) tracing: Option<Tracer>,
    #[serde(default)]
    pub(crate) envoy_metrics_service: Option<RemoteService>,
    #[serde(default)]
    pub(crate) envoy_access_log_service: Option<RemoteService>,
    #[serde(default)]
    pub(crate) runtime_values: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) proxy_metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) connection_settings: ConnectionSettings,
    #[serde(default)]
    pub(crate) file_flush_interval: Option<String>,
    #[serde(default)]
    pub(crate) file_flush_min_size_kb: Option<u32>,
    /// All fields as given, for the node's metadata.
    #[serde(skip)]
    pub(crate) document: Map<String, Value>,
}

/// How the control plane is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum AuthenticationPolicy {
    #[default]
    None,
    MutualTls,
    Inherit,
}

/// Which of Envoy's statistics are kept, beside those that the mesh needs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StatsMatcher {
    pub(crate) inclusion_prefixes: Option<Vec<String>>,
    pub(crate) inclusion_suffixes: Option<Vec<String>>,
    pub(crate) inclusion_regexps: Option<Vec<String>>,
}

/// Limits on connections.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConnectionSettings {
    pub(crate) global_downstream_connection_limit: Option<u32>,
}

/// Where spans go.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Tracer {
    pub(crate) zipkin: Option<Collector>,
    pub(crate) lightstep: Option<Collector>,
    pub(crate) datadog: Option<Collector>,
    pub(crate) stackdriver: Option<Value>,
    pub(crate) tls_settings: Option<TlsSettings>,
}

/// A collector of spans.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Collector {
    pub(crate) address: String,
    pub(crate) access_token: String,
}

/// A gRPC service that Envoy reports to.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RemoteService {
    pub(crate) address: String,
    pub(crate) tls_settings: Option<TlsSettings>,
    pub(crate) tcp_keepalive: Option<TcpKeepalive>,
}

/// Keep-alive of a connection; times in protobuf's JSON form.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TcpKeepalive {
    pub(crate) probes: Option<u32>,
    pub(crate) time: Option<String>,
    pub(crate) interval: Option<String>,
}

/// TLS toward one of these services.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TlsSettings {
    pub(crate) mode: String,
    pub(crate) client_certificate: String,
    pub(crate) private_key: String,
    pub(crate) ca_certificates: String,
    pub(crate) subject_alt_names: Vec<String>,
    pub(crate) sni: String,
}

// === impl ProxyConfig ===

impl ProxyConfig {
    /// Lays all sources over one another.
    ///
    /// # Errors
    /// When a source is no YAML object or a field has the wrong type; the message names source and field.
    pub(crate) fn load(
        args: &ProxyArgs,
        environment: &Environment,
        annotations: &BTreeMap<String, String>,
    ) -> anyhow::Result<Self> {
        let mut document = defaults();
        match std::fs::read_to_string(&args.mesh_config) {
            Ok(text) => {
                let name = args.mesh_config.display().to_string();
                let mut mesh = object(&text, &name)?;
                if let Some(layer) = mesh.remove("defaultConfig").or_else(|| mesh.remove("default_config")) {
                    overlay(&mut document, layer, &format!("{name}: defaultConfig"))?;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| args.mesh_config.display().to_string()),
        }
        if let Some(text) = environment.get("PROXY_CONFIG") {
            overlay(
                &mut document,
                Value::Object(object(text, "PROXY_CONFIG")?),
                "PROXY_CONFIG",
            )?;
        }
        if let Some(text) = annotations.get("proxy.istio.io/config") {
            let name = "annotation proxy.istio.io/config";
            overlay(&mut document, Value::Object(object(text, name)?), name)?;
        }
        if let Some(address) = annotations.get("sidecar.istio.io/discoveryAddress") {
            document.insert("discoveryAddress".into(), json!(address));
        }
        if let Some(port) = annotations.get("status.sidecar.istio.io/port") {
            let port: u16 = port
                .parse()
                .with_context(|| format!("annotation status.sidecar.istio.io/port `{port}`"))?;
            document.insert("statusPort".into(), json!(port));
        }
        flags(&mut document, args, environment)?;
        Self::from_document(document)
    }

    /// Reads a complete document.
    pub(crate) fn from_document(document: Map<String, Value>) -> anyhow::Result<Self> {
        let mut config: Self = serde_json::from_value(Value::Object(document.clone())).context("ProxyConfig")?;
        config.document = document;
        // protobuf's JSON leaves out an enum's first value.
        if config.control_plane_auth_policy == AuthenticationPolicy::None {
            config.document.remove("controlPlaneAuthPolicy");
        }
        Ok(config)
    }
}

/// What every field is that nobody sets: Istio's values.
pub(crate) fn defaults() -> Map<String, Value> {
    let value = json!({
        "binaryPath": "/usr/local/bin/envoy",
        "configPath": "./etc/istio/proxy",
        "controlPlaneAuthPolicy": "MUTUAL_TLS",
        "discoveryAddress": "istiod.istio-system.svc:15012",
        "drainDuration": "45s",
        "proxyAdminPort": 15000,
        "serviceCluster": "istio-proxy",
        "statNameLength": 189,
        "statusPort": 15020,
        "terminationDrainDuration": "5s",
    });
    let Value::Object(map) = value else { return Map::new() };
    map
}

fn flags(document: &mut Map<String, Value>, args: &ProxyArgs, environment: &Environment) -> anyhow::Result<()> {
    let mut set = |key: &str, value: Value| document.insert(key.to_owned(), value);
    if let Some(address) = &args.discovery_address {
        set("discoveryAddress", json!(address));
    }
    if let Some(path) = &args.envoy {
        set("binaryPath", json!(path));
    }
    if let Some(port) = args.admin_port {
        set("proxyAdminPort", json!(port));
    }
    if let Some(port) = args.status_port {
        set("statusPort", json!(port));
    }
    if let Some(duration) = &args.termination_drain_duration {
        set("terminationDrainDuration", json!(duration));
    }
    if args.concurrency != 0 {
        set("concurrency", json!(args.concurrency));
    }
    let limit: u32 = environment.number("ISTIO_CPU_LIMIT", 0)?;
    if document.get("concurrency").is_none() && limit != 0 {
        document.insert("concurrency".into(), json!(limit));
    }
    if document.get("serviceCluster") == Some(&json!("")) {
        document.insert("serviceCluster".into(), json!(args.service_cluster));
    }
    Ok(())
}

fn object(text: &str, source: &str) -> anyhow::Result<Map<String, Value>> {
    match serde_yaml::from_str(text).with_context(|| source.to_owned())? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => bail!("{source}: must be an object"),
    }
}

/// Replaces the fields that `layer` names. The metadata and the runtime values of both layers are kept.
fn overlay(document: &mut Map<String, Value>, layer: Value, source: &str) -> anyhow::Result<()> {
    let Value::Object(layer) = layer else {
        bail!("{source}: must be an object")
    };
    for (key, value) in layer {
        let key = camel_case(&key);
        match key.as_str() {
            "tracingServiceName" => drop(document.remove("serviceCluster")),
            "serviceCluster" => drop(document.remove("tracingServiceName")),
            _ => {}
        }
        match (document.get_mut(&key), value) {
            (_, Value::Null) => {}
            (Some(Value::Object(old)), Value::Object(new)) if key == "proxyMetadata" => old.extend(new),
            (_, value) => drop(document.insert(key, value)),
        }
    }
    Ok(())
}

/// protobuf's JSON takes both spellings of a field.
fn camel_case(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut upper = false;
    for c in key.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.extend(c.to_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}
