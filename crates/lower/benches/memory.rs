//! What the index and a snapshot of it keep in memory: for each service, pod and route, whatever the size of the mesh.

#![expect(clippy::expect_used, reason = "a benchmark has nothing to go on with")]

mod mesh;

use lateen_lower::{Event, Index, Settings};
use mesh::{address, endpoints, event, route, service};
use serde_json::{Value, json};
use tikv_jemalloc_ctl::{epoch, stats};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Services beyond what is there in any mesh.
const SERVICES: usize = 4_000;
/// Pods of a service, in a small mesh and in a large one.
const FEW: usize = 2;
const MANY: usize = 20;
/// Services that have these pods.
const SERVED: usize = 1_000;

fn main() {
    let services = held(|| (0..SERVICES).map(|i| event(&service(i))).collect());
    let few = held(|| (0..SERVED).flat_map(|i| served(i, FEW)).collect());
    let many = held(|| (0..SERVED).flat_map(|i| served(i, MANY)).collect());
    let routed = held(|| {
        let routes = (0..SERVED).map(|i| event(&route(i, 90)));
        routes.chain((0..SERVED).flat_map(|i| served(i, FEW))).collect()
    });
    println!("a service: {} bytes", each(services, SERVICES));
    println!(
        "a pod and its endpoint: {} bytes",
        each(many - few, SERVED * (MANY - FEW))
    );
    println!("a VirtualService: {} bytes", each(routed - few, SERVED));
    println!(
        "{SERVED} services with {MANY} pods each: {:.1} MiB",
        many as f64 / f64::from(1 << 20)
    );
}

/// Bytes that an index of these events keeps, with the snapshot last published.
fn held(events: impl FnOnce() -> Vec<Event>) -> usize {
    let before = allocated();
    let mut index = Index::new(Settings::new("").expect("settings"));
    index.apply(events());
    let snapshot = index.publish();
    let held = allocated() - before;
    drop((index, snapshot));
    held
}

fn allocated() -> usize {
    epoch::advance().expect("statistics");
    stats::allocated::read().expect("statistics")
}

fn each(bytes: usize, count: usize) -> usize {
    bytes / count
}

/// A service with its pods.
fn served(i: usize, pods: usize) -> Vec<Event> {
    let parts: Vec<usize> = (1..=pods).collect();
    let mut all = vec![event(&service(i)), event(&endpoints(i, &parts))];
    all.extend(parts.iter().map(|last| event(&pod(i, *last))));
    all
}

fn pod(i: usize, last: usize) -> Value {
    let address = address(i, last);
    let name = format!("s{i}-{last}");
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": format!("s{i}"), "version": "v1", "security.istio.io/tlsMode": "istio",
            "service.istio.io/canonical-name": format!("s{i}"), "pod-template-hash": format!("{i:010x}")}},
        "spec": {"serviceAccountName": "default", "nodeName": "node", "containers": [{"name": "app", "image": "app:1", "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "value": "what nobody here reads"}], "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": "True"}]}})
}
