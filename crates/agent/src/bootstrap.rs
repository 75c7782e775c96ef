//! Envoy's bootstrap, as JSON: who the proxy is, how it reaches the agent, and what must be there before the control
//! plane has said anything. Only what stock Envoy has.

mod clusters;
mod listeners;
mod node;
mod stats;

pub(crate) use clusters::FILES_SOCKET;
use serde_json::{Map, Value, json};

use crate::config::{AgentConfig, Environment, Tracer};

/// The version of Istio whose API and node metadata this agent speaks; control planes decide by it what to send.
pub(crate) const ISTIO_VERSION: &str = "1.32.0";

/// Envoy's own limit where nobody sets one.
const UNLIMITED_CONNECTIONS: u32 = i32::MAX as u32;

/// Makes the bootstrap.
///
/// # Errors
/// When an address in the configuration cannot be read; the message names the field.
pub(crate) fn build(config: &AgentConfig) -> anyhow::Result<Value> {
    let node = node::node(config);
    let mut bootstrap = json!({
        "application_log_config": { "log_format": log_format(config.log_as_json) },
        "node": node,
        "layered_runtime": { "layers": [
            { "name": "global config", "static_layer": runtime_flags(config) },
            { "name": "admin", "admin_layer": {} },
        ]},
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
                "buffer_size_kb": 64,
            },
        }],
        "stats_config": stats::config(config),
        "admin": {
            "access_log": [{
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                    "path": "/dev/null",
                },
            }],
            "profile_path": "/var/lib/istio/data/envoy.prof",
            "address": socket_address(&config.loopback().to_string(), config.ports.admin),
        },
        "dynamic_resources": dynamic_resources(),
        "static_resources": {
            "clusters": clusters::build(config)?,
            "listeners": listeners::build(config),
        },
        "overload_manager": { "resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": connection_limit(config),
            },
        }]},
        "deferred_stat_options": { "enable_deferred_creation_stats": true },
    });
    if let Value::Object(map) = &mut bootstrap {
        stats::intervals(config, map);
        cluster_manager(config, map);
        if let Some(tracing) = tracing(config) {
            map.insert("tracing".into(), tracing);
        }
        let sinks = stats::sinks(config)?;
        if !sinks.is_empty() {
            map.insert("stats_sinks".into(), Value::Array(sinks));
        }
    }
    Ok(bootstrap)
}

fn log_format(json: bool) -> Value {
    if json {
        json!({ "json_format": {
            "time": "%Y-%m-%dT%T.%fZ", "level": "%l", "scope": "envoy %n", "msg": "%j", "caller": "%g:%#", "thread": "%t",
        }})
    } else {
        json!({ "text_format": "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t" })
    }
}

/// Delta ADS over the agent's socket. The agent holds a stream open while the control plane is away, so Envoy need not
/// back off for long when a stream ends.
fn dynamic_resources() -> Value {
    let ads = json!({ "ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3" });
    json!({
        "lds_config": ads,
        "cds_config": ads,
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "set_node_on_first_message_only": true,
            "transport_api_version": "V3",
            "grpc_services": [{ "envoy_grpc": {
                "cluster_name": "xds-grpc",
                "retry_policy": { "retry_back_off": { "base_interval": "0.1s", "max_interval": "1s" } },
            }}],
        },
    })
}

/// Istio's runtime flags, then the user's; an empty value removes a default.
fn runtime_flags(config: &AgentConfig) -> Map<String, Value> {
    let mut flags = Map::new();
    let mut set = |key: &str, value: Value| flags.insert(key.to_owned(), value);
    set(
        "envoy.deprecated_features:envoy.config.listener.v3.Listener.hidden_envoy_deprecated_use_original_dst",
        json!(true),
    );
    set(
        "envoy.reloadable_features.coalesce_lb_rebuilds_on_batch_update",
        json!(false),
    );
    set("envoy.reloadable_features.fixed_heap_use_allocated", json!(true));
    set("envoy.reloadable_features.http_reject_path_with_fragment", json!(false));
    set("re2.max_program_size.error_level", json!("32768"));
    if config.environment.get("COMPLIANCE_POLICY") == Some("fips-140-2") {
        set("envoy.reloadable_features.google_grpc_disable_tls_13", json!(true));
    }
    if config
        .environment
        .get("HTTP_STRIP_FRAGMENT_FROM_PATH_UNSAFE_IF_DISABLED")
        == Some("false")
    {
        set(
            "envoy.reloadable_features.http_strip_fragment_from_path_unsafe_if_disabled",
            json!("false"),
        );
    }
    for (key, value) in &config.proxy.runtime_values {
        match value.as_str() {
            "" => drop(flags.remove(key)),
            "true" => drop(flags.insert(key.clone(), json!(true))),
            "false" => drop(flags.insert(key.clone(), json!(false))),
            value => drop(flags.insert(key.clone(), json!(value))),
        }
    }
    flags
}

fn connection_limit(config: &AgentConfig) -> u32 {
    let proxy = &config.proxy;
    let metadata = || {
        proxy
            .proxy_metadata
            .get("ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS")?
            .parse()
            .ok()
    };
    let runtime = || {
        proxy
            .runtime_values
            .get("overload.global_downstream_max_connections")?
            .parse()
            .ok()
    };
    let configured = proxy
        .connection_settings
        .global_downstream_connection_limit
        .filter(|limit| *limit > 0);
    configured
        .or_else(metadata)
        .or_else(runtime)
        .unwrap_or(UNLIMITED_CONNECTIONS)
}

fn cluster_manager(config: &AgentConfig, bootstrap: &mut Map<String, Value>) {
    let mut manager = Map::new();
    if let Some(path) = &config.outlier_log_path {
        manager.insert("outlier_detection".into(), json!({ "event_log_path": path }));
    }
    if let Some(text) = config.environment.get("ISTIO_META_LOAD_STATS_CONFIG_JSON") {
        match serde_json::from_str::<Value>(text) {
            Ok(value) => drop(manager.insert("load_stats_config".into(), value)),
            Err(error) => tracing::warn!(%error, "ISTIO_META_LOAD_STATS_CONFIG_JSON is no JSON and ignored"),
        }
    }
    if !manager.is_empty() {
        manager.insert("enable_deferred_cluster_creation".into(), json!(true));
        bootstrap.insert("cluster_manager".into(), Value::Object(manager));
    }
}

fn tracing(config: &AgentConfig) -> Option<Value> {
    let tracer: &Tracer = config.proxy.tracing.as_ref()?;
    let (name, typed) = if tracer.zipkin.is_some() {
        let zipkin = json!({
            "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
            "collector_cluster": "zipkin",
            "collector_endpoint": "/api/v2/spans",
            "collector_endpoint_version": "HTTP_JSON",
            "trace_id_128bit": true,
            "shared_span_context": false,
        });
        ("envoy.tracers.zipkin", zipkin)
    } else if tracer.datadog.is_some() {
        let datadog = json!({
            "@type": "type.googleapis.com/envoy.config.trace.v3.DatadogConfig",
            "collector_cluster": "datadog_agent",
            "service_name": node::service_cluster(config),
        });
        ("envoy.tracers.datadog", datadog)
    } else {
        if tracer.lightstep.is_some() || tracer.stackdriver.is_some() {
            tracing::warn!(
                "ProxyConfig.tracing: stock Envoy has no Lightstep or Stackdriver tracer; use a Telemetry resource with OpenTelemetry"
            );
        }
        return None;
    };
    Some(json!({ "http": { "name": name, "typed_config": typed } }))
}

/// An address of Envoy's.
fn socket_address(address: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

/// `host:port` of a user's setting; `$(HOST_IP)` is the node's address, which no substitution reaches in a mounted file.
fn user_address(text: &str, field: &str, environment: &Environment) -> anyhow::Result<(String, u16)> {
    use anyhow::Context as _;
    let (host, port) = crate::config::host_and_port(text).with_context(|| format!("ProxyConfig.{field}"))?;
    let host = if host == "$(HOST_IP)" {
        environment.get("HOST_IP").unwrap_or(host)
    } else {
        host
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests;
