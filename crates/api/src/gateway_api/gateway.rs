//! Gateway and ListenerSet: where traffic enters.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::GROUP;
use super::common::{DefaultScope, LocalParametersReference, ObjectReference, SecretObjectReference};
use super::status::{GatewayStatus, ListenerSetStatus};
use crate::serde_util::is_default;

/// The listeners of a proxy at the edge, or of a waypoint.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "Gateway",
    plural = "gateways",
    namespaced,
    status = "GatewayStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "A proxy at the edge of the mesh, or a waypoint."
)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewaySpec {
    /// The GatewayClass, and thereby who looks after it.
    pub gateway_class_name: String,
    /// What it listens on; names are unique, and so are port, protocol and hostname together.
    #[serde(skip_serializing_if = "is_default")]
    pub listeners: Vec<Listener>,
    /// The addresses asked for; the platform chooses when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub addresses: Vec<GatewayAddress>,
    /// What the objects that are made for this Gateway carry.
    #[serde(skip_serializing_if = "is_default")]
    pub infrastructure: Option<GatewayInfrastructure>,
    /// Which ListenerSets may add listeners; none when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed_listeners: Option<AllowedListeners>,
    /// TLS for the whole Gateway, toward clients and backends.
    #[serde(skip_serializing_if = "is_default")]
    pub tls: Option<GatewayTls>,
    /// Whether routes that ask for default Gateways attach to it; they do not when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub default_scope: Option<DefaultScope>,
}

/// An address asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayAddress {
    /// `IPAddress` (the default), `Hostname`, or a type of the implementation's own.
    pub r#type: String,
    /// The address; when absent, any one of the type.
    #[serde(skip_serializing_if = "is_default")]
    pub value: Option<String>,
}

impl Default for GatewayAddress {
    fn default() -> Self {
        Self {
            r#type: "IPAddress".to_owned(),
            value: None,
        }
    }
}

/// What the objects that are made for a Gateway carry.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayInfrastructure {
    /// Labels for them.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// Annotations for them.
    #[serde(skip_serializing_if = "is_default")]
    pub annotations: BTreeMap<String, String>,
    /// An object with further parameters.
    #[serde(skip_serializing_if = "is_default")]
    pub parameters_ref: Option<LocalParametersReference>,
}

/// Which ListenerSets may add listeners to a Gateway.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AllowedListeners {
    /// By their namespaces.
    pub namespaces: ListenerNamespaces,
}

/// The namespaces whose ListenerSets are let in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListenerNamespaces {
    /// How they are chosen; none by default.
    pub from: FromNamespaces,
    /// The labels of the namespaces, for [`FromNamespaces::Selector`].
    #[serde(skip_serializing_if = "is_default")]
    pub selector: Option<LabelSelector>,
}

impl Default for ListenerNamespaces {
    fn default() -> Self {
        Self {
            from: FromNamespaces::None,
            selector: None,
        }
    }
}

/// How namespaces are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromNamespaces {
    /// Every namespace.
    All,
    /// Those whose labels match.
    Selector,
    /// The Gateway's own.
    Same,
    /// None.
    None,
}

/// A port, a protocol, and perhaps a hostname.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Listener {
    /// The name that routes refer to as a section.
    pub name: String,
    /// The hostname it takes, perhaps with a leading wildcard; every one when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: Option<String>,
    /// The port, 1 to 65535.
    pub port: i32,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `UDP`, `HBONE`, or another of the implementation's own.
    pub protocol: String,
    /// Certificates and mode, for HTTPS and TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub tls: Option<ListenerTls>,
    /// Which routes may attach.
    pub allowed_routes: AllowedRoutes,
}

/// TLS of one listener.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListenerTls {
    /// Who ends the TLS session.
    pub mode: ListenerTlsMode,
    /// The certificates, when the Gateway ends it.
    #[serde(skip_serializing_if = "is_default")]
    pub certificate_refs: Vec<SecretObjectReference>,
    /// Settings of the implementation's own, such as `gateway.istio.io/tls-terminate-mode`.
    #[serde(skip_serializing_if = "is_default")]
    pub options: BTreeMap<String, String>,
}

/// Who ends a TLS session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ListenerTlsMode {
    /// The Gateway.
    #[default]
    Terminate,
    /// The backend; the Gateway reads only the server name.
    Passthrough,
}

/// Which routes may attach to a listener.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AllowedRoutes {
    /// By their namespaces.
    pub namespaces: RouteNamespaces,
    /// By their kinds; those that fit the protocol when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub kinds: Vec<RouteGroupKind>,
}

/// The namespaces whose routes are let in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteNamespaces {
    /// How they are chosen; the Gateway's own by default.
    pub from: FromNamespaces,
    /// The labels of the namespaces, for [`FromNamespaces::Selector`].
    #[serde(skip_serializing_if = "is_default")]
    pub selector: Option<LabelSelector>,
}

impl Default for RouteNamespaces {
    fn default() -> Self {
        Self {
            from: FromNamespaces::Same,
            selector: None,
        }
    }
}

/// A kind of routes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteGroupKind {
    /// The API group; that of the Gateway API by default.
    pub group: String,
    /// The kind, such as `HTTPRoute`.
    pub kind: String,
}

impl Default for RouteGroupKind {
    fn default() -> Self {
        Self {
            group: GROUP.to_owned(),
            kind: String::new(),
        }
    }
}

/// TLS for a whole Gateway.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayTls {
    /// Toward backends.
    #[serde(skip_serializing_if = "is_default")]
    pub backend: Option<GatewayTlsBackend>,
    /// Toward clients.
    #[serde(skip_serializing_if = "is_default")]
    pub frontend: Option<FrontendTls>,
}

/// TLS toward backends.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayTlsBackend {
    /// The certificate that the Gateway shows to backends.
    #[serde(skip_serializing_if = "is_default")]
    pub client_certificate_ref: Option<SecretObjectReference>,
}

/// TLS toward clients.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FrontendTls {
    /// For HTTPS listeners on every port without settings of its own.
    pub default: FrontendTlsConfig,
    /// For the listeners on one port.
    #[serde(skip_serializing_if = "is_default")]
    pub per_port: Vec<PortFrontendTls>,
}

/// TLS toward the clients of one port.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortFrontendTls {
    /// The port.
    pub port: i32,
    /// The settings.
    pub tls: FrontendTlsConfig,
}

/// What is demanded of clients.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FrontendTlsConfig {
    /// How client certificates are checked; none is asked for when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub validation: Option<FrontendTlsValidation>,
}

/// How client certificates are checked.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FrontendTlsValidation {
    /// ConfigMaps or Secrets with the certificates of authorities under `ca.crt`.
    #[serde(rename = "caCertificateRefs", skip_serializing_if = "is_default")]
    pub ca_certificate_refs: Vec<ObjectReference>,
    /// What becomes of a client without a valid certificate.
    pub mode: FrontendValidationMode,
}

/// What becomes of a client without a valid certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FrontendValidationMode {
    /// It is turned away.
    #[default]
    AllowValidOnly,
    /// It is let in.
    AllowInsecureFallback,
}

/// Listeners that are added to a Gateway from elsewhere.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "ListenerSet",
    plural = "listenersets",
    namespaced,
    status = "ListenerSetStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "Listeners that are added to a Gateway from elsewhere."
)]
#[serde(default, rename_all = "camelCase")]
pub struct ListenerSetSpec {
    /// The Gateway.
    pub parent_ref: ListenerSetParentReference,
    /// What it shall listen on besides.
    #[serde(skip_serializing_if = "is_default")]
    pub listeners: Vec<Listener>,
}

/// The Gateway that a ListenerSet adds to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListenerSetParentReference {
    /// The API group; that of the Gateway API by default.
    pub group: String,
    /// The kind; `Gateway` by default.
    pub kind: String,
    /// The Gateway's name.
    pub name: String,
    /// The Gateway's namespace; the ListenerSet's own when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: Option<String>,
}

impl Default for ListenerSetParentReference {
    fn default() -> Self {
        Self {
            group: GROUP.to_owned(),
            kind: "Gateway".to_owned(),
            name: String::new(),
            namespace: None,
        }
    }
}
