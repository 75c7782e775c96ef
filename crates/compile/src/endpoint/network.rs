//! Endpoints on other networks, which are reached through those networks' gateways.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lateen_model::Shared;
use lateen_model::endpoint::Address;
use lateen_model::mesh::NetworkGateway;
use lateen_model::proxy::IpFamilies;
use lateen_names::Network;

use super::group::{Group, Member};

/// What a caller knows of networks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Networks {
    /// The caller's own; may be unknown (empty).
    pub(crate) own: Network,
    /// All gateways, sorted.
    pub(crate) gateways: Shared<Vec<NetworkGateway>>,
    /// Whether gateways known by name only can be used: the proxy resolves names of clusters with inline endpoints.
    pub(crate) by_name: bool,
    /// Which of them the caller can reach.
    pub(crate) families: IpFamilies,
}

impl Networks {
    fn usable(&self) -> Vec<&NetworkGateway> {
        let mut gateways: Vec<_> = self
            .gateways
            .iter()
            .filter(|gateway| self.by_name || gateway.address.parse::<IpAddr>().is_ok())
            .collect();
        gateways.sort_by(|a, b| (&a.address, a.port).cmp(&(&b.address, b.port)));
        gateways.dedup();
        gateways
    }

    fn reachable(&self, gateway: &NetworkGateway) -> bool {
        match gateway.address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => self.families.v4(),
            Ok(IpAddr::V6(_)) => self.families.v6(),
            // The name may stand for either family.
            Err(_) => self.families.v4() && self.families.v6(),
        }
    }
}

/// Replaces endpoints on other networks by those networks' gateways. A gateway gets the weight of what is behind it;
/// weights are scaled so that they divide evenly among the gateways of a network. Through a gateway, only endpoints
/// that take mutual TLS can be told apart (by SNI), so others are dropped.
pub(crate) fn apply(groups: Vec<Group>, networks: &Networks) -> Vec<Group> {
    let gateways = networks.usable();
    if gateways.is_empty() {
        return groups;
    }
    let scale = scale(&gateways);
    groups
        .into_iter()
        .map(|group| {
            let mut kept = Vec::with_capacity(group.members.len());
            let mut weights: BTreeMap<(&str, u16), (u32, &NetworkGateway)> = BTreeMap::new();
            for mut member in group.members {
                member.weight = member.weight.max(1).saturating_mul(scale);
                let there = toward(&gateways, &member);
                let unknown_here = networks.own.as_str().is_empty() && !member.network.as_str().is_empty();
                // A caller that does not know its network goes through a gateway wherever there is one.
                let direct = same_network(&networks.own, &member.network) && !unknown_here;
                if direct || there.is_empty() {
                    kept.push(member);
                    continue;
                }
                let there: Vec<_> = there
                    .into_iter()
                    .filter(|gateway| networks.reachable(gateway))
                    .collect();
                let Ok(count) = u32::try_from(there.len()) else {
                    continue;
                };
                if count == 0 || !member.mtls {
                    continue;
                }
                for gateway in there {
                    let entry = weights.entry((&gateway.address, gateway.port)).or_insert((0, gateway));
                    entry.0 = entry.0.saturating_add(member.weight / count);
                }
            }
            kept.extend(
                weights
                    .into_values()
                    .map(|(weight, gateway)| as_member(gateway, weight)),
            );
            Group {
                weight: kept
                    .iter()
                    .fold(0, |sum: u32, member| sum.saturating_add(member.weight)),
                members: kept,
                ..group
            }
        })
        .collect()
}

fn same_network(a: &Network, b: &Network) -> bool {
    a.as_str().is_empty() || b.as_str().is_empty() || a == b
}

/// The gateways into an endpoint's network that are in its cluster, else all gateways into its network.
fn toward<'a>(gateways: &[&'a NetworkGateway], member: &Member) -> Vec<&'a NetworkGateway> {
    let into: Vec<&NetworkGateway> = gateways
        .iter()
        .copied()
        .filter(|gateway| gateway.network == member.network)
        .collect();
    let near: Vec<&NetworkGateway> = into
        .iter()
        .copied()
        .filter(|gateway| gateway.cluster.as_deref() == Some(member.cluster.as_str()))
        .collect();
    if near.is_empty() { into } else { near }
}

/// The least common multiple of how many gateways there are per network, and per network and cluster.
fn scale(gateways: &[&NetworkGateway]) -> u32 {
    let mut counts: BTreeMap<(&Network, Option<&str>), u32> = BTreeMap::new();
    for gateway in gateways {
        *counts.entry((&gateway.network, None)).or_default() += 1;
        let cluster = Some(gateway.cluster.as_deref().unwrap_or_default());
        *counts.entry((&gateway.network, cluster)).or_default() += 1;
    }
    counts.into_values().fold(1, |lcm: u32, count| {
        let (mut a, mut b) = (lcm, count);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        lcm.saturating_mul(count / a.max(1))
    })
}

fn as_member(gateway: &NetworkGateway, weight: u32) -> Member {
    let cluster = gateway.cluster.clone().unwrap_or_else(|| "".into());
    let mut labels = lateen_model::Labels::new();
    labels.insert("topology.istio.io/network".into(), gateway.network.as_str().into());
    if !cluster.is_empty() {
        labels.insert("topology.istio.io/cluster".into(), cluster.clone());
    }
    let address = match gateway.address.parse() {
        Ok(ip) => Address::Ip(ip),
        Err(_) => Address::Host(gateway.address.clone()),
    };
    Member {
        address,
        additional: Vec::new(),
        port: gateway.port,
        weight,
        health: lateen_model::endpoint::Health::Healthy,
        mtls: true,
        workload: format!(";;;;{cluster}"),
        network: gateway.network.clone(),
        cluster: cluster.to_string(),
        labels,
    }
}
