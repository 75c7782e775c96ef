//! Envoy as a child process: started with the generated bootstrap, restarted if that is wanted, drained and ended when
//! the agent ends.

mod connections;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http::Method;
use lateen_runtime::{Drain, Shutdown};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::config::{AgentConfig, DrainConfig, Role};
use crate::grpc;
use crate::http_client;

const ADMIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long Envoy may take to end when it is told to.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// An Envoy that ran this long was well: its end starts the pauses anew.
const WELL_AFTER: Duration = Duration::from_secs(60);
const CONNECTION_CHECKS: Duration = Duration::from_secs(1);
/// Failed looks at Envoy's connections after which the drain is given up.
const MAXIMUM_FAILED_CHECKS: usize = 5;

/// How Envoy is started.
#[derive(Debug)]
pub(crate) struct EnvoyConfig {
    binary: PathBuf,
    arguments: Vec<String>,
    restarts: u32,
    drain: DrainConfig,
    controls: Controls,
    connections: connections::OwnListeners,
}

/// Handles on the running Envoy for the status port.
#[derive(Debug, Clone)]
pub(crate) struct Controls(Arc<ControlsInner>);

#[derive(Debug)]
struct ControlsInner {
    admin: SocketAddr,
    inbound_only: bool,
    /// Draining has begun early or is not wanted: end at once when told to end.
    skip_drain: AtomicBool,
    shutdown: Shutdown,
}

// === impl Controls ===

impl Controls {
    /// For the Envoy with this admin interface.
    pub(crate) fn new(config: &AgentConfig, shutdown: Shutdown) -> Self {
        Self(Arc::new(ControlsInner {
            admin: config.admin(),
            inbound_only: config.role == Role::Sidecar,
            skip_drain: AtomicBool::new(false),
            shutdown,
        }))
    }

    /// Ends the process at once, without draining.
    pub(crate) fn quit(&self) {
        self.0.skip_drain.store(true, Ordering::Relaxed);
        self.0.shutdown.begin();
    }

    /// Drains now and goes on serving until told to end, which is then at once.
    ///
    /// # Errors
    /// When Envoy cannot be told.
    pub(crate) async fn drain_now(&self) -> anyhow::Result<()> {
        self.0.skip_drain.store(true, Ordering::Relaxed);
        self.drain_listeners(true).await
    }

    /// Tells clients to go elsewhere, while their requests are still served. A sidecar drains inbound only: the
    /// application may need outbound to finish.
    async fn drain_listeners(&self, skip_exit: bool) -> anyhow::Result<()> {
        let inbound = if self.0.inbound_only { "inboundonly&" } else { "" };
        let skip = if skip_exit { "&skip_exit" } else { "" };
        let path = format!("/drain_listeners?{inbound}graceful{skip}");
        let (status, body) = http_client::short(self.0.admin, Method::POST, &path, "", ADMIN_TIMEOUT, 64 << 10).await?;
        if !status.is_success() {
            bail!("Envoy does not drain: {status}: {}", body.trim());
        }
        Ok(())
    }
}

// === impl EnvoyConfig ===

impl EnvoyConfig {
    /// Puts Envoy's arguments together.
    ///
    /// # Errors
    /// When the drain duration or an override cannot be read.
    pub(crate) fn new(
        config: &AgentConfig,
        args: &crate::cli::ProxyArgs,
        bootstrap: &Path,
        controls: Controls,
    ) -> anyhow::Result<Self> {
        let proxy = &config.proxy;
        let drain = crate::config::parse_duration(&proxy.drain_duration).context("ProxyConfig.drainDuration")?;
        let flush = match &proxy.file_flush_interval {
            Some(text) => crate::config::parse_duration(text).context("ProxyConfig.fileFlushInterval")?,
            None => Duration::from_secs(1),
        };
        let (level, components) = log_levels(&args.proxy_log_level);
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        add("-c", bootstrap.display().to_string());
        // Whole seconds, and zero would mean no drain at all.
        add("--drain-time-s", drain.as_secs().max(1).to_string());
        add("--drain-strategy", "immediate".into());
        add(
            "--local-address-ip-version",
            if config.ipv6_only() { "v6" } else { "v4" }.into(),
        );
        add("--file-flush-interval-msec", flush.as_millis().to_string());
        if let Some(size) = proxy.file_flush_min_size_kb.filter(|size| *size > 0) {
            add("--file-flush-min-size-kb", size.to_string());
        }
        if let Some(level) = level {
            add("-l", level);
        }
        if let Some(components) = components
            .or_else(|| args.proxy_component_log_level.clone())
            .filter(|text| !text.is_empty())
        {
            add("--component-log-level", components);
        }
        if let Some(text) = bootstrap_override(config)? {
            add("--config-yaml", text);
        }
        if let Some(workers) = proxy.concurrency.filter(|workers| *workers > 0) {
            add("--concurrency", workers.to_string());
        }
        arguments.extend(["--disable-hot-restart", "--allow-unknown-static-fields"].map(str::to_owned));
        if config.environment.flag("ENVOY_SKIP_DEPRECATED_LOGS", true)? {
            arguments.push("--skip-deprecated-logs".into());
        }
        if config.environment.flag("ISTIO_ENVOY_ENABLE_CORE_DUMP", false)? {
            arguments.push("--enable-core-dump".into());
        }
        arguments.extend(args.envoy_args.iter().cloned());
        Ok(Self {
            binary: proxy.binary_path.clone().into(),
            arguments,
            restarts: args.envoy_restarts,
            drain: config.drain.clone(),
            connections: connections::OwnListeners::new(&config.wildcard().to_string(), &config.ports),
            controls,
        })
    }
}

/// `info,upstream:debug` as a level and components' levels.
fn log_levels(text: &str) -> (Option<String>, Option<String>) {
    let (components, levels): (Vec<&str>, Vec<&str>) = text
        .split(',')
        .filter(|part| !part.is_empty())
        .partition(|part| part.contains(':'));
    let components = (!components.is_empty()).then(|| components.join(","));
    (levels.last().map(|level| (*level).to_owned()), components)
}

/// A user's bootstrap to lay over the generated one.
fn bootstrap_override(config: &AgentConfig) -> anyhow::Result<Option<String>> {
    let Some(path) = config.environment.get("ISTIO_BOOTSTRAP_OVERRIDE") else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("ISTIO_BOOTSTRAP_OVERRIDE {path}"))?;
    let host = config.environment.get("HOST_IP").unwrap_or_default();
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    Ok(Some(text.replace("[$(HOST_IP)]", &host).replace("$(HOST_IP)", &host)))
}

/// Runs Envoy until the process is told to end, then drains and ends it. Whatever way this returns, Envoy is gone, and
/// `done` tells the agent's other parts that nobody needs them any more.
///
/// # Errors
/// When Envoy cannot be started, or ends by itself more often than it may be restarted.
pub(crate) async fn run(config: EnvoyConfig, drain: Drain, done: CancellationToken) -> anyhow::Result<()> {
    let result = supervise(&config, &drain).await;
    // In this order: parts that end while the process is not ending would be failures of their own.
    config.controls.0.shutdown.begin();
    done.cancel();
    result
}

async fn supervise(config: &EnvoyConfig, drain: &Drain) -> anyhow::Result<()> {
    let mut pauses = grpc::pauses();
    let mut restarts = 0;
    loop {
        let started = Instant::now();
        let mut child = start(config)?;
        let status = tokio::select! {
            status = child.wait() => status?,
            () = drain.started() => return end(config, child).await,
        };
        if started.elapsed() > WELL_AFTER {
            (pauses, restarts) = (grpc::pauses(), 0);
        }
        if restarts >= config.restarts {
            bail!("Envoy ended by itself: {}", explain(status));
        }
        restarts += 1;
        let pause = pauses.next().unwrap_or_default();
        tracing::error!(
            status = explain(status),
            restarts,
            ?pause,
            "Envoy ended by itself, starting it again"
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = drain.started() => return Ok(()),
        }
    }
}

fn start(config: &EnvoyConfig) -> anyhow::Result<Child> {
    tracing::info!(binary = %config.binary.display(), arguments = config.arguments.join(" "), "starting Envoy");
    Command::new(&config.binary)
        .args(&config.arguments)
        .stdin(std::process::Stdio::null())
        // A terminal's Ctrl-C goes to its whole process group: Envoy's end is the agent's to decide.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| {
            format!(
                "cannot start Envoy `{}`: set ProxyConfig.binaryPath or --envoy",
                config.binary.display()
            )
        })
}

fn explain(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    const SIGKILL: i32 = 9;
    match status.signal() {
        Some(SIGKILL) => "killed; perhaps out of memory".to_owned(),
        _ => status.to_string(),
    }
}

/// Drains as long as configured, then ends Envoy.
async fn end(config: &EnvoyConfig, mut child: Child) -> anyhow::Result<()> {
    if !config.controls.0.skip_drain.load(Ordering::Relaxed) {
        if let Err(error) = config.controls.drain_listeners(false).await {
            tracing::warn!(error = format!("{error:#}"), "draining");
        }
        let drained = async {
            if config.drain.exit_on_zero_connections {
                tracing::info!(minimum = ?config.drain.minimum, "draining until no connection is left");
                tokio::time::sleep(config.drain.minimum).await;
                connections_gone(config).await;
            } else {
                tracing::info!(duration = ?config.drain.termination, "draining");
                tokio::time::sleep(config.drain.termination).await;
            }
        };
        tokio::select! {
            () = drained => {}
            status = child.wait() => {
                tracing::warn!(status = explain(status?), "Envoy ended before the drain was over");
                return Ok(());
            }
        }
    }
    if let Some(pid) = child
        .id()
        .and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()))
    {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("ending Envoy")?;
    }
    match tokio::time::timeout(END_TIMEOUT, child.wait()).await {
        Ok(status) => tracing::info!(status = explain(status?), "Envoy ended"),
        Err(_) => {
            tracing::warn!(timeout = ?END_TIMEOUT, "Envoy does not end, killing it");
            child.kill().await.context("killing Envoy")?;
        }
    }
    Ok(())
}

/// Returns once no client is connected, or the longest drain is over, or Envoy does not tell.
async fn connections_gone(config: &EnvoyConfig) {
    let deadline = Instant::now() + config.drain.maximum.saturating_sub(config.drain.minimum);
    let mut failures = 0;
    while Instant::now() < deadline {
        match config.connections.active(config.controls.0.admin).await {
            Ok(0) => return,
            Ok(active) => {
                failures = 0;
                tracing::info!(active, "connections left");
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(error = format!("{error:#}"), failures, "connections unknown");
                if failures >= MAXIMUM_FAILED_CHECKS {
                    return;
                }
            }
        }
        tokio::time::sleep(CONNECTION_CHECKS).await;
    }
    tracing::warn!(maximum = ?config.drain.maximum, "longest drain is over with connections left");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_levels_are_split() {
        assert_eq!(log_levels("warning"), (Some("warning".into()), None));
        assert_eq!(
            log_levels("info,upstream:debug,misc:error"),
            (Some("info".into()), Some("upstream:debug,misc:error".into()))
        );
    }
}
