//! TrafficExtensions and WasmPlugins: filters in chains, and the configurations that filters ask for by name.
//!
//! A module's filter asks for its configuration over ECDS, so that a change of it touches no listener. A Lua script
//! stands in the chain itself. Traffic waits until the module is there: it may decide who may pass.

use lateen_model::extension::{Code, Extension, OnFailure, Phase, Runs, Wasm};
use lateen_model::secret::Sensitive;
use lateen_model::{Diagnostic, Severity, Shared, Snapshot};
use lateen_names::{Name, ObjectKey};
use lateen_proto::envoy::config::core::v3 as core;
use lateen_proto::envoy::config::listener::v3 as pb;
use lateen_proto::envoy::extensions::filters::http::lua::v3::Lua;
use lateen_proto::envoy::extensions::filters::http::wasm::v3 as http_wasm;
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use lateen_proto::envoy::extensions::filters::network::wasm::v3 as network_wasm;
use lateen_proto::envoy::extensions::wasm::v3 as wasm;
use lateen_proto::{Any, any};
use prost::{Message as _, Name as _};

use crate::built::{Built, Resource};
use crate::facts::ExtensionFacts;
use crate::listener::Side;
use crate::source;

/// What names of filters and of their configurations begin with, as Istio has it.
const PREFIX: &str = "extensions.istio.io/trafficextension/";
/// Variable of a module's environment by which the agent gets credentials for the registry, as Istio has it. Whoever shows
/// configuration must not show its value.
pub const PULL_SECRET: &str = "ISTIO_META_WASM_IMAGE_PULL_SECRET";
/// Further ones, by which it learns how to fetch the module.
const PULL_POLICY: &str = "ISTIO_META_WASM_IMAGE_PULL_POLICY";
const VERSION: &str = "ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION";
const RUNTIME: &str = "envoy.wasm.runtime.v8";
/// Seconds; the agent has limits of its own.
const FETCH_TIMEOUT: i64 = 30;
/// What the agent puts in place of a module that cannot be had: a filter that refuses everything.
const HTTP_REFUSAL: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
const NETWORK_REFUSAL: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";

/// The configuration of a filter without credentials, as it may be shown.
pub fn public(configuration: &[u8]) -> Vec<u8> {
    let Ok(mut message) = core::TypedExtensionConfig::decode(configuration) else {
        return configuration.to_vec();
    };
    if let Some(packed) = &mut message.typed_config {
        if let (true, Ok(mut filter)) = (
            packed.type_url == http_wasm::Wasm::type_url(),
            http_wasm::Wasm::decode(packed.value.as_slice()),
        ) {
            if redact(filter.config.as_mut()) {
                *packed = any(&filter);
            }
        } else if let (true, Ok(mut filter)) = (
            packed.type_url == network_wasm::Wasm::type_url(),
            network_wasm::Wasm::decode(packed.value.as_slice()),
        ) && redact(filter.config.as_mut())
        {
            *packed = any(&filter);
        }
    }
    message.encode_to_vec()
}

fn redact(plugin: Option<&mut wasm::PluginConfig>) -> bool {
    let Some(wasm::plugin_config::Vm::VmConfig(vm)) = plugin.and_then(|plugin| plugin.vm.as_mut()) else {
        return false;
    };
    let variables = vm.environment_variables.as_mut();
    match variables.and_then(|variables| variables.key_values.get_mut(PULL_SECRET)) {
        Some(secret) if !secret.is_empty() => {
            *secret = "[redacted]".to_owned();
            true
        }
        _ => false,
    }
}

/// The phases in order, where nothing stands between them.
pub(crate) const ALL_PHASES: [Phase; 4] = [Phase::Authn, Phase::Authz, Phase::Stats, Phase::Unspecified];

/// Extensions in force on one side of a class, in order of application.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Extensions(Vec<Shared<Extension>>);

impl Extensions {
    pub(crate) fn select(snapshot: &Snapshot, keys: &[ObjectKey]) -> Self {
        Self(
            keys.iter()
                .filter_map(|key| snapshot.extensions.get(key))
                .cloned()
                .collect(),
        )
    }

    fn of(&self, side: Side, port: u16, phase: Phase, network: bool) -> impl Iterator<Item = &Extension> {
        self.0.iter().map(|extension| &**extension).filter(move |extension| {
            extension.phase == phase
                && extension.is_network() == network
                && extension.concerns(side == Side::Inbound, port)
        })
    }

    /// The HTTP filters of a phase.
    pub(crate) fn http(&self, side: Side, port: u16, phase: Phase) -> Vec<hcm::HttpFilter> {
        use hcm::http_filter::ConfigType;
        let filter = |extension: &Extension| hcm::HttpFilter {
            name: name(extension),
            config_type: Some(match &extension.runs {
                Runs::Lua(code) => ConfigType::TypedConfig(any(&script(code))),
                Runs::Wasm(_) => ConfigType::ConfigDiscovery(discovered(&[&http_wasm::Wasm::type_url(), HTTP_REFUSAL])),
            }),
            ..hcm::HttpFilter::default()
        };
        self.of(side, port, phase, false).map(filter).collect()
    }

    /// The network filters of phases.
    pub(crate) fn network(&self, side: Side, port: u16, phases: &[Phase]) -> Vec<pb::Filter> {
        let filter = |extension: &Extension| pb::Filter {
            name: name(extension),
            config_type: Some(pb::filter::ConfigType::ConfigDiscovery(discovered(&[
                &network_wasm::Wasm::type_url(),
                NETWORK_REFUSAL,
            ]))),
        };
        let all = phases.iter().flat_map(|phase| self.of(side, port, *phase, true));
        all.map(filter).collect()
    }

    /// The network filters of a chain of bytes, around those that decide who may pass.
    pub(crate) fn around(&self, [custom, rules]: [Vec<pb::Filter>; 2], side: Side, port: u16) -> Vec<pb::Filter> {
        let mut all = custom;
        all.extend(self.network(side, port, &[Phase::Authn, Phase::Authz]));
        all.extend(rules);
        all.extend(self.network(side, port, &[Phase::Stats, Phase::Unspecified]));
        all
    }
}

fn name(extension: &Extension) -> String {
    format!("{PREFIX}{}", extension.name)
}

fn script(code: &str) -> Lua {
    Lua {
        default_source_code: Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(code.to_owned())),
            ..core::DataSource::default()
        }),
        ..Lua::default()
    }
}

/// Configuration that is asked for by the filter's name, and waited for without limit.
fn discovered(types: &[&str]) -> core::ExtensionConfigSource {
    core::ExtensionConfigSource {
        config_source: Some(source::awaited(source::ads())),
        type_urls: types.iter().map(|text| (*text).to_owned()).collect(),
        ..core::ExtensionConfigSource::default()
    }
}

/// What the configuration of a module's filter is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    extension: Shared<Extension>,
    /// Credentials for the registry; none where the Secret is not there.
    pull_secret: Option<Shared<Sensitive>>,
}

/// Lists the configurations that filters of a class ask for.
pub(crate) fn select(snapshot: &Snapshot, facts: &ExtensionFacts) -> Vec<Input> {
    let extensions = facts.modules.iter().filter_map(|key| snapshot.extensions.get(key));
    extensions
        .map(|extension| {
            let secret = extension.wasm().and_then(|wasm| wasm.pull_secret.as_ref());
            let key = secret.map(|name| secret_key(extension, name));
            Input {
                pull_secret: key.and_then(|key| snapshot.pull_secrets.get(&key)).cloned(),
                extension: extension.clone(),
            }
        })
        .collect()
}

/// A Secret must be in the namespace of the object that names it.
fn secret_key(extension: &Extension, name: &Name) -> ObjectKey {
    ObjectKey {
        namespace: Some(extension.scope.namespace.clone()),
        name: name.clone(),
    }
}

impl Input {
    /// Builds the configuration.
    pub(crate) fn build(&self) -> Built {
        let extension = &self.extension;
        let origins = [extension.scope.origin.clone()];
        let Some(module) = extension.wasm() else {
            return Built {
                resource: None,
                diagnostics: Vec::new(),
                origins: origins.into(),
            };
        };
        let config = Some(self.plugin(module));
        let packed: Any = if module.network {
            any(&network_wasm::Wasm { config })
        } else {
            any(&http_wasm::Wasm { config })
        };
        let name = name(extension);
        let message = core::TypedExtensionConfig {
            name: name.clone(),
            typed_config: Some(packed),
        };
        let mut built = Built::new(Resource::encode(name, &message), origins);
        if let (Some(secret), None) = (&module.pull_secret, &self.pull_secret) {
            built.diagnostics.push(Diagnostic {
                object: extension.scope.origin.clone(),
                field: "spec.imagePullSecret".into(),
                severity: Severity::Error,
                code: "IST0101",
                message: format!(
                    "namespace {} has no Secret {secret} of type kubernetes.io/dockerconfigjson: the image is asked for without credentials; make it, or correct the name",
                    extension.scope.namespace
                )
                .into(),
            });
        }
        built
    }

    fn plugin(&self, module: &Wasm) -> wasm::PluginConfig {
        let code = match &module.code {
            Code::File(path) => core::async_data_source::Specifier::Local(core::DataSource {
                specifier: Some(core::data_source::Specifier::Filename(path.to_string())),
                ..core::DataSource::default()
            }),
            Code::Remote { url, sha256 } => core::async_data_source::Specifier::Remote(core::RemoteDataSource {
                http_uri: Some(core::HttpUri {
                    uri: url.to_string(),
                    timeout: Some(prost_types::Duration {
                        seconds: FETCH_TIMEOUT,
                        nanos: 0,
                    }),
                    // The agent fetches it; the field must not be empty.
                    http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster("_".to_owned())),
                }),
                sha256: sha256.to_string(),
                ..core::RemoteDataSource::default()
            }),
        };
        let policy = match module.on_failure {
            OnFailure::Close => wasm::FailurePolicy::FailClosed,
            OnFailure::Open => wasm::FailurePolicy::FailOpen,
            OnFailure::Reload => wasm::FailurePolicy::FailReload,
        };
        wasm::PluginConfig {
            name: self.extension.name.to_string(),
            root_id: module.root_id.to_string(),
            // Envoy hands a text to the module as it is.
            configuration: module.configuration.as_ref().map(|text| Any {
                type_url: "type.googleapis.com/google.protobuf.StringValue".to_owned(),
                value: text.to_string().encode_to_vec(),
            }),
            failure_policy: policy.into(),
            vm: Some(wasm::plugin_config::Vm::VmConfig(wasm::VmConfig {
                runtime: RUNTIME.to_owned(),
                code: Some(core::AsyncDataSource { specifier: Some(code) }),
                environment_variables: Some(self.environment(module)),
                ..wasm::VmConfig::default()
            })),
            ..wasm::PluginConfig::default()
        }
    }

    fn environment(&self, module: &Wasm) -> wasm::EnvironmentVariables {
        let mut out = wasm::EnvironmentVariables {
            host_env_keys: module.host_env.iter().map(|name| name.to_string()).collect(),
            ..wasm::EnvironmentVariables::default()
        };
        let mut set = |name: &str, value: &str| {
            out.key_values.insert(name.to_owned(), value.to_owned());
        };
        if module.pull_secret.is_some() {
            let secret = self.pull_secret.as_deref().map(Sensitive::expose);
            // What is no text is no JSON either.
            set(
                PULL_SECRET,
                secret
                    .and_then(|bytes| std::str::from_utf8(bytes).ok())
                    .unwrap_or_default(),
            );
        }
        if let Some(policy) = module.pull_policy {
            set(PULL_POLICY, policy);
        }
        set(VERSION, &module.version);
        for (name, value) in &module.env {
            set(name, value);
        }
        out
    }
}

#[cfg(test)]
mod tests;
