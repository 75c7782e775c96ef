//! Clusters and endpoints.

use lateen_proto::from_json;
use serde_json::{Value, json};

use crate::testing::{direct, end, forwarded, listener, proxy, tcp_proxy};
use crate::{Connection, Entry, Request, Trace, Transport, simulate};

fn endpoint(ip: &str, more: Value) -> Value {
    let mut one = json!({"endpoint": {"address": {"socketAddress": {"address": ip, "portValue": 80}}}});
    one.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    one
}

fn trace(cluster: Value, assignment: Value, entry: Entry) -> Trace {
    let mut cluster = cluster;
    cluster["name"] = "x".into();
    let chains = json!([{"filters": [tcp_proxy("x")]}]);
    let mut proxy = proxy(
        &[listener("l", "0.0.0.0", 80, chains, json!({"useOriginalDst": true}))],
        &[],
    );
    proxy.add_cluster(from_json(&cluster).unwrap());
    let mut assignment = assignment;
    assignment["clusterName"] = "x".into();
    proxy.add_endpoints(from_json(&assignment).unwrap());
    let connection = Connection {
        entry,
        ..direct("10.0.0.1:80")
    };
    simulate(&proxy, &Request { connection, http: None })
}

fn here() -> Entry {
    direct("10.0.0.1:80").entry
}

fn shares(cluster: Value, assignment: Value) -> Vec<(String, f64)> {
    let trace = trace(cluster, assignment, here());
    let upstream = forwarded(&trace).upstream.as_ref().unwrap();
    let round = |share: f64| (share * 1000.0).round() / 1000.0;
    upstream
        .endpoints
        .iter()
        .map(|one| (one.address.clone(), round(one.share)))
        .collect()
}

fn pairs(wanted: &[(&str, f64)]) -> Vec<(String, f64)> {
    wanted.iter().map(|(ip, share)| (format!("{ip}:80"), *share)).collect()
}

#[test]
fn weights_share_a_priority_and_lower_ones_wait() {
    let assignment = json!({"endpoints": [
        {"lbEndpoints": [endpoint("1.0.0.1", json!({"loadBalancingWeight": 3})), endpoint("1.0.0.2", json!({}))]},
        {"priority": 1, "lbEndpoints": [endpoint("1.0.0.3", json!({}))]},
    ]});
    assert_eq!(
        shares(json!({"type": "EDS"}), assignment),
        pairs(&[("1.0.0.1", 0.75), ("1.0.0.2", 0.25), ("1.0.0.3", 0.0)])
    );
}

#[test]
fn what_a_priority_cannot_take_spills_over() {
    let sick = || json!({"healthStatus": "UNHEALTHY"});
    let assignment = |first: Vec<Value>| {
        json!({"endpoints": [
            {"lbEndpoints": first}, {"priority": 1, "lbEndpoints": [endpoint("2.0.0.1", json!({}))]},
        ]})
    };
    let half = assignment(vec![endpoint("1.0.0.1", json!({})), endpoint("1.0.0.2", sick())]);
    assert_eq!(
        shares(json!({"type": "EDS"}), half),
        pairs(&[("1.0.0.1", 0.7), ("1.0.0.2", 0.0), ("2.0.0.1", 0.3)])
    );
    let none = assignment(vec![endpoint("1.0.0.1", json!({"healthStatus": "DRAINING"}))]);
    assert_eq!(
        shares(json!({"type": "EDS"}), none),
        pairs(&[("1.0.0.1", 0.0), ("2.0.0.1", 1.0)])
    );
}

#[test]
fn too_few_healthy_endpoints_mean_panic_unless_it_is_off() {
    let assignment =
        json!({"endpoints": [{"lbEndpoints": [endpoint("1.0.0.1", json!({"healthStatus": "UNHEALTHY"}))]}]});
    assert_eq!(
        shares(json!({"type": "EDS"}), assignment.clone()),
        pairs(&[("1.0.0.1", 1.0)])
    );
    let calm = json!({"type": "EDS", "commonLbConfig": {"healthyPanicThreshold": {"value": 0}}});
    assert_eq!(end(&trace(calm, assignment, here())), "refused");
}

#[test]
fn localities_share_by_their_weights_where_they_have_some() {
    let assignment = json!({"endpoints": [
        {"loadBalancingWeight": 80, "locality": {"region": "r", "zone": "a"}, "lbEndpoints": [endpoint("1.0.0.1", json!({}))]},
        {"loadBalancingWeight": 20, "locality": {"region": "r", "zone": "b"}, "lbEndpoints": [endpoint("1.0.0.2", json!({})), endpoint("1.0.0.3", json!({}))]},
    ]});
    let weighted = json!({"type": "EDS", "commonLbConfig": {"localityWeightedLbConfig": {}}});
    assert_eq!(
        shares(weighted, assignment.clone()),
        pairs(&[("1.0.0.1", 0.8), ("1.0.0.2", 0.1), ("1.0.0.3", 0.1)])
    );
    assert_eq!(
        shares(json!({"type": "EDS"}), assignment),
        pairs(&[("1.0.0.1", 0.333), ("1.0.0.2", 0.333), ("1.0.0.3", 0.333)])
    );
}

#[test]
fn the_client_s_own_destination_is_the_endpoint() {
    let passing = json!({"type": "ORIGINAL_DST", "lbPolicy": "CLUSTER_PROVIDED"});
    let trace = trace(
        passing.clone(),
        json!({}),
        Entry::Outbound("9.9.9.9:443".parse().unwrap()),
    );
    assert_eq!(
        forwarded(&trace).upstream.as_ref().unwrap().endpoints[0].address,
        "9.9.9.9:443"
    );
}

#[test]
fn transport_is_chosen_by_the_endpoint_s_labels() {
    let tls = json!({"name": "tls", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "sni": "inner",
        "commonTlsContext": {"alpnProtocols": ["istio"], "tlsCertificateSdsSecretConfigs": [{"name": "default"}]},
    }});
    let raw = json!({"name": "raw", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}});
    let cluster = json!({"type": "EDS", "transportSocketMatches": [
        {"name": "mutual", "match": {"tlsMode": "istio"}, "transportSocket": tls}, {"name": "plain", "match": {}, "transportSocket": raw},
    ]});
    let labels = json!({"metadata": {"filterMetadata": {"envoy.transport_socket_match": {"tlsMode": "istio"}}}});
    let assignment =
        json!({"endpoints": [{"lbEndpoints": [endpoint("1.0.0.1", labels), endpoint("1.0.0.2", json!({}))]}]});
    let trace = trace(cluster, assignment, here());
    let endpoints = &forwarded(&trace).upstream.as_ref().unwrap().endpoints;
    assert!(
        matches!(&endpoints[0].transport, Transport::Tls { sni, certificate: Some(name), .. } if sni == "inner" && name == "default")
    );
    assert_eq!(endpoints[1].transport, Transport::Plain);
}

#[test]
fn a_host_that_is_resolved_per_request_is_an_endpoint_too() {
    let cluster = json!({"clusterType": {"name": "envoy.clusters.dynamic_forward_proxy"}});
    let trace = trace(cluster, json!({}), here());
    assert_eq!(forwarded(&trace).upstream.as_ref().unwrap().endpoints[0].address, "*");
}
