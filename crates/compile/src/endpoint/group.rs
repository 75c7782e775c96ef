//! Endpoints on their way from the model to Envoy, grouped by place.

use std::collections::BTreeMap;

use lateen_model::Labels;
use lateen_model::endpoint::{Address, Endpoint, Health};
use lateen_names::{Locality, Network};
use lateen_proto::envoy::config::core::v3 as core;
use lateen_proto::envoy::config::endpoint::v3 as envoy;

use crate::cluster::values;

/// Endpoints of one place and priority.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) locality: Locality,
    pub(crate) priority: u32,
    pub(crate) weight: u32,
    pub(crate) members: Vec<Member>,
}

/// One endpoint, or a gateway that stands for some.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) address: Address,
    pub(crate) additional: Vec<Address>,
    pub(crate) port: u16,
    pub(crate) weight: u32,
    pub(crate) health: Health,
    /// Whether callers use mutual TLS.
    pub(crate) mtls: bool,
    /// What telemetry knows it by: `workload;namespace;canonical service;revision;cluster`.
    pub(crate) workload: String,
    pub(crate) network: Network,
    pub(crate) cluster: String,
    pub(crate) labels: Labels,
}

impl Member {
    pub(crate) fn new(endpoint: &Endpoint, mtls: bool) -> Self {
        let workload = &endpoint.workload;
        let labels = workload.labels.clone();
        Self {
            address: endpoint.address.clone(),
            additional: endpoint.additional.clone(),
            port: endpoint.port,
            weight: endpoint.weight.filter(|weight| *weight > 0).unwrap_or(1),
            health: health(endpoint),
            mtls,
            workload: telemetry_name(endpoint),
            network: workload.network.clone(),
            cluster: workload.cluster.to_string(),
            labels,
        }
    }

    fn to_envoy(&self) -> envoy::LbEndpoint {
        let mut metadata = BTreeMap::new();
        if self.mtls {
            metadata.insert(
                "envoy.transport_socket_match".to_owned(),
                values::object([("tlsMode", values::text("istio"))]),
            );
        }
        metadata.insert(
            "istio".to_owned(),
            values::object([("workload", values::text(&self.workload))]),
        );
        envoy::LbEndpoint {
            health_status: match self.health {
                Health::Healthy => core::HealthStatus::Healthy,
                Health::Unhealthy => core::HealthStatus::Unhealthy,
                Health::Draining => core::HealthStatus::Draining,
            }
            .into(),
            metadata: Some(core::Metadata {
                filter_metadata: metadata,
                ..core::Metadata::default()
            }),
            load_balancing_weight: Some(self.weight),
            host_identifier: Some(envoy::lb_endpoint::HostIdentifier::Endpoint(envoy::Endpoint {
                address: Some(address(&self.address, self.port)),
                additional_addresses: self
                    .additional
                    .iter()
                    .map(|further| envoy::endpoint::AdditionalAddress {
                        address: Some(address(further, self.port)),
                    })
                    .collect(),
                ..envoy::Endpoint::default()
            })),
        }
    }
}

impl Group {
    pub(crate) fn to_envoy(&self) -> envoy::LocalityLbEndpoints {
        envoy::LocalityLbEndpoints {
            locality: Some(core::Locality {
                region: self.locality.region.to_string(),
                zone: self.locality.zone.to_string(),
                sub_zone: self.locality.sub_zone.to_string(),
            }),
            lb_endpoints: self.members.iter().map(Member::to_envoy).collect(),
            load_balancing_weight: (self.weight > 0).then_some(self.weight),
            priority: self.priority,
            ..envoy::LocalityLbEndpoints::default()
        }
    }
}

/// Sorts members into places, in the order of the places' names.
pub(crate) fn by_place<'a>(members: impl Iterator<Item = (&'a Locality, Member)>) -> Vec<Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for (locality, member) in members {
        let group = groups.entry(locality.to_string()).or_insert_with(|| Group {
            locality: locality.clone(),
            priority: 0,
            weight: 0,
            members: Vec::new(),
        });
        group.weight = group.weight.saturating_add(member.weight);
        group.members.push(member);
    }
    groups.into_values().collect()
}

/// An address as Envoy has it.
pub(crate) fn address(address: &Address, port: u16) -> core::Address {
    let text = match address {
        Address::Ip(ip) => ip.to_string(),
        Address::Host(name) => name.to_string(),
        Address::Unix(path) => return values::pipe(path),
    };
    core::Address {
        address: Some(core::address::Address::SocketAddress(values::socket(&text, port))),
    }
}

/// An endpoint's health; a label turns a healthy one into one that only finishes what it has.
pub(crate) fn health(endpoint: &Endpoint) -> Health {
    let label = endpoint.workload.labels.get("istio.io/draining");
    if label.is_some_and(|value| !value.is_empty()) {
        Health::Draining
    } else {
        endpoint.health
    }
}

fn telemetry_name(endpoint: &Endpoint) -> String {
    let workload = &endpoint.workload;
    let label = |keys: &[&str]| {
        keys.iter()
            .find_map(|key| workload.labels.get(*key))
            .map(|value| value.to_string())
    };
    let service = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
        .unwrap_or_else(|| workload.workload_name.to_string());
    let revision = label(&[
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ])
    .filter(|revision| revision != "latest")
    .unwrap_or_default();
    format!(
        "{};{};{service};{revision};{}",
        workload.workload_name, workload.namespace, workload.cluster
    )
}
