//! How far proxies have come, told from what happens on their streams.

#![expect(clippy::unwrap_used, reason = "a test whose data is not as expected fails")]

use std::sync::Arc;
use std::time::Instant;

use lateen_distribute::{Distributor, ProgressMetrics};
use lateen_lower::{Change, Event as Changed, Index, Kind, Object, Settings, yaml};
use lateen_model::Snapshot;
use lateen_names::ClusterId;
use lateen_runtime::metrics::Metrics;
use lateen_xds::types::CLUSTER;
use lateen_xds::{Dialect, Discovery as _, Event, Node, Peer, Subscription as _};
use tokio::sync::watch;

const SERVICE: &str =
    "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: default}, spec: {ports: [{name: http, port: 80}]}}";

fn first() -> Arc<Snapshot> {
    let mut index = Index::new(Settings::new("").unwrap());
    let object = Object::decode(Kind::Service, &yaml::parse(SERVICE).unwrap())
        .unwrap()
        .value;
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
