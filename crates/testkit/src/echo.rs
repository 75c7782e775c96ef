//! Servers that tell what they were asked, do as they are told, and keep a book of every request.
//!
//! One port takes everything: HTTP/1.1, HTTP/2 without TLS, TLS with either in it, PROXY protocol before all of them, and
//! lines of text. A header `x-do` tells what to do: `status=503`, `fail=2` (the first two arrivals of this row get 503),
//! `delay=300` (milliseconds), `reset` (no answer), `grpc=14`, `set=name:value` (a header of the answer); `only=v1` limits
//! all of it to one server. The header `x-row` says which page of the book a request belongs to.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::fabric::Place;

/// A request as a server saw it; a line of text has a name and a row, no more.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Arrival {
    /// The server's name.
    pub name: String,
    /// The port at which it came.
    pub port: u16,
    /// `HTTP/1.1`, `HTTP/2.0` or `TCP`.
    pub protocol: String,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `:authority` or `Host`.
    pub authority: String,
    /// Headers; several values of one are joined by commas.
    pub headers: BTreeMap<String, String>,
    /// The name that TLS asked for.
    pub sni: Option<String>,
    /// Whether TLS ended here.
    pub tls: bool,
    /// Whether the client showed a certificate.
    pub certificate: bool,
    /// Who connected.
    pub peer: String,
    /// What the PROXY protocol said before.
    pub proxied: Option<String>,
    /// Which of all connections it was.
    pub connection: u64,
}

/// All requests, by row.
#[derive(Debug, Clone, Default)]
pub struct Book(Arc<Mutex<HashMap<String, Vec<Arrival>>>>);

impl Book {
    /// What has come for a row.
    pub fn page(&self, row: &str) -> Vec<Arrival> {
        let book = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        book.get(row).cloned().unwrap_or_default()
    }

    /// Enters a request and says how many of its row had come before.
    fn enter(&self, row: &str, arrival: Arrival) -> usize {
        let mut book = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let page = book.entry(row.to_owned()).or_default();
        page.push(arrival);
        page.len() - 1
    }
}

/// Running servers. They stop when dropped.
#[derive(Debug)]
pub struct Echo {
    book: Book,
    tls: Arc<rustls::ServerConfig>,
    connections: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

/// What a connection has told of itself so far.
#[derive(Clone)]
struct Line {
    book: Book,
    about: Arrival,
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl Echo {
    /// None yet. TLS is served with this configuration.
    pub fn new(tls: rustls::ServerConfig) -> Self {
        Self {
            book: Book::default(),
            tls: Arc::new(tls),
            connections: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// The book of all servers.
    pub fn book(&self) -> Book {
        self.book.clone()
    }

    /// Starts a server.
    ///
    /// # Errors
    /// When its address is taken.
    pub fn serve(&mut self, place: &Place, name: &str, at: SocketAddr) -> Result<()> {
        let listener = TcpListener::from_std(place.listen(at)?)?;
        let (book, connections) = (self.book.clone(), Arc::clone(&self.connections));
        let (name, acceptor) = (name.to_owned(), TlsAcceptor::from(Arc::clone(&self.tls)));
        self.tasks.spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((stream, peer)) = listener.accept().await {
                while running.try_join_next().is_some() {}
                let about = Arrival {
                    name: name.clone(),
                    port: at.port(),
                    peer: peer.ip().to_string(),
                    connection: connections.fetch_add(1, Ordering::Relaxed),
                    ..Arrival::default()
                };
                let line = Line {
                    book: book.clone(),
                    about,
                };
                let acceptor = acceptor.clone();
                running.spawn(async move {
                    // The client sees what is wrong with its connection.
                    let _ = line.serve(Box::new(stream), acceptor).await;
                });
            }
        });
        Ok(())
    }
}

impl Line {
    fn serve(
        mut self,
        mut stream: Box<dyn Wire>,
        acceptor: TlsAcceptor,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> {
        Box::pin(async move {
            let mut first = vec![0; 4096];
            let length = stream.read(&mut first).await?;
            first.truncate(length);
            if first.starts_with(b"PROXY ") {
                let end = first.windows(2).position(|two| two == b"\r\n").context("half a line")?;
                self.about.proxied = Some(String::from_utf8_lossy(&first[..end]).into_owned());
                return self.serve(again(first.split_off(end + 2), stream), acceptor).await;
            }
            if first.starts_with(b"\r\n\r\n\0\r\nQUIT\n") && first.len() >= 16 {
                let length = 16 + usize::from(u16::from_be_bytes([first[14], first[15]]));
                self.about.proxied = Some("PROXY v2".to_owned());
                let rest = first.split_off(length.min(first.len()));
                return self.serve(again(rest, stream), acceptor).await;
            }
            if first.is_empty() && self.about.proxied.is_some() {
                // The header came in a packet of its own.
                let mut rest = vec![0; 4096];
                let length = stream.read(&mut rest).await?;
                rest.truncate(length);
                if rest.is_empty() {
                    return Ok(());
                }
                return self.serve(again(rest, stream), acceptor).await;
            }
            if first.first() == Some(&0x16) && !self.about.tls {
                let stream = acceptor.clone().accept(again(first, stream)).await?;
                let (_, session) = stream.get_ref();
                self.about.tls = true;
                self.about.sni = session.server_name().map(str::to_owned);
                self.about.certificate = session.peer_certificates().is_some();
                return self.serve(Box::new(stream), acceptor).await;
            }
            let text = String::from_utf8_lossy(&first).into_owned();
            let http = text.lines().next().is_some_and(|line| line.contains(" HTTP/"));
            if http {
                return self.http(again(first, stream)).await;
            }
            self.text(text.trim(), &mut stream).await
        })
    }

    async fn text(mut self, row: &str, stream: &mut dyn Wire) -> Result<()> {
        self.about.protocol = "TCP".to_owned();
        let said = serde_json::to_string(&self.about)?;
        self.book.enter(row, self.about);
        stream.write_all(said.as_bytes()).await?;
        stream.shutdown().await?;
        Ok(())
    }

    async fn http(self, stream: Box<dyn Wire>) -> Result<()> {
        let service = service_fn(move |request: Request<Incoming>| {
            let line = self.clone();
            async move { line.answer(request).await }
        });
        let server = auto::Builder::new(TokioExecutor::new());
        server
            .serve_connection(TokioIo::new(stream), service)
            .await
            .map_err(|error| anyhow::anyhow!("{error}"))
    }

    async fn answer(mut self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Refused> {
        let (head, body) = request.into_parts();
        let authority = head.uri.authority().map(ToString::to_string);
        let host = text(&head.headers, "host");
        self.about.protocol = format!("{:?}", head.version);
        self.about.method = head.method.to_string();
        self.about.path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        self.about.authority = authority.or(host).unwrap_or_default();
        for (name, value) in &head.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            let seen = self.about.headers.entry(name.to_string()).or_default();
            if !seen.is_empty() {
                seen.push(',');
            }
            seen.push_str(&value);
        }
        let row = text(&head.headers, "x-row").unwrap_or_default();
        let said = serde_json::to_vec(&self.about).unwrap_or_default();
        let name = self.about.name.clone();
        let before = self.book.enter(&row, self.about);
        // What the client has still to send must not be cut off.
        let _ = body.collect().await;
        let orders = text(&head.headers, "x-do").unwrap_or_default();
        let mut response = Response::new(Full::new(Bytes::from(said)));
        set(response.headers_mut(), "x-upstream", &name);
        set(response.headers_mut(), "x-internal", "yes");
        let grpc = text(&head.headers, "content-type").is_some_and(|kind| kind.starts_with("application/grpc"));
        if grpc {
            *response.body_mut() = Full::default();
            set(response.headers_mut(), "content-type", "application/grpc");
            set(response.headers_mut(), "grpc-status", "0");
        }
        let orders: Vec<(&str, &str)> = orders
            .split(';')
            .map(|order| order.split_once('=').unwrap_or((order, "")))
            .collect();
        let other = orders.iter().any(|(order, value)| *order == "only" && *value != name);
        for (order, value) in orders {
            if other {
                break;
            }
            match order {
                "status" => *response.status_mut() = value.parse().unwrap_or_default(),
                "fail" if before < value.parse().unwrap_or(0) => {
                    *response.status_mut() = hyper::StatusCode::SERVICE_UNAVAILABLE;
                }
                "delay" => tokio::time::sleep(Duration::from_millis(value.parse().unwrap_or(0))).await,
                "reset" => return Err(Refused),
                "grpc" => set(response.headers_mut(), "grpc-status", value),
                "set" => {
                    let (name, value) = value.split_once(':').unwrap_or((value, ""));
                    set(response.headers_mut(), name, value);
                }
                _ => {}
            }
        }
        Ok(response)
    }
}

/// A request that gets no answer.
#[derive(Debug, thiserror::Error)]
#[error("told to break the connection")]
struct Refused;

impl From<Infallible> for Refused {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

fn again(first: Vec<u8>, stream: Box<dyn Wire>) -> Box<dyn Wire> {
    let (reader, writer) = tokio::io::split(stream);
    Box::new(tokio::io::join(std::io::Cursor::new(first).chain(reader), writer))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}
