//! Clusters of lowered worlds.

use serde_json::{Value, json};

use crate::Family;
use crate::testing::{inputs, resources, router, rule, service, sidecar, world};

const OUTBOUND: &[Family] = &[Family::OutboundClusters];
const REVIEWS: &str = "outbound|80||reviews.default.svc.cluster.local";

fn pods() -> String {
    service(
        "reviews",
        &[
            ("10.1.0.1", "eu-a", json!({})),
            ("10.1.0.2", "eu-b", json!({"version": "v2"})),
        ],
    )
}

fn cluster(mesh: Value, rules: &str, name: &str) -> Value {
    let snapshot = world(mesh, &format!("{}{rules}", pods()), false);
    resources(&snapshot, &sidecar("10.1.0.9", "eu/eu-a"), OUTBOUND)
        .remove(name)
        .unwrap_or_else(|| panic!("no cluster {name}"))
}

#[test]
fn without_rules_a_service_is_balanced_over_by_eds_with_mutual_tls_where_it_is_taken() {
    let cluster = cluster(json!({}), "", REVIEWS);
    assert_eq!(cluster["type"], "EDS");
    assert_eq!(cluster["lbPolicy"], "LEAST_REQUEST");
    assert_eq!(cluster["connectTimeout"], "10s");
    let limits = &cluster["circuitBreakers"]["thresholds"][0];
    for limit in ["maxConnections", "maxPendingRequests", "maxRequests", "maxRetries"] {
        assert_eq!(limits[limit], u32::MAX, "{limit}");
    }
    let matches = cluster["transportSocketMatches"].as_array().unwrap();
    assert_eq!(matches[0]["match"], json!({"tlsMode": "istio"}));
    assert_eq!(matches[1]["match"], json!({}));
    let tls = &matches[0]["transportSocket"]["typedConfig"];
    assert_eq!(tls["sni"], "outbound_.80_._.reviews.default.svc.cluster.local");
    let names = &tls["commonTlsContext"]["combinedValidationContext"]["defaultValidationContext"];
    assert_eq!(
        names["matchSubjectAltNames"],
        json!([{"exact": "spiffe://cluster.local/ns/default/sa/reviews"}])
    );
    assert_eq!(
        cluster["metadata"]["filterMetadata"]["istio"]["services"][0]["name"],
        "reviews"
    );
}

#[test]
fn mutual_tls_is_off_where_the_mesh_or_the_namespace_says_so() {
    let off = cluster(json!({"enableAutoMtls": false}), "", REVIEWS);
    assert!(off.get("transportSocketMatches").is_none());
    let disabled = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                    metadata: {name: off, namespace: default}\nspec: {mtls: {mode: DISABLE}}\n";
    assert!(
        cluster(json!({}), disabled, REVIEWS)
            .get("transportSocketMatches")
            .is_none()
    );
}

#[test]
fn a_rules_policy_reaches_host_subset_and_port_each_in_its_way() {
    let rule = rule(
        "reviews",
        json!({
            "trafficPolicy": {
                "loadBalancer": {"simple": "RANDOM"},
                "outlierDetection": {"consecutive5xxErrors": 3, "interval": "1s"},
                "connectionPool": {"tcp": {"maxConnections": 7, "connectTimeout": "2s"}},
            },
            "subsets": [{
                "name": "v2", "labels": {"version": "v2"},
                "trafficPolicy": {"tls": {"mode": "SIMPLE", "sni": "other.example.com"}},
            }],
        }),
    );
    let host = cluster(json!({}), &rule, REVIEWS);
    assert_eq!(host["lbPolicy"], "RANDOM");
    assert_eq!(host["connectTimeout"], "2s");
    assert_eq!(host["circuitBreakers"]["thresholds"][0]["maxConnections"], 7);
    let outlier = &host["outlierDetection"];
    assert_eq!(
        (&outlier["consecutive5xx"], &outlier["enforcingSuccessRate"]),
        (&json!(3), &json!(0))
    );
    let subset = cluster(json!({}), &rule, "outbound|80|v2|reviews.default.svc.cluster.local");
    assert_eq!(subset["lbPolicy"], "RANDOM");
    assert_eq!(subset["transportSocket"]["typedConfig"]["sni"], "other.example.com");
    let istio = &subset["metadata"]["filterMetadata"]["istio"];
    assert_eq!(
        (&istio["subset"], &istio["alpn_override"]),
        (&json!("v2"), &json!("false"))
    );
    assert_eq!(
        istio["config"],
        "/apis/networking.istio.io/v1/namespaces/default/destination-rule/rule-reviews"
    );
}

#[test]
fn a_sidecar_gets_no_credential_of_a_rule_for_everybody_but_a_gateway_does() {
    let rule = rule(
        "reviews",
        json!({"trafficPolicy": {"tls": {"mode": "MUTUAL", "credentialName": "client"}}}),
    );
    assert!(cluster(json!({}), &rule, REVIEWS).get("transportSocket").is_none());
    let snapshot = world(json!({}), &format!("{}{rule}", pods()), false);
    let gateway = resources(&snapshot, &router("10.1.0.9"), OUTBOUND);
    let common = &gateway[REVIEWS]["transportSocket"]["typedConfig"]["commonTlsContext"];
    assert_eq!(
        common["tlsCertificateSdsSecretConfigs"][0]["name"],
        "kubernetes://client"
    );
    let authorities = &common["combinedValidationContext"]["validationContextSdsSecretConfig"];
    assert_eq!(authorities["name"], "kubernetes://client-cacert");
}

#[test]
fn names_are_resolved_by_the_proxy_and_dropped_without_any() {
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
                 metadata: {name: out, namespace: default}\n\
                 spec: {hosts: [api.example.com], resolution: DNS, location: MESH_EXTERNAL,\n\
                 ports: [{number: 443, name: tls, protocol: TLS}]}\n";
    let cluster = cluster(json!({}), entry, "outbound|443||api.example.com");
    assert_eq!(cluster["type"], "STRICT_DNS");
    assert_eq!(cluster["respectDnsTtl"], true);
    let endpoint = &cluster["loadAssignment"]["endpoints"][0]["lbEndpoints"][0]["endpoint"];
    assert_eq!(endpoint["address"]["socketAddress"]["address"], "api.example.com");
    assert!(cluster.get("transportSocketMatches").is_none());
}

#[test]
fn what_the_application_serves_is_reached_from_an_address_that_interception_knows() {
    let snapshot = world(json!({}), &pods(), false);
    let all = resources(&snapshot, &sidecar("10.1.0.1", ""), &[Family::InboundClusters]);
    let own = &all["inbound|8080||"];
    assert_eq!(
        (&own["type"], &own["lbPolicy"]),
        (&json!("ORIGINAL_DST"), &json!("CLUSTER_PROVIDED"))
    );
    assert_eq!(own["upstreamBindConfig"]["sourceAddress"]["address"], "127.0.0.6");
    assert!(all.contains_key("InboundPassthroughCluster"));
}

#[test]
fn a_changed_endpoint_changes_no_cluster() {
    let proxy = sidecar("10.1.0.9", "eu/eu-a");
    let before = world(json!({}), &pods(), false);
    let after = world(json!({}), &pods().replace("10.1.0.2", "10.1.0.3"), false);
    let clusters = |snapshot| inputs(snapshot, &proxy, Family::OutboundClusters);
    assert_eq!(clusters(&before), clusters(&after));
    let endpoints = |snapshot| inputs(snapshot, &proxy, Family::Endpoints);
    assert_ne!(endpoints(&before), endpoints(&after));
}

#[test]
fn the_order_of_objects_changes_no_byte() {
    let rules = rule(
        "reviews",
        json!({"subsets": [{"name": "v2", "labels": {"version": "v2"}}]}),
    );
    let objects = format!(
        "{}{}{rules}",
        pods(),
        service("details", &[("10.1.0.5", "eu-a", json!({}))])
    );
    let proxy = sidecar("10.1.0.1", "eu/eu-a");
    let bytes = |backwards| {
        let snapshot = world(json!({}), &objects, backwards);
        let families = [Family::OutboundClusters, Family::InboundClusters, Family::Endpoints];
        let all = families
            .into_iter()
            .flat_map(|family| inputs(&snapshot, &proxy, family));
        all.map(|input| input.build().resource).collect::<Vec<_>>()
    };
    assert_eq!(bytes(false), bytes(true));
}

/// Names of clusters that come unasked, and of those that come on demand, for a sidecar that can name clusters.
fn split(namespace: &str, more: &str) -> [Vec<String>; 2] {
    let documents = format!("---\n{namespace}\n{SERVICES}{more}");
    let mesh = json!({"extensionProviders": [{"name": "z", "zipkin": {"service": "default/tracer.default.svc.cluster.local", "port": 80}}]});
    let snapshot = world(mesh, &documents, false);
    let mut proxy = sidecar("10.1.0.9", "");
    proxy.capabilities.virtual_hosts = true;
    [Family::OutboundClusters, Family::OnDemandClusters].map(|family| {
        let all = resources(&snapshot, &proxy, &[family]).into_keys();
        let hosts = all.filter_map(|name| Some(name.strip_prefix("outbound|")?.split('.').next()?.to_owned()));
        hosts.collect()
    })
}

const SERVICES: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: tcp, port: 81}, {name: any, port: 82}, {name: grpc, port: 83}]}
---
apiVersion: v1
kind: Service
metadata: {name: tracer, namespace: default}
spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: shadow, namespace: default}
spec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: keys, namespace: default}
spec: {clusterIP: 10.96.0.4, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: default}
spec:
  hosts: [web]
  http: [{mirror: {host: shadow}, route: [{destination: {host: web, port: {number: 80}}}]}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: keys, namespace: default}
spec: {jwtRules: [{issuer: keys, jwksUri: 'http://keys.default.svc.cluster.local/keys'}]}
";

const ASKING: &str =
    "{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {lateen.dev/discovery: on-demand}}}";

#[test]
fn only_what_nothing_but_routes_leads_to_comes_on_demand() {
    let [unasked, on_demand] = split(ASKING, "");
    assert_eq!(on_demand, ["80||web", "83||web"]);
    assert_eq!(unasked, ["80||keys", "80||shadow", "80||tracer", "81||web", "82||web"]);
}

#[test]
fn nothing_comes_on_demand_unless_the_namespace_asks_and_nobody_changes_what_envoy_gets() {
    let annotated =
        "{apiVersion: v1, kind: Namespace, metadata: {name: default, annotations: {lateen.dev/discovery: on-demand}}}";
    assert_eq!(split(annotated, "")[1], ["80||web", "83||web"]);
    let contradicted = "{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {lateen.dev/discovery: whole}, \
                        annotations: {lateen.dev/discovery: on-demand}}}";
    let silent = "{apiVersion: v1, kind: Namespace, metadata: {name: default}}";
    let patch = "---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: p, namespace: default}\nspec:\n  \
                 configPatches: [{applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeout: 2s}}}]\n";
    for (namespace, more) in [(contradicted, ""), (silent, ""), (ASKING, patch)] {
        let [unasked, on_demand] = split(namespace, more);
        assert_eq!(on_demand, [""; 0], "{namespace}");
        assert_eq!(unasked.len(), 7, "{namespace}");
    }
    let narrowed = "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: default}\nspec:\n  \
                    egress: [{port: {number: 80, name: tcp, protocol: TCP}, hosts: [./web.default.svc.cluster.local]}, {hosts: [./keys.default.svc.cluster.local]}]\n";
    assert_eq!(split(ASKING, narrowed)[1], [""; 0], "bytes go to web");
}
