//! The node agent's readiness and metrics, by Istio's names.

use std::net::{Ipv6Addr, SocketAddr};

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use lateen_runtime::Drain;
use lateen_runtime::metrics::{IntCounterVec, IntGauge, Metrics};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What is counted.
#[derive(Debug, Clone)]
pub(super) struct CniMetrics {
    registry: Metrics,
    /// By result: SUCCESS, or what went wrong.
    pub(super) installs: IntCounterVec,
    pub(super) ready: IntGauge,
    /// By type (repair, delete, label) and result.
    pub(super) repairs: IntCounterVec,
    /// By response code.
    pub(super) requests: IntCounterVec,
}

impl CniMetrics {
    /// All zero.
    ///
    /// # Errors
    /// When a name is taken, which none is.
    pub(super) fn new() -> anyhow::Result<Self> {
        let registry = Metrics::new();
        registry.add_process()?;
        Ok(Self {
            installs: registry.counters("istio_cni_installs_total", "Installations of the plugin.", &["result"])?,
            ready: registry.gauge("istio_cni_install_ready", "Whether the plugin is installed.")?,
            repairs: registry.counters(
                "istio_cni_repair_pods_repaired_total",
                "Pods repaired.",
                &["type", "result"],
            )?,
            requests: registry.counters(
                "istio_cni_plugin_requests_total",
                "Requests of the plugin.",
                &["response_code"],
            )?,
            registry,
        })
    }
}

/// Serves readiness and metrics.
///
/// # Errors
/// When a port cannot be bound.
pub(super) async fn serve(
    (health, monitoring): (u16, u16),
    ready: watch::Receiver<bool>,
    metrics: CniMetrics,
    drain: Drain,
) -> anyhow::Result<()> {
    let readiness = move || {
        let code = if *ready.borrow() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        std::future::ready(code)
    };
    let health = (
        health,
        Router::new()
            .route("/readyz", get(readiness))
            .route("/healthz", get(|| std::future::ready(StatusCode::OK))),
    );
    let text = move || {
        let text = metrics.registry.encode();
        std::future::ready(text.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
    };
    let monitoring = (monitoring, Router::new().route("/metrics", get(text)));
    let mut servers = Vec::new();
    for (port, router) in [health, monitoring] {
        let listener = bind(port).await?;
        servers.push(lateen_runtime::admin::serve(listener, router, drain.clone()));
    }
    futures::future::try_join_all(servers).await?;
    Ok(())
}

/// All addresses, of both IP versions where the machine has both.
async fn bind(port: u16) -> anyhow::Result<TcpListener> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match TcpListener::bind(both).await {
        Ok(listener) => Ok(listener),
        Err(_) => {
            let v4 = SocketAddr::from(([0, 0, 0, 0], port));
            TcpListener::bind(v4).await.with_context(|| v4.to_string())
        }
    }
}
