//! `lateend`, the control plane: reads configuration, is the mesh's certificate authority, and steers proxies over ADS.

mod cluster;
mod config;
mod controllers;
mod debug;
mod listen;
mod metrics;
mod pipeline;
mod trust;
mod version;
mod webhooks;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::routing::get;
use clap::Parser as _;
use lateen_ca::CertificateService;
use lateen_distribute::{Distributor, ProgressMetrics};
use lateen_runtime::admin::{self, Admin};
use lateen_runtime::metrics::Metrics;
use lateen_runtime::{Readiness, Supervisor, logging};
use lateen_xds::{AdsService, Sessions, Settings, XdsMetrics};
use tokio::net::TcpListener;
use tonic::service::Routes;

use crate::config::{Config, LogFormat};
use crate::debug::{Access, Debug, Steering};
use crate::listen::Security;
use crate::trust::Trust;

/// More than any agent's request.
const CA_REQUEST_LIMIT: usize = 64 * 1024;

/// Failures to reach the API server are reported by who reads it, once; its client would repeat each attempt's.
const CLIENT_LOG: &str = "kube_client=off,kube_runtime=off";

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    match run(config).await {
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
    logging::init(format, &format!("{CLIENT_LOG},{}", config.log))?;
    let cluster = cluster::connect_to(&config).await?;
    let sockets = Sockets::bind(&config).await?;
    let metrics = Metrics::new();
    metrics.add_process()?;
    metrics::process(&metrics)?;
    let (supervisor, failures) = Supervisor::new();
    let readiness = Readiness::new();

    let trust = match &cluster {
        Some(client) => trust::open_in_cluster(&config, client.clone(), &metrics, &supervisor).await?,
        None => trust::open(&config, &metrics, &supervisor)?,
    };
    let pipeline = pipeline::start(&config, cluster.clone(), &supervisor, &readiness, &metrics)?;
    let distributor = Distributor::new(
        pipeline.snapshots.clone(),
        Box::new(|node, snapshot| {
            lateen_lower::node::proxy_from_node(node, snapshot).map_err(|error| error.to_string())
        }),
        ProgressMetrics::new(&metrics)?,
    );
    supervisor.spawn("distribute", distributor.clone().run());
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
    };
    let ads = AdsService::new(
        Steering {
            distributor,
            debug: debug.clone(),
        },
        settings,
        sessions,
        xds_metrics,
        supervisor.drain(),
    );
    let mut authority = CertificateService::new(trust.authority.clone(), Arc::clone(&trust.authenticator));
    if let Some(nodes) = &trust.nodes {
        authority = authority.with_nodes(Arc::clone(nodes));
    }
    let authority = authority.into_server().max_decoding_message_size(CA_REQUEST_LIMIT);

    let webhooks = webhooks::router(pipeline.injection.clone(), &metrics)?;
    let admin = Admin {
        readiness,
        metrics,
        drain: supervisor.drain(),
    };
    let addresses = sockets.addresses()?;
    let Sockets {
        plaintext,
        secure,
        http,
        https,
        monitoring,
    } = sockets;
    if let Some(listener) = plaintext {
        tracing::warn!("ADS without TLS is on: whoever reaches it gets configuration");
        let routes = Routes::new(ads.clone());
        supervisor.spawn(
            "plaintext",
            listen::serve(listener, Security::Plaintext, routes, supervisor.drain()),
        );
    }
    let tls = trust.authority.server_tls_config()?;
    let security = Security::Tls {
        config: Arc::clone(&tls),
        authenticator: Arc::clone(&trust.authenticator),
    };
    let routes = Routes::new(authority).add_service(ads);
    supervisor.spawn("secure", listen::serve(secure, security, routes, supervisor.drain()));
    let router = admin.clone().router();
    supervisor.spawn(
        "webhooks",
        listen::serve_https(https, tls, router.clone().merge(webhooks), supervisor.drain()),
    );
    let mut router = router.route("/version", get(|| async { version::line() }));
    if config.debug_on_http {
        router = router.merge(debug.router());
    }
    supervisor.spawn("http", admin::serve(http, router.clone(), supervisor.drain()));
    supervisor.spawn("monitoring", admin::serve(monitoring, router, supervisor.drain()));

    tracing::info!(
        secure = %addresses.secure, http = %addresses.http, https = %addresses.https, monitoring = %addresses.monitoring,
        plaintext = addresses.plaintext.map(tracing::field::display), version = env!("CARGO_PKG_VERSION"), "lateend listens"
    );
    if let Some(path) = &config.addresses_file {
        addresses.write(path)?;
    }
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

/// Everything that is listened on.
struct Sockets {
    plaintext: Option<TcpListener>,
    secure: TcpListener,
    http: TcpListener,
    https: TcpListener,
    monitoring: TcpListener,
}

/// Where everything is listened on.
#[derive(serde::Serialize)]
struct Addresses {
    plaintext: Option<SocketAddr>,
    secure: SocketAddr,
    http: SocketAddr,
    https: SocketAddr,
    monitoring: SocketAddr,
}

impl Sockets {
    async fn bind(config: &Config) -> Result<Self> {
        let plaintext = match config.plaintext_address {
            Some(address) => Some(listen::bind("plaintext-address", address).await?),
            None => None,
        };
        Ok(Self {
            plaintext,
            secure: listen::bind("secure-address", config.secure_address).await?,
            http: listen::bind("http-address", config.http_address).await?,
            https: listen::bind("https-address", config.https_address).await?,
            monitoring: listen::bind("monitoring-address", config.monitoring_address).await?,
        })
    }

    fn addresses(&self) -> Result<Addresses> {
        Ok(Addresses {
            plaintext: self.plaintext.as_ref().map(TcpListener::local_addr).transpose()?,
            secure: self.secure.local_addr()?,
            http: self.http.local_addr()?,
            https: self.https.local_addr()?,
            monitoring: self.monitoring.local_addr()?,
        })
    }
}

impl Addresses {
    /// Written whole or not at all: who waits for the file may read it at once.
    fn write(&self, path: &Path) -> Result<()> {
        let part = path.with_extension("part");
        std::fs::write(&part, serde_json::to_vec(self)?)
            .and_then(|()| std::fs::rename(&part, path))
            .with_context(|| format!("--addresses-file {}", path.display()))
    }
}
