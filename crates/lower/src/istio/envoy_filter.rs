//! EnvoyFilter: patches of generated configuration. They are kept as the user's JSON, which is applied to Envoy's
//! messages when these exist.

use std::sync::Arc;

use lateen_api::networking::envoy_filter as api;
use lateen_api::selector::WorkloadSelector;
use lateen_model::Diagnostic;
use lateen_model::policy::EnvoyFilter;
use lateen_validate::Subject;
use serde_json::Value;

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
    let mut patches: Vec<Arc<str>> = Vec::with_capacity(spec.config_patches.len());
    for (at, patch) in spec.config_patches.iter().enumerate() {
        match serde_json::to_value(patch) {
            Ok(value) => patches.push(canonical(value).to_string().into()),
            Err(error) => report.error(&format!("spec.configPatches[{at}]"), error.to_string()),
        }
    }
    EnvoyFilter {
        scope: scope(meta, selector.as_ref(), None, &spec.target_refs),
        priority: spec.priority,
        patches,
    }
}

/// The value with the keys of its objects sorted, so that equal patches are equal texts.
pub(crate) fn canonical(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().collect();
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Object(
                entries
                    .into_iter()
                    .map(|(key, value)| (key, canonical(value)))
                    .collect(),
            )
        }
        Value::Array(values) => Value::Array(values.into_iter().map(canonical).collect()),
        other => other,
    }
}
