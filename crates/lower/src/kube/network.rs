//! Networks: which one a workload is on, and by which gateways the others are reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lateen_model::mesh::{Mesh, NetworkGateway};
use lateen_model::{Labels, Service};
use lateen_names::{ClusterId, Hostname, Network};

use super::service::ServiceFacts;

/// The port on which gateways take mutual TLS from other networks, where their Service does not say another.
const GATEWAY_PORT: u16 = 15443;

/// A service that MeshNetworks calls a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GatewayService {
    /// The network that it leads to.
    pub network: Network,
    /// Its host.
    pub host: Hostname,
    /// Its port.
    pub port: u16,
    /// The clusters in which it is looked for.
    pub registries: Vec<Arc<str>>,
}

/// The network of a workload: by its own label, by its cluster's system namespace, by MeshNetworks.
pub(crate) fn network_of(
    cluster: &ClusterId,
    address: Option<IpAddr>,
    labels: &Labels,
    of_namespace: Option<&Network>,
    mesh: &Mesh,
) -> Network {
    let of_label = labels.get("topology.istio.io/network").filter(|text| !text.is_empty());
    if let Some(network) = of_label.and_then(|text| Network::new(text).ok()) {
        return network;
    }
    if let Some(network) = of_namespace {
        return network.clone();
    }
    let by_cluster = mesh
        .networks
        .iter()
        .find(|(_, info)| info.registries.iter().any(|id| **id == *cluster.as_str()));
    if let Some((network, _)) = by_cluster {
        return network.clone();
    }
    let containing = mesh.networks.iter().flat_map(|(network, info)| {
        let ranges = info
            .ranges
            .iter()
            .filter(|range| address.is_some_and(|address| range.contains(&address)));
        ranges.map(move |range| (range.prefix_len(), network))
    });
    containing.min().map_or_else(unnamed, |(_, network)| network.clone())
}

/// The network that has no name.
pub(crate) fn unnamed() -> Network {
    Network::default()
}

/// The gateways that a Service is, in one cluster: by its label, or because MeshNetworks names it.
pub(crate) fn gateways_of(
    facts: &ServiceFacts,
    service: &Service,
    cluster: &ClusterId,
    named: &[GatewayService],
    nodes: &BTreeMap<Arc<str>, super::pod::NodeFacts>,
) -> BTreeSet<NetworkGateway> {
    let mut ports: Vec<(Network, u16)> = Vec::new();
    match facts
        .labels
        .get("topology.istio.io/network")
        .filter(|text| !text.is_empty())
    {
        Some(text) => {
            let port = facts
                .labels
                .get("networking.istio.io/gatewayPort")
                .and_then(|text| text.parse().ok());
            let port = port.unwrap_or(GATEWAY_PORT);
            if let (Ok(network), true) = (Network::new(text), service.port(port).is_some()) {
                ports.push((network, port));
            }
        }
        None => ports.extend(
            named
                .iter()
                .filter(|gateway| gateway.host == service.host)
                .filter(|gateway| gateway.registries.iter().any(|id| **id == *cluster.as_str()))
                .map(|gateway| (gateway.network.clone(), gateway.port)),
        ),
    }
    if ports.is_empty() {
        return BTreeSet::new();
    }
    let by_node = facts.node_selector.as_ref().map(|selector| {
        let selected = nodes.values().filter(|node| {
            selector
                .iter()
                .all(|(name, value)| node.labels.get(name) == Some(value))
        });
        selected
            .filter_map(|node| node.external_address.clone())
            .collect::<Vec<_>>()
    });
    let node_port = |port: u16| {
        let mapped = facts
            .ports
            .iter()
            .find(|candidate| candidate.port.number == port)
            .and_then(|port| port.node_port);
        mapped.filter(|_| by_node.is_some()).unwrap_or(port)
    };
    let addresses = by_node.as_deref().unwrap_or(&facts.external_addresses);
    let gateway = |(network, port): &(Network, u16), address: &Arc<str>| NetworkGateway {
        network: network.clone(),
        cluster: Some(cluster.as_str().into()),
        address: address.clone(),
        port: node_port(*port),
    };
    addresses
        .iter()
        .flat_map(|address| ports.iter().map(move |port| gateway(port, address)))
        .collect()
}
