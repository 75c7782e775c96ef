//! ADS between Envoy and the control plane: bytes are passed through, both ways, without being understood, except the
//! name table for DNS, which the agent asks for itself and keeps from Envoy, configurations of filters, in which
//! WebAssembly modules by URL become files, and names of clusters that come on demand. Beside the streams of ADS it hears of
//! requests whose cluster is not there.
//!
//! While the control plane is away, Envoy's stream is held open and the agent tries again; what Envoy has said waits.
//! Once a stream to the control plane has carried anything, its end ends Envoy's too: Envoy must say anew what it has.

mod codec;
mod extensions;
mod nametable;
mod on_demand;
mod relay;
mod wire;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use lateen_proto::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

pub(crate) use nametable::NameTable;
pub(crate) use on_demand::{OnDemand, watch_usage};
pub(crate) use wire::Protocol;

use crate::certificates::SecretStore;
use crate::config::UpstreamConfig;
use crate::grpc;
use crate::metrics::Metrics;
use crate::wasm::Modules;
use codec::Raw;

/// Requests of Envoy may carry much metadata, but not this much.
const MAXIMUM_REQUEST: usize = 64 << 20;

/// What all streams share.
pub(crate) struct AdsProxy {
    pub(crate) config: UpstreamConfig,
    pub(crate) store: SecretStore,
    pub(crate) metrics: Arc<Metrics>,
    /// Where name tables go; none when the agent answers no DNS.
    pub(crate) names: Option<watch::Sender<Option<Arc<NameTable>>>>,
    /// Who fetches WebAssembly modules; none when that is left to Envoy.
    pub(crate) modules: Option<Arc<Modules>>,
    /// Clusters that come when they are first used; none when Envoy asks for them itself.
    pub(crate) on_demand: Option<Arc<OnDemand>>,
}

/// Serves Envoy's ADS streams until told to stop.
///
/// # Errors
/// When the socket cannot be bound.
pub(crate) async fn serve(proxy: Arc<AdsProxy>, stop: CancellationToken) -> anyhow::Result<()> {
    let incoming = grpc::listen(&proxy.config.socket)?;
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 20)
        .serve_with_incoming(Service(proxy), incoming);
    tokio::select! {
        result = server => Ok(result?),
        () = stop.cancelled() => Ok(()),
    }
}

/// The gRPC service by hand: generated code would decode every message.
#[derive(Clone)]
struct Service(Arc<AdsProxy>);

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let proxy = Arc::clone(&self.0);
        async move {
            let path = request.uri().path();
            if let (on_demand::PATH, Some(on_demand)) = (path, &proxy.on_demand) {
                let mut grpc = Grpc::new(ProstCodec::default());
                return Ok(grpc.streaming(MissingCluster(Arc::clone(on_demand)), request).await);
            }
            let Some(protocol) = Protocol::of_path(path) else {
                return Ok(Status::unimplemented("the agent serves ADS, and hears of missing clusters").into_http());
            };
            let mut grpc = Grpc::new(Raw).max_decoding_message_size(MAXIMUM_REQUEST);
            Ok(grpc.streaming(Method { proxy, protocol }, request).await)
        }
        .boxed()
    }
}

struct Method {
    proxy: Arc<AdsProxy>,
    protocol: Protocol,
}

impl StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = futures::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let stream = relay::stream(Arc::clone(&self.proxy), self.protocol, request.into_inner());
        futures::future::ready(Ok(Response::new(stream)))
    }
}

struct MissingCluster(Arc<OnDemand>);

impl StreamingService<ProcessingRequest> for MissingCluster {
    type Response = ProcessingResponse;
    type ResponseStream = BoxStream<'static, Result<ProcessingResponse, Status>>;
    type Future = futures::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<ProcessingRequest>>) -> Self::Future {
        let answer = on_demand::answer(Arc::clone(&self.0), request.into_inner());
        futures::future::ready(Ok(Response::new(answer)))
    }
}
