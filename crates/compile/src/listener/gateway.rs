//! Listeners of gateways.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use lateen_model::gateway::{ServerProtocol, ServerTls, ServerTlsMode};
use lateen_model::route::{GatewayRef, L4Match, Semantics, VirtualService, WeightedDestination};
use lateen_model::service::Protocol;
use lateen_model::{Shared, Snapshot};
use lateen_names::{Hostname, ObjectRef};
use lateen_proto::envoy::config::core::v3::TrafficDirection;
use lateen_proto::envoy::config::listener::v3 as pb;

use super::chain::{self, MESH_ANY};
use super::hcm::{self, Http, Source};
use super::outbound::listener_name;
use super::plan;
use super::security::PolicyInput;
use super::servers::{self, PlacedServer};
use super::tcp::Target;
use super::telemetry::Side;
use super::{Common, tls};
use crate::facts::OutboundFacts;
use crate::route::{common_hosts, exported_routes, resolve, source_applies};
use crate::{Scope, names};

/// What the chain of a server does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Http { table: Arc<str>, protocol: Protocol },
    Tcp(Target),
}

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Chain {
    names: Vec<Arc<str>>,
    alpn: Vec<Arc<str>>,
    ranges: Vec<IpNet>,
    tls: Option<ServerTls>,
    /// Port of the server, by which extensions choose bytes.
    port: u16,
    action: Action,
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Gateway {
    bind: Vec<Arc<str>>,
    port: u16,
    chains: Vec<Chain>,
    policies: PolicyInput,
    origins: BTreeSet<ObjectRef>,
}

pub(super) fn select(snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Vec<Gateway> {
    let routes = exported_routes(snapshot, facts);
    let policies = PolicyInput::select(snapshot, &facts.policies);
    let mut listeners: BTreeMap<(u16, Option<std::net::IpAddr>), Vec<PlacedServer>> = BTreeMap::new();
    for server in servers::placed(snapshot, facts) {
        listeners
            .entry((server.port, server.server.bind))
            .or_default()
            .push(server);
    }
    listeners
        .into_iter()
        .filter_map(|((port, bind), servers)| {
            if facts.options.unprivileged && port < 1024 {
                return None;
            }
            let chains = chains(&servers, &routes, scope, facts);
            let bind = bind.map_or_else(|| plan::wildcards(facts), |ip| vec![ip.to_string().into()]);
            let origins = servers
                .iter()
                .filter_map(|server| snapshot.gateways.get(&server.gateway));
            let origins = origins.map(|gateway| gateway.origin.clone()).collect();
            (!chains.is_empty()).then(|| Gateway {
                bind,
                port,
                chains,
                policies: policies.clone(),
                origins,
            })
        })
        .collect()
}

fn chains(
    servers: &[PlacedServer],
    routes: &[Shared<VirtualService>],
    scope: &Scope,
    facts: &OutboundFacts,
) -> Vec<Chain> {
    let mut chains = Vec::new();
    for server in servers {
        match &server.routes {
            Some(table) if !server.is_tls() => {
                // Every plain server of the port shares the table, and so the chain.
                if chains.is_empty() {
                    let action = Action::Http {
                        table: Arc::clone(table),
                        protocol: http_protocol(server),
                    };
                    chains.push(Chain {
                        names: Vec::new(),
                        alpn: Vec::new(),
                        ranges: Vec::new(),
                        tls: None,
                        port: server.server.port,
                        action,
                    });
                }
            }
            Some(table) => chains.push(Chain {
                names: server_names(server),
                alpn: Vec::new(),
                ranges: Vec::new(),
                tls: server.server.tls.clone(),
                port: server.server.port,
                action: Action::Http {
                    table: Arc::clone(table),
                    protocol: http_protocol(server),
                },
            }),
            None => chains.extend(tcp_chains(server, routes, scope, facts)),
        }
    }
    chains
}

fn http_protocol(server: &PlacedServer) -> Protocol {
    if server.server.protocol == ServerProtocol::GrpcWeb {
        Protocol::GrpcWeb
    } else {
        Protocol::Http
    }
}

/// Server names that a client must send; none where the server takes any host.
fn server_names(server: &PlacedServer) -> Vec<Arc<str>> {
    let hosts: Vec<&Hostname> = server.server.hosts.iter().map(|host| &host.host).collect();
    if hosts.iter().any(|host| host.as_str() == "*") {
        return Vec::new();
    }
    let mut names: Vec<Arc<str>> = Vec::new();
    for host in hosts {
        if !names.iter().any(|name| **name == *host.as_str()) {
            names.push(host.as_str().into());
        }
    }
    names
}

fn tcp_chains(
    server: &PlacedServer,
    routes: &[Shared<VirtualService>],
    scope: &Scope,
    facts: &OutboundFacts,
) -> Vec<Chain> {
    let mode = server.server.tls.as_ref().map(|tls| tls.mode);
    if server.is_tls() && mode == Some(ServerTlsMode::AutoPassthrough) {
        return auto_passthrough(server, scope);
    }
    let gateway = GatewayRef::Gateway(server.gateway.clone());
    let bound = routes
        .iter()
        .filter(|route| route.gateways.contains(&gateway) && !common_hosts(server, route).is_empty());
    let passthrough = server.is_tls() && mode.unwrap_or_default() == ServerTlsMode::Passthrough;
    let mut chains: Vec<Chain> = Vec::new();
    for route in bound {
        if passthrough {
            for one in &route.tls {
                for condition in one
                    .matches
                    .iter()
                    .filter(|condition| applies(condition, server, &gateway, facts))
                {
                    let Some(target) = target(route, &one.destinations, server, scope) else {
                        continue;
                    };
                    chains.push(Chain {
                        names: condition.sni.iter().map(|name| Arc::from(name.as_str())).collect(),
                        alpn: Vec::new(),
                        ranges: condition.destination_subnets.clone(),
                        tls: None,
                        port: server.server.port,
                        action: Action::Tcp(target),
                    });
                }
            }
            continue;
        }
        for one in &route.tcp {
            let fits = one.matches.is_empty()
                || one
                    .matches
                    .iter()
                    .any(|condition| applies(condition, server, &gateway, facts));
            if let (true, Some(target)) = (fits, target(route, &one.destinations, server, scope)) {
                let tls = server.server.tls.clone().filter(|_| server.is_tls());
                // Of the Gateway API's routes, each takes its own hosts; nothing else tells connections apart, so that the
                // first of Istio's takes all.
                let by_host = tls.is_some() && route.semantics == Semantics::GatewayApi;
                let names = match (by_host, server.is_tls()) {
                    (true, _) => common_hosts(server, route)
                        .iter()
                        .map(|host| host.as_str().into())
                        .collect(),
                    (false, true) => server_names(server),
                    (false, false) => Vec::new(),
                };
                chains.push(Chain {
                    names,
                    alpn: Vec::new(),
                    ranges: Vec::new(),
                    tls,
                    port: server.server.port,
                    action: Action::Tcp(target),
                });
                if !by_host {
                    return chains;
                }
                break;
            }
        }
    }
    chains
}

fn applies(condition: &L4Match, server: &PlacedServer, gateway: &GatewayRef, facts: &OutboundFacts) -> bool {
    condition.port.is_none_or(|port| port == server.server.port)
        && source_applies(&condition.source, std::slice::from_ref(gateway), facts)
}

fn target(
    route: &VirtualService,
    destinations: &[WeightedDestination],
    server: &PlacedServer,
    scope: &Scope,
) -> Option<Target> {
    let protocol = match server.server.protocol {
        ServerProtocol::Mongo => Protocol::Mongo,
        ServerProtocol::Redis => Protocol::Redis,
        ServerProtocol::MySql => Protocol::MySql,
        _ => Protocol::Tcp,
    };
    let name = format!("{}.{}", route.origin.key.name, route.namespace);
    let first = destinations.first()?.destination.as_ref()?;
    let namespace = scope.service(&first.host).map(|service| service.namespace.clone());
    let rule = scope.rule(&first.host, namespace.as_ref());
    let subset = if destinations.len() == 1 {
        first.subset.as_deref()
    } else {
        None
    };
    Target::weighted(&name, destinations, protocol, |to| {
        resolve(to, server.server.port, scope)
    })
    .map(|target| target.with_rule(rule.map(|rule| &**rule), subset))
}

/// One chain for every cluster that a sidecar elsewhere may name in its server name.
fn auto_passthrough(server: &PlacedServer, scope: &Scope) -> Vec<Chain> {
    let mut chains = Vec::new();
    let admitted = |host: &Hostname| server.server.hosts.iter().any(|accepted| accepted.host.covers(host));
    for service in scope
        .services
        .iter()
        .filter(|service| !service.external && admitted(&service.host))
    {
        let rule = scope.rule(&service.host, Some(&service.namespace));
        let subsets = rule.map(|rule| rule.subsets.as_slice()).unwrap_or_default();
        for port in service
            .ports
            .iter()
            .filter(|port| plan::kind_of(port.protocol).is_some())
        {
            for subset in std::iter::once("").chain(subsets.iter().map(|subset| &*subset.name)) {
                let name = names::sni_dnat(port.number, subset, &service.host);
                chains.push(Chain {
                    names: vec![name.as_str().into()],
                    alpn: MESH_ANY.iter().map(|alpn| Arc::from(*alpn)).collect(),
                    ranges: Vec::new(),
                    tls: None,
                    port: server.server.port,
                    action: Action::Tcp(Target::single(&name, Protocol::Tcp)),
                });
            }
        }
    }
    chains
}

impl Gateway {
    pub(super) fn origins(&self) -> Vec<ObjectRef> {
        self.origins.iter().cloned().collect()
    }

    pub(super) fn build(&self, common: &Common) -> pb::Listener {
        let first = self.bind.first().map_or("", |first| first);
        let name = listener_name(first, self.port);
        let needs_tls = self
            .chains
            .iter()
            .any(|chain| !chain.names.is_empty() || chain.tls.is_some());
        let mut filters = Vec::new();
        if common.config.proxy_protocol {
            filters.push(chain::proxy_protocol());
        }
        if needs_tls {
            filters.push(chain::tls_inspector());
        }
        pb::Listener {
            address: Some(chain::address(first, self.port)),
            additional_addresses: chain::additional(self.bind.get(1..).unwrap_or_default(), self.port),
            traffic_direction: TrafficDirection::Outbound.into(),
            max_connections_to_accept_per_socket_event: Some(1),
            listener_filters: filters,
            filter_chains: distinct(&self.chains)
                .iter()
                .map(|chain| self.chain(chain, &name, common))
                .collect(),
            access_log: common.telemetry.listener_logs(common, Side::Gateway),
            name,
            ..Default::default()
        }
    }

    fn chain(&self, one: &Chain, listener: &str, common: &Common) -> pb::FilterChain {
        let any_name = one.names.iter().any(|name| &**name == "*");
        let matched = pb::FilterChainMatch {
            server_names: if any_name { Vec::new() } else { chain::texts(&one.names) },
            application_protocols: chain::texts(&one.alpn),
            prefix_ranges: one.ranges.iter().map(chain::range).collect(),
            ..Default::default()
        };
        let (filters, alpn): (Vec<pb::Filter>, &[&str]) = match &one.action {
            Action::Http { table, protocol } => {
                let http = Http {
                    side: Side::Gateway,
                    stat_prefix: format!("outbound_{listener}"),
                    routes: Source::Rds(Arc::clone(table)),
                    protocol: *protocol,
                    edge: true,
                    port: self.port,
                    security: self.policies.http(common),
                    forwards: Vec::new(),
                };
                (hcm::network_filters(http, common), &["h2", "http/1.1"])
            }
            Action::Tcp(target) => {
                let mut filters = common
                    .extensions
                    .around(self.policies.tcp(common), Side::Gateway, one.port);
                filters.extend(target.filters(common, Side::Gateway));
                (filters, &[])
            }
        };
        pb::FilterChain {
            filter_chain_match: (matched != pb::FilterChainMatch::default()).then_some(matched),
            filters,
            transport_socket: one
                .tls
                .as_ref()
                .map(|settings| tls::socket(&tls::server(settings, common, alpn))),
            transport_socket_connect_timeout: Some(chain::handshake_timeout()),
            ..Default::default()
        }
    }
}

/// Envoy refuses a listener in which two chains are for one server name: the first keeps it.
fn distinct(chains: &[Chain]) -> Vec<Cow<'_, Chain>> {
    let mut taken = HashSet::new();
    let mut kept = Vec::with_capacity(chains.len());
    for chain in chains {
        // No name, or a `*` among others, is any name.
        if chain.names.is_empty() || chain.names.iter().any(|name| &**name == "*") {
            if taken.insert(("*", &chain.alpn, &chain.ranges)) {
                kept.push(Cow::Borrowed(chain));
            }
            continue;
        }
        let mut names: Vec<Arc<str>> = Vec::new();
        for name in &chain.names {
            if taken.insert((&**name, &chain.alpn, &chain.ranges)) {
                names.push(Arc::clone(name));
            }
        }
        if names.len() == chain.names.len() {
            kept.push(Cow::Borrowed(chain));
        } else if !names.is_empty() {
            kept.push(Cow::Owned(Chain { names, ..chain.clone() }));
        }
    }
    kept
}
