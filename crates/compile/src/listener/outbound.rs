//! Listeners for calls: one per planned address, and the one that iptables hands connections to.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use lateen_model::proxy::Interception;
use lateen_model::route::{GatewayRef, L4Match, Semantics, VirtualService};
use lateen_model::service::{Port, Protocol};
use lateen_model::sidecar::OutboundPolicy;
use lateen_model::{Service, Shared, Snapshot};
use lateen_names::{Hostname, ObjectRef};
use lateen_proto::envoy::config::core::v3::TrafficDirection;
use lateen_proto::envoy::config::listener::v3 as pb;

use super::chain::{self, PLAIN_HTTP, RAW};
use super::forward::Forward;
use super::hcm::{self, Http, Source};
use super::plan::{self, Planned, TcpService};
use super::tcp::Target;
use super::telemetry::Side;
use super::{Common, tcp};
use crate::extension::ALL_PHASES;
use crate::facts::OutboundFacts;
use crate::route::{outbound_policy, resolve, source_applies};
use crate::scope::{EgressScope, Sight};
use crate::{Scope, names};

/// A chain that passes bytes, and what tells it apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TcpChain {
    names: Vec<Arc<str>>,
    ranges: Vec<IpNet>,
    target: Target,
}

/// One outbound listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Outbound {
    addresses: Vec<Arc<str>>,
    port: u16,
    to_port: bool,
    protocol: Protocol,
    routes: Option<Arc<str>>,
    sniff_http: bool,
    tcp: Vec<TcpChain>,
    fallback: Arc<str>,
    forwards: Vec<Forward>,
    origins: BTreeSet<ObjectRef>,
}

/// The listener that iptables hands connections to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Catchall {
    fallback: Arc<str>,
}

/// A listener that speaks the proxy protocol of HTTP to the application.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct HttpProxy {
    port: u16,
}

/// Name of the route table of [`HttpProxy`].
const HTTP_PROXY_ROUTES: &str = "http_proxy";

impl Outbound {
    /// Whether some of it is read as HTTP.
    pub(super) fn is_http(&self) -> bool {
        self.routes.is_some()
    }
}

/// The listener that is planned.
pub(super) fn of(planned: &Planned, Sight { snapshot, scope }: Sight<'_>, facts: &OutboundFacts) -> Outbound {
    let mut origins = BTreeSet::new();
    let mut chains: Vec<TcpChain> = Vec::new();
    for service in &planned.tcp {
        for chain in tcp_chains(service, planned, scope, facts, &mut origins) {
            let taken = chains
                .iter()
                .any(|known| known.names == chain.names && known.ranges == chain.ranges);
            if !taken {
                chains.push(chain);
            }
        }
    }
    let forwards = match planned.routes {
        Some(_) => forwarded(&scope.egress[planned.egress], planned.port),
        None => Vec::new(),
    };
    Outbound {
        forwards,
        addresses: planned.bind.addresses.clone(),
        port: planned.port,
        to_port: planned.bind.to_port,
        protocol: planned.http,
        routes: planned.routes.clone(),
        sniff_http: planned.sniff_http,
        tcp: chains,
        fallback: fallback_cluster(outbound_policy(snapshot, scope)),
        origins,
    }
}

pub(super) fn name_of(planned: &Planned) -> String {
    let (address, port) = planned.place();
    listener_name(address, port)
}

/// Services whose requests at a port are resolved as they come.
fn forwarded(entry: &EgressScope, port: u16) -> Vec<Forward> {
    let here = |service: &&Shared<Service>| {
        let http = |port: &&Port| plan::kind_of(port.protocol) == Some(plan::Kind::Http);
        service.is_resolved_on_demand() && service.ports.iter().filter(http).any(|own| own.number == port)
    };
    let services = entry.services.iter().filter(here);
    services
        .map(|service| Forward {
            host: service.host.clone(),
            port,
        })
        .collect()
}

pub(super) fn catchall(snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Option<Catchall> {
    let intercepted = facts.interception != Interception::None;
    intercepted.then(|| Catchall {
        fallback: fallback_cluster(outbound_policy(snapshot, scope)),
    })
}

pub(super) fn http_proxy(facts: &OutboundFacts) -> Option<HttpProxy> {
    facts.options.http_proxy_port.map(|port| HttpProxy { port })
}

fn fallback_cluster(policy: &OutboundPolicy) -> Arc<str> {
    match policy {
        OutboundPolicy::AllowAny => names::PASSTHROUGH.into(),
        OutboundPolicy::RegistryOnly => names::BLACK_HOLE.into(),
        OutboundPolicy::EgressProxy(cluster) => Arc::clone(cluster),
    }
}

/// Chains of one service: those of VirtualServices first; the service's own cluster where none takes everything.
fn tcp_chains(
    one: &TcpService,
    planned: &Planned,
    scope: &Scope,
    facts: &OutboundFacts,
    origins: &mut BTreeSet<ObjectRef>,
) -> Vec<TcpChain> {
    let routes = scope.egress[one.egress].virtual_services.iter();
    let foreign =
        |route: &VirtualService| route.semantics == Semantics::GatewayApi && route.namespace != one.service.namespace;
    let mut routes: Vec<_> = routes
        .filter(|route| route.hosts.iter().any(|host| host.matches(&one.service.host)))
        .filter(|route| !foreign(route) || route.namespace == facts.namespace)
        .collect();
    // As with HTTP: what clients' own namespace says of other namespaces' services goes first.
    routes.sort_by_key(|route| !foreign(route));
    let mut chains = Vec::new();
    let complete = if one.protocol.is_tls() {
        tls_chains(one, planned, &routes, scope, facts, &mut chains)
    } else {
        plain_chains(one, planned, &routes, scope, facts, &mut chains)
    };
    origins.extend(
        routes
            .iter()
            .filter(|r| !r.tls.is_empty() || !r.tcp.is_empty())
            .map(|route| route.origin.clone()),
    );
    if !complete {
        let names = if one.by_name {
            server_names(one, facts)
        } else {
            Vec::new()
        };
        chains.push(TcpChain {
            names,
            ranges: one.ranges.clone(),
            target: own_target(one, planned, scope),
        });
    }
    chains
}

fn server_names(one: &TcpService, _: &OutboundFacts) -> Vec<Arc<str>> {
    std::iter::once(&one.service.host)
        .chain(one.service.aliases.iter().map(|alias| &alias.host))
        .map(|host| Arc::from(host.as_str()))
        .collect()
}

/// The service's own cluster: of its only port, else of the listener's.
fn own_target(one: &TcpService, planned: &Planned, scope: &Scope) -> Target {
    let port = match one.service.ports.as_slice() {
        [only] => only.number,
        _ => planned.port,
    };
    let rule = scope.rule(&one.service.host, Some(&one.service.namespace));
    let forward = one.service.is_resolved_on_demand() && one.protocol.is_tls();
    let target = Target::single(&names::outbound(port, "", &one.service.host), one.protocol);
    Target {
        forward: forward.then(|| Forward {
            host: one.service.host.clone(),
            port,
        }),
        ..target
    }
    .with_rule(rule.map(|rule| &**rule), None)
}

fn target(
    route: &VirtualService,
    destinations: &[lateen_model::route::WeightedDestination],
    protocol: Protocol,
    port: u16,
    scope: &Scope,
) -> Option<Target> {
    let name = format!("{}.{}", route.origin.key.name, route.namespace);
    let first = destinations.first()?.destination.as_ref()?;
    let namespace = scope.service(&first.host).map(|service| service.namespace.clone());
    let rule = scope.rule(&first.host, namespace.as_ref());
    let subset = if destinations.len() == 1 {
        first.subset.as_deref()
    } else {
        None
    };
    Target::weighted(&name, destinations, protocol, |to| resolve(to, port, scope))
        .map(|target| target.with_rule(rule.map(|rule| &**rule), subset))
}

fn applies(condition: &L4Match, planned: &Planned, facts: &OutboundFacts) -> bool {
    condition.port.is_none_or(|port| port == planned.port)
        && source_applies(&condition.source, &[GatewayRef::Mesh], facts)
}

/// Returns whether the service's own chain is not needed: some VirtualService routes by server name.
fn tls_chains(
    one: &TcpService,
    planned: &Planned,
    routes: &[&Shared<VirtualService>],
    scope: &Scope,
    facts: &OutboundFacts,
    chains: &mut Vec<TcpChain>,
) -> bool {
    let before = chains.len();
    let mut seen: BTreeSet<(Vec<Hostname>, Vec<IpNet>)> = BTreeSet::new();
    for route in routes {
        for tls in &route.tls {
            for condition in tls
                .matches
                .iter()
                .filter(|condition| applies(condition, planned, facts))
            {
                if !seen.insert((condition.sni.clone(), condition.destination_subnets.clone())) {
                    continue;
                }
                let Some(target) = target(route, &tls.destinations, one.protocol, planned.port, scope) else {
                    continue;
                };
                let own = condition.destination_subnets.is_empty() || planned.port == 0;
                chains.push(TcpChain {
                    names: condition.sni.iter().map(|name| Arc::from(name.as_str())).collect(),
                    ranges: if own {
                        one.ranges.clone()
                    } else {
                        condition.destination_subnets.clone()
                    },
                    target,
                });
            }
        }
    }
    chains.len() > before
}

/// Returns whether some VirtualService takes every connection.
fn plain_chains(
    one: &TcpService,
    planned: &Planned,
    routes: &[&Shared<VirtualService>],
    scope: &Scope,
    facts: &OutboundFacts,
    chains: &mut Vec<TcpChain>,
) -> bool {
    for route in routes {
        for tcp in &route.tcp {
            let Some(target) = target(route, &tcp.destinations, one.protocol, planned.port, scope) else {
                continue;
            };
            let fitting: Vec<_> = tcp
                .matches
                .iter()
                .filter(|condition| applies(condition, planned, facts))
                .collect();
            let everything = tcp.matches.is_empty()
                || fitting
                    .iter()
                    .any(|condition| condition.destination_subnets.is_empty() || planned.port == 0);
            if everything {
                chains.push(TcpChain {
                    names: Vec::new(),
                    ranges: one.ranges.clone(),
                    target,
                });
                return true;
            }
            let ranges: Vec<IpNet> = fitting
                .iter()
                .flat_map(|condition| condition.destination_subnets.clone())
                .collect();
            if !ranges.is_empty() {
                chains.push(TcpChain {
                    names: Vec::new(),
                    ranges,
                    target,
                });
            }
        }
    }
    false
}

impl Outbound {
    pub(super) fn origins(&self) -> Vec<ObjectRef> {
        self.origins.iter().cloned().collect()
    }

    pub(super) fn build(&self, common: &Common) -> pb::Listener {
        let first = self.addresses.first().cloned().unwrap_or_default();
        let name = listener_name(&first, self.port);
        let mut listener = pb::Listener {
            address: Some(chain::address(&first, self.port)),
            additional_addresses: chain::additional(&self.addresses[1.min(self.addresses.len())..], self.port),
            traffic_direction: TrafficDirection::Outbound.into(),
            continue_on_listener_filters_timeout: true,
            listener_filters_timeout: Some(chain::never()),
            ..Default::default()
        };
        if self.to_port {
            listener.max_connections_to_accept_per_socket_event = Some(1);
        } else {
            listener.bind_to_port = Some(false);
        }
        if common.options.exact_balance.1 {
            listener.connection_balance_config = Some(exact_balance());
        }
        let mut tls_inspector = false;
        for tcp in &self.tcp {
            tls_inspector |= !tcp.names.is_empty();
            place(&mut listener, tcp.build(self.port, common));
        }
        if tls_inspector {
            listener.listener_filters.push(chain::tls_inspector());
        }
        if let Some(routes) = &self.routes {
            place(&mut listener, self.http_chain(&name, routes, common));
            if self.sniff_http {
                listener.listener_filters.push(chain::http_inspector());
                listener.listener_filters_timeout = Some(
                    common
                        .mesh
                        .protocol_detection_timeout
                        .map(tcp::duration)
                        .unwrap_or_default(),
                );
            }
        }
        self.close(&mut listener, common);
        listener.name = name;
        listener
    }

    /// One chain needs no default; of several none may leave connections without.
    fn close(&self, listener: &mut pb::Listener, common: &Common) {
        match listener.default_filter_chain.take() {
            Some(default) if listener.filter_chains.is_empty() => listener.filter_chains.push(default),
            Some(default) => listener.default_filter_chain = Some(default),
            None => {
                listener.default_filter_chain = Some(pb::FilterChain {
                    name: "PassthroughFilterChain".to_owned(),
                    filter_chain_match: Some(pb::FilterChainMatch::default()),
                    filters: Target::single(&self.fallback, Protocol::Tcp).filters(common, Side::Outbound),
                    ..Default::default()
                });
            }
        }
    }

    fn http_chain(&self, name: &str, routes: &Arc<str>, common: &Common) -> pb::FilterChain {
        let http = Http {
            side: Side::Outbound,
            stat_prefix: format!("outbound_{name}"),
            routes: Source::Rds(Arc::clone(routes)),
            protocol: self.protocol,
            edge: false,
            port: self.port,
            security: Default::default(),
            forwards: self.forwards.clone(),
        };
        let matched = self.sniff_http.then(|| pb::FilterChainMatch {
            application_protocols: chain::texts(&PLAIN_HTTP),
            transport_protocol: RAW.to_owned(),
            ..Default::default()
        });
        pb::FilterChain {
            filter_chain_match: matched,
            filters: hcm::network_filters(http, common),
            transport_socket_connect_timeout: Some(chain::handshake_timeout()),
            ..Default::default()
        }
    }
}

/// A chain that matches everything is the default.
fn place(listener: &mut pb::Listener, chain: pb::FilterChain) {
    match &chain.filter_chain_match {
        None if listener.default_filter_chain.is_none() => listener.default_filter_chain = Some(chain),
        None => {}
        Some(_) => listener.filter_chains.push(chain),
    }
}

impl TcpChain {
    fn build(&self, port: u16, common: &Common) -> pb::FilterChain {
        let any_name = self.names.is_empty() || self.names.iter().any(|name| &**name == "*");
        let matched = pb::FilterChainMatch {
            server_names: if any_name {
                Vec::new()
            } else {
                chain::texts(&self.names)
            },
            prefix_ranges: self.ranges.iter().map(chain::range).collect(),
            ..Default::default()
        };
        let mut filters = common.extensions.network(Side::Outbound, port, &ALL_PHASES);
        filters.extend(self.target.filters(common, Side::Outbound));
        pb::FilterChain {
            filter_chain_match: (matched != pb::FilterChainMatch::default()).then_some(matched),
            filters,
            transport_socket_connect_timeout: Some(chain::handshake_timeout()),
            ..Default::default()
        }
    }
}

impl Catchall {
    pub(super) fn build(&self, common: &Common) -> pb::Listener {
        let (first, second) = common.families.wildcards();
        pb::Listener {
            name: names::VIRTUAL_OUTBOUND.to_owned(),
            address: Some(chain::address(first, common.mesh.outbound_port)),
            additional_addresses: chain::additional(&second.into_iter().collect::<Vec<_>>(), common.mesh.outbound_port),
            use_original_dst: Some(true),
            transparent: (common.interception == Interception::Tproxy).then_some(true),
            traffic_direction: TrafficDirection::Outbound.into(),
            max_connections_to_accept_per_socket_event: Some(1),
            filter_chains: vec![
                // A connection to the listener itself would go around in circles.
                pb::FilterChain {
                    name: "virtualOutbound-blackhole".to_owned(),
                    filter_chain_match: Some(pb::FilterChainMatch {
                        destination_port: Some(common.mesh.outbound_port.into()),
                        ..Default::default()
                    }),
                    filters: Target::single(names::BLACK_HOLE, Protocol::Tcp).silent(),
                    ..Default::default()
                },
                pb::FilterChain {
                    name: "virtualOutbound-catchall-tcp".to_owned(),
                    filters: Target::single(&self.fallback, Protocol::Tcp).filters(common, Side::Outbound),
                    ..Default::default()
                },
            ],
            access_log: common.telemetry.listener_logs(common, Side::Outbound),
            ..Default::default()
        }
    }
}

impl HttpProxy {
    pub(super) fn build(&self, common: &Common) -> pb::Listener {
        let host = if common.families.v4() { "127.0.0.1" } else { "::1" };
        let name = listener_name(host, self.port);
        let http = Http {
            side: Side::Outbound,
            stat_prefix: format!("outbound_{name}"),
            routes: Source::Rds(HTTP_PROXY_ROUTES.into()),
            protocol: Protocol::Http,
            edge: false,
            port: self.port,
            security: Default::default(),
            forwards: Vec::new(),
        };
        pb::Listener {
            name,
            address: Some(chain::address(host, self.port)),
            traffic_direction: TrafficDirection::Outbound.into(),
            filter_chains: vec![pb::FilterChain {
                filters: hcm::network_filters(http, common),
                ..Default::default()
            }],
            ..Default::default()
        }
    }
}

pub(super) fn exact_balance() -> pb::listener::ConnectionBalanceConfig {
    use pb::listener::connection_balance_config::{BalanceType, ExactBalance};
    pb::listener::ConnectionBalanceConfig {
        balance_type: Some(BalanceType::ExactBalance(ExactBalance {})),
    }
}

/// `<address>_<port>`; a Unix socket's own path.
pub(super) fn listener_name(address: &str, port: u16) -> String {
    if port == 0 {
        address.to_owned()
    } else {
        format!("{address}_{port}")
    }
}
