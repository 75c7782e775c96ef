//! What a pod's annotations and its proxy's container say about its interception.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Ports of the proxy that others ask directly.
const OPEN_PORTS: &str = "15020,15021,15090";
const PROXY: &str = "istio-proxy";
const INIT: &str = "istio-init";
const STATUS: &str = "sidecar.istio.io/status";
const PROXY_USER: i64 = 1337;

/// The parts of a pod that matter here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
    pub(super) status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) deletion_timestamp: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) owner_references: Vec<Owner>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Owner {
    pub(super) kind: String,
    pub(super) name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    host_network: bool,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    name: String,
    args: Vec<String>,
    env: Vec<Variable>,
    security_context: SecurityContext,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SecurityContext {
    run_as_user: Option<i64>,
    run_as_group: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Status {
    pub(super) init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ContainerStatus {
    pub(super) name: String,
    pub(super) restart_count: u64,
    pub(super) state: ContainerState,
    pub(super) last_state: ContainerState,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ContainerState {
    pub(super) terminated: Option<Terminated>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Terminated {
    pub(super) exit_code: i64,
    pub(super) message: String,
}

/// What is to be done for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Interception {
    /// Nothing, and why.
    None(&'static str),
    /// `istio-iptables` with these arguments and variables.
    Rules {
        arguments: Vec<String>,
        variables: Vec<(String, String)>,
    },
}

// === impl Pod ===

impl Pod {
    /// What its annotations ask for.
    pub(super) fn interception(&self) -> Interception {
        let annotation = |key: &str| self.metadata.annotations.get(key).map(|value| value.trim());
        if self.spec.host_network {
            return Interception::None("it has the node's network");
        }
        if annotation(STATUS).is_none() {
            return Interception::None("it has no sidecar");
        }
        if self.spec.init_containers.iter().any(|container| container.name == INIT) {
            return Interception::None("it has an init container that does it");
        }
        let all = self.spec.containers.iter().chain(&self.spec.init_containers);
        let Some(proxy) = all.into_iter().find(|container| container.name == PROXY) else {
            return Interception::None("it has no container istio-proxy");
        };
        let mut role = proxy.args.iter().skip_while(|argument| *argument != "proxy");
        if role
            .nth(1)
            .is_some_and(|role| role != "sidecar" && !role.starts_with('-'))
        {
            return Interception::None("its proxy is no sidecar");
        }
        let mode = annotation("sidecar.istio.io/interceptionMode").filter(|mode| !mode.is_empty());
        let mode = mode.unwrap_or("REDIRECT");
        if mode == "NONE" {
            return Interception::None("its interception mode is NONE");
        }
        Interception::Rules {
            arguments: self.arguments(proxy, mode),
            variables: proxy.variables(),
        }
    }

    fn arguments(&self, proxy: &Container, mode: &str) -> Vec<String> {
        let traffic = |name: &str| {
            let key = format!("traffic.sidecar.istio.io/{name}");
            self.metadata.annotations.get(&key).map(|value| value.trim().to_owned())
        };
        let or_all = |value: Option<String>| value.unwrap_or_else(|| "*".to_owned());
        let mut excluded = traffic("excludeInboundPorts").filter(|ports| !ports.is_empty());
        if let Some(port) = self.metadata.annotations.get("status.sidecar.istio.io/port") {
            excluded = Some(excluded.map_or_else(|| port.clone(), |ports| format!("{ports},{port}")));
        }
        let excluded = excluded.map_or_else(|| OPEN_PORTS.to_owned(), |ports| format!("{ports},{OPEN_PORTS}"));
        let virtual_interfaces = traffic("kubevirtInterfaces").or_else(|| {
            self.metadata
                .annotations
                .get("istio.io/reroute-virtual-interfaces")
                .cloned()
        });
        let user = proxy.security_context.run_as_user.unwrap_or(PROXY_USER);
        let group = proxy.security_context.run_as_group.unwrap_or(user);
        let flags = [
            ("--istio-inbound-interception-mode", mode.to_owned()),
            ("--proxy-uid", user.to_string()),
            ("--proxy-gid", group.to_string()),
            ("--istio-inbound-ports", or_all(traffic("includeInboundPorts"))),
            ("--istio-local-exclude-ports", excluded),
            ("--istio-service-cidr", or_all(traffic("includeOutboundIPRanges"))),
            (
                "--istio-service-exclude-cidr",
                traffic("excludeOutboundIPRanges").unwrap_or_default(),
            ),
            (
                "--istio-outbound-ports",
                traffic("includeOutboundPorts").unwrap_or_default(),
            ),
            (
                "--istio-local-outbound-ports-exclude",
                traffic("excludeOutboundPorts").unwrap_or_default(),
            ),
            (
                "--istio-exclude-interfaces",
                traffic("excludeInterfaces").unwrap_or_default(),
            ),
            ("--kube-virt-interfaces", virtual_interfaces.unwrap_or_default()),
        ];
        let mut arguments: Vec<String> = flags.map(|(flag, value)| format!("{flag}={value}")).to_vec();
        let is_true = |name: &str| {
            proxy
                .variable(name)
                .is_some_and(|value| value == "true" || value == "1")
        };
        if is_true("ISTIO_META_DNS_CAPTURE") {
            // The pod's resolvers are in a file that only its containers see.
            arguments.extend(["--redirect-dns", "--capture-all-dns"].map(str::to_owned));
        }
        for (variable, flag) in [("INVALID_DROP", "--drop-invalid"), ("ISTIO_DUAL_STACK", "--dual-stack")] {
            if is_true(variable) {
                arguments.push(flag.to_owned());
            }
        }
        arguments
    }
}

impl Container {
    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.env.iter().find(|variable| variable.name == name);
        found.map(|variable| variable.value.as_str())
    }

    /// Those that `istio-iptables` reads from the environment alone.
    fn variables(&self) -> Vec<(String, String)> {
        let names = [
            "ISTIO_OUTBOUND_OWNER_GROUPS",
            "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
            "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
        ];
        let set = names
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), self.variable(name)?.to_owned())));
        set.filter(|(_, value)| !value.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(annotations: Value, proxy: Value) -> Pod {
        let mut annotations = annotations;
        annotations[STATUS] = json!("{}");
        let pod = json!({ "metadata": { "annotations": annotations }, "spec": { "initContainers": [proxy] } });
        serde_json::from_value(pod).unwrap()
    }

    fn arguments(pod: &Pod) -> Vec<String> {
        match pod.interception() {
            Interception::Rules { arguments, .. } => arguments,
            Interception::None(reason) => panic!("{reason}"),
        }
    }

    #[test]
    fn annotations_become_flags() {
        let plain = arguments(&pod(json!({}), json!({ "name": PROXY })));
        for expected in [
            "--istio-inbound-interception-mode=REDIRECT",
            "--proxy-uid=1337",
            "--istio-inbound-ports=*",
            "--istio-service-cidr=*",
            "--istio-local-exclude-ports=15020,15021,15090",
        ] {
            assert!(
                plain.iter().any(|flag| flag == expected),
                "{expected} is not in {plain:?}"
            );
        }
        let all = pod(
            json!({
                "sidecar.istio.io/interceptionMode": "TPROXY",
                "status.sidecar.istio.io/port": "15999",
                "traffic.sidecar.istio.io/includeInboundPorts": "",
                "traffic.sidecar.istio.io/excludeInboundPorts": "81,82",
                "traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/8",
                "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.1.0.0/16",
                "traffic.sidecar.istio.io/includeOutboundPorts": "443",
                "traffic.sidecar.istio.io/excludeOutboundPorts": "3306",
                "traffic.sidecar.istio.io/excludeInterfaces": "net1",
                "traffic.sidecar.istio.io/kubevirtInterfaces": "tap0",
            }),
            json!({
                "name": PROXY, "args": ["proxy", "sidecar", "--domain", "x"], "securityContext": { "runAsUser": 5 },
                "env": [
                    { "name": "ISTIO_META_DNS_CAPTURE", "value": "true" }, { "name": "INVALID_DROP", "value": "true" },
                    { "name": "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "value": "7" },
                ],
            }),
        );
        let flags = arguments(&all);
        for expected in [
            "--istio-inbound-interception-mode=TPROXY",
            "--proxy-uid=5",
            "--proxy-gid=5",
            "--istio-inbound-ports=",
            "--istio-local-exclude-ports=81,82,15999,15020,15021,15090",
            "--istio-service-cidr=10.0.0.0/8",
            "--istio-service-exclude-cidr=10.1.0.0/16",
            "--istio-outbound-ports=443",
            "--istio-local-outbound-ports-exclude=3306",
            "--istio-exclude-interfaces=net1",
            "--kube-virt-interfaces=tap0",
            "--capture-all-dns",
            "--drop-invalid",
        ] {
            assert!(
                flags.iter().any(|flag| flag == expected),
                "{expected} is not in {flags:?}"
            );
        }
        let Interception::Rules { variables, .. } = all.interception() else {
            panic!("nothing")
        };
        assert_eq!(
            variables,
            [("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE".to_owned(), "7".to_owned())]
        );
    }

    #[test]
    fn pods_without_a_sidecar_of_their_own_are_left_alone() {
        let reason = |pod: Pod| match pod.interception() {
            Interception::None(reason) => reason,
            Interception::Rules { .. } => "",
        };
        assert_eq!(reason(Pod::default()), "it has no sidecar");
        assert_eq!(
            reason(pod(json!({}), json!({ "name": PROXY, "args": ["proxy", "router"] }))),
            "its proxy is no sidecar"
        );
        assert_eq!(
            reason(pod(json!({}), json!({ "name": "app" }))),
            "it has no container istio-proxy"
        );
        assert_eq!(
            reason(pod(json!({}), json!({ "name": INIT }))),
            "it has an init container that does it"
        );
        let none = json!({ "sidecar.istio.io/interceptionMode": "NONE" });
        assert_eq!(
            reason(pod(none, json!({ "name": PROXY }))),
            "its interception mode is NONE"
        );
    }
}
