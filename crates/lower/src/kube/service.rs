//! Facts about Services, and what they become.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lateen_model::mesh::Mesh;
use lateen_model::service::{Port, Protocol, Registry, Resolution, TrafficDistribution};
use lateen_model::{self as model, ExportTo, Labels, Selector, ServiceKey};
use lateen_names::{ClusterId, Hostname, Namespace, ObjectKey};

use super::protocol;
use crate::Kind;
use crate::context::{Context, created, export_to, labels};

/// What matters of a Service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceFacts {
    pub key: ObjectKey,
    pub namespace: Namespace,
    pub created: i64,
    pub labels: Labels,
    pub ports: Vec<ServicePort>,
    /// In order, first the primary one; empty for headless services.
    pub addresses: Vec<IpAddr>,
    pub resolution: Resolution,
    /// The name that an ExternalName service stands for.
    pub external_name: Option<Hostname>,
    pub export_to: Option<ExportTo>,
    pub selector: Option<Selector>,
    /// `spec.trafficDistribution`, else the annotation; `None` where the namespace's annotation decides.
    pub traffic_distribution: Option<TrafficDistribution>,
    pub node_local: bool,
    pub publish_not_ready: bool,
    pub client_ip_affinity: bool,
    pub external_addresses: Vec<Arc<str>>,
    /// Whether its type is `LoadBalancer`.
    pub load_balancer: bool,
    /// Full identities, by annotation.
    pub canonical_accounts: Vec<Arc<str>>,
    /// Names of service accounts in the service's namespace, by annotation.
    pub kubernetes_accounts: Vec<Arc<str>>,
    /// Nodes by which a NodePort gateway is reached (`traffic.istio.io/nodeSelector`).
    pub node_selector: Option<Labels>,
    pub waypoint: Option<Arc<str>>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServicePort {
    pub port: Port,
    pub transport: Arc<str>,
    pub target: Target,
    pub node_port: Option<u16>,
}

/// Where a port leads at the workload.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Target {
    Number(u16),
    Name(Arc<str>),
}

impl ServiceFacts {
    pub(crate) fn new(service: &Service, key: &ObjectKey) -> Option<Self> {
        let namespace = key.namespace.clone()?;
        let spec = service.spec.clone().unwrap_or_default();
        let annotation = |name: &str| {
            let value = service.metadata.annotations.as_ref().and_then(|all| all.get(name));
            value.map(String::as_str).filter(|text| !text.is_empty())
        };
        let list = |name: &str| -> Vec<Arc<str>> {
            annotation(name)
                .map(|text| text.split(',').map(|part| part.trim().into()).collect())
                .unwrap_or_default()
        };
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        let external_name = spec.external_name.as_deref().filter(|_| kind == "ExternalName");
        let external_name = external_name.and_then(|name| Hostname::lower(name.trim_end_matches('.')).ok());
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let cluster_ips = spec.cluster_ips.as_deref().unwrap_or_default();
        let mut addresses: Vec<IpAddr> = Vec::new();
        if !headless {
            let single = spec.cluster_ip.as_slice();
            let texts = if cluster_ips.len() > 1 || single.is_empty() {
                cluster_ips
            } else {
                single
            };
            addresses.extend(texts.iter().filter_map(|text| text.parse::<IpAddr>().ok()));
        }
        let mut external_addresses: Vec<Arc<str>> = Vec::new();
        if kind == "LoadBalancer" {
            let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            for ingress in status.and_then(|status| status.ingress.as_ref()).into_iter().flatten() {
                let ip = ingress.ip.as_deref().filter(|text| !text.is_empty());
                external_addresses.extend(ip.or(ingress.hostname.as_deref()).map(Arc::from));
            }
        }
        external_addresses.extend(spec.external_ips.iter().flatten().map(|text| Arc::from(text.as_str())));
        let selector = labels(spec.selector.as_ref());
        let node_selector = (kind == "NodePort")
            .then(|| annotation("traffic.istio.io/nodeSelector"))
            .flatten();
        Some(Self {
            created: created(&service.metadata),
            labels: labels(service.metadata.labels.as_ref()),
            ports: spec.ports.iter().flatten().filter_map(port).collect(),
            addresses,
            resolution: match () {
                () if headless => Resolution::Passthrough,
                () if external_name.is_some() => Resolution::Alias,
                () => Resolution::Static,
            },
            external_name,
            export_to: annotation("networking.istio.io/exportTo")
                .and_then(|text| export_to(&text.split(',').collect::<Vec<_>>(), &namespace)),
            // An empty selector selects nothing: endpoints are then listed by hand.
            selector: (!selector.is_empty()).then_some(Selector { labels: selector }),
            traffic_distribution: traffic_distribution(
                spec.traffic_distribution.as_deref(),
                annotation("networking.istio.io/traffic-distribution"),
            ),
            node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
            client_ip_affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
            external_addresses,
            load_balancer: kind == "LoadBalancer",
            canonical_accounts: list("alpha.istio.io/canonical-serviceaccounts"),
            kubernetes_accounts: list("alpha.istio.io/kubernetes-serviceaccounts"),
            node_selector: node_selector
                .map(|text| serde_json::from_str::<BTreeMap<String, String>>(text).unwrap_or_default())
                .map(|map| labels(Some(&map))),
            waypoint: service
                .metadata
                .labels
                .as_ref()
                .and_then(|all| all.get("istio.io/use-waypoint"))
                .map(|name| name.as_str().into()),
            namespace,
            key: key.clone(),
        })
    }

    /// The port of that name, or else of that number, as Istio looks up what a WorkloadEntry serves.
    pub(crate) fn port_like(&self, port: &Port) -> Option<&ServicePort> {
        self.ports
            .iter()
            .find(|candidate| candidate.port.name == port.name || candidate.port.number == port.number)
    }

    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        self.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }

    /// Whether endpoints that shut down are kept for the sessions that they hold.
    pub(crate) fn keeps_draining(&self) -> bool {
        let set = |name| self.labels.get(name).is_some_and(|value: &Arc<str>| !value.is_empty());
        set("istio.io/persistent-session") || set("istio.io/persistent-session-header")
    }

    /// The service as the model has it: without what its endpoints and other clusters add.
    pub(crate) fn lower(
        &self,
        key: ServiceKey,
        cluster: &ClusterId,
        nearby: TrafficDistribution,
        mesh: &Mesh,
    ) -> model::Service {
        let context = Context { mesh };
        let accounts = self.kubernetes_accounts.iter().map(|account| {
            Arc::from(format!(
                "spiffe://{}/ns/{}/sa/{account}",
                mesh.trust_domain, self.namespace
            ))
        });
        model::Service {
            origin: Kind::Service.reference(self.key.clone()),
            host: key.host,
            namespace: self.namespace.clone(),
            name: self.key.name.as_str().into(),
            created: self.created,
            ports: self.ports.iter().map(|port| port.port.clone()).collect(),
            addresses: BTreeMap::from([(cluster.clone(), self.addresses.clone())]),
            ranges: Vec::new(),
            auto_addresses: Vec::new(),
            resolution: self.resolution,
            external: self.external_name.is_some(),
            export_to: match &self.export_to {
                Some(export_to) => export_to.clone(),
                None => context.export_to::<&str>(&[], &self.namespace, &mesh.default_service_export_to),
            },
            registry: Registry::Kubernetes,
            labels: self.labels.clone(),
            selector: self.selector.clone(),
            subject_alt_names: Vec::new(),
            accounts: self.canonical_accounts.iter().cloned().chain(accounts).collect(),
            alias_of: None,
            aliases: Vec::new(),
            traffic_distribution: self.traffic_distribution.unwrap_or(nearby),
            node_local: self.node_local,
            publish_not_ready: self.publish_not_ready,
            external_addresses: match self.external_addresses.is_empty() {
                true => BTreeMap::new(),
                false => BTreeMap::from([(cluster.clone(), self.external_addresses.clone())]),
            },
            passthrough_ports: BTreeMap::new(),
            shadows: Vec::new(),
            dns_first_connect: false,
            awaits_address: self.load_balancer,
            client_ip_affinity: self.client_ip_affinity,
            waypoint: self.waypoint.clone(),
        }
    }
}

fn port(port: &k8s_openapi::api::core::v1::ServicePort) -> Option<ServicePort> {
    let number = u16::try_from(port.port).ok()?;
    let name = port.name.as_deref().unwrap_or_default();
    let transport = port
        .protocol
        .as_deref()
        .filter(|text| !text.is_empty())
        .unwrap_or("TCP");
    let protocol: Protocol = protocol::of_service_port(number, name, transport, port.app_protocol.as_deref());
    let target = match &port.target_port {
        Some(IntOrString::Int(target)) if *target != 0 => Target::Number(u16::try_from(*target).ok()?),
        Some(IntOrString::String(name)) if !name.is_empty() => match name.parse::<u16>() {
            Ok(number) if number != 0 => Target::Number(number),
            _ => Target::Name(name.as_str().into()),
        },
        _ => Target::Number(number),
    };
    Some(ServicePort {
        port: Port {
            number,
            name: name.into(),
            protocol,
        },
        transport: transport.into(),
        target,
        node_port: port
            .node_port
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0),
    })
}

/// What the object says: its field where it has a value that is known, else its annotation.
pub(crate) fn traffic_distribution(field: Option<&str>, annotation: Option<&str>) -> Option<TrafficDistribution> {
    match field {
        Some("PreferClose" | "PreferSameZone") => return Some(TrafficDistribution::PreferSameZone),
        Some("PreferSameNode") => return Some(TrafficDistribution::PreferSameNode),
        _ => {}
    }
    Some(match annotation?.to_ascii_lowercase().as_str() {
        "preferclose" | "prefersamezone" => TrafficDistribution::PreferSameZone,
        "prefersamenode" => TrafficDistribution::PreferSameNode,
        _ => TrafficDistribution::Any,
    })
}
