//! An HTTP/1.1 client that hides nothing: it never tries twice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::http::{HeaderMap, Request, Response, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; what is no UTF-8 is replaced.
    pub body: String,
}

impl Answer {
    /// A header's value, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A client with one connection, kept open as long as the server likes.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    sender: Option<SendRequest<Empty<Bytes>>>,
    connections: JoinSet<()>,
}

impl Client {
    /// A client of the server at `address`. It connects with the first request.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            sender: None,
            connections: JoinSet::new(),
        }
    }

    /// Asks for a path of a host.
    ///
    /// # Errors
    /// When there is no connection, or no whole answer in 15 s. An answer of any status is none.
    pub async fn get(&mut self, host: &str, path: &str) -> Result<Answer> {
        let mut sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let asking = ask(&mut sender, host, path);
        let answer = timeout(PATIENCE, asking).await.context("no answer in time")??;
        if answer.header("connection") != Some("close") {
            self.sender = Some(sender);
        }
        Ok(answer)
    }

    async fn connect(&mut self) -> Result<SendRequest<Empty<Bytes>>> {
        while self.connections.try_join_next().is_some() {}
        let stream = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("cannot connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        self.connections.spawn(async move {
            // What goes wrong with a connection, the request on it tells.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>, host: &str, path: &str) -> Result<Answer> {
    sender.ready().await.context("the connection is gone")?;
    let request = Request::get(path).header(header::HOST, host).body(Empty::new())?;
    read(sender.send_request(request).await.context("no answer")?).await
}

async fn read(response: Response<Incoming>) -> Result<Answer> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.context("half an answer")?.to_bytes();
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// One request over TLS on a connection of its own, to a server that must show a certificate for `host` that `trusted`
/// signed or is.
///
/// # Errors
/// As [`Client::get`], and when the server shows another certificate.
pub async fn get_over_tls(
    address: SocketAddr,
    host: &str,
    path: &str,
    trusted: &CertificateDer<'static>,
) -> Result<Answer> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let asking = async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the answer.
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        ask(&mut sender, host, path).await
    };
    timeout(PATIENCE, asking).await.context("no answer in time")?
}

/// One request on a connection of its own.
///
/// # Errors
/// As [`Client::get`].
pub async fn get(address: SocketAddr, host: &str, path: &str) -> Result<Answer> {
    Client::new(address).get(host, path).await
}

/// One request with a body on a connection of its own.
///
/// # Errors
/// As [`Client::get`].
pub async fn post(address: SocketAddr, host: &str, path: &str, body: Bytes) -> Result<Answer> {
    let asking = async {
        let (mut sender, connection) = handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
        // Ends with the answer.
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        let request = Request::post(path).header(header::HOST, host).body(Full::new(body))?;
        read(sender.send_request(request).await.context("no answer")?).await
    };
    timeout(PATIENCE, asking).await.context("no answer in time")?
}

/// One call as gRPC makes it: HTTP/2 from the first byte on, with a body, on a connection of its own.
///
/// # Errors
/// As [`Client::get`].
pub async fn call(address: SocketAddr, host: &str, path: &str, body: Bytes) -> Result<Answer> {
    let asking = async {
        let stream = TokioIo::new(TcpStream::connect(address).await?);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        let request = Request::post(format!("http://{host}{path}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Full::new(body))?;
        read(sender.send_request(request).await.context("no answer")?).await
    };
    timeout(PATIENCE, asking).await.context("no answer in time")?
}
