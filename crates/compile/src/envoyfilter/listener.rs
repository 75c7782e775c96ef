//! Patches of listeners, their filter chains and network filters.

use lateen_model::Diagnostic;
use lateen_model::patch::{ListenerMatch, PatchMatch, PatchOperation, PatchTarget};
use lateen_proto::envoy::config::core::v3::{TransportSocket, address, socket_address, transport_socket};
use lateen_proto::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter, listener_filter,
};

use super::edit::{Choice, edit};
use super::{Applied, Patches, http};
use crate::names;

/// Network filters that only Istio's Envoy has; patches place theirs next to them.
const ISTIO_FIRST: &[&str] = &["istio.metadata_exchange", "envoy.filters.network.metadata_exchange"];
const ISTIO_BEFORE_LAST: &[&str] = &["istio.stats", "envoy.wasm.stats"];

pub(super) const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// Applies patches; `false` when the listener is to go.
pub(super) fn apply(patches: &Patches, listener: &mut Listener, found: &mut Vec<Diagnostic>) -> bool {
    for applied in patches.targeting(PatchTarget::Listener) {
        if !listener_matches(applied, listener) {
            continue;
        }
        if applied.patch.operation == PatchOperation::Remove {
            return false;
        }
        if let Some(lists) = applied.merges() {
            applied.merge_into(listener, lists, found);
        }
    }
    for applied in patches.targeting(PatchTarget::ListenerFilter) {
        if listener_matches(applied, listener) {
            listener_filter(applied, &mut listener.listener_filters, found);
        }
    }
    let mut chains = std::mem::take(&mut listener.filter_chains);
    chains.retain_mut(|chain| filter_chain(patches, listener, chain, found));
    for applied in patches.targeting(PatchTarget::FilterChain) {
        if applied.patch.operation == PatchOperation::Add && listener_matches(applied, listener) {
            chains.push(applied.value());
        }
    }
    listener.filter_chains = chains;
    if let Some(mut chain) = listener.default_filter_chain.take()
        && filter_chain(patches, listener, &mut chain, found)
    {
        listener.default_filter_chain = Some(chain);
    }
    true
}

fn matched(applied: &Applied) -> Option<&ListenerMatch> {
    match &applied.patch.matched {
        PatchMatch::Listener(matched) => Some(matched),
        _ => None,
    }
}

/// The listeners that take everything: ports in them are those of filter chains.
fn takes_everything(listener: &Listener) -> bool {
    listener.name == names::VIRTUAL_INBOUND || listener.name == names::VIRTUAL_OUTBOUND
}

fn listener_matches(applied: &Applied, listener: &Listener) -> bool {
    let Some(matched) = matched(applied) else { return true };
    if !matched.name.is_empty() && *matched.name != *listener.name {
        return false;
    }
    if applied.patch.target != PatchTarget::Listener && takes_everything(listener) {
        return true;
    }
    matched.port.is_none_or(|port| Some(port) == listener_port(listener))
}

fn listener_port(listener: &Listener) -> Option<u32> {
    let address::Address::SocketAddress(address) = listener.address.as_ref()?.address.as_ref()? else {
        return None;
    };
    match address.port_specifier.as_ref()? {
        socket_address::PortSpecifier::PortValue(port) => Some(*port),
        socket_address::PortSpecifier::NamedPort(_) => None,
    }
}

/// Whether a patch is for this chain; that it is for the listener is known.
fn chain_matches(applied: &Applied, listener: &Listener, chain: &FilterChain) -> bool {
    let Some(matched) = matched(applied) else { return true };
    let everything = FilterChainMatch::default();
    let of = chain.filter_chain_match.as_ref().unwrap_or(&everything);
    let port = of.destination_port;
    if takes_everything(listener) && matched.port.is_some() && matched.port != port {
        return false;
    }
    let socket = chain.transport_socket.as_ref().map(|socket| socket.name.as_str());
    (matched.chain.is_empty() || *matched.chain == *chain.name)
        && (matched.sni.is_empty() || of.server_names.iter().any(|name| **name == *matched.sni))
        && (matched.transport_protocol.is_empty() || *matched.transport_protocol == *of.transport_protocol)
        && (matched.transport_socket.is_empty() || socket == Some(&*matched.transport_socket))
        && matched
            .application_protocols
            .iter()
            .all(|protocol| of.application_protocols.iter().any(|known| **known == **protocol))
        && (matched.destination_port.is_none() || matched.destination_port == port)
}

fn listener_filter(applied: &Applied, filters: &mut Vec<ListenerFilter>, found: &mut Vec<Diagnostic>) {
    let name = matched(applied)
        .map(|matched| &*matched.listener_filter)
        .unwrap_or_default();
    let is = |filter: &ListenerFilter| filter.name == name;
    let choice = Choice {
        named: !name.is_empty(),
        is: &is,
        absent: None,
    };
    if applied.merges().is_none() {
        return edit(filters, applied.patch.operation, || applied.value(), &choice);
    }
    if choice.named {
        let patch: ListenerFilter = applied.value();
        for filter in filters.iter_mut().filter(|filter| is(filter)) {
            use listener_filter::ConfigType::TypedConfig;
            if let (Some(TypedConfig(base)), Some(TypedConfig(patch))) = (&mut filter.config_type, &patch.config_type) {
                applied.merge_any(base, patch, found);
            }
        }
    }
}

/// Patches a chain; `false` when it is to go.
fn filter_chain(patches: &Patches, listener: &Listener, chain: &mut FilterChain, found: &mut Vec<Diagnostic>) -> bool {
    for applied in patches.targeting(PatchTarget::FilterChain) {
        if !listener_matches(applied, listener) || !chain_matches(applied, listener, chain) {
            continue;
        }
        if applied.patch.operation == PatchOperation::Remove {
            return false;
        }
        let Some(lists) = applied.merges() else { continue };
        let patch: FilterChain = applied.value();
        match (&mut chain.transport_socket, &patch.transport_socket) {
            (Some(socket), Some(patch)) if socket.name == patch.name => merge_socket(applied, socket, patch, found),
            _ => applied.merge_into(chain, lists, found),
        }
    }
    for applied in patches.targeting(PatchTarget::NetworkFilter) {
        if listener_matches(applied, listener) && chain_matches(applied, listener, chain) {
            let name = matched(applied).and_then(|matched| matched.filter.as_deref());
            let is = |filter: &Filter| Some(filter.name.as_str()) == name;
            let choice = Choice {
                named: name.is_some(),
                is: &is,
                absent: name.and_then(|name| absent(name, &chain.filters)),
            };
            edit(&mut chain.filters, applied.patch.operation, || applied.value(), &choice);
        }
    }
    let mut filters = std::mem::take(&mut chain.filters);
    for filter in &mut filters {
        network_filter(patches, listener, chain, filter, found);
    }
    chain.filters = filters;
    !chain.filters.is_empty()
}

fn merge_socket(applied: &Applied, socket: &mut TransportSocket, patch: &TransportSocket, found: &mut Vec<Diagnostic>) {
    use transport_socket::ConfigType::TypedConfig;
    if let (Some(TypedConfig(base)), Some(TypedConfig(patch))) = (&mut socket.config_type, &patch.config_type) {
        applied.merge_any(base, patch, found);
    }
}

fn absent(name: &str, filters: &[Filter]) -> Option<usize> {
    if ISTIO_FIRST.contains(&name) {
        Some(0)
    } else if ISTIO_BEFORE_LAST.contains(&name) {
        Some(filters.len().saturating_sub(1))
    } else {
        None
    }
}

fn network_filter(
    patches: &Patches,
    listener: &Listener,
    chain: &FilterChain,
    filter: &mut Filter,
    found: &mut Vec<Diagnostic>,
) {
    let concerns = |applied: &Applied, filter: &str| {
        let name = matched(applied).and_then(|matched| matched.filter.as_deref());
        listener_matches(applied, listener)
            && chain_matches(applied, listener, chain)
            && name.is_none_or(|name| name == filter)
    };
    for applied in patches.targeting(PatchTarget::NetworkFilter) {
        if applied.patch.operation != PatchOperation::Merge || !concerns(applied, &filter.name) {
            continue;
        }
        use filter::ConfigType::TypedConfig;
        let patch: Filter = applied.value();
        let Some(TypedConfig(base)) = &mut filter.config_type else {
            continue;
        };
        if let Some(TypedConfig(patch)) = &patch.config_type {
            applied.merge_any(base, patch, found);
        }
        if !patch.name.is_empty() {
            filter.name = patch.name;
        }
    }
    if filter.name == CONNECTION_MANAGER {
        http::apply(patches, &|applied| concerns(applied, CONNECTION_MANAGER), filter, found);
    }
}
