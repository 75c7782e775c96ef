//! Istio's own words for the reference scenarios: settings in force, nodes, endpoints, inbound ports.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test whose data is not as expected fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node as KubeNode, Pod};
use lateen_lower::node::{PodNode, node_for_pod, proxy_from_node};
use lateen_lower::{Change, Event, Index, Kind, Object, Settings, yaml};
use lateen_model::Snapshot;
use lateen_model::endpoint::{Address, Health};
use lateen_model::proxy::ProxyKind;
use lateen_names::{ClusterId, Namespace};
use serde_json::Value;

/// One scenario, loaded.
struct Scenario {
    name: String,
    path: PathBuf,
    index: Index,
    world: Arc<Snapshot>,
    pods: BTreeMap<String, (Pod, ProxyKind)>,
    nodes: BTreeMap<String, KubeNode>,
}

fn scenarios() -> Vec<Scenario> {
    let Ok(root) = std::env::var("LATEEN_REFERENCE") else {
        println!("skipped: LATEEN_REFERENCE does not name the reference data");
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = fs::read_dir(Path::new(&root).join("corpus"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.retain(|path| path.join("input.yaml").is_file());
    paths.sort();
    paths.iter().map(|path| scenario(path)).collect()
}

fn document(path: &Path) -> Option<Value> {
    fs::read_to_string(path).ok().map(|text| yaml::parse(&text).unwrap())
}

fn scenario(path: &Path) -> Scenario {
    let mut settings = Settings::new("").unwrap();
    settings.mesh = document(&path.join("mesh.yaml"));
    settings.networks = document(&path.join("meshNetworks.yaml"));
    if let Some(Value::Object(environment)) = document(&path.join("env.yaml")) {
        settings.environment = environment
            .into_iter()
            .map(|(key, value)| (key, value.as_str().unwrap().to_owned()))
            .collect();
    }
    let cluster = settings.cluster.clone();
    let mut index = Index::new(settings);
    let (mut pods, mut nodes) = (BTreeMap::new(), BTreeMap::new());
    let text = fs::read_to_string(path.join("input.yaml")).unwrap();
    for value in yaml::documents(&text) {
        let value = value.unwrap();
        if value.is_null() {
            continue;
        }
        let group = value["apiVersion"]
            .as_str()
            .unwrap()
            .split_once('/')
            .map_or("", |(group, _)| group);
        let Some(kind) = Kind::find(group, value["kind"].as_str().unwrap()) else {
            continue;
        };
        let mut object = match Object::decode(kind, &value) {
            Ok(decoded) => decoded.value,
            Err(error) => panic!("{}: {kind}: {error}", path.display()),
        };
        match &mut object {
            Object::Pod(pod) => {
                let marker = pod
                    .metadata
                    .labels
                    .as_mut()
                    .and_then(|labels| labels.remove("oracle.proxy"));
                let namespace = pod.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
                let name = format!("{}.{namespace}", pod.metadata.name.clone().unwrap());
                let kind = match marker.as_deref() {
                    Some("gateway") => ProxyKind::Router,
                    Some("waypoint") => ProxyKind::Waypoint,
                    _ => ProxyKind::Sidecar,
                };
                if marker.is_some() {
                    assert_eq!(lateen_lower::node::kind_of_pod(pod), kind, "{name}");
                }
                pods.insert(name, (pod.clone(), kind));
            }
            Object::Node(node) => {
                nodes.insert(node.metadata.name.clone().unwrap(), node.clone());
            }
            _ => {}
        }
        index.apply(vec![Event {
            cluster: cluster.clone(),
            change: Change::Apply(Arc::new(object)),
        }]);
    }
    let world = index.publish();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    Scenario {
        name,
        path: path.to_owned(),
        index,
        world,
        pods,
        nodes,
    }
}

fn expected(scenario: &Scenario, suffix: &str) -> Vec<(String, Value)> {
    let mut found: Vec<(String, Value)> = fs::read_dir(scenario.path.join("expected"))
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(suffix)?.to_owned();
            Some((name, serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap()))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Equal but for the order of fields and the writing of numbers.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        (a, b) => a == b,
    }
}

#[test]
fn settings_in_force_are_istios() {
    for scenario in scenarios() {
        let expected = fs::read_to_string(scenario.path.join("expected/effective-mesh.json")).unwrap();
        let expected: Value = serde_json::from_str(&expected).unwrap();
        let mut ours = serde_json::to_value(scenario.index.mesh_config()).unwrap();
        // Written though it is at its default.
        let map = ours.as_object_mut().unwrap();
        map.entry("protocolDetectionTimeout").or_insert_with(|| "0s".into());
        let empty = |value: &Value| value.as_object().is_some_and(serde_json::Map::is_empty);
        for (key, value) in expected.as_object().unwrap() {
            let found = ours.get(key).unwrap_or(&Value::Null);
            assert!(
                same(value, found) || (empty(value) && found.is_null()),
                "{}: {key}: {value} but {found}",
                scenario.name
            );
        }
    }
}

#[test]
fn nodes_are_those_of_istios_agent() {
    let (mut right, mut all) = (0, 0);
    for scenario in scenarios() {
        for (name, expected) in expected(&scenario, ".node.json") {
            let (pod, kind) = &scenario.pods[&name];
            let on = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.node_name.clone())
                .unwrap_or_default();
            let system = scenario.world.namespaces.get(&Namespace::new("istio-system").unwrap());
            let node = node_for_pod(PodNode {
                pod,
                kind: *kind,
                node: scenario.nodes.get(&on),
                objects: scenario.index.objects(),
                mesh: scenario.index.mesh_config(),
                network: system
                    .and_then(|labels| labels.get("topology.istio.io/network"))
                    .map(|text| &**text),
                cluster: "Kubernetes",
                domain: "cluster.local",
                version: "1.32.0",
            });
            let node = node.unwrap();
            let ours = lateen_proto::to_json(&node).unwrap();
            all += 1;
            if same(&ours, &expected) {
                right += 1;
            } else {
                println!("{} {name}:\n ours     {ours}\n expected {expected}", scenario.name);
            }
            let proxy = proxy_from_node(&node, &scenario.world).unwrap();
            assert_eq!(proxy.kind, *kind);
            assert_eq!(proxy.locality.region.is_empty(), expected.get("locality").is_none());
        }
    }
    println!("nodes: {right} of {all}");
    assert_eq!(right, all);
}

/// The addresses that a cluster of Istio's has endpoints at, by cluster.
fn addresses_of(assignments: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for assignment in assignments.as_array().unwrap() {
        let mut addresses = BTreeSet::new();
        for endpoint in assignment["endpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|group| group["lbEndpoints"].as_array())
            .flatten()
        {
            let socket = &endpoint["endpoint"]["address"]["socketAddress"];
            if let (Some(address), Some(port)) = (socket["address"].as_str(), socket["portValue"].as_u64()) {
                addresses.insert(format!("{address}:{port}"));
            }
        }
        found.insert(assignment["clusterName"].as_str().unwrap().to_owned(), addresses);
    }
    found
}

#[test]
fn endpoints_are_istios() {
    let (mut right, mut all) = (0, 0);
    for scenario in scenarios() {
        // Endpoints on other networks are replaced by gateways, and shares of 0 % leave endpoints out: what proxies see is
        // not what is there.
        if scenario.name.starts_with("net-mesh") || scenario.name == "dr-locality-distribute" {
            continue;
        }
        for (name, expected) in expected(&scenario, ".endpoints.json") {
            for (cluster, expected) in addresses_of(&expected) {
                let parts: Vec<&str> = cluster.split('|').collect();
                let ["outbound", port, "", host] = parts[..] else {
                    continue;
                };
                let port: u16 = port.parse().unwrap();
                let mut ours = BTreeSet::new();
                let mut node_local = false;
                for (key, endpoints) in scenario.world.endpoints.iter().filter(|(key, _)| key.host == host) {
                    node_local |= scenario
                        .world
                        .services
                        .get(key)
                        .is_some_and(|service| service.node_local);
                    for endpoint in endpoints.by_port.get(&port).into_iter().flatten() {
                        if let (Address::Ip(ip), Health::Healthy) = (&endpoint.address, endpoint.health) {
                            ours.insert(format!("{ip}:{}", endpoint.port));
                        }
                    }
                }
                all += 1;
                if ours == expected || (node_local && expected.is_subset(&ours)) {
                    right += 1;
                } else {
                    println!(
                        "{} {name} {cluster}: ours {ours:?} expected {expected:?}",
                        scenario.name
                    );
                }
            }
        }
    }
    println!("endpoints: {right} of {all}");
    assert!(right == all, "{right} of {all}");
}

#[test]
fn inbound_ports_are_istios() {
    let (mut right, mut all) = (0, 0);
    for scenario in scenarios() {
        for (name, clusters) in expected(&scenario, ".clusters.json") {
            let (pod, kind) = &scenario.pods[&name];
            if *kind != ProxyKind::Sidecar
                || scenario
                    .world
                    .sidecars
                    .values()
                    .any(|sidecar| !sidecar.ingress.is_empty())
            {
                continue;
            }
            let names = clusters
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|cluster| cluster["name"].as_str());
            let expected: BTreeSet<u16> = names
                .filter_map(|name| name.strip_prefix("inbound|")?.split('|').next()?.parse().ok())
                .collect();
            let ip = pod.status.as_ref().unwrap().pod_ip.as_deref().unwrap().parse().unwrap();
            let instances = scenario
                .world
                .instances
                .get(&(ClusterId::new("Kubernetes").unwrap(), ip));
            let ours: BTreeSet<u16> = instances
                .into_iter()
                .flat_map(|instances| &instances.instances)
                .filter(|instance| {
                    let service = scenario.world.services.get(&instance.service).unwrap();
                    service.port(instance.port).unwrap().protocol != lateen_model::service::Protocol::Udp
                })
                .map(|instance| instance.target_port)
                .collect();
            all += 1;
            if ours == expected {
                right += 1;
            } else {
                println!("{} {name}: ours {ours:?} expected {expected:?}", scenario.name);
            }
        }
    }
    println!("inbound ports: {right} of {all}");
    assert!(right == all, "{right} of {all}");
}
