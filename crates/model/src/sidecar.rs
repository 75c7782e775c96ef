//! What a sidecar sees and opens (Istio's Sidecar object).

use std::sync::Arc;

use lateen_names::{Hostname, Namespace, ObjectRef};

use crate::Selector;
use crate::destination::ConnectionPool;
use crate::gateway::ServerTls;
use crate::service::Protocol;

/// A Sidecar object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sidecar {
    /// The object it was made from.
    pub origin: ObjectRef,
    /// Its namespace; in the root namespace it is the default of all.
    pub namespace: Namespace,
    /// Seconds since the epoch when the object was made.
    pub created: i64,
    /// Which workloads; `None` for the whole namespace.
    pub selector: Option<Selector>,
    /// Outbound; empty: everything visible.
    pub egress: Vec<Egress>,
    /// Inbound listeners; empty: from the services.
    pub ingress: Vec<Ingress>,
    /// Policy toward unknown destinations; `None`: the mesh's.
    pub outbound_policy: Option<OutboundPolicy>,
    /// Limits of inbound connections.
    pub inbound_pool: Option<ConnectionPool>,
}

/// Policy toward destinations that are in no registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OutboundPolicy {
    /// They are passed on.
    AllowAny,
    /// They are refused.
    RegistryOnly,
    /// They are sent to an egress proxy: the cluster's name.
    EgressProxy(Arc<str>),
}

/// How traffic comes to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CaptureMode {
    /// As the proxy's interception mode says.
    #[default]
    Default,
    /// By iptables.
    Iptables,
    /// Not captured: the application connects to the listener.
    None,
}

/// A port of a sidecar's listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SidecarPort {
    /// Number.
    pub number: u16,
    /// Name.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
}

/// One outbound entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Egress {
    /// Port; `None`: those of the services.
    pub port: Option<SidecarPort>,
    /// Address or Unix socket to bind.
    pub bind: Option<Arc<str>>,
    /// Capture.
    pub capture: CaptureMode,
    /// What may be called.
    pub hosts: Vec<EgressHost>,
}

/// Which services of which namespaces may be called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EgressHost {
    /// Namespaces.
    pub namespace: EgressNamespace,
    /// Host or wildcard.
    pub host: Hostname,
}

/// The namespace part of an egress host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EgressNamespace {
    /// `*`.
    Any,
    /// `.`: the proxy's own namespace.
    Own,
    /// `~`: none.
    None,
    /// This one.
    Named(Namespace),
}

/// One inbound listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ingress {
    /// Port.
    pub port: SidecarPort,
    /// Address to bind.
    pub bind: Option<Arc<str>>,
    /// Capture.
    pub capture: CaptureMode,
    /// Where it is passed on to.
    pub default_endpoint: Option<Arc<str>>,
    /// TLS of the listener, for workloads without mutual TLS.
    pub tls: Option<ServerTls>,
    /// Limits.
    pub pool: Option<ConnectionPool>,
}
