//! Extension providers: the external services that policies refer to by name.

mod access_log;
mod tracing;

pub use self::access_log::{
    EnvoyFileAccessLogProvider, EnvoyHttpGrpcV3LogProvider, EnvoyOpenTelemetryLogProvider, EnvoyTcpGrpcV3LogProvider,
    FileLogFormat, FileLogFormatType, OpenTelemetryLogFormat,
};
pub use self::tracing::{
    DatadogTracingProvider, DynatraceApi, DynatraceResourceDetector, DynatraceSampler, EnvironmentResourceDetector,
    GrpcService, HttpHeader, HttpHeaderValue, HttpService, LightstepTracingProvider, OpenCensusAgentTracingProvider,
    OpenTelemetryTracingProvider, ResourceDetectors, ServiceAttributeEnrichment, SkyWalkingTracingProvider,
    StackdriverLogging, StackdriverProvider, TraceContext, TraceContextOption, ZipkinTracingProvider,
};

use crate::Duration;
use crate::serde_util::is_default;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An external service that policies refer to by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ExtensionProvider {
    /// The name, unique.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// An authorizer that is asked over HTTP.
    #[serde(skip_serializing_if = "is_default")]
    pub envoy_ext_authz_http: Option<EnvoyExternalAuthorizationHttpProvider>,
    /// An authorizer that is asked over gRPC.
    #[serde(skip_serializing_if = "is_default")]
    pub envoy_ext_authz_grpc: Option<EnvoyExternalAuthorizationGrpcProvider>,
    /// Tracing by Zipkin.
    #[serde(skip_serializing_if = "is_default")]
    pub zipkin: Option<ZipkinTracingProvider>,
    /// Tracing by Lightstep. Old; Envoy has it no more.
    #[serde(skip_serializing_if = "is_default")]
    pub lightstep: Option<LightstepTracingProvider>,
    /// Tracing by Datadog.
    #[serde(skip_serializing_if = "is_default")]
    pub datadog: Option<DatadogTracingProvider>,
    /// Tracing, metrics and logs by Google Cloud.
    #[serde(skip_serializing_if = "is_default")]
    pub stackdriver: Option<StackdriverProvider>,
    /// Tracing by an agent of OpenCensus. Old; Envoy has it no more.
    #[serde(skip_serializing_if = "is_default")]
    pub opencensus: Option<OpenCensusAgentTracingProvider>,
    /// Tracing by Apache SkyWalking.
    #[serde(skip_serializing_if = "is_default")]
    pub skywalking: Option<SkyWalkingTracingProvider>,
    /// Tracing by OpenTelemetry.
    #[serde(skip_serializing_if = "is_default")]
    pub opentelemetry: Option<OpenTelemetryTracingProvider>,
    /// Metrics by Prometheus.
    #[serde(skip_serializing_if = "is_default")]
    pub prometheus: Option<PrometheusMetricsProvider>,
    /// Access logs in a file.
    #[serde(skip_serializing_if = "is_default")]
    pub envoy_file_access_log: Option<EnvoyFileAccessLogProvider>,
    /// Access logs of HTTP over gRPC.
    #[serde(skip_serializing_if = "is_default")]
    pub envoy_http_als: Option<EnvoyHttpGrpcV3LogProvider>,
    /// Access logs of TCP over gRPC.
    #[serde(skip_serializing_if = "is_default")]
    pub envoy_tcp_als: Option<EnvoyTcpGrpcV3LogProvider>,
    /// Access logs by OpenTelemetry.
    #[serde(skip_serializing_if = "is_default")]
    pub envoy_otel_als: Option<EnvoyOpenTelemetryLogProvider>,
    /// A server of secrets.
    #[serde(skip_serializing_if = "is_default")]
    pub sds: Option<SdsProvider>,
}

/// What an [`ExtensionProvider`] is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Provider<'a> {
    /// `ExtensionProvider::envoy_ext_authz_http` is set.
    EnvoyExtAuthzHttp(&'a EnvoyExternalAuthorizationHttpProvider),
    /// `ExtensionProvider::envoy_ext_authz_grpc` is set.
    EnvoyExtAuthzGrpc(&'a EnvoyExternalAuthorizationGrpcProvider),
    /// `ExtensionProvider::zipkin` is set.
    Zipkin(&'a ZipkinTracingProvider),
    /// `ExtensionProvider::lightstep` is set.
    Lightstep(&'a LightstepTracingProvider),
    /// `ExtensionProvider::datadog` is set.
    Datadog(&'a DatadogTracingProvider),
    /// `ExtensionProvider::stackdriver` is set.
    Stackdriver(&'a StackdriverProvider),
    /// `ExtensionProvider::opencensus` is set.
    Opencensus(&'a OpenCensusAgentTracingProvider),
    /// `ExtensionProvider::skywalking` is set.
    Skywalking(&'a SkyWalkingTracingProvider),
    /// `ExtensionProvider::opentelemetry` is set.
    Opentelemetry(&'a OpenTelemetryTracingProvider),
    /// `ExtensionProvider::prometheus` is set.
    Prometheus(&'a PrometheusMetricsProvider),
    /// `ExtensionProvider::envoy_file_access_log` is set.
    EnvoyFileAccessLog(&'a EnvoyFileAccessLogProvider),
    /// `ExtensionProvider::envoy_http_als` is set.
    EnvoyHttpAls(&'a EnvoyHttpGrpcV3LogProvider),
    /// `ExtensionProvider::envoy_tcp_als` is set.
    EnvoyTcpAls(&'a EnvoyTcpGrpcV3LogProvider),
    /// `ExtensionProvider::envoy_otel_als` is set.
    EnvoyOtelAls(&'a EnvoyOpenTelemetryLogProvider),
    /// `ExtensionProvider::sds` is set.
    Sds(&'a SdsProvider),
}

impl ExtensionProvider {
    /// Which one of the exclusive fields is set; the first in the order of [`Provider`] if the CRD rule was bypassed.
    pub fn provider(&self) -> Option<Provider<'_>> {
        self.envoy_ext_authz_http
            .as_ref()
            .map(Provider::EnvoyExtAuthzHttp)
            .or_else(|| self.envoy_ext_authz_grpc.as_ref().map(Provider::EnvoyExtAuthzGrpc))
            .or_else(|| self.zipkin.as_ref().map(Provider::Zipkin))
            .or_else(|| self.lightstep.as_ref().map(Provider::Lightstep))
            .or_else(|| self.datadog.as_ref().map(Provider::Datadog))
            .or_else(|| self.stackdriver.as_ref().map(Provider::Stackdriver))
            .or_else(|| self.opencensus.as_ref().map(Provider::Opencensus))
            .or_else(|| self.skywalking.as_ref().map(Provider::Skywalking))
            .or_else(|| self.opentelemetry.as_ref().map(Provider::Opentelemetry))
            .or_else(|| self.prometheus.as_ref().map(Provider::Prometheus))
            .or_else(|| self.envoy_file_access_log.as_ref().map(Provider::EnvoyFileAccessLog))
            .or_else(|| self.envoy_http_als.as_ref().map(Provider::EnvoyHttpAls))
            .or_else(|| self.envoy_tcp_als.as_ref().map(Provider::EnvoyTcpAls))
            .or_else(|| self.envoy_otel_als.as_ref().map(Provider::EnvoyOtelAls))
            .or_else(|| self.sds.as_ref().map(Provider::Sds))
    }
}

/// An authorizer that is asked over HTTP: status 200 lets a request pass.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EnvoyExternalAuthorizationHttpProvider {
    /// The service, as `host` or `namespace/host`.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// How long an answer may take; 600s by default, on which the request is refused or let through by
    /// `fail_open`.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: Option<Duration>,
    /// A prefix of the path that it is asked at; the request's own path follows.
    #[serde(skip_serializing_if = "is_default")]
    pub path_prefix: String,
    /// Whether requests pass when it cannot be reached.
    #[serde(skip_serializing_if = "is_default")]
    pub fail_open: bool,
    /// Whether a route is chosen anew after it has changed the request.
    #[serde(skip_serializing_if = "is_default")]
    pub clear_route_cache: bool,
    /// The status of the answer when it cannot be reached; 403 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub status_on_error: String,
    /// Old name of `include_request_headers_in_check`.
    #[serde(skip_serializing_if = "is_default")]
    pub include_headers_in_check: Vec<String>,
    /// Headers of the request that are sent along; exactly, or with `*` at one end. Host, method, path and
    /// content length always are.
    #[serde(skip_serializing_if = "is_default")]
    pub include_request_headers_in_check: Vec<String>,
    /// Further headers that are sent along, with their values.
    #[serde(skip_serializing_if = "is_default")]
    pub include_additional_headers_in_check: BTreeMap<String, String>,
    /// Whether the body is sent along.
    #[serde(skip_serializing_if = "is_default")]
    pub include_request_body_in_check: Option<EnvoyExternalAuthorizationRequestBody>,
    /// Headers of its answer that are set on the request to the workload.
    #[serde(skip_serializing_if = "is_default")]
    pub headers_to_upstream_on_allow: Vec<String>,
    /// Headers of its answer that the client gets on refusal.
    #[serde(skip_serializing_if = "is_default")]
    pub headers_to_downstream_on_deny: Vec<String>,
    /// Headers of its answer that the client gets besides the workload's.
    #[serde(skip_serializing_if = "is_default")]
    pub headers_to_downstream_on_allow: Vec<String>,
}

/// An authorizer that is asked by Envoy's `ext_authz` protocol.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EnvoyExternalAuthorizationGrpcProvider {
    /// The service, as `host` or `namespace/host`.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// How long an answer may take; 600s by default.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: Option<Duration>,
    /// Whether requests pass when it cannot be reached.
    #[serde(skip_serializing_if = "is_default")]
    pub fail_open: bool,
    /// Whether a route is chosen anew after it has changed the request.
    #[serde(skip_serializing_if = "is_default")]
    pub clear_route_cache: bool,
    /// The status of the answer when it cannot be reached; 403 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub status_on_error: String,
    /// Whether the body is sent along.
    #[serde(skip_serializing_if = "is_default")]
    pub include_request_body_in_check: Option<EnvoyExternalAuthorizationRequestBody>,
}

/// How the body of a request is sent to an authorizer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EnvoyExternalAuthorizationRequestBody {
    /// How much of it, in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub max_request_bytes: u32,
    /// Whether a longer body is cut; otherwise status 413.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_partial_message: bool,
    /// Whether it is sent as bytes rather than as UTF-8; only over gRPC.
    #[serde(skip_serializing_if = "is_default")]
    pub pack_as_bytes: bool,
}

/// A server of secrets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SdsProvider {
    /// The name that credentials refer to, after `sds://`.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// The service.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
}

/// Metrics for Prometheus, in Istio's form.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PrometheusMetricsProvider {}
