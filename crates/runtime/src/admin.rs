//! The HTTP port for people and machines that look after the process: readiness, liveness, metrics.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::extract::connect_info::Connected;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use tokio::net::TcpListener;

use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::{Drain, Readiness};

/// What the routes of [`Admin::router`] tell of.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Behind `/ready`.
    pub readiness: Readiness,
    /// Behind `/metrics`.
    pub metrics: Metrics,
    /// Once it begins, `/ready` answers 503, so that no new work is sent.
    pub drain: Drain,
}

impl Admin {
    /// `/ready` (200, or 503 with what is awaited), `/healthz` (200 while the process answers) and `/metrics`; merge
    /// more routes into it. Everything else is [`elsewhere`].
    pub fn router(self) -> Router {
        Router::new()
            .route("/ready", get(ready))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/metrics", get(metrics))
            .fallback(elsewhere)
            .with_state(self)
    }
}

/// What a path that is not there answers, as servers in Go do, for which clients of istiod were written: a path with
/// empty segments (`istioctl version` asks for `//version`) leads to the one without, any other is not found.
pub async fn elsewhere(uri: Uri) -> Response {
    let segments: Vec<&str> = uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
    let clean = format!("/{}", segments.join("/"));
    if !uri.path().contains("//") {
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let there = [(header::LOCATION, format!("{clean}{query}"))];
    (StatusCode::MOVED_PERMANENTLY, there).into_response()
}

/// The connection that a request came on. [`serve`] gives it to handlers as axum's `ConnectInfo<Link>`.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Where the caller is.
    pub peer: SocketAddr,
    /// The address that it connected to, where the system tells.
    pub local: Option<SocketAddr>,
}

impl Link {
    /// Whether the caller is on this machine (in Kubernetes: in this pod), as whoever forwards a port to it is.
    pub fn is_local(&self) -> bool {
        let peer = self.peer.ip().to_canonical();
        peer.is_loopback() || self.local.is_some_and(|local| local.ip().to_canonical() == peer)
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for Link {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self {
            peer: *stream.remote_addr(),
            local: stream.io().local_addr().ok(),
        }
    }
}

/// Serves `router` until the drain begins, lets requests in flight end, and returns when they have or the grace is
/// used up.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, router: Router, drain: Drain) -> io::Result<()> {
    let service = router.into_make_service_with_connect_info::<Link>();
    let server = axum::serve(listener, service).with_graceful_shutdown(drain.started_owned());
    tokio::select! {
        ended = server => ended,
        () = drain.expired() => Ok(()),
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.drain.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    match admin.readiness.awaited() {
        awaited if awaited.is_empty() => "ready\n".into_response(),
        awaited => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready, awaiting: {}\n", awaited.join(", ")),
        )
            .into_response(),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::Supervisor;

    async fn ask(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: lateen\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[test]
    fn callers_on_this_machine_are_known() {
        let link = |peer: &str, local: &str| Link {
            peer: peer.parse().unwrap(),
            local: Some(local.parse().unwrap()),
        };
        assert!(link("127.0.0.9:1", "127.0.0.1:2").is_local());
        assert!(link("[::ffff:127.0.0.1]:1", "[::]:2").is_local());
        assert!(link("10.0.0.1:1", "[::ffff:10.0.0.1]:2").is_local());
        assert!(!link("10.0.0.2:1", "10.0.0.1:2").is_local());
    }

    #[tokio::test]
    async fn readiness_flips_last_and_the_end_is_orderly() {
        let (supervisor, failures) = Supervisor::new();
        let admin = Admin {
            readiness: Readiness::new(),
            metrics: Metrics::new(),
            drain: supervisor.drain(),
        };
        let guard = admin.readiness.register("kube");
        admin.metrics.counter("pilot_things", "Things.").unwrap().inc();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = admin.router().route("/debug/more", get(|| async { "more" }));
        supervisor.spawn("admin", serve(listener, router, supervisor.drain()));

        let waiting = ask(address, "/ready").await;
        assert!(
            waiting.starts_with("HTTP/1.1 503") && waiting.contains("awaiting: kube"),
            "{waiting}"
        );
        drop(guard);
        assert!(ask(address, "/ready").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/debug/more").await.ends_with("more"));
        assert!(ask(address, "/metrics").await.contains("pilot_things 1"));
        let moved = ask(address, "//debug//more?all").await;
        assert!(
            moved.starts_with("HTTP/1.1 301") && moved.contains("location: /debug/more?all\r\n"),
            "{moved}"
        );
        let nothing = ask(address, "/debug/less").await;
        assert!(
            nothing.starts_with("HTTP/1.1 404") && nothing.ends_with("404 page not found\n"),
            "{nothing}"
        );

        supervisor.shutdown().begin();
        supervisor
            .run(failures, std::time::Duration::from_secs(10))
            .await
            .unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
