//! A connection to a control plane, and streams over it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lateen_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use super::wire::{PATH, Part, Reader, framed};

const CONNECTING: Duration = Duration::from_secs(60);
/// Flow-control windows, of a stream and of its connection. Room for the frames of one is kept for as long as the
/// connection lasts.
const WINDOW: u32 = 1 << 18;

/// A body of requests, sent as they are queued.
type Requests = StreamBody<futures::stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// How to reach the control plane.
#[derive(Clone)]
pub(crate) struct Target {
    /// `host:port`.
    pub(crate) address: String,
    /// Certificates to show and to trust, and the name that the server must have; none without TLS.
    pub(crate) tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
}

/// A connection that is made when it is first needed, and anew after it was lost.
pub(crate) struct Connection {
    target: Target,
    live: Mutex<Option<Live>>,
}

struct Live {
    sender: SendRequest<Requests>,
    /// What moves the connection's bytes; it ends with this.
    _driver: JoinSet<()>,
}

/// A stream of delta ADS.
pub(crate) struct Stream {
    requests: mpsc::UnboundedSender<Bytes>,
    body: Incoming,
    reader: Reader,
}

// === impl Connection ===

impl Connection {
    pub(crate) fn new(target: Target) -> Self {
        Self {
            target,
            live: Mutex::default(),
        }
    }

    /// Opens a stream with its first request, framed.
    ///
    /// # Errors
    /// When there is no connection, or the server refuses.
    pub(crate) async fn open(&self, first: Bytes) -> Result<Stream> {
        let mut sender = timeout(CONNECTING, self.sender())
            .await
            .context("no connection in time")??;
        let (requests, queue) = mpsc::unbounded_channel();
        let queue = UnboundedReceiverStream::new(queue).map(|bytes| Ok(Frame::data(bytes)));
        // Servers answer once the first request is there.
        requests.send(first).map_err(|_| anyhow!("the stream has ended"))?;
        let scheme = if self.target.tls.is_some() { "https" } else { "http" };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(self.target.address.as_str())
            .path_and_query(PATH);
        let request = Request::post(uri.build().context("the target's address")?)
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers")
            .body(StreamBody::new(queue.boxed()))?;
        let response = sender
            .send_request(request)
            .await
            .context("the stream was not opened")?;
        if let Some(status) = Status::from_header_map(response.headers()) {
            bail!("{}: {}", status.code(), status.message());
        }
        if response.status() != http::StatusCode::OK {
            bail!("the server answers {}", response.status());
        }
        Ok(Stream {
            requests,
            body: response.into_body(),
            reader: Reader::default(),
        })
    }

    async fn sender(&self) -> Result<SendRequest<Requests>> {
        let mut live = self.live.lock().await;
        if let Some(live) = live.as_ref().filter(|live| !live.sender.is_closed()) {
            return Ok(live.sender.clone());
        }
        let fresh = self.connect().await?;
        let sender = fresh.sender.clone();
        *live = Some(fresh);
        Ok(sender)
    }

    async fn connect(&self) -> Result<Live> {
        let Target { address, tls } = &self.target;
        let tcp = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        tcp.set_nodelay(true)?;
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let mut driver = JoinSet::new();
        // How a connection ends shows in its streams.
        let sender = match tls {
            None => {
                let (sender, connection) = builder.handshake(TokioIo::new(tcp)).await?;
                driver.spawn(async move { drop(connection.await) });
                sender
            }
            Some((config, name)) => {
                let connector = TlsConnector::from(config.clone());
                let stream = connector.connect(name.clone(), tcp).await;
                let stream = stream.with_context(|| format!("no TLS with {address}"))?;
                let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
                driver.spawn(async move { drop(connection.await) });
                sender
            }
        };
        Ok(Live {
            sender,
            _driver: driver,
        })
    }
}

// === impl Stream ===

impl Stream {
    /// Queues a request.
    ///
    /// # Errors
    /// When the stream has ended.
    pub(crate) fn send(&self, request: &DeltaDiscoveryRequest) -> Result<()> {
        self.requests
            .send(framed(request))
            .map_err(|_| anyhow!("the stream has ended"))
    }

    /// Waits for the next part of a response.
    ///
    /// # Errors
    /// The status that the stream ended with, or what is wrong with a response.
    pub(crate) async fn next(&mut self) -> Result<Part> {
        loop {
            if let Some(part) = self.reader.next()? {
                return Ok(part);
            }
            let frame = self.body.frame().await.context("the server closed the stream")?;
            match frame.context("the connection was lost")?.into_data() {
                Ok(data) => self.reader.add(&data),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    let status = status.unwrap_or_else(|| Status::unknown("no status"));
                    bail!("the server ended the stream: {}: {}", status.code(), status.message());
                }
            }
        }
    }
}
