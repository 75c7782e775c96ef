//! Proxies that Gateways ask for, and how they turn out to be served.

use std::sync::Arc;

use lateen_lower::{Change, Event, Index, Kind, Settings};
use lateen_model::deployment::GatewayDeployment;
use lateen_model::status::{Address, Status};
use lateen_names::ClusterId;

use crate::world::{key, objects};

const WORLD: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/rev: canary}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: edge
  namespace: shop
  uid: 11111111-0000-0000-0000-000000000000
  generation: 3
  labels: {team: web}
  annotations: {networking.istio.io/service-type: ClusterIP, gateway.istio.io/service-account: edge}
spec:
  gatewayClassName: istio
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: https.two, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: none}]}}
  infrastructure:
    labels: {gateway.networking.k8s.io/gateway-name: other, shop: 'yes'}
    parametersRef: {group: '', kind: ConfigMap, name: edge}
  allowedListeners: {namespaces: {from: All}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more, namespace: other, generation: 1}
spec:
  parentRef: {name: edge, namespace: shop}
  listeners: [{name: plain, port: 8080, protocol: TCP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: datagrams, namespace: shop, generation: 2}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: a, port: 53}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: edge, namespace: shop}
data: {deployment: 'spec: {replicas: 4}', readme: no overlay}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: younger, namespace: istio-system, creationTimestamp: '2024-03-01T00:00:00Z', labels: {gateway.istio.io/defaults-for-class: istio}}
data: {service: 'spec: {type: NodePort}'}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: zz-older, namespace: istio-system, creationTimestamp: '2024-02-01T00:00:00Z', labels: {gateway.istio.io/defaults-for-class: istio}}
data: {horizontalPodAutoscaler: 'spec: {maxReplicas: 9}'}
";

/// The Service of the Gateway, of that type, as another controller leaves it.
fn service(kind: &str, ingress: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: edge-istio, namespace: shop, labels: {{gateway.istio.io/managed: istio.io-gateway-controller}}}}
spec:
  type: {kind}
  clusterIP: 10.0.0.7
  ports: [{{name: http, port: 80}}, {{name: https-two, port: 443}}, {{name: plain, port: 8080}}]
status: {{loadBalancer: {{ingress: [{ingress}]}}}}
"
    )
}

const READY: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: edge, namespace: shop, labels: {kubernetes.io/service-name: edge-istio}}
addressType: IPv4
ports: [{name: http, port: 80}, {name: plain, port: 8080}]
endpoints: [{addresses: [10.1.0.1], conditions: {ready: true}}]
";

fn apply(index: &mut Index, text: &str) {
    let cluster = ClusterId::new("Kubernetes").unwrap();
    let events = objects(text).into_iter().map(|object| Event {
        cluster: cluster.clone(),
        change: Change::Apply(Arc::new(object)),
    });
    index.apply(events.collect());
    index.publish();
}

fn index(text: &str) -> Index {
    let mut index = Index::new(Settings::new("").unwrap());
    apply(&mut index, text);
    index
}

fn gateway(index: &Index) -> Status {
    index.statuses()[&Kind::K8sGateway.reference(key("shop", "edge"))].clone()
}

fn programmed(status: &Status) -> (bool, &'static str) {
    let found = status
        .conditions
        .iter()
        .find(|condition| condition.kind == "Programmed");
    found.map(|condition| (condition.holds, condition.reason)).unwrap()
}

#[test]
fn a_gateway_says_what_is_to_be_deployed() {
    let index = index(WORLD);
    let plan: &GatewayDeployment = &index.deployments()[&key("shop", "edge")];
    assert_eq!(
        (&*plan.name, &*plan.account, &*plan.class),
        ("edge-istio", "edge", "istio")
    );
    assert_eq!(
        (&*plan.service_type, plan.load_balancer_ip.as_deref()),
        ("ClusterIP", None)
    );
    assert_eq!(plan.revision.as_deref(), Some("canary"), "the namespace's");
    let labels: Vec<_> = plan.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(labels, [("istio.io/dataplane-mode", "none"), ("shop", "yes")]);
    let annotations: Vec<_> = plan.annotations.keys().map(|name| &**name).collect();
    assert_eq!(annotations, ["networking.istio.io/service-type"]);
    let ports: Vec<_> = plan
        .ports
        .iter()
        .map(|port| (&*port.name, port.number, &*port.protocol))
        .collect();
    assert_eq!(
        ports,
        [
            ("http", 80, "http"),
            ("https-two", 443, "https"),
            ("plain", 8080, "tcp")
        ]
    );
    let overlays: Vec<Vec<&str>> = plan
        .overlays
        .iter()
        .map(|overlay| overlay.keys().map(|name| &**name).collect())
        .collect();
    assert_eq!(
        overlays,
        [vec!["horizontalPodAutoscaler"], vec!["deployment"]],
        "class, then Gateway"
    );
}

#[test]
fn parameters_that_cannot_be_had_are_told_and_deploy_nothing() {
    for broken in [
        WORLD.replace("name: edge}\n  allowed", "name: nowhere}\n  allowed"),
        WORLD.replace("kind: ConfigMap, name: edge}", "kind: Secret, name: edge}"),
        WORLD.replace("'spec: {replicas: 4}'", "'spec: {replicas: 4'"),
    ] {
        let index = index(&broken);
        assert!(index.deployments().is_empty(), "{broken}");
        let status = gateway(&index);
        let accepted = status.conditions.iter().find(|condition| condition.kind == "Accepted");
        assert_eq!(
            accepted.map(|found| (found.holds, found.reason)),
            Some((false, "InvalidParameters"))
        );
    }
}

#[test]
fn a_gateway_that_is_deployed_already_is_not_deployed_again() {
    let manual = WORLD.replace(
        "  gatewayClassName: istio\n",
        "  gatewayClassName: istio\n  addresses: [{type: Hostname, value: ingress.istio-system.svc.cluster.local}]\n",
    );
    assert!(index(&manual).deployments().is_empty());
    assert!(
        index(&WORLD.replace("gatewayClassName: istio", "gatewayClassName: other"))
            .deployments()
            .is_empty()
    );
}

#[test]
fn a_gateway_is_programmed_when_its_service_has_what_it_takes() {
    let mut index = index(WORLD);
    let status = gateway(&index);
    assert_eq!(status.generation, 3);
    assert_eq!(programmed(&status), (false, "AddressNotUsable"), "there is no service");
    apply(&mut index, &service("LoadBalancer", ""));
    assert_eq!(
        programmed(&gateway(&index)),
        (false, "AddressNotAssigned"),
        "it has no endpoints"
    );
    apply(&mut index, READY);
    let status = gateway(&index);
    assert_eq!(
        programmed(&status),
        (false, "AddressNotAssigned"),
        "it has no address yet"
    );
    assert!(status.addresses.is_empty());
    apply(&mut index, &service("LoadBalancer", "{hostname: edge.example}"));
    let status = gateway(&index);
    assert_eq!(programmed(&status), (true, "Programmed"));
    assert_eq!(status.addresses, [Address::Host("edge.example".into())]);
    apply(&mut index, &service("ClusterIP", ""));
    let status = gateway(&index);
    assert_eq!(programmed(&status), (true, "Programmed"));
    assert_eq!(
        status.addresses,
        [Address::Host("edge-istio.shop.svc.cluster.local".into())]
    );
    assert_eq!(status.listener_sets, 1);
}

#[test]
fn routes_of_datagrams_are_not_taken() {
    let index = index(WORLD);
    let status = &index.statuses()[&Kind::UdpRoute.reference(key("shop", "datagrams"))];
    let parents = status.parents.as_ref().unwrap();
    assert_eq!(parents.len(), 1);
    assert_eq!(&*parents[0].controller, "istio.io/gateway-controller");
    assert_eq!(
        (parents[0].conditions[0].holds, parents[0].conditions[0].reason),
        (false, "NotAllowedByListeners")
    );
}
