//! Who gets configuration, and when: nobody before there is all of it, and nobody that of another identity.

#![expect(clippy::unwrap_used, reason = "a test whose data is not as expected fails")]

use std::sync::Arc;

use lateen_distribute::{Distributor, ProgressMetrics};
use lateen_lower::{Change, Event, Index, Kind as ObjectKind, Object, Settings, node::proxy_from_node};
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
        ..Peer::default()
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

/// A world with one pod, `till-1` of account `till`, in the namespace `shop`.
fn with_a_pod() -> Arc<Snapshot> {
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "till-1", "namespace": "shop"},
        "spec": {"serviceAccountName": "till", "containers": [{"name": "app", "image": "app"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
    });
    let mut index = Index::new(Settings::new("").unwrap());
    index.apply(vec![Event {
        cluster: lateen_names::ClusterId::new("Kubernetes").unwrap(),
        change: Change::Apply(Arc::new(Object::decode(ObjectKind::Pod, &pod).unwrap().value)),
    }]);
    index.publish()
}

#[tokio::test]
async fn a_node_that_keeps_its_account_to_itself_gains_nothing() {
    let (snapshots, distributor) = gate();
    snapshots.send_replace(Some(with_a_pod()));
    let named = |pod: &str, account| Node {
        id: format!("sidecar~10.0.0.1~{pod}.shop~shop.svc.cluster.local"),
        ..node("shop", account)
    };
    let cart = peer("spiffe://cluster.local/ns/shop/sa/cart");
    // Whether it says nothing of its account or the truth: the pod is known to run as another one.
    for account in [None, Some("cart")] {
        let refused = distributor
            .connect(named("till-1", account), &cart, Dialect::Delta)
            .await;
        assert!(
            matches!(&refused, Err(Refusal::Denied(why)) if why.contains("till")),
            "{:?} was let in",
            account
        );
    }
    let till = peer("spiffe://cluster.local/ns/shop/sa/till");
    let _own = distributor
        .connect(named("till-1", None), &till, Dialect::Delta)
        .await
        .unwrap();
    let connected = distributor.proxies();
    assert_eq!(
        &*connected[0].proxy.service_account, "till",
        "the account is the certificate's"
    );
    // Nobody is held up whose pod is not known yet.
    distributor
        .connect(named("cart-1", None), &cart, Dialect::Delta)
        .await
        .unwrap();
}

#[tokio::test]
async fn who_may_not_read_secrets_is_of_another_class() {
    let (snapshots, distributor) = gate();
    snapshots.send_replace(Some(snapshot()));
    let mut cart = peer("spiffe://cluster.local/ns/shop/sa/cart");
    let _may = distributor
        .connect(node("shop", None), &cart, Dialect::Delta)
        .await
        .unwrap();
    cart.without_secrets = true;
    let _may_not = distributor
        .connect(node("shop", None), &cart, Dialect::Delta)
        .await
        .unwrap();
    let flags: Vec<bool> = distributor
        .proxies()
        .iter()
        .map(|connected| connected.proxy.options.without_secrets)
        .collect();
    assert_eq!(flags, [false, true]);
}
