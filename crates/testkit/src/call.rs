//! Clients in a network of their own: HTTP/1.1, HTTP/2, TLS and lines of text. They never try twice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use axum::http::HeaderMap;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::echo::Arrival;
use crate::fabric::Place;
use crate::pki::{Authority, Credential};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to reach a server.
#[derive(Debug, Clone)]
pub struct Line {
    /// From where.
    pub from: Place,
    /// The address.
    pub to: SocketAddr,
    /// The name asked for with TLS, and what the client shows; no TLS without.
    pub tls: Option<Tls>,
    /// HTTP/2.
    pub two: bool,
}

/// What a client does about TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The name asked for, for which the server must have a certificate.
    pub name: String,
    /// Whom it trusts.
    pub authority: Arc<Authority>,
    /// What it shows.
    pub credential: Option<Credential>,
}

/// A request of HTTP.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The authority.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
}

/// What came back, and when.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status; 0 for lines of text.
    pub status: u16,
    /// The headers, gRPC's trailers with them.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
    /// How long it took.
    pub took: Duration,
}

impl Reply {
    /// What the server saw, if one of ours answered.
    pub fn arrival(&self) -> Option<Arrival> {
        serde_json::from_str(&self.body).ok()
    }

    /// Who answered, if one of ours did.
    pub fn by(&self) -> Option<String> {
        let header = self.headers.get("x-upstream").and_then(|name| name.to_str().ok());
        header
            .map(str::to_owned)
            .or_else(|| self.arrival().map(|seen| seen.name))
    }
}

/// Whatever bytes go through, both ways.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// An open connection for HTTP.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    _task: JoinSet<()>,
}

#[derive(Debug)]
enum Sender {
    One(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Two(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

async fn open(line: &Line) -> Result<Box<dyn Wire>> {
    let stream = line.from.connect(line.to).await?;
    let Some(tls) = &line.tls else {
        return Ok(Box::new(stream));
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(tls.authority.roots()?);
    let mut config = match &tls.credential {
        Some(credential) => {
            let (chain, key) = credential.der()?;
            config.with_client_auth_cert(chain, key)?
        }
        None => config.with_no_client_auth(),
    };
    let alpn: &[u8] = if line.two { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::try_from(tls.name.clone())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Ok(Box::new(stream.context("TLS")?))
}

impl Connection {
    /// Opens one.
    ///
    /// # Errors
    /// When there is no connection, or TLS fails.
    pub async fn open(line: &Line) -> Result<Self> {
        let opening = async { Self::over(open(line).await?, line.two).await };
        timeout(PATIENCE, opening).await.context("no connection in time")?
    }

    /// One over a stream that is open already: HTTP/2 where `two`, else HTTP/1.1.
    ///
    /// # Errors
    /// When the other end does not speak it, or not in time.
    pub async fn over(stream: Box<dyn Wire>, two: bool) -> Result<Self> {
        let opening = async {
            let stream = TokioIo::new(stream);
            let mut task = JoinSet::new();
            // What goes wrong with a connection, the request on it tells.
            let sender = if two {
                let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
                task.spawn(async move { drop(connection.await) });
                Sender::Two(sender)
            } else {
                let (sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
                task.spawn(async move { drop(connection.await) });
                Sender::One(sender)
            };
            Ok(Self { sender, _task: task })
        };
        timeout(PATIENCE, opening).await.context("no connection in time")?
    }

    /// Whether no more requests go through it.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::One(sender) => sender.is_closed(),
            Sender::Two(sender) => sender.is_closed(),
        }
    }

    /// One request.
    ///
    /// # Errors
    /// When there is no whole answer in time.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Reply> {
        let begun = Instant::now();
        let asking = async {
            let uri = match self.sender {
                Sender::One(_) => ask.path.clone(),
                Sender::Two(_) => format!("{}://{}{}", ask.scheme, ask.authority, ask.path),
            };
            let mut request = Request::builder()
                .method(Method::from_bytes(ask.method.as_bytes())?)
                .uri(uri);
            if matches!(self.sender, Sender::One(_)) {
                request = request.header("host", &ask.authority);
            }
            for (name, value) in &ask.headers {
                request = request.header(name, value);
            }
            let request = request.body(Full::default())?;
            let response = match &mut self.sender {
                Sender::One(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Sender::Two(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
            };
            let (head, body) = response.into_parts();
            let body = body.collect().await.context("half an answer")?;
            let mut headers = head.headers;
            for (name, value) in body.trailers().into_iter().flatten() {
                headers.insert(name, value.clone());
            }
            Ok(Reply {
                status: head.status.as_u16(),
                headers,
                body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
                took: begun.elapsed(),
            })
        };
        timeout(PATIENCE, asking).await.context("no answer in time")?
    }
}

/// Says one line of text and reads what comes back.
///
/// # Errors
/// When there is no connection, or nothing comes back.
pub async fn say(line: &Line, text: &str) -> Result<Reply> {
    let opened = timeout(PATIENCE, open(line)).await.context("no connection in time")?;
    say_over(opened?, text).await
}

/// As [`say`], over a stream that is open already.
///
/// # Errors
/// When nothing comes back.
pub async fn say_over(mut stream: Box<dyn Wire>, text: &str) -> Result<Reply> {
    let begun = Instant::now();
    let asking = async {
        stream.write_all(format!("{text}\n").as_bytes()).await?;
        let mut body = Vec::new();
        let end = stream.read_to_end(&mut body).await;
        if body.is_empty() {
            end?;
            return Err(anyhow!("the connection was closed"));
        }
        Ok(Reply {
            status: 0,
            headers: HeaderMap::new(),
            body: String::from_utf8_lossy(&body).into_owned(),
            took: begun.elapsed(),
        })
    };
    timeout(PATIENCE, asking).await.context("no answer in time")?
}
