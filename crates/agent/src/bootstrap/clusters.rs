//! The clusters that are there before the control plane is: the agent's sockets and ports, Envoy's own admin interface,
//! and the services that Envoy reports to.

use serde_json::{Value, json};

use super::user_address;
use crate::config::{AgentConfig, RemoteService, TlsSettings};

/// Folder of the socket that serves the workload's certificate.
const SDS_FOLDER: &str = "./var/run/secrets/workload-spiffe-uds";
/// Socket of another SDS server for gateways' certificates.
const CREDENTIAL_SOCKET: &str = "./var/run/secrets/credential-uds/socket";
/// The cluster of that server, by the name that control planes of Istio's kind use.
const CREDENTIAL_CLUSTER: &str = "sds-external";
/// Where the agent serves certificates from files when somebody else serves the workload's.
pub(crate) const FILES_SOCKET: &str = "./var/run/secrets/credential-uds/files-socket";
/// The cluster of that socket.
const FILES_CLUSTER: &str = "sds-files-grpc";

/// All of them.
pub(super) fn build(config: &AgentConfig) -> anyhow::Result<Vec<Value>> {
    let local = config.loopback().to_string();
    let tcp = |port: u16| json!({ "socket_address": { "protocol": "TCP", "address": local, "port_value": port } });
    let pipe = |path: &str| json!({ "pipe": { "path": path } });
    let mut clusters = vec![
        fixed("prometheus_stats", "0.250s", &tcp(config.ports.admin)),
        fixed("agent", "0.250s", &tcp(config.ports.status)),
        http2(fixed(
            "sds-grpc",
            "1s",
            &pipe(&format!("{SDS_FOLDER}/{}", config.workload_socket_file)),
        )),
    ];
    if config.certificates.external_socket {
        clusters.push(http2(fixed(FILES_CLUSTER, "1s", &pipe(FILES_SOCKET))));
    }
    if std::os::unix::net::UnixStream::connect(CREDENTIAL_SOCKET).is_ok() {
        clusters.push(http2(fixed(CREDENTIAL_CLUSTER, "1s", &pipe(CREDENTIAL_SOCKET))));
    }
    clusters.push(xds(&pipe(&config.upstream.socket.display().to_string())));
    reporting(config, &mut clusters)?;
    Ok(clusters)
}

/// The agent's ADS socket. Never short of connections or requests, whatever the application does.
fn xds(address: &Value) -> Value {
    let mut cluster = http2(fixed("xds-grpc", "1s", address));
    let limits = |priority: &str| json!({ "priority": priority, "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000 });
    cluster["circuit_breakers"] = json!({ "thresholds": [limits("DEFAULT"), limits("HIGH")] });
    cluster["upstream_connection_options"] = json!({ "tcp_keepalive": { "keepalive_time": 300 } });
    cluster["max_requests_per_connection"] = json!(1);
    cluster
}

fn reporting(config: &AgentConfig, clusters: &mut Vec<Value>) -> anyhow::Result<()> {
    let family = lookup_family(config);
    let mut add = |name: &str, text: &str, field: &str| -> anyhow::Result<usize> {
        let (host, port) = user_address(text, field, &config.environment)?;
        clusters.push(dns(name, family, &host, port));
        Ok(clusters.len() - 1)
    };
    let mut zipkin = None;
    let mut remote = Vec::new();
    if let Some(tracing) = &config.proxy.tracing {
        if let Some(collector) = &tracing.zipkin {
            let index = add("zipkin", &collector.address, "tracing.zipkin.address")?;
            zipkin = Some(index);
            remote.push((index, tracing.tls_settings.as_ref(), None));
        } else if let Some(collector) = &tracing.datadog {
            let index = add("datadog_agent", &collector.address, "tracing.datadog.address")?;
            remote.push((index, tracing.tls_settings.as_ref(), None));
        }
    }
    let services = [
        (
            "envoy_metrics_service",
            "envoyMetricsService.address",
            config.proxy.envoy_metrics_service.as_ref(),
        ),
        (
            "envoy_accesslog_service",
            "envoyAccessLogService.address",
            config.proxy.envoy_access_log_service.as_ref(),
        ),
    ];
    let mut grpc = Vec::new();
    for (name, field, service) in services {
        let Some(service) = service.filter(|service| !service.address.is_empty()) else {
            continue;
        };
        let index = add(name, &service.address, field)?;
        grpc.push(index);
        remote.push((index, service.tls_settings.as_ref(), Some(service)));
    }
    if let Some(index) = zipkin {
        clusters[index]["dns_refresh_rate"] = json!("30s");
    }
    for (index, tls, service) in remote {
        let http2 = grpc.contains(&index);
        if let Some(socket) = tls.and_then(|tls| transport_socket(tls, http2)) {
            clusters[index]["transport_socket"] = socket;
        }
        if let Some(keepalive) = service.and_then(keepalive) {
            clusters[index]["upstream_connection_options"] = keepalive;
        }
    }
    for index in grpc {
        let cluster = clusters[index].take();
        clusters[index] = http2(cluster);
    }
    Ok(())
}

fn keepalive(service: &RemoteService) -> Option<Value> {
    let settings = service.tcp_keepalive.as_ref()?;
    let mut keepalive = serde_json::Map::new();
    if let Some(probes) = settings.probes {
        keepalive.insert("keepalive_probes".into(), json!(probes));
    }
    for (key, text) in [
        ("keepalive_time", &settings.time),
        ("keepalive_interval", &settings.interval),
    ] {
        if let Some(duration) = text
            .as_deref()
            .and_then(|text| crate::config::parse_duration(text).ok())
        {
            keepalive.insert(key.into(), json!(duration.as_secs()));
        }
    }
    Some(json!({ "tcp_keepalive": keepalive }))
}

/// TLS toward a service, its files served by the agent so that they may change; none when TLS is off.
fn transport_socket(tls: &TlsSettings, http2: bool) -> Option<Value> {
    let secret = |name: &str| json!({ "name": name, "sds_config": sds_config("sds-grpc") });
    let (certificate, roots) = match tls.mode.as_str() {
        "SIMPLE" => (None, tls.ca_certificates.as_str()),
        "MUTUAL" => {
            let name = format!("file-cert:{}~{}", tls.client_certificate, tls.private_key);
            (Some(secret(&name)), tls.ca_certificates.as_str())
        }
        "ISTIO_MUTUAL" => (Some(secret("default")), "ROOTCA"),
        _ => return None,
    };
    let mut common = serde_json::Map::new();
    if http2 {
        common.insert("alpn_protocols".into(), json!(["h2"]));
    }
    if !roots.is_empty() {
        let name = if roots == "ROOTCA" {
            roots.to_owned()
        } else {
            format!("file-root:{roots}")
        };
        let names: Vec<Value> = tls
            .subject_alt_names
            .iter()
            .map(|san| json!({ "san_type": "DNS", "matcher": { "exact": san } }))
            .collect();
        let default = if names.is_empty() {
            json!({})
        } else {
            json!({ "match_typed_subject_alt_names": names })
        };
        common.insert(
            "combined_validation_context".into(),
            json!({ "default_validation_context": default, "validation_context_sds_secret_config": secret(&name) }),
        );
    }
    if let Some(certificate) = certificate {
        common.insert("tls_certificate_sds_secret_configs".into(), json!([certificate]));
    }
    let mut context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": common,
    });
    if !tls.sni.is_empty() {
        context["sni"] = json!(tls.sni);
    }
    Some(json!({ "name": "envoy.transport_sockets.tls", "typed_config": context }))
}

/// How Envoy fetches a secret from a cluster.
pub(super) fn sds_config(cluster: &str) -> Value {
    json!({
        "api_config_source": {
            "api_type": "GRPC",
            "grpc_services": [{ "envoy_grpc": { "cluster_name": cluster } }],
            "set_node_on_first_message_only": true,
            "transport_api_version": "V3",
        },
        "resource_api_version": "V3",
    })
}

fn lookup_family(config: &AgentConfig) -> &'static str {
    let v6 = config.instance_ips.iter().filter(|ip| ip.is_ipv6()).count();
    if v6 == 0 || config.bind_address.is_some() {
        "V4_ONLY"
    } else if v6 == config.instance_ips.len() {
        "V6_ONLY"
    } else if config.environment.get("ISTIO_DUAL_STACK") == Some("true") {
        "ALL"
    } else {
        "V4_ONLY"
    }
}

fn fixed(name: &str, timeout: &str, address: &Value) -> Value {
    json!({
        "name": name,
        // The semicolon ends the name where the tag `cluster_name` is cut out of statistics.
        "alt_stat_name": format!("{name};"),
        "type": "STATIC",
        "connect_timeout": timeout,
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": load_assignment(name, address),
    })
}

fn dns(name: &str, family: &str, host: &str, port: u16) -> Value {
    let address = json!({ "socket_address": { "address": host, "port_value": port } });
    json!({
        "name": name,
        "alt_stat_name": format!("{name};"),
        "type": "STRICT_DNS",
        "respect_dns_ttl": true,
        "dns_lookup_family": family,
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": load_assignment(name, &address),
    })
}

fn load_assignment(name: &str, address: &Value) -> Value {
    json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }] })
}

fn http2(mut cluster: Value) -> Value {
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    });
    cluster
}
