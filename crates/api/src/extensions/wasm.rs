//! What WasmPlugin and TrafficExtension say alike about a WebAssembly module.

use crate::Struct;
use crate::proto_enum::proto_enum;
use crate::schema::rule;
use crate::serde_util::is_default;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A WebAssembly module.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["url"]))]
pub struct WasmConfig {
    /// Where the module is: `oci://` (the default scheme), `file://` in the proxy's container, `http://` or
    /// `https://`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minLength" = 1, "x-kubernetes-validations" = [rule("url must have schema one of [http, https, file, oci]", r#"isURL(self) ? (url(self).getScheme() in ["", "http", "https", "file", "oci"]) : (isURL("http://" + self) && url("http://" + self).getScheme() in ["", "http", "https", "file", "oci"])"#)]))]
    pub url: String,
    /// The module's SHA-256 in hexadecimal; a module that differs is not loaded.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("pattern" = "(^$|^[a-f0-9]{64}$)"))]
    pub sha256: String,
    /// When the module is fetched again.
    #[serde(skip_serializing_if = "is_default")]
    pub image_pull_policy: PullPolicy,
    /// A Secret of the same namespace with credentials for the registry.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 253, "minLength" = 1))]
    pub image_pull_secret: String,
    /// Reserved for a key that signs modules. Istio does not use it.
    #[serde(skip_serializing_if = "is_default")]
    pub verification_key: String,
    /// Configuration for the module, as it likes.
    #[serde(skip_serializing_if = "is_default")]
    pub plugin_config: Option<Struct>,
    /// The name that the module knows itself by.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 256, "minLength" = 1))]
    pub plugin_name: String,
    /// What becomes of requests when it fails.
    #[serde(skip_serializing_if = "is_default")]
    pub fail_strategy: FailStrategy,
    /// Settings of the virtual machine that it runs in.
    #[serde(skip_serializing_if = "is_default")]
    pub vm_config: Option<VmConfig>,
    /// Whether it handles HTTP or streams.
    #[serde(skip_serializing_if = "is_default")]
    pub r#type: PluginType,
}

/// Settings of the virtual machine that a module runs in.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct VmConfig {
    /// Variables of its environment; 256 at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 256, "x-kubernetes-list-map-keys" = ["name"], "x-kubernetes-list-type" = "map"))]
    pub env: Vec<EnvVar>,
}

/// A variable of a module's environment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["name"], "x-kubernetes-validations" = [rule("value may only be set when valueFrom is INLINE", r#"(has(self.valueFrom) ? self.valueFrom : "") != "HOST" || !has(self.value)"#)]))]
pub struct EnvVar {
    /// Its name, unique.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 256, "minLength" = 1))]
    pub name: String,
    /// Where its value comes from.
    #[serde(skip_serializing_if = "is_default")]
    pub value_from: EnvValueSource,
    /// Its value, for INLINE; 2048 bytes at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 2048))]
    pub value: String,
}

proto_enum! {
    /// Where the value of a variable comes from.
    pub enum EnvValueSource {
        /// It is given.
        Inline = (0, "INLINE"),
        /// From the variable of the same name in the proxy's environment.
        Host = (1, "HOST"),
    }
}

proto_enum! {
    /// What a module handles.
    pub enum PluginType {
        /// HTTP.
        UnspecifiedPluginType = (0, "UNSPECIFIED_PLUGIN_TYPE"),
        /// HTTP requests.
        Http = (1, "HTTP"),
        /// Streams of bytes.
        Network = (2, "NETWORK"),
    }
}

proto_enum! {
    /// When a module is fetched again.
    pub enum PullPolicy {
        /// As `Always` for the tag `latest`, as `IfNotPresent` otherwise.
        UnspecifiedPolicy = (0, "UNSPECIFIED_POLICY"),
        /// When there is none in the cache.
        IfNotPresent = (1, "IfNotPresent"),
        /// When the object changes.
        Always = (2, "Always"),
    }
}

proto_enum! {
    /// What becomes of requests when a module fails.
    pub enum FailStrategy {
        /// They are refused.
        FailClose = (0, "FAIL_CLOSE"),
        /// They pass without it.
        FailOpen = (1, "FAIL_OPEN"),
        /// The module is started again for the next request; if that fails, they are refused.
        FailReload = (2, "FAIL_RELOAD"),
    }
}
