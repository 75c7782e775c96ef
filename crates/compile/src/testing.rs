//! Worlds for tests: objects as YAML, lowered as in operation, and proxies that look at them.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_lower::{Change, Event, Index, Kind, Object, Settings};
use lateen_model::proxy::{Capabilities, Interception, Options, ProxyKind};
use lateen_model::{Proxy, Shared, Snapshot};
use lateen_names::{ClusterId, Locality, Namespace, Network};
use lateen_proto::any_to_json;
use serde_json::{Value, json};

use crate::{Classes, Family, Input, Scope, select};

/// A snapshot of these objects, applied in this order or the other way round.
pub(crate) fn world(mesh: Value, documents: &str, backwards: bool) -> Arc<Snapshot> {
    let mut settings = Settings::new("").unwrap();
    let mut mesh = mesh;
    if let Some(environment) = mesh.as_object_mut().and_then(|fields| fields.remove("environment")) {
        settings.environment = serde_json::from_value(environment).unwrap();
    }
    settings.networks = mesh.as_object_mut().and_then(|fields| fields.remove("meshNetworks"));
    settings.mesh = Some(mesh);
    let cluster = settings.cluster.clone();
    let mut events: Vec<Event> = lateen_lower::yaml::documents(documents)
        .map(|document| {
            let value = document.unwrap();
            let version = value["apiVersion"].as_str().unwrap();
            let group = version.split_once('/').map_or("", |(group, _)| group);
            let kind = Kind::find(group, value["kind"].as_str().unwrap()).unwrap();
            let object = Object::decode(kind, &value).unwrap().value;
            Event {
                cluster: cluster.clone(),
                change: Change::Apply(Arc::new(object)),
            }
        })
        .collect();
    if backwards {
        events.reverse();
    }
    let mut index = Index::new(settings);
    index.apply(events);
    index.publish()
}

/// A sidecar in `default`, in `region/zone`.
pub(crate) fn sidecar(ip: &str, locality: &str) -> Proxy {
    let namespace = Namespace::new("default").unwrap();
    Proxy {
        kind: ProxyKind::Sidecar,
        id: "test".into(),
        name: "caller".into(),
        namespace,
        service_account: "default".into(),
        dns_domain: "default.svc.cluster.local".into(),
        addresses: vec![ip.parse().unwrap()],
        cluster: ClusterId::new("Kubernetes").unwrap(),
        network: Network::new("").unwrap(),
        locality: Locality::parse(locality),
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

/// A gateway in `default`.
pub(crate) fn router(ip: &str) -> Proxy {
    Proxy {
        kind: ProxyKind::Router,
        labels: [("istio".into(), "ingressgateway".into())].into(),
        ..sidecar(ip, "")
    }
}

/// Inputs of one family, as a proxy has them.
pub(crate) fn inputs(snapshot: &Snapshot, proxy: &Proxy, family: Family) -> Vec<Input> {
    let classes = Classes::of(snapshot, proxy);
    let scope = Scope::new(snapshot, &classes.outbound);
    select(family, snapshot, &scope, &classes)
}

/// Resources of some families as JSON, by name.
pub(crate) fn resources(snapshot: &Snapshot, proxy: &Proxy, families: &[Family]) -> BTreeMap<String, Value> {
    let of_family = |family: &Family| {
        let url = family.type_url();
        let built = inputs(snapshot, proxy, *family).into_iter().map(|input| input.build());
        built
            .filter_map(|built| built.resource)
            .map(|resource| {
                let any = prost_types::Any {
                    type_url: url.to_owned(),
                    value: resource.bytes.to_vec(),
                };
                (resource.name.to_string(), any_to_json(&any).unwrap())
            })
            .collect::<Vec<_>>()
    };
    families.iter().flat_map(of_family).collect()
}

/// A service `name` with pods of it: address, zone, labels beside `app`. Pods take mutual TLS.
pub(crate) fn service(name: &str, pods: &[(&str, &str, Value)]) -> String {
    let mut documents = vec![json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.1", "selector": {"app": name},
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
    })];
    let mut endpoints = Vec::new();
    for (index, (ip, zone, labels)) in pods.iter().enumerate() {
        let pod = format!("{name}-{index}");
        let mut all = json!({"app": name, "security.istio.io/tlsMode": "istio"});
        for (key, value) in labels.as_object().unwrap() {
            all[key] = value.clone();
        }
        let region = zone.rsplit_once('-').map_or("", |(region, _)| region);
        documents.push(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": zone, "labels": {
                "topology.kubernetes.io/region": region, "topology.kubernetes.io/zone": zone}},
        }));
        documents.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod, "namespace": "default", "labels": all},
            "spec": {"nodeName": zone, "serviceAccountName": name, "containers": []},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                       "conditions": [{"type": "Ready", "status": "True"}]},
        }));
        endpoints.push(json!({
            "addresses": [ip], "conditions": {"ready": true}, "nodeName": zone,
            "targetRef": {"kind": "Pod", "name": pod, "namespace": "default"},
        }));
    }
    documents.push(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{name}-x"), "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }));
    documents.iter().map(|document| format!("---\n{document}\n")).collect()
}

/// A DestinationRule for a service of `default`.
pub(crate) fn rule(host: &str, spec: Value) -> String {
    let mut spec = spec;
    spec["host"] = host.into();
    let document = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": format!("rule-{host}"), "namespace": "default"},
        "spec": spec,
    });
    format!("---\n{document}\n")
}
