//! What a host means in a pod.

use std::net::{IpAddr, Ipv4Addr};

use lateen_model::endpoint::{Address, Endpoint, Health};
use lateen_model::service::{Registry, Resolution};
use lateen_model::{Proxy, Service, Snapshot};
use lateen_names::Hostname;
use serde::Serialize;

/// Stands for an address that only DNS outside of the mesh knows (TEST-NET-3).
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
/// How often a name may stand for another.
const ALIASES: usize = 8;
/// Names with at least as many dots are tried as they are first (`ndots` of Kubernetes).
const DOTS: usize = 5;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Resolved {
    /// Address.
    pub(super) address: IpAddr,
    /// Who says so.
    pub(super) how: String,
}

pub(super) fn resolve(snapshot: &Snapshot, proxy: &Proxy, domain: &str, host: &str) -> Resolved {
    if let Ok(address) = host.parse() {
        return Resolved {
            address,
            how: "an address".to_owned(),
        };
    }
    let found = candidates(host, proxy.namespace.as_str(), domain)
        .iter()
        .find_map(|name| in_mesh(snapshot, proxy, name, ALIASES));
    found.unwrap_or_else(|| Resolved {
        address: OUTSIDE,
        how: "no name of the mesh: 203.0.113.1 stands for what DNS outside says (--address names it)".to_owned(),
    })
}

/// The names that a resolver tries in turn.
fn candidates(host: &str, namespace: &str, domain: &str) -> Vec<String> {
    if let Some(full) = host.strip_suffix('.') {
        return vec![full.to_owned()];
    }
    let mut all: Vec<String> = [
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.to_owned(),
    ]
    .iter()
    .map(|suffix| format!("{host}.{suffix}"))
    .collect();
    let at = if host.matches('.').count() >= DOTS {
        0
    } else {
        all.len()
    };
    all.insert(at, host.to_owned());
    all
}

fn in_mesh(snapshot: &Snapshot, proxy: &Proxy, name: &str, left: usize) -> Option<Resolved> {
    let services = || snapshot.services.values();
    let kubernetes = services().find(|one| one.registry == Registry::Kubernetes && one.host.as_str() == name);
    if let Some(service) = kubernetes {
        return of_service(snapshot, proxy, service, left);
    }
    if let Some(found) = of_pod(snapshot, proxy, name) {
        return Some(found);
    }
    let mut entries: Vec<_> = services()
        .filter(|one| one.registry == Registry::External)
        .filter(|one| Hostname::lower(name).is_ok_and(|name| one.host.covers(&name)))
        .collect();
    entries.sort_by_key(|one| one.host.is_wildcard());
    let entry = entries.first()?;
    let address = address_for(proxy, entry.addresses_in(&proxy.cluster))?;
    let own = !entry.auto_addresses.contains(&address);
    // An address of Lateen's own is told by the agent alone.
    (own || proxy.options.dns_capture).then(|| Resolved {
        address,
        how: if own {
            format!("the address that {} lists", entry.origin)
        } else {
            format!("the address that was made for {}", entry.origin)
        },
    })
}

fn address_for(proxy: &Proxy, addresses: &[IpAddr]) -> Option<IpAddr> {
    let v4 = proxy.addresses.first().is_none_or(IpAddr::is_ipv4);
    let fitting = addresses.iter().find(|address| address.is_ipv4() == v4);
    fitting.or(addresses.first()).copied()
}

fn of_service(snapshot: &Snapshot, proxy: &Proxy, service: &Service, left: usize) -> Option<Resolved> {
    if service.resolution == Resolution::Alias {
        let stands_for = service.alias_of.as_ref()?.as_str();
        let mut found = in_mesh(snapshot, proxy, stands_for, left.checked_sub(1)?).unwrap_or_else(|| Resolved {
            address: OUTSIDE,
            how: format!("{stands_for}, whose address DNS outside says"),
        });
        found.how = format!("{} stands for {}", service.origin, found.how);
        return Some(found);
    }
    if let Some(address) = address_for(proxy, service.addresses_in(&proxy.cluster)) {
        return Some(Resolved {
            address,
            how: format!("the address of {}", service.origin),
        });
    }
    let ready = pods(snapshot, service).filter(|pod| pod.health == Health::Healthy || service.publish_not_ready);
    let addresses: Vec<IpAddr> = ready.filter_map(ip).collect();
    let address = address_for(proxy, &addresses)?;
    let count = addresses.iter().collect::<std::collections::BTreeSet<_>>().len();
    Some(Resolved {
        address,
        how: format!("{} is headless: the first of {count} pods", service.origin),
    })
}

/// A pod of a headless service by its own name, `<host name>.<service>`.
fn of_pod(snapshot: &Snapshot, proxy: &Proxy, name: &str) -> Option<Resolved> {
    let (pod_name, service_name) = name.split_once('.')?;
    let service = snapshot
        .services
        .values()
        .find(|one| one.is_headless() && one.host.as_str() == service_name)?;
    let addresses: Vec<IpAddr> = pods(snapshot, service)
        .filter(|pod| pod.workload.hostname.as_deref() == Some(pod_name))
        .filter_map(ip)
        .collect();
    Some(Resolved {
        address: address_for(proxy, &addresses)?,
        how: format!("a pod of the headless {}", service.origin),
    })
}

fn pods<'a>(snapshot: &'a Snapshot, service: &Service) -> impl Iterator<Item = &'a Endpoint> {
    let endpoints = snapshot.endpoints.get(&service.key());
    endpoints.into_iter().flat_map(|all| all.by_port.values().flatten())
}

fn ip(endpoint: &Endpoint) -> Option<IpAddr> {
    match &endpoint.address {
        Address::Ip(ip) => Some(*ip),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_tried_in_the_pod_s_namespace_first() {
        assert_eq!(
            candidates("a", "shop", "cluster.local"),
            [
                "a.shop.svc.cluster.local",
                "a.svc.cluster.local",
                "a.cluster.local",
                "a"
            ]
        );
        assert_eq!(candidates("a.b.", "shop", "cluster.local"), ["a.b"]);
        let full = candidates("a.b.c.d.e.f", "shop", "cluster.local");
        assert_eq!(full[0], "a.b.c.d.e.f");
    }
}
