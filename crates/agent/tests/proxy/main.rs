//! The agent with a real Envoy and a small control plane: it comes up, its certificates are renewed, it survives the
//! loss of the control plane, and it drains without losing a request.
//!
//! Envoy is named by `ENVOY`, or is `target/tools/envoy`; without it these tests print what they skip.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]

mod agent;
mod client;
mod control_plane;
mod drain;
mod probes;
mod sources;
mod without_envoy;

use std::net::{IpAddr, SocketAddr};

use agent::{Agent, eventually};
use client::Client;
use control_plane::ControlPlane;
use serde_json::json;

/// What the agent may keep resident, in KiB.
const MEMORY_LIMIT: u64 = 15 * 1024;
const LISTENER: u16 = 18080;

/// A listener that wants a client certificate, as inbound listeners of the mesh do, and answers by itself.
fn listener(name: &str, ip: IpAddr, port: u16) -> serde_json::Value {
    let sds = json!({ "api_config_source": {
        "api_type": "GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
        "grpc_services": [{ "envoy_grpc": { "cluster_name": "sds-grpc" } }],
    }, "resource_api_version": "V3" });
    json!({
        "name": name,
        "traffic_direction": "INBOUND",
        "address": { "socket_address": { "address": ip.to_string(), "port_value": port } },
        "filter_chains": [{
            "transport_socket": { "name": "tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": true,
                "common_tls_context": {
                    "tls_certificate_sds_secret_configs": [{ "name": "default", "sds_config": sds }],
                    "validation_context_sds_secret_config": { "name": "ROOTCA", "sds_config": sds },
                },
            }},
            "filters": [{ "name": "http", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "inbound",
                "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
                    { "match": { "prefix": "/" }, "direct_response": { "status": 200, "body": { "inline_string": name } } },
                ]}]},
                "http_filters": [{ "name": "router", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                }}],
            }}],
        }],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_from_its_start_to_its_drain() {
    let Some(envoy) = agent::envoy() else { return };
    let ip = agent::loopback();
    let plane = ControlPlane::start(None).await;
    plane.set_listeners(vec![listener("first", ip, LISTENER)]);
    plane.set_names([("reviews.shop.svc.cluster.local", "10.96.0.5")]);
    let application = client::Application::start(ip).await;
    let mut agent = Agent::new(&envoy, ip, &plane)
        // Renewed about every three seconds.
        .env("SECRET_TTL", "6s")
        .env("ISTIO_META_DNS_CAPTURE", "true")
        .env("ISTIO_PROMETHEUS_ANNOTATIONS", &json!({ "scrape": "true", "port": application.port().to_string() }).to_string())
        .env(
            "ISTIO_KUBE_APP_PROBERS",
            &json!({
                "/app-health/web/readyz": { "httpGet": { "path": "/ok", "port": application.port() }, "timeoutSeconds": 2 },
                "/app-health/web/livez": { "httpGet": { "path": "/broken", "port": application.port() }, "timeoutSeconds": 2 },
                "/app-health/web/startupz": { "tcpSocket": { "port": application.port() } },
            })
            .to_string(),
        )
        .start();
    agent.ready().await;
    let memory = agent.resident_kib();
    println!("resident memory of the agent when ready: {memory} KiB");

    // The node is who the agent was told to be, and the control plane saw the token and the certificate.
    let node = plane.node().expect("no stream yet");
    assert_eq!(node.id, format!("sidecar~{ip}~web-1.shop~shop.svc.cluster.local"));
    assert!(
        plane.requests_of("istio.networking.nds.v1.NameTable") > 0,
        "the agent asks for the name table itself"
    );

    let client = Client::new(&plane, SocketAddr::new(ip, LISTENER));
    eventually("the first answer", || async { client.once().await.is_ok() }).await;

    the_other_ports(&agent, ip).await;

    // Renewal: another certificate is served, connections made meanwhile succeed.
    let first = client.once().await.unwrap().serial;
    eventually("a renewed certificate", || async {
        client
            .once()
            .await
            .expect("a request failed while the certificate was renewed")
            .serial
            != first
    })
    .await;

    // The control plane goes and comes back: Envoy serves all the time, then takes what is new.
    let address = plane.address();
    let saved = plane.stop().await;
    for _ in 0..20 {
        client
            .once()
            .await
            .expect("a request failed while the control plane was away");
    }
    let plane = ControlPlane::start(Some((address, saved))).await;
    plane.set_listeners(vec![
        listener("first", ip, LISTENER),
        listener("second", ip, LISTENER + 1),
    ]);
    let second = Client::new(&plane, SocketAddr::new(ip, LISTENER + 1));
    eventually("what is new after the reconnect", || async {
        second.once().await.is_ok()
    })
    .await;
    client.once().await.expect("the first listener is gone");

    let idle = agent.resident_kib();
    println!("resident memory of the agent after renewals and a reconnect: {idle} KiB");
    if cfg!(debug_assertions) {
        println!("skipped: the limit of {MEMORY_LIMIT} KiB is for an optimized agent (--profile quick or --release)");
    } else {
        assert!(
            idle <= MEMORY_LIMIT,
            "{idle} KiB resident, at most {MEMORY_LIMIT} are allowed"
        );
    }

    // Drained under load: no request fails, whoever made it before the replica was taken out.
    let envoy = agent.envoy_pid();
    let load = client.load();
    eventually("load", || async { load.answered() > 200 }).await;
    agent.terminate();
    let before = load.answered();
    eventually("requests during the drain", || async { load.answered() > before + 200 }).await;
    let (answered, failed) = load.stop().await;
    println!("{answered} requests answered around the drain, {failed:?} failed");
    assert_eq!(failed, Vec::<String>::new());
    assert_eq!(agent.wait().await, Some(0));
    assert!(!agent::lives(envoy), "Envoy is left behind");
}

async fn the_other_ports(agent: &Agent, ip: IpAddr) {
    let (status, body) = client::get(SocketAddr::new(ip, 15020), "/stats/prometheus")
        .await
        .unwrap();
    assert_eq!(status, 200);
    for metric in [
        "envoy_server_live",
        "istio_agent_process_resident_memory_bytes",
        "application_requests_total 7",
    ] {
        assert!(body.contains(metric), "{metric} is not among the metrics:\n{body}");
    }
    for (path, expected) in [("readyz", 200), ("livez", 503), ("startupz", 200)] {
        let (status, _) = client::get(SocketAddr::new(ip, 15020), &format!("/app-health/web/{path}"))
            .await
            .unwrap();
        assert_eq!(status, expected, "{path}");
    }
    let (status, body) = client::get(SocketAddr::new(ip, 15020), "/debug/ndsz").await.unwrap();
    assert_eq!((status, body.contains("10.96.0.5")), (200, true), "{body}");
    let (status, _) = client::get(SocketAddr::new(ip, 15020), "/quitquitquit").await.unwrap();
    assert_eq!(status, 405, "quitquitquit wants POST");
    assert_eq!(
        client::resolve(SocketAddr::new(ip, 15053), "reviews.shop").await,
        ["10.96.0.5"]
    );
    let output = agent.command("request", &["GET", "server_info", "--address", &ip.to_string()]);
    assert!(output.contains("\"state\": \"LIVE\""), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_dies_is_restarted_as_often_as_allowed() {
    let Some(envoy) = agent::envoy() else { return };
    let ip = agent::loopback();
    let plane = ControlPlane::start(None).await;
    plane.set_listeners(vec![listener("first", ip, LISTENER)]);
    let mut agent = Agent::new(&envoy, ip, &plane).flag("--envoy-restarts=1").start();
    agent.ready().await;
    let first = agent.envoy_pid();
    agent::kill(first);
    eventually("another Envoy", || async {
        agent.find_envoy().is_some_and(|pid| pid != first)
    })
    .await;
    agent.ready().await;
    agent::kill(agent.envoy_pid());
    assert_eq!(agent.wait().await, Some(1));
}

#[test]
fn real_envoy_accepts_the_bootstrap() {
    let Some(envoy) = agent::envoy() else { return };
    let full = json!({
        "statsdUdpAddress": "127.0.0.1:9125",
        "envoyMetricsService": { "address": "metrics:15000", "tcpKeepalive": { "probes": 3, "time": "10s" }, "tlsSettings": {
            "mode": "MUTUAL", "clientCertificate": "/c.pem", "privateKey": "/k.pem", "caCertificates": "/r.pem", "sni": "x",
            "subjectAltNames": ["metrics.example.com"],
        }},
        "envoyAccessLogService": { "address": "logs:15000" },
        "tracing": { "zipkin": { "address": "zipkin:9411" }, "tlsSettings": { "mode": "ISTIO_MUTUAL" } },
        "extraStatTags": ["mine"],
        "runtimeValues": { "envoy.reloadable_features.explicit_internal_address_config": "true", "re2.max_program_size.error_level": "" },
        "proxyStatsMatcher": { "inclusionPrefixes": ["http.{pod_ip}_"], "inclusionRegexps": ["a.*b"] },
    });
    let cases = [
        ("plain", json!({}), vec![]),
        (
            "full",
            full,
            vec![
                ("ENVOY_SECURE_METRICS_PORT", "15091"),
                ("ENVOY_SECURE_MERGED_METRICS_PORT", "15092"),
                ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true"),
            ],
        ),
        (
            "datadog",
            json!({ "tracing": { "datadog": { "address": "datadog:8126" } } }),
            vec![("INSTANCE_IP", "2001:db8::7")],
        ),
    ];
    for (name, config, variables) in cases {
        let folder = tempfile::tempdir().unwrap();
        let printed = std::process::Command::new(env!("CARGO_BIN_EXE_lateen-agent"))
            .args([
                "--log-level=error",
                "proxy",
                "router",
                "--print-bootstrap",
                "--outlierLogPath",
                "/dev/null",
                "--root-dir",
            ])
            .arg(folder.path())
            .env("PROXY_CONFIG", config.to_string())
            .env("POD_NAMESPACE", "shop")
            .envs(variables)
            .output()
            .unwrap();
        assert!(
            printed.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&printed.stderr)
        );
        let file = folder.path().join("bootstrap.json");
        std::fs::write(&file, &printed.stdout).unwrap();
        let validated = std::process::Command::new(&envoy)
            .args(["--mode", "validate", "-l", "error", "-c"])
            .arg(&file)
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&validated.stderr).into_owned();
        assert!(validated.status.success(), "{name}: {log}");
    }
}
