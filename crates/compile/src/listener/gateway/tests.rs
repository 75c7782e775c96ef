//! Gateways of lowered worlds.

use serde_json::{Value, json};

use crate::Family;
use crate::testing::{resources, router, world};

fn compiled(documents: &str, family: Family, name: &str) -> Value {
    let snapshot = world(json!({}), documents, false);
    resources(&snapshot, &router("10.1.0.1"), &[family])
        .remove(name)
        .unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn a_redirect_to_the_requests_port_names_the_listeners_where_it_does_not_go_without_saying() {
    let documents = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 8080, name: http-alt, protocol: HTTP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: moved, namespace: default}
spec:
  hosts: ['*']
  gateways: [edge]
  http: [{redirect: {authority: new.example, derivePort: FROM_REQUEST_PORT}}]
";
    let redirect =
        |table: &str| compiled(documents, Family::Routes, table)["virtualHosts"][0]["routes"][0]["redirect"].clone();
    assert_eq!(redirect("http.8080")["portRedirect"], 8080);
    assert_eq!(redirect("http.8080")["hostRedirect"], "new.example");
    assert_eq!(redirect("http.80").get("portRedirect"), None);
}

#[test]
fn a_server_that_skips_verification_lets_clients_with_any_certificate_in() {
    let documents = |skip: bool| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge, namespace: default}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 8443, name: https, protocol: HTTPS}}
    hosts: ['*']
    tls: {{mode: OPTIONAL_MUTUAL, credentialName: cert, insecureSkipVerify: {skip}}}
"
        )
    };
    let checks = |skip| {
        let listener = compiled(&documents(skip), Family::OutboundListeners, "0.0.0.0_8443");
        let tls = &listener["filterChains"][0]["transportSocket"]["typedConfig"]["commonTlsContext"];
        tls["combinedValidationContext"]["defaultValidationContext"].clone()
    };
    assert_eq!(checks(true)["trustChainVerification"], "ACCEPT_UNTRUSTED");
    assert_eq!(checks(false).get("trustChainVerification"), None);
}

#[test]
fn where_tls_is_taken_off_each_tls_route_has_a_chain_for_its_hosts() {
    let route = |name: &str, hosts: &str, age: u32| {
        format!(
            "
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {{name: {name}, namespace: default, creationTimestamp: '2026-01-01T00:00:0{age}Z'}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [{hosts}]
  rules: [{{backendRefs: [{{name: {name}, port: 3000}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec: {{clusterIP: 10.96.0.{age}, ports: [{{name: tcp, port: 3000}}]}}
"
        )
    };
    let documents = format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: default}}
spec:
  gatewayClassName: istio
  listeners:
  - {{name: off, port: 8443, protocol: TLS, tls: {{mode: Terminate, certificateRefs: [{{name: cert}}]}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: cert, namespace: default}}
data:
  tls.crt: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCmEKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=
  tls.key: LS0tLS1CRUdJTiBLRVktLS0tLQphCi0tLS0tRU5EIEtFWS0tLS0tCg==
---
apiVersion: v1
kind: Service
metadata: {{name: edge-istio, namespace: default}}
spec: {{clusterIP: 10.96.0.9, selector: {{app: edge}}, ports: [{{name: tls, port: 8443}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {{name: edge-istio-x, namespace: default, labels: {{kubernetes.io/service-name: edge-istio}}}}
ports: [{{name: tls, port: 8443, protocol: TCP}}]
endpoints: [{{addresses: [10.1.0.1], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: edge, namespace: default}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: edge, namespace: default, labels: {{app: edge}}}}
spec: {{containers: []}}
status: {{phase: Running, podIP: 10.1.0.1, podIPs: [{{ip: 10.1.0.1}}], conditions: [{{type: Ready, status: 'True'}}]}}
{}{}{}",
        route("one", "a.example", 1),
        // Envoy takes no two chains for one name: the older route has it.
        route("two", "'b.example', 'a.example'", 2),
        route("three", "'*.example'", 3),
    );
    let listener = compiled(&documents, Family::OutboundListeners, "0.0.0.0_8443");
    let chains: Vec<(Value, Value, bool)> = listener["filterChains"]
        .as_array()
        .unwrap()
        .iter()
        .map(|chain| {
            let proxy = chain["filters"].as_array().unwrap().last().unwrap();
            (
                chain["filterChainMatch"]["serverNames"].clone(),
                proxy["typedConfig"]["cluster"].clone(),
                chain.get("transportSocket").is_some(),
            )
        })
        .collect();
    let to = |host: &str, service: &str| {
        let cluster = format!("outbound|3000||{service}.default.svc.cluster.local");
        (json!([host]), json!(cluster), true)
    };
    assert_eq!(
        chains,
        [to("a.example", "one"), to("b.example", "two"), to("*.example", "three")]
    );
}

#[test]
fn a_server_name_has_one_chain_and_the_older_route_keeps_it() {
    let route = |name: &str, hosts: &str| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{hosts}]
  gateways: [edge]
  tls: [{{match: [{{port: 8443, sniHosts: [{hosts}]}}], route: [{{destination: {{host: {name}}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: default}}
spec: {{hosts: [{name}], resolution: STATIC, ports: [{{number: 443, name: tls, protocol: TLS}}]}}
"
        )
    };
    let gateway = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8443, name: tls, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}
";
    let documents = format!(
        "{gateway}{}{}",
        route("one.test", "a.test, b.test"),
        route("two.test", "b.test, c.test")
    );
    let listener = compiled(&documents, Family::OutboundListeners, "0.0.0.0_8443");
    let chains = listener["filterChains"].as_array().unwrap().iter();
    let seen: Vec<(&Value, &Value)> = chains
        .map(|chain| {
            let proxy = &chain["filters"].as_array().unwrap().last().unwrap()["typedConfig"];
            (&chain["filterChainMatch"]["serverNames"], &proxy["cluster"])
        })
        .collect();
    let (one, two) = (json!("outbound|443||one.test"), json!("outbound|443||two.test"));
    assert_eq!(
        seen,
        [(&json!(["a.test", "b.test"]), &one), (&json!(["c.test"]), &two)],
        "{listener}"
    );
}
