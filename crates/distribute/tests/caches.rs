//! Compiling through classes and caches gives the same bytes as compiling every proxy alone, whatever happened before.

#![expect(clippy::unwrap_used, reason = "a test whose data is not as expected fails")]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use lateen_compile::{Classes, Family, compile_alone};
use lateen_distribute::Families;
use lateen_lower::{Change, Event, Index, Kind, Object, Settings, yaml};
use lateen_model::proxy::{Capabilities, Interception, Options, ProxyKind};
use lateen_model::{Proxy, Shared, Snapshot};
use lateen_names::{ClusterId, Locality, Namespace, Network};
use proptest::prelude::*;

/// Objects that depend on one another in every way there is, in several versions each.
const OBJECTS: &str = include_str!("../../lower/tests/world.yaml");

fn objects() -> Vec<Arc<Object>> {
    yaml::documents(OBJECTS)
        .map(|document| {
            let value = document.unwrap();
            let group = value["apiVersion"]
                .as_str()
                .unwrap()
                .split_once('/')
                .map_or("", |(group, _)| group);
            let kind = Kind::find(group, value["kind"].as_str().unwrap()).unwrap();
            let mut object = Object::decode(kind, &value).unwrap().value;
            if let Some(labels) = object.metadata_mut().labels.as_mut() {
                labels.remove("cluster");
            }
            Arc::new(object)
        })
        .collect()
}

fn proxy(kind: ProxyKind, namespace: &str, address: &str, zone: &str, labels: &[(&str, &str)]) -> Proxy {
    Proxy {
        kind,
        id: format!("test~{address}").into(),
        name: "test".into(),
        namespace: Namespace::new(namespace).unwrap(),
        service_account: "default".into(),
        dns_domain: format!("{namespace}.svc.cluster.local").into(),
        addresses: vec![address.parse().unwrap()],
        cluster: ClusterId::new("Kubernetes").unwrap(),
        network: Network::new("").unwrap(),
        locality: Locality::parse(zone),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        node: Some("node-a".into()),
        workload: "test".into(),
        canonical: ("test".into(), "latest".into()),
        mesh_id: "cluster.local".into(),
        version: "1.32.0".into(),
        interception: Interception::Redirect,
        config: Shared::default(),
        options: Options::default(),
        capabilities: Capabilities::default(),
        pod_ports: Vec::new(),
    }
}

/// Proxies that share much and differ a little, in each of the ways that count.
fn proxies() -> Vec<Proxy> {
    let mut all = Vec::new();
    for namespace in ["default", "shop", "istio-system"] {
        for (number, zone) in ["region/zone-a", "region/zone-b"].iter().enumerate() {
            for labels in [
                &[("app", "a")][..],
                &[("app", "b"), ("version", "v1")],
                &[("istio", "ingressgateway")],
            ] {
                let address = format!("10.0.{number}.{}", all.len() + 1);
                all.push(proxy(ProxyKind::Sidecar, namespace, &address, zone, labels));
                all.push(proxy(ProxyKind::Router, namespace, &address, zone, labels));
            }
        }
    }
    all
}

type Content = BTreeMap<(String, String), Vec<u8>>;

fn alone(snapshot: &Snapshot, proxy: &Proxy) -> Content {
    let mut content = Content::new();
    for (family, built) in compile_alone(snapshot, proxy) {
        if let Some(resource) = &built.resource {
            let name = (family.type_url().to_owned(), resource.name.to_string());
            content.entry(name).or_insert_with(|| resource.bytes.to_vec());
        }
    }
    content
}

fn through_caches(families: &mut Families, snapshot: &Snapshot, proxy: &Proxy) -> Content {
    let wanted = families.wanted(&Classes::of(snapshot, proxy));
    let resources = wanted
        .sets
        .iter()
        .flat_map(|(url, set)| set.iter().map(move |resource| (url, resource)));
    resources
        .map(|(url, resource)| ((url.to_string(), resource.name.to_string()), resource.body.to_vec()))
        .collect()
}

fn event(object: &Arc<Object>, delete: bool) -> Event {
    let change = if delete {
        Change::Delete {
            kind: object.kind(),
            key: object.key().unwrap(),
        }
    } else {
        Change::Apply(Arc::clone(object))
    };
    Event {
        cluster: ClusterId::new("Kubernetes").unwrap(),
        change,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn caches_change_no_byte(history in prop::collection::vec(prop::collection::vec((any::<prop::sample::Index>(), prop::bool::weighted(0.25)), 1..12), 1..5)) {
        let objects = objects();
        let proxies = proxies();
        let mut index = Index::new(Settings::new("").unwrap());
        let mut families = Families::default();
        for batch in history {
            index.apply(batch.iter().map(|(which, delete)| event(which.get(&objects), *delete)).collect());
            let snapshot = index.publish();
            families.turn(&snapshot);
            for proxy in &proxies {
                prop_assert!(through_caches(&mut families, &snapshot, proxy) == alone(&snapshot, proxy), "{}", proxy.id);
            }
        }
    }
}

/// A digest of everything that every proxy holds of the whole world, applied in some order.
fn digest(backwards: bool) -> String {
    let mut events: Vec<Event> = objects().iter().map(|object| event(object, false)).collect();
    if backwards {
        // Versions of one object keep their order: the last is the one that counts.
        events.sort_by_key(|event| match &event.change {
            Change::Apply(object) => std::cmp::Reverse((object.kind(), object.key().unwrap())),
            Change::Delete { kind, key } => std::cmp::Reverse((*kind, key.clone())),
        });
    }
    let mut index = Index::new(Settings::new("").unwrap());
    index.apply(events);
    let snapshot = index.publish();
    let everything: Vec<Content> = proxies().iter().map(|proxy| alone(&snapshot, proxy)).collect();
    format!("{:032x}", Shared::new(everything).content_hash())
}

#[test]
fn order_of_input_changes_no_byte() {
    assert_eq!(digest(false), digest(true));
}

#[test]
fn another_process_makes_the_same_bytes() {
    if std::env::var_os("LATEEN_PRINT_DIGEST").is_some() {
        println!("digest={}", digest(true));
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "another_process_makes_the_same_bytes", "--nocapture"])
        .env("LATEEN_PRINT_DIGEST", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("digest={}", digest(false))), "{text}");
}

#[test]
fn proxies_of_a_class_share_what_they_hold() {
    let mut index = Index::new(Settings::new("").unwrap());
    index.apply(objects().iter().map(|object| event(object, false)).collect());
    let snapshot = index.publish();
    let mut families = Families::default();
    families.turn(&snapshot);
    let one = proxy(
        ProxyKind::Sidecar,
        "shop",
        "10.9.9.1",
        "r/z",
        &[("pod-template-hash", "1")],
    );
    let other = proxy(
        ProxyKind::Sidecar,
        "shop",
        "10.9.9.2",
        "r/z",
        &[("pod-template-hash", "2")],
    );
    let (one, other) = (Classes::of(&snapshot, &one), Classes::of(&snapshot, &other));
    assert_eq!(one, other);
    assert!(Arc::ptr_eq(&families.wanted(&one), &families.wanted(&other)));
    assert_eq!(families.sizes().0, Family::ALL.len());
}
