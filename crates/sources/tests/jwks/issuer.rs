//! A server that answers what a test tells it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use lateen_lower::KeySource;
use lateen_sources::jwks::{FetchError, Fetcher, Policy, Resolve, SystemResolver};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Longer than anything takes that does take place.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What is done with a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// These bytes, and the end.
    Bytes(Vec<u8>),
    /// These bytes, then others again and again until the caller has gone.
    Endless(Vec<u8>, Vec<u8>),
    /// These bytes, and then nothing more.
    Stuck(Vec<u8>),
}

type Handler = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

/// A server; it ends with its value.
pub(crate) struct Issuer {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    handler: Arc<Mutex<Handler>>,
    _serving: JoinSet<()>,
}

impl Issuer {
    pub(crate) async fn start(handler: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_at(any, None, handler).await.unwrap()
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        handler: impl Fn(&str) -> Reply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicUsize::new(0));
        let handler: Arc<Mutex<Handler>> = Arc::new(Mutex::new(Arc::new(handler)));
        let (counted, current) = (Arc::clone(&connections), Arc::clone(&handler));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let (handler, tls) = (Arc::clone(&*current.lock().unwrap()), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, handler).await,
                        Some(config) => {
                            if let Ok(stream) = tokio_rustls::TlsAcceptor::from(config).accept(stream).await {
                                serve(stream, handler).await;
                            }
                        }
                    }
                });
            }
        });
        Ok(Self {
            address,
            connections,
            handler,
            _serving: serving,
        })
    }

    /// Answers otherwise from now on.
    pub(crate) fn answer(&self, handler: impl Fn(&str) -> Reply + Send + Sync + 'static) {
        *self.handler.lock().unwrap() = Arc::new(handler);
    }

    pub(crate) fn uri(&self, path: &str) -> KeySource {
        KeySource::Uri(format!("http://{}{path}", self.address).into())
    }

    pub(crate) fn connected(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, handler: Handler) {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => head.extend_from_slice(&buffer[..read]),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    match handler(path) {
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Reply::Endless(first, more) => {
            let mut wrote = stream.write_all(&first).await;
            while wrote.is_ok() {
                wrote = stream.write_all(&more).await;
                tokio::task::yield_now().await;
            }
        }
        Reply::Stuck(bytes) => {
            let _ = stream.write_all(&bytes).await;
            // Until the caller has had enough.
            let _ = stream.read(&mut buffer).await;
        }
    }
}

/// An answer with a length.
pub(crate) fn ok(body: &str) -> Reply {
    with_head("200 OK", "", body)
}

pub(crate) fn with_head(status: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Bytes(format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes())
}

pub(crate) fn redirect(to: &str) -> Reply {
    with_head("302 Found", &format!("location: {to}\r\n"), "")
}

/// A set with one key of this name.
pub(crate) fn set(kid: &str) -> String {
    let coordinate = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";
    format!(r#"{{"keys":[{{"crv":"P-256","kid":"{kid}","kty":"EC","x":"{coordinate}","y":"{coordinate}"}}]}}"#)
}

/// Loopback, which is where servers of tests are.
pub(crate) fn permitting(ranges: &[&str]) -> Policy {
    Policy {
        blocked: Vec::new(),
        permitted: ranges.iter().map(|range| range.parse().unwrap()).collect(),
    }
}

pub(crate) fn fetcher(policy: Policy) -> Fetcher {
    Fetcher::new(policy, None, Arc::new(SystemResolver))
}

/// One attempt, with loopback permitted.
pub(crate) async fn attempt(source: &KeySource, within: Duration) -> Result<Arc<str>, FetchError> {
    fetcher(permitting(&["127.0.0.0/8"])).fetch(source, within).await
}

/// Names that lead elsewhere each time; the last address stays.
pub(crate) struct Names(pub(crate) Mutex<Vec<Vec<IpAddr>>>);

impl Names {
    pub(crate) fn new(answers: &[&[&str]]) -> Arc<Self> {
        let answers = answers.iter().rev();
        let answers = answers.map(|ips| ips.iter().map(|ip| ip.parse().unwrap()).collect());
        Arc::new(Self(Mutex::new(answers.collect())))
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let mut answers = self.0.lock().unwrap();
        let answer = if answers.len() > 1 {
            answers.pop()
        } else {
            answers.last().cloned()
        };
        async move { Ok(answer.unwrap_or_default()) }.boxed()
    }
}
