//! HTTPRoute: how HTTP requests are routed.

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::common::{DefaultScope, LocalObjectReference, ParentReference};
use super::duration;
use super::filters::{Cors, ExternalAuth, HeaderModifier, RequestMirror, RequestRedirect, UrlRewrite};
use super::status::RouteStatus;
use crate::Duration;
use crate::serde_util::is_default;

/// How HTTP requests are routed.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "HTTPRoute",
    plural = "httproutes",
    root = "HttpRoute",
    namespaced,
    status = "RouteStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "How HTTP requests are routed."
)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// What the route attaches to.
    #[serde(skip_serializing_if = "is_default")]
    pub parent_refs: Vec<ParentReference>,
    /// The hosts it is for, perhaps with a leading wildcard; all that the parent takes when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub hostnames: Vec<String>,
    /// The rules; by default one for every request.
    pub rules: Vec<HttpRouteRule>,
    /// Whether it also attaches to the default Gateways; it does not when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub use_default_gateways: Option<DefaultScope>,
}

impl Default for HttpRouteSpec {
    fn default() -> Self {
        Self {
            parent_refs: Vec::new(),
            hostnames: Vec::new(),
            rules: vec![HttpRouteRule::default()],
            use_default_gateways: None,
        }
    }
}

/// What is done with the requests that meet any of some conditions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteRule {
    /// The rule's name within the route.
    #[serde(skip_serializing_if = "is_default")]
    pub name: Option<String>,
    /// The conditions, of which one must hold; by default one that every request meets.
    pub matches: Vec<HttpRouteMatch>,
    /// What is done with the request first, in order.
    #[serde(skip_serializing_if = "is_default")]
    pub filters: Vec<HttpRouteFilter>,
    /// Where it goes; status 500 when empty and no filter answers.
    #[serde(skip_serializing_if = "is_default")]
    pub backend_refs: Vec<HttpBackendRef>,
    /// Timeouts.
    #[serde(skip_serializing_if = "is_default")]
    pub timeouts: Option<HttpRouteTimeouts>,
    /// When a failed request is tried again.
    #[serde(skip_serializing_if = "is_default")]
    pub retry: Option<HttpRouteRetry>,
    /// Whether a client stays with one backend.
    #[serde(skip_serializing_if = "is_default")]
    pub session_persistence: Option<SessionPersistence>,
}

impl Default for HttpRouteRule {
    fn default() -> Self {
        Self {
            name: None,
            matches: vec![HttpRouteMatch::default()],
            filters: Vec::new(),
            backend_refs: Vec::new(),
            timeouts: None,
            retry: None,
            session_persistence: None,
        }
    }
}

/// Conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteMatch {
    /// The path; every path by default.
    pub path: HttpPathMatch,
    /// Headers that must be there.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Vec<HttpHeaderMatch>,
    /// Query parameters that must be there.
    #[serde(skip_serializing_if = "is_default")]
    pub query_params: Vec<HttpHeaderMatch>,
    /// The method; every one when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub method: Option<String>,
}

/// A condition on the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpPathMatch {
    /// How the value is read.
    pub r#type: PathMatchType,
    /// The path, prefix or expression; `/` by default.
    pub value: String,
}

impl Default for HttpPathMatch {
    fn default() -> Self {
        Self {
            r#type: PathMatchType::PathPrefix,
            value: "/".to_owned(),
        }
    }
}

/// How the value of a path match is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum PathMatchType {
    /// The path, letter by letter.
    Exact,
    /// A prefix, element by element: `/a` covers `/a/b` and not `/ab`.
    #[default]
    PathPrefix,
    /// A regular expression for the whole path.
    RegularExpression,
}

/// A condition on a header or a query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpHeaderMatch {
    /// How the value is read.
    pub r#type: MatchType,
    /// The name; a header's in any case.
    pub name: String,
    /// The value, or an expression for it.
    pub value: String,
}

/// How the value of a match is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum MatchType {
    /// Letter by letter.
    #[default]
    Exact,
    /// As a regular expression for the whole.
    RegularExpression,
}

/// Something done with a request or its response.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteFilter {
    /// Which of the fields below is set.
    pub r#type: HttpRouteFilterType,
    /// Changes to the request's headers.
    #[serde(skip_serializing_if = "is_default")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// Changes to the response's headers.
    #[serde(skip_serializing_if = "is_default")]
    pub response_header_modifier: Option<HeaderModifier>,
    /// A copy of the request.
    #[serde(skip_serializing_if = "is_default")]
    pub request_mirror: Option<RequestMirror>,
    /// A redirection.
    #[serde(skip_serializing_if = "is_default")]
    pub request_redirect: Option<RequestRedirect>,
    /// A rewrite.
    #[serde(skip_serializing_if = "is_default")]
    pub url_rewrite: Option<UrlRewrite>,
    /// CORS.
    #[serde(skip_serializing_if = "is_default")]
    pub cors: Option<Cors>,
    /// External authorization.
    #[serde(skip_serializing_if = "is_default")]
    pub external_auth: Option<ExternalAuth>,
    /// A filter of the implementation's own.
    #[serde(skip_serializing_if = "is_default")]
    pub extension_ref: Option<LocalObjectReference>,
}

/// The kinds of filters of HTTP routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum HttpRouteFilterType {
    /// Changes to the request's headers.
    #[default]
    RequestHeaderModifier,
    /// Changes to the response's headers.
    ResponseHeaderModifier,
    /// A copy of the request.
    RequestMirror,
    /// A redirection.
    RequestRedirect,
    /// A rewrite.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// CORS.
    #[serde(rename = "CORS")]
    Cors,
    /// External authorization.
    ExternalAuth,
    /// A filter of the implementation's own.
    ExtensionRef,
}

/// A backend with filters of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpBackendRef {
    /// Its API group; empty, the core group, by default.
    pub group: String,
    /// Its kind; `Service` by default.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; the route's own when absent. Another one takes a ReferenceGrant there.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: Option<String>,
    /// Its port, which a Service must have named here.
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<i32>,
    /// Its share, in proportion to the sum of all weights of the rule; 1 by default, none at 0.
    pub weight: i32,
    /// What is done with the requests that go to it.
    #[serde(skip_serializing_if = "is_default")]
    pub filters: Vec<HttpRouteFilter>,
}

impl Default for HttpBackendRef {
    fn default() -> Self {
        let super::BackendRef {
            group,
            kind,
            name,
            namespace,
            port,
            weight,
        } = super::BackendRef::default();
        Self {
            group,
            kind,
            name,
            namespace,
            port,
            weight,
            filters: Vec::new(),
        }
    }
}

/// Timeouts of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteTimeouts {
    /// For the whole request, retries included; zero turns it off.
    #[serde(skip_serializing_if = "is_default", serialize_with = "duration::serialize")]
    pub request: Option<Duration>,
    /// For one try at one backend; zero turns it off.
    #[serde(skip_serializing_if = "is_default", serialize_with = "duration::serialize")]
    pub backend_request: Option<Duration>,
}

/// When a failed request is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteRetry {
    /// The statuses that count as failed, besides lost connections.
    #[serde(skip_serializing_if = "is_default")]
    pub codes: Vec<i32>,
    /// How often at most.
    #[serde(skip_serializing_if = "is_default")]
    pub attempts: Option<i32>,
    /// How long to wait at least before the next try.
    #[serde(skip_serializing_if = "is_default", serialize_with = "duration::serialize")]
    pub backoff: Option<Duration>,
}

/// How a client stays with one backend.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SessionPersistence {
    /// The cookie's or header's name.
    #[serde(skip_serializing_if = "is_default")]
    pub session_name: Option<String>,
    /// How long a session lasts at most.
    #[serde(skip_serializing_if = "is_default", serialize_with = "duration::serialize")]
    pub absolute_timeout: Option<Duration>,
    /// How the client is known again.
    pub r#type: SessionPersistenceType,
    /// The cookie's lifetime.
    #[serde(skip_serializing_if = "is_default")]
    pub cookie_config: Option<CookieConfig>,
}

/// How a client is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SessionPersistenceType {
    /// By a cookie.
    #[default]
    Cookie,
    /// By a header.
    Header,
}

/// How long a cookie is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CookieConfig {
    /// Until when.
    pub lifetime_type: CookieLifetime,
}

/// Until when a cookie is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CookieLifetime {
    /// Until the session's absolute timeout.
    Permanent,
    /// Until the browser ends.
    #[default]
    Session,
}
