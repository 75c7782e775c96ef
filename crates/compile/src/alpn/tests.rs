//! What clusters say about the protocols that requests offer.

use serde_json::{Value, json};

use super::NAME;
use crate::Family;
use crate::testing::{resources, router, rule, service, sidecar, world};

/// A service `web` whose port is called `port`.
fn service_of(port: &str) -> String {
    service("web", &[("10.1.0.1", "r-a", json!({}))]).replace(r#""name":"http""#, &format!(r#""name":"{port}""#))
}

/// The metadata of the cluster of a service whose port is called `port`, under a rule.
fn metadata(port: &str, rules: &str) -> Value {
    let snapshot = world(json!({}), &format!("{}{rules}", service_of(port)), false);
    let clusters = resources(&snapshot, &sidecar("10.1.0.9", ""), &[Family::OutboundClusters]);
    let cluster = &clusters["outbound|80||web.default.svc.cluster.local"];
    cluster["metadata"]["filterMetadata"][NAME].clone()
}

#[test]
fn clusters_of_sniffed_ports_say_what_is_offered() {
    let (one, two) = ("istio-http/1.1,istio,http/1.1", "istio-h2,istio,h2");
    assert_eq!(
        metadata("any", ""),
        json!({"HTTP/1.0": one, "HTTP/1.1": one, "HTTP/2": two})
    );
    // A gateway speaks HTTP/1.1 to them, whatever its clients speak.
    let snapshot = world(json!({}), &service_of("any"), false);
    let clusters = resources(&snapshot, &router("10.1.0.9"), &[Family::OutboundClusters]);
    let own = &clusters["outbound|80||web.default.svc.cluster.local"]["metadata"]["filterMetadata"][NAME];
    assert_eq!(*own, json!({"HTTP/1.0": one, "HTTP/1.1": one, "HTTP/2": one}));
}

#[test]
fn nothing_is_said_where_the_protocol_is_known_or_tls_is_not_the_meshs() {
    assert_eq!(metadata("http", ""), Value::Null);
    assert_eq!(metadata("tcp", ""), Value::Null);
    for mode in ["SIMPLE", "DISABLE"] {
        let rule = rule("web", json!({"trafficPolicy": {"tls": {"mode": mode}}}));
        assert_eq!(metadata("any", &rule), Value::Null, "{mode}");
    }
}
