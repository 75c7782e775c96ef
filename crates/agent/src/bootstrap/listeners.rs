//! The listeners that are there before the control plane is: Envoy's metrics, readiness, and both over mutual TLS where
//! asked for.

use serde_json::{Value, json};

use super::clusters::sds_config;
use crate::config::AgentConfig;

/// All of them.
pub(super) fn build(config: &AgentConfig) -> Vec<Value> {
    let wildcard = config.wildcard().to_string();
    let listener = |port: u16, chain: Value| {
        json!({
            "name": format!("{wildcard}_{port}"),
            "address": { "socket_address": { "protocol": "TCP", "address": wildcard, "port_value": port } },
            // Probes and scrapes must get through when the application's connections are at their limit.
            "ignore_global_conn_limit": true,
            "bypass_overload_manager": true,
            "filter_chains": [chain],
        })
    };
    let metrics = || {
        let filters = if config.proxy.stats_compression.unwrap_or(true) {
            compressors()
        } else {
            Vec::new()
        };
        http("stats", &[("/stats/prometheus", "prometheus_stats")], filters)
    };
    let mut listeners = vec![listener(
        config.ports.envoy_prometheus,
        json!({ "filters": [metrics()] }),
    )];
    let mut secure = |port: u16, prefix: &str, routes: &[(&str, &str)]| {
        if port == 0 {
            return;
        }
        let mut listener = listener(port, mutual_tls(http(prefix, routes, Vec::new())));
        listener["listener_filters"] = json!([typed(
            "envoy.filters.listener.tls_inspector",
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
        )]);
        listeners.push(listener);
    };
    secure(
        config.ports.secure_metrics,
        "secure_stats",
        &[("/stats/prometheus", "prometheus_stats")],
    );
    let merged = [("/stats/prometheus", "agent"), ("/metrics", "agent")];
    secure(config.ports.secure_merged_metrics, "secure_merged_stats", &merged);
    let ready = http("agent", &[("/healthz/ready", "agent")], Vec::new());
    listeners.push(listener(config.ports.envoy_status, json!({ "filters": [ready] })));
    listeners
}

fn http(prefix: &str, routes: &[(&str, &str)], mut filters: Vec<Value>) -> Value {
    let route =
        |(path, cluster): &(&str, &str)| json!({ "match": { "prefix": path }, "route": { "cluster": cluster } });
    filters.push(typed(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
    ));
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "codec_type": "AUTO",
            "stat_prefix": prefix,
            "route_config": { "virtual_hosts": [{
                "name": "backend",
                "domains": ["*"],
                "routes": routes.iter().map(route).collect::<Vec<_>>(),
            }]},
            "http_filters": filters,
        },
    })
}

/// Metrics are long and repetitive: worth compressing in whatever way the scraper understands.
fn compressors() -> Vec<Value> {
    let library = |name: &str, kind: &str| {
        let package = name.to_owned();
        json!({
            "name": format!("envoy.filters.http.compressor.{package}"),
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor",
                "compressor_library": typed(
                    &format!("stats_{package}"),
                    &format!("envoy.extensions.compression.{package}.compressor.v3.{kind}"),
                ),
                "response_direction_config": { "common_config": { "content_type": [
                    "text/plain",
                    "application/vnd.google.protobuf",
                    "application/openmetrics-text",
                    "application/openmetrics-protobuf",
                ]}},
            },
        })
    };
    vec![
        library("brotli", "Brotli"),
        library("zstd", "Zstd"),
        library("gzip", "Gzip"),
    ]
}

fn mutual_tls(filter: Value) -> Value {
    let secret = |name: &str| json!({ "name": name, "sds_config": sds_config("sds-grpc") });
    json!({
        "filter_chain_match": { "transport_protocol": "tls" },
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": true,
                "common_tls_context": {
                    "tls_certificate_sds_secret_configs": [secret("default")],
                    "combined_validation_context": {
                        "default_validation_context": {},
                        "validation_context_sds_secret_config": secret("ROOTCA"),
                    },
                },
            },
        },
        "filters": [filter],
    })
}

fn typed(name: &str, kind: &str) -> Value {
    json!({ "name": name, "typed_config": { "@type": format!("type.googleapis.com/{kind}") } })
}
