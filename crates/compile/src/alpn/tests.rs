use serde_json::{Value, json};

use super::NAME;
use crate::Family;
use crate::testing::{resources, rule, service, sidecar, world};

/// The metadata of the cluster of a service whose port is called `port`, under a rule.
fn metadata(port: &str, rules: &str) -> Value {
    let service =
        service("web", &[("10.1.0.1", "r-a", json!({}))]).replace(r#""name":"http""#, &format!(r#""name":"{port}""#));
    let snapshot = world(json!({}), &format!("{service}{rules}"), false);
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
    let upgrade = rule(
        "web",
        json!({"trafficPolicy": {"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}}}),
    );
    assert_eq!(
        metadata("any", &upgrade),
        json!({"HTTP/1.0": two, "HTTP/1.1": two, "HTTP/2": two})
    );
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
