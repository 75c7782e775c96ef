//! How far proxies have come, told from what happens on their streams.

#![expect(clippy::unwrap_used, reason = "a test whose data is not as expected fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lateen_distribute::{Distributor, ProgressMetrics};
use lateen_lower::{Change, Event as Changed, Index, Kind, Object, Settings, yaml};
use lateen_model::Snapshot;
use lateen_names::ClusterId;
use lateen_runtime::metrics::Metrics;
use lateen_xds::types::CLUSTER;
use lateen_xds::{Dialect, Discovery as _, Event, Node, Peer, Subscription as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

const SERVICE: &str =
    "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: default}, spec: {ports: [{name: http, port: 80}]}}";

fn first() -> Arc<Snapshot> {
    with(&mut Index::new(Settings::new("").unwrap()), SERVICE)
}

/// The snapshot after one more Service.
fn with(index: &mut Index, service: &str) -> Arc<Snapshot> {
    with_one(index, Kind::Service, service)
}

fn with_one(index: &mut Index, kind: Kind, text: &str) -> Arc<Snapshot> {
    let object = Object::decode(kind, &yaml::parse(text).unwrap()).unwrap().value;
    index.apply(vec![Changed {
        cluster: ClusterId::new("Kubernetes").unwrap(),
        change: Change::Apply(Arc::new(object)),
    }]);
    index.publish()
}

/// A later snapshot of the same world.
fn later(snapshot: &Snapshot, generation: u64) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        generation,
        ..snapshot.clone()
    })
}

fn distributor(snapshot: &Arc<Snapshot>) -> Distributor {
    let (_, snapshots) = watch::channel(Some(Arc::clone(snapshot)));
    distributor_of(snapshots, snapshot)
}

fn distributor_of(snapshots: watch::Receiver<Option<Arc<Snapshot>>>, snapshot: &Arc<Snapshot>) -> Distributor {
    let read = |node: &Node, snapshot: &Snapshot| {
        lateen_lower::node::proxy_from_node(node, snapshot).map_err(|error| error.to_string())
    };
    let distributor = Distributor::new(
        snapshots,
        Box::new(read),
        ProgressMetrics::new(&Metrics::new()).unwrap(),
    );
    distributor.push(snapshot, Instant::now());
    distributor
}

fn node() -> Node {
    Node {
        id: "sidecar~10.0.0.1~a.default~default.svc.cluster.local".to_owned(),
        ..Node::default()
    }
}

#[tokio::test]
async fn who_needs_no_byte_of_a_snapshot_has_it_as_soon_as_it_has_the_one_before() {
    let snapshot = first();
    let distributor = distributor(&snapshot);
    assert_eq!((distributor.progress().proxies, distributor.progress().settled), (0, 1));
    let mut stream = distributor
        .connect(node(), &Peer::default(), Dialect::Delta)
        .await
        .unwrap();
    let progress = distributor.progress();
    assert_eq!((progress.proxies, progress.settled, progress.behind), (1, 0, 1));
    assert_eq!(progress.behind_proxy.as_deref(), Some(node().id.as_str()));

    // The stream was given the first snapshot and settles on it when a second one is there that changed nothing.
    distributor.push(&later(&snapshot, 2), Instant::now());
    assert_eq!(distributor.progress().settled, 0);
    stream.on_event(&Event::Settled { snapshot: 1 });
    assert_eq!(distributor.progress().settled, 2);
    distributor.push(&later(&snapshot, 3), Instant::now());
    let progress = distributor.progress();
    assert_eq!((progress.newest, progress.settled, progress.behind), (3, 3, 0));
    drop(stream);
    assert_eq!(distributor.progress().proxies, 0);
}

#[tokio::test]
async fn who_connects_between_two_pushes_joins_the_others() {
    let snapshot = first();
    let (snapshots, receiver) = watch::channel(Some(Arc::clone(&snapshot)));
    let distributor = distributor_of(receiver, &snapshot);
    let connect = async || {
        let stream = distributor.connect(node(), &Peer::default(), Dialect::Delta).await;
        stream.unwrap()
    };
    let one = connect().await;
    snapshots.send_replace(Some(later(&snapshot, 2)));
    // Were it given the newest, what the others hold would be forgotten.
    let other = connect().await;
    assert!(Arc::ptr_eq(&one.wanted().borrow(), &other.wanted().borrow()));
    distributor.push(&later(&snapshot, 2), Instant::now());
    for stream in [one, other] {
        assert_eq!(stream.wanted().borrow().snapshot, 2);
    }
}

#[tokio::test]
async fn what_is_served_at_an_address_is_read_again_of_those_who_have_it() {
    let mut index = Index::new(Settings::new("").unwrap());
    let selecting = SERVICE.replace("spec: {", "spec: {selector: {app: a}, ");
    let distributor = distributor(&with(&mut index, &selecting));
    let connect = async |address: &str| {
        let id = format!("sidecar~{address}~p.default~default.svc.cluster.local");
        let node = Node { id, ..Node::default() };
        distributor
            .connect(node, &Peer::default(), Dialect::Delta)
            .await
            .unwrap()
    };
    let (one, other) = (connect("10.0.0.1").await, connect("10.0.0.2").await);
    let mut serving = |address: &str| {
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a, namespace: default, labels: {{app: a}}}}, \
             status: {{phase: Running, podIP: {address}, podIPs: [{{ip: {address}}}], conditions: [{{type: Ready, status: 'True'}}]}}}}"
        );
        distributor.push(&with_one(&mut index, Kind::Pod, &pod), Instant::now());
        [&one, &other].map(|stream| {
            let wanted = stream.wanted().borrow().clone();
            wanted.set(CLUSTER).unwrap().get("inbound|80||").is_some()
        })
    };
    assert_eq!(serving("10.0.0.9"), [false, false]);
    assert_eq!(serving("10.0.0.1"), [true, false]);
    assert_eq!(serving("10.0.0.2"), [false, true]);
    assert_eq!(serving("10.0.0.9"), [false, false]);
}

#[tokio::test]
async fn a_rejection_counts_while_the_same_content_is_wanted() {
    let snapshot = first();
    let distributor = distributor(&snapshot);
    let mut stream = distributor
        .connect(node(), &Peer::default(), Dialect::Delta)
        .await
        .unwrap();
    let wanted = stream.wanted().borrow().clone();
    let clusters = wanted.set(CLUSTER).unwrap();
    let cluster = clusters
        .iter()
        .find(|cluster| cluster.name.contains("|80||a.default"))
        .unwrap();
    let rejected = |hash| Event::Rejected {
        type_url: CLUSTER.into(),
        name: Arc::clone(&cluster.name),
        hash,
        reason: "no".into(),
    };
    stream.on_event(&rejected(cluster.hash.wrapping_add(1)));
    assert_eq!(distributor.progress().rejections, []);
    stream.on_event(&rejected(cluster.hash));
    let progress = distributor.progress();
    let [rejection] = &progress.rejections[..] else {
        panic!("{progress:?}");
    };
    assert_eq!((&*rejection.proxy, &*rejection.reason), (node().id.as_str(), "no"));
    // Another proxy's rejection of the same is the same news.
    let mut other = distributor
        .connect(node(), &Peer::default(), Dialect::Delta)
        .await
        .unwrap();
    other.on_event(&rejected(cluster.hash));
    assert_eq!(distributor.progress().rejections.len(), 1);
    assert!(
        rejection
            .objects
            .iter()
            .any(|object| object.to_string() == "Service default/a"),
        "{rejection:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_changes_go_on_proxies_take_turns_and_end_with_the_newest() {
    const PROXIES: usize = 4_000;
    const CHANGES: u64 = 40;
    let mut index = Index::new(Settings::new("").unwrap());
    let first = with(&mut index, SERVICE);
    let (snapshots, seen) = watch::channel(Some(Arc::clone(&first)));
    let distributor = distributor_of(seen, &first);
    let mut running = JoinSet::new();
    running.spawn(distributor.clone().run());
    let mut proxies = JoinSet::new();
    let newest = Arc::new(AtomicU64::new(u64::MAX));
    for _ in 0..PROXIES {
        let mut stream = distributor
            .connect(node(), &Peer::default(), Dialect::Delta)
            .await
            .unwrap();
        let newest = Arc::clone(&newest);
        proxies.spawn(async move {
            let (mut wanted, mut told) = (stream.wanted(), Vec::new());
            stream.on_event(&Event::Settled { snapshot: 1 });
            while told.last() != Some(&newest.load(Ordering::Acquire)) {
                wanted.changed().await.unwrap();
                // It takes a while until it looks.
                tokio::time::sleep(Duration::from_millis(400)).await;
                let snapshot = wanted.borrow_and_update().snapshot;
                stream.on_event(&Event::Settled { snapshot });
                told.push(snapshot);
            }
            told
        });
    }
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    for change in 0..CHANGES {
        ticks.tick().await;
        let snapshot = with(&mut index, &SERVICE.replace("name: a,", &format!("name: a{change},")));
        if change + 1 == CHANGES {
            newest.store(snapshot.generation, Ordering::Release);
        }
        snapshots.send_replace(Some(snapshot));
    }
    let told = tokio::time::timeout(Duration::from_secs(60), proxies.join_all())
        .await
        .unwrap();
    assert_eq!(told.len(), PROXIES);
    assert!(told.iter().all(|told| told.is_sorted()));
    assert!(
        told.iter().all(|told| told.len() < CHANGES as usize / 2),
        "pushes follow each other too fast: {:?}",
        told[0]
    );
    assert!(
        told.iter().any(|one| *one != told[0]),
        "nobody took turns: {:?}",
        told[0]
    );
    // It ends with the snapshots.
    drop(snapshots);
    running.join_all().await;
}
