//! `lateend`, the control plane: reads configuration, is the mesh's certificate authority, and steers proxies over ADS.

mod cluster;
mod config;
mod control;
mod controllers;
mod debug;
mod listen;
mod metrics;
mod pipeline;
mod request;
mod secrets;
mod sockets;
mod trust;
mod version;
mod webhooks;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use axum::routing::get;
use clap::Parser as _;
use lateen_ca::CertificateService;
use lateen_distribute::{Distributor, ProgressMetrics};
use lateen_runtime::admin::Admin;
use lateen_runtime::metrics::Metrics;
use lateen_runtime::{Readiness, Supervisor, logging};
use lateen_xds::{AdsService, Sessions, Settings, XdsMetrics};
use tonic::service::Routes;

use crate::config::{Cli, Command, Config, LogFormat};
use crate::debug::{Access, Debug, Steering};
use crate::secrets::Secrets;
use crate::sockets::{Services, Sockets};
use crate::trust::{MeshTrust, Trust};

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// More than any agent's request.
const CA_REQUEST_LIMIT: usize = 64 * 1024;

/// Failures to reach the API server are reported by who reads it, once; its client would repeat each attempt's.
const CLIENT_LOG: &str = "kube_client=off,kube_runtime=off";

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => run(cli.config).await,
        Some(Command::Request(request)) => request.run().await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lateend: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> Result<()> {
    let format = match config.log_format {
        LogFormat::Text => logging::Format::Text,
        LogFormat::Json => logging::Format::Json,
    };
    let levels = logging::init(format, &format!("{CLIENT_LOG},{}", config.log))?;
    let cluster = cluster::connect_to(&config).await?;
    let api_server = match &cluster {
        Some(_) => lateen_sources::kube::api_server(config.kubeconfig.as_deref()).await,
        None => BTreeSet::new(),
    };
    let sockets = Sockets::bind(&config).await?;
    let metrics = Metrics::new();
    metrics.add_process()?;
    metrics::process(&metrics)?;
    let (supervisor, failures) = Supervisor::new();
    let readiness = Readiness::new();

    let trust = match &cluster {
        Some(client) => {
            let mesh = MeshTrust::read(&config, client.clone()).await?;
            trust::open_in_cluster(&config, client.clone(), mesh, &metrics, &supervisor).await?
        }
        None => trust::open(&config, &metrics, &supervisor)?,
    };
    let pipeline = pipeline::start(&config, cluster.clone(), api_server, &supervisor, &readiness, &metrics)?;
    let distributor = Distributor::new(
        pipeline.snapshots.clone(),
        Box::new(|node, snapshot| {
            lateen_lower::node::proxy_from_node(node, snapshot).map_err(|error| error.to_string())
        }),
        ProgressMetrics::new(&metrics)?,
    );
    supervisor.spawn("distribute", distributor.clone().run());
    let secrets = cluster.clone().map(Secrets::new);
    if let Some(client) = cluster {
        let inputs = controllers::Inputs::new(client, &trust, &pipeline, &distributor);
        controllers::start(&config, &pod_name(), inputs, &supervisor);
    }

    let sessions = Sessions::new();
    let instance = instance(&config);
    let settings = Settings {
        identifier: version::control_plane(&instance).to_string(),
        ..Settings::default()
    };
    let xds_metrics = XdsMetrics::new(&metrics)?;
    let debug = Debug {
        distributor: distributor.clone(),
        sessions: sessions.clone(),
        snapshots: pipeline.snapshots,
        objects: pipeline.objects,
        access: Arc::new(access(&config, &trust)),
        instance: instance.into(),
        cluster: config.cluster_id.clone(),
    };
    let ads = AdsService::new(
        Steering {
            distributor,
            debug: debug.clone(),
            secrets,
        },
        settings,
        sessions,
        xds_metrics,
        supervisor.drain(),
    );
    let mut authority = CertificateService::new(trust.authority.clone(), Arc::clone(&trust.authenticator))
        .with_allowance(trust::allowance(&config))
        .with_audit(trust::audit_log(&config, &trust.authority)?);
    if let Some(nodes) = &trust.nodes {
        authority = authority.with_nodes(Arc::clone(nodes));
    }
    if let Some(signer) = &trust.external {
        authority = authority.with_external(Arc::clone(signer));
    }
    let authority = authority.into_server().max_decoding_message_size(CA_REQUEST_LIMIT);

    let webhooks = webhooks::router(pipeline.injection.clone(), &metrics)?;
    let admin = Admin {
        readiness,
        metrics,
        drain: supervisor.drain(),
    };
    let router = admin.router();
    let webhooks = router.clone().merge(webhooks);
    let mut http = router.route("/version", get(|| async { version::line() }));
    if config.debug_on_http {
        http = http.merge(debug.router());
    }
    let services = Services {
        plaintext: Routes::new(ads.clone()),
        secure: Routes::new(authority).add_service(ads),
        trust,
        webhooks,
        http,
        control: control::router(levels),
    };
    sockets.serve(services, &config, &supervisor)?;
    supervisor.run(failures, config.grace).await?;
    Ok(())
}

/// The name of this instance among those of the mesh: that of its pod.
fn instance(config: &Config) -> String {
    format!("{}.{}", pod_name(), config.namespace)
}

fn pod_name() -> String {
    std::env::var("POD_NAME")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_else(|_| "lateend".to_owned())
}

fn access(config: &Config, trust: &Trust) -> Access {
    Access {
        authenticator: Arc::clone(&trust.authenticator),
        system_namespace: config.namespace.clone(),
        namespaces: config.debug_namespaces.iter().cloned().collect(),
        by_namespace: config.debug_by_namespace,
    }
}
