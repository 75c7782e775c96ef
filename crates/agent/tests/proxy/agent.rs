//! Starting, watching and ending an agent.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::client;
use crate::control_plane::ControlPlane;

const DEADLINE: Duration = Duration::from_secs(60);

/// The Envoy to test with; says so when there is none.
pub(crate) fn envoy() -> Option<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/envoy");
    let found = std::env::var_os("ENVOY")
        .map(PathBuf::from)
        .or_else(|| installed.is_file().then_some(installed));
    if found.is_none() {
        println!("skipped: no Envoy; set ENVOY or run `cargo xtask tools`");
    }
    found
}

/// An address that no other test uses.
pub(crate) fn loopback() -> IpAddr {
    loop {
        let ip = Ipv4Addr::new(
            127,
            rand::random_range(20..250),
            rand::random(),
            rand::random_range(1..250),
        );
        if std::net::TcpListener::bind((ip, 15000)).is_ok() {
            return ip.into();
        }
    }
}

/// Waits until it is so.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "not in {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a process is there and no zombie.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Ends a process without asking.
pub(crate) fn kill(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A running agent; ended with its folder when dropped.
pub(crate) struct Agent {
    command: Option<Command>,
    child: Option<Child>,
    ip: IpAddr,
    root: tempfile::TempDir,
}

impl Agent {
    /// One for a pod `web-1` of the namespace `shop` at this address.
    pub(crate) fn new(envoy: &Path, ip: IpAddr, plane: &ControlPlane) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("token"), "the-token\n").unwrap();
        std::fs::write(root.path().join("roots.pem"), plane.roots()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lateen-agent"));
        command
            .args(["proxy", "sidecar", "--token-path", "token", "--concurrency", "1"])
            .args(["--discovery-address", &plane.address().to_string()])
            .args(["--bind-address", &ip.to_string()])
            .arg("--envoy")
            .arg(envoy)
            .arg("--root-dir")
            .arg(root.path())
            .env("INSTANCE_IP", ip.to_string())
            .env("LATEEN_TERMINATION_DRAIN_DURATION", "5s")
            .env("POD_NAME", "web-1")
            .env("POD_NAMESPACE", "shop")
            .env("SERVICE_ACCOUNT", "web")
            .env("XDS_ROOT_CA", root.path().join("roots.pem"))
            .env("ISTIOD_SAN", "istiod.istio-system.svc")
            .env("ISTIO_METAJSON_LABELS", r#"{"app":"web"}"#);
        Self {
            command: Some(command),
            child: None,
            ip,
            root,
        }
    }

    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.command.as_mut().unwrap().env(key, value);
        self
    }

    pub(crate) fn flag(mut self, flag: &str) -> Self {
        self.command.as_mut().unwrap().arg(flag);
        self
    }

    pub(crate) fn start(mut self) -> Self {
        self.child = Some(self.command.take().unwrap().spawn().unwrap());
        self
    }

    /// Waits for readiness, asked of Envoy's listener as kubelet asks.
    pub(crate) async fn ready(&self) {
        let address = SocketAddr::new(self.ip, 15021);
        eventually("readiness", || async {
            matches!(client::get(address, "/healthz/ready").await, Ok((200, _)))
        })
        .await;
    }

    /// Runs another command of the agent.
    pub(crate) fn command(&self, name: &str, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_lateen-agent"))
            .arg(name)
            .args(arguments)
            .current_dir(self.root.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A file below the agent's folder.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// VmRSS.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub(crate) fn envoy_pid(&self) -> u32 {
        self.find_envoy().expect("the agent has no Envoy")
    }

    /// The agent's child process.
    pub(crate) fn find_envoy(&self) -> Option<u32> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .find(|pid| lives(*pid))
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        signal(self.pid(), rustix::process::Signal::TERM);
    }

    /// The exit code.
    pub(crate) async fn wait(&mut self) -> Option<i32> {
        let child = self.child.as_mut().unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < DEADLINE, "the agent does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take()
            && matches!(child.try_wait(), Ok(None))
        {
            let envoy = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap_or_default();
            let _ = child.kill();
            let _ = child.wait();
            for pid in envoy
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .filter(|pid| lives(*pid))
            {
                kill(pid);
            }
        }
    }
}
