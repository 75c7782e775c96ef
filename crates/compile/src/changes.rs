//! What differs between two snapshots, and what of each family has to be selected anew for it.
//!
//! The rules here are about speed alone: whatever is selected anew although nothing of it changed comes out equal. A table
//! that a family reads and that is missing here is a defect; the caches' property test looks for those.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use lateen_model::proxy::ProxyKind;
use lateen_model::route::VirtualService;
use lateen_model::service::Resolution;
use lateen_model::{Change, Shared, Snapshot, Table};
use lateen_names::{ClusterId, Hostname, Namespace, ObjectKey};

use crate::facts::{Classes, Family};
use crate::listener::plan::plans_by_endpoints;
use crate::listener::security::upstream_hosts;
use crate::scope::{destinations, destinations_besides};

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Something changed that everything may depend on.
    everything: bool,
    /// Something changed that decides how proxies are read and classed.
    classing: bool,
    /// Whether other namespaces than before ask for clusters on demand, or keys for tokens may be fetched from elsewhere.
    discovery: bool,
    /// Hosts whose services differ.
    services: BTreeSet<Hostname>,
    /// Hosts whose endpoints differ.
    endpoints: BTreeSet<Hostname>,
    /// Hosts whose endpoints differ by which listeners are planned.
    planned_endpoints: BTreeSet<Hostname>,
    /// Whether endpoints differ whose names proxies resolve.
    named_endpoints: bool,
    /// Whether some DestinationRule differs.
    rules: bool,
    /// Hosts of services whose DestinationRules differ.
    ruled: BTreeSet<Hostname>,
    /// Whether some VirtualService differs, and whether in more than routes of HTTP.
    routes: bool,
    l4_routes: bool,
    /// Whether some VirtualService is for others than before, or leads to other hosts. What shifts between hosts that it led to
    /// already changes no cluster.
    reach: bool,
    /// Hosts toward which routes may differ: those of VirtualServices that differ, or that lead to where services or rules
    /// do, and those of such services; may be wildcards.
    routed: BTreeSet<Hostname>,
    /// Whether there is or is no longer a service that policies send requests to.
    upstreams: bool,
    peers: bool,
    gateways: bool,
    credentials: bool,
    policies: BTreeSet<ObjectKey>,
    telemetries: BTreeSet<ObjectKey>,
    instances: BTreeSet<(ClusterId, IpAddr)>,
    workloads: BTreeSet<(ClusterId, Namespace, Arc<str>)>,
    /// Hosts toward which clusters or endpoints may differ.
    called: BTreeSet<Hostname>,
}

/// What of a set has to be selected anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anew<'a> {
    /// Nothing: it is equal.
    Nothing,
    /// What belongs to these hosts.
    Hosts(&'a BTreeSet<Hostname>),
    /// All of it.
    Everything,
}

impl Changes {
    /// What leads from one snapshot to another; costs what changed.
    pub fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let mut changes = Self {
            everything: old.mesh != new.mesh
                || old.network_gateways != new.network_gateways
                || old.sidecars != new.sidecars
                || old.envoy_filters != new.envoy_filters
                || old.extensions != new.extensions
                || old.pull_secrets != new.pull_secrets,
            discovery: (old.namespaces != new.namespaces && !old.on_demand().eq(new.on_demand()))
                || (old.request_authentications != new.request_authentications && new.on_demand().next().is_some()),
            peers: old.peer_authentications != new.peer_authentications,
            gateways: old.gateways != new.gateways,
            credentials: old.credentials != new.credentials,
            telemetries: keys(&new.telemetries, &old.telemetries),
            policies: keys(&new.request_authentications, &old.request_authentications),
            instances: keys(&new.instances, &old.instances),
            ..Self::default()
        };
        changes
            .policies
            .extend(keys(&new.authorization_policies, &old.authorization_policies));
        for change in new.workloads.diff(&old.workloads) {
            let (cluster, pod) = change.key();
            let namespace = pod.namespace.clone();
            let named = namespace.map(|namespace| (cluster.clone(), namespace, Arc::from(pod.name.as_str())));
            changes.workloads.extend(named);
        }
        changes.classing = changes.everything
            || changes.discovery
            || changes.peers
            || changes.gateways
            || !changes.policies.is_empty()
            || !changes.telemetries.is_empty();
        let mut came_or_went: BTreeSet<&Hostname> = BTreeSet::new();
        for change in new.services.diff(&old.services) {
            changes.services.insert(change.key().host.clone());
            match &change {
                // Facts tell whether a proxy is an endpoint that others have a listener for.
                Change::Updated(_, old, new) => {
                    changes.classing |= plans_by_endpoints(old) != plans_by_endpoints(new);
                }
                Change::Added(_, service) | Change::Removed(_, service) => {
                    came_or_went.insert(&service.host);
                }
            }
        }
        if !came_or_went.is_empty() {
            changes.upstreams = upstream_hosts(new).any(|host| came_or_went.contains(&host));
        }
        for change in new.endpoints.diff(&old.endpoints) {
            let key = change.key();
            changes.endpoints.insert(key.host.clone());
            for services in [&old.services, &new.services] {
                if let Some(service) = services.get(key) {
                    if plans_by_endpoints(service) {
                        changes.planned_endpoints.insert(key.host.clone());
                    }
                    changes.named_endpoints |=
                        matches!(service.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
                }
            }
        }
        changes.compare_rules(old, new);
        for change in new.virtual_services.diff(&old.virtual_services) {
            let l4 = |route: &VirtualService| !route.tls.is_empty() || !route.tcp.is_empty();
            changes.routes = true;
            let versions: [Option<&VirtualService>; 2] = match change {
                Change::Added(_, route) | Change::Removed(_, route) => {
                    changes.reach = true;
                    [Some(route), None]
                }
                Change::Updated(_, old, new) => {
                    changes.reach |= reach_differs(old, new);
                    [Some(old), Some(new)]
                }
            };
            for route in versions.into_iter().flatten() {
                changes.l4_routes |= l4(route);
                changes.routed.extend(route.hosts.iter().cloned());
            }
        }
        if changes.rules || changes.services() {
            let differs = |host: &Hostname| changes.ruled.contains(host) || changes.services.contains(host);
            let leads = |route: &&Shared<VirtualService>| destinations(route).any(differs);
            let led: Vec<_> = new.virtual_services.values().filter(leads).collect();
            let hosts = led.into_iter().flat_map(|route| route.hosts.iter().cloned());
            changes.routed.extend(hosts);
        }
        for hosts in [&changes.ruled, &changes.services, &changes.planned_endpoints] {
            changes.routed.extend(hosts.iter().cloned());
        }
        let called = [&changes.services, &changes.endpoints, &changes.ruled];
        changes.called = called.into_iter().flatten().cloned().collect();
        changes
    }

    fn compare_rules(&mut self, old: &Snapshot, new: &Snapshot) {
        let mut patterns: BTreeSet<&Hostname> = BTreeSet::new();
        for change in new.destination_rules.diff(&old.destination_rules) {
            match change {
                Change::Added(_, rule) | Change::Removed(_, rule) => patterns.extend([&rule.host]),
                Change::Updated(_, old, new) => patterns.extend([&old.host, &new.host]),
            }
        }
        self.rules = !patterns.is_empty();
        let (wild, exact): (Vec<&Hostname>, Vec<&Hostname>) = patterns.into_iter().partition(|host| host.is_wildcard());
        self.ruled.extend(exact.into_iter().cloned());
        if !wild.is_empty() {
            let services = old.services.iter().chain(new.services.iter());
            let hosts = services.map(|(key, _)| &key.host);
            let covered = hosts.filter(|host| wild.iter().any(|pattern| pattern.covers(host)));
            self.ruled.extend(covered.cloned());
        }
    }

    /// Whether all proxies' Nodes have to be read anew, and their classes. If not, those have to of the proxies that have one of
    /// [these addresses](Self::addresses) or are one of [these pods](Self::pods).
    pub fn concern_everybody(&self) -> bool {
        self.classing
    }

    /// Addresses at which something else is served, with their cluster.
    pub fn addresses(&self) -> &BTreeSet<(ClusterId, IpAddr)> {
        &self.instances
    }

    /// Pods that differ, by cluster, namespace and name.
    pub fn pods(&self) -> &BTreeSet<(ClusterId, Namespace, Arc<str>)> {
        &self.workloads
    }

    /// Whether other listeners for calls may be planned.
    pub(crate) fn plan_listeners(&self) -> bool {
        self.everything || self.services() || self.plans()
    }

    /// Whether listeners for calls may hold other things.
    pub(crate) fn make_listeners(&self) -> bool {
        self.plan_listeners() || self.rules || self.l4_routes
    }

    /// Whether routes of sidecars may differ.
    pub(crate) fn make_routes(&self) -> bool {
        self.everything || !self.routed.is_empty()
    }

    /// Whether what a class sees of the mesh has to be worked out anew.
    pub fn scopes(&self) -> bool {
        self.everything || self.services() || self.routes || self.rules || self.plans()
    }

    /// Whether listeners come or go with endpoints.
    fn plans(&self) -> bool {
        !self.planned_endpoints.is_empty()
    }

    pub(crate) fn services(&self) -> bool {
        !self.services.is_empty()
    }

    pub(crate) fn routes(&self) -> bool {
        self.routes
    }

    pub(crate) fn rules(&self) -> bool {
        self.everything || self.rules
    }

    pub(crate) fn traits(&self) -> bool {
        self.everything || self.discovery || self.services() || self.named_endpoints || self.rules || self.routes
    }

    /// What of a family a class has to select anew.
    pub fn anew(&self, family: Family, classes: &Classes) -> Anew<'_> {
        let out = &classes.outbound;
        let narrowed = out.sidecar.is_some();
        let router = out.kind != ProxyKind::Sidecar;
        let called = self.services() || self.routes || self.rules || self.gateways;
        let everything = self.everything
            || match family {
                Family::OnDemandClusters if out.on_demand.is_none() => return Anew::Nothing,
                Family::OutboundClusters | Family::OnDemandClusters => {
                    // Patches may be for whatever there is. What routes lead to widens what a Sidecar lets through.
                    let any = self.services() || self.rules || !self.endpoints.is_empty();
                    self.peers
                        || (router && called)
                        || (narrowed && self.reach)
                        || (any && !out.envoy_filters.is_empty())
                }
                Family::Endpoints => self.peers || (router && called) || (narrowed && self.reach),
                Family::OutboundListeners => {
                    let policies = self.peers || !self.policies.is_empty();
                    let telemetry = out.telemetries.iter().any(|key| self.telemetries.contains(key));
                    let patched = !out.envoy_filters.is_empty();
                    telemetry || (router && (called || policies)) || ((narrowed || patched) && self.make_listeners())
                }
                Family::Routes | Family::VirtualHosts => {
                    (narrowed || !out.capabilities.virtual_hosts) && (called || self.plans())
                }
                Family::InboundClusters | Family::InboundListeners => return self.inbound(family, classes),
                Family::Secrets => self.rules || self.gateways || self.credentials,
                Family::NameTable => {
                    out.options.dns_capture && (self.services() || self.routes || !self.endpoints.is_empty())
                }
                Family::Extensions => false,
            };
        if everything {
            return Anew::Everything;
        }
        let hosts = match family {
            Family::OutboundClusters | Family::OnDemandClusters | Family::Endpoints => &self.called,
            Family::Routes | Family::VirtualHosts => &self.routed,
            Family::OutboundListeners if self.make_listeners() => &self.routed,
            _ => return Anew::Nothing,
        };
        if hosts.is_empty() {
            Anew::Nothing
        } else {
            Anew::Hosts(hosts)
        }
    }

    fn inbound(&self, family: Family, classes: &Classes) -> Anew<'_> {
        let facts = &classes.inbound;
        let here = |hosts: &BTreeSet<Hostname>| {
            !hosts.is_empty()
                && facts
                    .instances
                    .iter()
                    .any(|instance| hosts.contains(&instance.service.host))
        };
        let policies = &facts.policies;
        let asked = policies.request.iter().chain(&policies.authorization);
        let anew = match family {
            Family::InboundClusters => here(&self.services) || here(&self.ruled),
            _ => {
                self.peers
                    || (self.upstreams && asked.clone().next().is_some())
                    || here(&self.services)
                    || here(&self.ruled)
                    || asked.clone().any(|key| self.policies.contains(key))
                    || facts.telemetries.iter().any(|key| self.telemetries.contains(key))
            }
        };
        if anew { Anew::Everything } else { Anew::Nothing }
    }
}

/// Whether a VirtualService is for others than before, or leads to other hosts: by routing requests, or otherwise, which
/// clusters that come on demand do not wait for.
fn reach_differs(old: &VirtualService, new: &VirtualService) -> bool {
    let to =
        |route| -> [BTreeSet<&Hostname>; 2] { [destinations(route).collect(), destinations_besides(route).collect()] };
    old.hosts != new.hosts
        || old.gateways != new.gateways
        || old.export_to != new.export_to
        || old.semantics != new.semantics
        || to(old) != to(new)
}

fn keys<K: Ord + Clone, T>(new: &Table<K, T>, old: &Table<K, T>) -> BTreeSet<K> {
    new.diff(old).map(|change| change.key().clone()).collect()
}
