//! What it costs to compile what a sidecar calls by: at 1,000 services of one port, 500 of them with a VirtualService of
//! three routes and a DestinationRule of two subsets, seen by a sidecar that sees all of it.

#![expect(clippy::expect_used, reason = "a benchmark has nothing to go on with")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_main};
use lateen_compile::{Classes, Family, Input, Scope, select};
use lateen_lower::{Change, Event, Index, Kind, Object, Settings};
use lateen_model::proxy::{Capabilities, Interception, Options, ProxyKind};
use lateen_model::{Proxy, Shared, Snapshot};
use lateen_names::{ClusterId, Locality, Namespace, Network};

const SERVICES: usize = 1_000;
const VIRTUAL_SERVICES: usize = 500;

fn objects() -> String {
    let mut text = String::new();
    for i in 0..SERVICES {
        let (high, low) = (i / 250, i % 250);
        text += &format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: s{i}, namespace: shop}}
spec: {{clusterIP: 10.96.{high}.{low}, selector: {{app: s{i}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
"
        );
    }
    for i in 0..VIRTUAL_SERVICES {
        text += &virtual_service(i, 90);
        text += &format!(
            "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: s{i}, namespace: shop}}
spec:
  host: s{i}
  trafficPolicy: {{outlierDetection: {{consecutive5xxErrors: 5}}}}
  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]
"
        );
    }
    text
}

fn virtual_service(i: usize, weight: u32) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: s{i}, namespace: shop}}
spec:
  hosts: [s{i}]
  http:
  - match: [{{headers: {{x-canary: {{exact: \"1\"}}}}}}]
    route: [{{destination: {{host: s{i}, subset: v2}}}}]
  - match: [{{uri: {{prefix: /api}}}}]
    retries: {{attempts: 3, perTryTimeout: 1s}}
    timeout: 5s
    route: [{{destination: {{host: s{i}, subset: v1}}}}]
  - route:
    - {{destination: {{host: s{i}, subset: v1}}, weight: {weight}}}
    - {{destination: {{host: s{i}, subset: v2}}, weight: {}}}
",
        100 - weight
    )
}

fn events(text: &str) -> Vec<Event> {
    let cluster = ClusterId::new("Kubernetes").expect("a valid name");
    let event = |value: serde_json::Value| {
        let version = value["apiVersion"].as_str().expect("an object has a version");
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let kind = Kind::find(group, value["kind"].as_str().expect("an object has a kind")).expect("a kind we know");
        let object = Object::decode(kind, &value).expect("an object of its kind").value;
        Event {
            cluster: cluster.clone(),
            change: Change::Apply(Arc::new(object)),
        }
    };
    let documents = lateen_lower::yaml::documents(text);
    documents.map(|document| event(document.expect("YAML"))).collect()
}

fn sidecar() -> Proxy {
    Proxy {
        kind: ProxyKind::Sidecar,
        id: "sidecar~10.1.0.1~caller.shop~shop.svc.cluster.local".into(),
        name: "caller".into(),
        namespace: Namespace::new("shop").expect("a valid name"),
        service_account: "default".into(),
        dns_domain: "shop.svc.cluster.local".into(),
        addresses: vec!["10.1.0.1".parse().expect("an address")],
        cluster: ClusterId::new("Kubernetes").expect("a valid name"),
        network: Network::new("").expect("a valid name"),
        locality: Locality::parse("eu/eu-a"),
        labels: [("app".into(), "caller".into())].into(),
        node: None,
        workload: "caller".into(),
        canonical: ("caller".into(), "latest".into()),
        mesh_id: "cluster.local".into(),
        version: "1.32.0".into(),
        interception: Interception::Redirect,
        config: Shared::default(),
        options: Options::default(),
        capabilities: Capabilities::default(),
        pod_ports: Vec::new(),
    }
}

fn selected(snapshot: &Snapshot, proxy: &Proxy, family: Family) -> Vec<Input> {
    let classes = Classes::of(snapshot, proxy);
    let scope = Scope::new(snapshot, &classes.outbound);
    select(family, snapshot, &scope, &classes)
}

fn benches(criterion: &mut Criterion) {
    let mut index = Index::new(Settings::new("").expect("settings"));
    let all = events(&objects());
    index.apply(all);
    let snapshot = index.publish();
    let proxy = sidecar();
    let mut group = criterion.benchmark_group("1000 services, 500 virtual services");
    for (name, family) in [
        ("routes", Family::Routes),
        ("clusters", Family::OutboundClusters),
        ("listeners", Family::OutboundListeners),
    ] {
        let inputs = selected(&snapshot, &proxy, family);
        assert!(!inputs.is_empty(), "the sidecar gets {name}");
        group.bench_function(format!("select {name}"), |bench| {
            bench.iter(|| black_box(selected(&snapshot, &proxy, family)));
        });
        group.bench_function(format!("build {name}"), |bench| {
            bench.iter(|| inputs.iter().for_each(|input| drop(black_box(input.build()))));
        });
    }
    let mut weight = 0;
    group.bench_function("one virtual service changed: lower, publish, select routes", |bench| {
        bench.iter_batched(
            || {
                weight = (weight + 1) % 100;
                events(&virtual_service(7, weight))
            },
            |events| {
                index.apply(events);
                let snapshot = index.publish();
                black_box(selected(&snapshot, &proxy, Family::Routes))
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

#[allow(missing_docs, reason = "made by the macro")]
mod group {
    use criterion::{Criterion, criterion_group};

    use super::benches;

    criterion_group! {
        name = outbound;
        config = Criterion::default().sample_size(20);
        targets = benches
    }
}
criterion_main!(group::outbound);
