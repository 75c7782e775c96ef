//! Providers of tracing.

use crate::Duration;
use crate::proto_enum::proto_enum;
use crate::serde_util::is_default;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Tracing by Zipkin.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ZipkinTracingProvider {
    /// The service, as `host` or `namespace/host`.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// How much of the path goes into a span's tag, in bytes; 256 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_tag_length: u32,
    /// Whether the IDs of traces have 64 bits instead of 128.
    #[serde(skip_serializing_if = "is_default")]
    pub enable_64bit_trace_id: bool,
    /// The path of its API; `/api/v2/spans` by default.
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// Which headers carry the context.
    #[serde(skip_serializing_if = "is_default")]
    pub trace_context_option: TraceContextOption,
    /// How long sending may take; 5s by default.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: Option<Duration>,
    /// Headers of the requests to it.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Vec<HttpHeader>,
}

proto_enum! {
    /// Which headers carry the context of a trace.
    pub enum TraceContextOption {
        /// B3's.
        UseB3 = (0, "USE_B3"),
        /// B3's before W3C's when read, both when written.
        UseB3WithW3cPropagation = (1, "USE_B3_WITH_W3C_PROPAGATION"),
    }
}

/// Tracing by Lightstep.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LightstepTracingProvider {
    /// The service, as `host` or `namespace/host`.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// The token.
    #[serde(skip_serializing_if = "is_default")]
    pub access_token: String,
    /// How much of the path goes into a span's tag, in bytes; 256 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_tag_length: u32,
}

/// Tracing by Datadog.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DatadogTracingProvider {
    /// The service, as `host` or `namespace/host`.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// How much of the path goes into a span's tag, in bytes; 256 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_tag_length: u32,
}

/// Tracing by Apache SkyWalking.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SkyWalkingTracingProvider {
    /// The service, as `host` or `namespace/host`.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// The token.
    #[serde(skip_serializing_if = "is_default")]
    pub access_token: String,
}

/// Tracing, metrics and logs by Google Cloud.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StackdriverProvider {
    /// Whether spans are also written to the proxy's log.
    #[serde(skip_serializing_if = "is_default")]
    pub debug: bool,
    /// So many attributes in a span at most.
    #[serde(skip_serializing_if = "is_default")]
    pub max_number_of_attributes: Option<i64>,
    /// So many annotations in a span at most.
    #[serde(skip_serializing_if = "is_default")]
    pub max_number_of_annotations: Option<i64>,
    /// So many message events in a span at most.
    #[serde(skip_serializing_if = "is_default")]
    pub max_number_of_message_events: Option<i64>,
    /// How much of the path goes into a span's tag, in bytes; 256 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_tag_length: u32,
    /// Settings of logs.
    #[serde(skip_serializing_if = "is_default")]
    pub logging: Option<StackdriverLogging>,
}

/// Settings of logs in Google Cloud.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StackdriverLogging {
    /// Further labels, as expressions in CEL.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
}

/// Tracing by an agent of OpenCensus.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OpenCensusAgentTracingProvider {
    /// The service, as `host` or `namespace/host`.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// The headers that carry the context, in order of preference; W3C's by default.
    #[serde(skip_serializing_if = "is_default")]
    pub context: Vec<TraceContext>,
    /// How much of the path goes into a span's tag, in bytes; 256 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_tag_length: u32,
}

proto_enum! {
    /// A form of the context of a trace.
    pub enum TraceContext {
        /// None.
        Unspecified = (0, "UNSPECIFIED"),
        /// `traceparent`.
        W3cTraceContext = (1, "W3C_TRACE_CONTEXT"),
        /// `grpc-trace-bin`.
        GrpcBin = (2, "GRPC_BIN"),
        /// `X-Cloud-Trace-Context`.
        CloudTraceContext = (3, "CLOUD_TRACE_CONTEXT"),
        /// `X-B3-*`.
        B3 = (4, "B3"),
    }
}

/// Tracing by OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OpenTelemetryTracingProvider {
    /// The service, as `host` or `namespace/host`.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// How much of the path goes into a span's tag, in bytes; 256 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_tag_length: u32,
    /// Settings for sending over HTTP, instead of gRPC.
    #[serde(skip_serializing_if = "is_default")]
    pub http: Option<HttpService>,
    /// Settings for sending over gRPC.
    #[serde(skip_serializing_if = "is_default")]
    pub grpc: Option<GrpcService>,
    /// What is found out about the proxy itself.
    #[serde(skip_serializing_if = "is_default")]
    pub resource_detectors: Option<ResourceDetectors>,
    /// How the attributes of the service are named.
    #[serde(skip_serializing_if = "is_default")]
    pub service_attribute_enrichment: ServiceAttributeEnrichment,
    /// Sampling as Dynatrace decides.
    #[serde(skip_serializing_if = "is_default")]
    pub dynatrace_sampler: Option<DynatraceSampler>,
}

/// Sampling as Dynatrace decides.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DynatraceSampler {
    /// The tenant's name.
    #[serde(skip_serializing_if = "is_default")]
    pub tenant: String,
    /// The cluster's number.
    #[serde(skip_serializing_if = "is_default")]
    pub cluster_id: i32,
    /// So many traces a minute when its API cannot be reached; 1000 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub root_spans_per_minute: u32,
    /// Its API; that of the collector when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub http_service: Option<DynatraceApi>,
}

/// The API of Dynatrace that decides about sampling.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DynatraceApi {
    /// The service, as `host` or `namespace/host`.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// The request.
    #[serde(skip_serializing_if = "is_default")]
    pub http: Option<HttpService>,
}

proto_enum! {
    /// How the attributes of the service in spans are named.
    pub enum ServiceAttributeEnrichment {
        /// By Istio's canonical names.
        IstioCanonical = (0, "ISTIO_CANONICAL"),
        /// By OpenTelemetry's conventions.
        OtelSemanticConventions = (1, "OTEL_SEMANTIC_CONVENTIONS"),
    }
}

/// What is found out about the proxy itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ResourceDetectors {
    /// From its environment.
    #[serde(skip_serializing_if = "is_default")]
    pub environment: Option<EnvironmentResourceDetector>,
    /// From Dynatrace's files.
    #[serde(skip_serializing_if = "is_default")]
    pub dynatrace: Option<DynatraceResourceDetector>,
}

/// Reads attributes from the variable `OTEL_RESOURCE_ATTRIBUTES`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EnvironmentResourceDetector {}

/// Reads attributes from Dynatrace's files.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DynatraceResourceDetector {}

/// A request over HTTP.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpService {
    /// Its path.
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// How long it may take.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: Option<Duration>,
    /// Its headers.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Vec<HttpHeader>,
}

/// A header and its value.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpHeader {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Its value.
    #[serde(skip_serializing_if = "is_default")]
    pub value: Option<String>,
    /// A variable in the environment of the control plane that holds the value.
    #[serde(skip_serializing_if = "is_default")]
    pub env_name: Option<String>,
}

/// Where the value of a [`HttpHeader`] comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HttpHeaderValue<'a> {
    /// `HttpHeader::value` is set.
    Value(&'a str),
    /// `HttpHeader::env_name` is set.
    EnvName(&'a str),
}

impl HttpHeader {
    /// Which one of the exclusive fields is set; the first in the order of [`HttpHeaderValue`] if the CRD rule was bypassed.
    pub fn header_value(&self) -> Option<HttpHeaderValue<'_>> {
        self.value
            .as_deref()
            .map(HttpHeaderValue::Value)
            .or_else(|| self.env_name.as_deref().map(HttpHeaderValue::EnvName))
    }
}

/// A request over gRPC.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcService {
    /// How long it may take.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: Option<Duration>,
    /// Its metadata.
    #[serde(skip_serializing_if = "is_default")]
    pub initial_metadata: Vec<HttpHeader>,
}
