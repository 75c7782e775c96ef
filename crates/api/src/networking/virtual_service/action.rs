//! What VirtualService routes do with a request besides choosing a destination.

use crate::networking::virtual_service::{Destination, StringMatch};
use crate::proto_enum::proto_enum;
use crate::schema::{one_of, rule};
use crate::serde_util::is_default;
use crate::{ByteString, Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An answer that sends the client elsewhere. What is empty is taken from the request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["port", "derivePort"])))]
pub struct HttpRedirect {
    /// The new path, with the query if it is to have one.
    #[serde(skip_serializing_if = "is_default")]
    pub uri: String,
    /// The new host.
    #[serde(skip_serializing_if = "is_default")]
    pub authority: String,
    /// The new port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<u32>,
    /// A rule for the new port.
    #[serde(skip_serializing_if = "is_default")]
    pub derive_port: Option<RedirectPortSelection>,
    /// The new scheme, `http` or `https`.
    #[serde(skip_serializing_if = "is_default")]
    pub scheme: String,
    /// The status: 301 (the default), 302, 303, 307 or 308.
    #[serde(skip_serializing_if = "is_default")]
    pub redirect_code: u32,
    /// What stands in place of the prefix that was matched; excludes `uri`.
    #[serde(skip_serializing_if = "is_default")]
    pub prefix_rewrite: String,
}

/// Where the port of a redirection comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RedirectPort {
    /// `HttpRedirect::port` is set.
    Port(u32),
    /// `HttpRedirect::derive_port` is set.
    DerivePort(RedirectPortSelection),
}

impl HttpRedirect {
    /// Which one of the exclusive fields is set; the first in the order of [`RedirectPort`] if the CRD rule was bypassed.
    pub fn redirect_port(&self) -> Option<RedirectPort> {
        self.port
            .map(RedirectPort::Port)
            .or_else(|| self.derive_port.map(RedirectPort::DerivePort))
    }
}

proto_enum! {
    /// A rule for the port of a redirection.
    pub enum RedirectPortSelection {
        /// 80 for http, 443 for https.
        FromProtocolDefault = (0, "FROM_PROTOCOL_DEFAULT"),
        /// The port that the request came to.
        FromRequestPort = (1, "FROM_REQUEST_PORT"),
    }
}

/// A fixed response.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["status"]))]
pub struct HttpDirectResponse {
    /// Its status, 200 to 599.
    #[serde(skip_serializing_if = "is_default")]
    pub status: u32,
    /// Its body; none when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub body: Option<HttpBody>,
}

/// A body, as text or as bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["string", "bytes"])))]
pub struct HttpBody {
    /// The body as text.
    #[serde(skip_serializing_if = "is_default")]
    pub string: Option<String>,
    /// The body as bytes, in base64.
    #[serde(skip_serializing_if = "is_default")]
    pub bytes: Option<ByteString>,
}

/// The form in which an [`HttpBody`] is given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HttpBodySpecifier<'a> {
    /// `HttpBody::string` is set.
    String(&'a str),
    /// `HttpBody::bytes` is set.
    Bytes(&'a [u8]),
}

impl HttpBody {
    /// Which one of the exclusive fields is set; the first in the order of [`HttpBodySpecifier`] if the CRD rule was bypassed.
    pub fn specifier(&self) -> Option<HttpBodySpecifier<'_>> {
        self.string
            .as_deref()
            .map(HttpBodySpecifier::String)
            .or_else(|| self.bytes.as_ref().map(|b| HttpBodySpecifier::Bytes(&b.0)))
    }
}

/// What is changed of a request before it goes on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRewrite {
    /// The new path, or what stands in place of the prefix that was matched.
    #[serde(skip_serializing_if = "is_default")]
    pub uri: String,
    /// The new host.
    #[serde(skip_serializing_if = "is_default")]
    pub authority: String,
    /// Replaces the parts of the path that match an expression; excludes `uri`.
    #[serde(skip_serializing_if = "is_default")]
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// A replacement by a regular expression.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RegexRewrite {
    /// The expression, in the syntax of RE2, with groups.
    #[serde(skip_serializing_if = "is_default")]
    pub r#match: String,
    /// What stands in place of it; `\1` and so on stand for the groups.
    #[serde(skip_serializing_if = "is_default")]
    pub rewrite: String,
}

/// When and how often a failed request is tried again.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRetry {
    /// How often at most, besides the first try; 0 turns retries off.
    #[serde(skip_serializing_if = "is_default")]
    pub attempts: i32,
    /// How long one try may take; by default as long as the whole request.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub per_try_timeout: Option<Duration>,
    /// The conditions, with commas between: names that Envoy knows, or statuses. Istio's default set when
    /// empty.
    #[serde(skip_serializing_if = "is_default")]
    pub retry_on: String,
    /// Whether retries may go to other localities; the mesh's default is that they do not by preference.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub retry_remote_localities: Option<bool>,
    /// Whether retries avoid the endpoints that failed before; they do by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub retry_ignore_previous_hosts: Option<bool>,
    /// The least time between tries, which grows with each; 25ms by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub backoff: Option<Duration>,
}

/// What browsers may do from pages of other origins.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct CorsPolicy {
    /// Old form of `allow_origins`: exact values.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_origin: Vec<String>,
    /// The origins, one of which must match.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_origins: Vec<StringMatch>,
    /// The methods.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_methods: Vec<String>,
    /// The headers that requests may have.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_headers: Vec<String>,
    /// The headers of responses that scripts may read.
    #[serde(skip_serializing_if = "is_default")]
    pub expose_headers: Vec<String>,
    /// How long a browser may keep the answer to a preflight.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub max_age: Option<Duration>,
    /// Whether requests may carry credentials.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub allow_credentials: Option<bool>,
    /// What becomes of preflights from other origins; they are forwarded by default.
    #[serde(skip_serializing_if = "is_default")]
    pub unmatched_preflights: UnmatchedPreflights,
}

proto_enum! {
    /// What becomes of preflight requests from origins that are not allowed.
    pub enum UnmatchedPreflights {
        /// The default, which is to forward.
        Unspecified = (0, "UNSPECIFIED"),
        /// They go to the service.
        Forward = (1, "FORWARD"),
        /// They are answered without leave, and the service does not see them.
        Ignore = (2, "IGNORE"),
    }
}

/// Faults to inject; a delay comes before an abort.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpFaultInjection {
    /// Makes requests wait.
    #[serde(skip_serializing_if = "is_default")]
    pub delay: Option<HttpFaultDelay>,
    /// Answers requests with an error.
    #[serde(skip_serializing_if = "is_default")]
    pub abort: Option<HttpFaultAbort>,
}

/// Makes requests wait.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["fixedDelay", "exponentialDelay"])))]
pub struct HttpFaultDelay {
    /// Old form of `percentage`, in whole percent.
    #[serde(skip_serializing_if = "is_default")]
    pub percent: i32,
    /// How long.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub fixed_delay: Option<Duration>,
    /// The mean of a random time. Accepted for compatibility; Istio does not use it.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub exponential_delay: Option<Duration>,
    /// The share of requests that wait; all by default.
    #[serde(skip_serializing_if = "is_default")]
    pub percentage: Option<Percent>,
}

/// How long an [`HttpFaultDelay`] is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HttpDelayType {
    /// `HttpFaultDelay::fixed_delay` is set.
    FixedDelay(Duration),
    /// `HttpFaultDelay::exponential_delay` is set.
    ExponentialDelay(Duration),
}

impl HttpFaultDelay {
    /// Which one of the exclusive fields is set; the first in the order of [`HttpDelayType`] if the CRD rule was bypassed.
    pub fn http_delay_type(&self) -> Option<HttpDelayType> {
        self.fixed_delay
            .map(HttpDelayType::FixedDelay)
            .or_else(|| self.exponential_delay.map(HttpDelayType::ExponentialDelay))
    }
}

/// Answers requests with an error.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["httpStatus", "grpcStatus", "http2Error"])))]
pub struct HttpFaultAbort {
    /// As an HTTP status, 200 to 599.
    #[serde(skip_serializing_if = "is_default")]
    pub http_status: Option<i32>,
    /// As the name or number of a gRPC status.
    #[serde(skip_serializing_if = "is_default")]
    pub grpc_status: Option<String>,
    /// As the name of an HTTP/2 error. Accepted for compatibility; Istio does not use it.
    #[serde(skip_serializing_if = "is_default")]
    pub http2_error: Option<String>,
    /// The share of requests that fail; all by default.
    #[serde(skip_serializing_if = "is_default")]
    pub percentage: Option<Percent>,
}

/// The error of an [`HttpFaultAbort`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HttpAbortType<'a> {
    /// `HttpFaultAbort::http_status` is set.
    HttpStatus(i32),
    /// `HttpFaultAbort::grpc_status` is set.
    GrpcStatus(&'a str),
    /// `HttpFaultAbort::http2_error` is set.
    Http2Error(&'a str),
}

impl HttpFaultAbort {
    /// Which one of the exclusive fields is set; the first in the order of [`HttpAbortType`] if the CRD rule was bypassed.
    pub fn error_type(&self) -> Option<HttpAbortType<'_>> {
        self.http_status
            .map(HttpAbortType::HttpStatus)
            .or_else(|| self.grpc_status.as_deref().map(HttpAbortType::GrpcStatus))
            .or_else(|| self.http2_error.as_deref().map(HttpAbortType::Http2Error))
    }
}

/// A copy of requests.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["destination"]))]
pub struct HttpMirrorPolicy {
    /// Where it goes.
    #[serde(skip_serializing_if = "is_default")]
    pub destination: Option<Destination>,
    /// The share of requests that are copied; all by default.
    #[serde(skip_serializing_if = "is_default")]
    pub percentage: Option<Percent>,
}

/// A share.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Percent {
    /// In percent, 0 to 100, with fractions down to 0.0001.
    #[serde(skip_serializing_if = "is_default")]
    pub value: f64,
}

/// Changes to headers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Headers {
    /// Of requests, before they go to the destination.
    #[serde(skip_serializing_if = "is_default")]
    pub request: Option<HeaderOperations>,
    /// Of responses, before they go to the client.
    #[serde(skip_serializing_if = "is_default")]
    pub response: Option<HeaderOperations>,
}

/// Changes to the headers of one message.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HeaderOperations {
    /// Headers to set, replacing what is there.
    #[serde(skip_serializing_if = "is_default")]
    pub set: BTreeMap<String, String>,
    /// Headers to add to what is there.
    #[serde(skip_serializing_if = "is_default")]
    pub add: BTreeMap<String, String>,
    /// The names of headers to take away.
    #[serde(skip_serializing_if = "is_default")]
    pub remove: Vec<String>,
}
