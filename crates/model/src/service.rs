//! Services: what applications call by name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use lateen_names::{ClusterId, Hostname, Namespace, ObjectRef};

use crate::{ExportTo, Labels, Shared, Table};

/// What tells services apart: host name, then the namespace that defines it (several may define one external host).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The service's host name, e.g. `reviews.default.svc.cluster.local`.
    pub host: Hostname,
    /// The namespace of the object that defines it.
    pub namespace: Namespace,
}

/// The application protocol of a port (`appProtocol`, the port name's prefix, a ServiceEntry's `protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Protocol {
    /// Not said: sniffed on the wire.
    #[default]
    Unspecified,
    /// HTTP/1.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC: HTTP/2.
    Grpc,
    /// gRPC-Web: HTTP/1 with translation.
    GrpcWeb,
    /// HTTP inside the application's own TLS.
    Https,
    /// TLS that is routed by SNI.
    Tls,
    /// Plain bytes.
    Tcp,
    /// MongoDB's wire protocol.
    Mongo,
    /// Redis.
    Redis,
    /// MySQL.
    MySql,
    /// Datagrams: not proxied.
    Udp,
    /// A protocol that Lateen does not know: passed as TCP.
    Unsupported,
    /// HBONE, HTTP CONNECT over mutual TLS.
    Hbone,
}

impl Protocol {
    /// Whether requests can be routed one by one.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether the upstream speaks HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether the application's own TLS is routed by SNI.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Whether connections are passed as bytes (Istio's `IsTCP`).
    pub fn is_tcp(self) -> bool {
        matches!(
            self,
            Self::Tcp | Self::Https | Self::Tls | Self::Mongo | Self::Redis | Self::MySql
        )
    }

    /// Whether the protocol is found out by sniffing.
    pub fn is_sniffed(self) -> bool {
        matches!(self, Self::Unspecified)
    }
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Port {
    /// The port that callers use.
    pub number: u16,
    /// The port's name; unique within the service.
    pub name: Arc<str>,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// How the addresses behind a service are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Resolution {
    /// Endpoints are known and balanced over by the proxy (EDS).
    #[default]
    Static,
    /// The proxy resolves the endpoints' (or the service's own) names; each answer is one endpoint (`STRICT_DNS`).
    Dns,
    /// As `Dns`, but one connection goes to whatever the name means at that moment (`LOGICAL_DNS`).
    DnsRoundRobin,
    /// The connection goes where the application meant it to go: headless services, ServiceEntry `NONE`.
    Passthrough,
    /// The name in the request is resolved (wildcard hosts).
    DynamicDns,
    /// Another name for some other service (Kubernetes `ExternalName`).
    Alias,
}

/// Where a service was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Registry {
    /// A Kubernetes Service.
    #[default]
    Kubernetes,
    /// A ServiceEntry.
    External,
}

/// Kubernetes' `trafficDistribution`, and Istio's annotation of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TrafficDistribution {
    /// All endpoints alike.
    #[default]
    Any,
    /// Those of the same zone first.
    PreferSameZone,
    /// Those of the same node first.
    PreferSameNode,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Service {
    /// The object that defines it.
    pub origin: ObjectRef,
    /// Host name.
    pub host: Hostname,
    /// Namespace of the object that defines it.
    pub namespace: Namespace,
    /// The object's own name (a Kubernetes Service's short name).
    pub name: Arc<str>,
    /// Seconds since the epoch when the object was made; breaks ties, older wins.
    pub created: i64,
    /// Ports in the order in which they are defined.
    pub ports: Vec<Port>,
    /// Virtual addresses by cluster; empty for headless services and for hosts without address. In the order in which
    /// the object lists them (the first is the primary family's).
    pub addresses: BTreeMap<ClusterId, Vec<IpAddr>>,
    /// Address ranges (a ServiceEntry's CIDRs), in order.
    pub ranges: Vec<IpNet>,
    /// Addresses that Lateen allocated to a ServiceEntry without any (`status.addresses`).
    pub auto_addresses: Vec<IpAddr>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Whether it lies outside the mesh (`MESH_EXTERNAL`).
    pub external: bool,
    /// Who may see it.
    pub export_to: ExportTo,
    /// Where it was found.
    pub registry: Registry,
    /// Labels of the object.
    pub labels: Labels,
    /// The labels that select its workloads; `None` where endpoints are listed by hand.
    pub selector: Option<crate::Selector>,
    /// Subject names that its servers may present: a ServiceEntry's `subjectAltNames`.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Service accounts (SPIFFE IDs) of its endpoints, sorted; a Service of Kubernetes may add some by annotation. Those
    /// of aliases of the trust domain are not among them.
    pub accounts: Vec<Arc<str>>,
    /// What an `Alias` stands for, and the aliases that stand for this one, sorted.
    pub alias_of: Option<Hostname>,
    /// Host names that are aliases of this service (ExternalName services), sorted.
    pub aliases: Vec<ServiceKey>,
    /// Preference among endpoints.
    pub traffic_distribution: TrafficDistribution,
    /// Only endpoints on the caller's node (`internalTrafficPolicy: Local`).
    pub node_local: bool,
    /// Whether unready endpoints are published too.
    pub publish_not_ready: bool,
    /// Addresses by which gateways of this service are reached from outside (load balancer, external IPs).
    pub external_addresses: BTreeMap<ClusterId, Vec<Arc<str>>>,
    /// Whether an address from outside is asked for (type `LoadBalancer`), be it there or not.
    pub awaits_address: bool,
    /// Ports for which a `Passthrough` service's connections go to another port than the application meant, by the
    /// service's port (a ServiceEntry's `targetPort` with resolution `NONE`).
    pub passthrough_ports: BTreeMap<u16, u16>,
    /// Services of the same host in the same namespace, of younger objects that are not like this one's: of their ports
    /// callers have listeners and virtual hosts, which lead nowhere.
    pub shadows: Vec<Shared<Service>>,
    /// Whether all addresses of a name are tried at once and the first that connects is used
    /// (`networking.istio.io/dns-connect-strategy` of a ServiceEntry).
    pub dns_first_connect: bool,
    /// Session affinity by client address (`sessionAffinity: ClientIP`).
    pub client_ip_affinity: bool,
    /// Reserved for ambient: labels of its waypoint (`istio.io/use-waypoint`).
    pub waypoint: Option<Arc<str>>,
}

impl Service {
    /// The key by which the service stands in the snapshot.
    pub fn key(&self) -> ServiceKey {
        ServiceKey {
            host: self.host.clone(),
            namespace: self.namespace.clone(),
        }
    }

    /// The port of that number.
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Whether it is a Kubernetes Service without virtual address.
    pub fn is_headless(&self) -> bool {
        self.registry == Registry::Kubernetes && self.resolution == Resolution::Passthrough
    }

    /// Whether its hosts, which its own host covers, are resolved as they are asked for.
    pub fn is_resolved_on_demand(&self) -> bool {
        self.resolution == Resolution::DynamicDns && self.host.is_wildcard()
    }

    /// Addresses as callers in this cluster see them: the cluster's own, else those of any cluster; auto-allocated
    /// ones when there are no others.
    pub fn addresses_in(&self, cluster: &ClusterId) -> &[IpAddr] {
        let own = self.addresses.get(cluster).or_else(|| self.addresses.values().next());
        match own {
            Some(addresses) if !addresses.is_empty() => addresses,
            _ if self.ranges.is_empty() => &self.auto_addresses,
            _ => &[],
        }
    }
}

/// The services of one host, of whatever namespace, without looking at those of others.
pub fn of_host<'a>(
    services: &'a Table<ServiceKey, Service>,
    host: &'a Hostname,
) -> impl Iterator<Item = (&'a ServiceKey, &'a Shared<Service>)> {
    // No namespace sorts before it.
    let first = Namespace::new("0").ok().map(|namespace| ServiceKey {
        host: host.clone(),
        namespace,
    });
    let from_first = first.into_iter().flat_map(move |first| services.range(first..));
    from_first.take_while(move |(key, _)| key.host == *host)
}
