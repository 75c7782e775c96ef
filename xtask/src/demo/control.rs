//! How the product's programs are called: the control plane, tokens, the agents beside each workload.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::ground::{Ground, PROXY_USER};
use super::plan::{Part, Workload};

/// Where the sample's service addresses are.
const SERVICES: &str = "10.96.0.0/16";

/// Where the control plane's health and debug pages are.
pub(super) fn http_address(ground: Ground) -> SocketAddr {
    (ground.control_plane(), 8080).into()
}

/// The control plane, on the copy of the sample.
pub(super) fn lateend(dir: &Path, ground: Ground) -> Command {
    let ip = ground.control_plane();
    let mut command = Command::new(dir.join("bin/lateend"));
    command
        .current_dir(dir)
        .arg("--config")
        .arg(dir.join("config"))
        .arg("--data-dir")
        .arg(data(dir))
        .arg("--cacerts")
        .arg(dir.join("no-cacerts"))
        .args(["--secure-address", &format!("{ip}:15012")])
        .args(["--http-address", &http_address(ground).to_string()])
        .args(["--monitoring-address", &format!("{ip}:15014")])
        .args(["--https-address", &format!("{ip}:15017")]);
    command
}

/// Where the control plane keeps its root and keys.
fn data(dir: &Path) -> PathBuf {
    dir.join("lateend")
}

/// The root certificate, where every workload can read it.
fn root_certificate(dir: &Path) -> PathBuf {
    dir.join("root-cert.pem")
}

/// Hands out the root certificate that the control plane made for itself, as the ConfigMap in a cluster does.
///
/// # Errors
/// When it is not there yet.
pub(super) fn hand_out_root(dir: &Path) -> Result<()> {
    let made = data(dir).join("ca/root-cert.pem");
    let text = fs::read(&made).with_context(|| format!("cannot read {}", made.display()))?;
    fs::write(root_certificate(dir), text).context("cannot hand out the root certificate")
}

/// A token that proves the workload's account, as the API server would give it.
///
/// # Errors
/// When the command fails.
pub(super) fn token(dir: &Path, workload: &Workload) -> Result<String> {
    let output = Command::new(dir.join("bin/lateen"))
        .env("LATEEN_DATA_DIR", data(dir))
        .args([
            "token",
            "create",
            "--namespace",
            &workload.namespace,
            "--service-account",
            &workload.account,
        ])
        .output()
        .context("cannot run lateen")?;
    if !output.status.success() {
        bail!(
            "lateen token create failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The redirection of a workload's traffic to its proxy.
pub(super) fn interception(dir: &Path, ground: Ground) -> Vec<Command> {
    match ground {
        Ground::Namespaces => vec![by_user(dir)],
        Ground::OneUser => by_address(),
        Ground::Loopback(_) => Vec::new(),
    }
}

/// As the injected init container sets it up: all that is not the proxy's.
fn by_user(dir: &Path) -> Command {
    let mut command = Command::new(dir.join("bin/lateen-agent"));
    command
        .arg("istio-iptables")
        .args([
            "-p",
            "15001",
            "-z",
            "15006",
            "-u",
            &PROXY_USER.to_string(),
            "-m",
            "REDIRECT",
        ])
        .args([
            "-i",
            "*",
            "-x",
            "",
            "-b",
            "*",
            "-d",
            "15090,15021,15020",
            "--redirect-dns",
        ]);
    command
}

/// Without a second user to tell the proxy from the service: what goes to a service's address is the service's own, what
/// goes to a pod's is the proxy's.
fn by_address() -> Vec<Command> {
    [
        "-A PREROUTING -p tcp -m multiport ! --dports 15090,15021,15020 -j REDIRECT --to-ports 15006",
        &format!("-A OUTPUT -p tcp -d {SERVICES} -j REDIRECT --to-ports 15001"),
        &format!("-A OUTPUT -p udp -d {SERVICES} --dport 53 -j REDIRECT --to-ports 15053"),
    ]
    .iter()
    .map(|rule| {
        let mut command = Command::new("iptables");
        command.args(["-t", "nat"]).args(rule.split(' '));
        command
    })
    .collect()
}

/// The agent of `workload`, with its own folder `root`; `ttl` is the lifetime of its certificates where not the default.
pub(super) fn agent(dir: &Path, workload: &Workload, root: &Path, ground: Ground, ttl: Option<&str>) -> Command {
    let role = if workload.part == Part::Gateway {
        "router"
    } else {
        "sidecar"
    };
    let control_plane = format!("{}:15012", ground.control_plane());
    let config = json!({
        "concurrency": 1,
        "discoveryAddress": control_plane,
        "terminationDrainDuration": "3s",
        // The story reads Envoy's counters of connections and handshakes.
        "proxyStatsMatcher": {"inclusionRegexps": [".*"]},
    });
    let owner = format!(
        "kubernetes://apis/apps/v1/namespaces/{}/deployments/{}",
        workload.namespace,
        workload.short()
    );
    let mut command = Command::new(dir.join("bin/lateen-agent"));
    command
        .current_dir(root)
        .args(["proxy", role])
        .arg("--root-dir")
        .arg(root)
        .arg("--token-path")
        .arg(root.join("token"))
        .arg("--envoy")
        .arg(dir.join("bin/envoy"))
        .env("PROXY_CONFIG", config.to_string())
        .env("POD_NAME", &workload.pod)
        .env("POD_NAMESPACE", &workload.namespace)
        .env("SERVICE_ACCOUNT", &workload.account)
        .env("INSTANCE_IP", workload.ip.to_string())
        .env("TRUST_DOMAIN", "cluster.local")
        .env("CA_ADDR", &control_plane)
        .env("XDS_ROOT_CA", root_certificate(dir))
        .env("CA_ROOT_CA", root_certificate(dir))
        .env("ISTIOD_SAN", "istiod.istio-system.svc")
        .env("ISTIO_META_CLUSTER_ID", "Kubernetes")
        .env("ISTIO_META_MESH_ID", "cluster.local")
        .env("ISTIO_META_NODE_NAME", &workload.node)
        .env("ISTIO_META_WORKLOAD_NAME", workload.short())
        .env("ISTIO_META_OWNER", owner)
        .env("ISTIO_METAJSON_LABELS", json!(workload.labels).to_string());
    if let Some(ttl) = ttl {
        command.env("SECRET_TTL", ttl);
    }
    match ground {
        Ground::Namespaces | Ground::OneUser => {
            command
                .env("ISTIO_META_INTERCEPTION_MODE", "REDIRECT")
                .env("ISTIO_META_DNS_CAPTURE", "true");
        }
        Ground::Loopback(_) => {
            command
                .env("ISTIO_META_INTERCEPTION_MODE", "NONE")
                .args(["--bind-address", &workload.ip.to_string()]);
        }
    }
    ground.as_proxy(&mut command);
    command
}
