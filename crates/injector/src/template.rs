//! The built-in templates: what a pod gets, as a strategic merge patch.

mod gateway;
mod grpc;
mod parts;
mod sidecar;

use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::inject::InjectError;
use crate::pod;
use crate::settings::Overlay;

/// The names of the built-in templates.
pub(crate) const BUILT_IN: &[&str] = &["sidecar", "gateway", "grpc-agent", "grpc-simple"];

/// The patch of a template: the user's of that name, or the built-in one.
pub(crate) fn render(name: &str, context: &Context<'_>) -> Result<Value, InjectError> {
    match context.settings.policy.overlays.get(name) {
        Some(Overlay::Patch(patch)) => return Ok(for_each_container(patch, context)),
        Some(Overlay::Unusable(reason)) => {
            return Err(InjectError::Template {
                name: name.to_owned(),
                reason: reason.clone(),
            });
        }
        None => {}
    }
    let patch = match name {
        "sidecar" => sidecar::patch(context),
        "gateway" => gateway::patch(context),
        "grpc-agent" => grpc::agent(context),
        "grpc-simple" => grpc::simple(context),
        _ => {
            let known: Vec<&str> = context.settings.policy.known().into_iter().collect();
            return Err(InjectError::Template {
                name: name.to_owned(),
                reason: format!("there is none; known are {}", known.join(", ")),
            });
        }
    };
    // A null means that a field is not set; in a user's patch it removes.
    Ok(pod::without_nulls(&patch))
}

/// The container `*` of a user's overlay stands for every container of the application.
fn for_each_container(patch: &Value, context: &Context<'_>) -> Value {
    let mut patch = patch.clone();
    let Some(containers) = pod::list_mut(&mut patch, pod::CONTAINERS) else {
        return patch;
    };
    let mut expanded = Vec::new();
    for container in std::mem::take(containers) {
        if pod::name(&container) != "*" {
            expanded.push(container);
            continue;
        }
        for name in context.app_containers() {
            let mut one = container.clone();
            one["name"] = json!(name);
            expanded.push(one);
        }
    }
    *containers = expanded;
    patch
}

/// Labels that every injected pod gets, and annotations.
fn metadata(context: &Context<'_>) -> (Map<String, Value>, Map<String, Value>) {
    let name = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
    let name = name.iter().find_map(|label| context.label(label));
    let revision = [
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ];
    let revision = revision.iter().find_map(|label| context.label(label));
    let mut labels = Map::new();
    labels.insert(
        "service.istio.io/canonical-name".to_owned(),
        as_label(name.unwrap_or(&context.owner.name)).into(),
    );
    labels.insert(
        "service.istio.io/canonical-revision".to_owned(),
        revision.unwrap_or("latest").into(),
    );
    let mut annotations = Map::new();
    let revision = match context.settings.revision.as_str() {
        "" => "default",
        revision => revision,
    };
    annotations.insert("istio.io/rev".to_owned(), revision.into());
    if let Some(first) = context.app_containers().first() {
        for key in [
            "kubectl.kubernetes.io/default-logs-container",
            "kubectl.kubernetes.io/default-container",
        ] {
            if context.annotation(key).is_none() {
                annotations.insert(key.to_owned(), (*first).into());
            }
        }
    }
    (labels, annotations)
}

/// Text as the value of a label: 63 characters at most, with a letter or digit at both ends.
fn as_label(text: &str) -> &str {
    let end = text.char_indices().nth(63).map_or(text.len(), |(at, _)| at);
    text[..end].trim_matches(['-', '_', '.'])
}
