//! Tracing as it is configured in a proxy's bootstrap; new installations use Telemetry and extension providers.

use crate::networking::destination_rule::ClientTlsSettings;
use crate::proto_enum::proto_enum;
use crate::serde_util::is_default;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How requests are traced.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Tracing {
    /// To Zipkin.
    #[serde(skip_serializing_if = "is_default")]
    pub zipkin: Option<Zipkin>,
    /// To Lightstep.
    #[serde(skip_serializing_if = "is_default")]
    pub lightstep: Option<Lightstep>,
    /// To Datadog.
    #[serde(skip_serializing_if = "is_default")]
    pub datadog: Option<Datadog>,
    /// To Google's Cloud Trace.
    #[serde(skip_serializing_if = "is_default")]
    pub stackdriver: Option<Stackdriver>,
    /// To an agent of OpenCensus.
    #[serde(skip_serializing_if = "is_default")]
    pub open_census_agent: Option<OpenCensusAgent>,
    /// Further tags of spans, by name.
    #[serde(skip_serializing_if = "is_default")]
    pub custom_tags: BTreeMap<String, CustomTag>,
    /// How much of the path goes into a span's tag, in bytes; 256 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_path_tag_length: u32,
    /// The share of requests that are traced, in percent.
    #[serde(skip_serializing_if = "is_default")]
    pub sampling: f64,
    /// TLS toward the collector; for Zipkin and Lightstep.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_settings: Option<ClientTlsSettings>,
    /// Whether spans get Istio's tags about the mesh, the workload and the service; they do by default.
    #[serde(skip_serializing_if = "is_default")]
    pub enable_istio_tags: Option<bool>,
}

/// The collector of a [`Tracing`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tracer<'a> {
    /// `Tracing::zipkin` is set.
    Zipkin(&'a Zipkin),
    /// `Tracing::lightstep` is set.
    Lightstep(&'a Lightstep),
    /// `Tracing::datadog` is set.
    Datadog(&'a Datadog),
    /// `Tracing::stackdriver` is set.
    Stackdriver(&'a Stackdriver),
    /// `Tracing::open_census_agent` is set.
    OpenCensusAgent(&'a OpenCensusAgent),
}

impl Tracing {
    /// Which one of the exclusive fields is set; the first in the order of [`Tracer`] if the CRD rule was bypassed.
    pub fn tracer(&self) -> Option<Tracer<'_>> {
        self.zipkin
            .as_ref()
            .map(Tracer::Zipkin)
            .or_else(|| self.lightstep.as_ref().map(Tracer::Lightstep))
            .or_else(|| self.datadog.as_ref().map(Tracer::Datadog))
            .or_else(|| self.stackdriver.as_ref().map(Tracer::Stackdriver))
            .or_else(|| self.open_census_agent.as_ref().map(Tracer::OpenCensusAgent))
    }
}

/// A collector of Zipkin.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Zipkin {
    /// Its address, `host:port`.
    #[serde(skip_serializing_if = "is_default")]
    pub address: String,
}

/// A collector of Lightstep.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Lightstep {
    /// Its address, `host:port`.
    #[serde(skip_serializing_if = "is_default")]
    pub address: String,
    /// The token.
    #[serde(skip_serializing_if = "is_default")]
    pub access_token: String,
}

/// An agent of Datadog.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Datadog {
    /// Its address, `host:port`.
    #[serde(skip_serializing_if = "is_default")]
    pub address: String,
}

/// Google's Cloud Trace.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Stackdriver {
    /// Whether spans are also written to the proxy's log.
    #[serde(skip_serializing_if = "is_default")]
    pub debug: bool,
    /// So many attributes in a span at most; 200 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_number_of_attributes: Option<i64>,
    /// So many annotations in a span at most; 200 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_number_of_annotations: Option<i64>,
    /// So many message events in a span at most; 200 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_number_of_message_events: Option<i64>,
}

/// An agent of OpenCensus.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OpenCensusAgent {
    /// Its address, in gRPC's form.
    #[serde(skip_serializing_if = "is_default")]
    pub address: String,
    /// The headers that carry the context, in order of preference; W3C's by default.
    #[serde(skip_serializing_if = "is_default")]
    pub context: Vec<TraceContext>,
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

/// The value of a tag.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
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
}

impl CustomTag {
    /// Which one of the exclusive fields is set; the first in the order of [`CustomTagType`] if the CRD rule was bypassed.
    pub fn r#type(&self) -> Option<CustomTagType<'_>> {
        self.literal
            .as_ref()
            .map(CustomTagType::Literal)
            .or_else(|| self.environment.as_ref().map(CustomTagType::Environment))
            .or_else(|| self.header.as_ref().map(CustomTagType::Header))
    }
}

/// A fixed text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Literal {
    /// The text.
    #[serde(skip_serializing_if = "is_default")]
    pub value: String,
}

/// A variable of the proxy's environment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Environment {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// What holds when it is not set.
    #[serde(skip_serializing_if = "is_default")]
    pub default_value: String,
}

/// A header of the request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestHeader {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// What holds when it is not there.
    #[serde(skip_serializing_if = "is_default")]
    pub default_value: String,
}
