//! Envoys in network namespaces of their own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use lateen_testkit::envoy;
use lateen_testkit::process::Process;
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::secrets::Secrets;

/// How a network namespace is made: as root, or in a user namespace.
const WAYS: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];

/// What makes Envoys with a network namespace each.
pub(crate) struct Sandbox {
    envoy: PathBuf,
    way: &'static [&'static str],
}

/// An Envoy in its namespace. It is killed when dropped, and the namespace goes with it.
pub(crate) struct Sandboxed {
    process: Process,
    admin: PathBuf,
}

impl Sandbox {
    /// `None` where nobody may make one.
    pub(crate) fn find(envoy: PathBuf) -> Option<Self> {
        let works = |way: &&&'static [&'static str]| {
            let mut command = Command::new("unshare");
            command
                .args(**way)
                .args(["--", "true"])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let way = WAYS.iter().find(works)?;
        Some(Self { envoy, way })
    }

    /// Starts one that asks as `node` in the protocol `api_type`; its files go to `directory`.
    pub(crate) fn start(
        &self,
        directory: &Path,
        node: &Value,
        api_type: &str,
        ads: &Relay,
        secrets: &Secrets,
    ) -> Result<Sandboxed> {
        std::fs::create_dir(directory)?;
        let admin = directory.join("admin");
        let file = directory.join("bootstrap.json");
        let pipe = |path: &Path| json!({"pipe": {"path": path}});
        let servers = [("xds-grpc", pipe(&ads.socket)), ("sds-grpc", pipe(secrets.socket()))];
        let bootstrap = envoy::bootstrap(node, &pipe(&admin), api_type, &servers);
        std::fs::write(&file, bootstrap.to_string())?;
        let mut command = Command::new("unshare");
        command
            .args(self.way)
            .args(["--", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
        command.arg(&self.envoy).arg("-c").arg(&file);
        command.args(["--disable-hot-restart", "--concurrency", "1", "-l", "warning"]);
        let process = Process::start(command, &directory.join("log"))?;
        Ok(Sandboxed { process, admin })
    }
}

impl Sandboxed {
    /// What its admin socket says.
    pub(crate) async fn admin(&self, path: &str) -> Result<String> {
        let (status, body) = self.ask(path).await?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(body)
    }

    /// One kind of its dynamic resources, as its configuration dump shows them.
    pub(crate) async fn dump(&self, resource: &str) -> Result<Vec<Value>> {
        let (status, body) = self.ask(&format!("/config_dump?resource={resource}")).await?;
        // Envoy answers 404 when it has none.
        if status == 404 {
            return Ok(Vec::new());
        }
        let mut dump: Value = serde_json::from_str(&body)?;
        Ok(match dump["configs"].take() {
            Value::Array(list) => list,
            _ => Vec::new(),
        })
    }

    /// The end of its log.
    pub(crate) fn log(&self) -> String {
        self.process.log(40)
    }

    async fn ask(&self, path: &str) -> Result<(u16, String)> {
        let stream = UnixStream::connect(&self.admin).await.context("Envoy's admin socket")?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut task = JoinSet::new();
        task.spawn(connection);
        let request = Request::get(path).header("host", "admin").body(Empty::<Bytes>::new())?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok((head.status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
    }
}

/// A socket in the file system that leads to an address of this namespace.
pub(crate) struct Relay {
    socket: PathBuf,
    _task: JoinSet<()>,
}

impl Relay {
    pub(crate) fn start(socket: &Path, to: SocketAddr) -> Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut inner, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut outer) = TcpStream::connect(to).await {
                        // A broken connection is Envoy's to notice.
                        let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
                    }
                });
            }
        });
        Ok(Self {
            socket: socket.to_owned(),
            _task: task,
        })
    }
}
