//! What routes do with a request besides choosing a backend.

use serde::{Deserialize, Serialize};

use super::common::BackendObjectReference;
use crate::serde_util::is_default;

/// Changes to the headers of a request or a response.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeaderModifier {
    /// Headers to set, replacing what is there.
    #[serde(skip_serializing_if = "is_default")]
    pub set: Vec<HttpHeader>,
    /// Headers to add to what is there.
    #[serde(skip_serializing_if = "is_default")]
    pub add: Vec<HttpHeader>,
    /// The names of headers to take away.
    #[serde(skip_serializing_if = "is_default")]
    pub remove: Vec<String>,
}

/// A header and its value.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpHeader {
    /// The name, in any case.
    pub name: String,
    /// The value.
    pub value: String,
}

/// A copy of the request to another backend, whose answer is thrown away.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestMirror {
    /// Where the copy goes.
    pub backend_ref: BackendObjectReference,
    /// The share of requests to copy, in percent; excludes `fraction`. All are copied when both are absent.
    #[serde(skip_serializing_if = "is_default")]
    pub percent: Option<i32>,
    /// The share of requests to copy; excludes `percent`.
    #[serde(skip_serializing_if = "is_default")]
    pub fraction: Option<Fraction>,
}

/// A share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Fraction {
    /// So many …
    pub numerator: i32,
    /// … of so many; 100 by default.
    pub denominator: i32,
}

impl Default for Fraction {
    fn default() -> Self {
        Self {
            numerator: 0,
            denominator: 100,
        }
    }
}

/// An answer that sends the client elsewhere. What is absent is taken from the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestRedirect {
    /// `http` or `https`.
    #[serde(skip_serializing_if = "is_default")]
    pub scheme: Option<String>,
    /// The host.
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: Option<String>,
    /// The path.
    #[serde(skip_serializing_if = "is_default")]
    pub path: Option<PathModifier>,
    /// The port; when absent, the scheme's own if a scheme is given, else the listener's.
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<i32>,
    /// The status: 301, 302 (the default), 303, 307 or 308.
    pub status_code: i32,
}

impl Default for RequestRedirect {
    fn default() -> Self {
        Self {
            scheme: None,
            hostname: None,
            path: None,
            port: None,
            status_code: 302,
        }
    }
}

/// A change to the request before it is forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UrlRewrite {
    /// The new host.
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: Option<String>,
    /// The new path.
    #[serde(skip_serializing_if = "is_default")]
    pub path: Option<PathModifier>,
}

/// A change to a path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PathModifier {
    /// Which of the two.
    pub r#type: PathModifierType,
    /// What stands in place of the whole path.
    #[serde(skip_serializing_if = "is_default")]
    pub replace_full_path: Option<String>,
    /// What stands in place of the prefix that was matched.
    #[serde(skip_serializing_if = "is_default")]
    pub replace_prefix_match: Option<String>,
}

/// Which change to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PathModifierType {
    /// The whole path is replaced.
    #[default]
    ReplaceFullPath,
    /// The matched prefix is replaced.
    ReplacePrefixMatch,
}

/// What a browser may do from pages of other origins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Cors {
    /// The origins, `*` for all, or with a wildcard in the host.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_origins: Vec<String>,
    /// Whether credentials may be sent along.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_credentials: Option<bool>,
    /// The methods, `*` for all.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_methods: Vec<String>,
    /// The headers of requests, `*` for all.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_headers: Vec<String>,
    /// The headers of responses that scripts may read, `*` for all.
    #[serde(skip_serializing_if = "is_default")]
    pub expose_headers: Vec<String>,
    /// How long the browser may keep this answer, in seconds; 5 by default.
    pub max_age: i32,
}

impl Default for Cors {
    fn default() -> Self {
        Self {
            allow_origins: Vec::new(),
            allow_credentials: None,
            allow_methods: Vec::new(),
            allow_headers: Vec::new(),
            expose_headers: Vec::new(),
            max_age: 5,
        }
    }
}

/// A service that is asked whether a request may pass.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ExternalAuth {
    /// How it is asked.
    pub protocol: ExternalAuthProtocol,
    /// The service.
    pub backend_ref: BackendObjectReference,
    /// Settings for [`ExternalAuthProtocol::Grpc`].
    #[serde(skip_serializing_if = "is_default")]
    pub grpc: Option<ExternalAuthGrpc>,
    /// Settings for [`ExternalAuthProtocol::Http`].
    #[serde(skip_serializing_if = "is_default")]
    pub http: Option<ExternalAuthHttp>,
    /// Whether the request's body is sent along.
    #[serde(skip_serializing_if = "is_default")]
    pub forward_body: Option<ForwardBody>,
}

/// How an authorization service is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ExternalAuthProtocol {
    /// By an HTTP request like the client's.
    #[default]
    Http,
    /// By Envoy's `ext_authz` protocol.
    Grpc,
}

/// Settings for an authorization service that speaks gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ExternalAuthGrpc {
    /// The headers of the request that are sent along; all when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed_headers: Vec<String>,
}

/// Settings for an authorization service that speaks HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ExternalAuthHttp {
    /// A prefix of the path that the service is asked at.
    #[serde(skip_serializing_if = "is_default")]
    pub path: Option<String>,
    /// The headers of the request that are sent along, besides a few that always are.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed_headers: Vec<String>,
    /// The headers of the service's answer that are copied into the request; all when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed_response_headers: Vec<String>,
}

/// Whether the body of a request is sent to the authorization service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ForwardBody {
    /// How much of it at most, in bytes; nothing at 0.
    #[serde(skip_serializing_if = "is_default")]
    pub max_size: Option<u32>,
}
