//! A proxy as its node describes it, and the facts about it that each family of resources may see.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lateen_names::{ClusterId, Locality, Namespace, Network};

use crate::mesh::ProxyConfig;
use crate::{Labels, Shared};

/// What a proxy is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyKind {
    /// Beside one workload.
    Sidecar,
    /// A gateway.
    Router,
    /// A waypoint of the ambient mesh.
    Waypoint,
    /// A node's layer-4 proxy.
    Ztunnel,
}

/// How traffic comes to a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Interception {
    /// iptables REDIRECT.
    #[default]
    Redirect,
    /// iptables TPROXY: the source address is kept.
    Tproxy,
    /// Not at all: the application connects to the proxy.
    None,
}

/// What the proxy's binary can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Capabilities {
    /// Istio's own filters are there (`istio.stats` and the rest), as in Istio's proxyv2.
    pub istio_filters: bool,
    /// Virtual hosts can come one by one, beside their route tables (VHDS): so they do on streams that speak delta.
    pub virtual_hosts: bool,
    /// Its agent has a missing cluster sent when Envoy tells it of a request that needs one, so that what was forgotten can come
    /// back (`LATEEN_ON_DEMAND`). It concerns only those whose clusters come on demand.
    pub tells_agent: bool,
}

/// Environment-like metadata that changes configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Options {
    /// Whether it gets no Secrets, because its identity may not read them. Never by its own word.
    pub without_secrets: bool,
    /// `DNS_CAPTURE`: the agent answers DNS.
    pub dns_capture: bool,
    /// `DNS_AUTO_ALLOCATE`.
    pub dns_auto_allocate: bool,
    /// `HTTP10`: HTTP/1.0 is accepted.
    pub http10: bool,
    /// `UNPRIVILEGED_POD`: ports below 1024 cannot be bound.
    pub unprivileged: bool,
    /// `ENABLE_HBONE`.
    pub hbone: bool,
    /// `TLS_SERVER_CERT_CHAIN`, `TLS_SERVER_KEY`, `TLS_SERVER_ROOT_CERT`: file-mounted server certificate.
    pub server_cert: Option<[Arc<str>; 3]>,
    /// `TLS_CLIENT_CERT_CHAIN`, `TLS_CLIENT_KEY`, `TLS_CLIENT_ROOT_CERT`: file-mounted client certificate.
    pub client_cert: Option<[Arc<str>; 3]>,
    /// `IDLE_TIMEOUT` of TCP connections, milliseconds.
    pub idle_timeout_ms: Option<u64>,
    /// `ROUTER_MODE`, `REQUESTED_NETWORK_VIEW` and other keys that some rule reads.
    pub requested_network_view: Vec<Arc<str>>,
    /// `sni-dnat` of east-west gateways.
    pub sni_dnat: bool,
    /// `INBOUND_LISTENER_EXACT_BALANCE`, `OUTBOUND_LISTENER_EXACT_BALANCE`.
    pub exact_balance: (bool, bool),
    /// `STATS`-related: `HTTP_PROXY_PORT` style bindings; the HTTP proxy port when one is asked for.
    pub http_proxy_port: Option<u16>,
    /// `DISABLE_*`/annotation-driven keys of metadata kept by name, sorted: only keys that some rule reads.
    pub extra: BTreeMap<Arc<str>, Arc<str>>,
}

/// A proxy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// Kind.
    pub kind: ProxyKind,
    /// Node ID, whole.
    pub id: Arc<str>,
    /// Name of the pod (or VM).
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Namespace,
    /// Service account.
    pub service_account: Arc<str>,
    /// DNS domain: `<namespace>.svc.<domain>`.
    pub dns_domain: Arc<str>,
    /// Addresses, first the primary one.
    pub addresses: Vec<IpAddr>,
    /// Cluster.
    pub cluster: ClusterId,
    /// Network.
    pub network: Network,
    /// Locality.
    pub locality: Locality,
    /// Labels.
    pub labels: Labels,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// Workload name (`WORKLOAD_NAME`).
    pub workload: Arc<str>,
    /// Canonical service and revision, for telemetry.
    pub canonical: (Arc<str>, Arc<str>),
    /// Mesh ID.
    pub mesh_id: Arc<str>,
    /// Version of the agent, e.g. `1.32.0`.
    pub version: Arc<str>,
    /// Interception.
    pub interception: Interception,
    /// Effective ProxyConfig, as the agent was started with.
    pub config: Shared<ProxyConfig>,
    /// Options.
    pub options: Options,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// Container ports of the pod (`POD_PORTS`), sorted.
    pub pod_ports: Vec<u16>,
}

impl Proxy {
    /// Whether the proxy has an IPv4 address (or none at all).
    pub fn has_ipv4(&self) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(IpAddr::is_ipv4)
    }

    /// Whether the proxy has an IPv6 address.
    pub fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }

    /// Which address families the proxy has.
    pub fn families(&self) -> IpFamilies {
        match (self.has_ipv4(), self.has_ipv6()) {
            (true, true) if self.addresses.first().is_some_and(IpAddr::is_ipv6) => IpFamilies::DualV6First,
            (true, true) => IpFamilies::Dual,
            (false, _) => IpFamilies::V6,
            _ => IpFamilies::V4,
        }
    }
}

/// Address families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamilies {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both, IPv4 first.
    Dual,
    /// Both, IPv6 first.
    DualV6First,
}

impl IpFamilies {
    /// Whether IPv4 is there.
    pub fn v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is there.
    pub fn v6(self) -> bool {
        self != Self::V4
    }

    /// The wildcard address to bind first, and the second one where both families are there.
    pub fn wildcards(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::V4 => ("0.0.0.0", None),
            Self::V6 => ("::", None),
            Self::Dual => ("0.0.0.0", Some("::")),
            Self::DualV6First => ("::", Some("0.0.0.0")),
        }
    }
}
