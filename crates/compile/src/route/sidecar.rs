//! Route tables of sidecars: one per HTTP port, one per sniffed service.

mod apart;
mod replaced;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use lateen_model::proxy::ProxyKind;
use lateen_model::route::GatewayRef;
use lateen_model::route::{Semantics, VirtualService};
use lateen_model::service::{Port, Registry, Resolution};
use lateen_model::sidecar::OutboundPolicy;
use lateen_model::{Service, Shared, Snapshot};
use lateen_names::{Hostname, Namespace};

pub(crate) use replaced::Replaced;
pub(super) use replaced::replaced;

use super::http::{Routes, VirtualHost, fallback};
use super::select::{RouteSource, service_hash};
use super::{HostInput, Input};
use crate::facts::OutboundFacts;
use crate::listener::plan;
use crate::scope::{Counts, EgressScope, Sight};
use crate::{Scope, names};

/// Hosts of VirtualServices that no service has are served on the standard port only.
const UNKNOWN_HOST_PORT: u16 = 80;

/// The route tables of a class.
#[derive(Debug)]
pub(crate) struct Tables {
    all: Vec<Table>,
    /// Whether no two virtual hosts wanted the same domain: then each can be made without regard to the others.
    apart: bool,
}

#[derive(Debug)]
struct Table {
    name: Arc<str>,
    /// Whether one sniffed service has it to itself.
    sniffed: bool,
    hosts: Vec<Arc<VirtualHost>>,
}

impl Tables {
    fn counts(&self) -> Option<Counts> {
        let shared = self.all.iter().filter(|table| !table.sniffed);
        let counts = || shared.map(|table| (Arc::clone(&table.name), table.hosts.len()));
        self.apart.then(|| counts().collect())
    }
}

/// Whether virtual hosts come one by one. Patches want tables whole.
pub(super) fn is_split(facts: &OutboundFacts) -> bool {
    facts.kind == ProxyKind::Sidecar && facts.capabilities.virtual_hosts
}

/// One table for each name that the class's listeners ask for.
pub(super) fn select(snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Vec<Input> {
    let split = is_split(facts);
    let fallback = || fallback(outbound_policy(snapshot, scope), attempt_count(facts));
    tables(snapshot, scope, facts)
        .all
        .iter()
        .map(|table| {
            let more = split && !table.sniffed && !table.hosts.is_empty();
            let mut hosts = if more { Vec::new() } else { table.hosts.clone() };
            if !table.sniffed {
                hosts.push(Arc::new(fallback()));
            }
            Input {
                name: Arc::clone(&table.name),
                hosts,
                ignore_port: true,
                more,
                mesh: snapshot.mesh.clone(),
            }
        })
        .collect()
}

/// The virtual hosts of tables that many services share.
pub(super) fn split_hosts(snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Vec<HostInput> {
    let tables = tables(snapshot, scope, facts);
    let shared = tables.all.iter().filter(|table| !table.sniffed);
    shared
        .flat_map(|table| {
            table.hosts.iter().map(|host| HostInput {
                table: Arc::clone(&table.name),
                host: Arc::clone(host),
                mesh: snapshot.mesh.clone(),
            })
        })
        .collect()
}

fn tables(snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Arc<Tables> {
    // What a panic left is nothing.
    let mut known = scope.tables.lock().unwrap_or_else(PoisonError::into_inner);
    let tables = known.get_or_insert_with(|| {
        let tables = make_tables(snapshot, scope, facts);
        let _ = scope.counts.set(tables.counts());
        Arc::new(tables)
    });
    Arc::clone(tables)
}

/// The names of tables, each with the egress entry and the port that decide what is in it.
type Named = BTreeMap<Arc<str>, (usize, u16)>;

fn named(Sight { snapshot, scope }: Sight<'_>, facts: &OutboundFacts) -> Named {
    let mut tables = Named::new();
    for planned in plan::of_class(snapshot, scope, facts) {
        if let Some(name) = planned.routes.clone() {
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
    tables
}

fn is_sniffed(name: &str, port: u16) -> bool {
    name.parse::<u16>().is_err() && port != 0
}

fn make_tables(snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Tables {
    let mut by_port: BTreeMap<(usize, u16), Made> = BTreeMap::new();
    let mut all = Vec::new();
    for (name, (egress, port)) in named(Sight { snapshot, scope }, facts) {
        let (hosts, _) = by_port
            .entry((egress, port))
            .or_insert_with(|| virtual_hosts(&scope.egress[egress], port, scope, facts, None));
        let sniffed = is_sniffed(&name, port);
        let hosts = if sniffed {
            sniffed_hosts(hosts, &name)
        } else {
            hosts.clone()
        };
        all.push(Table { name, sniffed, hosts });
    }
    Tables {
        apart: by_port.values().all(|(_, apart)| *apart),
        all,
    }
}

/// A sniffed service has a listener of its own, so whatever host is asked for, it is meant.
fn sniffed_hosts(hosts: &[Arc<VirtualHost>], table: &str) -> Vec<Arc<VirtualHost>> {
    let host = table.rsplit_once(':').map_or(table, |(host, _)| host);
    let mut own: Vec<Arc<VirtualHost>> = hosts
        .iter()
        .filter(|vh| vh.domains.iter().any(|domain| **domain == *host || **domain == *table))
        .cloned()
        .collect();
    if let [only] = own.as_mut_slice() {
        Arc::make_mut(only).domains = vec!["*".into()];
    }
    own
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

/// Virtual hosts, and whether they are apart.
type Made = (Vec<Arc<VirtualHost>>, bool);

/// Virtual hosts of a port (0: of all ports, for a Unix socket), sorted by name, and whether they are apart; of all hosts or
/// of some.
fn virtual_hosts(
    entry: &EgressScope,
    port: u16,
    scope: &Scope,
    facts: &OutboundFacts,
    only: Option<&BTreeSet<Hostname>>,
) -> Made {
    let mut services: BTreeMap<&Hostname, OnPort<'_>> = BTreeMap::new();
    let candidates: Vec<&Shared<Service>> = match only {
        None => entry.services.iter().collect(),
        // Without a Sidecar an entry's services are the scope's.
        Some(hosts) => hosts.iter().filter_map(|host| scope.service(host)).collect(),
    };
    for service in candidates.iter().copied() {
        let ports: Vec<&Port> = service.ports.iter().filter(|p| port == 0 || p.number == port).collect();
        let chosen = scope
            .service(&service.host)
            .is_none_or(|known| known.namespace == service.namespace);
        if !ports.is_empty() && (chosen || !services.contains_key(&service.host)) {
            services.insert(&service.host, OnPort { service, ports });
        }
    }
    // What callers say about a host is decided by its service; only where that has no such port, by another of the host.
    for (service, own) in candidates.iter().copied().flat_map(plan::ports) {
        if own.number == port && !services.contains_key(&service.host) {
            let ports = vec![own];
            services.insert(&service.host, OnPort { service, ports });
        }
    }
    let owners = owners(entry, &services, (port, only.is_some()), &facts.namespace);
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
    (made.hosts.into_iter().map(Arc::new).collect(), made.apart)
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
/// all others. With `some`, `services` are only some of those that there are.
fn owners<'a>(
    entry: &'a EgressScope,
    services: &BTreeMap<&'a Hostname, OnPort<'a>>,
    (port, some): (u16, bool),
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
                None if some => {}
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
    known: HashSet<&'a str>,
    names: HashSet<Arc<str>>,
    domains: HashSet<Arc<str>>,
    hosts: Vec<VirtualHost>,
    /// Whether nobody wanted what another had.
    apart: bool,
}

impl<'a> Maker<'a> {
    fn new(facts: &'a OutboundFacts, port: u16, services: &BTreeMap<&'a Hostname, OnPort<'a>>) -> Self {
        let known = services.keys().map(|host| host.as_str()).collect();
        Self {
            facts,
            port,
            known,
            names: HashSet::new(),
            domains: HashSet::new(),
            hosts: Vec::new(),
            apart: true,
        }
    }

    fn add_service(&mut self, service: &Service, port: u16, routes: Routes) {
        let (domains, short) = domains(service, self.facts);
        self.add(&service.host, port, domains, short, routes);
    }

    fn add(&mut self, host: &Hostname, port: u16, domains: Vec<Arc<str>>, short: Vec<Arc<str>>, routes: Routes) {
        let name: Arc<str> = format!("{}:{port}", bracketed(host)).into();
        if !self.names.insert(Arc::clone(&name)) {
            self.apart = false;
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
            let lower = if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
                domain.to_ascii_lowercase().into()
            } else {
                Arc::clone(&domain)
            };
            if !shadows && self.domains.insert(lower) {
                own.push(domain);
            } else {
                self.apart = false;
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
                closed: self.facts.on_demand.is_some(),
            });
        }
    }
}

/// By what callers mean a service, and which of that are short forms.
fn domains(service: &Service, facts: &OutboundFacts) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
    let mut domains: Vec<Arc<str>> = Vec::new();
    let mut short: Vec<Arc<str>> = Vec::new();
    for host in std::iter::once(&service.host).chain(service.aliases.iter().map(|alias| &alias.host)) {
        domains.push(host.as_str().into());
        let alternatives = alternatives(host, &facts.dns_domain);
        domains.extend(alternatives.iter().cloned());
        short.extend(alternatives);
    }
    if service.resolution == Resolution::Passthrough && service.registry == Registry::Kubernetes {
        let each: Vec<Arc<str>> = domains.iter().map(|domain| format!("*.{domain}").into()).collect();
        domains.extend(each);
    }
    domains.extend(plan::addresses(service, facts).map(address_domain));
    (domains, short)
}

fn address_domain(address: &IpAddr) -> Arc<str> {
    match address {
        IpAddr::V4(ip) => ip.to_string().into(),
        IpAddr::V6(ip) => format!("[{ip}]").into(),
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
