//! Distributed tracing.

use crate::schema::one_of;
use crate::serde_util::is_default;
use crate::telemetry::{ProviderRef, WorkloadMode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How requests are traced.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Tracing {
    /// The direction; both when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub r#match: Option<TracingSelector>,
    /// Where spans go: one provider at most; the mesh's default when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub providers: Vec<ProviderRef>,
    /// The share of requests that are traced unless the caller has decided, in percent, with fractions down to
    /// 0.01; 1 by default at the end.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true, "maximum" = 100, "minimum" = 0))]
    pub random_sampling_percentage: Option<f64>,
    /// Whether no spans are made.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub disable_span_reporting: Option<bool>,
    /// Further tags of spans, by name.
    #[serde(skip_serializing_if = "is_default")]
    pub custom_tags: BTreeMap<String, CustomTag>,
    /// Whether the decision to sample is read from and kept in `x-request-id`; it is by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub use_request_id_for_trace_sampling: Option<bool>,
    /// Whether spans get Istio's tags about the mesh, the workload and the service; they do by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub enable_istio_tags: Option<bool>,
    /// Whether headers with the trace's context are left as they are.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub disable_context_propagation: Option<bool>,
}

/// The direction of traffic that tracing is for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TracingSelector {
    /// The direction.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: WorkloadMode,
}

/// The value of a tag.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["literal", "environment", "header", "formatter"])))]
pub struct CustomTag {
    /// A fixed text.
    #[serde(skip_serializing_if = "is_default")]
    pub literal: Option<Literal>,
    /// A variable of the proxy's environment.
    #[serde(skip_serializing_if = "is_default")]
    pub environment: Option<Environment>,
    /// A header of the request.
    #[serde(skip_serializing_if = "is_default")]
    pub header: Option<RequestHeader>,
    /// A format of access logs.
    #[serde(skip_serializing_if = "is_default")]
    pub formatter: Option<Formatter>,
}

/// Where the value of a [`CustomTag`] comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CustomTagType<'a> {
    /// `CustomTag::literal` is set.
    Literal(&'a Literal),
    /// `CustomTag::environment` is set.
    Environment(&'a Environment),
    /// `CustomTag::header` is set.
    Header(&'a RequestHeader),
    /// `CustomTag::formatter` is set.
    Formatter(&'a Formatter),
}

impl CustomTag {
    /// Which one of the exclusive fields is set; the first in the order of [`CustomTagType`] if the CRD rule was bypassed.
    pub fn r#type(&self) -> Option<CustomTagType<'_>> {
        self.literal
            .as_ref()
            .map(CustomTagType::Literal)
            .or_else(|| self.environment.as_ref().map(CustomTagType::Environment))
            .or_else(|| self.header.as_ref().map(CustomTagType::Header))
            .or_else(|| self.formatter.as_ref().map(CustomTagType::Formatter))
    }
}

/// A fixed text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["value"]))]
pub struct Literal {
    /// The text.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minLength" = 1))]
    pub value: String,
}

/// A variable of the proxy's environment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["name"]))]
pub struct Environment {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minLength" = 1))]
    pub name: String,
    /// What holds when it is not set.
    #[serde(skip_serializing_if = "is_default")]
    pub default_value: String,
}

/// A header of the request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["name"]))]
pub struct RequestHeader {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minLength" = 1))]
    pub name: String,
    /// What holds when it is not there.
    #[serde(skip_serializing_if = "is_default")]
    pub default_value: String,
}

/// A format of access logs, such as `%REQ(x)%`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["value"]))]
pub struct Formatter {
    /// The format.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minLength" = 1))]
    pub value: String,
}
