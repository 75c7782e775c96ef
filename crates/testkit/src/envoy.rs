//! A real Envoy as a gateway of the mesh: its ports are real, so nothing has to be intercepted.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::http;
use crate::process::Process;
use crate::wait::eventually;

/// How long it may take to start on a machine that builds at the same time.
const STARTING: Duration = Duration::from_secs(30);

/// Namespace and label of the gateway's pod; [`crate::world::gateway`] selects it.
pub const GATEWAY_NAMESPACE: &str = "edge";
/// The value of its label `istio`.
pub const GATEWAY_LABEL: &str = "edge";

/// Envoy, if this machine has it: `ENVOY`, or what the demo puts into `target/tools`. Says so if not.
pub fn binary() -> Option<PathBuf> {
    let tools = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/envoy"));
    let found = std::env::var_os("ENVOY")
        .map(PathBuf::from)
        .or_else(|| tools.is_file().then_some(tools));
    if found.is_none() {
        println!("skipped: no Envoy; name one by ENVOY, or run `cargo xtask demo`, which puts it into target/tools");
    }
    found
}

/// A running Envoy. It is killed when dropped.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
}

impl Envoy {
    /// Starts a gateway that asks for its configuration at `ads`, by delta ADS without TLS. Its files go to `directory`.
    ///
    /// # Errors
    /// When it cannot be started, or ends.
    pub async fn gateway(binary: &Path, ads: SocketAddr, directory: &Path) -> Result<Self> {
        Self::start(binary, &gateway(ads), directory).await
    }

    /// The same for a sidecar in the namespace `shop` whose application connects to it of its own accord: its listeners
    /// for calls are on loopback.
    ///
    /// # Errors
    /// When it cannot be started, or ends.
    pub async fn sidecar(binary: &Path, ads: SocketAddr, directory: &Path) -> Result<Self> {
        Self::start(binary, &sidecar(ads), directory).await
    }

    async fn start(binary: &Path, bootstrap: &Value, directory: &Path) -> Result<Self> {
        let file = directory.join("bootstrap.json");
        std::fs::write(&file, bootstrap.to_string())?;
        let told = directory.join("admin");
        let mut command = Command::new(binary);
        command.arg("-c").arg(&file).arg("--admin-address-path").arg(&told);
        command.args(["--disable-hot-restart", "--concurrency", "1", "-l", "warning"]);
        command.args(["--component-log-level", "upstream:info,config:info"]);
        let mut process = Process::start(command, &directory.join("envoy.log"))?;
        let admin = eventually("Envoy tells its admin address", STARTING, async || {
            if process.ended().is_some() {
                return Some(None);
            }
            let text = std::fs::read_to_string(&told).ok()?;
            text.parse().ok().map(Some)
        })
        .await?;
        let admin = admin.with_context(|| format!("Envoy ended: {}", process.log(20)))?;
        Ok(Self { process, admin })
    }

    /// Where its admin port is.
    pub fn address(&self) -> SocketAddr {
        self.admin
    }

    /// What its admin port says.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub async fn admin(&self, path: &str) -> Result<String> {
        let answer = http::get(self.admin, "admin", path).await?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
        Ok(answer.body)
    }

    /// Waits until it listens on a port.
    ///
    /// # Errors
    /// When it does not within `within`.
    pub async fn listens(&self, port: u16, within: Duration) -> Result<()> {
        let end = format!(":{port}");
        eventually(&format!("Envoy listens on {port}"), within, async || {
            let listeners = self.admin("/listeners").await.ok()?;
            listeners.lines().any(|line| line.ends_with(&end)).then_some(())
        })
        .await
    }

    /// One kind of its dynamic resources, e.g. `dynamic_active_clusters`, as its configuration dump shows them.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub async fn dump(&self, resource: &str) -> Result<Vec<Value>> {
        // Envoy answers 404 when it has none.
        let answer = http::get(self.admin, "admin", &format!("/config_dump?resource={resource}")).await?;
        if answer.status == 404 {
            return Ok(Vec::new());
        }
        let mut dump: Value = serde_json::from_str(&answer.body)?;
        Ok(match dump["configs"].take() {
            Value::Array(list) => list,
            _ => Vec::new(),
        })
    }

    /// A counter or gauge of its own; 0 when there is none.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn stat(&self, name: &str) -> Result<u64> {
        let text = self.admin(&format!("/stats?filter=^{name}$")).await?;
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok();
        Ok(text.lines().find_map(value).unwrap_or(0))
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        self.process.log(60)
    }
}

fn gateway(ads: SocketAddr) -> Value {
    let node = json!({
        "id": format!("router~{}~gateway.{GATEWAY_NAMESPACE}~{GATEWAY_NAMESPACE}.svc.cluster.local", Ipv4Addr::LOCALHOST),
        "cluster": format!("gateway.{GATEWAY_NAMESPACE}"),
        "metadata": {
            "NAME": "gateway", "NAMESPACE": GATEWAY_NAMESPACE, "CLUSTER_ID": "Kubernetes",
            "INSTANCE_IPS": Ipv4Addr::LOCALHOST.to_string(), "SERVICE_ACCOUNT": "gateway",
            "LABELS": {"istio": GATEWAY_LABEL, "app": "gateway"}, "WORKLOAD_NAME": "gateway", "MESH_ID": "cluster.local",
            "ISTIO_VERSION": "1.32.0",
        },
    });
    bootstrap(
        &node,
        &socket((Ipv4Addr::LOCALHOST, 0).into()),
        "DELTA_GRPC",
        &[("xds-grpc", socket(ads))],
    )
}

fn sidecar(ads: SocketAddr) -> Value {
    let node = json!({
        "id": format!("sidecar~{}~caller.shop~shop.svc.cluster.local", Ipv4Addr::LOCALHOST),
        "cluster": "caller.shop",
        "metadata": {
            "NAME": "caller", "NAMESPACE": "shop", "CLUSTER_ID": "Kubernetes", "INTERCEPTION_MODE": "NONE",
            "INSTANCE_IPS": Ipv4Addr::LOCALHOST.to_string(), "SERVICE_ACCOUNT": "caller",
            "LABELS": {"app": "caller"}, "WORKLOAD_NAME": "caller", "MESH_ID": "cluster.local", "ISTIO_VERSION": "1.32.0",
        },
    });
    bootstrap(
        &node,
        &socket((Ipv4Addr::LOCALHOST, 0).into()),
        "DELTA_GRPC",
        &[("xds-grpc", socket(ads))],
    )
}

/// An address as Envoy's configuration has it.
pub fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// A bootstrap of an Envoy that asks as `node` for all that it does, at the cluster `xds-grpc` and in the protocol
/// `api_type`. `servers` are gRPC clusters, each with its address.
pub fn bootstrap(node: &Value, admin: &Value, api_type: &str, servers: &[(&str, Value)]) -> Value {
    let source = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let cluster = |(name, address): &(&str, Value)| {
        json!({
            "name": name, "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {options: {
                "@type": format!("type.googleapis.com/{options}"), "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
        })
    };
    json!({
        "node": node,
        "admin": {"address": admin},
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            },
        }],
        "dynamic_resources": {
            "ads_config": {
                "api_type": api_type, "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
            "cds_config": source, "lds_config": source,
        },
        "static_resources": {"clusters": servers.iter().map(cluster).collect::<Vec<_>>()},
    })
}
