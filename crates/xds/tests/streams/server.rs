//! The server with its own client and with the generated one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lateen_proto::envoy::config::core::v3::Node;
use lateen_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use lateen_proto::{Struct, Value, value::Kind};
use lateen_xds::types::{CLUSTER, ENDPOINTS, LISTENER, ROUTE, SECRET};
use lateen_xds::{
    AdsClient, ClientState, Dialect, Discovery, Event, Peer, Refusal, Resource, SessionRecord, Settings, Subscription,
    SyncState, Wanted,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::fixture::{LIMIT, TestServer, World, eventually, node};
use crate::messages::{cluster, endpoints, listener, routes};

fn envoy_like() -> ClientState {
    ClientState::new()
        .following()
        .subscribing(CLUSTER, &["*"])
        .subscribing(LISTENER, &["*"])
}

fn holds(state: &ClientState, type_url: &str, names: &[&str]) -> bool {
    state
        .of(type_url)
        .is_some_and(|held| held.resources.keys().map(String::as_str).eq(names.iter().copied()))
}

async fn served() -> TestServer {
    let server = TestServer::start().await;
    let address = "127.0.0.1:1".parse().unwrap();
    server.publish(&[
        (CLUSTER, &[cluster("a", 1), cluster("b", 1)]),
        (
            ENDPOINTS,
            &[
                endpoints("a", address),
                endpoints("b", address),
                endpoints("c", address),
            ],
        ),
        (LISTENER, &[listener("l", "r")]),
        (ROUTE, &[routes("r", "a"), routes("other", "b")]),
    ]);
    server
}

#[tokio::test]
async fn a_proxy_gets_what_it_asks_for_and_is_on_record() {
    let server = served().await;
    let mut client = AdsClient::connect(server.channel().await, node("sidecar~1"), envoy_like())
        .await
        .unwrap();
    client
        .until(LIMIT, |state| {
            holds(state, ENDPOINTS, &["a", "b"]) && holds(state, ROUTE, &["r"])
        })
        .await
        .unwrap();
    // The client holds what it was sent a little before the server hears of it.
    let records = eventually("all four types are acknowledged", || {
        let records = server.sessions.snapshot();
        let acked = |record: &SessionRecord| record.types.iter().filter(|of| of.acked.is_some()).count();
        records
            .first()
            .is_some_and(|record| acked(record) == 4)
            .then_some(records)
    })
    .await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].connection_id(), "sidecar~1-1");
    let acked: Vec<_> = records[0]
        .types
        .iter()
        .map(|of| of.acked.as_ref().unwrap().version.to_string())
        .collect();
    assert_eq!(acked, ["v1"; 4]);
    assert_eq!(records[0].sync_state(CLUSTER), SyncState::Synced);
    assert_eq!(records[0].sync_state(SECRET), SyncState::NotSent);
    assert_eq!(records[0].types[1].status.subscribed, 2);
    assert_eq!(server.metric("pilot_xds{version=\"\"}"), Some(1.0));
    assert_eq!(server.metric("pilot_xds_pushes{type=\"rds\"}"), Some(1.0));

    let snapshot = server.publish(&[(ROUTE, &[routes("r", "b"), routes("other", "a")])]);
    let updates = client.until(LIMIT, |state| {
        let r = &state.of(ROUTE).unwrap().resources["r"];
        r.version == routes("r", "b").version()
    });
    assert_eq!(updates.await.unwrap().len(), 1);
    server.settled(snapshot).await;
    assert_eq!(server.metric("pilot_proxy_convergence_time_count"), Some(1.0));

    // Connected anew, it is sent nothing that it has.
    let state = client.disconnect();
    eventually("the stream is gone", || server.sessions.is_empty().then_some(())).await;
    assert_eq!(server.metric("pilot_xds{version=\"\"}"), Some(0.0));
    server.events();
    let _client = AdsClient::connect(server.channel().await, node("sidecar~1"), state)
        .await
        .unwrap();
    server.settled(snapshot).await;
    assert!(!server.events().iter().any(|event| matches!(event, Event::Sent { .. })));
}

#[tokio::test]
async fn a_rejection_is_recorded_with_its_reason() {
    let server = TestServer::start().await;
    server.publish(&[(CLUSTER, &[cluster("good", 1), cluster("bad", 1), cluster("fine", 1)])]);
    let state = ClientState::new().subscribing(CLUSTER, &["*"]).judging(|_, resource| {
        if resource.name == "bad" {
            Err("bad: no such thing".to_owned())
        } else {
            Ok(())
        }
    });
    let mut client = AdsClient::connect(server.channel().await, node("sidecar~2"), state)
        .await
        .unwrap();
    let updates = client
        .until(LIMIT, |state| holds(state, CLUSTER, &["fine", "good"]))
        .await
        .unwrap();
    assert_eq!(updates.last().unwrap().rejected, None);
    // The suspect alone is rejected once more.
    let last = client.next().await.unwrap();
    assert_eq!(
        (last.changed, last.rejected.as_deref()),
        (vec!["bad".to_owned()], Some("bad: no such thing"))
    );
    let record = &server.settled(1).await[0].types[0];
    assert_eq!(&*record.nack.as_ref().unwrap().reason, "bad: no such thing");
    assert_eq!(
        record.status.rejected.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["bad"]
    );
    assert_eq!(server.sessions.snapshot()[0].sync_state(CLUSTER), SyncState::Error);
    assert_eq!(server.metric("pilot_total_xds_rejects{type=\"cds\"}"), Some(2.0));
    assert_eq!(
        server.metric("pilot_xds_cds_reject{err=\"3\",node=\"sidecar~2\"}"),
        Some(1.0)
    );
    drop(client);
    eventually("the gauge goes with the proxy", || {
        server
            .metric("pilot_xds_cds_reject{err=\"3\",node=\"sidecar~2\"}")
            .is_none()
            .then_some(())
    })
    .await;
}

/// Opens a stream of the generated client with these requests; further ones may be sent while the sender lives.
async fn raw(
    server: &TestServer,
    first: DeltaDiscoveryRequest,
) -> Result<(mpsc::Sender<DeltaDiscoveryRequest>, Status), Status> {
    let (sender, queue) = mpsc::channel(8);
    sender.send(first).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(server.channel().await);
    let mut responses = client
        .delta_aggregated_resources(ReceiverStream::new(queue))
        .await?
        .into_inner();
    loop {
        match responses.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(Status::ok("ended")),
            Err(status) => return Ok((sender, status)),
        }
    }
}

#[tokio::test]
async fn nonsense_ends_only_its_stream() {
    let server = served().await;
    let mut good = AdsClient::connect(server.channel().await, node("good"), envoy_like())
        .await
        .unwrap();
    let request = |node: Option<Node>, type_url: &str| DeltaDiscoveryRequest {
        node,
        type_url: type_url.to_owned(),
        ..Default::default()
    };
    let mut huge = node("huge");
    let text = Value {
        kind: Some(Kind::StringValue("x".repeat(10 << 20))),
    };
    huge.metadata = Some(Struct {
        fields: [("LABELS".to_owned(), text)].into(),
    });
    let cases = [
        (
            request(Some(huge), CLUSTER),
            Code::ResourceExhausted,
            "metadata too large",
        ),
        (request(None, CLUSTER), Code::InvalidArgument, "Node"),
        (request(Some(node("")), CLUSTER), Code::InvalidArgument, "Node"),
        (request(Some(node("typeless")), ""), Code::InvalidArgument, "type_url"),
        (
            request(Some(node("stranger")), CLUSTER),
            Code::PermissionDenied,
            "certificate",
        ),
        (request(Some(node("panics")), CLUSTER), Code::Internal, "connect anew"),
        (
            request(Some(node("panics-later")), CLUSTER),
            Code::Internal,
            "connect anew",
        ),
    ];
    for (request, code, text) in cases {
        let status = match raw(&server, request).await {
            Ok((_, status)) | Err(status) => status,
        };
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
    assert_eq!(server.metric("pilot_total_xds_internal_errors"), Some(2.0));
    good.until(LIMIT, |state| holds(state, ROUTE, &["r"])).await.unwrap();
    server.publish(&[(CLUSTER, &[cluster("a", 2)])]);
    good.until(LIMIT, |state| holds(state, CLUSTER, &["a"])).await.unwrap();
    assert_eq!(server.sessions.len(), 1);
}

#[tokio::test]
async fn the_state_of_the_world_over_the_generated_client() {
    let server = served().await;
    let (sender, queue) = mpsc::channel(8);
    let request = |type_url: &str, names: &[&str], nonce: &str| DiscoveryRequest {
        node: nonce.is_empty().then(|| node("old")),
        type_url: type_url.to_owned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        response_nonce: nonce.to_owned(),
        ..Default::default()
    };
    sender.send(request(CLUSTER, &[], "")).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(server.channel().await);
    let mut responses = client
        .stream_aggregated_resources(ReceiverStream::new(queue))
        .await
        .unwrap()
        .into_inner();
    let clusters = responses.message().await.unwrap().unwrap();
    assert_eq!((clusters.resources.len(), &*clusters.version_info), (2, "v1"));
    sender.send(request(CLUSTER, &[], &clusters.nonce)).await.unwrap();
    sender.send(request(ENDPOINTS, &["b"], "")).await.unwrap();
    let of_b = responses.message().await.unwrap().unwrap();
    assert_eq!((&*of_b.type_url, of_b.resources.len()), (ENDPOINTS, 1));
    assert_eq!(
        of_b.resources[0].value,
        endpoints("b", "127.0.0.1:1".parse().unwrap()).body
    );
    server.publish(&[(CLUSTER, &[cluster("a", 1), cluster("b", 1), cluster("d", 1)])]);
    let clusters = responses.message().await.unwrap().unwrap();
    assert_eq!((&*clusters.type_url, clusters.resources.len()), (CLUSTER, 3));
}

#[tokio::test]
async fn draining_sends_proxies_elsewhere() {
    let server = served().await;
    let mut client = AdsClient::connect(server.channel().await, node("a"), envoy_like())
        .await
        .unwrap();
    client.next().await.unwrap();
    server.shutdown.begin();
    let status = client.until(LIMIT, |_| false).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test]
async fn streams_end_at_their_age() {
    let settings = Settings {
        max_age: Some(Duration::from_millis(50)),
        ..Settings::default()
    };
    let server = TestServer::with(World::new(), settings, "127.0.0.1:0".parse().unwrap()).await;
    let mut client = AdsClient::connect(server.channel().await, node("old"), envoy_like())
        .await
        .unwrap();
    let status = client.until(LIMIT, |_| false).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("long enough"), "{status}");
}

#[tokio::test]
async fn a_slow_proxy_is_sent_the_last_state_and_not_every_one() {
    let server = TestServer::start().await;
    let body = |i: u8| Resource::new("big", vec![i; 1 << 20].into());
    server.publish(&[(CLUSTER, &[body(0)])]);
    let state = ClientState::new().subscribing(CLUSTER, &["*"]);
    let mut client = AdsClient::connect(server.channel().await, node("slow"), state)
        .await
        .unwrap();
    eventually("the first response is on its way", || {
        server
            .events()
            .iter()
            .any(|event| matches!(event, Event::Sent { .. }))
            .then_some(())
    })
    .await;
    for i in 1..=200 {
        server.publish(&[(CLUSTER, &[body(i)])]);
    }
    let last = body(200).version();
    let updates = client
        .until(LIMIT, |state| {
            state
                .of(CLUSTER)
                .unwrap()
                .resources
                .get("big")
                .is_some_and(|big| big.version == last)
        })
        .await
        .unwrap();
    assert!(updates.len() <= 3, "{} updates", updates.len());
}

/// Counts how many first compilations run at once.
struct Slow {
    wanted: watch::Sender<Arc<Wanted>>,
    now: AtomicUsize,
    most: Arc<AtomicUsize>,
}

struct Silent(watch::Receiver<Arc<Wanted>>);

impl Discovery for Slow {
    type Subscription = Silent;

    async fn connect(&self, _: Node, _: &Peer, _: Dialect) -> Result<Silent, Refusal> {
        self.most
            .fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(Silent(self.wanted.subscribe()))
    }
}

impl Subscription for Silent {
    fn wanted(&self) -> watch::Receiver<Arc<Wanted>> {
        self.0.clone()
    }

    fn on_event(&mut self, _: &Event) {}
}

#[tokio::test]
async fn many_proxies_at_once_wait_for_their_turn_and_nobody_is_refused() {
    let set = [cluster("a", 1)].into_iter().collect();
    let wanted = Wanted {
        snapshot: 1,
        sets: [(Arc::from(CLUSTER), set)].into_iter().collect(),
        ..Wanted::default()
    };
    let most = Arc::new(AtomicUsize::new(0));
    let slow = Slow {
        wanted: watch::Sender::new(Arc::new(wanted)),
        now: AtomicUsize::new(0),
        most: Arc::clone(&most),
    };
    let settings = Settings {
        connects_at_once: 3,
        ..Settings::default()
    };
    let server = TestServer::serve(slow, settings, "127.0.0.1:0".parse().unwrap()).await;
    let mut clients = JoinSet::new();
    for i in 0..100 {
        let channel = server.channel().await;
        clients.spawn(async move {
            let state = ClientState::new().subscribing(CLUSTER, &["*"]);
            let mut client = AdsClient::connect(channel, node(&format!("n{i}")), state)
                .await
                .unwrap();
            client
                .until(Duration::from_secs(60), |state| holds(state, CLUSTER, &["a"]))
                .await
                .unwrap();
            client
        });
    }
    let clients = clients.join_all().await;
    assert_eq!(clients.len(), 100);
    assert_eq!(server.sessions.len(), 100);
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn what_is_no_grpc_is_told_so() {
    let server = TestServer::with(World::new(), Settings::default(), "127.0.0.1:0".parse().unwrap()).await;
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/envoy.service.discovery.v3.AggregatedDiscoveryService/Nothing");
    let request = tonic::Request::new(DiscoveryRequest::default());
    let codec = tonic_prost::ProstCodec::<DiscoveryRequest, DiscoveryRequest>::default();
    let status = grpc.unary(request, path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn questions_about_the_control_plane_are_answered_and_are_no_proxies() {
    let settings = Settings {
        identifier: "me".to_owned(),
        ..Settings::default()
    };
    let server = TestServer::with(World::new(), settings, "127.0.0.1:0".parse().unwrap()).await;
    let mut client = AggregatedDiscoveryServiceClient::new(server.channel().await);
    let ask = |names: &[&str], nonce: &str| DiscoveryRequest {
        type_url: "istio.io/debug/echo".to_owned(),
        resource_names: names.iter().map(|&name| name.to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    };
    let (requests, receiver) = mpsc::channel(4);
    // `istioctl` sends the time of day as the nonce of its first request.
    let time_of_day = "2026-08-22 15:00:18.123456789 +0000 UTC m=+0.131";
    requests.send(ask(&["a"], time_of_day)).await.unwrap();
    let answers = client.stream_aggregated_resources(ReceiverStream::new(receiver)).await;
    let mut answers = answers.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.type_url, "istio.io/debug/echo");
    assert_eq!(answer.control_plane.unwrap().identifier, "me");
    assert_eq!(&answer.resources[0].value[..], b"a");
    // An acknowledgement asks nothing; the next question is answered.
    requests.send(ask(&["a"], &answer.nonce)).await.unwrap();
    requests.send(ask(&["b"], "")).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(&answer.resources[0].value[..], b"b");
    assert!(server.sessions.is_empty());
    requests.send(ask(&[], "")).await.unwrap();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("about what?"), "{status}");
}
