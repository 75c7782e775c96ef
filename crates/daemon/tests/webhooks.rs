//! The webhooks on the real port of a real `lateend`: TLS as the API server speaks it, settings from the files that it
//! reads and follows.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Ended with the test.
struct Lateend(Child);

impl Drop for Lateend {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const MESH: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    defaultConfig: {concurrency: 3}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio-sidecar-injector, namespace: istio-system}
data:
  config: |
    policy: POLICY
    neverInjectSelector: [{matchLabels: {job: 'yes'}}]
  values: |
    {\"global\": {\"hub\": \"example.org/mesh\", \"tag\": \"7\", \"proxy\": {\"image\": \"proxy\"}, \"proxy_init\": {\"image\": \"proxy\"}}}
";

fn start(directory: &Path) -> Lateend {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lateend"));
    command.arg("--config").arg(directory.join("config"));
    command.arg("--data-dir").arg(directory.join("data"));
    command.arg("--cacerts").arg(directory.join("no-cacerts"));
    command.arg("--addresses-file").arg(directory.join("addresses.json"));
    for flag in [
        "--secure-address",
        "--http-address",
        "--https-address",
        "--monitoring-address",
    ] {
        command.args([flag, "127.0.0.1:0"]);
    }
    let log = std::fs::File::create(directory.join("log")).unwrap();
    Lateend(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

/// Waits until something is there; at most half a minute.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .unwrap_or_else(|_| panic!("in time: {what}"))
}

/// Asks as the API server does: over TLS, with the authority's root as the only one trusted.
async fn post(address: SocketAddr, roots: &Path, path: &str, body: &Value) -> Value {
    let mut trusted = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(roots).unwrap() {
        trusted.add(certificate.unwrap()).unwrap();
    }
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("istiod.istio-system.svc").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let request = http::Request::post(path)
        .header("host", "istiod.istio-system.svc")
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    let asking = async move {
        let response = sender.send_request(request).await.unwrap();
        axum::body::to_bytes(Body::new(response.into_body()), 1 << 20)
            .await
            .unwrap()
    };
    let (_, answer) = tokio::join!(connection, asking);
    serde_json::from_slice(&answer).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&answer)))
}

fn review(kind: &str, group: &str, object: &Value) -> Value {
    let kind = json!({ "group": group, "version": "v1", "kind": kind });
    let request = json!({ "uid": "1", "kind": kind, "namespace": "shop", "operation": "CREATE", "object": object });
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request })
}

#[tokio::test]
async fn the_api_server_is_answered_over_tls_by_the_settings_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config");
    std::fs::create_dir(&config).unwrap();
    let write = |policy: &str| std::fs::write(config.join("mesh.yaml"), MESH.replace("POLICY", policy)).unwrap();
    write("enabled");
    let _lateend = start(directory.path());
    let addresses = directory.path().join("addresses.json");
    let addresses: Value = eventually("lateend listens", async || {
        serde_json::from_slice(&std::fs::read(&addresses).ok()?).ok()
    })
    .await;
    let address: SocketAddr = addresses["https"].as_str().unwrap().parse().unwrap();
    let roots = directory.path().join("data/ca/root-cert.pem");
    let containers = json!([{ "name": "app", "image": "app:1" }]);
    let pod = |labels: Value| json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "labels": labels }, "spec": { "containers": containers } });

    let asked = pod(json!({}));
    let proxy = eventually("the settings are read", async || {
        let answer = post(address, &roots, "/inject", &review("Pod", "", &asked)).await;
        assert_eq!(answer["response"]["allowed"], true, "{answer}");
        use base64::Engine as _;
        let patch = answer["response"]["patch"].as_str()?;
        let patch = base64::engine::general_purpose::STANDARD.decode(patch).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        let mut patched = asked.clone();
        json_patch::patch(&mut patched, &patch).unwrap();
        let proxy = patched["spec"]["initContainers"][1].clone();
        (proxy["image"] == "example.org/mesh/proxy:7").then_some(proxy)
    })
    .await;
    let env = proxy["env"].as_array().unwrap();
    let config = env.iter().find(|variable| variable["name"] == "PROXY_CONFIG").unwrap();
    assert_eq!(config["value"], "{\"concurrency\":3}\n");

    let never = post(
        address,
        &roots,
        "/inject",
        &review("Pod", "", &pod(json!({ "job": "yes" }))),
    )
    .await;
    assert_eq!(never["response"], json!({ "uid": "1", "allowed": true }));

    let gateway = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": { "name": "g", "namespace": "shop" },
        "spec": { "servers": [{ "port": { "number": 99999, "name": "http", "protocol": "HTTP" }, "hosts": ["*"] }] },
    });
    let answer = post(
        address,
        &roots,
        "/validate",
        &review("Gateway", "networking.istio.io", &gateway),
    )
    .await;
    assert_eq!(answer["response"]["allowed"], false, "{answer}");
    let causes = &answer["response"]["status"]["details"]["causes"];
    assert!(
        causes[0]["field"]
            .as_str()
            .unwrap()
            .starts_with("spec.servers[0].port.number"),
        "{answer}"
    );

    write("disabled");
    eventually("the changed policy is in force", async || {
        let answer = post(address, &roots, "/inject", &review("Pod", "", &asked)).await;
        answer["response"].get("patch").is_none().then_some(())
    })
    .await;
}
