//! `proxy`: all parts put together.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use lateen_runtime::Supervisor;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ads::{self, AdsProxy, OnDemand};
use crate::bootstrap;
use crate::certificates::{self, SecretStore};
use crate::cli::ProxyArgs;
use crate::config::{AgentConfig, Environment, Role};
use crate::dns;
use crate::envoy::{self, Controls, EnvoyConfig};
use crate::metrics::Metrics;
use crate::sds;
use crate::status::{self, Probers, Readiness, ScrapeConfig, StatusServer};
use crate::wasm::Modules;

/// Where the agent serves the workload's certificate.
const WORKLOAD_SOCKET: &str = "./var/run/secrets/workload-spiffe-uds/socket";
/// What the generated bootstrap is called, by Istio's name.
const BOOTSTRAP_FILE: &str = "envoy-rev.json";
/// Beyond the drain: for Envoy's end.
const END_GRACE: Duration = Duration::from_secs(15);

/// Runs the agent and its Envoy until a signal or Envoy's own end.
pub(crate) async fn run(args: ProxyArgs, environment: Environment, log_as_json: bool) -> anyhow::Result<()> {
    if let Some(root) = &args.root_dir {
        std::fs::create_dir_all(root).with_context(|| format!("--root-dir {}", root.display()))?;
        // Envoy inherits it: relative paths mean the same to both, and sockets' paths stay short.
        std::env::set_current_dir(root).with_context(|| format!("--root-dir {}", root.display()))?;
    }
    let config = AgentConfig::load(&args, environment, log_as_json)?;
    let bootstrap = serde_json::to_vec_pretty(&bootstrap::build(&config)?)?;
    if args.print_bootstrap {
        println!("{}", String::from_utf8_lossy(&bootstrap));
        return Ok(());
    }
    config.check_files()?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = config.node_id(),
        control_plane = config.upstream.address,
        "starting"
    );
    let (supervisor, failures) = Supervisor::new();
    // Everything serves Envoy until Envoy is gone.
    let stop = CancellationToken::new();
    let metrics = Arc::new(Metrics::new());
    let store = SecretStore::new();
    spawn_certificates(&supervisor, &config, &store, &metrics, &stop);
    let names = spawn_dns(&supervisor, &config, &metrics, &stop);
    let controls = Controls::new(&config, supervisor.shutdown());
    let status = StatusServer {
        listen: SocketAddr::new(config.wildcard(), config.ports.status),
        readiness: Readiness::new(config.envoy_enabled.then(|| config.admin())),
        scrape: scrape(&config)?,
        probers: Probers::parse(
            config.environment.get("ISTIO_KUBE_APP_PROBERS"),
            probe_destination(&config)?,
            config.environment.flag("ISTIO_ENABLE_HTTP2_PROBING", true)?,
        )?,
        controls: controls.clone(),
        store: store.clone(),
        names: names
            .as_ref()
            .filter(|_| config.role == Role::Sidecar)
            .map(watch::Sender::subscribe),
        metrics: Arc::clone(&metrics),
    };
    let modules = config.wasm.clone();
    let modules = modules.map(|wasm| Arc::new(Modules::new(wasm, Arc::clone(&metrics))));
    let on_demand = spawn_on_demand(&supervisor, &config, &stop);
    let ads = AdsProxy {
        config: config.upstream.clone(),
        store,
        metrics,
        names,
        modules,
        on_demand,
    };
    spawn(&supervisor, "ads", ads::serve(Arc::new(ads), stop.clone()));
    if config.ports.status != 0 {
        spawn(&supervisor, "status", status::serve(Arc::new(status), stop.clone()));
    }
    if config.envoy_enabled {
        let file = write_bootstrap(&config, &bootstrap)?;
        let envoy = EnvoyConfig::new(&config, &args, &file, controls)?;
        spawn(&supervisor, "envoy", envoy::run(envoy, supervisor.drain(), stop));
    } else {
        let drain = supervisor.drain();
        supervisor.spawn("lifetime", async move {
            drain.started().await;
            stop.cancel();
        });
    }
    let longest = if config.drain.exit_on_zero_connections {
        config.drain.maximum
    } else {
        config.drain.termination
    };
    supervisor.run(failures, longest + END_GRACE).await?;
    Ok(())
}

fn spawn<F>(supervisor: &Supervisor, name: &str, future: F)
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    supervisor.spawn(name, future);
}

fn spawn_certificates(
    supervisor: &Supervisor,
    config: &AgentConfig,
    store: &SecretStore,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) {
    let certificates = &config.certificates;
    let socket = if certificates.external_socket {
        tracing::info!("the workload's certificate is served by somebody else, only files are served here");
        bootstrap::FILES_SOCKET
    } else {
        WORKLOAD_SOCKET
    };
    if certificates.mounted.is_none() && !certificates.external_socket {
        let keep = certificates::keep_workload_certificate(
            certificates.clone(),
            store.clone(),
            Arc::clone(metrics),
            stop.clone(),
        );
        supervisor.spawn("certificate", keep);
    }
    supervisor.spawn(
        "files",
        certificates::watch_files(certificates.clone(), store.clone(), stop.clone()),
    );
    let (store, stop) = (store.clone(), stop.clone());
    spawn(supervisor, "sds", async move {
        sds::serve(Path::new(socket), store, stop).await
    });
}

/// Starts the DNS proxy if it is wanted; the result is where name tables go.
fn spawn_dns(
    supervisor: &Supervisor,
    config: &AgentConfig,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> Option<watch::Sender<Option<Arc<ads::NameTable>>>> {
    let dns = config.dns.clone()?;
    let (sender, receiver) = watch::channel(None);
    spawn(
        supervisor,
        "dns",
        dns::serve(dns, receiver, Arc::clone(metrics), stop.clone()),
    );
    Some(sender)
}

/// Takes what Envoy asks for on demand, if the control plane is told so.
fn spawn_on_demand(supervisor: &Supervisor, config: &AgentConfig, stop: &CancellationToken) -> Option<Arc<OnDemand>> {
    let on_demand = Arc::new(OnDemand::new(config.on_demand_idle?));
    if config.envoy_enabled {
        let watch = ads::watch_usage(Arc::clone(&on_demand), config.admin(), stop.clone());
        supervisor.spawn("usage", watch);
    }
    Some(on_demand)
}

/// A gateway's agent port is open to others, so it shows no metrics of an application.
fn scrape(config: &AgentConfig) -> anyhow::Result<ScrapeConfig> {
    let annotations = config
        .environment
        .get("ISTIO_PROMETHEUS_ANNOTATIONS")
        .filter(|_| config.role == Role::Sidecar);
    Ok(ScrapeConfig {
        envoy: config.envoy_enabled.then(|| config.admin()),
        application: status::targets(annotations, config.app_address, config.ports.status)?,
    })
}

/// Kubelet would ask at the pod's address.
fn probe_destination(config: &AgentConfig) -> anyhow::Result<std::net::IpAddr> {
    if config
        .environment
        .flag("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", false)?
    {
        return Ok(config.loopback());
    }
    Ok(config
        .instance_ips
        .first()
        .copied()
        .unwrap_or_else(|| config.loopback()))
}

/// Where Envoy reads its bootstrap: generated, or the user's own.
fn write_bootstrap(config: &AgentConfig, bootstrap: &[u8]) -> anyhow::Result<std::path::PathBuf> {
    if !config.proxy.custom_config_file.is_empty() {
        return Ok(config.proxy.custom_config_file.clone().into());
    }
    let folder = Path::new(&config.proxy.config_path);
    let file = folder.join(BOOTSTRAP_FILE);
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, bootstrap));
    written.with_context(|| format!("bootstrap {}", file.display()))?;
    Ok(file)
}
