//! TrafficExtension, and WasmPlugin, which is an older form of it and becomes one.

use std::sync::Arc;

use lateen_api::extensions::traffic_extension::{ExecutionPhase, TrafficSelector};
use lateen_api::extensions::wasm::{EnvValueSource, FailStrategy, PluginType, PullPolicy, WasmConfig};
use lateen_api::extensions::wasm_plugin::PluginPhase;
use lateen_api::extensions::{TrafficExtension, TrafficExtensionSpec, WasmPlugin, WasmPluginSpec};
use lateen_api::selector::{PortSelector, WorkloadMode};
use lateen_model::Diagnostic;
use lateen_model::extension::{Code, Extension, OnFailure, Phase, Runs, TrafficMatch, Wasm};
use lateen_model::policy::TelemetryMode;
use lateen_names::{InvalidName, Name, ObjectKey};
use lateen_validate::{Finding, Subject};
use serde_json::Value;

use super::report::Report;
use super::scope::scope;
use crate::Context;
use crate::context::Meta;

/// What Istio adds to the name of a WasmPlugin, so that no TrafficExtension has it.
const TRANSLATED: &str = "~istio-translated-wasmplugin";

/// The key of a WasmPlugin among extensions.
///
/// # Errors
/// When the name cannot be made longer.
pub fn plugin_key(key: &ObjectKey) -> Result<ObjectKey, InvalidName> {
    Ok(ObjectKey {
        namespace: key.namespace.clone(),
        name: Name::new(&format!("{}{TRANSLATED}", key.name))?,
    })
}

/// Lowers a TrafficExtension; `None` where there is nothing to run.
pub fn lower(
    object: &TrafficExtension,
    meta: &Meta,
    _ctx: &Context<'_>,
    diags: &mut Vec<Diagnostic>,
) -> Option<Extension> {
    let findings = lateen_validate::extension::check(&object.spec, &Subject::new(&object.metadata));
    let version = version(&object.metadata);
    of_spec(&object.spec, "spec.wasm", "", version, findings, meta, diags)
}

/// Lowers a WasmPlugin; `None` where there is nothing to run.
pub fn lower_plugin(
    object: &WasmPlugin,
    meta: &Meta,
    _ctx: &Context<'_>,
    diags: &mut Vec<Diagnostic>,
) -> Option<Extension> {
    let findings = lateen_validate::extension::check_plugin(&object.spec, &Subject::new(&object.metadata));
    let version = version(&object.metadata);
    of_spec(
        &translated(&object.spec),
        "spec",
        TRANSLATED,
        version,
        findings,
        meta,
        diags,
    )
}

/// Istio tells the agent the resource version. The generation changes with what the user wrote alone: a controller that
/// writes a status must not make every proxy fetch the module again.
fn version(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Arc<str> {
    let generation = metadata.generation.map(|generation| generation.to_string());
    generation
        .or_else(|| metadata.resource_version.clone())
        .map_or_else(|| "1".into(), Arc::from)
}

/// A WasmPlugin as the TrafficExtension that says the same.
fn translated(spec: &WasmPluginSpec) -> TrafficExtensionSpec {
    let targets = match spec.target_refs.is_empty() {
        true => spec.target_ref.iter().cloned().collect(),
        false => spec.target_refs.clone(),
    };
    TrafficExtensionSpec {
        selector: spec.selector.clone(),
        target_refs: targets,
        phase: match spec.phase {
            PluginPhase::Authn => ExecutionPhase::Authn,
            PluginPhase::Authz => ExecutionPhase::Authz,
            PluginPhase::Stats => ExecutionPhase::Stats,
            _ => ExecutionPhase::Unspecified,
        },
        priority: spec.priority,
        r#match: (spec.r#match.iter())
            .map(|matched| TrafficSelector {
                mode: matched.mode,
                ports: matched.ports.clone(),
            })
            .collect(),
        wasm: Some(WasmConfig {
            url: spec.url.clone(),
            sha256: spec.sha256.clone(),
            image_pull_policy: spec.image_pull_policy,
            image_pull_secret: spec.image_pull_secret.clone(),
            verification_key: spec.verification_key.clone(),
            plugin_config: spec.plugin_config.clone(),
            plugin_name: spec.plugin_name.clone(),
            fail_strategy: spec.fail_strategy,
            vm_config: spec.vm_config.clone(),
            r#type: spec.r#type,
        }),
        lua: None,
    }
}

fn of_spec(
    spec: &TrafficExtensionSpec,
    at: &str,
    suffix: &str,
    version: Arc<str>,
    findings: Vec<Finding>,
    meta: &Meta,
    diags: &mut Vec<Diagnostic>,
) -> Option<Extension> {
    let mut report = Report::new(&meta.origin, findings, diags);
    let runs = match (&spec.wasm, &spec.lua) {
        (Some(wasm), _) => Runs::Wasm(Box::new(module(wasm, at, version, &mut report)?)),
        // Validation has said what is wrong with an empty one.
        (None, Some(lua)) if !lua.inline_code.is_empty() => Runs::Lua(lua.inline_code.as_str().into()),
        _ => return None,
    };
    for (place, target) in spec.target_refs.iter().enumerate() {
        if target.kind != "Gateway" {
            report.warning(
                &format!("spec.targetRefs[{place}].kind"),
                format!(
                    "an extension of a {} has no effect: it would be for waypoints, which are not served; name a Gateway, or use `selector`",
                    target.kind
                ),
            );
        }
    }
    Some(Extension {
        scope: scope(meta, spec.selector.as_ref(), None, &spec.target_refs),
        name: format!("{}.{}{suffix}", meta.namespace, meta.origin.key.name).into(),
        phase: match spec.phase {
            ExecutionPhase::Authn => Phase::Authn,
            ExecutionPhase::Authz => Phase::Authz,
            ExecutionPhase::Stats => Phase::Stats,
            _ => Phase::Unspecified,
        },
        priority: spec.priority,
        matches: spec.r#match.iter().map(traffic).collect(),
        runs,
    })
}

fn traffic(matched: &TrafficSelector) -> TrafficMatch {
    let number = |port: &PortSelector| u16::try_from(port.number).ok();
    TrafficMatch {
        mode: match matched.mode {
            WorkloadMode::Client => TelemetryMode::Client,
            WorkloadMode::Server => TelemetryMode::Server,
            _ => TelemetryMode::ClientAndServer,
        },
        // A number that is no port is kept as one that none is: the entry must not match everything for it.
        ports: matched.ports.iter().map(|port| number(port).unwrap_or(0)).collect(),
    }
}

/// `None` where the module cannot be found by its URL, which validation has said.
fn module(wasm: &WasmConfig, at: &str, version: Arc<str>, report: &mut Report<'_>) -> Option<Wasm> {
    let mut env = std::collections::BTreeMap::new();
    let mut host_env = Vec::new();
    for variable in wasm.vm_config.iter().flat_map(|vm| &vm.env) {
        match variable.value_from {
            EnvValueSource::Host => host_env.push(Arc::from(variable.name.as_str())),
            _ => {
                env.insert(variable.name.as_str().into(), variable.value.as_str().into());
            }
        }
    }
    Some(Wasm {
        network: wasm.r#type == PluginType::Network,
        root_id: wasm.plugin_name.as_str().into(),
        code: code(&wasm.url, &wasm.sha256)?,
        pull_secret: pull_secret(&wasm.image_pull_secret, at, report),
        pull_policy: match wasm.image_pull_policy {
            PullPolicy::IfNotPresent => Some("IfNotPresent"),
            PullPolicy::Always => Some("Always"),
            _ => None,
        },
        version,
        env,
        host_env,
        configuration: (wasm.plugin_config.as_ref())
            .filter(|config| !config.0.is_empty())
            .map(|config| sorted(&config.to_value()).to_string().into()),
        on_failure: match wasm.fail_strategy {
            FailStrategy::FailOpen => OnFailure::Open,
            FailStrategy::FailReload => OnFailure::Reload,
            _ => OnFailure::Close,
        },
    })
}

/// Where a URL leads; a text without scheme is the name of an image.
fn code(url: &str, sha256: &str) -> Option<Code> {
    if url.is_empty() {
        return None;
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("oci", url));
    match scheme.to_ascii_lowercase().as_str() {
        "file" => Some(Code::File(rest.into())),
        scheme @ ("oci" | "http" | "https") => Some(Code::Remote {
            url: format!("{scheme}://{rest}").into(),
            sha256: sha256.into(),
        }),
        _ => None,
    }
}

/// The Secret of a name, or of a `kubernetes://` URL of which only the name counts: it must be in the object's namespace.
fn pull_secret(text: &str, at: &str, report: &mut Report<'_>) -> Option<Name> {
    if text.is_empty() {
        return None;
    }
    let field = format!("{at}.imagePullSecret");
    let path = match text.split_once("://") {
        Some(("kubernetes", path)) => path,
        Some((scheme, _)) => {
            report.error(
                &field,
                format!("`{scheme}://` names no Secret of Kubernetes; name one of this namespace"),
            );
            return None;
        }
        None => text,
    };
    let name = path.rsplit('/').next().unwrap_or(path);
    report.name(&field, Name::new(name))
}

/// The same with the keys of objects in order, so that the text depends on the content alone.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<_> = object.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            Value::Object(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.clone(), sorted(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}
