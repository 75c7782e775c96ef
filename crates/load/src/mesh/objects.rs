//! The Kubernetes objects of a mesh, as JSON.

use serde_json::{Value, json};

use super::{ACCOUNT, CONFIG_MAP, Instance, KEY, LABEL, Mesh, NODES, REGION, namespace, node, service_name, zone};

/// A node's label that it lies in a zone.
const TOPOLOGY: &str = "topology.kubernetes.io";

impl Mesh {
    /// The namespaces: what everything else lies in.
    pub(crate) fn all_namespaces(&self) -> Vec<Value> {
        let labels = json!({LABEL: "true", "istio-injection": "enabled"});
        (0..self.namespaces)
            .map(|number| {
                json!({"apiVersion": "v1", "kind": "Namespace",
                    "metadata": {"name": namespace(number), "labels": labels}})
            })
            .collect()
    }

    /// The account in each namespace. A cluster's controllers would make it; a lone API server has none of them.
    pub(crate) fn accounts(&self) -> Vec<Value> {
        (0..self.namespaces)
            .map(|number| {
                json!({"apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"name": ACCOUNT, "namespace": namespace(number)}})
            })
            .collect()
    }

    /// Nodes, and what applies to whole namespaces or to some workloads. None of it hides a service from anybody.
    pub(crate) fn surroundings(&self) -> Vec<Value> {
        if !self.is_real() {
            return Vec::new();
        }
        let mut objects = Vec::new();
        if self.pods {
            objects.extend((0..NODES).map(|number| {
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node(number), "labels": {
                    LABEL: "true", format!("{TOPOLOGY}/region"): REGION, format!("{TOPOLOGY}/zone"): zone(number)}}})
            }));
        }
        for number in 0..self.namespaces.min(self.services) {
            let mode = if number % 2 == 0 { "STRICT" } else { "PERMISSIVE" };
            objects.push(
                json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
                    "metadata": meta("default", namespace(number)), "spec": {"mtls": {"mode": mode}}}),
            );
            if number % 5 == 0 {
                objects.push(json!({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
                        "metadata": meta("one", namespace(number)), "spec": {
                            "workloadSelector": {"labels": {"app": service_name(number)}},
                            "egress": [{"hosts": ["*/*"]}]}}));
            }
        }
        objects.extend((0..self.services).step_by(10).map(|service| {
            let own = self.namespace_of(service);
            json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
                "metadata": meta(&service_name(service), own.clone()), "spec": {
                    "selector": {"matchLabels": {"app": service_name(service)}},
                    "rules": [{"from": [{"source": {"namespaces": [own, "istio-system"]}}],
                        "to": [{"operation": {"methods": ["GET", "POST"]}}]}]}})
        }));
        objects
    }

    /// A Service and its endpoints, and for the first of them how they are called.
    pub(crate) fn service(&self, service: usize) -> Vec<Value> {
        let name = service_name(service);
        let mut ports = vec![port("http", 80, 8080), port("grpc", 7070, 7070)];
        if self.is_real() && service % 5 == 3 {
            ports.push(port("tcp-data", 9000, 9000));
        }
        let mut spec = json!({"ports": ports});
        if self.pods {
            spec["selector"] = json!({"app": name});
        }
        if self.is_headless(service) {
            spec["clusterIP"] = "None".into();
        }
        let mut metadata = meta(&name, self.namespace_of(service));
        metadata["labels"]["app"] = name.into();
        let mut objects = vec![
            json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}),
            self.endpoints(service, None),
        ];
        if service < self.routes {
            objects.push(self.destination_rule(service));
            objects.push(self.route(service, None));
        }
        objects
    }

    /// The endpoints of a service, with one more where an address is given.
    pub(crate) fn endpoints(&self, service: usize, more: Option<&str>) -> Value {
        let name = service_name(service);
        let mut metadata = meta(&slice_name(service), self.namespace_of(service));
        metadata["labels"]["kubernetes.io/service-name"] = name.into();
        metadata["labels"]["endpointslice.kubernetes.io/managed-by"] = "lateen-load".into();
        let own = (service..self.instances()).step_by(self.services);
        let mut endpoints: Vec<Value> = own.map(|number| self.instance(number).endpoint()).collect();
        if let Some(address) = more {
            endpoints.push(json!({"addresses": [address], "conditions": {"ready": true, "serving": true}}));
        }
        let port = |name, number| json!({"name": name, "port": number, "protocol": "TCP"});
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": metadata, "endpoints": endpoints,
            "ports": [port("http", 8080), port("grpc", 7070), port("tcp-data", 9000)]})
    }

    fn destination_rule(&self, service: usize) -> Value {
        let subset = |version| json!({"name": version, "labels": {"version": version}});
        json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": meta(&service_name(service), self.namespace_of(service)), "spec": {
                "host": self.host(service), "subsets": [subset("v1"), subset("v2")],
                "trafficPolicy": {"outlierDetection": {"consecutive5xxErrors": 5}}}})
    }

    /// The route to a service. A mark goes into a header of each request.
    pub(crate) fn route(&self, service: usize, mark: Option<&str>) -> Value {
        let host = self.host(service);
        let to = |subset, weight| json!({"destination": {"host": host, "subset": subset}, "weight": weight});
        let mut route = json!({"timeout": "5s", "retries": {"attempts": 3}, "route": [to("v1", 90), to("v2", 10)]});
        if let Some(mark) = mark {
            route["headers"] = json!({"request": {"set": {"x-load-mark": mark}}});
        }
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": meta(&service_name(service), self.namespace_of(service)),
            "spec": {"hosts": [host], "http": [route]}})
    }

    /// A Service beside a service, without endpoints.
    pub(crate) fn added_service(&self, service: usize, name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(name, self.namespace_of(service)),
            "spec": {"ports": [port("http", 80, 8080)]}})
    }

    /// What [`Mesh::read`] reads.
    pub(crate) fn config_map(&self) -> Value {
        let text = serde_json::to_string(self).unwrap_or_default();
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(CONFIG_MAP, namespace(0)), "data": {KEY: text}})
    }
}

impl Instance<'_> {
    fn endpoint(&self) -> Value {
        let mut endpoint = json!({"addresses": [self.address()], "conditions": {"ready": true, "serving": true}});
        if self.mesh.pods {
            endpoint["targetRef"] = json!({"kind": "Pod", "name": self.name(), "namespace": self.namespace()});
        }
        if let Some((_, zone)) = self.locality() {
            endpoint["zone"] = zone.into();
            endpoint["nodeName"] = self.node().into();
        }
        endpoint
    }

    /// Its pod, with the status that a kubelet would give it.
    pub(crate) fn pod(&self) -> Value {
        let (name, address) = (self.name(), self.address());
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace(), "labels": self.labels()},
            "spec": {"nodeName": self.node(), "automountServiceAccountToken": false, "containers": [{
                "name": "app", "image": "app", "ports": [{"containerPort": 8080}, {"containerPort": 7070}]}]},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                "conditions": [{"type": "Ready", "status": "True"}]}})
    }
}

/// The name of a service's EndpointSlice.
pub(crate) fn slice_name(service: usize) -> String {
    format!("{}-load", service_name(service))
}

fn meta(name: &str, namespace: String) -> Value {
    json!({"name": name, "namespace": namespace, "labels": {LABEL: "true"}})
}

fn port(name: &str, port: u16, target: u16) -> Value {
    json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Shape;

    fn mesh(shape: Shape, pods: bool) -> Mesh {
        Mesh {
            services: 20,
            namespaces: 3,
            endpoints: 2,
            routes: 1,
            shape,
            pods,
        }
    }

    #[test]
    fn a_mark_is_all_that_a_change_changes() {
        let mesh = mesh(Shape::Plain, false);
        let mut changed = mesh.route(0, Some("mark"));
        let headers = changed["spec"]["http"][0]
            .as_object_mut()
            .unwrap()
            .shift_remove("headers");
        assert_eq!(headers.unwrap()["request"]["set"]["x-load-mark"], "mark");
        assert_eq!(changed, mesh.route(0, None));
        let more = mesh.endpoints(3, Some("10.1.2.3"));
        assert_eq!(more["endpoints"][2]["addresses"][0], "10.1.2.3");
        assert_eq!(
            more["endpoints"].as_array().unwrap()[..2],
            mesh.endpoints(3, None)["endpoints"].as_array().unwrap()[..]
        );
    }

    #[test]
    fn only_the_real_shape_has_headless_services_and_policies() {
        let (plain, real) = (mesh(Shape::Plain, true), mesh(Shape::Real, true));
        assert!(plain.surroundings().is_empty());
        let kinds: std::collections::BTreeSet<_> = real
            .surroundings()
            .iter()
            .map(|object| object["kind"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(kinds.len(), 4, "{kinds:?}");
        assert_eq!(real.service(9)[0]["spec"]["clusterIP"], "None");
        assert_eq!(plain.service(9)[0]["spec"]["clusterIP"], Value::Null);
    }

    #[test]
    fn without_pods_nothing_selects_or_names_them() {
        let mesh = mesh(Shape::Real, false);
        let objects = mesh.service(0);
        assert_eq!(objects.len(), 4);
        assert_eq!(objects[0]["spec"]["selector"], Value::Null);
        assert_eq!(objects[1]["endpoints"][0]["targetRef"], Value::Null);
        assert!(mesh.surroundings().iter().all(|object| object["kind"] != "Node"));
    }
}
