//! From VirtualServices to what their routes need to be built: which apply here, and where their destinations lie.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_model::destination::{HashKey, LbPolicy, LoadBalancer, TrafficPolicy};
use lateen_model::proxy::ProxyKind;
use lateen_model::route::{Destination, GatewayRef, HttpRoute, SourceMatch, VirtualService};
use lateen_model::{Service, Shared};

use crate::facts::OutboundFacts;
use crate::scope::MergedRule;
use crate::{Scope, names};

/// Where a destination lies, seen from one port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resolved {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// What its consistent hash is made of.
    pub hash: Option<HashKeyOf>,
    /// Whether the host is in the registry.
    pub known: bool,
}

/// A hash key with an order, so that it can stand in maps.
pub(super) type HashKeyOf = Arc<HashKeyBox>;

/// See [`HashKeyOf`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HashKeyBox(pub HashKey);

impl PartialOrd for HashKeyBox {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HashKeyBox {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        format!("{:?}", self.0).cmp(&format!("{:?}", other.0))
    }
}

/// A VirtualService's routes as they apply at one port of one class.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteSource {
    /// The VirtualService.
    pub service: Shared<VirtualService>,
    /// Port of the listener.
    pub port: u16,
    /// Which of its routes apply, each with the alternatives that do; no alternatives: the route matches everything.
    pub applicable: Vec<(usize, Vec<usize>)>,
    /// Where its destinations lie.
    pub destinations: BTreeMap<Destination, Resolved>,
}

impl RouteSource {
    /// Chooses what of a VirtualService applies to a class at a port of a gateway (or of the mesh); `None` if nothing does.
    pub fn new(
        service: &Shared<VirtualService>,
        gateways: &[GatewayRef],
        port: u16,
        scope: &Scope,
        facts: &OutboundFacts,
    ) -> Option<Self> {
        let mut applicable = Vec::new();
        for (index, route) in service.http.iter().enumerate() {
            let matches: Vec<usize> = route
                .matches
                .iter()
                .enumerate()
                .filter(|(_, m)| m.port.is_none_or(|p| p == port) && source_applies(&m.source, gateways, facts))
                .map(|(index, _)| index)
                .collect();
            if route.matches.is_empty() || !matches.is_empty() {
                applicable.push((index, matches));
            }
        }
        if applicable.is_empty() {
            return None;
        }
        let destinations = applicable
            .iter()
            .flat_map(|(index, _)| destinations_of(&service.http[*index]))
            .map(|destination| (destination.clone(), resolve_from(destination, port, scope, facts)))
            .collect();
        Some(Self {
            service: service.clone(),
            port,
            applicable,
            destinations,
        })
    }
}

/// Whether a match's conditions on the caller hold for the class.
pub(crate) fn source_applies(source: &SourceMatch, gateways: &[GatewayRef], facts: &OutboundFacts) -> bool {
    let gateway_fits = source.gateways.is_empty() || source.gateways.iter().any(|gateway| gateways.contains(gateway));
    let labels_fit = source.labels.is_empty() || facts.source_labels.contains(&source.labels);
    let namespace_fits = source
        .namespace
        .as_ref()
        .is_none_or(|namespace| *facts.namespace.as_str() == **namespace);
    gateway_fits && labels_fit && namespace_fits
}

fn destinations_of(route: &HttpRoute) -> impl Iterator<Item = &Destination> {
    let backends = route.backends().iter().filter_map(|to| to.destination.as_ref());
    backends.chain(route.mirrors.iter().map(|mirror| &mirror.destination))
}

/// On a port of a sidecar a destination without port means that port, whatever ports its service has: services are looked
/// at through the port. Elsewhere see [`resolve`].
fn resolve_from(destination: &Destination, port: u16, scope: &Scope, facts: &OutboundFacts) -> Resolved {
    if facts.kind == ProxyKind::Sidecar && port != 0 && destination.port.is_none() {
        return resolve(
            &Destination {
                port: Some(port),
                ..destination.clone()
            },
            port,
            scope,
        );
    }
    resolve(destination, port, scope)
}

/// Finds the cluster of a destination: its own port, else the service's only one, else the listener's.
pub(crate) fn resolve(destination: &Destination, listener_port: u16, scope: &Scope) -> Resolved {
    let service = scope.service(&destination.host);
    let port = destination
        .port
        .unwrap_or_else(|| match service.map(|service| service.ports.as_slice()) {
            Some([only]) => only.number,
            _ => listener_port,
        });
    let subset = destination.subset.as_deref().unwrap_or_default();
    let rule = scope.rule(&destination.host, service.map(|service| &service.namespace));
    Resolved {
        cluster: names::outbound(port, subset, &destination.host).into(),
        hash: rule.and_then(|rule| hash_key(rule, destination.subset.as_deref(), port)),
        known: service.is_some(),
    }
}

/// What the consistent hash toward a port of a service is made of, where its rule asks for one.
pub(super) fn service_hash(service: &Service, port: u16, scope: &Scope) -> Option<HashKeyOf> {
    scope
        .rule(&service.host, Some(&service.namespace))
        .and_then(|rule| hash_key(rule, None, port))
}

/// The subset's balancer counts before the host's; within each, the port's before the general one.
fn hash_key(rule: &MergedRule, subset: Option<&str>, port: u16) -> Option<HashKeyOf> {
    fn of(policy: &TrafficPolicy, port: u16) -> Option<&LoadBalancer> {
        let specific = policy.ports.get(&port).and_then(|policy| policy.load_balancer.as_ref());
        specific.or(policy.load_balancer.as_ref())
    }
    let subset = subset.and_then(|name| rule.subsets.iter().find(|subset| &*subset.name == name));
    let balancer = subset
        .and_then(|subset| of(&subset.policy, port))
        .or_else(|| of(&rule.policy, port))?;
    match &balancer.policy {
        Some(LbPolicy::Hash { key: Some(key), .. }) => Some(Arc::new(HashKeyBox(key.clone()))),
        _ => None,
    }
}
