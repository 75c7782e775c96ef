//! Streams of discovery requests, as bytes on the wire.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use lateen_runtime::Drain;
use lateen_runtime::metrics::Metrics;
use lateen_xds::{
    AdsService, Dialect, Discovery, Event, Node, Peer, Refusal, Resource, Sessions, Settings, Subscription, Wanted,
    XdsMetrics, types,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tonic::codegen::Service as _;

/// gRPC's INTERNAL, with which a stream ends after a panic.
const INTERNAL: &str = "13";

thread_local! {
    static SERVER: RefCell<Option<(Runtime, AdsService<World>)>> = const { RefCell::new(None) };
}

/// Every proxy should hold the same few resources.
struct World(watch::Sender<Arc<Wanted>>);

struct Held(watch::Receiver<Arc<Wanted>>);

impl Discovery for World {
    type Subscription = Held;

    async fn connect(&self, _: Node, _: &Peer, _: Dialect) -> Result<Held, Refusal> {
        Ok(Held(self.0.subscribe()))
    }
}

impl Subscription for Held {
    fn wanted(&self) -> watch::Receiver<Arc<Wanted>> {
        self.0.clone()
    }

    fn on_event(&mut self, _: &Event) {}
}

fn server() -> Option<(Runtime, AdsService<World>)> {
    let mut wanted = Wanted {
        snapshot: 1,
        version: "v1".into(),
        ..Wanted::default()
    };
    for url in [types::CLUSTER, types::ENDPOINTS, types::LISTENER, types::ROUTE] {
        let resource = |name: &str| Resource::new(name, Bytes::from_static(b"body"));
        wanted
            .sets
            .insert(url, ["one", "two"].map(resource).into_iter().collect());
    }
    let settings = Settings {
        request_limit: 64 << 10,
        ..Settings::default()
    };
    let metrics = XdsMetrics::new(&Metrics::new()).ok()?;
    let service = AdsService::new(
        World(watch::Sender::new(Arc::new(wanted))),
        settings,
        Sessions::new(),
        metrics,
        Drain::never(),
    );
    let runtime = Builder::new_current_thread().enable_time().build().ok()?;
    Some((runtime, service))
}

/// A stream: the first byte says in which dialect and in pieces of which size the rest is sent. It must end, and not by a
/// panic.
pub fn discovery(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let method = if first & 1 == 0 {
        "DeltaAggregatedResources"
    } else {
        "StreamAggregatedResources"
    };
    let size = usize::from(first >> 1).saturating_mul(8).max(1);
    let frames: Vec<Result<Frame<Bytes>, Infallible>> = rest
        .chunks(size)
        .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    let request = Request::post(format!(
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/{method}"
    ))
    .header("content-type", "application/grpc")
    .body(StreamBody::new(stream::iter(frames)));
    let Ok(request) = request else {
        return;
    };
    SERVER.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = server();
        }
        let Some((runtime, service)) = kept else {
            panic!("there is no server");
        };
        let status = runtime.block_on(async {
            let Ok(response) = service.call(request).await;
            let Ok(body) = response.into_body().collect().await;
            let trailers = body.trailers();
            trailers.and_then(|trailers| trailers.get("grpc-status")).cloned()
        });
        assert!(status.is_some(), "the stream has no end");
        assert!(status.is_none_or(|status| status != INTERNAL), "the stream panicked");
    });
}
