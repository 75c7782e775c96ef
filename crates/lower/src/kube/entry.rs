//! Facts about ServiceEntries, and what they become.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use lateen_api::networking::service_entry::{Location, Resolution as ApiResolution, ServiceEntry};
use lateen_model::mesh::Mesh;
use lateen_model::service::{Port, Registry, Resolution, TrafficDistribution};
use lateen_model::{self as model, Diagnostic, ExportTo, Labels, Selector, ServiceKey, Severity};
use lateen_names::{ClusterId, Hostname, Namespace, ObjectKey};

use super::protocol;
use super::service::traffic_distribution;
use super::workload::WorkloadFacts;
use crate::Kind;
use crate::context::{Context, created, diagnostic, export_to, labels};

/// What matters of a ServiceEntry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EntryFacts {
    pub key: ObjectKey,
    pub namespace: Namespace,
    pub created: i64,
    pub labels: Labels,
    pub hosts: Vec<Hostname>,
    pub addresses: Vec<IpAddr>,
    pub ranges: Vec<IpNet>,
    /// Allocated addresses by host.
    pub allocated: BTreeMap<Hostname, Vec<IpAddr>>,
    pub ports: Vec<EntryPort>,
    pub resolution: Resolution,
    pub external: bool,
    pub export_to: Option<ExportTo>,
    /// Selects pods and WorkloadEntries of its namespace; with it, `endpoints` is empty.
    pub selector: Option<Selector>,
    pub endpoints: Vec<WorkloadFacts>,
    pub subject_alt_names: Vec<Arc<str>>,
    pub traffic_distribution: Option<TrafficDistribution>,
    pub dns_first_connect: bool,
    pub diagnostics: Vec<Diagnostic>,
}

/// A port of a ServiceEntry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EntryPort {
    pub port: Port,
    pub target: Option<u16>,
}

impl EntryFacts {
    pub(crate) fn new(entry: &ServiceEntry, key: &ObjectKey) -> Option<Self> {
        let namespace = key.namespace.clone()?;
        let origin = Kind::ServiceEntry.reference(key.clone());
        let spec = &entry.spec;
        let mut diagnostics = Vec::new();
        let mut error = |field: String, message: String| {
            diagnostics.push(diagnostic(&origin, &field, Severity::Error, "IST0106", &message));
        };
        let mut hosts: Vec<Hostname> = Vec::new();
        for (index, text) in spec.hosts.iter().enumerate() {
            match Hostname::lower(text) {
                Ok(host) if !hosts.contains(&host) => hosts.push(host),
                Ok(_) => {}
                Err(invalid) => error(
                    format!("spec.hosts[{index}]"),
                    format!("{invalid}; the host is left out"),
                ),
            }
        }
        let (mut addresses, mut ranges) = (Vec::new(), Vec::new());
        for (index, text) in spec.addresses.iter().enumerate() {
            match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
                (Ok(address), _) => addresses.push(address),
                (_, Ok(range)) if range.prefix_len() == range.max_prefix_len() => addresses.push(range.addr()),
                (_, Ok(range)) => ranges.push(range),
                _ => error(
                    format!("spec.addresses[{index}]"),
                    format!("`{text}` is neither an IP address nor a range such as 10.0.0.0/8; it is left out"),
                ),
            }
        }
        let mut ports = Vec::new();
        for (index, port) in spec.ports.iter().enumerate() {
            match u16::try_from(port.number) {
                Ok(number) if number != 0 => ports.push(EntryPort {
                    port: Port {
                        number,
                        name: port.name.as_str().into(),
                        protocol: protocol::parse(&port.protocol),
                    },
                    target: u16::try_from(port.target_port).ok().filter(|target| *target != 0),
                }),
                _ => error(
                    format!("spec.ports[{index}].number"),
                    format!("{} is not a port; give a number from 1 to 65535", port.number),
                ),
            }
        }
        let resolution = match spec.resolution {
            ApiResolution::None => Resolution::Passthrough,
            ApiResolution::Static => Resolution::Static,
            ApiResolution::Dns => Resolution::Dns,
            ApiResolution::DnsRoundRobin => Resolution::DnsRoundRobin,
            ApiResolution::DynamicDns => Resolution::DynamicDns,
        };
        let annotation = |name: &str| {
            entry
                .metadata
                .annotations
                .as_ref()
                .and_then(|all| all.get(name))
                .map(String::as_str)
                .filter(|t| !t.is_empty())
        };
        let selector = spec.workload_selector.as_ref().map(|selector| Selector {
            labels: labels(Some(&selector.labels)),
        });
        let endpoints = spec
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| WorkloadFacts::inline(endpoint, &namespace, &format!("{}-{index}", key.name)));
        Some(Self {
            created: created(&entry.metadata),
            labels: labels(entry.metadata.labels.as_ref()),
            allocated: allocated(entry),
            addresses,
            ranges,
            resolution,
            external: spec.location == Location::MeshExternal,
            export_to: export_to(&spec.export_to, &namespace),
            endpoints: if selector.is_some() {
                Vec::new()
            } else {
                endpoints.collect()
            },
            selector,
            subject_alt_names: spec.subject_alt_names.iter().map(|name| name.as_str().into()).collect(),
            traffic_distribution: traffic_distribution(None, annotation("networking.istio.io/traffic-distribution")),
            dns_first_connect: annotation("istio.io/connect-strategy")
                .is_some_and(|text| text.eq_ignore_ascii_case("RACE_FIRST_TCP_CONNECT")),
            hosts,
            ports,
            namespace,
            key: key.clone(),
            diagnostics,
        })
    }

    /// The keys of the services that it defines.
    pub(crate) fn services(&self) -> impl Iterator<Item = ServiceKey> {
        self.hosts.iter().map(|host| ServiceKey {
            host: host.clone(),
            namespace: self.namespace.clone(),
        })
    }

    /// Whether the proxies resolve the endpoints' names.
    pub(crate) fn is_dns(&self) -> bool {
        matches!(self.resolution, Resolution::Dns | Resolution::DnsRoundRobin)
    }

    /// One of its services as the model has it: without what its endpoints add.
    pub(crate) fn lower(
        &self,
        key: &ServiceKey,
        cluster: &ClusterId,
        nearby: TrafficDistribution,
        mesh: &Mesh,
    ) -> model::Service {
        let context = Context { mesh };
        let automatic = mesh.feature("PILOT_ENABLE_IP_AUTOALLOCATE", true)
            && self.addresses.is_empty()
            && self.ranges.is_empty()
            && self.resolution != Resolution::Passthrough
            && !self
                .labels
                .get("networking.istio.io/enable-autoallocate-ip")
                .is_some_and(|v| v.eq_ignore_ascii_case("false"));
        let passthrough = self.resolution == Resolution::Passthrough;
        model::Service {
            origin: Kind::ServiceEntry.reference(self.key.clone()),
            host: key.host.clone(),
            namespace: self.namespace.clone(),
            name: self.key.name.as_str().into(),
            created: self.created,
            ports: self.ports.iter().map(|port| port.port.clone()).collect(),
            addresses: match self.addresses.is_empty() {
                true => BTreeMap::new(),
                false => BTreeMap::from([(cluster.clone(), self.addresses.clone())]),
            },
            ranges: self.ranges.clone(),
            auto_addresses: self
                .allocated
                .get(&key.host)
                .filter(|_| automatic)
                .cloned()
                .unwrap_or_default(),
            resolution: self.resolution,
            shadows: Vec::new(),
            passthrough_ports: match passthrough {
                true => self
                    .ports
                    .iter()
                    .filter_map(|port| Some((port.port.number, port.target?)))
                    .collect(),
                false => BTreeMap::new(),
            },
            dns_first_connect: self.dns_first_connect,
            external: self.external,
            export_to: match &self.export_to {
                Some(export_to) => export_to.clone(),
                None => context.export_to::<&str>(&[], &self.namespace, &mesh.default_service_export_to),
            },
            registry: Registry::External,
            labels: self.labels_with_canonical(mesh),
            selector: self.selector.clone(),
            subject_alt_names: self.subject_alt_names.clone(),
            accounts: Vec::new(),
            alias_of: None,
            aliases: Vec::new(),
            traffic_distribution: self.traffic_distribution.unwrap_or(nearby),
            node_local: false,
            publish_not_ready: false,
            external_addresses: BTreeMap::new(),
            awaits_address: false,
            client_ip_affinity: false,
            waypoint: self.labels.get("istio.io/use-waypoint").cloned(),
        }
    }

    /// Istio can be told to label external services as if they were workloads, for telemetry.
    fn labels_with_canonical(&self, mesh: &Mesh) -> Labels {
        let mut labels = self.labels.clone();
        if self.external && mesh.feature("LABEL_CANONICAL_SERVICES_FOR_MESH_EXTERNAL_SERVICE_ENTRIES", false) {
            let (name, revision) = canonical(&labels, self.key.name.as_str());
            labels.insert("service.istio.io/canonical-name".into(), name);
            labels.insert("service.istio.io/canonical-revision".into(), revision);
        }
        labels
    }
}

/// Canonical service and revision of a workload by its labels, for telemetry.
pub(crate) fn canonical(labels: &Labels, workload: &str) -> (Arc<str>, Arc<str>) {
    let first = |names: &[&str]| names.iter().find_map(|name| labels.get(*name).cloned());
    let name = first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision = first(&[
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ]);
    (
        name.unwrap_or_else(|| workload.into()),
        revision.unwrap_or_else(|| "latest".into()),
    )
}

/// The addresses in its status, IPv4 before IPv6, by host.
fn allocated(entry: &ServiceEntry) -> BTreeMap<Hostname, Vec<IpAddr>> {
    let mut allocated: BTreeMap<Hostname, Vec<IpAddr>> = BTreeMap::new();
    for address in entry.status.iter().flat_map(|status| &status.addresses) {
        if let (Ok(host), Ok(ip)) = (Hostname::lower(&address.host), address.value.parse::<IpAddr>()) {
            allocated.entry(host).or_default().push(ip);
        }
    }
    for addresses in allocated.values_mut() {
        addresses.sort();
        addresses.dedup();
    }
    allocated
}
