//! Telemetry: traces, metrics and access logs.

mod metrics;
mod tracing;

pub use self::metrics::{
    AccessLogFilter, AccessLogSelector, AccessLogging, IstioMetric, MetricMatch, MetricSelector, Metrics,
    MetricsOverrides, TagOverride, TagOverrideOperation,
};
pub use self::tracing::{
    CustomTag, CustomTagType, Environment, Formatter, Literal, RequestHeader, Tracing, TracingSelector,
};

use crate::proto_enum::proto_enum;
use crate::schema::rule;
use crate::selector::{PolicyTargetReference, WorkloadSelector};
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Traces, metrics and access logs of some workloads; more specific objects override field by field: the
/// workload's, its namespace's, the root namespace's.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "telemetry.istio.io",
    version = "v1",
    kind = "Telemetry",
    plural = "telemetries",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "Traces, metrics and access logs of some workloads."
)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("only one of targetRefs or selector can be set", "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1")]))]
pub struct TelemetrySpec {
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
    /// Tracing; only the first entry for each direction counts.
    #[serde(skip_serializing_if = "is_default")]
    pub tracing: Vec<Tracing>,
    /// Metrics.
    #[serde(skip_serializing_if = "is_default")]
    pub metrics: Vec<Metrics>,
    /// Access logs.
    #[serde(skip_serializing_if = "is_default")]
    pub access_logging: Vec<AccessLogging>,
}

/// One of the mesh's extension providers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["name"]))]
pub struct ProviderRef {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minLength" = 1))]
    pub name: String,
}

proto_enum! {
    /// The direction of traffic, seen from the proxy.
    pub enum WorkloadMode {
        /// Both directions.
        ClientAndServer = (0, "CLIENT_AND_SERVER"),
        /// Traffic that leaves the workload, or that a gateway forwards.
        Client = (1, "CLIENT"),
        /// Traffic that arrives at the workload.
        Server = (2, "SERVER"),
    }
}
