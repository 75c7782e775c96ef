//! An index after any sequence of events equals one built afresh from the final objects.

#![expect(clippy::unwrap_used, reason = "a test whose data is not as expected fails")]

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_lower::{Change, Event, Index, Kind, Object, Settings, yaml};
use lateen_model::Snapshot;
use lateen_names::{ClusterId, ObjectKey};
use proptest::prelude::*;

/// Objects that depend on one another in every way there is; those of one kind and name are versions of one object.
const OBJECTS: &str = include_str!("world.yaml");

type Id = (ClusterId, Kind, ObjectKey);

/// Versions of each object, by identity. Documents with the label `cluster` are in that cluster.
fn versions() -> Vec<(Id, Vec<Arc<Object>>)> {
    let mut all: BTreeMap<Id, Vec<Arc<Object>>> = BTreeMap::new();
    for document in yaml::documents(OBJECTS) {
        let value = document.unwrap();
        let group = value["apiVersion"]
            .as_str()
            .unwrap()
            .split_once('/')
            .map_or("", |(group, _)| group);
        let kind = Kind::find(group, value["kind"].as_str().unwrap()).unwrap();
        let decoded = Object::decode(kind, &value).unwrap();
        assert!(decoded.unknown.is_empty(), "{:?}", decoded.unknown);
        let mut object = decoded.value;
        let cluster = object
            .metadata_mut()
            .labels
            .as_mut()
            .and_then(|labels| labels.remove("cluster"));
        let cluster = ClusterId::new(cluster.as_deref().unwrap_or("Kubernetes")).unwrap();
        all.entry((cluster, kind, object.key().unwrap()))
            .or_default()
            .push(Arc::new(object));
    }
    all.into_iter().collect()
}

fn index() -> Index {
    Index::new(Settings::new("").unwrap())
}

fn apply(cluster: &ClusterId, object: &Arc<Object>) -> Event {
    Event {
        cluster: cluster.clone(),
        change: Change::Apply(Arc::clone(object)),
    }
}

fn assert_equal(one: &Snapshot, other: &Snapshot) {
    assert_eq!(one.mesh, other.mesh);
    assert_eq!(one.namespaces, other.namespaces);
    assert_eq!(one.services, other.services);
    assert_eq!(one.endpoints, other.endpoints);
    assert_eq!(one.instances, other.instances);
    assert_eq!(one.workloads, other.workloads);
    assert_eq!(one.virtual_services, other.virtual_services);
    assert_eq!(one.destination_rules, other.destination_rules);
    assert_eq!(one.gateways, other.gateways);
    assert_eq!(one.sidecars, other.sidecars);
    assert_eq!(one.peer_authentications, other.peer_authentications);
    assert_eq!(one.authorization_policies, other.authorization_policies);
    assert_eq!(one.telemetries, other.telemetries);
    assert_eq!(one.envoy_filters, other.envoy_filters);
    assert_eq!(one.credentials, other.credentials);
    assert_eq!(one.extensions, other.extensions);
    assert_eq!(one.pull_secrets, other.pull_secrets);
    assert_eq!(one.network_gateways, other.network_gateways);
    assert_eq!(one.diagnostics, other.diagnostics);
}

/// What happens: to which object, which of its versions comes (none: it goes), and whether a snapshot is made then.
fn steps() -> impl Strategy<Value = Vec<(prop::sample::Index, Option<prop::sample::Index>, bool)>> {
    let version = prop::option::weighted(0.75, any::<prop::sample::Index>());
    prop::collection::vec(
        (any::<prop::sample::Index>(), version, prop::bool::weighted(0.3)),
        1..120,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_leads_to_the_world_of_its_final_objects(steps in steps()) {
        let objects = versions();
        let mut index = index();
        let mut there: BTreeMap<Id, Arc<Object>> = BTreeMap::new();
        for (which, version, publish) in steps {
            let (id, versions) = &objects[which.index(objects.len())];
            let event = match version {
                Some(version) => {
                    let object = &versions[version.index(versions.len())];
                    there.insert(id.clone(), Arc::clone(object));
                    apply(&id.0, object)
                }
                None => {
                    there.remove(id);
                    Event { cluster: id.0.clone(), change: Change::Delete { kind: id.1, key: id.2.clone() } }
                }
            };
            index.apply(vec![event]);
            if publish {
                index.publish();
            }
        }
        let incremental = index.publish();
        let mut fresh = self::index();
        fresh.apply(there.iter().rev().map(|(id, object)| apply(&id.0, object)).collect());
        assert_equal(&incremental, &fresh.publish());
        prop_assert_eq!(index.statuses(), fresh.statuses());
        prop_assert_eq!(index.deployments(), fresh.deployments());
        prop_assert!(Arc::ptr_eq(&incremental, &index.publish()), "nothing has changed");
    }
}

#[test]
fn the_world_has_something_of_everything() {
    let mut index = index();
    index.apply(
        versions()
            .iter()
            .map(|(id, versions)| apply(&id.0, &versions[0]))
            .collect(),
    );
    let world = index.publish();
    let host = |text: &str| {
        world
            .services
            .iter()
            .find(|(key, _)| key.host == text)
            .map(|(_, service)| service.clone())
    };
    let endpoints = |text: &str| {
        let key = world
            .services
            .iter()
            .find(|(key, _)| key.host == text)
            .map(|(key, _)| key)
            .unwrap();
        world.endpoints.get(key).unwrap().by_port.values().flatten().count()
    };
    assert_eq!(
        endpoints("web.shop.svc.cluster.local"),
        4,
        "two pods, one in the other cluster, one WorkloadEntry"
    );
    assert_eq!(
        host("alias.shop.svc.cluster.local").unwrap().alias_of.as_ref().unwrap(),
        &"web.shop.svc.cluster.local"
    );
    assert_eq!(host("web.shop.svc.cluster.local").unwrap().aliases.len(), 1);
    assert_eq!(host("web.shop.svc.cluster.local").unwrap().addresses.len(), 2);
    assert_eq!(
        endpoints("picked.example.com"),
        5,
        "three pods, the WorkloadEntry, and that of the other ServiceEntry"
    );
    assert_eq!(endpoints("dns.example.com"), 1);
    assert_eq!(world.network_gateways.len(), 1);
    assert!(!world.instances.is_empty() && !world.credentials.is_empty());
    assert!(world.mesh.default_service_export_to != lateen_model::ExportTo::All);
}
