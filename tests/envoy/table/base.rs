//! The world that every table adds to.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// A server without a proxy.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) service: &'static str,
    pub(crate) namespace: &'static str,
    pub(crate) address: Ipv4Addr,
    pub(crate) node: &'static str,
}

const fn server(
    name: &'static str,
    service: &'static str,
    namespace: &'static str,
    address: [u8; 4],
    node: &'static str,
) -> Server {
    Server {
        name,
        service,
        namespace,
        address: Ipv4Addr::new(address[0], address[1], address[2], address[3]),
        node,
    }
}

/// The servers of Services; their names are the label `version`. A service of no name is outside of the mesh.
pub(crate) const SERVERS: &[Server] = &[
    server("v1", "echo", "shop", [10, 77, 1, 1], "a"),
    server("v2", "echo", "shop", [10, 77, 1, 2], "a"),
    server("v3", "echo", "shop", [10, 77, 1, 3], "a"),
    server("solo", "solo", "shop", [10, 77, 1, 10], "a"),
    server("near", "spread", "shop", [10, 77, 1, 21], "a"),
    server("zone", "spread", "shop", [10, 77, 1, 22], "b"),
    server("region", "spread", "shop", [10, 77, 1, 23], "c"),
    server("back1", "back", "other", [10, 77, 1, 31], "a"),
    server("back2", "back", "other", [10, 77, 1, 32], "a"),
    server("outside", "", "", [198, 51, 100, 1], ""),
    server("outside2", "", "", [198, 51, 100, 2], ""),
    server("outside3", "", "", [198, 51, 100, 3], ""),
];

/// Ports at which every server listens.
pub(crate) const PORTS: [u16; 5] = [80, 443, 8080, 8443, 9090];

/// A pod with a proxy: name, namespace, address, node, and the label of a gateway.
pub(crate) type Pod = (&'static str, &'static str, Ipv4Addr, &'static str, &'static str);

/// All of them.
pub(crate) const PODS: &[Pod] = &[
    ("client", "shop", Ipv4Addr::new(10, 77, 2, 1), "a", ""),
    ("other", "other", Ipv4Addr::new(10, 77, 2, 2), "a", ""),
    ("far", "shop", Ipv4Addr::new(10, 77, 2, 3), "c", ""),
    ("inside", "shop", Ipv4Addr::new(10, 77, 2, 5), "a", ""),
    ("ingress", "edge", Ipv4Addr::new(10, 77, 2, 11), "a", "ingress"),
    ("egress", "edge", Ipv4Addr::new(10, 77, 2, 12), "a", "egress"),
];

const PORTS_OF_SERVICES: &str = "
    - {name: http, port: 80, targetPort: 8080}
    - {name: http-more, port: 81, targetPort: 8080}
    - {name: http2, port: 82, targetPort: 8080}
    - {name: any, port: 90, targetPort: 8080}
    - {name: tls, port: 443, targetPort: 8443}
    - {name: grpc, port: 7000, targetPort: 8080}
    - {name: tcp, port: 9000, targetPort: 9090}
";

/// Where gateways listen.
const DOORS: [(&str, u16); 10] = [
    ("http", 80),
    ("https", 443),
    ("http-b", 8080),
    ("http-c", 8081),
    ("https-c", 8444),
    ("tls", 8445),
    ("tcp", 9000),
    ("tls-b", 9443),
    ("tcp-b", 9100),
    ("tls-c", 9101),
];

const PORTS_OF_SLICES: &str = "
    - {name: http, port: 8080}
    - {name: http-more, port: 8080}
    - {name: http2, port: 8080}
    - {name: any, port: 8080}
    - {name: tls, port: 8443}
    - {name: grpc, port: 8080}
    - {name: tcp, port: 9090}
";

/// All of it as YAML.
pub(crate) fn world() -> String {
    let mut yaml = String::new();
    for (node, region, zone) in [("a", "r1", "z1"), ("b", "r1", "z2"), ("c", "r2", "z1")] {
        let labels = format!("topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: {zone}");
        object(
            &mut yaml,
            &format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}, labels: {{{labels}}}}}\n"),
        );
    }
    for namespace in ["shop", "other", "edge", "istio-system"] {
        let labels = format!("{{kubernetes.io/metadata.name: {namespace}}}");
        let yaml = &mut yaml;
        object(
            yaml,
            &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {labels}}}\n"),
        );
    }
    let mut services = Vec::new();
    for server in SERVERS.iter().filter(|server| !server.service.is_empty()) {
        let (service, namespace, version) = (server.service, server.namespace, server.name);
        let labels = format!("{{app: {service}, version: {version}}}");
        let pod = format!("{service}-{version}");
        object(
            &mut yaml,
            &endpoint(&pod, namespace, &labels, server.address, server.node, service),
        );
        if !services.contains(&(service, namespace)) {
            services.push((service, namespace));
        }
    }
    for (name, namespace, address, node, label) in PODS {
        let labels = match *label {
            "" => format!("{{app: {name}, version: v1, security.istio.io/tlsMode: istio}}"),
            label => format!("{{app: {name}, istio: {label}}}"),
        };
        object(&mut yaml, &endpoint(name, namespace, &labels, *address, node, name));
        services.push((name, namespace));
    }
    for (number, (name, namespace)) in services.into_iter().enumerate() {
        let ports = if namespace == "edge" {
            &doors()
        } else {
            PORTS_OF_SERVICES
        };
        let ip = format!("10.96.0.{}", 10 + number);
        object(
            &mut yaml,
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
                 clusterIP: {ip}\n  clusterIPs: [{ip}]\n  selector: {{app: {name}}}\n  ports:{ports}"
            ),
        );
    }
    yaml
}

fn object(yaml: &mut String, object: &str) {
    // Writing to a string cannot fail.
    let _ = write!(yaml, "---\n{object}");
}

/// The ports of a gateway's Service. It listens where they lead to, so each leads to its own number.
fn doors() -> String {
    let mut ports = String::from("\n");
    for (name, port) in DOORS {
        let _ = writeln!(ports, "    - {{name: {name}, port: {port}}}");
    }
    ports
}

/// A pod and its EndpointSlice.
fn endpoint(pod: &str, namespace: &str, labels: &str, address: Ipv4Addr, node: &str, service: &str) -> String {
    let ports = if namespace == "edge" { &doors() } else { PORTS_OF_SLICES };
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {pod}, namespace: {namespace}, labels: {labels}}}
spec: {{serviceAccountName: {service}, nodeName: {node}, containers: [{{name: app, image: app}}]}}
status: {{phase: Running, podIP: {address}, podIPs: [{{ip: {address}}}], conditions: [{{type: Ready, status: \"True\"}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {pod}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports:{ports}endpoints:
  - addresses: [{address}]
    nodeName: {node}
    conditions: {{ready: true, serving: true, terminating: false}}
    targetRef: {{kind: Pod, name: {pod}, namespace: {namespace}}}
"
    )
}
