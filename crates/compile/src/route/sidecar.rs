//! Route tables of sidecars: one per HTTP port, one per sniffed service.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use lateen_model::route::GatewayRef;
use lateen_model::route::{Semantics, VirtualService};
use lateen_model::service::{Port, Registry, Resolution};
use lateen_model::sidecar::OutboundPolicy;
use lateen_model::{Service, Shared, Snapshot};
use lateen_names::{Hostname, Namespace};

use super::Input;
use super::http::{Routes, VirtualHost, fallback};
use super::select::{RouteSource, service_hash};
use crate::facts::OutboundFacts;
use crate::listener::plan;
use crate::scope::EgressScope;
use crate::{Scope, names};

/// Hosts of VirtualServices that no service has are served on the standard port only.
const UNKNOWN_HOST_PORT: u16 = 80;

/// One table for each name that the class's listeners ask for.
pub(super) fn select(snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Vec<Input> {
    let mut tables: BTreeMap<Arc<str>, (usize, u16)> = BTreeMap::new();
    for planned in plan::plan(snapshot, &scope.egress, facts, &[]) {
        if let Some(name) = planned.routes {
            // A table has one name whichever listener asks for it; the egress listener that names the port decides.
            let chosen = (planned.egress, planned.port);
            let names_port = |egress: usize| {
                let egress = scope.egress[egress].egress.as_ref();
                egress.is_some_and(|egress| egress.port.is_some())
            };
            let table = tables.entry(name).or_insert(chosen);
            if names_port(chosen.0) && !names_port(table.0) {
                *table = chosen;
            }
        }
    }
    let mut by_port: BTreeMap<(usize, u16), Vec<VirtualHost>> = BTreeMap::new();
    let mut inputs = Vec::new();
    for (name, (egress, port)) in tables {
        let hosts = by_port
            .entry((egress, port))
            .or_insert_with(|| virtual_hosts(&scope.egress[egress], port, scope, facts));
        let sniffed = name.parse::<u16>().is_err() && port != 0;
        let hosts = if sniffed {
            sniffed_hosts(hosts, &name)
        } else {
            shared_hosts(hosts, snapshot, scope, facts)
        };
        inputs.push(Input {
            name,
            hosts,
            ignore_port: true,
            mesh: snapshot.mesh.clone(),
        });
    }
    inputs
}

/// A sniffed service has a listener of its own, so whatever host is asked for, it is meant.
fn sniffed_hosts(hosts: &[VirtualHost], table: &str) -> Vec<VirtualHost> {
    let host = table.rsplit_once(':').map_or(table, |(host, _)| host);
    let mut own: Vec<VirtualHost> = hosts
        .iter()
        .filter(|vh| vh.domains.iter().any(|domain| **domain == *host || **domain == *table))
        .cloned()
        .collect();
    if let [only] = own.as_mut_slice() {
        only.domains = vec!["*".into()];
    }
    own
}

fn shared_hosts(hosts: &[VirtualHost], snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Vec<VirtualHost> {
    let mut all = hosts.to_vec();
    let policy = outbound_policy(snapshot, scope);
    all.push(fallback(policy, attempt_count(facts)));
    all
}

pub(crate) fn outbound_policy<'a>(snapshot: &'a Snapshot, scope: &'a Scope) -> &'a OutboundPolicy {
    scope
        .sidecar
        .as_ref()
        .and_then(|sidecar| sidecar.outbound_policy.as_ref())
        .unwrap_or(&snapshot.mesh.outbound)
}

fn attempt_count(facts: &OutboundFacts) -> bool {
    facts.config.headers.attempt_count.unwrap_or(true)
}

/// A service as it is seen on one port.
struct OnPort<'a> {
    service: &'a Shared<Service>,
    ports: Vec<&'a Port>,
}

/// Virtual hosts of a port (0: of all ports, for a Unix socket), sorted by name.
fn virtual_hosts(entry: &EgressScope, port: u16, scope: &Scope, facts: &OutboundFacts) -> Vec<VirtualHost> {
    let mut services: BTreeMap<&Hostname, OnPort<'_>> = BTreeMap::new();
    for service in &entry.services {
        let ports: Vec<&Port> = service.ports.iter().filter(|p| port == 0 || p.number == port).collect();
        let chosen = scope
            .service(&service.host)
            .is_none_or(|known| known.namespace == service.namespace);
        if !ports.is_empty() && (chosen || !services.contains_key(&service.host)) {
            services.insert(&service.host, OnPort { service, ports });
        }
    }
    // What callers say about a host is decided by its service; only where that has no such port, by another of the host.
    for (service, own) in entry.services.iter().flat_map(plan::ports) {
        if own.number == port && !services.contains_key(&service.host) {
            let ports = vec![own];
            services.insert(&service.host, OnPort { service, ports });
        }
    }
    let owners = owners(entry, &services, port, &facts.namespace);
    let mut made = Maker::new(facts, port, &services);
    for route in &entry.virtual_services {
        let Some((unknown, known)) = owners.get(&route.origin.key) else {
            continue;
        };
        let ports: BTreeSet<u16> = known
            .iter()
            .flat_map(|host| services[*host].ports.iter())
            .filter(|p| routable(p))
            .map(|p| p.number)
            .collect();
        let ports = if ports.is_empty() && port == UNKNOWN_HOST_PORT {
            [port].into()
        } else {
            ports
        };
        for number in ports {
            let Some(source) = RouteSource::new(route, &[GatewayRef::Mesh], number, scope, facts) else {
                continue;
            };
            let routes = Routes::VirtualServices(vec![source]);
            for host in unknown {
                made.add(host, number, vec![bracketed(host)], Vec::new(), routes.clone());
            }
            for host in known
                .iter()
                .filter(|host| services[**host].ports.iter().any(|p| p.number == number && routable(p)))
            {
                made.add_service(services[*host].service, number, routes.clone());
            }
        }
    }
    let spoken_for: HashSet<&Hostname> = owners.values().flat_map(|(_, known)| known.iter().copied()).collect();
    for (host, on_port) in &services {
        if spoken_for.contains(host) || on_port.service.resolution == Resolution::Alias {
            continue;
        }
        for p in on_port.ports.iter().filter(|p| routable(p)) {
            let routes = Routes::Service {
                cluster: names::outbound(p.number, "", host).into(),
                hash: service_hash(on_port.service, p.number, scope),
                operation: format!("{host}:{}", p.number).into(),
            };
            made.add_service(on_port.service, p.number, routes);
        }
    }
    made.hosts.sort_by(|a, b| a.name.cmp(&b.name));
    made.hosts
}

fn routable(port: &Port) -> bool {
    plan::kind_of(port.protocol).is_some_and(|kind| kind != plan::Kind::Tcp)
}

fn bracketed(host: &Hostname) -> Arc<str> {
    match host.as_str().parse::<std::net::Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]").into(),
        Err(_) => host.as_str().into(),
    }
}

type Owned<'a> = (Vec<&'a Hostname>, Vec<&'a Hostname>);

/// Which VirtualService speaks for which host: its hosts without service, and its services. A wildcard speaks for every
/// service that it covers and no more specific VirtualService names; of equally specific ones the first wins.
/// The Gateway API's routes to services of other namespaces hold for clients of their own namespace only, for these before
/// all others.
fn owners<'a>(
    entry: &'a EgressScope,
    services: &BTreeMap<&'a Hostname, OnPort<'a>>,
    port: u16,
    client: &Namespace,
) -> BTreeMap<lateen_names::ObjectKey, Owned<'a>> {
    let mut owners: BTreeMap<_, Owned<'a>> = BTreeMap::new();
    let mut taken: HashSet<&Hostname> = HashSet::new();
    let applies = |route: &VirtualService| !route.http.is_empty();
    let foreign = |route: &VirtualService, service: &Service| {
        route.semantics == Semantics::GatewayApi && service.namespace != route.namespace
    };
    let consumers = entry
        .virtual_services
        .iter()
        .filter(|route| applies(route) && route.namespace == *client);
    for route in consumers {
        for host in route.hosts.iter().filter(|host| !host.is_wildcard()) {
            if let Some((host, on_port)) = services.get_key_value(host)
                && foreign(route, on_port.service)
                && taken.insert(host)
            {
                owners.entry(route.origin.key.clone()).or_default().1.push(host);
            }
        }
    }
    for route in entry.virtual_services.iter().filter(|route| applies(route)) {
        let owned = owners.entry(route.origin.key.clone()).or_default();
        for host in route.hosts.iter().filter(|host| !host.is_wildcard()) {
            match services.get_key_value(host) {
                Some((host, on_port)) => {
                    if !foreign(route, on_port.service) && taken.insert(host) {
                        owned.1.push(host);
                    }
                }
                None => owned.0.push(host),
            }
        }
    }
    let mut wildcards: Vec<(&Hostname, &Shared<VirtualService>)> = entry
        .virtual_services
        .iter()
        .filter(|route| applies(route))
        .flat_map(|route| {
            route
                .hosts
                .iter()
                .filter(|host| host.is_wildcard())
                .map(move |host| (host, route))
        })
        .collect();
    wildcards.sort_by(|(a, _), (b, _)| a.specificity(b));
    for (wildcard, route) in wildcards {
        let owned = owners.entry(route.origin.key.clone()).or_default();
        let mut any = false;
        for host in services.keys().filter(|host| wildcard.covers(host)) {
            any = true;
            if taken.insert(host) {
                owned.1.push(host);
            }
        }
        if !any {
            owned.0.push(wildcard);
        }
    }
    // Routes to hosts without any service exist on the standard port only.
    owners.retain(|_, (unknown, known)| !known.is_empty() || (!unknown.is_empty() && port == UNKNOWN_HOST_PORT));
    owners
}

/// Collects virtual hosts whose names and domains are unique.
struct Maker<'a> {
    facts: &'a OutboundFacts,
    port: u16,
    known: HashSet<String>,
    names: HashSet<Arc<str>>,
    domains: HashSet<Arc<str>>,
    hosts: Vec<VirtualHost>,
}

impl<'a> Maker<'a> {
    fn new(facts: &'a OutboundFacts, port: u16, services: &BTreeMap<&Hostname, OnPort<'_>>) -> Self {
        let known = services.keys().map(|host| host.to_string()).collect();
        Self {
            facts,
            port,
            known,
            names: HashSet::new(),
            domains: HashSet::new(),
            hosts: Vec::new(),
        }
    }

    fn add_service(&mut self, service: &Service, port: u16, routes: Routes) {
        let mut domains: Vec<Arc<str>> = Vec::new();
        let mut short: Vec<Arc<str>> = Vec::new();
        for host in std::iter::once(&service.host).chain(service.aliases.iter().map(|alias| &alias.host)) {
            domains.push(host.as_str().into());
            let alternatives = alternatives(host, &self.facts.dns_domain);
            domains.extend(alternatives.iter().cloned());
            short.extend(alternatives);
        }
        if service.resolution == Resolution::Passthrough && service.registry == Registry::Kubernetes {
            let each: Vec<Arc<str>> = domains.iter().map(|domain| format!("*.{domain}").into()).collect();
            domains.extend(each);
        }
        domains.extend(plan::addresses(service, self.facts).map(|ip| match ip {
            std::net::IpAddr::V4(ip) => Arc::from(ip.to_string()),
            std::net::IpAddr::V6(ip) => Arc::from(format!("[{ip}]")),
        }));
        self.add(&service.host, port, domains, short, routes);
    }

    fn add(&mut self, host: &Hostname, port: u16, domains: Vec<Arc<str>>, short: Vec<Arc<str>>, routes: Routes) {
        let name: Arc<str> = format!("{}:{port}", bracketed(host)).into();
        if !self.names.insert(Arc::clone(&name)) {
            return;
        }
        let with_port = |domain: Arc<str>| {
            if self.port == 0 {
                format!("{domain}:{port}").into()
            } else {
                domain
            }
        };
        let mut own = Vec::new();
        for domain in domains {
            // A short name must not take the place of a service that is really called so.
            let shadows = short.contains(&domain) && self.known.contains(&*domain);
            let domain = with_port(domain);
            if !shadows && self.domains.insert(domain.to_ascii_lowercase().into()) {
                own.push(domain);
            }
        }
        if !own.is_empty() {
            let attempt_count = attempt_count(self.facts);
            self.hosts.push(VirtualHost {
                name,
                domains: own,
                routes,
                require_tls: false,
                attempt_count,
            });
        }
    }
}

/// Other names that callers use for a host: with trailing dot, and Kubernetes' short forms as resolved from the caller's
/// namespace.
fn alternatives(host: &Hostname, dns_domain: &str) -> Vec<Arc<str>> {
    let host = host.as_str();
    let mut all: Vec<Arc<str>> = Vec::new();
    if host.parse::<std::net::IpAddr>().is_err() {
        all.push(format!("{host}.").into());
    }
    let Some((own_namespace, suffix)) = dns_domain.split_once(".svc.") else {
        return all;
    };
    let Some((name_and_namespace, _)) = host.strip_suffix(suffix).and_then(|rest| rest.split_once(".svc.")) else {
        return all;
    };
    let Some((name, namespace)) = name_and_namespace.split_once('.') else {
        return all;
    };
    if namespace == own_namespace {
        all.push(name.into());
    }
    all.push(format!("{name_and_namespace}.svc").into());
    all.push(name_and_namespace.into());
    all
}
