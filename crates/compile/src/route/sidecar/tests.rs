//! Routes of sidecars in lowered worlds.

use lateen_model::Proxy;
use lateen_names::Namespace;
use serde_json::{Value, json};

use crate::Family;
use crate::testing::{resources, sidecar, world};

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: apps}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: apps}
spec: {clusterIP: 10.96.0.2, ports: [{name: tcp, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: apps}
spec: {clusterIP: 10.96.0.3, ports: [{name: tcp, port: 5432}]}
";

fn client(namespace: &str) -> Proxy {
    Proxy {
        namespace: Namespace::new(namespace).unwrap(),
        ..sidecar("10.1.0.9", "")
    }
}

fn compiled(documents: &str, namespace: &str, family: Family) -> Vec<(String, Value)> {
    let snapshot = world(json!({}), &format!("{SERVICES}{documents}"), false);
    let all = resources(&snapshot, &client(namespace), &[family]);
    all.into_iter().collect()
}

#[test]
fn routes_to_other_namespaces_services_hold_for_clients_of_their_own_namespace_before_all_others() {
    let route = |namespace: &str, age: u32| {
        format!(
            "
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: {namespace}, creationTimestamp: '2026-01-01T00:00:0{age}Z'}}
spec:
  parentRefs: [{{group: '', kind: Service, name: web, namespace: apps}}]
  rules:
  - filters: [{{type: RequestRedirect, requestRedirect: {{hostname: {namespace}.example}}}}]
"
        )
    };
    let documents = format!("{}{}", route("apps", 1), route("consumers", 2));
    let redirect = |namespace: &str| {
        let tables = compiled(&documents, namespace, Family::Routes);
        let hosts = tables.iter().flat_map(|(_, table)| {
            let hosts = table["virtualHosts"].as_array();
            hosts.cloned().unwrap_or_default()
        });
        let mut web = hosts.filter(|host| host["name"] == "web.apps.svc.cluster.local:80");
        let host = web.next().unwrap();
        host["routes"][0]["redirect"]["hostRedirect"].clone()
    };
    assert_eq!(redirect("consumers"), "consumers.example");
    assert_eq!(redirect("apps"), "apps.example");
    assert_eq!(redirect("elsewhere"), "apps.example");
}

#[test]
fn routes_of_connections_reach_no_further() {
    let route = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: r, namespace: consumers}
spec:
  parentRefs: [{group: '', kind: Service, name: db, namespace: apps}]
  rules: [{backendRefs: [{name: other, namespace: apps, port: 5432}]}]
";
    let target = |namespace: &str| {
        let listeners = compiled(route, namespace, Family::OutboundListeners);
        let (_, listener) = listeners.iter().find(|(name, _)| name == "10.96.0.2_5432").unwrap();
        let filters = listener["filterChains"][0]["filters"].as_array().unwrap();
        filters.last().unwrap()["typedConfig"]["cluster"].clone()
    };
    assert_eq!(target("consumers"), "outbound|5432||other.apps.svc.cluster.local");
    assert_eq!(target("elsewhere"), "outbound|5432||db.apps.svc.cluster.local");
}
