//! The HTTP port for people and machines that look after the process: readiness, liveness, metrics.

use std::io;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
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
    /// more routes into it.
    pub fn router(self) -> Router {
        Router::new()
            .route("/ready", get(ready))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

/// Serves `router` until the drain begins, lets requests in flight end, and returns when they have or the grace is
/// used up.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, router: Router, drain: Drain) -> io::Result<()> {
    let server = axum::serve(listener, router).with_graceful_shutdown(drain.started_owned());
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

        supervisor.shutdown().begin();
        supervisor
            .run(failures, std::time::Duration::from_secs(10))
            .await
            .unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
