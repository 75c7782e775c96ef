//! Patches of route tables, their virtual hosts and routes.

use lateen_model::Diagnostic;
use lateen_model::patch::{PatchContext, PatchMatch, PatchOperation, PatchTarget, RouteAction, RoutesMatch};
use lateen_proto::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost, route::Action};

use super::edit::{Choice, edit};
use super::{Applied, Patches};

/// Applies patches.
pub(super) fn apply(patches: &Patches, table: &mut RouteConfiguration, found: &mut Vec<Diagnostic>) {
    for applied in patches.targeting(PatchTarget::RouteConfiguration) {
        if let Some(lists) = applied.merges()
            && table_matches(patches, applied, &table.name)
        {
            applied.merge_into(table, lists, found);
        }
    }
    let name = table.name.clone();
    table
        .virtual_hosts
        .retain_mut(|host| virtual_host(patches, &name, host, found));
    for applied in patches.targeting(PatchTarget::VirtualHost) {
        if applied.patch.operation == PatchOperation::Add && table_matches(patches, applied, &name) {
            table.virtual_hosts.push(applied.value());
        }
    }
}

fn matched(applied: &Applied) -> Option<&RoutesMatch> {
    match &applied.patch.matched {
        PatchMatch::Routes(matched) => Some(matched),
        _ => None,
    }
}

fn table_matches(patches: &Patches, applied: &Applied, name: &str) -> bool {
    let Some(matched) = matched(applied) else { return true };
    if !matched.name.is_empty() && *matched.name != *name {
        return false;
    }
    if patches.context != PatchContext::Gateway {
        return matched.port.is_none_or(|port| port == sidecar_port(name));
    }
    let (port, port_name, gateway) = gateway_table(name);
    let is_port = |wanted: u32| match u16::try_from(port)
        .ok()
        .and_then(|port| patches.gateway_ports.get(&port))
    {
        Some(services) => services.iter().any(|service| u32::from(*service) == wanted),
        None => port == wanted,
    };
    (matched.port_name.is_empty() || *matched.port_name == *port_name)
        && (matched.gateway.is_empty() || *matched.gateway == *gateway)
        && matched.port.is_none_or(is_port)
}

/// `80`, or `inbound|80||`; 0 for all other names.
fn sidecar_port(name: &str) -> u32 {
    let port = match name.strip_prefix("inbound|") {
        Some(rest) => rest.split('|').next().unwrap_or_default(),
        None => name,
    };
    port.parse().unwrap_or_default()
}

/// Port, name of the server and `namespace/name` of the gateway in `http.80` and `https.443.server.gateway.namespace`.
fn gateway_table(name: &str) -> (u32, &str, String) {
    let parts: Vec<&str> = name.splitn(5, '.').collect();
    match parts[..] {
        ["http", port] => (port.parse().unwrap_or_default(), "", String::new()),
        ["https", port, server, gateway, namespace] => (
            port.parse().unwrap_or_default(),
            server,
            format!("{namespace}/{gateway}"),
        ),
        _ => (0, "", String::new()),
    }
}

/// Patches a virtual host; `false` when it is to go.
fn virtual_host(patches: &Patches, table: &str, host: &mut VirtualHost, found: &mut Vec<Diagnostic>) -> bool {
    for applied in patches.targeting(PatchTarget::VirtualHost) {
        if !table_matches(patches, applied, table) || !host_matches(applied, host) {
            continue;
        }
        match applied.patch.operation {
            PatchOperation::Remove => return false,
            PatchOperation::Replace => *host = applied.value(),
            _ => {
                if let Some(lists) = applied.merges() {
                    applied.merge_into(host, lists, found);
                }
            }
        }
    }
    let here: Vec<&Applied> = patches
        .targeting(PatchTarget::HttpRoute)
        .filter(|applied| table_matches(patches, applied, table) && host_matches(applied, host))
        .collect();
    host.routes.retain_mut(|route| merged_or_kept(&here, route, found));
    for applied in here {
        let named = matched(applied).is_some_and(|matched| matched.route.is_some());
        let choice = Choice {
            named,
            is: &|route: &Route| route_matches(applied, route),
            absent: None,
        };
        match applied.patch.operation {
            // Routes are removed one by one before.
            PatchOperation::Remove | PatchOperation::Replace => {}
            PatchOperation::InsertFirst if named && !host.routes.iter().any(choice.is) => {}
            operation => edit(&mut host.routes, operation, || applied.value(), &choice),
        }
    }
    true
}

fn merged_or_kept(patches: &[&Applied], route: &mut Route, found: &mut Vec<Diagnostic>) -> bool {
    for applied in patches {
        if !route_matches(applied, route) {
            continue;
        }
        if applied.patch.operation == PatchOperation::Remove {
            return false;
        }
        if let Some(lists) = applied.merges() {
            applied.merge_into(route, lists, found);
        }
    }
    true
}

fn host_matches(applied: &Applied, host: &VirtualHost) -> bool {
    matched(applied).is_none_or(|matched| {
        (matched.host.is_empty() || *matched.host == *host.name)
            && (matched.domain.is_empty() || host.domains.iter().any(|domain| **domain == *matched.domain))
    })
}

fn route_matches(applied: &Applied, route: &Route) -> bool {
    let Some(matched) = matched(applied).and_then(|matched| matched.route.as_ref()) else {
        return true;
    };
    let action = match &route.action {
        Some(Action::Route(_)) => Some(RouteAction::Route),
        Some(Action::Redirect(_)) => Some(RouteAction::Redirect),
        Some(Action::DirectResponse(_)) => Some(RouteAction::DirectResponse),
        _ => None,
    };
    (matched.name.is_empty() || *matched.name == *route.name)
        && (matched.action.is_none() || action.is_none() || matched.action == action)
}
