//! DestinationRule and Sidecar.

use std::time::Duration;

use lateen_model::ExportTo;
use lateen_model::destination::*;
use lateen_model::service::Protocol;
use lateen_model::sidecar::*;
use lateen_names::Namespace;

use crate::world::{key, world};

#[test]
fn every_part_of_a_traffic_policy() {
    let snapshot = world(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d, namespace: shop}
spec:
  host: reviews
  exportTo: [., other]
  workloadSelector: {matchLabels: {app: web}}
  trafficPolicy:
    loadBalancer:
      consistentHash: {httpCookie: {name: c, ttl: 0s, path: /}}
      warmup: {duration: 10s, aggression: 1.5}
      localityLbSetting: {enabled: true, failover: [{from: a, to: b}]}
    connectionPool:
      tcp: {maxConnections: 1, connectTimeout: 2s, tcpKeepalive: {probes: 3, time: 4s}}
      http: {http1MaxPendingRequests: 5, http2MaxRequests: -6, h2UpgradePolicy: UPGRADE, idleTimeout: 7s}
    outlierDetection: {consecutive5xxErrors: 0, interval: 8s, maxEjectionPercent: 9}
    tls: {mode: MUTUAL, clientCertificate: c, privateKey: k, caCertificates: a, subjectAltNames: [s], sni: n}
    portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: LEAST_CONN}}]
    proxyProtocol: {version: V2}
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
  - name: v2
    labels: {version: v2}
    trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: h, maglev: {tableSize: 65537}}}}",
    );
    let made = snapshot.destination_rules.get(&key("shop", "d")).unwrap();
    assert_eq!(made.host.as_str(), "reviews.shop.svc.cluster.local");
    let namespaces = ["other", "shop"].map(|name| Namespace::new(name).unwrap());
    assert_eq!(made.export_to, ExportTo::Namespaces(namespaces.to_vec()));
    assert_eq!(made.workload_selector.as_ref().unwrap().labels.len(), 1);
    let balancer = made.policy.load_balancer.as_ref().unwrap();
    let Some(LbPolicy::Hash {
        key: Some(HashKey::Cookie { ttl, path, .. }),
        algorithm,
    }) = &balancer.policy
    else {
        panic!()
    };
    assert_eq!((*ttl, path.as_deref()), (Some(Duration::ZERO), Some("/")));
    assert_eq!(
        *algorithm,
        HashAlgorithm::Ring {
            minimum_size: Some(1024)
        },
        "Istio's default"
    );
    let warmup = balancer.warmup.as_ref().unwrap();
    assert_eq!(
        (warmup.minimum_percent_milli, warmup.aggression_milli),
        (Some(10_000), Some(1500))
    );
    assert_eq!(balancer.locality.as_ref().unwrap().failover, [("a".into(), "b".into())]);
    let pool = made.policy.pool.as_ref().unwrap();
    let tcp = pool.tcp.as_ref().unwrap();
    assert_eq!(
        (tcp.max_connections, tcp.connect_timeout),
        (Some(1), Some(Duration::from_secs(2)))
    );
    assert_eq!(tcp.keepalive.as_ref().unwrap().probes, Some(3));
    let http = pool.http.as_ref().unwrap();
    assert_eq!(
        (http.max_pending, http.max_requests),
        (Some(5), None),
        "a negative limit is none"
    );
    assert_eq!(http.h2_upgrade, H2Upgrade::Upgrade);
    let outlier = made.policy.outlier.as_ref().unwrap();
    assert_eq!(
        (outlier.consecutive_5xx, outlier.consecutive_gateway),
        (Some(0), None),
        "0 is not the same as absent"
    );
    let tls = made.policy.tls.as_ref().unwrap();
    assert_eq!(
        (tls.mode, tls.certificate.as_deref(), tls.sni.as_deref()),
        (TlsMode::Mutual, Some("c"), Some("n"))
    );
    let port = made.policy.ports.get(&80).unwrap();
    assert_eq!(
        port.load_balancer.as_ref().unwrap().policy,
        Some(LbPolicy::Simple(SimpleLb::LeastRequest))
    );
    assert_eq!(made.policy.proxy_protocol, Some(2));
    let names: Vec<_> = made.subsets.iter().map(|subset| &*subset.name).collect();
    assert_eq!(names, ["v1", "v2"]);
    let Some(LbPolicy::Hash { algorithm, .. }) = &made.subsets[1].policy.load_balancer.as_ref().unwrap().policy else {
        panic!()
    };
    assert_eq!(
        *algorithm,
        HashAlgorithm::Maglev {
            table_size: Some(65537)
        }
    );
}

#[test]
fn a_rule_for_nothing_is_left_out() {
    let snapshot = world(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: 'no host'}",
    );
    assert!(snapshot.destination_rules.is_empty());
    assert!(
        snapshot
            .diagnostics
            .iter()
            .any(|diagnostic| &*diagnostic.field == "spec.host")
    );
}

#[test]
fn sidecars_say_what_is_seen_and_opened() {
    let snapshot = world(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: s, namespace: shop}
spec:
  workloadSelector: {labels: {app: web}}
  ingress:
  - port: {number: 9080, protocol: HTTP, name: web}
    defaultEndpoint: unix:///var/run/web.sock
    captureMode: NONE
    connectionPool: {tcp: {maxConnections: 9}}
  egress:
  - port: {number: 0, protocol: MONGO}
    bind: unix:///var/run/m.sock
    hosts: [./*]
  - hosts: ['*/db.com', '~/*', istio-system/*, nonsense]
  outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: out, port: {number: 80}, subset: s1}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: all, namespace: shop}
spec:
  workloadSelector: {labels: {}}
  outboundTrafficPolicy: {}
  egress: [{hosts: [./*]}]",
    );
    let made = snapshot.sidecars.get(&key("shop", "s")).unwrap();
    let ingress = &made.ingress[0];
    assert_eq!(
        (ingress.port.number, ingress.port.protocol, ingress.capture),
        (9080, Protocol::Http, CaptureMode::None)
    );
    assert_eq!(ingress.default_endpoint.as_deref(), Some("unix:///var/run/web.sock"));
    assert_eq!(
        ingress.pool.as_ref().unwrap().tcp.as_ref().unwrap().max_connections,
        Some(9)
    );
    assert_eq!(made.egress[0].port.as_ref().unwrap().number, 0);
    let namespaces: Vec<_> = made.egress[1].hosts.iter().map(|host| host.namespace.clone()).collect();
    let named = EgressNamespace::Named(Namespace::new("istio-system").unwrap());
    assert_eq!(namespaces, [EgressNamespace::Any, EgressNamespace::None, named]);
    let cluster = "outbound|80|s1|out.shop.svc.cluster.local";
    assert_eq!(made.outbound_policy, Some(OutboundPolicy::EgressProxy(cluster.into())));
    let all = snapshot.sidecars.get(&key("shop", "all")).unwrap();
    assert_eq!(all.selector, None, "without labels it is about the namespace");
    assert_eq!(
        all.outbound_policy,
        Some(OutboundPolicy::RegistryOnly),
        "the API's zero value"
    );
}

#[test]
fn a_pod_that_is_to_be_deleted_serves_on_what_it_serves() {
    let of = |deleted: &str| {
        world(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web}}, \
             spec: {{selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}\n---\n\
             {{apiVersion: v1, kind: Pod, metadata: {{name: web-1, labels: {{app: web}}{deleted}}}, \
             spec: {{containers: [{{name: web, image: web}}]}}, \
             status: {{phase: Running, podIP: 10.0.0.1, conditions: [{{type: Ready, status: 'True'}}]}}}}"
        ))
    };
    let (before, after) = (of(""), of(", deletionTimestamp: '2024-01-01T00:00:00Z'"));
    assert_eq!(before.instances.len(), 1);
    assert_eq!(before.instances, after.instances);
}
