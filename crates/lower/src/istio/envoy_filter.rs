//! EnvoyFilter: patches of generated configuration. Their values are read as Envoy's messages here, once; they are applied
//! where the configuration is made.

use std::sync::Arc;

use lateen_api::networking::envoy_filter as api;
use lateen_api::selector::WorkloadSelector;
use lateen_model::patch::{
    ClusterMatch, ListenerMatch, Patch, PatchContext, PatchMatch, PatchOperation, PatchTarget, Pattern, RouteAction,
    RouteMatch, RoutesMatch,
};
use lateen_model::policy::EnvoyFilter;
use lateen_model::{Diagnostic, Shared};
use lateen_validate::Subject;

use super::report::Report;
use super::scope::scope;
use crate::Context;
use crate::context::Meta;

/// Lowers an EnvoyFilter.
pub fn lower(object: &api::EnvoyFilter, meta: &Meta, _ctx: &Context<'_>, diags: &mut Vec<Diagnostic>) -> EnvoyFilter {
    let spec = &object.spec;
    let findings = lateen_validate::envoy_filter::check(spec, &Subject::new(&object.metadata));
    let mut report = Report::new(&meta.origin, findings, diags);
    let selector = spec.workload_selector.as_ref();
    let selector = selector.map(|selector| WorkloadSelector {
        match_labels: selector.labels.clone(),
    });
    let mut patches: Vec<Shared<Patch>> = Vec::with_capacity(spec.config_patches.len());
    for (index, entry) in spec.config_patches.iter().enumerate() {
        match patch(index, entry) {
            Ok(patch) => patches.extend(patch.map(Shared::new)),
            Err((field, problem)) => {
                report.error(&format!("spec.configPatches[{index}].{field}"), problem);
            }
        }
    }
    EnvoyFilter {
        scope: scope(meta, selector.as_ref(), None, &spec.target_refs),
        priority: spec.priority,
        patches,
    }
}

/// `None` where there is nothing to apply, which validation has said.
fn patch(index: usize, entry: &api::EnvoyConfigObjectPatch) -> Result<Option<Patch>, (&'static str, String)> {
    let (Some(target), Some(change)) = (target(entry.apply_to)?, &entry.patch) else {
        return Ok(None);
    };
    let Some(operation) = operation(change.operation) else {
        return Ok(None);
    };
    let proxy = entry.r#match.as_ref().and_then(|matched| matched.proxy.as_ref());
    // A longer expression is ignored, as validation says.
    let version = proxy.map(|proxy| proxy.proxy_version.as_str());
    let version = version.filter(|text| !text.is_empty() && text.len() <= 1024);
    let version = version.map(Pattern::new).transpose();
    let version =
        version.map_err(|error| ("match.proxy.proxyVersion", format!("is no regular expression: {error}")))?;
    let value = match (&change.value, operation) {
        (_, PatchOperation::Remove) | (None, _) => Vec::new(),
        (Some(value), _) => lateen_proto::bytes_from_json(target.message(), &value.to_value())
            .map_err(|error| ("patch.value", error.to_string()))?,
    };
    Ok(Some(Patch {
        index,
        target,
        context: context(entry.r#match.as_ref().map(|matched| matched.context)),
        proxy_version: version,
        proxy_metadata: proxy
            .map(|proxy| {
                let pairs = proxy.metadata.iter();
                pairs.map(|(key, value)| (text(key), text(value))).collect()
            })
            .unwrap_or_default(),
        matched: entry
            .r#match
            .as_ref()
            .map(|matched| matches(target, matched))
            .unwrap_or_default(),
        operation,
        value: value.into(),
    }))
}

fn text(text: &str) -> Arc<str> {
    Arc::from(text)
}

fn target(target: api::ApplyTo) -> Result<Option<PatchTarget>, (&'static str, String)> {
    Ok(Some(match target {
        api::ApplyTo::Listener => PatchTarget::Listener,
        api::ApplyTo::ListenerFilter => PatchTarget::ListenerFilter,
        api::ApplyTo::FilterChain => PatchTarget::FilterChain,
        api::ApplyTo::NetworkFilter => PatchTarget::NetworkFilter,
        api::ApplyTo::HttpFilter => PatchTarget::HttpFilter,
        api::ApplyTo::RouteConfiguration => PatchTarget::RouteConfiguration,
        api::ApplyTo::VirtualHost => PatchTarget::VirtualHost,
        api::ApplyTo::HttpRoute => PatchTarget::HttpRoute,
        api::ApplyTo::Cluster => PatchTarget::Cluster,
        api::ApplyTo::ExtensionConfig => PatchTarget::ExtensionConfig,
        api::ApplyTo::Bootstrap => {
            return Err((
                "applyTo",
                "BOOTSTRAP has no effect: a proxy reads its bootstrap before it is connected; put what is to change into a \
                 ConfigMap that the annotation `sidecar.istio.io/bootstrapOverride` of the pods names"
                    .to_owned(),
            ));
        }
        _ => return Ok(None),
    }))
}

fn operation(operation: api::PatchOperation) -> Option<PatchOperation> {
    Some(match operation {
        api::PatchOperation::Merge => PatchOperation::Merge,
        api::PatchOperation::MergeAndReplaceList => PatchOperation::MergeAndReplaceList,
        api::PatchOperation::Add => PatchOperation::Add,
        api::PatchOperation::Remove => PatchOperation::Remove,
        api::PatchOperation::InsertBefore => PatchOperation::InsertBefore,
        api::PatchOperation::InsertAfter => PatchOperation::InsertAfter,
        api::PatchOperation::InsertFirst => PatchOperation::InsertFirst,
        api::PatchOperation::Replace => PatchOperation::Replace,
        _ => return None,
    })
}

fn context(context: Option<api::PatchContext>) -> PatchContext {
    match context.unwrap_or_default() {
        api::PatchContext::SidecarInbound => PatchContext::SidecarInbound,
        api::PatchContext::SidecarOutbound => PatchContext::SidecarOutbound,
        api::PatchContext::Gateway => PatchContext::Gateway,
        api::PatchContext::Waypoint => PatchContext::Waypoint,
        _ => PatchContext::Any,
    }
}

/// A match of another class than the target's says nothing about the target: all of its type match, as in Istio.
fn matches(target: PatchTarget, matched: &api::EnvoyConfigObjectMatch) -> PatchMatch {
    use PatchTarget as T;
    let some = |number: u32| (number != 0).then_some(number);
    match (target, matched.object_types()) {
        (T::Cluster, Some(api::ObjectMatch::Cluster(of))) => PatchMatch::Cluster(ClusterMatch {
            name: text(&of.name),
            service: text(&of.service),
            subset: text(&of.subset),
            port: some(of.port_number),
        }),
        (
            T::Listener | T::ListenerFilter | T::FilterChain | T::NetworkFilter | T::HttpFilter,
            Some(api::ObjectMatch::Listener(of)),
        ) => PatchMatch::Listener(Box::new(listener(of))),
        (T::RouteConfiguration | T::VirtualHost | T::HttpRoute, Some(api::ObjectMatch::RouteConfiguration(of))) => {
            let host = of.vhost.as_ref();
            PatchMatch::Routes(RoutesMatch {
                name: text(&of.name),
                port: some(of.port_number),
                port_name: text(&of.port_name),
                gateway: text(&of.gateway),
                host: host.map(|host| text(&host.name)).unwrap_or_default(),
                domain: host.map(|host| text(&host.domain_name)).unwrap_or_default(),
                route: host.and_then(|host| host.route.as_ref()).map(|route| RouteMatch {
                    name: text(&route.name),
                    action: match route.action {
                        api::RouteAction::Route => Some(RouteAction::Route),
                        api::RouteAction::Redirect => Some(RouteAction::Redirect),
                        api::RouteAction::DirectResponse => Some(RouteAction::DirectResponse),
                        _ => None,
                    },
                }),
            })
        }
        _ => PatchMatch::All,
    }
}

fn listener(of: &api::ListenerMatch) -> ListenerMatch {
    let some = |number: u32| (number != 0).then_some(number);
    let chain = of.filter_chain.clone().unwrap_or_default();
    let filter = chain.filter.as_ref();
    let protocols = chain
        .application_protocols
        .split(',')
        .filter(|protocol| !protocol.is_empty());
    ListenerMatch {
        name: text(&of.name),
        port: some(of.port_number),
        listener_filter: text(&of.listener_filter),
        chain: text(&chain.name),
        sni: text(&chain.sni),
        transport_protocol: text(&chain.transport_protocol),
        application_protocols: protocols.map(text).collect(),
        transport_socket: text(&chain.transport_socket),
        destination_port: some(chain.destination_port),
        filter: filter.map(|filter| text(&filter.name)),
        sub_filter: filter
            .and_then(|filter| filter.sub_filter.as_ref())
            .map(|filter| text(&filter.name)),
    }
}
