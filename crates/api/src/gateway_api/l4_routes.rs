//! TLSRoute, TCPRoute and UDPRoute: how streams and datagrams are routed.

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::common::{BackendRef, DefaultScope, ParentReference};
use super::status::RouteStatus;
use crate::serde_util::is_default;

/// How TLS connections are routed by the server name.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "TLSRoute",
    plural = "tlsroutes",
    root = "TlsRoute",
    namespaced,
    status = "RouteStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "How TLS connections are routed by the server name."
)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsRouteSpec {
    /// What the route attaches to.
    #[serde(skip_serializing_if = "is_default")]
    pub parent_refs: Vec<ParentReference>,
    /// The server names it is for, perhaps with a leading wildcard; all that the parent takes when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub hostnames: Vec<String>,
    /// The rules, of which the first applies.
    #[serde(skip_serializing_if = "is_default")]
    pub rules: Vec<L4RouteRule>,
    /// Whether it also attaches to the default Gateways; it does not when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub use_default_gateways: Option<DefaultScope>,
}

/// How TCP connections are routed.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "TCPRoute",
    plural = "tcproutes",
    root = "TcpRoute",
    namespaced,
    status = "RouteStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "How TCP connections are routed."
)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpRouteSpec {
    /// What the route attaches to.
    #[serde(skip_serializing_if = "is_default")]
    pub parent_refs: Vec<ParentReference>,
    /// The rules, of which the first applies.
    #[serde(skip_serializing_if = "is_default")]
    pub rules: Vec<L4RouteRule>,
    /// Whether it also attaches to the default Gateways; it does not when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub use_default_gateways: Option<DefaultScope>,
}

/// How datagrams are routed.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "UDPRoute",
    plural = "udproutes",
    root = "UdpRoute",
    namespaced,
    status = "RouteStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "How datagrams are routed."
)]
#[serde(default, rename_all = "camelCase")]
pub struct UdpRouteSpec {
    /// What the route attaches to.
    #[serde(skip_serializing_if = "is_default")]
    pub parent_refs: Vec<ParentReference>,
    /// The rules, of which the first applies.
    #[serde(skip_serializing_if = "is_default")]
    pub rules: Vec<L4RouteRule>,
    /// Whether it also attaches to the default Gateways; it does not when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub use_default_gateways: Option<DefaultScope>,
}

/// Where connections or datagrams go.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct L4RouteRule {
    /// The rule's name within the route.
    #[serde(skip_serializing_if = "is_default")]
    pub name: Option<String>,
    /// The backends; connections are refused when none of them is valid.
    #[serde(skip_serializing_if = "is_default")]
    pub backend_refs: Vec<BackendRef>,
}
