//! ProxyConfig: settings of the proxies of some workloads. Not to be confused with the mesh-wide [`crate::mesh::ProxyConfig`].

use crate::selector::WorkloadSelector;
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Settings of the proxies of some workloads, laid over those of the mesh when a proxy starts.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1beta1",
    kind = "ProxyConfig",
    plural = "proxyconfigs",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "Settings of the proxies of some workloads."
)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyConfigSpec {
    /// The workloads, in its namespace; all, or all of the mesh in the root namespace, when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub selector: Option<WorkloadSelector>,
    /// The number of worker threads; 0 for one per core; by the container's CPU limit when absent.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true, "minimum" = 0))]
    pub concurrency: Option<i32>,
    /// Variables for the proxy's environment and metadata, merged key by key.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-values" = {"maxLength": 2048}))]
    pub environment_variables: BTreeMap<String, String>,
    /// The image of the proxy.
    #[serde(skip_serializing_if = "is_default")]
    pub image: Option<ProxyImage>,
}

/// The image of a proxy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyImage {
    /// The variant, such as `distroless` or `debug`.
    #[serde(skip_serializing_if = "is_default")]
    pub image_type: String,
}
