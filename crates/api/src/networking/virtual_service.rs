//! VirtualService: how requests to a host are matched, changed and routed.

mod action;
mod matching;

pub use self::action::{
    CorsPolicy, HeaderOperations, Headers, HttpAbortType, HttpBody, HttpBodySpecifier, HttpDelayType,
    HttpDirectResponse, HttpFaultAbort, HttpFaultDelay, HttpFaultInjection, HttpMirrorPolicy, HttpRedirect, HttpRetry,
    HttpRewrite, Percent, RedirectPort, RedirectPortSelection, RegexRewrite, UnmatchedPreflights,
};
pub use self::matching::{HttpMatchRequest, L4MatchAttributes, StringMatch, StringMatchType, TlsMatchAttributes};

use crate::Duration;
use crate::schema::rule;
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How requests to some hosts are matched, changed and routed, at gateways and in the mesh.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "VirtualService",
    plural = "virtualservices",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "How requests to some hosts are matched, changed and routed."
)]
#[serde(default, rename_all = "camelCase")]
pub struct VirtualServiceSpec {
    /// The hosts that clients ask for: DNS names, perhaps with a leading wildcard, or IP addresses. A short
    /// name is completed with the namespace of this object.
    #[serde(skip_serializing_if = "is_default")]
    pub hosts: Vec<String>,
    /// The gateways at which it holds, as `name` or `namespace/name`; `mesh` stands for all sidecars and is the
    /// default.
    #[serde(skip_serializing_if = "is_default")]
    pub gateways: Vec<String>,
    /// Rules for HTTP and gRPC, of which the first that matches applies.
    #[serde(skip_serializing_if = "is_default")]
    pub http: Vec<HttpRoute>,
    /// Rules for TLS that is not terminated, of which the first that matches applies.
    #[serde(skip_serializing_if = "is_default")]
    pub tls: Vec<TlsRoute>,
    /// Rules for all other connections, of which the first that matches applies.
    #[serde(skip_serializing_if = "is_default")]
    pub tcp: Vec<TcpRoute>,
    /// The namespaces that see it: names, `.` for its own, `*` for all; the mesh's default when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub export_to: Vec<String>,
}

/// A rule for HTTP: conditions, what is changed, and where the request goes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = crate::schema::alias("mirrorPercent", "mirror_percent"))]
pub struct HttpRoute {
    /// A name for logs and statistics; the name of the match is appended.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Conditions, of which one must hold; every request matches when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub r#match: Vec<HttpMatchRequest>,
    /// Where the request goes, in proportion to the weights.
    #[serde(skip_serializing_if = "is_default")]
    pub route: Vec<HttpRouteDestination>,
    /// Answers with a redirection instead; excludes `route` and `direct_response`.
    #[serde(skip_serializing_if = "is_default")]
    pub redirect: Option<HttpRedirect>,
    /// Answers with a fixed response instead.
    #[serde(skip_serializing_if = "is_default")]
    pub direct_response: Option<HttpDirectResponse>,
    /// Leaves the request to the rules of another VirtualService; needs `route` and `redirect` to be empty.
    #[serde(skip_serializing_if = "is_default")]
    pub delegate: Option<Delegate>,
    /// Changes path or host before the request goes on; not together with `redirect`.
    #[serde(skip_serializing_if = "is_default")]
    pub rewrite: Option<HttpRewrite>,
    /// How long the response may take in all, retries included; no limit by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub timeout: Option<Duration>,
    /// Whether a failed request is tried again; the mesh's default when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: Option<HttpRetry>,
    /// Faults to inject, on the side of the client; retries and timeouts do not see them.
    #[serde(skip_serializing_if = "is_default")]
    pub fault: Option<HttpFaultInjection>,
    /// Where a copy of the request is sent, whose response is thrown away.
    #[serde(skip_serializing_if = "is_default")]
    pub mirror: Option<Destination>,
    /// Where copies of the request are sent; excludes `mirror`.
    #[serde(skip_serializing_if = "is_default")]
    pub mirrors: Vec<HttpMirrorPolicy>,
    /// Old form of `mirror_percentage`, in whole percent.
    #[serde(alias = "mirror_percent", skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub mirror_percent: Option<u32>,
    /// The share of requests that `mirror` gets; all by default.
    #[serde(skip_serializing_if = "is_default")]
    pub mirror_percentage: Option<Percent>,
    /// What browsers may do from pages of other origins.
    #[serde(skip_serializing_if = "is_default")]
    pub cors_policy: Option<CorsPolicy>,
    /// Headers to change, whichever destination is chosen.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Option<Headers>,
}

/// A destination of HTTP requests and its share of them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["destination"]))]
pub struct HttpRouteDestination {
    /// The service.
    #[serde(skip_serializing_if = "is_default")]
    pub destination: Option<Destination>,
    /// The share, in proportion to the sum of all weights of the rule; a single destination gets everything.
    #[serde(skip_serializing_if = "is_default")]
    pub weight: i32,
    /// Headers to change for this destination.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Option<Headers>,
}

/// A service, perhaps one subset and one port of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["host"]))]
pub struct Destination {
    /// The name of the service in the registry. A short name is completed with the namespace of the rule, not
    /// of the service.
    #[serde(skip_serializing_if = "is_default")]
    pub host: String,
    /// A subset that a DestinationRule of the service defines; the whole service when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub subset: String,
    /// The port; may be absent when the service has just one.
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<PortSelector>,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct PortSelector {
    /// Its number, 1 to 65535.
    #[serde(skip_serializing_if = "is_default")]
    pub number: u32,
}

/// The VirtualService that takes over a request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Delegate {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Its namespace; by default that of the one that delegates.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
}

/// A rule for TLS that is not terminated.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["match"]))]
pub struct TlsRoute {
    /// Conditions, of which one must hold.
    #[serde(skip_serializing_if = "is_default")]
    pub r#match: Vec<TlsMatchAttributes>,
    /// Where the connection goes, in proportion to the weights.
    #[serde(skip_serializing_if = "is_default")]
    pub route: Vec<RouteDestination>,
}

/// A rule for connections of any protocol.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpRoute {
    /// Conditions, of which one must hold; every connection matches when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub r#match: Vec<L4MatchAttributes>,
    /// Where the connection goes, in proportion to the weights.
    #[serde(skip_serializing_if = "is_default")]
    pub route: Vec<RouteDestination>,
}

/// A destination of connections and its share of them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["destination"]))]
pub struct RouteDestination {
    /// The service.
    #[serde(skip_serializing_if = "is_default")]
    pub destination: Option<Destination>,
    /// The share, in proportion to the sum of all weights of the rule; a single destination gets everything.
    #[serde(skip_serializing_if = "is_default")]
    pub weight: i32,
}
