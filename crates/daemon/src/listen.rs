//! Sockets: bound before anything starts, so that a port in use ends the process at once with its name.
//!
//! Whoever can reach a port can connect, so what a caller may cost is bounded before anything is known of them: how many
//! strangers there are at once ([`strangers`]), how long they may take to prove something, the size and number of
//! headers, streams and resets. Connections on which nothing happens end ([`pulse`]), and so do those whose other end has
//! gone without a word (pings; keep-alive of TCP).

mod pulse;
mod strangers;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::extract::ConnectInfo;
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use lateen_ca::{Authenticator, PeerCertificates};
use lateen_runtime::Drain;
use lateen_runtime::admin::Link;
use lateen_xds::Peer;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tower::{Service as _, ServiceExt as _};

use pulse::{Answering, Patience, Pulse};
use strangers::{Place, Strangers};

/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is asked for a sign of life this often.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long an answer to a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// What is kept of a response that the peer does not take, in bytes for each stream. When a mesh connects at once there are
/// thousands of these.
const SEND_BUFFER: usize = 64 * 1024;
/// How long the head of an HTTP/1 request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request over HTTP/1 ports may take, with its body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Headers of a request, together.
const HEADERS: u32 = 64 * 1024;
/// Requests at once on one connection.
const STREAMS: u32 = 128;
/// Requests that were taken back before they were looked at ("rapid reset"): beyond, the connection ends.
const RESETS: usize = 20;
/// Resets that a caller's own errors have caused: beyond, the connection ends.
const ERRORS: usize = 128;
/// What may be done with a connection before its caller is known, and after.
const PATIENCE: Patience = Patience {
    stranger: Duration::from_secs(30),
    idle: Duration::from_secs(600),
};
/// Limits of a port.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    strangers: Arc<Strangers>,
    connections: Arc<Semaphore>,
    patience: Patience,
}

impl Limits {
    /// At most so many connections, and so many strangers from one address.
    pub(crate) fn new(connections: usize, strangers: Option<usize>) -> Self {
        Self {
            strangers: Arc::new(Strangers::new(strangers)),
            connections: Arc::new(Semaphore::new(connections.clamp(1, Semaphore::MAX_PERMITS))),
            patience: PATIENCE,
        }
    }
}

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
pub(crate) async fn serve(
    listener: TcpListener,
    security: Security,
    routes: Routes,
    limits: Limits,
    drain: Drain,
) -> io::Result<()> {
    let (ended, patience) = (drain.clone(), limits.patience);
    accept(listener, limits, ended, move |stream, address, place| {
        let pulse = (Pulse::new(place), patience);
        connection(stream, address, security.clone(), routes.clone(), pulse, drain.clone())
    })
    .await
}

/// Serves HTTP over TLS without asking for certificates: what the API server calls.
pub(crate) async fn serve_https(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    router: axum::Router,
    limits: Limits,
    drain: Drain,
) -> io::Result<()> {
    let (ended, patience) = (drain.clone(), limits.patience);
    accept(listener, limits, ended, move |stream, address, place| {
        let (config, router, drain) = (Arc::clone(&config), router.clone(), drain.clone());
        let pulse = Pulse::new(place);
        let link = link(&stream, address);
        async move {
            router_over(
                Box::pin(handshake(stream, config)).await?,
                link,
                router,
                (pulse, patience),
                drain,
            )
            .await
        }
    })
    .await
}

/// Serves HTTP without TLS: readiness, metrics, debug endpoints. Handlers get the connection as `ConnectInfo<Link>`.
pub(crate) async fn serve_http(
    listener: TcpListener,
    router: axum::Router,
    limits: Limits,
    drain: Drain,
) -> io::Result<()> {
    let (ended, patience) = (drain.clone(), limits.patience);
    accept(listener, limits, ended, move |stream, address, place| {
        let link = link(&stream, address);
        router_over(
            stream,
            link,
            router.clone(),
            (Pulse::new(place), patience),
            drain.clone(),
        )
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
    limits: Limits,
    drain: Drain,
    connection: impl Fn(TcpStream, SocketAddr, Place) -> C,
) -> io::Result<()>
where
    C: Future<Output = Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut full = false;
    let accepting = async || {
        let room = limits.strangers.room().await;
        listener.accept().await.map(|accepted| (accepted, room))
    };
    loop {
        let accepted = tokio::select! {
            accepted = accepting() => accepted,
            () = drain.started() => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok(((stream, address), room)) => {
                let place = room.and_then(|room| limits.strangers.admit(room, address.ip()));
                let connected = Arc::clone(&limits.connections).try_acquire_owned().ok();
                let (Some(place), Some(connected)) = (place, connected) else {
                    // Said once until there is room again: a flood must not fill the log, too.
                    if !std::mem::replace(&mut full, true) {
                        tracing::warn!(%address, "connections are refused: there are too many");
                    }
                    drop(stream);
                    continue;
                };
                full = false;
                if let Err(error) = prepare(&stream) {
                    tracing::debug!(%error, %address, "connection ended");
                    continue;
                }
                let connection = Box::pin(connection(stream, address, place));
                connections.spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, %address, "connection ended");
                    }
                    drop(connected);
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

/// The system finds out when the other end has gone without a word.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keep_alive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10));
    SockRef::from(stream).set_tcp_keepalive(&keep_alive)
}

fn link(stream: &TcpStream, peer: SocketAddr) -> Link {
    Link {
        peer,
        local: stream.local_addr().ok(),
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    security: Security,
    routes: Routes,
    (pulse, patience): (Arc<Pulse>, Patience),
    drain: Drain,
) -> Result<()> {
    match security {
        Security::Plaintext => {
            let peer = Peer {
                identity: None,
                address: Some(address),
                without_secrets: false,
            };
            let current = Arc::clone(&pulse);
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(peer.clone());
                answer(routes.clone(), request, Arc::clone(&current))
            });
            http(&builder().http2_only(), stream, service, (pulse, patience), drain).await
        }
        Security::Tls { config, authenticator } => {
            let stream = Box::pin(handshake(stream, config)).await?;
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificates = PeerCertificates(certificates.to_vec().into());
            let current = Arc::clone(&pulse);
            let service = service_fn(move |mut request: Request<Incoming>| {
                let (routes, authenticator, pulse) = (routes.clone(), Arc::clone(&authenticator), Arc::clone(&current));
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
                                    without_secrets: false,
                                };
                                request.extensions_mut().insert(peer);
                            }
                            Err(error) => {
                                tracing::warn!(reason = error.reason(), %error, %address, "stream refused");
                                let refusal = tonic::Status::unauthenticated(error.to_string()).into_http();
                                return Ok(refusal.map(|body| Answering::new(body, pulse.beat())));
                            }
                        }
                    }
                    answer(routes, request, pulse).await
                }
            });
            http(&builder().http2_only(), stream, service, (pulse, patience), drain).await
        }
    }
}

/// Serves HTTP/1.1 and HTTP/2.
async fn router_over(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    link: Link,
    router: axum::Router,
    (pulse, patience): (Arc<Pulse>, Patience),
    drain: Drain,
) -> Result<()> {
    let current = Arc::clone(&pulse);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(link));
        let (router, pulse) = (router.clone(), Arc::clone(&current));
        async move {
            let beat = pulse.beat();
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, router.oneshot(request.map(axum::body::Body::new)));
            let answer = match answer.await {
                Ok(Ok(answer)) => answer,
                Ok(Err(never)) => match never {},
                Err(_) => {
                    let mut late = Response::new(axum::body::Body::from("the request took too long\n"));
                    *late.status_mut() = StatusCode::REQUEST_TIMEOUT;
                    late
                }
            };
            pulse.known();
            Ok::<_, Infallible>(answer.map(|body| Answering::new(body, beat)))
        }
    });
    http(&builder(), stream, service, (pulse, patience), drain).await
}

async fn handshake(stream: TcpStream, config: Arc<rustls::ServerConfig>) -> Result<TlsStream<TcpStream>> {
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
    Ok(stream.context("TLS handshake timed out")??)
}

type Answer = Response<Answering<tonic::body::Body>>;

/// Whoever is answered is known; a refusal says so in its headers.
async fn answer(mut routes: Routes, request: Request<Incoming>, pulse: Arc<Pulse>) -> Result<Answer, Infallible> {
    let beat = pulse.beat();
    let answer = routes.call(request.map(tonic::body::Body::new)).await?;
    let refused = answer.headers().get("grpc-status").is_some_and(|status| status != "0");
    if answer.status().is_success() && !refused {
        pulse.known();
    }
    Ok(answer.map(|body| Answering::new(body, beat)))
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEADERS as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADERS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(ERRORS);
    builder
}

/// Serves a connection until it ends or is of no use; once the drain begins, requests in flight are still answered.
///
/// What it needs is allocated once: a future has room for each value that is moved into it and on from it, and there are as
/// many connections as proxies.
fn http<S, B>(
    builder: &auto::Builder<TokioExecutor>,
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    service: S,
    (pulse, patience): (Arc<Pulse>, Patience),
    drain: Drain,
) -> impl Future<Output = Result<()>>
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = Box::pin(connection.into_owned());
    async move {
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(|error| anyhow::anyhow!(error)),
            reason = pulse.lost(patience) => anyhow::bail!("cut off: {reason}"),
            () = drain.started() => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = connection => ended.map_err(|error| anyhow::anyhow!(error)),
            reason = pulse.lost(patience) => anyhow::bail!("cut off: {reason}"),
        }
    }
}
