//! What one change costs the index, from the object to the new snapshot: an endpoint of a service, and a route, in meshes
//! of 1,000 and 5,000 services, half of which have a VirtualService.

#![expect(clippy::expect_used, reason = "a benchmark has nothing to go on with")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_main};
use lateen_lower::{Change, Event, Index, Kind, Object, Settings};
use lateen_names::ClusterId;
use serde_json::{Value, json};

const SIZES: [usize; 2] = [1_000, 5_000];

fn event(object: &Value) -> Event {
    let version = object["apiVersion"].as_str().expect("an object has a version");
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let kind = Kind::find(group, object["kind"].as_str().expect("an object has a kind")).expect("a kind we know");
    Event {
        cluster: ClusterId::new("Kubernetes").expect("a valid name"),
        change: Change::Apply(Arc::new(
            Object::decode(kind, object).expect("an object of its kind").value,
        )),
    }
}

fn service(i: usize) -> Value {
    let address = format!("10.{}.{}.{}", 96 + i / 62_500, i / 250 % 250, i % 250 + 1);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{i}"), "namespace": "shop"},
        "spec": {"clusterIP": address, "selector": {"app": format!("s{i}")}, "ports": [{"name": "http", "port": 80}]}})
}

fn endpoints(i: usize, last: usize) -> Value {
    let name = format!("s{i}");
    let endpoint = |low: usize| json!({"addresses": [format!("10.{}.{}.{low}", 64 + i / 250, i % 250)], "conditions": {"ready": true}});
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}], "endpoints": [endpoint(1), endpoint(last)]})
}

fn route(i: usize, weight: usize) -> Value {
    let to = |weight: usize| json!({"destination": {"host": format!("s{i}")}, "weight": weight});
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": format!("s{i}"), "namespace": "shop"},
        "spec": {"hosts": [format!("s{i}")], "http": [{"timeout": "5s", "route": [to(weight), to(100 - weight)]}]}})
}

fn filled(services: usize) -> Index {
    let mut index = Index::new(Settings::new("").expect("settings"));
    let mut objects: Vec<Event> = Vec::new();
    for i in 0..services {
        objects.extend([event(&service(i)), event(&endpoints(i, 2))]);
        if i % 2 == 0 {
            objects.push(event(&route(i, 90)));
        }
    }
    index.apply(objects);
    index.publish();
    index
}

/// A new variant each time: what is equal changes nothing.
fn changes(criterion: &mut Criterion, index: &mut Index, name: &str, change: impl Fn(usize) -> Value) {
    let mut variant = 0;
    criterion.bench_function(name, |bench| {
        bench.iter_batched(
            || {
                variant = (variant + 1) % 100;
                vec![event(&change(variant))]
            },
            |events| {
                index.apply(events);
                black_box(index.publish())
            },
            BatchSize::PerIteration,
        );
    });
}

fn benches(criterion: &mut Criterion) {
    for services in SIZES {
        let mut index = filled(services);
        let name = |what: &str| format!("{services} services: {what} changed");
        changes(criterion, &mut index, &name("an endpoint"), |variant| {
            endpoints(8, 100 + variant)
        });
        changes(criterion, &mut index, &name("a route"), |variant| route(8, variant));
    }
}

#[allow(missing_docs, reason = "made by the macro")]
mod group {
    use criterion::{Criterion, criterion_group};

    use super::benches;

    criterion_group! {
        name = index;
        config = Criterion::default().sample_size(20);
        targets = benches
    }
}
criterion_main!(group::index);
