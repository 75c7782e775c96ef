//! WasmPlugin: a WebAssembly module in the filter chains of proxies.

use crate::Struct;
use crate::extensions::wasm::{FailStrategy, PluginType, PullPolicy, VmConfig};
use crate::proto_enum::proto_enum;
use crate::schema::rule;
use crate::selector::{PolicyTargetReference, PortSelector, WorkloadMode, WorkloadSelector};
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A WebAssembly module in the filter chains of some workloads.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "extensions.istio.io",
    version = "v1alpha1",
    kind = "WasmPlugin",
    plural = "wasmplugins",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "A WebAssembly module in the filter chains of some workloads."
)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["url"], "x-kubernetes-validations" = [rule("only one of targetRefs or selector can be set", "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1")]))]
pub struct WasmPluginSpec {
    /// The workloads, in its namespace; all, or all of the mesh in the root namespace, when neither this nor a
    /// target is given.
    #[serde(skip_serializing_if = "is_default")]
    pub selector: Option<WorkloadSelector>,
    /// Old form of `target_refs`, for one object.
    #[serde(skip_serializing_if = "is_default")]
    pub target_ref: Option<PolicyTargetReference>,
    /// The objects that it is for; 16 at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 16))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// Where the module is: `oci://` (the default scheme), `file://` in the proxy's container, `http://` or
    /// `https://`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minLength" = 1, "x-kubernetes-validations" = [rule("url must have schema one of [http, https, file, oci]", r#"isURL(self) ? (url(self).getScheme() in ["", "http", "https", "oci", "file"]) : (isURL("http://" + self) && url("http://" + self).getScheme() in ["", "http", "https", "oci", "file"])"#)]))]
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
    /// Where it goes in the order of filters.
    #[serde(skip_serializing_if = "is_default")]
    pub phase: PluginPhase,
    /// Higher ones come earlier within a phase; 0 by default, then by age and name.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub priority: Option<i32>,
    /// What becomes of requests when it fails.
    #[serde(skip_serializing_if = "is_default")]
    pub fail_strategy: FailStrategy,
    /// Settings of the virtual machine that it runs in.
    #[serde(skip_serializing_if = "is_default")]
    pub vm_config: Option<VmConfig>,
    /// The traffic, of which one entry must match; all when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub r#match: Vec<WasmTrafficSelector>,
    /// Whether it handles HTTP or streams.
    #[serde(skip_serializing_if = "is_default")]
    pub r#type: PluginType,
}

/// Traffic that a module is for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct WasmTrafficSelector {
    /// The direction; both by default.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: WorkloadMode,
    /// The ports; all when empty.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-list-map-keys" = ["number"], "x-kubernetes-list-type" = "map"))]
    pub ports: Vec<PortSelector>,
}

proto_enum! {
    /// Where a module goes in the order of filters.
    pub enum PluginPhase {
        /// To the end, before the router, at both sides.
        UnspecifiedPhase = (0, "UNSPECIFIED_PHASE"),
        /// Before the authentication filters.
        Authn = (1, "AUTHN"),
        /// After authentication, before the authorization filters.
        Authz = (2, "AUTHZ"),
        /// After authorization, before the statistics filters.
        Stats = (3, "STATS"),
    }
}
