//! What Istio tells of Gateway API objects, compared with what Lateen does: types of conditions, whether they hold and
//! why, listeners, addresses, parents. Messages are Lateen's own words.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use lateen_lower::{Change, Event, Index, Kind, Object};
use lateen_model::status::{Address, Condition, Status};
use lateen_names::ClusterId;
use serde_json::{Map, Value, json};

use crate::goldens::{case_objects, fixtures, settings, text};
use crate::world::reference;

/// Kinds that Lateen does not serve: what Istio tells of them is no part of the comparison.
const OTHER_KINDS: [&str; 3] = ["XBackendTrafficPolicy", "XBackend", "InferencePool"];

/// What is told otherwise, and why: case, kind, name.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    // InferencePools are not served: a route to one has a back end of an unsupported kind.
    ("http", "HTTPRoute", "multi-route-infpool-1"),
    ("http", "HTTPRoute", "multi-route-infpool-2"),
    ("http", "HTTPRoute", "multiple-inferencepool-backend-refs"),
    ("reference-policy-inferencepool", "HTTPRoute", "backend-allowed-ip"),
    // Nor are XBackends.
    ("xbackend", "HTTPRoute", "cross-namespace"),
    ("xbackend", "HTTPRoute", "matching-port"),
    ("xbackend", "HTTPRoute", "mismatched-port"),
    ("xbackend", "HTTPRoute", "missing-backend"),
    ("xbackend", "HTTPRoute", "no-port"),
    ("xbackend", "GRPCRoute", "grpc-backend"),
    ("xbackend", "TCPRoute", "tcp-backend"),
    ("xbackend", "TCPRoute", "tcp-mismatched-port"),
    // Nor are waypoints: nothing is told of their Gateways.
    ("waypoint", "Gateway", "invalid"),
    ("waypoint", "Gateway", "namespace"),
    ("listenerset-invalid", "Gateway", "waypoint"),
    // A listener for HTTPS without `tls` is not opened; Istio tells that of ListenerSets only.
    ("listenerset-overlapping-port", "Gateway", "ingress-gateway"),
    // Two policies for one back end are in conflict. Istio tells them apart by a UID, which they do not have in its test.
    ("mix-backend-policy", "BackendTLSPolicy", "tls-upstream-echo-extra"),
];

/// Conditions by type: whether they hold, and why. Those that the test put there are not told by anybody.
fn golden_conditions(conditions: &Value) -> Value {
    let conditions = conditions.as_array().into_iter().flatten();
    let conditions = conditions.filter(|condition| text(condition, "type") != "dummy");
    let map: Map<String, Value> = conditions
        .map(|condition| {
            let what = json!([condition["status"] == "True", condition["reason"]]);
            (text(condition, "type").to_owned(), what)
        })
        .collect();
    map.into()
}

fn our_conditions(conditions: &[Condition]) -> Value {
    let map: Map<String, Value> = conditions
        .iter()
        .map(|condition| (condition.kind.to_owned(), json!([condition.holds, condition.reason])))
        .collect();
    map.into()
}

/// Parents by what they are and who tells.
fn golden_parents(parents: &Value, reference: &str) -> Value {
    let parents = parents.as_array().into_iter().flatten();
    let ours = parents.filter(|parent| text(parent, "controllerName").starts_with("istio.io/"));
    let map: Map<String, Value> = ours
        .map(|parent| {
            let of = &parent[reference];
            let group = of.get("group").and_then(Value::as_str);
            let key = parent_key(
                group.unwrap_or("gateway.networking.k8s.io"),
                of.get("kind").and_then(Value::as_str).unwrap_or("Gateway"),
                text(of, "namespace"),
                text(of, "name"),
                text(of, "sectionName"),
                of.get("port").and_then(Value::as_i64).unwrap_or_default(),
                text(parent, "controllerName"),
            );
            (key, golden_conditions(&parent["conditions"]))
        })
        .collect();
    map.into()
}

fn parent_key(
    group: &str,
    kind: &str,
    namespace: &str,
    name: &str,
    section: &str,
    port: i64,
    controller: &str,
) -> String {
    format!("{group}/{kind}/{namespace}/{name}/{section}/{port} by {controller}")
}

fn golden(document: &Value) -> Value {
    let status = &document["status"];
    let listeners = status["listeners"].as_array().into_iter().flatten().map(|listener| {
        let kinds = listener["supportedKinds"].as_array().into_iter().flatten();
        json!({
            "name": listener["name"],
            "routes": listener["attachedRoutes"].as_i64().unwrap_or_default(),
            "kinds": kinds.map(|kind| &kind["kind"]).collect::<Vec<_>>(),
            "conditions": golden_conditions(&listener["conditions"]),
        })
    });
    let addresses = status["addresses"].as_array().into_iter().flatten();
    let policy = text(document, "kind") == "BackendTLSPolicy";
    json!({
        "conditions": golden_conditions(&status["conditions"]),
        "listeners": listeners.collect::<Vec<_>>(),
        "addresses": addresses.map(|address| json!([address["type"], address["value"]])).collect::<Vec<_>>(),
        "sets": status["attachedListenerSets"].as_i64().unwrap_or_default(),
        "parents": match policy {
            true => golden_parents(&status["ancestors"], "ancestorRef"),
            false => golden_parents(&status["parents"], "parentRef"),
        },
    })
}

fn ours(policy: bool, status: &Status) -> Value {
    let listeners = status.listeners.iter().flatten().map(|listener| {
        json!({
            "name": &*listener.name,
            "routes": listener.routes,
            "kinds": listener.kinds,
            "conditions": our_conditions(&listener.conditions),
        })
    });
    let addresses = status.addresses.iter().map(|address| match address {
        Address::Ip(value) => json!(["IPAddress", &**value]),
        Address::Host(value) => json!(["Hostname", &**value]),
    });
    let parents: Map<String, Value> = status
        .parents
        .iter()
        .flatten()
        .map(|told| {
            let parent = &told.parent;
            let text = |value: &Option<Arc<str>>| value.as_deref().unwrap_or_default().to_owned();
            // Istio leaves the namespace of a policy's gateway out, which makes it another gateway.
            let namespace = match policy {
                true => String::new(),
                false => text(&parent.namespace),
            };
            let key = parent_key(
                &parent.group,
                &parent.kind,
                &namespace,
                &parent.name,
                &text(&parent.section),
                i64::from(parent.port.unwrap_or_default()),
                &told.controller,
            );
            (key, our_conditions(&told.conditions))
        })
        .collect();
    json!({
        "conditions": our_conditions(&status.conditions),
        "listeners": listeners.collect::<Vec<_>>(),
        "addresses": addresses.collect::<Vec<_>>(),
        "sets": status.listener_sets,
        "parents": parents,
    })
}

/// Nothing is told at all.
fn says_nothing(status: &Value) -> bool {
    let empty = |name: &str| match &status[name] {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    };
    ["conditions", "listeners", "addresses", "parents"]
        .into_iter()
        .all(empty)
}

type Told = BTreeMap<(String, String, String), Value>;

fn told_by_istio(folder: &Path, case: &str) -> Told {
    let golden = std::fs::read_to_string(folder.join(format!("{case}.status.yaml.golden"))).unwrap();
    let documents = lateen_lower::yaml::documents(&golden).map(Result::unwrap);
    let documents = documents.filter(|document| !OTHER_KINDS.contains(&text(document, "kind")));
    documents
        .filter_map(|document| {
            let metadata = &document["metadata"];
            let (namespace, name) = (text(metadata, "namespace"), text(metadata, "name"));
            let key = (
                text(&document, "kind").to_owned(),
                namespace.to_owned(),
                name.to_owned(),
            );
            let status = self::golden(&document);
            (!says_nothing(&status)).then_some((key, status))
        })
        .collect()
}

fn told_by_lateen(objects: Vec<Object>) -> Told {
    let cluster = ClusterId::new("Kubernetes").unwrap();
    let mut index = Index::new(settings());
    let events = objects.into_iter().map(|object| Event {
        cluster: cluster.clone(),
        change: Change::Apply(Arc::new(object)),
    });
    index.apply(events.collect());
    index.publish();
    let statuses = index.statuses().iter();
    statuses
        .filter_map(|(object, status)| {
            let key = &object.key;
            let namespace = key.namespace.as_ref().map(ToString::to_string).unwrap_or_default();
            let policy = Kind::BackendTlsPolicy.name() == &*object.kind;
            let status = ours(policy, status);
            (!says_nothing(&status)).then(|| ((object.kind.to_string(), namespace, key.name.to_string()), status))
        })
        .collect()
}

#[test]
fn what_is_told_of_gateway_api_objects_is_what_istio_tells() {
    let Some(folder) = reference("goldens/gateway-api") else {
        return;
    };
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("cases.json")).unwrap()).unwrap();
    let fixtures = fixtures(&cases);
    let (mut wrong, mut right, mut excepted) = (Vec::new(), 0, BTreeSet::new());
    for case in cases["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|case| case.as_str().unwrap())
    {
        let theirs = told_by_istio(&folder, case);
        let ours = told_by_lateen(case_objects(&folder, case, &fixtures));
        let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        for key in keys.into_iter().filter(|key| ours.get(key) != theirs.get(key)) {
            let exception = EXCEPTIONS
                .iter()
                .find(|exception| **exception == (case, key.0.as_str(), key.2.as_str()));
            if let Some(exception) = exception {
                excepted.insert(exception);
                continue;
            }
            let show = |told: &Told| told.get(key).map(Value::to_string).unwrap_or_default();
            wrong.push(format!(
                "{case} {key:?}\n  ours:   {}\n  theirs: {}",
                show(&ours),
                show(&theirs)
            ));
        }
        right += 1;
    }
    println!("{right} cases compared");
    let needless: Vec<_> = EXCEPTIONS
        .iter()
        .filter(|exception| !excepted.contains(exception))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} statuses differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(needless.is_empty(), "these are told alike: {needless:?}");
}
