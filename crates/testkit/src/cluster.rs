//! A real Kubernetes node, the recipe of `tests/cluster/node.sh`, as a fixture.
//!
//! The node has namespaces of its own, so that several run side by side and what a test does to it stays in it. From
//! the test, the API server, every pod and every service address are reached directly; pods and the API server reach
//! what the test listens on at [`Cluster::host`].
//!
//! [`Cluster::start`] makes a node for one test. [`Cluster::shared`] gives all tests of one program the same, each with
//! a [`Namespace`] of its own. A node is removed when its last holder is dropped, and when the test's process ends,
//! however it ends; when a test panics or [`Cluster::run`] fails, the logs are copied to `target/cluster/logs` first.

mod capture;
mod namespace;

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::wait::eventually;
pub use capture::{Capture, Packet};
pub use namespace::{Namespace, Pod};

/// How long a daemon may take to come back on a machine that builds at the same time.
const PATIENCE: Duration = Duration::from_secs(90);

const API_SERVER: &str = "kube-apiserver";

/// The images of Lateen by the names that tests find them under.
pub const IMAGES: &[&str] = &["lateend", "proxy", "shop"];

/// What stands before and behind the name of an image of Lateen in tests.
pub const HUB: &str = "localhost/lateen";
/// See [`HUB`].
pub const TAG: &str = "test";

/// A running node. Clones are the same node.
#[derive(Debug, Clone)]
pub struct Cluster {
    node: Arc<Node>,
}

#[derive(Debug)]
struct Node {
    state: PathBuf,
    tools: PathBuf,
    images: PathBuf,
    number: u8,
}

impl Cluster {
    /// A node of the caller's own, with Lateen's images loaded; none, after a line that says why, where the
    /// environment does not lead to what a node needs (`cargo xtask test cluster` sets it).
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start() -> Result<Option<Self>> {
        let Some(node) = Node::described()? else {
            return Ok(None);
        };
        let mut node = node;
        node.script("up").arg(std::process::id().to_string()).finish().await?;
        let number = std::fs::read_to_string(node.state.join("id")).context("the node has no number")?;
        node.number = number.trim().parse().context("the node's number is none")?;
        let cluster = Self { node: Arc::new(node) };
        for name in IMAGES {
            let archive = cluster.node.images.join(format!("{name}.tar"));
            cluster.load(&archive).await?;
        }
        Ok(Some(cluster))
    }

    /// The node that all tests of this program share while one of them holds it; else as [`Cluster::start`].
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn shared() -> Result<Option<Self>> {
        static SHARED: Mutex<Weak<Node>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(node) = shared.upgrade() {
            return Ok(Some(Self { node }));
        }
        let started = Self::start().await?;
        if let Some(cluster) = &started {
            *shared = Arc::downgrade(&cluster.node);
        }
        Ok(started)
    }

    /// Runs a test on it, and saves the logs under `name` when the test fails.
    ///
    /// # Errors
    /// What the test gives.
    pub async fn run<T>(&self, name: &str, test: impl AsyncFnOnce(&Self) -> Result<T>) -> Result<T> {
        let result = test(self).await;
        if result.is_err() {
            self.node.save_logs(name);
        }
        result
    }

    /// Where its administrator's kubeconfig is.
    pub fn kubeconfig(&self) -> PathBuf {
        self.node.state.join("admin.kubeconfig")
    }

    /// Where the outside is, as pods and the API server see it. Bind a test's own servers here.
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, self.node.number, 1)
    }

    /// Where the node is, for node ports.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, self.node.number, 2)
    }

    /// The addresses that are routed to the node for Services of type LoadBalancer. Nobody gives them out.
    pub fn balancers(&self) -> String {
        format!("10.97.{}.0/24", self.node.number)
    }

    /// The node's name.
    pub fn name(&self) -> String {
        format!("lateen{}", self.node.number)
    }

    /// The reference of an image of Lateen, one of [`IMAGES`].
    pub fn image(name: &str) -> String {
        format!("{HUB}/{name}:{TAG}")
    }

    /// Takes an image archive in.
    ///
    /// # Errors
    /// When there is none or containerd refuses it.
    pub async fn load(&self, archive: &Path) -> Result<()> {
        self.node.script("load").arg(archive).finish().await.map(|_| ())
    }

    /// A tool of the node's, with its kubeconfig in the environment: `kubectl`, `helm`.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.node.tools.join(name));
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// What kubectl prints.
    ///
    /// # Errors
    /// When it fails; with its words.
    pub async fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.tool("kubectl").args(args).finish().await
    }

    /// Applies objects, as YAML.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let mut command = self.tool("kubectl");
        command.args(["apply", "-f", "-"]);
        with_input(command, yaml).await.map(|_| ())
    }

    /// What helm prints.
    ///
    /// # Errors
    /// When it fails; with its words.
    pub async fn helm<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.tool("helm").args(args).finish().await
    }

    /// A command in the node's namespaces.
    pub fn node(&self, program: &str) -> Command {
        let mut command = self.node.script("sh");
        command.arg(program);
        command
    }

    /// What a command of [`Cluster::tool`] or [`Cluster::node`] prints.
    ///
    /// # Errors
    /// When it cannot be run or fails; with its words.
    pub async fn printed(&self, command: &mut Command) -> Result<String> {
        command.finish().await
    }

    /// Ends a daemon with SIGKILL, and waits until it has come back, which it does by itself. Whether it is at work again
    /// is another question.
    ///
    /// # Errors
    /// When there is none of this name, or it does not come back.
    pub async fn restart(&self, daemon: &str) -> Result<()> {
        let old = self.daemon(daemon)?;
        self.node.script("restart").arg(daemon).finish().await?;
        eventually(&format!("another {daemon}"), PATIENCE, async || {
            self.daemon(daemon).ok().filter(|new| *new != old)
        })
        .await
        .map(|_| ())
    }

    /// Ends the API server with SIGKILL, and keeps it from coming back until [`Cluster::let_api_server_back`].
    ///
    /// # Errors
    /// When it answers still.
    pub async fn take_api_server_away(&self) -> Result<()> {
        self.node.script("stop").arg(API_SERVER).finish().await?;
        eventually("the API server is away", PATIENCE, async || {
            let asked = self.kubectl(["get", "--raw", "/readyz"]).await;
            asked.is_err().then_some(())
        })
        .await
    }

    /// Lets the API server come back, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn let_api_server_back(&self) -> Result<()> {
        self.node.script("start").arg(API_SERVER).finish().await?;
        eventually("the API server is back", PATIENCE, async || {
            self.kubectl(["get", "--raw", "/readyz"]).await.ok()
        })
        .await
        .map(|_| ())
    }

    /// The process that a daemon is, as the node counts processes.
    fn daemon(&self, daemon: &str) -> Result<u32> {
        let file = self.node.state.join(format!("run/{daemon}.pid"));
        let text = std::fs::read_to_string(&file).with_context(|| format!("no daemon {daemon}"))?;
        text.trim()
            .parse()
            .with_context(|| format!("{} has no number", file.display()))
    }

    /// A namespace of the test's own, whose name begins with `name`, with labels as `key=value`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn namespace(&self, name: &str, labels: &[&str]) -> Result<Namespace> {
        Namespace::create(self.clone(), name, labels).await
    }

    /// Records what passes the pods' bridge and fits `filter` (as tcpdump takes it).
    ///
    /// # Errors
    /// When it does not begin.
    pub async fn capture(&self, filter: &str) -> Result<Capture> {
        Capture::start(self, filter).await
    }

    /// Where the node keeps its files.
    pub fn state(&self) -> &Path {
        &self.node.state
    }
}

impl Node {
    /// What the environment says of a node that is still to be made.
    fn described() -> Result<Option<Self>> {
        let variable = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let (Some(tools), Some(images)) = (variable("LATEEN_TOOLS"), variable("LATEEN_IMAGES")) else {
            println!("skipped: LATEEN_TOOLS or LATEEN_IMAGES is unset; `cargo xtask test cluster` sets them");
            return Ok(None);
        };
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let target = tools.parent().context("LATEEN_TOOLS lies nowhere")?;
        Ok(Some(Self {
            state: target.join(format!("cluster/test-{}-{next}", std::process::id())),
            tools,
            images,
            number: 0,
        }))
    }

    fn script(&self, verb: &str) -> Command {
        let mut command = Command::new(SCRIPT);
        command.envs(self.environment()).arg(verb);
        command
    }

    fn environment(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("STATE", self.state.clone()),
            ("BIN", self.tools.clone()),
            ("IMAGES", self.tools.with_file_name("cluster").join("images")),
        ]
    }

    fn save_logs(&self, name: &str) {
        let to = self.tools.with_file_name("cluster").join("logs").join(name);
        let done = std::process::Command::new(SCRIPT)
            .envs(self.environment())
            .arg("logs")
            .arg(&to)
            .stdin(Stdio::null())
            .output();
        if done.is_ok_and(|output| output.status.success()) {
            println!("the logs of the node and its pods are in {}", to.display());
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.save_logs("panicked");
        }
        // What remains, the watcher that `up` left behind removes when this process ends.
        let _ = std::process::Command::new(SCRIPT)
            .envs(self.environment())
            .arg("down")
            .stdin(Stdio::null())
            .output();
    }
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/cluster/node.sh");

/// Runs a command to its end.
pub(crate) trait Finish {
    /// What it printed.
    ///
    /// # Errors
    /// When it cannot be run or fails; with what it said.
    async fn finish(&mut self) -> Result<String>;
}

impl Finish for Command {
    async fn finish(&mut self) -> Result<String> {
        let what = shown(self);
        let output = self
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot run {what}"))?;
        printed(&what, &output)
    }
}

async fn with_input(mut command: Command, input: &str) -> Result<String> {
    let what = shown(&command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {what}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(input.as_bytes()).await?;
    }
    printed(&what, &child.wait_with_output().await?)
}

fn shown(command: &Command) -> String {
    let command = command.as_std();
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn printed(what: &str, output: &std::process::Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!(
            "`{what}` failed ({}): {}{stdout}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(stdout.into_owned())
}
