//! Listeners for being called: chains by port, mutual TLS and protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_model::Snapshot;
use lateen_model::gateway::ServerTls;
use lateen_model::policy::MtlsMode;
use lateen_model::proxy::Interception;
use lateen_model::service::Protocol;
use lateen_model::sidecar::CaptureMode;
use lateen_proto::envoy::config::core::v3::TrafficDirection;
use lateen_proto::envoy::config::listener::v3 as pb;
use lateen_proto::envoy::config::listener::v3::listener_filter_chain_match_predicate::{MatchSet, Rule};
use lateen_proto::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use lateen_proto::envoy::r#type::v3::Int32Range;

use super::chain::{self, MESH_ANY, MESH_HTTP, MESH_TCP, PLAIN_HTTP, RAW, TLS};
use super::hcm::{self, Http, Source};
use super::outbound::{exact_balance, listener_name};
use super::plan::{self, Kind};
use super::tcp::Target;
use super::telemetry::Side;
use super::{Common, tls};
use crate::facts::InboundFacts;
use crate::route::inbound_route;
use crate::{mtls, names};

/// A port of the application.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Port {
    /// Port at the workload; 0 for everything that no other chain takes.
    target: u16,
    /// Port of the service.
    service_port: u16,
    protocol: Protocol,
    /// What traces call it.
    operation: Arc<str>,
    mode: MtlsMode,
    /// Addresses that name the chain, and are bound where `to_port`.
    bind: Vec<Arc<str>>,
    to_port: bool,
    /// TLS that a Sidecar object asks for, where there is no mutual TLS.
    tls: Option<ServerTls>,
}

/// One inbound listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Inbound {
    /// `None` for the virtual listener.
    own: Option<(Vec<Arc<str>>, u16)>,
    ports: Vec<Port>,
    /// Mode toward ports that no service has; `None` on listeners of their own.
    passthrough: Option<MtlsMode>,
    /// Whether connections to such ports reach the application.
    passthrough_allowed: bool,
    policies: super::security::PolicyInput,
}

pub(super) fn select(snapshot: &Snapshot, facts: &InboundFacts) -> Vec<Inbound> {
    let policies = super::security::PolicyInput::select(snapshot, &facts.policies);
    let ports = ports(snapshot, facts);
    let (bound, captured): (Vec<Port>, Vec<Port>) = ports.into_iter().partition(|port| port.to_port);
    let mut listeners = Vec::new();
    if facts.interception != Interception::None {
        listeners.push(Inbound {
            own: None,
            ports: captured,
            passthrough: Some(mtls::mode(snapshot, &facts.policies.peer, &facts.namespace, 0)),
            passthrough_allowed: snapshot.mesh.inbound_passthrough,
            policies: policies.clone(),
        });
    }
    for port in bound {
        listeners.push(Inbound {
            own: Some((port.bind.clone(), port.target)),
            ports: vec![port],
            passthrough: None,
            passthrough_allowed: true,
            policies: policies.clone(),
        });
    }
    listeners
}

/// Ports of the Sidecar object in force, if it lists any, else those of the services here: the oldest service of a port
/// decides.
fn ports(snapshot: &Snapshot, facts: &InboundFacts) -> Vec<Port> {
    let sidecar = facts.sidecar.as_ref().and_then(|key| snapshot.sidecars.get(key));
    let wildcards: Vec<Arc<str>> = {
        let (first, second) = facts.families.wildcards();
        std::iter::once(first).chain(second).map(Arc::from).collect()
    };
    let mode = |port| mtls::mode(snapshot, &facts.policies.peer, &facts.namespace, port);
    let none = facts.interception == Interception::None;
    if let Some(sidecar) = sidecar.filter(|sidecar| !sidecar.ingress.is_empty()) {
        let mut seen = BTreeSet::new();
        let mut ports: Vec<Port> = Vec::new();
        for entry in sidecar.ingress.iter().filter(|entry| seen.insert(entry.port.number)) {
            let to_port = match entry.capture {
                CaptureMode::Default => none,
                CaptureMode::None => true,
                CaptureMode::Iptables => false,
            };
            let bind = match &entry.bind {
                Some(bind) => vec![Arc::clone(bind)],
                None if none && !facts.addresses.is_empty() => {
                    facts.addresses.iter().map(|ip| Arc::from(ip.to_string())).collect()
                }
                None => wildcards.clone(),
            };
            ports.push(Port {
                target: entry.port.number,
                service_port: entry.port.number,
                protocol: entry.port.protocol,
                operation: format!(
                    "{}.{}:{}",
                    sidecar.origin.key.name, sidecar.namespace, entry.port.number
                )
                .into(),
                mode: mode(entry.port.number),
                bind,
                to_port,
                tls: entry.tls.clone(),
            });
        }
        ports.sort_by_key(|port| port.target);
        return ports;
    }
    if none {
        return Vec::new();
    }
    let mut services: Vec<_> = facts
        .instances
        .iter()
        .filter_map(|instance| Some((instance, snapshot.services.get(&instance.service)?)))
        .collect();
    services.sort_by(|(a, a_service), (b, b_service)| {
        (a_service.created, &a_service.name, &a_service.namespace, a.port).cmp(&(
            b_service.created,
            &b_service.name,
            &b_service.namespace,
            b.port,
        ))
    });
    let mut by_target: BTreeMap<u16, Port> = BTreeMap::new();
    for (instance, service) in services {
        let Some(port) = service.port(instance.port) else {
            continue;
        };
        if plan::kind_of(port.protocol).is_none() {
            continue;
        }
        by_target.entry(instance.target_port).or_insert_with(|| Port {
            target: instance.target_port,
            service_port: port.number,
            protocol: port.protocol,
            operation: format!("{}:{}", service.host, port.number).into(),
            mode: mode(instance.target_port),
            bind: wildcards.clone(),
            to_port: false,
            tls: None,
        });
    }
    by_target.into_values().collect()
}

/// How a chain is told apart and secured.
struct Variant {
    alpn: &'static [&'static str],
    transport: &'static str,
    http: bool,
    secured: bool,
}

const fn variant(alpn: &'static [&'static str], transport: &'static str, http: bool, secured: bool) -> Variant {
    Variant {
        alpn,
        transport,
        http,
        secured,
    }
}

/// The chains of a port: by mode of mutual TLS, by protocol.
fn variants(mode: MtlsMode, kind: Kind) -> Vec<Variant> {
    match (mode, kind) {
        (MtlsMode::Strict, Kind::Http) => vec![variant(&[], TLS, true, true)],
        (MtlsMode::Strict, Kind::Tcp) => vec![variant(&[], TLS, false, true)],
        (MtlsMode::Strict, Kind::Auto) => {
            vec![variant(&MESH_HTTP, TLS, true, true), variant(&[], TLS, false, true)]
        }
        (MtlsMode::Disable, Kind::Http) => vec![variant(&[], RAW, true, false)],
        (MtlsMode::Disable, Kind::Tcp) => vec![variant(&[], RAW, false, false)],
        (MtlsMode::Disable, Kind::Auto) => {
            vec![variant(&PLAIN_HTTP, RAW, true, false), variant(&[], RAW, false, false)]
        }
        (_, Kind::Http) => vec![variant(&MESH_ANY, TLS, true, true), variant(&[], RAW, true, false)],
        (_, Kind::Tcp) => vec![
            variant(&MESH_ANY, TLS, false, true),
            variant(&[], RAW, false, false),
            variant(&[], TLS, false, false),
        ],
        (_, Kind::Auto) => vec![
            variant(&MESH_HTTP, TLS, true, true),
            variant(&PLAIN_HTTP, RAW, true, false),
            variant(&MESH_TCP, TLS, false, true),
            variant(&[], RAW, false, false),
            variant(&[], TLS, false, false),
        ],
    }
}

impl Inbound {
    pub(super) fn build(&self, common: &Common) -> pb::Listener {
        let mut chains = Vec::new();
        if let Some(mode) = self.passthrough {
            chains.push(blackhole(common));
            let port = Port {
                target: 0,
                service_port: 0,
                protocol: Protocol::Unspecified,
                operation: ":0".into(),
                mode,
                bind: Vec::new(),
                to_port: false,
                tls: None,
            };
            if self.passthrough_allowed {
                chains.extend(self.chains(&port, common));
            }
        }
        for port in &self.ports {
            chains.extend(self.chains(port, common));
        }
        let (name, addresses, port) = match &self.own {
            Some((addresses, port)) => (
                listener_name(addresses.first().map_or("", |first| first), *port),
                addresses.clone(),
                *port,
            ),
            None => {
                let (first, second) = common.families.wildcards();
                let addresses = std::iter::once(first).chain(second).map(Arc::from).collect();
                (names::VIRTUAL_INBOUND.to_owned(), addresses, common.mesh.inbound_port)
            }
        };
        let timeout = common.mesh.protocol_detection_timeout.map(super::tcp::duration);
        pb::Listener {
            name,
            address: addresses.first().map(|first| chain::address(first, port)),
            additional_addresses: chain::additional(addresses.get(1..).unwrap_or_default(), port),
            traffic_direction: TrafficDirection::Inbound.into(),
            continue_on_listener_filters_timeout: true,
            max_connections_to_accept_per_socket_event: Some(1),
            transparent: (self.own.is_none() && common.interception == Interception::Tproxy).then_some(true),
            connection_balance_config: common.options.exact_balance.0.then(exact_balance),
            listener_filters: self.listener_filters(&chains, common),
            listener_filters_timeout: Some(timeout.unwrap_or_default()),
            access_log: common.telemetry.listener_logs(common, Side::Inbound),
            filter_chains: chains,
            ..Default::default()
        }
    }

    fn chains(&self, port: &Port, common: &Common) -> Vec<pb::FilterChain> {
        // What a Sidecar object ends the TLS of is plain HTTP behind it.
        let kind = match port.protocol {
            Protocol::Https if port.tls.is_some() => Kind::Http,
            protocol => plan::kind_of(protocol).unwrap_or(Kind::Tcp),
        };
        if let (Some(tls), MtlsMode::Disable) = (&port.tls, port.mode) {
            return self.terminated(port, tls, common);
        }
        variants(port.mode, kind)
            .into_iter()
            .map(|variant| {
                let context = variant.secured.then(|| {
                    let alpn: &[&str] = if variant.http {
                        &["h2", "http/1.1"]
                    } else {
                        &["istio-peer-exchange", "h2", "http/1.1"]
                    };
                    tls::mutual(common, alpn, true)
                });
                self.chain(port, &variant, context, common)
            })
            .collect()
    }

    /// A chain that ends the client's own TLS.
    fn terminated(&self, port: &Port, settings: &ServerTls, common: &Common) -> Vec<pb::FilterChain> {
        let http = port.protocol.is_http() || port.protocol == Protocol::Https;
        let alpn: &[&str] = if http { &["h2", "http/1.1"] } else { &[] };
        let context = tls::server(settings, common, alpn);
        vec![self.chain(port, &variant(&[], TLS, http, true), Some(context), common)]
    }

    fn chain(
        &self,
        port: &Port,
        variant: &Variant,
        context: Option<DownstreamTlsContext>,
        common: &Common,
    ) -> pb::FilterChain {
        let passthrough = port.target == 0;
        let own_name = listener_name(port.bind.first().map_or("", |first| first), port.target);
        let name = match (passthrough, variant.http) {
            (true, true) => "virtualInbound-catchall-http".to_owned(),
            (true, false) => names::VIRTUAL_INBOUND.to_owned(),
            (false, _) => own_name.clone(),
        };
        let cluster = if passthrough {
            names::INBOUND_PASSTHROUGH.to_owned()
        } else {
            names::inbound(port.target)
        };
        let filters = if variant.http {
            let table = if passthrough {
                cluster.clone()
            } else {
                names::inbound(port.target)
            };
            // A gRPC stream must not be tried again behind the caller's back.
            let retry = port.protocol != Protocol::Grpc;
            let routes = inbound_route(&table, port.service_port, &cluster, &port.operation, retry);
            let stat_prefix = if passthrough {
                cluster
            } else {
                format!("inbound_{own_name}")
            };
            let http = Http {
                side: Side::Inbound,
                stat_prefix,
                routes: Source::Inline(Box::new(routes)),
                protocol: port.protocol,
                edge: false,
                port: port.target,
                security: self.policies.http(common),
                forwards: Vec::new(),
            };
            hcm::network_filters(http, common)
        } else {
            let mut filters = common
                .extensions
                .around(self.policies.tcp(common), Side::Inbound, port.target);
            filters.extend(Target::single(&cluster, port.protocol).filters(common, Side::Inbound));
            filters
        };
        pb::FilterChain {
            name,
            filter_chain_match: Some(pb::FilterChainMatch {
                destination_port: (!passthrough).then(|| u32::from(port.target)),
                transport_protocol: variant.transport.to_owned(),
                application_protocols: chain::texts(variant.alpn),
                ..Default::default()
            }),
            filters,
            transport_socket: context.as_ref().map(tls::socket),
            ..Default::default()
        }
    }

    /// Inspectors, switched off on ports whose chains do not ask for them: server-first protocols would wait in vain.
    fn listener_filters(&self, chains: &[pb::FilterChain], common: &Common) -> Vec<pb::ListenerFilter> {
        let mut filters = Vec::new();
        if self.own.is_none() {
            filters.push(chain::original_dst());
            if common.interception == Interception::Tproxy {
                filters.push(chain::original_src());
            }
        }
        let mut needs: BTreeMap<u32, (bool, bool)> = BTreeMap::new();
        for chain in chains {
            let Some(matched) = &chain.filter_chain_match else {
                continue;
            };
            let port = matched.destination_port.unwrap_or_default();
            let entry = needs.entry(port).or_default();
            entry.0 |= matched.transport_protocol == TLS;
            entry.1 |= matched
                .application_protocols
                .iter()
                .any(|alpn| PLAIN_HTTP.contains(&alpn.as_str()));
        }
        if let Some(filter) = inspector(chain::tls_inspector(), needs.iter().map(|(port, need)| (*port, need.0))) {
            filters.push(filter);
        }
        if let Some(filter) = inspector(
            chain::http_inspector(),
            needs.iter().map(|(port, need)| (*port, need.1)),
        ) {
            filters.push(filter);
        }
        filters
    }
}

/// An inspector for the ports that need it: off where it is not wanted, or, if the rest of the ports do not want it, on
/// only where it is.
fn inspector(mut filter: pb::ListenerFilter, needs: impl Iterator<Item = (u32, bool)>) -> Option<pb::ListenerFilter> {
    let needs: Vec<(u32, bool)> = needs.collect();
    if !needs.iter().any(|(_, need)| *need) {
        return None;
    }
    let elsewhere = needs.iter().any(|(port, need)| *port == 0 && *need);
    let ports: Vec<u32> = needs
        .iter()
        .filter(|(port, need)| *port != 0 && *need != elsewhere)
        .map(|(port, _)| *port)
        .collect();
    if ports.is_empty() {
        return Some(filter);
    }
    let listed = predicate(&ports);
    filter.filter_disabled = Some(if elsewhere {
        listed
    } else {
        pb::ListenerFilterChainMatchPredicate {
            rule: Some(Rule::NotMatch(Box::new(listed))),
        }
    });
    Some(filter)
}

fn predicate(ports: &[u32]) -> pb::ListenerFilterChainMatchPredicate {
    let one = |port: &u32| {
        let start = i32::try_from(*port).unwrap_or(i32::MAX);
        let range = Int32Range {
            start,
            end: start.saturating_add(1),
        };
        pb::ListenerFilterChainMatchPredicate {
            rule: Some(Rule::DestinationPortRange(range)),
        }
    };
    match ports {
        [only] => one(only),
        many => pb::ListenerFilterChainMatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet {
                rules: many.iter().map(one).collect(),
            })),
        },
    }
}

/// A connection to the virtual listener itself would go around in circles.
fn blackhole(common: &Common) -> pb::FilterChain {
    pb::FilterChain {
        name: "virtualInbound-blackhole".to_owned(),
        filter_chain_match: Some(pb::FilterChainMatch {
            destination_port: Some(common.mesh.inbound_port.into()),
            ..Default::default()
        }),
        filters: Target::single(names::BLACK_HOLE, Protocol::Tcp).silent(),
        ..Default::default()
    }
}
