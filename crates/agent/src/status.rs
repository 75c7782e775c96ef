//! The agent's HTTP port: readiness, merged metrics, the application's probes, and what ends or drains the proxy.

mod merge;
mod probes;
mod ready;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use merge::{ScrapeConfig, targets};
pub(crate) use probes::Probers;
pub(crate) use ready::Readiness;

use crate::ads::NameTable;
use crate::certificates::SecretStore;
use crate::envoy::Controls;
use crate::metrics::Metrics;

/// Connections at a time; kubelet, Prometheus and Envoy need a few.
const MAXIMUM_CONNECTIONS: usize = 256;
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// A body that may be streamed.
type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// What the handlers need.
pub(crate) struct StatusServer {
    pub(crate) listen: SocketAddr,
    pub(crate) readiness: Readiness,
    pub(crate) scrape: ScrapeConfig,
    pub(crate) probers: Probers,
    pub(crate) controls: Controls,
    pub(crate) store: SecretStore,
    pub(crate) names: Option<watch::Receiver<Option<Arc<NameTable>>>>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Serves until told to stop.
///
/// # Errors
/// When the port cannot be bound.
pub(crate) async fn serve(server: Arc<StatusServer>, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(server.listen)
        .await
        .with_context(|| format!("status port {}", server.listen))?;
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAXIMUM_CONNECTIONS {
            connections.join_next().await;
            continue;
        }
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "status connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = stop.cancelled() => return Ok(()),
        };
        let server = Arc::clone(&server);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let server = Arc::clone(&server);
                async move { Ok::<_, std::convert::Infallible>(server.handle(request, peer).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(hyper_util::rt::TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "status connection");
            }
        });
    }
}

// === impl StatusServer ===

impl StatusServer {
    async fn handle(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let path = request.uri().path();
        match path {
            "/healthz/ready" => self.ready().await,
            "/stats/prometheus" | "/metrics" => self.scrape.merged(&request, &self.metrics, self.store.expiry()).await,
            "/quitquitquit" | "/drain" | "/debug/ndsz" | "/debug/certz" if !peer.ip().to_canonical().is_loopback() => {
                text(StatusCode::FORBIDDEN, "only requests from this host are allowed\n")
            }
            "/quitquitquit" | "/drain" if request.method() != Method::POST => {
                text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n")
            }
            "/quitquitquit" => {
                tracing::info!("asked to quit");
                self.controls.quit();
                text(StatusCode::OK, "OK\n")
            }
            "/drain" => {
                tracing::info!("asked to drain");
                match self.controls.drain_now().await {
                    Ok(()) => text(StatusCode::OK, "OK\n"),
                    Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}\n")),
                }
            }
            "/debug/ndsz" => self.names(),
            "/debug/certz" => json_body(&json!(self.store.versions())),
            _ if path.starts_with("/app-health/") || path.starts_with("/app-lifecycle/") => {
                self.probers.probe(&request, self.listen.port()).await
            }
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    async fn ready(&self) -> Response<Body> {
        match self.check().await {
            Ok(()) => {
                self.metrics.ready();
                text(StatusCode::OK, "")
            }
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{error:#}\n")),
        }
    }

    async fn check(&self) -> anyhow::Result<()> {
        if self.names.as_ref().is_some_and(|names| names.borrow().is_none()) {
            anyhow::bail!("DNS is captured, but the name table has not come yet");
        }
        self.readiness.check().await
    }

    fn names(&self) -> Response<Body> {
        let Some(table) = self.names.as_ref().and_then(|names| names.borrow().clone()) else {
            return text(StatusCode::NOT_FOUND, "{}");
        };
        let entry = |(host, info): (&String, &lateen_proto::istio::networking::nds::v1::name_table::NameInfo)| {
            let value = json!({
                "ips": info.ips, "registry": info.registry, "shortname": info.shortname, "namespace": info.namespace,
            });
            (host.clone(), value)
        };
        json_body(&json!({ "table": table.table.iter().map(entry).collect::<serde_json::Map<_, _>>() }))
    }
}

fn json_body(value: &Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, &value.to_string());
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}
