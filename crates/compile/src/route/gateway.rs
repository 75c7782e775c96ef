//! Route tables of gateways: one per plain port, one per HTTPS server.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_model::Snapshot;
use lateen_model::route::{GatewayRef, VirtualService};
use lateen_model::{ExportTo, Shared};
use lateen_names::Hostname;

use super::Input;
use super::http::{Routes, VirtualHost};
use super::select::RouteSource;
use crate::Scope;
use crate::facts::OutboundFacts;
use crate::listener::servers::{self, PlacedServer};

/// One table for each name that the gateway's listeners ask for.
pub(super) fn select(snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Vec<Input> {
    let mut tables: BTreeMap<Arc<str>, Vec<PlacedServer>> = BTreeMap::new();
    for server in servers::placed(snapshot, facts) {
        if let Some(name) = &server.routes {
            tables.entry(Arc::clone(name)).or_default().push(server);
        }
    }
    let routes = exported_routes(snapshot, facts);
    tables
        .into_iter()
        .map(|(name, servers)| {
            let hosts = virtual_hosts(&servers, &routes, scope, facts);
            let hosts = hosts.into_iter().map(Arc::new).collect();
            Input {
                name,
                hosts,
                ignore_port: true,
                more: false,
                mesh: snapshot.mesh.clone(),
            }
        })
        .collect()
}

/// VirtualServices that the gateway's namespace may see, older first.
pub(crate) fn exported_routes(snapshot: &Snapshot, facts: &OutboundFacts) -> Vec<Shared<VirtualService>> {
    let rank = |route: &VirtualService| match &route.export_to {
        ExportTo::Namespaces(list) if route.namespace == facts.namespace && list.contains(&facts.namespace) => {
            Some(0_u8)
        }
        ExportTo::Namespaces(list) if list.contains(&facts.namespace) => Some(1),
        ExportTo::All => Some(2),
        _ => None,
    };
    let mut routes: Vec<_> = snapshot
        .virtual_services
        .values()
        .filter(|route| route.gateways.iter().any(|gateway| *gateway != GatewayRef::Mesh))
        .filter_map(|route| rank(route).map(|rank| (rank, route.clone())))
        .collect();
    routes.sort_by(|(a_rank, a), (b_rank, b)| {
        (a_rank, a.created, &a.origin.key.name, &a.namespace).cmp(&(
            b_rank,
            b.created,
            &b.origin.key.name,
            &b.namespace,
        ))
    });
    routes.into_iter().map(|(_, route)| route).collect()
}

/// Hosts that a server and a VirtualService have in common: of each pair that overlaps, the narrower.
pub(crate) fn common_hosts(server: &PlacedServer, route: &VirtualService) -> Vec<Hostname> {
    let mut common = Vec::new();
    for accepted in &server.server.hosts {
        if accepted
            .namespace
            .as_ref()
            .is_some_and(|namespace| *namespace != route.namespace)
        {
            continue;
        }
        for host in &route.hosts {
            let narrower = if accepted.host.covers(host) {
                host
            } else if host.covers(&accepted.host) {
                &accepted.host
            } else {
                continue;
            };
            if !common.contains(narrower) {
                common.push(narrower.clone());
            }
        }
    }
    common
}

struct Host {
    port: u16,
    sources: Vec<RouteSource>,
    require_tls: bool,
}

fn virtual_hosts(
    servers: &[PlacedServer],
    routes: &[Shared<VirtualService>],
    scope: &Scope,
    facts: &OutboundFacts,
) -> Vec<VirtualHost> {
    let mut hosts: BTreeMap<Hostname, Host> = BTreeMap::new();
    for server in servers {
        let gateway = GatewayRef::Gateway(server.gateway.clone());
        let port = server.server.port;
        let redirect = server.server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
        for route in routes.iter().filter(|route| route.gateways.contains(&gateway)) {
            let common = common_hosts(server, route);
            if common.is_empty() {
                continue;
            }
            let source = RouteSource::new(route, std::slice::from_ref(&gateway), port, scope, facts);
            let Some(source) = source else { continue };
            for host in common {
                let entry = hosts.entry(host).or_insert_with(|| Host {
                    port,
                    sources: Vec::new(),
                    require_tls: false,
                });
                entry.require_tls |= redirect;
                entry.sources.push(source.clone());
            }
        }
        if redirect {
            for accepted in &server.server.hosts {
                let fresh = || Host {
                    port,
                    sources: Vec::new(),
                    require_tls: true,
                };
                hosts.entry(accepted.host.clone()).or_insert_with(fresh).require_tls = true;
            }
        }
    }
    if hosts.is_empty() {
        let port = servers.first().map_or(0, |server| server.server.port);
        return vec![VirtualHost {
            name: format!("blackhole:{port}").into(),
            domains: vec!["*".into()],
            routes: Routes::None,
            require_tls: false,
            attempt_count: false,
            closed: false,
        }];
    }
    collapsed(hosts, facts.config.headers.attempt_count.unwrap_or(true))
}

/// Hosts whose routes are equal share a virtual host, named for the most specific of them.
fn collapsed(hosts: BTreeMap<Hostname, Host>, attempt_count: bool) -> Vec<VirtualHost> {
    let mut ordered: Vec<(Hostname, Host)> = hosts.into_iter().collect();
    ordered.sort_by(|(a, _), (b, _)| a.specificity(b));
    let mut made: Vec<(VirtualHost, u16)> = Vec::new();
    for (
        host,
        Host {
            port,
            sources,
            require_tls,
        },
    ) in ordered
    {
        let routes = if sources.is_empty() {
            Routes::None
        } else {
            Routes::VirtualServices(sources)
        };
        let twin = made.iter_mut().find(|(known, known_port)| {
            known.routes == routes && known.require_tls == require_tls && *known_port == port && routes != Routes::None
        });
        match twin {
            Some((known, _)) => known.domains.push(host.as_str().into()),
            None => made.push((
                VirtualHost {
                    name: format!("{host}:{port}").into(),
                    domains: vec![host.as_str().into()],
                    routes,
                    require_tls,
                    attempt_count,
                    closed: false,
                },
                port,
            )),
        }
    }
    let mut all: Vec<VirtualHost> = made.into_iter().map(|(host, _)| host).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}
