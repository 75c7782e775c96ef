//! Metrics and access logs.

use crate::Duration;
use crate::proto_enum::proto_enum;
use crate::schema::{one_of, rule};
use crate::serde_util::is_default;
use crate::telemetry::{ProviderRef, WorkloadMode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which metrics are made.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Metrics {
    /// Where they go; the mesh's default when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub providers: Vec<ProviderRef>,
    /// Changes to metrics, applied in order.
    #[serde(skip_serializing_if = "is_default")]
    pub overrides: Vec<MetricsOverrides>,
    /// How often TCP metrics are updated while a connection lasts; 5s by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub reporting_interval: Option<Duration>,
}

/// Changes to some metrics.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct MetricsOverrides {
    /// The metrics; all when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub r#match: Option<MetricSelector>,
    /// Whether they are not made.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub disabled: Option<bool>,
    /// Changes to their labels, by name.
    #[serde(skip_serializing_if = "is_default")]
    pub tag_overrides: BTreeMap<String, TagOverride>,
}

/// A change to a label.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("value must be set when operation is UPSERT", r#"((has(self.operation) ? self.operation : "") == "UPSERT") ? (self.value != "") : true"#), rule("value must not be set when operation is REMOVE", r#"((has(self.operation) ? self.operation : "") == "REMOVE") ? !has(self.value) : true"#)]))]
pub struct TagOverride {
    /// The operation.
    #[serde(skip_serializing_if = "is_default")]
    pub operation: TagOverrideOperation,
    /// The label's value, as an expression in CEL, for UPSERT.
    #[serde(skip_serializing_if = "is_default")]
    pub value: String,
}

proto_enum! {
    /// What is done to a label.
    pub enum TagOverrideOperation {
        /// It is set, and made if need be.
        Upsert = (0, "UPSERT"),
        /// It is left out.
        Remove = (1, "REMOVE"),
    }
}

/// Some metrics.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["metric", "customMetric"])))]
pub struct MetricSelector {
    /// One of Istio's own, or all.
    #[serde(skip_serializing_if = "is_default")]
    pub metric: Option<IstioMetric>,
    /// One by its name.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minLength" = 1))]
    pub custom_metric: Option<String>,
    /// The direction of traffic; both by default.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: WorkloadMode,
}

/// Which metric a [`MetricSelector`] is for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetricMatch<'a> {
    /// `MetricSelector::metric` is set.
    Metric(IstioMetric),
    /// `MetricSelector::custom_metric` is set.
    CustomMetric(&'a str),
}

impl MetricSelector {
    /// Which one of the exclusive fields is set; the first in the order of [`MetricMatch`] if the CRD rule was bypassed.
    pub fn metric_match(&self) -> Option<MetricMatch<'_>> {
        self.metric
            .map(MetricMatch::Metric)
            .or_else(|| self.custom_metric.as_deref().map(MetricMatch::CustomMetric))
    }
}

proto_enum! {
    /// Istio's own metrics.
    pub enum IstioMetric {
        /// All of them.
        AllMetrics = (0, "ALL_METRICS"),
        /// `istio_requests_total`.
        RequestCount = (1, "REQUEST_COUNT"),
        /// `istio_request_duration_milliseconds`.
        RequestDuration = (2, "REQUEST_DURATION"),
        /// `istio_request_bytes`.
        RequestSize = (3, "REQUEST_SIZE"),
        /// `istio_response_bytes`.
        ResponseSize = (4, "RESPONSE_SIZE"),
        /// `istio_tcp_connections_opened_total`.
        TcpOpenedConnections = (5, "TCP_OPENED_CONNECTIONS"),
        /// `istio_tcp_connections_closed_total`.
        TcpClosedConnections = (6, "TCP_CLOSED_CONNECTIONS"),
        /// `istio_tcp_sent_bytes_total`.
        TcpSentBytes = (7, "TCP_SENT_BYTES"),
        /// `istio_tcp_received_bytes_total`.
        TcpReceivedBytes = (8, "TCP_RECEIVED_BYTES"),
        /// `istio_request_messages_total`.
        GrpcRequestMessages = (9, "GRPC_REQUEST_MESSAGES"),
        /// `istio_response_messages_total`.
        GrpcResponseMessages = (10, "GRPC_RESPONSE_MESSAGES"),
    }
}

/// Which requests are logged, and where to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct AccessLogging {
    /// The direction; both when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub r#match: Option<AccessLogSelector>,
    /// Where logs go; the mesh's default when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub providers: Vec<ProviderRef>,
    /// Whether nothing is logged.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub disabled: Option<bool>,
    /// Which requests are logged; all when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub filter: Option<AccessLogFilter>,
}

/// The direction of traffic that logging is for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct AccessLogSelector {
    /// The direction.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: WorkloadMode,
}

/// Which requests are logged.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct AccessLogFilter {
    /// An expression in CEL over Envoy's attributes, which must be true, such as `response.code >= 400`.
    #[serde(skip_serializing_if = "is_default")]
    pub expression: String,
}
