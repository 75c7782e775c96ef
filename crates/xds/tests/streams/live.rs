//! A real Envoy and real upstreams, on free ports, gone when dropped.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use lateen_xds::Dialect;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::fixture::{eventually, eventually_async};

/// Envoy, if this machine has it: `ENVOY`, or what the demo puts into `target/tools`. Says so if not.
pub(crate) fn binary() -> Option<PathBuf> {
    let tools = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/envoy");
    let found = std::env::var_os("ENVOY")
        .map(PathBuf::from)
        .or_else(|| tools.is_file().then_some(tools));
    if found.is_none() {
        println!("skipped: no Envoy; name one by ENVOY, or run `cargo xtask demo`, which puts it into target/tools");
    }
    found
}

/// A running Envoy.
pub(crate) struct Envoy {
    admin: SocketAddr,
    directory: TempDir,
    _child: Child,
}

impl Envoy {
    /// Starts one that is configured over ADS from `xds`.
    pub(crate) async fn start(binary: &PathBuf, dialect: Dialect, xds: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bootstrap.json");
        std::fs::write(&file, bootstrap(dialect, xds).to_string()).unwrap();
        let admin = directory.path().join("admin");
        let child = Command::new(binary)
            .arg("-c")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&admin)
            .arg("--log-path")
            .arg(directory.path().join("log"))
            .args(["--disable-hot-restart", "--concurrency", "1", "-l", "info"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let admin = eventually("Envoy tells its admin address", || {
            std::fs::read_to_string(&admin).ok()?.parse().ok()
        })
        .await;
        Self {
            admin,
            directory,
            _child: child,
        }
    }

    /// What its admin port says.
    pub(crate) async fn admin(&self, path: &str) -> String {
        get(self.admin, path).await.unwrap_or_default().1
    }

    /// Where a listener listens, once it does.
    pub(crate) async fn listener(&self, name: &str) -> SocketAddr {
        let mut look = async || {
            let listeners = self.admin("/listeners").await;
            listeners
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix("::")?.parse().ok())
        };
        eventually_async(&format!("listener {name} listens"), &mut look).await
    }

    /// A counter or gauge of its own.
    pub(crate) async fn stat(&self, name: &str) -> Option<u64> {
        let text = self.admin(&format!("/stats?filter=^{name}$")).await;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok())
    }

    /// Its log, for people who read why a test failed.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

fn bootstrap(dialect: Dialect, xds: SocketAddr) -> Value {
    let api = match dialect {
        Dialect::Delta => "DELTA_GRPC",
        Dialect::StateOfTheWorld => "GRPC",
    };
    let source = json!({"ads": {}, "resource_api_version": "V3"});
    json!({
        "node": {"id": format!("sidecar~{api}"), "cluster": "test"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": api, "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": source, "lds_config": source,
        },
        "static_resources": {"clusters": [{
            "name": "xds", "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
                {"socket_address": {"address": xds.ip().to_string(), "port_value": xds.port()}}}}]}]},
        }]},
    })
}

/// An upstream that answers every request with its name.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Upstream {
    pub(crate) async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream, name));
            }
        });
        Self { address, _tasks: tasks }
    }
}

async fn answer(mut stream: TcpStream, name: &str) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        request.extend_from_slice(&buffer[..read]);
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// Status and body of a request, if there is an answer.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    loop {
        // Envoy keeps the connection open for a while; the answer says itself where it ends.
        if let Some(whole) = parse(&String::from_utf8_lossy(&answer)) {
            return Some(whole);
        }
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let head = head.to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with("0\r\n\r\n").then(|| (status, unchunk(body)));
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    (body.len() >= length).then(|| (status, body.to_owned()))
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        let Some(chunk) = rest.get(..size).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        whole.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or("");
    }
    whole
}

/// Waits until a request is answered 200 with this body.
pub(crate) async fn answers(address: SocketAddr, expected: &str) {
    let mut look = async || (get(address, "/").await? == (200, expected.to_owned())).then_some(());
    eventually_async(&format!("{address} answers {expected}"), &mut look).await;
}
