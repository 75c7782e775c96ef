//! The Gateway API, as its release 1.6 defines it.
//!
//! Users' clusters have its CustomResourceDefinitions, so none are generated from these types. The defaults that the
//! definitions declare are the [`Default`]s here: an object from a file reads as it would after a trip through an API server.

mod backend_tls_policy;
mod common;
mod duration;
mod filters;
mod gateway;
mod gateway_class;
mod grpc_route;
mod http_route;
mod l4_routes;
mod reference_grant;
mod status;

pub use self::backend_tls_policy::{
    BackendTlsPolicy, BackendTlsPolicySpec, BackendTlsPolicyValidation, LocalPolicyTargetReferenceWithSectionName,
    SubjectAltName, SubjectAltNameType,
};
pub use self::common::{
    BackendObjectReference, BackendRef, DefaultScope, LocalObjectReference, LocalParametersReference, ObjectReference,
    ParametersReference, ParentReference, SecretObjectReference,
};
pub use self::filters::{
    Cors, ExternalAuth, ExternalAuthGrpc, ExternalAuthHttp, ExternalAuthProtocol, ForwardBody, Fraction,
    HeaderModifier, HttpHeader, PathModifier, PathModifierType, RequestMirror, RequestRedirect, UrlRewrite,
};
pub use self::gateway::{
    AllowedListeners, AllowedRoutes, FromNamespaces, FrontendTls, FrontendTlsConfig, FrontendTlsValidation,
    FrontendValidationMode, Gateway, GatewayAddress, GatewayInfrastructure, GatewaySpec, GatewayTls, GatewayTlsBackend,
    Listener, ListenerNamespaces, ListenerSet, ListenerSetParentReference, ListenerSetSpec, ListenerTls,
    ListenerTlsMode, PortFrontendTls, RouteGroupKind, RouteNamespaces,
};
pub use self::gateway_class::{GatewayClass, GatewayClassSpec};
pub use self::grpc_route::{
    GrpcBackendRef, GrpcMethodMatch, GrpcRoute, GrpcRouteFilter, GrpcRouteFilterType, GrpcRouteMatch, GrpcRouteRule,
    GrpcRouteSpec,
};
pub use self::http_route::{
    CookieConfig, CookieLifetime, HttpBackendRef, HttpHeaderMatch, HttpPathMatch, HttpRoute, HttpRouteFilter,
    HttpRouteFilterType, HttpRouteMatch, HttpRouteRetry, HttpRouteRule, HttpRouteSpec, HttpRouteTimeouts, MatchType,
    PathMatchType, SessionPersistence, SessionPersistenceType,
};
pub use self::l4_routes::{L4RouteRule, TcpRoute, TcpRouteSpec, TlsRoute, TlsRouteSpec, UdpRoute, UdpRouteSpec};
pub use self::reference_grant::{ReferenceGrant, ReferenceGrantFrom, ReferenceGrantSpec, ReferenceGrantTo};
pub use self::status::{
    GatewayClassStatus, GatewayStatus, GatewayStatusAddress, ListenerSetStatus, ListenerStatus, PolicyAncestorStatus,
    PolicyStatus, RouteParentStatus, RouteStatus, SupportedFeature,
};

/// The API group of all these kinds.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// Where an API server serves a kind.
#[derive(Debug)]
pub struct ServedKind {
    /// Kind, such as `HTTPRoute`.
    pub kind: &'static str,
    /// Plural in lower case, as in URLs and in RBAC rules.
    pub plural: &'static str,
    /// The versions that one type reads, the best first; which of them are served depends on the release installed.
    pub versions: &'static [&'static str],
}

const fn served(kind: &'static str, plural: &'static str, versions: &'static [&'static str]) -> ServedKind {
    ServedKind { kind, plural, versions }
}

/// All these kinds.
pub const KINDS: &[ServedKind] = &[
    served("GatewayClass", "gatewayclasses", &["v1", "v1beta1"]),
    served("Gateway", "gateways", &["v1", "v1beta1"]),
    served("ListenerSet", "listenersets", &["v1"]),
    served("HTTPRoute", "httproutes", &["v1", "v1beta1"]),
    served("GRPCRoute", "grpcroutes", &["v1", "v1alpha2"]),
    served("TCPRoute", "tcproutes", &["v1", "v1alpha2"]),
    served("TLSRoute", "tlsroutes", &["v1", "v1alpha3", "v1alpha2"]),
    served("UDPRoute", "udproutes", &["v1", "v1alpha2"]),
    served("ReferenceGrant", "referencegrants", &["v1", "v1beta1"]),
    served("BackendTLSPolicy", "backendtlspolicies", &["v1", "v1alpha3"]),
];
