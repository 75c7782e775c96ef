//! What a class of proxies sees of the mesh: services, routes and policies, after visibility and Sidecar objects.

mod rules;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lateen_model::proxy::ProxyKind;
use lateen_model::route::VirtualService;
use lateen_model::service::Registry;
use lateen_model::sidecar::{Egress, EgressHost, EgressNamespace, Sidecar};
use lateen_model::{ExportTo, Service, Shared, Snapshot};
use lateen_names::{Hostname, Namespace};

use crate::changes::Changes;
use crate::facts::OutboundFacts;
use crate::listener;
use crate::listener::plan::Planned;
use crate::route::{Replaced, Tables};
use crate::survey::Survey;
pub use rules::{Exported, MergedRule, Rules};

/// One outbound entry of the Sidecar in force, with what it lets through. Without Sidecar there is one entry with
/// everything that is visible.
#[derive(Debug, Clone)]
pub struct EgressScope {
    /// The entry; `None` without Sidecar.
    pub egress: Option<Egress>,
    /// Services, oldest first.
    pub services: Vec<Shared<Service>>,
    /// VirtualServices of sidecars, in order of precedence.
    pub virtual_services: Vec<Shared<VirtualService>>,
}

/// What a class sees.
#[derive(Debug)]
pub struct Scope {
    /// The Sidecar in force.
    pub sidecar: Option<Shared<Sidecar>>,
    /// Outbound entries.
    pub egress: Vec<EgressScope>,
    /// All services of all entries, oldest first, each host once per namespace.
    pub services: Vec<Shared<Service>>,
    by_host: HashMap<Hostname, usize>,
    /// Hosts that several services have.
    several: HashSet<Hostname>,
    rules: Arc<Rules>,
    /// The rules that hold for the callers' namespace whatever selects single workloads.
    pub(crate) common_rules: Arc<Rules>,
    /// The outbound listeners of proxies without addresses of their own, planned when first asked for.
    pub(crate) planned: OnceLock<Arc<[Planned]>>,
    /// What these listeners hold.
    pub(crate) listeners: OnceLock<listener::Listed>,
    /// What of these differs from what was before, where that is known.
    pub(crate) changed_listeners: OnceLock<Option<listener::Changed>>,
    /// Its route tables, until they are forgotten.
    pub(crate) tables: Mutex<Option<Arc<Tables>>>,
    /// What of them and of virtual hosts is replaced, until it is forgotten; empty where that is not known.
    pub(crate) replaced: Mutex<Option<Option<Arc<Replaced>>>>,
    /// How many virtual hosts its shared tables have, where no two of them want one domain; empty where two do.
    pub(crate) counts: OnceLock<Option<Counts>>,
}

/// How many virtual hosts there are, by route table.
pub(crate) type Counts = BTreeMap<Arc<str>, usize>;

/// What a class saw of one snapshot.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// What it saw.
    pub scope: &'a Scope,
}

impl Scope {
    /// Reads a snapshot through the eyes of a class.
    pub fn new(snapshot: &Snapshot, facts: &OutboundFacts) -> Self {
        Self::within(&Survey::new(snapshot), snapshot, facts)
    }

    /// The same with a survey of that snapshot at hand.
    pub fn within(survey: &Survey, snapshot: &Snapshot, facts: &OutboundFacts) -> Self {
        let visible = visible_services(survey, &facts.namespace);
        let routes = visible_routes(survey, &facts.namespace);
        let sidecar = facts
            .sidecar
            .as_ref()
            .and_then(|key| snapshot.sidecars.get(key))
            .cloned();
        let egress = match &sidecar {
            Some(sidecar) if !sidecar.egress.is_empty() => sidecar
                .egress
                .iter()
                .map(|entry| narrowed(entry, &visible, &routes, &facts.namespace))
                .collect(),
            _ => vec![EgressScope {
                egress: None,
                services: visible.clone(),
                virtual_services: routes,
            }],
        };
        let services = match (&sidecar, facts.kind) {
            (Some(sidecar), ProxyKind::Sidecar) if !sidecar.egress.is_empty() => union(&egress, &visible),
            _ => visible,
        };
        let (by_host, several) = by_host(&services, &facts.namespace);
        let common_rules = survey.rules(snapshot, &facts.namespace);
        let rules = match facts.kind {
            ProxyKind::Sidecar if !facts.rules.is_empty() => {
                Arc::new(survey.rules_for(snapshot, &facts.namespace, &facts.rules))
            }
            _ => Arc::clone(&common_rules),
        };
        Self {
            sidecar,
            egress,
            by_host,
            several,
            rules,
            common_rules,
            services,
            planned: OnceLock::new(),
            listeners: OnceLock::new(),
            changed_listeners: OnceLock::new(),
            tables: Mutex::default(),
            replaced: Mutex::default(),
            counts: OnceLock::new(),
        }
    }

    /// Takes over from the scope before what these changes leave as it is.
    pub fn inherit(&self, before: &Self, changes: &Changes) {
        if !changes.plan_listeners()
            && let Some(planned) = before.planned.get()
        {
            let _ = self.planned.set(Arc::clone(planned));
        }
        if !changes.make_listeners()
            && let Some(listeners) = before.listeners.get()
        {
            let _ = self.listeners.set(listeners.clone());
        }
        if !changes.make_routes()
            && let Some(counts) = before.counts.get()
        {
            let _ = self.counts.set(counts.clone());
        }
    }

    /// Forgets route tables: what is made of them is kept elsewhere, and they are large.
    pub fn forget_tables(&self) {
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.replaced.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The service that a host name means to this class.
    pub fn service(&self, host: &Hostname) -> Option<&Shared<Service>> {
        self.by_host.get(host).map(|&index| &self.services[index])
    }

    /// Whether no other service has this host.
    pub(crate) fn is_single(&self, host: &Hostname) -> bool {
        !self.several.contains(host)
    }

    /// The policy toward a host whose service is defined in `namespace`: see [`Rules::of`].
    pub fn rule(&self, host: &Hostname, namespace: Option<&Namespace>) -> Option<&Shared<MergedRule>> {
        self.rules.of(host, namespace)
    }
}

fn visible_services(survey: &Survey, namespace: &Namespace) -> Vec<Shared<Service>> {
    let visible = |service: &&Shared<Service>| service.export_to.visible_in(namespace);
    survey.services.iter().filter(visible).cloned().collect()
}

/// Those for the caller's namespace alone, then those exported to it by name, then the public ones; older first.
fn visible_routes(survey: &Survey, namespace: &Namespace) -> Vec<Shared<VirtualService>> {
    let rank = |route: &VirtualService| match &route.export_to {
        ExportTo::Namespaces(list) if route.namespace == *namespace && list.contains(namespace) => Some(0_u8),
        ExportTo::Namespaces(list) if list.contains(namespace) => Some(1),
        ExportTo::All => Some(2),
        _ => None,
    };
    let mut routes: Vec<_> = survey
        .routes
        .iter()
        .filter_map(|route| rank(route).map(|rank| (rank, route.clone())))
        .collect();
    routes.sort_by_key(|(rank, _)| *rank);
    routes.into_iter().map(|(_, route)| route).collect()
}

fn admits(hosts: &[EgressHost], own: &Namespace, namespace: &Namespace, host: &Hostname, exact: bool) -> bool {
    hosts.iter().any(|entry| {
        let namespace_fits = match &entry.namespace {
            EgressNamespace::Any => true,
            EgressNamespace::Own => namespace == own,
            EgressNamespace::None => false,
            EgressNamespace::Named(named) => named == namespace,
        };
        namespace_fits
            && if exact {
                entry.host.covers(host)
            } else {
                entry.host.matches(host)
            }
    })
}

/// What one egress entry lets through: its hosts' services and routes, and the services that those routes lead to.
fn narrowed(
    entry: &Egress,
    visible: &[Shared<Service>],
    routes: &[Shared<VirtualService>],
    own: &Namespace,
) -> EgressScope {
    let virtual_services: Vec<_> = routes
        .iter()
        .filter(|route| {
            route
                .hosts
                .iter()
                .any(|host| admits(&entry.hosts, own, &route.namespace, host, false))
        })
        .cloned()
        .collect();
    let port_fits = |service: &Service| {
        entry
            .port
            .as_ref()
            .is_none_or(|port| port.number == 0 || service.ports.iter().any(|p| p.number == port.number))
    };
    let services: Vec<_> = visible
        .iter()
        .filter(|service| port_fits(service) && admits(&entry.hosts, own, &service.namespace, &service.host, true))
        .cloned()
        .collect();
    EgressScope {
        egress: Some(entry.clone()),
        services,
        virtual_services,
    }
}

/// Services of all entries, and those that their routes lead to though no entry names them.
fn union(egress: &[EgressScope], visible: &[Shared<Service>]) -> Vec<Shared<Service>> {
    let mut wanted: HashSet<_> = egress
        .iter()
        .flat_map(|entry| entry.services.iter().map(|s| s.key()))
        .collect();
    let hosts: HashSet<Hostname> = wanted.iter().map(|key| key.host.clone()).collect();
    let led_to: HashSet<&Hostname> = egress
        .iter()
        .flat_map(|entry| entry.virtual_services.iter())
        .flat_map(|route| destinations(route))
        .filter(|host| !hosts.contains(*host))
        .collect();
    wanted.extend(
        visible
            .iter()
            .filter(|service| led_to.contains(&service.host))
            .map(|service| service.key()),
    );
    visible
        .iter()
        .filter(|service| wanted.contains(&service.key()))
        .cloned()
        .collect()
}

/// Every host that a VirtualService may send to.
pub fn destinations(route: &VirtualService) -> impl Iterator<Item = &Hostname> {
    let http = route.http.iter().flat_map(|http| {
        let backends = http.backends().iter().filter_map(|to| to.destination.as_ref());
        backends.map(|to| &to.host)
    });
    http.chain(destinations_besides(route))
}

/// The hosts that it sends to other than by routing requests: copies of them, and bytes.
pub(crate) fn destinations_besides(route: &VirtualService) -> impl Iterator<Item = &Hostname> {
    let mirrors = route.http.iter().flat_map(|http| &http.mirrors);
    let tls = route.tls.iter().flat_map(|tls| &tls.destinations);
    let bytes = tls.chain(route.tcp.iter().flat_map(|tcp| &tcp.destinations));
    mirrors
        .map(|mirror| &mirror.destination.host)
        .chain(bytes.filter_map(|to| to.destination.as_ref()).map(|to| &to.host))
}

/// Which service a host means where several define it: Kubernetes' own, then one of the caller's namespace, then the oldest;
/// and the hosts that several define.
fn by_host(services: &[Shared<Service>], own: &Namespace) -> (HashMap<Hostname, usize>, HashSet<Hostname>) {
    let mut map: HashMap<Hostname, usize> = HashMap::with_capacity(services.len());
    let mut several = HashSet::new();
    let rank = |service: &Service| (service.registry != Registry::Kubernetes, service.namespace != *own);
    for (index, service) in services.iter().enumerate() {
        match map.entry(service.host.clone()) {
            Entry::Vacant(place) => {
                place.insert(index);
            }
            Entry::Occupied(mut place) => {
                several.insert(service.host.clone());
                if rank(service) < rank(&services[*place.get()]) {
                    place.insert(index);
                }
            }
        }
    }
    (map, several)
}
