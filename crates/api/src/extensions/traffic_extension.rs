//! TrafficExtension: a WebAssembly module or a Lua script in the filter chains of proxies.

use crate::extensions::wasm::WasmConfig;
use crate::proto_enum::proto_enum;
use crate::schema::{one_of, rule};
use crate::selector::{PolicyTargetReference, PortSelector, WorkloadMode, WorkloadSelector};
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A WebAssembly module or a Lua script in the filter chains of some workloads.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "extensions.istio.io",
    version = "v1alpha1",
    kind = "TrafficExtension",
    plural = "trafficextensions",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "A WebAssembly module or a Lua script in the filter chains of some workloads."
)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["wasm", "lua"]), "x-kubernetes-validations" = [rule("only one of targetRefs or selector can be set", "(has(self.selector) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1"), rule("exactly one of wasm or lua must be set", "has(self.wasm) != has(self.lua)")]))]
pub struct TrafficExtensionSpec {
    /// The workloads, in its namespace; all, or all of the mesh in the root namespace, when neither this nor
    /// targets are given.
    #[serde(skip_serializing_if = "is_default")]
    pub selector: Option<WorkloadSelector>,
    /// The objects that it is for; 16 at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 16))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// Where it goes in the order of filters.
    #[serde(skip_serializing_if = "is_default")]
    pub phase: ExecutionPhase,
    /// Higher ones come earlier within a phase; 0 by default, then by age and name.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub priority: Option<i32>,
    /// The traffic, of which one entry must match; all when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub r#match: Vec<TrafficSelector>,
    /// A WebAssembly module.
    #[serde(skip_serializing_if = "is_default")]
    pub wasm: Option<WasmConfig>,
    /// A Lua script.
    #[serde(skip_serializing_if = "is_default")]
    pub lua: Option<LuaConfig>,
}

/// What a [`TrafficExtensionSpec`] runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FilterConfig<'a> {
    /// `TrafficExtensionSpec::wasm` is set.
    Wasm(&'a WasmConfig),
    /// `TrafficExtensionSpec::lua` is set.
    Lua(&'a LuaConfig),
}

impl TrafficExtensionSpec {
    /// Which one of the exclusive fields is set; the first in the order of [`FilterConfig`] if the CRD rule was bypassed.
    pub fn filter_config(&self) -> Option<FilterConfig<'_>> {
        self.wasm
            .as_ref()
            .map(FilterConfig::Wasm)
            .or_else(|| self.lua.as_ref().map(FilterConfig::Lua))
    }
}

proto_enum! {
    /// Where an extension goes in the order of filters.
    pub enum ExecutionPhase {
        /// To the end, before the router.
        Unspecified = (0, "UNSPECIFIED"),
        /// Before the authentication filters.
        Authn = (1, "AUTHN"),
        /// After authentication, before the authorization filters.
        Authz = (2, "AUTHZ"),
        /// After authorization, before the statistics filters.
        Stats = (3, "STATS"),
    }
}

/// Traffic that an extension is for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficSelector {
    /// The direction; both by default.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: WorkloadMode,
    /// The ports; all when empty.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-list-map-keys" = ["number"], "x-kubernetes-list-type" = "map"))]
    pub ports: Vec<PortSelector>,
}

/// A Lua script.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["inlineCode"]))]
pub struct LuaConfig {
    /// The script, with `envoy_on_request` and `envoy_on_response`; 64 KiB at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 65536, "minLength" = 1))]
    pub inline_code: String,
}
