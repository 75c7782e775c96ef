//! The real `lateend`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::http::{self, Answer};
use crate::process::Process;
use crate::wait::eventually;
use crate::{World, ports};

/// How long it may take to start on a machine that builds at the same time.
const STARTING: Duration = Duration::from_secs(30);

/// A program of this workspace: from the folder `LATEEN_BIN`, or built once, beside the running test.
///
/// # Errors
/// When it does not build.
pub fn program(package: &str, name: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("LATEEN_BIN") {
        return Ok(PathBuf::from(folder).join(name));
    }
    // Two packages built by turns would undo each other's work, where their dependencies differ in features.
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = built.get(name) {
        return Ok(path.clone());
    }
    // The test lies in `<target>/<profile>/deps/`.
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).context("the test lies nowhere")?;
    let target = profile.parent().context("the test lies nowhere")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut build = Command::new(cargo);
    build.args(["build", "-p", package, "--target-dir"]).arg(target);
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    // What cargo says to this test would have build scripts run again that look at it.
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&variable);
        }
    }
    match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(other) => {
            build.args(["--profile", other]);
        }
    }
    if !build.status().context("cannot run cargo")?.success() {
        bail!("{package} does not build");
    }
    let path = profile.join(name);
    built.insert(name.to_owned(), path.clone());
    Ok(path)
}

fn lateend() -> Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| program("lateen-daemon", "lateend").map_err(|error| format!("{error:#}")));
    found.as_deref().map_err(|error| anyhow!("{error}"))
}

/// A `lateend` that reads a world's files, or a cluster. It is killed when dropped.
#[derive(Debug)]
pub struct Lateend {
    process: Process,
    program: PathBuf,
    directory: PathBuf,
    source: Source,
    addresses: Addresses,
}

/// Where it reads configuration.
#[derive(Debug, Clone)]
enum Source {
    Files { path: PathBuf, flags: Vec<String> },
    Cluster { kubeconfig: PathBuf, flags: Vec<String> },
}

#[derive(Debug, Clone, Copy)]
struct Addresses {
    plaintext: SocketAddr,
    secure: SocketAddr,
    http: SocketAddr,
    https: SocketAddr,
    monitoring: SocketAddr,
}

impl Lateend {
    /// Starts one on free ports, with its data and log in the world's directory, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not build, ends, or is not ready in time; with the end of its log.
    pub async fn start(world: &World) -> Result<Self> {
        Self::start_with(world, &[]).await
    }

    /// As [`Self::start`], with further flags.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(world: &World, flags: &[&str]) -> Result<Self> {
        let source = Source::Files {
            path: world.config().to_owned(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        let mut started = Self::launch(world.directory(), source)?;
        started.wait().await?;
        Ok(started)
    }

    /// Starts one that reads the cluster of a kubeconfig, with its data and log in a directory, and waits until it is
    /// ready. `flags` are given to it besides.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_in_cluster(kubeconfig: &Path, directory: &Path, flags: &[&str]) -> Result<Self> {
        let mut started = Self::launch_in_cluster(kubeconfig, directory, flags)?;
        started.wait().await?;
        Ok(started)
    }

    /// As [`Self::start_in_cluster`], without waiting.
    ///
    /// # Errors
    /// When it does not build or cannot be started.
    pub fn launch_in_cluster(kubeconfig: &Path, directory: &Path, flags: &[&str]) -> Result<Self> {
        let source = Source::Cluster {
            kubeconfig: kubeconfig.to_owned(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        Self::launch(directory, source)
    }

    /// As [`Self::start_in_cluster`], another build of it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_build(program: &Path, kubeconfig: &Path, directory: &Path) -> Result<Self> {
        let source = Source::Cluster {
            kubeconfig: kubeconfig.to_owned(),
            flags: Vec::new(),
        };
        let mut started = Self::launch_program(program, directory, source)?;
        started.wait().await?;
        Ok(started)
    }

    fn launch(directory: &Path, source: Source) -> Result<Self> {
        Self::launch_program(lateend()?, directory, source)
    }

    fn launch_program(program: &Path, directory: &Path, source: Source) -> Result<Self> {
        let port = || ports::free().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let addresses = Addresses {
            plaintext: port()?,
            secure: port()?,
            http: port()?,
            https: port()?,
            monitoring: port()?,
        };
        Ok(Self {
            process: spawn(program, directory, &source, addresses)?,
            program: program.to_owned(),
            directory: directory.to_owned(),
            source,
            addresses,
        })
    }

    /// Starts it again after [`Self::kill`], on the same ports and data, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_again(&mut self) -> Result<()> {
        self.process = spawn(&self.program, &self.directory, &self.source, self.addresses)?;
        self.wait().await
    }

    /// Ends it at once, as `kill -9` does.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where it serves ADS without TLS.
    pub fn plaintext(&self) -> SocketAddr {
        self.addresses.plaintext
    }

    /// Where it serves ADS and certificates with TLS.
    pub fn secure(&self) -> SocketAddr {
        self.addresses.secure
    }

    /// Where it serves readiness and debug endpoints.
    pub fn http_address(&self) -> SocketAddr {
        self.addresses.http
    }

    /// What its port of metrics answers.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn monitoring(&self, path: &str) -> Result<Answer> {
        http::get(self.addresses.monitoring, "lateend", path).await
    }

    /// What its HTTP port answers.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn http(&self, path: &str) -> Result<Answer> {
        http::get(self.addresses.http, "lateend", path).await
    }

    /// Whether it says that it is ready.
    pub async fn ready(&self) -> bool {
        self.http("/ready").await.is_ok_and(|answer| answer.status == 200)
    }

    /// Its findings about configuration and files.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub async fn push_status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.http("/debug/push_status").await?.body)?)
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        self.process.log(60)
    }

    /// All of its log.
    pub fn whole_log(&self) -> String {
        self.process.log(usize::MAX)
    }

    async fn wait(&mut self) -> Result<()> {
        let waiting = eventually("lateend is ready", STARTING, async || {
            if let Some(status) = self.process.ended() {
                return Some(Err(anyhow!("lateend ended: {status}")));
            }
            self.ready().await.then_some(Ok(()))
        });
        waiting.await.flatten().with_context(|| self.log())
    }
}

fn spawn(program: &Path, directory: &Path, source: &Source, addresses: Addresses) -> Result<Process> {
    let mut command = Command::new(program);
    // What this process is told of clusters is no business of the one under test.
    command.env_remove("KUBECONFIG");
    match source {
        Source::Files { path, flags } => command.arg("--config").arg(path).args(flags),
        Source::Cluster { kubeconfig, flags } => command.arg("--kubeconfig").arg(kubeconfig).args(flags),
    };
    command.arg("--data-dir").arg(directory.join("data"));
    command.arg("--cacerts").arg(directory.join("cacerts"));
    for (flag, address) in [
        ("--plaintext-address", addresses.plaintext),
        ("--secure-address", addresses.secure),
        ("--http-address", addresses.http),
        ("--https-address", addresses.https),
        ("--monitoring-address", addresses.monitoring),
    ] {
        command.arg(flag).arg(address.to_string());
    }
    Process::start(command, &directory.join("lateend.log"))
}
