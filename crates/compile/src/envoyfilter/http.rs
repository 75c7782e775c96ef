//! Patches of the HTTP connection manager: its filters, and the route table within it.

use lateen_model::Diagnostic;
use lateen_model::patch::{PatchMatch, PatchOperation, PatchTarget};
use lateen_proto::envoy::config::listener::v3::{Filter, filter};
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use prost::Message as _;

use super::edit::{Choice, edit};
use super::{Applied, Patches, route};

const ROUTER: &str = "envoy.filters.http.router";

/// HTTP filters that only Istio's Envoy has, by where they would be.
const ISTIO_FIRST: &[&str] = &[
    "envoy.filters.http.peer_metadata",
    "istio.metadata_exchange",
    "istio_authn",
];
const ISTIO_BEFORE_ROUTER: &[&str] = &["istio.stats", "istio.alpn", "istio_alpn"];

/// Applies patches to a filter that is a connection manager. Which of them concern it says `concerns`.
pub(super) fn apply(
    patches: &Patches,
    concerns: &dyn Fn(&Applied) -> bool,
    filter: &mut Filter,
    found: &mut Vec<Diagnostic>,
) {
    let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
        return;
    };
    let Ok(mut manager) = HttpConnectionManager::decode(any.value.as_slice()) else {
        return;
    };
    if let Some(RouteSpecifier::RouteConfig(table)) = &mut manager.route_specifier {
        route::apply(patches, table, found);
    }
    for applied in patches
        .targeting(PatchTarget::HttpFilter)
        .filter(|applied| concerns(applied))
    {
        http_filter(applied, &mut manager.http_filters, found);
    }
    for applied in patches.targeting(PatchTarget::HttpFilter) {
        if applied.patch.operation == PatchOperation::Merge && concerns(applied) {
            merge(applied, &mut manager.http_filters, found);
        }
    }
    filter.config_type = Some(filter::ConfigType::TypedConfig(lateen_proto::any(&manager)));
}

fn sub_filter(applied: &Applied) -> Option<&str> {
    match &applied.patch.matched {
        PatchMatch::Listener(matched) => matched.sub_filter.as_deref(),
        _ => None,
    }
}

fn http_filter(applied: &Applied, filters: &mut Vec<HttpFilter>, found: &mut Vec<Diagnostic>) {
    let name = sub_filter(applied);
    let is = |filter: &HttpFilter| Some(filter.name.as_str()) == name;
    let choice = Choice {
        named: name.is_some(),
        is: &is,
        absent: name.and_then(|name| absent(name, filters)),
    };
    let complete = ends_with_router(filters);
    let before = filters.clone();
    edit(filters, applied.patch.operation, || applied.value(), &choice);
    if complete && !ends_with_router(filters) {
        *filters = before;
        found.push(applied.refused(
            "patch.operation",
            format!(
                "a filter behind {ROUTER}, or none in its place, makes a listener that Envoy refuses; use INSERT_BEFORE \
                 with the subFilter {ROUTER}"
            ),
        ));
    }
}

/// Envoy takes a list of filters only if the last one answers, and no other does.
fn ends_with_router(filters: &[HttpFilter]) -> bool {
    filters.last().is_some_and(|last| last.name == ROUTER)
}

fn absent(name: &str, filters: &[HttpFilter]) -> Option<usize> {
    if ISTIO_FIRST.contains(&name) {
        Some(0)
    } else if ISTIO_BEFORE_ROUTER.contains(&name) {
        Some(filters.len().saturating_sub(1))
    } else {
        None
    }
}

fn merge(applied: &Applied, filters: &mut [HttpFilter], found: &mut Vec<Diagnostic>) {
    use http_filter::ConfigType::TypedConfig;
    let patch: HttpFilter = applied.value();
    let name = sub_filter(applied);
    for filter in filters
        .iter_mut()
        .filter(|filter| name.is_none_or(|name| name == filter.name))
    {
        let Some(TypedConfig(base)) = &mut filter.config_type else {
            continue;
        };
        if let Some(TypedConfig(patch)) = &patch.config_type {
            applied.merge_any(base, patch, found);
        }
        if !patch.name.is_empty() {
            filter.name.clone_from(&patch.name);
        }
    }
}
