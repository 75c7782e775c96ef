//! The Aggregated Discovery Service over gRPC, both variants.
//!
//! A [`tower`](tonic::codegen::Service) service that any HTTP/2 server can mount. Its response body drives the stream:
//! it reads requests and makes responses only when the connection asks for more, so that a slow proxy holds back nobody
//! and no memory but its own. Bodies of resources are not copied.
//!
//! What the HTTP/2 server should set: keep-alive pings about every 30 s with a timeout of 10 s (a proxy that vanished
//! would otherwise be held for hours), `max_concurrent_streams` about 100, the usual small stream windows for requests.

mod stream;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use lateen_proto::envoy::config::core::v3::ControlPlane;
use lateen_runtime::{Clock, Drain};
use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::server::NamedService;
use tonic::{Status, codegen::Service};

use crate::{Dialect, Discovery, Peer, Sessions, XdsMetrics};

const SERVICE: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// Limits of the server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The largest request, in bytes. A Node with all its metadata, and every name that a proxy subscribes to, must fit.
    pub request_limit: usize,
    /// New streams that are filled at once; further ones wait for their turn.
    pub connects_at_once: usize,
    /// How long a stream may say nothing at first.
    pub first_request_timeout: Duration,
    /// How long streams last: proxies then connect anew, which spreads them over replicas. `None` for ever.
    pub max_age: Option<Duration>,
    /// What `control_plane.identifier` says.
    pub identifier: String,
}

/// Serves ADS. Clones share everything.
pub struct AdsService<D> {
    shared: Arc<Shared<D>>,
}

struct Shared<D> {
    discovery: D,
    settings: Settings,
    control_plane: Vec<u8>,
    sessions: Sessions,
    metrics: XdsMetrics,
    connects: Arc<Semaphore>,
    clock: Clock,
    drain: Drain,
}

/// A stream of responses; see [`AdsService`].
pub struct ResponseBody {
    frames: Pin<Box<dyn Stream<Item = Frame<Bytes>> + Send>>,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            request_limit: 4 << 20,
            connects_at_once: std::thread::available_parallelism().map_or(32, |cores| cores.get() * 16),
            first_request_timeout: Duration::from_secs(30),
            max_age: None,
            identifier: String::new(),
        }
    }
}

// === impl AdsService ===

impl<D: Discovery> AdsService<D> {
    /// Serves what `discovery` answers, until `drain` begins: streams then end with UNAVAILABLE, and proxies connect
    /// to another replica.
    pub fn new(discovery: D, settings: Settings, sessions: Sessions, metrics: XdsMetrics, drain: Drain) -> Self {
        let identifier = settings.identifier.clone();
        let shared = Shared {
            discovery,
            control_plane: if identifier.is_empty() {
                Vec::new()
            } else {
                ControlPlane { identifier }.encode_to_vec()
            },
            connects: Arc::new(Semaphore::new(settings.connects_at_once.max(1))),
            settings,
            sessions,
            metrics,
            clock: Clock::system(),
            drain,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    fn respond<B>(&self, request: Request<B>) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        let grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        if request.method() != Method::POST || !request.headers().get(header::CONTENT_TYPE).is_some_and(grpc) {
            let mut response = Response::new(ResponseBody {
                frames: futures::stream::empty().boxed(),
            });
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return response;
        }
        let path = request.uri().path();
        let method = path.strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE));
        let dialect = match method {
            Some("/DeltaAggregatedResources") => Ok(Dialect::Delta),
            Some("/StreamAggregatedResources") => Ok(Dialect::StateOfTheWorld),
            _ => Err(Status::unimplemented(format!("no method {path}"))),
        };
        let frames = match dialect {
            Ok(dialect) => {
                let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
                stream::frames(Arc::clone(&self.shared), request.into_body(), peer, dialect)
            }
            Err(status) => futures::stream::iter([Frame::trailers(trailers(&status))]).boxed(),
        };
        let mut response = Response::new(ResponseBody { frames });
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }
}

impl<D> Clone for AdsService<D> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<D> NamedService for AdsService<D> {
    const NAME: &'static str = SERVICE;
}

impl<D, B> Service<Request<B>> for AdsService<D>
where
    D: Discovery,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.respond(request)))
    }
}

// === impl ResponseBody ===

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.frames.poll_next_unpin(context).map(|frame| frame.map(Ok))
    }
}

/// A status as it is sent at the end of a stream.
fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert("grpc-status", HeaderValue::from(status.code() as i32));
    }
    trailers
}
