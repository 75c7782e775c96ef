//! Endpoints: where a service's connections go.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lateen_names::{ClusterId, Locality, Namespace, Network};

use crate::{Labels, ServiceKey};

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A name that the proxy resolves.
    Host(Arc<str>),
    /// A Unix domain socket.
    Unix(Arc<str>),
}

/// Whether an endpoint may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Health {
    /// Ready.
    #[default]
    Healthy,
    /// Not ready; kept only for services that publish such endpoints, or to send nothing there.
    Unhealthy,
    /// Terminating but serving: finishes what it has (persistent sessions).
    Draining,
}

/// Facts about the workload behind an endpoint, shared by its ports and services. Of an address that nothing is known
/// about, only cluster and network are; its names are empty and its namespace is that of the service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Name of the pod or WorkloadEntry.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its labels, and what Istio adds to them: `topology.kubernetes.io/region` and `zone`, `topology.istio.io/subzone`,
    /// `cluster` and `network`, `kubernetes.io/hostname`.
    pub labels: Labels,
    /// Canonical or owning workload name (`reviews-v1`), for telemetry.
    pub workload_name: Arc<str>,
    /// SPIFFE ID of its service account, if known.
    pub identity: Option<Arc<str>>,
    /// Region, zone, sub-zone.
    pub locality: Locality,
    /// The network it is on.
    pub network: Network,
    /// The cluster it is in.
    pub cluster: ClusterId,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// Whether it takes Istio mutual TLS (`security.istio.io/tlsMode: istio`).
    pub mtls: bool,
    /// Whether it takes HBONE.
    pub hbone: bool,
    /// DNS host name and sub-domain for StatefulSet-style names.
    pub hostname: Option<Arc<str>>,
    /// See `hostname`.
    pub subdomain: Option<Arc<str>>,
}

/// One endpoint of one port of one service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where to connect.
    pub address: Address,
    /// Further addresses of the same endpoint (its other IP family), in order; tried beside the first one.
    pub additional: Vec<Address>,
    /// The port there (the target port).
    pub port: u16,
    /// Weight as the user gave it; `None` where not given.
    pub weight: Option<u32>,
    /// Whether it may be used.
    pub health: Health,
    /// What is there.
    pub workload: crate::Shared<Workload>,
}

/// The endpoints of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Endpoints {
    /// By the number of the service's port; each list sorted by address, then port.
    pub by_port: BTreeMap<u16, Vec<Endpoint>>,
}

/// A service's port as it is served at one address: what a sidecar there has to accept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    /// The service.
    pub service: ServiceKey,
    /// The port that callers use.
    pub port: u16,
    /// The port at the workload.
    pub target_port: u16,
}

/// All instances at one address in the order in which they win conflicts over a port: older services first, then by
/// host; ports in the order of the service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Instances {
    /// See [`Instance`].
    pub instances: Vec<Instance>,
}
