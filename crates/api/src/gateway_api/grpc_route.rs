//! GRPCRoute: how gRPC calls are routed.

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::common::{DefaultScope, LocalObjectReference, ParentReference};
use super::filters::{HeaderModifier, RequestMirror};
use super::http_route::{HttpHeaderMatch, MatchType, SessionPersistence};
use super::status::RouteStatus;
use crate::serde_util::is_default;

/// How gRPC calls are routed.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "GRPCRoute",
    plural = "grpcroutes",
    root = "GrpcRoute",
    namespaced,
    status = "RouteStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "How gRPC calls are routed."
)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcRouteSpec {
    /// What the route attaches to.
    #[serde(skip_serializing_if = "is_default")]
    pub parent_refs: Vec<ParentReference>,
    /// The hosts it is for, perhaps with a leading wildcard; all that the parent takes when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub hostnames: Vec<String>,
    /// The rules.
    #[serde(skip_serializing_if = "is_default")]
    pub rules: Vec<GrpcRouteRule>,
    /// Whether it also attaches to the default Gateways; it does not when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub use_default_gateways: Option<DefaultScope>,
}

/// What is done with the calls that meet any of some conditions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcRouteRule {
    /// The rule's name within the route.
    #[serde(skip_serializing_if = "is_default")]
    pub name: Option<String>,
    /// The conditions, of which one must hold; every call when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub matches: Vec<GrpcRouteMatch>,
    /// What is done with the call first, in order.
    #[serde(skip_serializing_if = "is_default")]
    pub filters: Vec<GrpcRouteFilter>,
    /// Where it goes.
    #[serde(skip_serializing_if = "is_default")]
    pub backend_refs: Vec<GrpcBackendRef>,
    /// Whether a client stays with one backend.
    #[serde(skip_serializing_if = "is_default")]
    pub session_persistence: Option<SessionPersistence>,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcRouteMatch {
    /// The method; every one when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub method: Option<GrpcMethodMatch>,
    /// Headers that must be there.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Vec<HttpHeaderMatch>,
}

/// A condition on the method; service or method, or both, are given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcMethodMatch {
    /// How the values are read.
    pub r#type: MatchType,
    /// The service with its package; every one when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub service: Option<String>,
    /// The method of the service; every one when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub method: Option<String>,
}

/// Something done with a call or its answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcRouteFilter {
    /// Which of the fields below is set.
    pub r#type: GrpcRouteFilterType,
    /// Changes to the request's headers.
    #[serde(skip_serializing_if = "is_default")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// Changes to the response's headers.
    #[serde(skip_serializing_if = "is_default")]
    pub response_header_modifier: Option<HeaderModifier>,
    /// A copy of the call.
    #[serde(skip_serializing_if = "is_default")]
    pub request_mirror: Option<RequestMirror>,
    /// A filter of the implementation's own.
    #[serde(skip_serializing_if = "is_default")]
    pub extension_ref: Option<LocalObjectReference>,
}

/// The kinds of filters of gRPC routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum GrpcRouteFilterType {
    /// Changes to the request's headers.
    #[default]
    RequestHeaderModifier,
    /// Changes to the response's headers.
    ResponseHeaderModifier,
    /// A copy of the call.
    RequestMirror,
    /// A filter of the implementation's own.
    ExtensionRef,
}

/// A backend with filters of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcBackendRef {
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
    /// What is done with the calls that go to it.
    #[serde(skip_serializing_if = "is_default")]
    pub filters: Vec<GrpcRouteFilter>,
}

impl Default for GrpcBackendRef {
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
