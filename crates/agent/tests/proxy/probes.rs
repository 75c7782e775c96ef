//! Probes of every kind against real servers, and the commands that wait for and ask a proxy.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::agent::{self, Agent, eventually};
use crate::client;
use crate::control_plane::ControlPlane;

/// `grpc.health.v1.Health`: `web` serves, everything else does not.
async fn health(request: Request<Incoming>) -> Result<Response<StreamBody<Frames>>, Infallible> {
    use http_body_util::BodyExt as _;
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    let status = if asked.ends_with(b"web") { 1 } else { 2 };
    let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = futures::stream::iter([Ok(Frame::data(message)), Ok(Frame::trailers(trailers))]);
    let mut response = Response::new(StreamBody::new(frames));
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

type Frames = futures::stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>;

/// A server for each connection; its port.
async fn serve<F>(tasks: &mut JoinSet<()>, ip: std::net::IpAddr, answer: F) -> u16
where
    F: Fn(tokio::net::TcpStream) -> futures::future::BoxFuture<'static, ()> + Send + 'static,
{
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(answer(stream));
        }
    });
    port
}

/// TLS under a certificate that nobody trusts, for HTTP/2 alone or HTTP/1.1 alone.
fn acceptor(plane: &ControlPlane, protocol: &[u8]) -> TlsAcceptor {
    let (chain, key) = plane.issue("web");
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(key.expose_pem().as_bytes()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.unwrap(), key)
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// What it sees of the request: version, path and a header that kubelet was told to send.
async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
            .to_owned()
    };
    let text = format!("{:?} {} {}", request.version(), request.uri().path(), header("x-probe"));
    Ok(Response::new(Full::new(text.into())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_of_every_kind_reach_the_application() {
    let ip = agent::loopback();
    let plane = ControlPlane::start(None).await;
    let mut tasks = JoinSet::new();
    let grpc = serve(&mut tasks, ip, |stream| {
        Box::pin(async move {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(server.serve_connection(TokioIo::new(stream), service_fn(health)).await);
        })
    })
    .await;
    let mut https = Vec::new();
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let acceptor = acceptor(&plane, protocol);
        let port = serve(&mut tasks, ip, move |stream| {
            let acceptor = acceptor.clone();
            Box::pin(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                drop(server.serve_connection(TokioIo::new(stream), service_fn(echo)).await);
            })
        })
        .await;
        https.push(port);
    }
    let probers = json!({
        "/app-health/web/livez": { "grpc": { "port": grpc, "service": "web" } },
        "/app-health/web/readyz": { "grpc": { "port": grpc, "service": "other" } },
        "/app-health/web/startupz": { "httpGet": { "port": https[0], "path": "/h2", "scheme": "HTTPS" } },
        "/app-health/old/startupz": { "httpGet": { "port": https[1], "path": "/h1", "scheme": "HTTPS" } },
        "/app-health/old/livez": { "tcpSocket": { "port": 1 }, "timeoutSeconds": 1 },
        "/app-lifecycle/web/prestopz": { "httpGet": { "port": https[1], "path": "/stop", "scheme": "HTTPS" } },
    });
    let agent = Agent::new(Path::new("none"), ip, &plane)
        .env("DISABLE_ENVOY", "true")
        .env("ISTIO_KUBE_APP_PROBERS", &probers.to_string())
        .start();
    let status = SocketAddr::new(ip, 15020);
    eventually("the agent's port", || async {
        matches!(client::get(status, "/healthz/ready").await, Ok((200, _)))
    })
    .await;
    for (path, code, body) in [
        ("/app-health/web/livez", 200, ""),
        ("/app-health/web/readyz", 500, "does not serve"),
        ("/app-health/web/startupz", 200, "HTTP/2.0 /h2 "),
        ("/app-health/old/startupz", 200, "HTTP/1.1 /h1 "),
        ("/app-health/old/livez", 500, ""),
        ("/app-health/nobody/livez", 400, "no probe"),
        ("/app-lifecycle/web/prestopz", 200, "HTTP/1.1 /stop "),
    ] {
        let (seen, text) = client::get(status, path).await.unwrap();
        assert_eq!(seen, code, "{path}: {text}");
        assert!(text.contains(body), "{path}: {text}");
    }
    drop(agent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_ends_with_readiness_or_time() {
    let ip = agent::loopback();
    let plane = ControlPlane::start(None).await;
    let url = format!("--url=http://{ip}:15020/healthz/ready");
    let wait = |seconds: &str| {
        Command::new(env!("CARGO_BIN_EXE_lateen-agent"))
            .args(["wait", &url, "--periodMillis=20", "--timeoutSeconds", seconds])
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let output = wait("1").wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("is not ready after 1 s"), "{error}");
    // Waiting begins before there is anything to ask.
    let mut waiting = wait("60");
    let agent = Agent::new(Path::new("none"), ip, &plane)
        .env("DISABLE_ENVOY", "true")
        .start();
    let ended = waiting.wait().unwrap();
    assert!(ended.success(), "{ended}");
    drop(agent);
}
