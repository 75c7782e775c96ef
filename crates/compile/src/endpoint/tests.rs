//! Endpoints of lowered worlds.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::Family;
use crate::testing::{inputs, resources, rule, service, sidecar, world};

const REVIEWS: &str = "outbound|80||reviews.default.svc.cluster.local";

fn pods() -> String {
    service(
        "reviews",
        &[
            ("10.1.0.1", "eu-a", json!({})),
            ("10.1.0.2", "eu-b", json!({"version": "v2"})),
            ("10.1.0.3", "us-a", json!({"version": "v2"})),
        ],
    )
}

/// Of every place: zone, priority, weight, addresses.
fn places(mesh: Value, rules: &str, name: &str) -> Vec<(String, u64, u64, Vec<String>)> {
    let snapshot = world(mesh, &format!("{}{rules}", pods()), false);
    let all = resources(&snapshot, &sidecar("10.1.0.9", "eu/eu-a"), &[Family::Endpoints]);
    let groups = all[name]["endpoints"].as_array().cloned().unwrap_or_default();
    let address = |endpoint: &Value| {
        let address = &endpoint["endpoint"]["address"]["socketAddress"]["address"];
        address.as_str().unwrap().to_owned()
    };
    groups
        .iter()
        .map(|group| {
            let members = group["lbEndpoints"].as_array().cloned().unwrap_or_default();
            (
                group["locality"]["zone"].as_str().unwrap_or_default().to_owned(),
                group["priority"].as_u64().unwrap_or_default(),
                group["loadBalancingWeight"].as_u64().unwrap_or_default(),
                members.iter().map(address).collect(),
            )
        })
        .collect()
}

fn place(zone: &str, priority: u64, weight: u64, addresses: &[&str]) -> (String, u64, u64, Vec<String>) {
    let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
    (zone.to_owned(), priority, weight, addresses)
}

#[test]
fn places_are_alike_until_a_rule_detects_outliers() {
    let alike = places(json!({}), "", REVIEWS);
    assert_eq!(
        alike,
        [
            place("eu-a", 0, 1, &["10.1.0.1"]),
            place("eu-b", 0, 1, &["10.1.0.2"]),
            place("us-a", 0, 1, &["10.1.0.3"])
        ]
    );
    let outlier = rule("reviews", json!({"trafficPolicy": {"outlierDetection": {}}}));
    let ordered = places(json!({}), &outlier, REVIEWS);
    assert_eq!(ordered.iter().map(|place| place.1).collect::<Vec<_>>(), [0, 1, 2]);
    let off = places(json!({"localityLbSetting": {"enabled": false}}), &outlier, REVIEWS);
    assert_eq!(off, alike);
}

#[test]
fn shares_need_no_outlier_detection_and_leave_out_places_without_one() {
    let shares = rule(
        "reviews",
        json!({"trafficPolicy": {"loadBalancer": {"localityLbSetting": {
            "distribute": [{"from": "eu/eu-a/*", "to": {"eu/eu-a/*": 80, "us/*": 20}}]}}}}),
    );
    assert_eq!(
        places(json!({}), &shares, REVIEWS),
        [
            place("eu-a", 0, 80, &["10.1.0.1"]),
            place("eu-b", 0, 1, &[]),
            place("us-a", 0, 20, &["10.1.0.3"])
        ]
    );
}

#[test]
fn labels_order_endpoints_within_a_place() {
    let by_version = rule(
        "reviews",
        json!({"trafficPolicy": {"outlierDetection": {}, "loadBalancer": {"localityLbSetting": {
            "failoverPriority": ["topology.kubernetes.io/region", "version=v2"]}}}}),
    );
    assert_eq!(
        places(json!({}), &by_version, REVIEWS),
        [
            place("eu-a", 1, 1, &["10.1.0.1"]),
            place("eu-b", 0, 1, &["10.1.0.2"]),
            place("us-a", 2, 1, &["10.1.0.3"])
        ]
    );
}

#[test]
fn a_subset_has_the_endpoints_with_its_labels() {
    let subsets = rule(
        "reviews",
        json!({"subsets": [{"name": "v2", "labels": {"version": "v2"}}]}),
    );
    let found = places(json!({}), &subsets, "outbound|80|v2|reviews.default.svc.cluster.local");
    assert_eq!(
        found.iter().flat_map(|place| place.3.clone()).collect::<Vec<_>>(),
        ["10.1.0.2", "10.1.0.3"]
    );
}

#[test]
fn callers_in_all_zones_share_what_no_rule_orders_by_place() {
    let snapshot = world(json!({}), &pods(), false);
    let of = |locality: &str| inputs(&snapshot, &sidecar("10.1.0.9", locality), Family::Endpoints);
    assert_eq!(of("eu/eu-a"), of("us/us-a"));
    let outlier = rule("reviews", json!({"trafficPolicy": {"outlierDetection": {}}}));
    let snapshot = world(json!({}), &format!("{}{outlier}", pods()), false);
    let of = |locality: &str| inputs(&snapshot, &sidecar("10.1.0.9", locality), Family::Endpoints);
    assert_ne!(of("eu/eu-a"), of("us/us-a"));
}

/// Addresses of endpoints that callers use mutual TLS toward.
fn mutual(rules: &str) -> BTreeSet<String> {
    let snapshot = world(json!({}), &format!("{}{rules}", pods()), false);
    let all = resources(&snapshot, &sidecar("10.1.0.9", "eu/eu-a"), &[Family::Endpoints]);
    let groups = all[REVIEWS]["endpoints"].as_array().cloned().unwrap_or_default();
    let members = groups
        .iter()
        .flat_map(|group| group["lbEndpoints"].as_array().cloned().unwrap_or_default());
    members
        .filter(|member| member["metadata"]["filterMetadata"]["envoy.transport_socket_match"]["tlsMode"] == "istio")
        .map(|member| {
            member["endpoint"]["address"]["socketAddress"]["address"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[test]
fn single_workloads_may_refuse_mutual_tls_and_rules_decide_for_all() {
    let all: BTreeSet<String> = ["10.1.0.1", "10.1.0.2", "10.1.0.3"].map(str::to_owned).into();
    assert_eq!(mutual(""), all);
    let peer = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                metadata: {name: v2, namespace: default}\n\
                spec: {selector: {matchLabels: {version: v2}}, portLevelMtls: {8080: {mode: DISABLE}}}\n";
    assert_eq!(mutual(peer), ["10.1.0.1".to_owned()].into());
    let simple = rule("reviews", json!({"trafficPolicy": {"tls": {"mode": "SIMPLE"}}}));
    assert!(mutual(&simple).is_empty());
    let forced = rule("reviews", json!({"trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}));
    assert_eq!(mutual(&format!("{peer}{forced}")), all);
}

#[test]
fn endpoints_of_other_networks_are_reached_through_their_gateways() {
    let networks = json!({"networks": {
        "near": {"endpoints": [{"fromCidr": "10.1.0.1/32"}]},
        "far": {"endpoints": [{"fromCidr": "10.1.0.2/31"}],
                "gateways": [{"address": "192.0.2.1", "port": 15443}, {"address": "192.0.2.2", "port": 15443}]},
    }});
    let snapshot = world(json!({"meshNetworks": networks}), &pods(), false);
    let mut caller = sidecar("10.1.0.9", "");
    caller.network = lateen_names::Network::new("near").unwrap();
    let all = resources(&snapshot, &caller, &[Family::Endpoints]);
    let groups = all[REVIEWS]["endpoints"].as_array().unwrap();
    let mut found = Vec::new();
    for member in groups.iter().flat_map(|group| group["lbEndpoints"].as_array().unwrap()) {
        let address = &member["endpoint"]["address"]["socketAddress"];
        let address = format!("{}:{}", address["address"].as_str().unwrap(), address["portValue"]);
        found.push((address, member["loadBalancingWeight"].as_u64().unwrap()));
    }
    let expected = [
        ("10.1.0.1:8080", 2),
        ("192.0.2.1:15443", 1),
        ("192.0.2.2:15443", 1),
        ("192.0.2.1:15443", 1),
        ("192.0.2.2:15443", 1),
    ];
    assert_eq!(found, expected.map(|(address, weight)| (address.to_owned(), weight)));
}
