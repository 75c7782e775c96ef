//! Objects of a mesh to measure with.

use std::sync::Arc;

use lateen_lower::{Change, Event, Kind, Object};
use lateen_names::ClusterId;
use serde_json::{Value, json};

/// What a watch says of an object.
pub(crate) fn event(object: &Value) -> Event {
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

/// A service.
pub(crate) fn service(i: usize) -> Value {
    let address = format!("10.{}.{}.{}", 96 + i / 62_500, i / 250 % 250, i % 250 + 1);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{i}"), "namespace": "shop"},
        "spec": {"clusterIP": address, "selector": {"app": format!("s{i}")}, "ports": [{"name": "http", "port": 80}]}})
}

/// The endpoints of a service, by the last parts of their addresses.
pub(crate) fn endpoints(i: usize, parts: &[usize]) -> Value {
    let name = format!("s{i}");
    let endpoint = |last: &usize| {
        json!({"addresses": [address(i, *last)], "conditions": {"ready": true}, "nodeName": "node",
            "targetRef": {"kind": "Pod", "name": format!("s{i}-{last}"), "namespace": "shop"}})
    };
    let endpoints: Vec<Value> = parts.iter().map(endpoint).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}], "endpoints": endpoints})
}

/// A service's VirtualService.
pub(crate) fn route(i: usize, weight: usize) -> Value {
    let to = |weight: usize| json!({"destination": {"host": format!("s{i}")}, "weight": weight});
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": format!("s{i}"), "namespace": "shop"},
        "spec": {"hosts": [format!("s{i}")], "http": [{"timeout": "5s", "route": [to(weight), to(100 - weight)]}]}})
}

/// The address of an endpoint of a service.
pub(crate) fn address(i: usize, last: usize) -> String {
    format!("10.{}.{}.{last}", 64 + i / 250, i % 250)
}
