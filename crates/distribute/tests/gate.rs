//! Who gets configuration, and when: nobody before there is all of it, and nobody that of another identity.

#![expect(clippy::unwrap_used, reason = "a test whose data is not as expected fails")]

use std::sync::Arc;

use lateen_distribute::{Distributor, ProgressMetrics};
use lateen_lower::{Index, Settings, node::proxy_from_node};
use lateen_model::Snapshot;
use lateen_proto::{Struct, Value, value::Kind};
use lateen_runtime::metrics::Metrics;
use lateen_xds::{Dialect, Discovery as _, Node, Peer, Refusal, Subscription as _};
use tokio::sync::watch;

fn gate() -> (watch::Sender<Option<Arc<Snapshot>>>, Distributor) {
    let (snapshots, seen) = watch::channel(None);
    let read = |node: &Node, snapshot: &Snapshot| proxy_from_node(node, snapshot).map_err(|error| error.to_string());
    let metrics = ProgressMetrics::new(&Metrics::new()).unwrap();
    (snapshots, Distributor::new(seen, Box::new(read), metrics))
}

fn snapshot() -> Arc<Snapshot> {
    Index::new(Settings::new("").unwrap()).publish()
}

fn node(namespace: &str, account: Option<&str>) -> Node {
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let mut metadata = vec![("NAMESPACE".to_owned(), text(namespace))];
    metadata.extend(account.map(|account| ("SERVICE_ACCOUNT".to_owned(), text(account))));
    Node {
        id: format!("sidecar~10.0.0.1~pod.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(Struct {
            fields: metadata.into_iter().collect(),
        }),
        ..Default::default()
    }
}

fn peer(identity: &str) -> Peer {
    Peer {
        identity: Some(identity.parse().unwrap()),
        address: None,
    }
}

#[tokio::test]
async fn nobody_is_served_before_all_sources_have_synced() {
    let (snapshots, distributor) = gate();
    let early = distributor
        .connect(node("shop", None), &Peer::default(), Dialect::Delta)
        .await;
    assert!(matches!(early, Err(Refusal::Unavailable(_))));
    snapshots.send_replace(Some(snapshot()));
    let served = distributor
        .connect(node("shop", None), &Peer::default(), Dialect::Delta)
        .await
        .unwrap();
    assert!(!served.wanted().borrow().sets.is_empty());
}

#[tokio::test]
async fn a_certificate_opens_only_its_own_configuration() {
    let (snapshots, distributor) = gate();
    snapshots.send_replace(Some(snapshot()));
    let cart = peer("spiffe://cluster.local/ns/shop/sa/cart");
    for forged in [
        node("bank", Some("cart")),
        node("shop", Some("till")),
        node("istio-system", None),
    ] {
        let refused = distributor.connect(forged.clone(), &cart, Dialect::Delta).await;
        assert!(matches!(refused, Err(Refusal::Denied(_))), "{} was let in", forged.id);
    }
    assert!(distributor.proxies().is_empty());
    let own = distributor
        .connect(node("shop", Some("cart")), &cart, Dialect::Delta)
        .await
        .unwrap();
    assert_eq!(distributor.proxies().len(), 1);
    drop(own);
    assert!(distributor.proxies().is_empty());
}
