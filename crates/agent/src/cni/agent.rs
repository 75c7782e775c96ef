//! The node agent: answers the plugin, and keeps it installed.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lateen_runtime::{Drain, Supervisor};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::install::Installer;
use super::kube::Kube;
use super::pod::{Interception, Pod};
use super::protocol::{self, Answer, Command, Question};
use super::status::{self, CniMetrics};
use super::{InstallArgs, SOCKET, repair};
use crate::config::Environment;

/// Pods set up at a time.
const MAXIMUM_REQUESTS: usize = 64;
/// How long the plugin is removed after the end has begun.
const GRACE: Duration = Duration::from_secs(20);

/// What setting up a pod takes.
pub(super) struct Worker {
    pub(super) kube: Kube,
    pub(super) metrics: CniMetrics,
    pub(super) host_proc: PathBuf,
    program: PathBuf,
    native_nftables: bool,
}

/// Runs until a signal.
///
/// # Errors
/// When the API server is not known, or a socket or port cannot be bound.
pub(crate) async fn run(args: InstallArgs, environment: Environment) -> anyhow::Result<()> {
    let interval = crate::config::parse_duration(&args.check_interval).context("--check-interval")?;
    let worker = Arc::new(Worker {
        kube: Kube::new(args.kube_api.as_deref(), &environment)?,
        metrics: CniMetrics::new()?,
        host_proc: args.host_proc.clone(),
        program: std::env::current_exe().context("this program's file")?,
        native_nftables: args.native_nftables,
    });
    let installer = Installer::new(&args)?;
    let listener = listen(&args)?;
    let (supervisor, failures) = Supervisor::new();
    let (ready, is_ready) = watch::channel(false);
    let drain = supervisor.drain();
    supervisor.spawn("plugin", serve(Arc::clone(&worker), listener, drain.clone()));
    let ports = (args.health_port, args.monitoring_port);
    let metrics = worker.metrics.clone();
    supervisor.spawn("status", status::serve(ports, is_ready, metrics, drain.clone()));
    if args.repair.enabled {
        let (worker, repair, drain) = (Arc::clone(&worker), args.repair.clone(), drain.clone());
        supervisor.spawn("repair", async move {
            tokio::select! {
                result = repair::run(worker, repair) => result,
                () = drain.started() => Ok(()),
            }
        });
    }
    supervisor.spawn("install", keep(worker, installer, args, interval, ready, drain));
    supervisor.run(failures, GRACE).await?;
    Ok(())
}

/// Only root may ask: what is asked changes a pod's network.
fn listen(args: &InstallArgs) -> anyhow::Result<UnixListener> {
    let folder = &args.cni_agent_run_dir;
    let path = folder.join(SOCKET);
    let name = || path.display().to_string();
    std::fs::create_dir_all(folder).with_context(name)?;
    crate::files::remove(&path)?;
    let listener = UnixListener::bind(&path).with_context(name)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).with_context(name)?;
    Ok(listener)
}

/// Keeps the plugin installed, and removes it at the end unless another agent follows.
async fn keep(
    worker: Arc<Worker>,
    mut installer: Installer,
    args: InstallArgs,
    interval: Duration,
    ready: watch::Sender<bool>,
    drain: Drain,
) -> anyhow::Result<()> {
    let mut last = String::new();
    loop {
        let result = installer.ensure();
        worker.metrics.ready.set(i64::from(result.is_ok()));
        ready.send_replace(result.is_ok());
        if result.is_ok() {
            last.clear();
        }
        match result {
            Ok(false) => {}
            Ok(true) => {
                worker.metrics.installs.with_label_values(&["SUCCESS"]).inc();
                tracing::info!("plugin installed");
            }
            Err(error) => {
                let error = format!("{error:#}");
                // Said once, not every second.
                if error != last {
                    worker.metrics.installs.with_label_values(&["FAILURE"]).inc();
                    tracing::warn!(error, "plugin not installed");
                    last = error;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = drain.started() => break,
        }
    }
    if followed(&worker.kube, &args).await {
        tracing::info!("another agent follows, the plugin stays and pods wait for it");
        return Ok(());
    }
    installer.remove()
}

/// Whether this agent is only replaced: its DaemonSet stays. Where nobody says so, pods must be able to start.
async fn followed(kube: &Kube, args: &InstallArgs) -> bool {
    let asked = async {
        let Some(pod) = kube.pod(&args.pod_namespace, &args.pod_name).await? else {
            return Ok(false);
        };
        let owners = pod.metadata.owner_references.iter();
        match owners.into_iter().find(|owner| owner.kind == "DaemonSet") {
            Some(owner) => kube.daemon_set_stays(&args.pod_namespace, &owner.name).await,
            None => Ok(false),
        }
    };
    if args.pod_name.is_empty() {
        return false;
    }
    let result: anyhow::Result<bool> = asked.await;
    result
        .inspect_err(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "whether another agent follows is not known"
            )
        })
        .unwrap_or(false)
}

async fn serve(worker: Arc<Worker>, listener: UnixListener, drain: Drain) -> anyhow::Result<()> {
    let mut requests = JoinSet::new();
    loop {
        while requests.try_join_next().is_some() {}
        if requests.len() >= MAXIMUM_REQUESTS {
            requests.join_next().await;
            continue;
        }
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.context("the plugin's socket")?,
            () = drain.started() => break,
        };
        let worker = Arc::clone(&worker);
        requests.spawn(async move {
            if let Err(error) = converse(&worker, stream).await {
                tracing::warn!(error = format!("{error:#}"), "request of the plugin");
            }
        });
    }
    // Who has asked is answered.
    while requests.join_next().await.is_some() {}
    Ok(())
}

async fn converse(worker: &Worker, stream: tokio::net::UnixStream) -> anyhow::Result<()> {
    let mut stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let read = tokio::task::spawn_blocking(move || {
        let read = protocol::read(&mut stream);
        (stream, read)
    });
    let (mut stream, read) = read.await?;
    let (question, network) = read?;
    let result = worker.answer(&question, network).await;
    let code = if result.is_ok() { "200" } else { "500" };
    worker.metrics.requests.with_label_values(&[code]).inc();
    if let Err(error) = &result {
        tracing::warn!(
            error = format!("{error:#}"),
            pod = question.pod,
            namespace = question.namespace,
            "pod not set up"
        );
    }
    let answer = Answer {
        error: result.err().map(|error| format!("{error:#}")),
    };
    tokio::task::spawn_blocking(move || protocol::answer(&mut stream, &answer)).await?
}

// === impl Worker ===

impl Worker {
    async fn answer(&self, question: &Question, network: Option<OwnedFd>) -> anyhow::Result<()> {
        if question.command == Command::Status {
            return Ok(());
        }
        let network = network.context("the plugin sent no network namespace")?;
        let pod = self.kube.pod(&question.namespace, &question.pod).await?;
        let pod = pod.context("the API server does not know the pod")?;
        match question.command {
            Command::Check => self.check(&pod, &network).await,
            _ => self.set_up(&pod, &network).await,
        }
    }

    /// Puts the pod's rules in place, if it is to have any.
    pub(super) async fn set_up(&self, pod: &Pod, network: &OwnedFd) -> anyhow::Result<()> {
        let (name, namespace) = (&pod.metadata.name, &pod.metadata.namespace);
        match self.command(pod, network) {
            Err(reason) => tracing::info!(pod = name, namespace, reason, "pod left alone"),
            Ok(command) => {
                finish(command).await?;
                tracing::info!(pod = name, namespace, "pod set up");
            }
        }
        Ok(())
    }

    async fn check(&self, pod: &Pod, network: &OwnedFd) -> anyhow::Result<()> {
        let Ok(mut command) = self.command(pod, network) else {
            return Ok(());
        };
        command.arg("--is-applied");
        finish(command).await
    }

    /// This program's own command, in a process of its own: it moves to the pod's network namespace.
    fn command(&self, pod: &Pod, network: &OwnedFd) -> Result<tokio::process::Command, &'static str> {
        let (arguments, variables) = match pod.interception() {
            Interception::None(reason) => return Err(reason),
            Interception::Rules { arguments, variables } => (arguments, variables),
        };
        let mut command = tokio::process::Command::new(&self.program);
        let path = format!("/proc/{}/fd/{}", std::process::id(), network.as_raw_fd());
        command
            .args(["istio-iptables", "--network-namespace", &path])
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(variables)
            .env("LATEEN_LOG", "warn")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if self.native_nftables {
            command.arg("--native-nftables");
        }
        Ok(command)
    }
}

async fn finish(mut command: tokio::process::Command) -> anyhow::Result<()> {
    let output = command.output().await.context("interception")?;
    if !output.status.success() {
        bail!("interception: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
