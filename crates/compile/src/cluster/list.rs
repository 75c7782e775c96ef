//! Which outbound clusters a class has, before anything of them is built.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_model::destination::{H2Upgrade, LbPolicy, SimpleLb, Subset, TrafficPolicy};
use lateen_model::gateway::ServerTlsMode;
use lateen_model::proxy::ProxyKind;
use lateen_model::route::{HttpRoute, VirtualService};
use lateen_model::service::{Port, Protocol, Registry, Resolution};
use lateen_model::{Service, Shared, Snapshot};
use lateen_names::Hostname;

use super::policy;
use crate::facts::OutboundFacts;
use crate::scope::MergedRule;
use crate::{Scope, names};

/// How Envoy finds a cluster's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Discovery {
    /// From Lateen.
    Eds,
    /// By resolving their names; every answer is one.
    StrictDns,
    /// By resolving a name anew for each connection.
    LogicalDns,
    /// Each connection brings its own.
    OriginalDst,
    /// By resolving the name that the request is for.
    DynamicForward,
}

/// One cluster.
pub(crate) struct Listed<'a> {
    pub(crate) service: &'a Shared<Service>,
    pub(crate) port: &'a Port,
    pub(crate) rule: Option<&'a Shared<MergedRule>>,
    pub(crate) subset: Option<&'a Subset>,
    /// Whether it is for connections that an AUTO_PASSTHROUGH gateway passes on by SNI.
    pub(crate) sni_dnat: bool,
    /// The policy that holds for it.
    pub(crate) policy: TrafficPolicy,
    pub(crate) discovery: Discovery,
}

impl Listed<'_> {
    pub(crate) fn name(&self) -> String {
        let subset = self.subset.map(|subset| &*subset.name).unwrap_or_default();
        let (port, host) = (self.port.number, &self.service.host);
        if self.sni_dnat {
            names::sni_dnat(port, subset, host)
        } else {
            names::outbound(port, subset, host)
        }
    }
}

/// Lists outbound clusters: of each service (or of those of some hosts) the oldest first, of each port, the whole host and
/// then its subsets.
pub(crate) fn outbound<'a>(
    snapshot: &'a Snapshot,
    scope: &'a Scope,
    facts: &'a OutboundFacts,
    hosts: Option<&BTreeSet<Hostname>>,
) -> impl Iterator<Item = Listed<'a>> {
    let services: Vec<&Shared<Service>> = match hosts {
        None => scope.services.iter().collect(),
        Some(hosts) => hosts.iter().filter_map(|host| scope.service(host)).collect(),
    };
    let kinds: &[bool] = match facts.kind {
        ProxyKind::Sidecar => &[false],
        ProxyKind::Router if passes_by_sni(snapshot, facts) => &[false, true],
        ProxyKind::Router => &[false],
        ProxyKind::Waypoint | ProxyKind::Ztunnel => &[],
    };
    let ports = scope_ports(scope, facts);
    let wanted = wanted_by_gateway(snapshot, facts);
    let grpc = Arc::new(grpc_backends(snapshot, facts));
    kinds.iter().flat_map(move |&sni_dnat| {
        let ports = ports.clone();
        let wanted = wanted.clone();
        let grpc = Arc::clone(&grpc);
        let services = services.clone();
        services
            .into_iter()
            .filter(move |service| {
                service.resolution != Resolution::Alias
                    && !(sni_dnat && service.external)
                    && scope.service(&service.host) == Some(*service)
                    && wanted
                        .as_ref()
                        .is_none_or(|hosts| sni_dnat || hosts.contains(&service.host))
            })
            .flat_map(move |service| {
                let ports = ports.clone();
                let grpc = Arc::clone(&grpc);
                service
                    .ports
                    .iter()
                    .filter(move |port| {
                        port.protocol != Protocol::Udp
                            && ports
                                .as_ref()
                                .and_then(|ports| ports.get(&service.host))
                                .is_none_or(|open| open.contains(&port.number))
                    })
                    .flat_map(move |port| {
                        let mut listed = of_port(snapshot, scope, facts, (service, port, sni_dnat));
                        if grpc.contains(&(&service.host, port.number)) {
                            listed.iter_mut().for_each(speak_http2);
                        }
                        listed
                    })
            })
    })
}

fn of_port<'a>(
    snapshot: &'a Snapshot,
    scope: &'a Scope,
    facts: &OutboundFacts,
    (service, port, sni_dnat): (&'a Shared<Service>, &'a Port, bool),
) -> Vec<Listed<'a>> {
    let dynamic = service.is_resolved_on_demand();
    let forwards = matches!(
        port.protocol,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tls
    );
    if dynamic && (!forwards || sni_dnat) {
        return Vec::new();
    }
    let rule = scope.rule(&service.host, Some(&service.namespace));
    let nothing = TrafficPolicy::default();
    let host_policy = rule.map_or(&nothing, |rule| &rule.policy);
    let whole = policy::of_host(host_policy, port.number, &snapshot.mesh.default_policy);
    let own = match discovery(snapshot, facts, service) {
        Discovery::DynamicForward => Discovery::DynamicForward,
        // A host that is passed through is so in all its subsets.
        _ if is_passthrough(&whole) => Discovery::OriginalDst,
        other => other,
    };
    let listed = |policy: TrafficPolicy, subset: Option<&'a Subset>| Listed {
        discovery: if own != Discovery::DynamicForward && is_passthrough(&policy) {
            Discovery::OriginalDst
        } else {
            own
        },
        service,
        port,
        rule,
        subset,
        sni_dnat,
        policy,
    };
    // A dynamic forward proxy has no endpoints that subsets could tell apart.
    let subsets = rule
        .filter(|_| !dynamic)
        .map(|rule| &rule.subsets[..])
        .unwrap_or_default();
    std::iter::once(listed(whole.clone(), None))
        .chain(
            subsets
                .iter()
                .map(|subset| listed(policy::of_subset(whole.clone(), subset, port.number), Some(subset))),
        )
        .collect()
}

/// Whether a policy sends connections where the application meant them to go.
pub(crate) fn is_passthrough(policy: &TrafficPolicy) -> bool {
    let balancer = policy
        .load_balancer
        .as_ref()
        .and_then(|balancer| balancer.policy.as_ref());
    matches!(balancer, Some(LbPolicy::Simple(SimpleLb::Passthrough)))
}

fn discovery(snapshot: &Snapshot, facts: &OutboundFacts, service: &Service) -> Discovery {
    match service.resolution {
        Resolution::DynamicDns if service.is_resolved_on_demand() => Discovery::DynamicForward,
        Resolution::Static | Resolution::Alias | Resolution::DynamicDns => Discovery::Eds,
        Resolution::Dns if !service.dns_first_connect => Discovery::StrictDns,
        Resolution::Dns | Resolution::DnsRoundRobin => Discovery::LogicalDns,
        // A gateway has no connection whose original destination would mean anything.
        Resolution::Passthrough if facts.kind != ProxyKind::Sidecar => Discovery::Eds,
        Resolution::Passthrough
            if service.registry == Registry::Kubernetes
                && snapshot.mesh.feature("PILOT_ENABLE_EDS_FOR_HEADLESS_SERVICES", false) =>
        {
            Discovery::Eds
        }
        Resolution::Passthrough => Discovery::OriginalDst,
    }
}

fn passes_by_sni(snapshot: &Snapshot, facts: &OutboundFacts) -> bool {
    let gateways = facts.gateways.iter().filter_map(|key| snapshot.gateways.get(key));
    gateways.flat_map(|gateway| &gateway.servers).any(|server| {
        let mode = server.tls.as_ref().map(|tls| tls.mode);
        mode == Some(ServerTlsMode::AutoPassthrough)
    })
}

/// The ports by which a Sidecar lets each host be called, where it names ports at all; hosts that are not in the map are
/// open altogether.
fn scope_ports(scope: &Scope, facts: &OutboundFacts) -> Option<BTreeMap<Hostname, Vec<u16>>> {
    let narrows = |entry: &crate::scope::EgressScope| entry.egress.as_ref().is_some_and(|egress| egress.port.is_some());
    if facts.kind != ProxyKind::Sidecar || !scope.egress.iter().any(narrows) {
        return None;
    }
    let mut open: BTreeMap<Hostname, Option<Vec<u16>>> = BTreeMap::new();
    for entry in &scope.egress {
        let port = entry.egress.as_ref().and_then(|egress| egress.port.as_ref());
        for service in &entry.services {
            let ports = open.entry(service.host.clone()).or_insert_with(|| Some(Vec::new()));
            match port.map(|port| port.number) {
                Some(number) if number != 0 => {
                    if let Some(ports) = ports {
                        ports.push(number);
                    }
                }
                _ => *ports = None,
            }
        }
    }
    Some(
        open.into_iter()
            .filter_map(|(host, ports)| ports.map(|ports| (host, ports)))
            .collect(),
    )
}

/// With `PILOT_FILTER_GATEWAY_CLUSTER_CONFIG`: the hosts that a gateway's routes and the mesh's providers name.
fn wanted_by_gateway(snapshot: &Snapshot, facts: &OutboundFacts) -> Option<Vec<Hostname>> {
    if facts.kind != ProxyKind::Router || !snapshot.mesh.feature("PILOT_FILTER_GATEWAY_CLUSTER_CONFIG", false) {
        return None;
    }
    let routed = bound(snapshot, facts).flat_map(|route| crate::scope::destinations(route).cloned());
    let provided = snapshot.mesh.providers.iter().filter_map(|provider| {
        let config: serde_json::Value = serde_json::from_str(&provider.config).ok()?;
        let service = config.get("service")?.as_str()?;
        Hostname::lower(service.rsplit('/').next()?).ok()
    });
    Some(routed.chain(provided).collect())
}

/// Where GRPCRoutes of a gateway lead. A gateway does not sniff: what a port speaks whose service does not say, they say.
fn grpc_backends<'a>(snapshot: &'a Snapshot, facts: &OutboundFacts) -> BTreeSet<(&'a Hostname, u16)> {
    if facts.kind != ProxyKind::Router {
        return BTreeSet::new();
    }
    let routes = bound(snapshot, facts).flat_map(|route| &route.http);
    let backends = routes.filter(|route| route.grpc).flat_map(HttpRoute::backends);
    let destinations = backends.filter_map(|to| to.destination.as_ref());
    destinations.filter_map(|to| Some((&to.host, to.port?))).collect()
}

/// VirtualServices that are for a gateway's proxies.
fn bound<'a>(snapshot: &'a Snapshot, facts: &OutboundFacts) -> impl Iterator<Item = &'a Shared<VirtualService>> {
    let routes = snapshot.virtual_services.values();
    routes.filter(|route| route.gateways.iter().any(|gateway| binds(gateway, &facts.gateways)))
}

/// HTTP/2, where nobody says anything else.
fn speak_http2(listed: &mut Listed<'_>) {
    if matches!(listed.port.protocol, Protocol::Unspecified | Protocol::Unsupported) {
        let pool = listed.policy.pool.get_or_insert_default();
        let http = pool.http.get_or_insert_default();
        if http.h2_upgrade == H2Upgrade::Default {
            http.h2_upgrade = H2Upgrade::Upgrade;
        }
    }
}

fn binds(gateway: &lateen_model::route::GatewayRef, keys: &[lateen_names::ObjectKey]) -> bool {
    match gateway {
        lateen_model::route::GatewayRef::Mesh => false,
        lateen_model::route::GatewayRef::Gateway(key) => keys.contains(key),
    }
}
