//! Sockets: bound before anything starts, so that a port in use ends the process at once with its name.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use lateen_ca::{Authenticator, PeerCertificates};
use lateen_runtime::Drain;
use lateen_xds::Peer;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tower::Service as _;

/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that answers no ping for this long is dead.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long an answer to a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// What is kept of a response that the peer does not take, in bytes for each stream. When a mesh connects at once there are
/// thousands of these.
const SEND_BUFFER: usize = 64 * 1024;

/// Binds a listener.
pub(crate) async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("--{flag} {address}: cannot listen there"))
}

/// How connections of a port are secured.
#[derive(Clone)]
pub(crate) enum Security {
    /// Mutual TLS; a caller without certificate must bring a token.
    Tls {
        config: Arc<rustls::ServerConfig>,
        authenticator: Arc<Authenticator>,
    },
    /// None: callers are unknown.
    Plaintext,
}

/// Serves gRPC.
pub(crate) async fn serve(listener: TcpListener, security: Security, routes: Routes, drain: Drain) -> io::Result<()> {
    let ended = drain.clone();
    accept(listener, ended, move |stream, address| {
        connection(stream, address, security.clone(), routes.clone(), drain.clone())
    })
    .await
}

/// Serves HTTP over TLS without asking for certificates: what the API server calls.
pub(crate) async fn serve_https(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    router: axum::Router,
    drain: Drain,
) -> io::Result<()> {
    let ended = drain.clone();
    accept(listener, ended, move |stream, _| {
        https_connection(stream, Arc::clone(&config), router.clone(), drain.clone())
    })
    .await
}

/// TLS for [`serve_https`], with the certificate that another configuration serves with.
pub(crate) fn https_config(other: &rustls::ServerConfig) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(other.crypto_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&other.cert_resolver));
    // The API server calls webhooks by HTTP/1.1, and offers nothing else.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Accepts connections until the drain begins, and waits for those that are open as long as the grace lasts.
async fn accept<C>(
    listener: TcpListener,
    drain: Drain,
    connection: impl Fn(TcpStream, SocketAddr) -> C,
) -> io::Result<()>
where
    C: Future<Output = Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.started() => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, address)) => {
                let connection = connection(stream, address);
                connections.spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, %address, "connection ended");
                    }
                });
            }
            // The caller is gone already, or there are no more file descriptors: neither ends the server.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::task::yield_now().await;
            }
        }
    }
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = drain.expired() => connections.abort_all(),
    }
    Ok(())
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    security: Security,
    routes: Routes,
    drain: Drain,
) -> Result<()> {
    stream.set_nodelay(true)?;
    match security {
        Security::Plaintext => {
            let peer = Peer {
                identity: None,
                address: Some(address),
            };
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(peer.clone());
                answer(routes.clone(), request)
            });
            http(builder().http2_only(), stream, service, drain).await
        }
        Security::Tls { config, authenticator } => {
            let stream = handshake(stream, config).await?;
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificates = PeerCertificates(certificates.to_vec().into());
            let service = service_fn(move |mut request: Request<Incoming>| {
                let (routes, authenticator) = (routes.clone(), Arc::clone(&authenticator));
                request.extensions_mut().insert(certificates.clone());
                request.extensions_mut().insert(TcpConnectInfo {
                    local_addr: None,
                    remote_addr: Some(address),
                });
                async move {
                    // Configuration is for callers who proved who they are; the authority asks for itself.
                    if request.uri().path().starts_with("/envoy.") {
                        match authenticator
                            .authenticate(request.extensions(), request.headers())
                            .await
                        {
                            Ok(caller) => {
                                let peer = Peer {
                                    identity: Some(caller.identity),
                                    address: Some(address),
                                };
                                request.extensions_mut().insert(peer);
                            }
                            Err(error) => {
                                tracing::warn!(reason = error.reason(), %error, %address, "stream refused");
                                return Ok(tonic::Status::unauthenticated(error.to_string()).into_http());
                            }
                        }
                    }
                    answer(routes, request).await
                }
            });
            http(builder().http2_only(), stream, service, drain).await
        }
    }
}

async fn https_connection(
    stream: TcpStream,
    config: Arc<rustls::ServerConfig>,
    router: axum::Router,
    drain: Drain,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = handshake(stream, config).await?;
    http(builder(), stream, TowerToHyperService::new(router), drain).await
}

async fn handshake(stream: TcpStream, config: Arc<rustls::ServerConfig>) -> Result<TlsStream<TcpStream>> {
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
    Ok(stream.context("TLS handshake timed out")??)
}

type Answer = http::Response<tonic::body::Body>;

async fn answer(mut routes: Routes, request: Request<Incoming>) -> Result<Answer, std::convert::Infallible> {
    routes.call(request.map(tonic::body::Body::new)).await
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(128)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(64 * 1024);
    builder
}

/// Serves a connection until it ends; once the drain begins, requests in flight are still answered.
async fn http<S, B>(
    builder: auto::Builder<TokioExecutor>,
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    service: S,
    drain: Drain,
) -> Result<()>
where
    S: hyper::service::Service<Request<Incoming>, Response = http::Response<B>, Error = std::convert::Infallible>
        + Send
        + 'static,
    S::Future: Send + 'static,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => ended.map_err(|error| anyhow::anyhow!(error))?,
        () = drain.started() => {
            connection.as_mut().graceful_shutdown();
            connection.await.map_err(|error| anyhow::anyhow!(error))?;
        }
    }
    Ok(())
}
