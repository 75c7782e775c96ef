//! Configurations of filters on their way to Envoy: modules by URL become modules by file.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::join_all;
use lateen_proto::envoy::config::core::v3::{
    AsyncDataSource, DataSource, TypedExtensionConfig, async_data_source, data_source,
};
use lateen_proto::envoy::config::rbac::v3::Rbac as Rules;
use lateen_proto::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use lateen_proto::envoy::extensions::filters::http::wasm::v3::Wasm as HttpWasm;
use lateen_proto::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use lateen_proto::envoy::extensions::filters::network::wasm::v3::Wasm as NetworkWasm;
use lateen_proto::envoy::extensions::wasm::v3::plugin_config::Vm;
use lateen_proto::envoy::extensions::wasm::v3::{FailurePolicy, PluginConfig, VmConfig};
use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use lateen_proto::{Any, any};
use prost::{Message as _, Name as _};
use zeroize::Zeroizing;

use super::cache::{Cache, Order, Policy};
use super::config::WasmConfig;
use crate::ads::Protocol;
use crate::metrics::Metrics;

/// The type of configurations that filters ask for by name.
pub(crate) const TYPE: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
/// What the control plane tells the agent, in the environment of the module, begins so; Envoy is not told.
const TOLD: &str = "ISTIO_META_";
const PULL_SECRET: &str = "ISTIO_META_WASM_IMAGE_PULL_SECRET";
const PULL_POLICY: &str = "ISTIO_META_WASM_IMAGE_PULL_POLICY";
const VERSION: &str = "ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION";
/// Statistics of filters that stand for a module, by Istio's names.
const OPEN: &str = "wasm-default-allow";
const CLOSED: &str = "wasm-default-deny";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Fetches modules and rewrites configurations.
#[derive(Debug)]
pub(crate) struct Modules {
    cache: Cache,
    metrics: Arc<Metrics>,
}

/// A response as Envoy gets it.
#[derive(Debug)]
pub(crate) struct Converted {
    pub(crate) message: Bytes,
    /// Resources whose module could not be had, as the control plane sent them.
    pub(crate) failed: Vec<Failed>,
    /// Names of all resources that the response is about.
    pub(crate) about: Vec<String>,
}

/// A resource to be tried again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failed(pub(crate) Resource);

/// Either kind of filter.
enum Filter {
    Http(HttpWasm),
    Network(NetworkWasm),
}

impl Modules {
    /// With an empty cache.
    pub(crate) fn new(config: WasmConfig, metrics: Arc<Metrics>) -> Self {
        Self {
            cache: Cache::new(config),
            metrics,
        }
    }

    /// Rewrites a response of configurations. What cannot be read is left to Envoy, which says so.
    pub(crate) async fn convert(&self, protocol: Protocol, message: Bytes) -> Converted {
        let unread = Converted {
            message: message.clone(),
            failed: Vec::new(),
            about: Vec::new(),
        };
        match protocol {
            Protocol::Whole => {
                let Ok(mut response) = DiscoveryResponse::decode(message) else {
                    return unread;
                };
                join_all(response.resources.iter_mut().map(|resource| self.resource(resource))).await;
                Converted {
                    message: response.encode_to_vec().into(),
                    ..unread
                }
            }
            Protocol::Delta => {
                let Ok(mut response) = DeltaDiscoveryResponse::decode(message) else {
                    return unread;
                };
                let about = response.resources.iter().map(|resource| resource.name.clone());
                let about = about.chain(response.removed_resources.iter().cloned()).collect();
                let failed = self.all(&mut response.resources).await;
                Converted {
                    message: response.encode_to_vec().into(),
                    failed,
                    about,
                }
            }
        }
    }

    /// Tries again what failed: the resources that can be had now, and the rest.
    pub(crate) async fn retry(&self, failed: Vec<Failed>) -> (Vec<Resource>, Vec<Failed>) {
        let mut resources: Vec<Resource> = failed.into_iter().map(|Failed(resource)| resource).collect();
        let failed = self.all(&mut resources).await;
        resources.retain(|resource| !failed.iter().any(|Failed(other)| other.name == resource.name));
        (resources, failed)
    }

    async fn all(&self, resources: &mut [Resource]) -> Vec<Failed> {
        let each = resources.iter_mut().map(|resource| async {
            let before = resource.clone();
            let failed = match &mut resource.resource {
                Some(packed) => self.resource(packed).await,
                None => false,
            };
            failed.then_some(Failed(before))
        });
        join_all(each).await.into_iter().flatten().collect()
    }

    /// Rewrites one resource; whether its module could not be had.
    async fn resource(&self, packed: &mut Any) -> bool {
        let Ok(mut config) = TypedExtensionConfig::decode(packed.value.as_slice()) else {
            return false;
        };
        let Some(mut filter) = config.typed_config.as_ref().and_then(Filter::read) else {
            return false;
        };
        let fetched = match filter.plugin() {
            Some(plugin) => self.plugin(&config.name, plugin).await,
            None => return false,
        };
        let failed = match &fetched {
            Ok(()) => false,
            Err(error) => {
                let open = filter.fails_open();
                tracing::error!(
                    error = format!("{error:#}"),
                    extension = config.name,
                    "no WebAssembly module: traffic {} until it is there",
                    if open { "passes without it" } else { "is refused" }
                );
                self.metrics.wasm_failures.increment();
                true
            }
        };
        config.typed_config = Some(match fetched {
            Ok(()) => filter.packed(),
            Err(_) => filter.replacement(),
        });
        packed.value = config.encode_to_vec();
        failed
    }

    /// Fetches the module of a plugin, if it is not a file already, and takes out what only the agent is told.
    async fn plugin(&self, resource: &str, plugin: &mut PluginConfig) -> anyhow::Result<()> {
        let Some(Vm::VmConfig(vm)) = &mut plugin.vm else {
            return Ok(());
        };
        let told = told(vm);
        let Some(async_data_source::Specifier::Remote(remote)) =
            vm.code.as_ref().and_then(|code| code.specifier.as_ref())
        else {
            return Ok(());
        };
        let uri = remote.http_uri.as_ref().context("the configuration names no URL")?;
        if told.secret.as_ref().is_some_and(|secret| secret.is_empty()) {
            anyhow::bail!(
                "{}: the image pull secret is not there, or has no .dockerconfigjson",
                uri.uri
            );
        }
        let timeout = uri.timeout.as_ref().and_then(|time| Duration::try_from(*time).ok());
        let order = Order {
            url: uri.uri.clone(),
            // Old control planes write `nil` for none.
            sha256: Some(remote.sha256.clone())
                .filter(|sha256| sha256 != "nil")
                .unwrap_or_default(),
            resource: resource.to_owned(),
            version: told.version,
            policy: told.policy,
            secret: told.secret,
            timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
        };
        let path = self.cache.get(&order).await.with_context(|| order.url.clone())?;
        self.metrics.wasm_modules.increment();
        let path = std::path::absolute(path)?;
        let path = path.to_str().context("the folder of modules is not UTF-8")?;
        vm.code = Some(AsyncDataSource {
            specifier: Some(async_data_source::Specifier::Local(DataSource {
                specifier: Some(data_source::Specifier::Filename(path.to_owned())),
                ..DataSource::default()
            })),
        });
        Ok(())
    }
}

/// What the control plane tells the agent about a module.
struct Told {
    secret: Option<Zeroizing<String>>,
    policy: Policy,
    version: String,
}

/// Takes it out of the module's environment.
fn told(vm: &mut VmConfig) -> Told {
    let mut told = Told {
        secret: None,
        policy: Policy::Unspecified,
        version: String::new(),
    };
    let Some(environment) = &mut vm.environment_variables else {
        return told;
    };
    let variables = &mut environment.key_values;
    told.secret = variables.remove(PULL_SECRET).map(Zeroizing::new);
    told.policy = match variables.remove(PULL_POLICY).as_deref() {
        Some("IfNotPresent") => Policy::IfNotPresent,
        Some("Always") => Policy::Always,
        _ => Policy::Unspecified,
    };
    told.version = variables.remove(VERSION).unwrap_or_default();
    variables.retain(|name, _| !name.starts_with(TOLD));
    if variables.is_empty() && environment.host_env_keys.is_empty() {
        vm.environment_variables = None;
    }
    told
}

impl Filter {
    fn read(packed: &Any) -> Option<Self> {
        if packed.type_url == HttpWasm::type_url() {
            return HttpWasm::decode(packed.value.as_slice()).ok().map(Self::Http);
        }
        if packed.type_url == NetworkWasm::type_url() {
            return NetworkWasm::decode(packed.value.as_slice()).ok().map(Self::Network);
        }
        None
    }

    fn plugin(&mut self) -> Option<&mut PluginConfig> {
        match self {
            Self::Http(filter) => filter.config.as_mut(),
            Self::Network(filter) => filter.config.as_mut(),
        }
    }

    fn fails_open(&self) -> bool {
        let plugin = match self {
            Self::Http(filter) => filter.config.as_ref(),
            Self::Network(filter) => filter.config.as_ref(),
        };
        plugin.is_some_and(|plugin| match plugin.failure_policy() {
            #[expect(deprecated, reason = "older control planes set it")]
            FailurePolicy::Unspecified => plugin.fail_open,
            policy => policy == FailurePolicy::FailOpen,
        })
    }

    fn packed(&self) -> Any {
        match self {
            Self::Http(filter) => any(filter),
            Self::Network(filter) => any(filter),
        }
    }

    /// Rules without policies refuse everything; no rules, nothing.
    fn replacement(&self) -> Any {
        let open = self.fails_open();
        let rules = (!open).then(Rules::default);
        let prefix = if open { OPEN } else { CLOSED }.to_owned();
        match self {
            Self::Http(_) => any(&HttpRbac {
                rules,
                rules_stat_prefix: prefix,
                ..HttpRbac::default()
            }),
            Self::Network(_) => any(&NetworkRbac {
                rules,
                stat_prefix: prefix,
                ..NetworkRbac::default()
            }),
        }
    }
}
