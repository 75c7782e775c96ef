//! EnvoyFilter. The value of a patch is checked where Envoy's messages are known: when it is applied.

use lateen_api::networking::envoy_filter::{
    ApplyTo, EnvoyConfigObjectMatch, EnvoyConfigObjectPatch, EnvoyFilterSpec, ObjectMatch, PatchContext, PatchOperation,
};

use crate::{Finding, Findings, Subject, policy, text};

/// What is wrong with an EnvoyFilter.
pub fn check(spec: &EnvoyFilterSpec, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.metadata(subject, false);
    findings.warning(
        "spec",
        "patches reach into generated configuration, which changes between versions; prefer any other way",
    );
    policy::attachment(None, None, &spec.target_refs, &mut findings);
    if let Some(selector) = &spec.workload_selector {
        if !spec.target_refs.is_empty() {
            findings.error("spec", "set only one of `workloadSelector` and `targetRefs`");
        }
        policy::labels(&selector.labels, "spec.workloadSelector.labels", &mut findings);
        if selector.labels.is_empty() {
            findings.warning(
                "spec.workloadSelector",
                "the selector has no labels, so it selects every workload of the namespace",
            );
        }
    }
    for (at, entry) in spec.config_patches.iter().enumerate() {
        patch(
            entry,
            spec.priority,
            &format!("spec.configPatches[{at}]"),
            &mut findings,
        );
    }
    findings.0
}

fn patch(entry: &EnvoyConfigObjectPatch, priority: i32, field: &str, findings: &mut Findings) {
    if let Some(matched) = entry
        .r#match
        .as_ref()
        .filter(|matched| matched.context == PatchContext::Waypoint)
    {
        return waypoint(matched, &format!("{field}.match"), findings);
    }
    if entry.apply_to == ApplyTo::Invalid {
        return findings.error(
            format!("{field}.applyTo"),
            "say what is patched, for example HTTP_FILTER",
        );
    }
    let Some(patch) = &entry.patch else {
        return findings.error(format!("{field}.patch"), "the patch is missing");
    };
    if patch.operation == PatchOperation::Invalid {
        return findings.error(
            format!("{field}.patch.operation"),
            "say what is done, for example MERGE",
        );
    }
    if patch.operation != PatchOperation::Remove && patch.value.is_none() {
        return findings.error(
            format!("{field}.patch.value"),
            format!("{} needs a value", patch.operation),
        );
    }
    operation(entry.apply_to, patch.operation, priority, field, findings);
    let Some(matched) = &entry.r#match else { return };
    if let Some(version) = matched
        .proxy
        .as_ref()
        .map(|proxy| proxy.proxy_version.as_str())
        .filter(|text| !text.is_empty())
    {
        let field = format!("{field}.match.proxy.proxyVersion");
        if version.len() > 1024 {
            findings.warning(field, "the expression is longer than 1024 characters and is ignored");
        } else {
            findings.check(field, text::regex(version));
        }
    }
    object(entry.apply_to, matched, &format!("{field}.match"), findings);
}

/// Waypoints have no listeners, routes and clusters that users know by name.
fn waypoint(matched: &EnvoyConfigObjectMatch, field: &str, findings: &mut Findings) {
    match matched.object_types() {
        None => {}
        Some(ObjectMatch::Waypoint(waypoint)) if waypoint.port_number != 0 => {
            findings.check(
                format!("{field}.waypoint.portNumber"),
                text::port(waypoint.port_number.into()),
            );
        }
        Some(ObjectMatch::Waypoint(_)) => {}
        Some(_) => findings.error(field, "in context WAYPOINT only `waypoint` matches"),
    }
}

/// Operations that do nothing, or whose effect depends on the order of filters.
fn operation(target: ApplyTo, operation: PatchOperation, priority: i32, field: &str, findings: &mut Findings) {
    use PatchOperation as Op;
    let field = format!("{field}.patch.operation");
    let filter = matches!(
        target,
        ApplyTo::HttpFilter | ApplyTo::NetworkFilter | ApplyTo::ListenerFilter
    );
    let routes = matches!(target, ApplyTo::RouteConfiguration | ApplyTo::HttpRoute);
    match operation {
        Op::Replace if !filter => findings.advice("IST0152", field, "REPLACE works on filters only"),
        Op::Add if target == ApplyTo::RouteConfiguration => {
            findings.advice(
                "IST0153",
                field,
                "a route configuration cannot be added; the patch is ignored",
            );
        }
        Op::Remove if routes && target == ApplyTo::RouteConfiguration => {
            findings.advice(
                "IST0154",
                field,
                "a route configuration cannot be removed; the patch is ignored",
            );
        }
        Op::InsertBefore | Op::InsertAfter | Op::Replace if priority == 0 => {
            findings.advice(
                "IST0151",
                field,
                "the result depends on the order of EnvoyFilters; set `priority`",
            );
        }
        _ => {}
    }
}

/// Whether the match is of the class of the target.
fn object(target: ApplyTo, matched: &EnvoyConfigObjectMatch, field: &str, findings: &mut Findings) {
    let Some(object) = matched.object_types() else { return };
    match target {
        ApplyTo::Listener | ApplyTo::FilterChain | ApplyTo::NetworkFilter | ApplyTo::HttpFilter => {
            let ObjectMatch::Listener(listener) = object else {
                return findings.error(field, format!("{target} is matched by `listener`"));
            };
            let Some(filter) = listener.filter_chain.as_ref().and_then(|chain| chain.filter.as_ref()) else {
                return;
            };
            let field = format!("{field}.listener.filterChain.filter");
            if matches!(target, ApplyTo::Listener | ApplyTo::FilterChain) {
                findings.warning(&field, format!("has no effect with {target}"));
            }
            if filter.name.is_empty() {
                return findings.error(format!("{field}.name"), "the name of the filter is missing");
            }
            let Some(inner) = &filter.sub_filter else { return };
            if target != ApplyTo::HttpFilter {
                findings.error(
                    format!("{field}.subFilter"),
                    "only HTTP_FILTER knows filters within a filter",
                );
            } else if !matches!(
                filter.name.as_str(),
                "envoy.filters.network.http_connection_manager" | "envoy.http_connection_manager"
            ) {
                let message = "HTTP filters are within envoy.filters.network.http_connection_manager";
                findings.error(format!("{field}.name"), message);
            } else if inner.name.is_empty() {
                findings.error(format!("{field}.subFilter.name"), "the name of the filter is missing");
            }
        }
        ApplyTo::RouteConfiguration | ApplyTo::VirtualHost | ApplyTo::HttpRoute
            if !matches!(object, ObjectMatch::RouteConfiguration(_)) =>
        {
            findings.error(field, format!("{target} is matched by `routeConfiguration`"));
        }
        ApplyTo::Cluster if !matches!(object, ObjectMatch::Cluster(_)) => {
            findings.error(field, format!("{target} is matched by `cluster`"));
        }
        _ => {}
    }
}
