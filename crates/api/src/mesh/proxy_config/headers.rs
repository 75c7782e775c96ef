//! Which headers a proxy adds, and whom it trusts to have set them.

use crate::proto_enum::proto_enum;
use crate::serde_util::is_default;
use serde::{Deserialize, Serialize};

/// What stands in front of a gateway.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Topology {
    /// So many proxies in front are trusted to have written `X-Forwarded-For`.
    #[serde(skip_serializing_if = "is_default")]
    pub num_trusted_proxies: u32,
    /// What becomes of `X-Forwarded-Client-Cert`; SANITIZE_SET by default at gateways.
    #[serde(skip_serializing_if = "is_default")]
    pub forward_client_cert_details: ForwardClientCertDetails,
    /// Whether connections begin with a PROXY header.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy_protocol: Option<ProxyProtocolConfiguration>,
}

/// Connections begin with a PROXY header.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyProtocolConfiguration {}

proto_enum! {
    /// What becomes of the header `X-Forwarded-Client-Cert`.
    pub enum ForwardClientCertDetails {
        /// The default of the place.
        Undefined = (0, "UNDEFINED"),
        /// It is taken away.
        Sanitize = (1, "SANITIZE"),
        /// It is passed on over mutual TLS.
        ForwardOnly = (2, "FORWARD_ONLY"),
        /// The client's certificate is added to it over mutual TLS.
        AppendForward = (3, "APPEND_FORWARD"),
        /// It is replaced by the client's certificate over mutual TLS.
        SanitizeSet = (4, "SANITIZE_SET"),
        /// It is passed on, whatever the connection.
        AlwaysForwardOnly = (5, "ALWAYS_FORWARD_ONLY"),
    }
}

/// Which headers a proxy adds or takes away.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyHeaders {
    /// What becomes of `X-Forwarded-Client-Cert` at sidecars; APPEND_FORWARD by default.
    #[serde(skip_serializing_if = "is_default")]
    pub forwarded_client_cert: ForwardClientCertDetails,
    /// What of the client's certificate goes into that header.
    #[serde(skip_serializing_if = "is_default")]
    pub set_current_client_cert_details: Option<SetCurrentClientCertDetails>,
    /// `X-Request-Id`.
    #[serde(skip_serializing_if = "is_default")]
    pub request_id: Option<RequestId>,
    /// `Server`.
    #[serde(skip_serializing_if = "is_default")]
    pub server: Option<ServerHeader>,
    /// `X-Envoy-Attempt-Count`.
    #[serde(skip_serializing_if = "is_default")]
    pub attempt_count: Option<AttemptCount>,
    /// Envoy's other `X-Envoy-*` headers of responses.
    #[serde(skip_serializing_if = "is_default")]
    pub envoy_debug_headers: Option<EnvoyDebugHeaders>,
    /// The headers in which proxies tell each other about their workloads.
    #[serde(skip_serializing_if = "is_default")]
    pub metadata_exchange_headers: Option<MetadataExchangeHeaders>,
    /// Whether the case of names of HTTP/1.1 headers is kept.
    #[serde(skip_serializing_if = "is_default")]
    pub preserve_http1_header_case: Option<bool>,
    /// `X-Forwarded-Host`.
    #[serde(skip_serializing_if = "is_default")]
    pub x_forwarded_host: Option<XForwardedHost>,
    /// `X-Forwarded-Port`.
    #[serde(skip_serializing_if = "is_default")]
    pub x_forwarded_port: Option<XForwardedPort>,
}

/// The header `Server` of responses.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServerHeader {
    /// Whether the application's own is passed on, and none added.
    #[serde(skip_serializing_if = "is_default")]
    pub disabled: Option<bool>,
    /// Its value; `istio-envoy` when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub value: String,
}

/// The header `X-Request-Id`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestId {
    /// Whether none is made.
    #[serde(skip_serializing_if = "is_default")]
    pub disabled: Option<bool>,
}

/// The header `X-Envoy-Attempt-Count`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AttemptCount {
    /// Whether it is not sent.
    #[serde(skip_serializing_if = "is_default")]
    pub disabled: Option<bool>,
}

/// The header `X-Forwarded-Host`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct XForwardedHost {
    /// Whether it is added when the host is rewritten.
    #[serde(skip_serializing_if = "is_default")]
    pub enabled: Option<bool>,
}

/// The header `X-Forwarded-Port`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct XForwardedPort {
    /// Whether it is added.
    #[serde(skip_serializing_if = "is_default")]
    pub enabled: Option<bool>,
}

/// Headers such as `X-Envoy-Overloaded` and `X-Envoy-Upstream-Service-Time`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EnvoyDebugHeaders {
    /// Whether they are not sent.
    #[serde(skip_serializing_if = "is_default")]
    pub disabled: Option<bool>,
}

/// The headers in which proxies tell each other about their workloads.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MetadataExchangeHeaders {
    /// To whom they are sent.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: MetadataExchangeMode,
}

proto_enum! {
    /// To whom the headers about the workload are sent.
    pub enum MetadataExchangeMode {
        /// To everyone.
        Undefined = (0, "UNDEFINED"),
        /// To services of the mesh only.
        InMesh = (1, "IN_MESH"),
    }
}

/// What of the client's certificate goes into `X-Forwarded-Client-Cert`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SetCurrentClientCertDetails {
    /// Its subject; it does by default.
    #[serde(skip_serializing_if = "is_default")]
    pub subject: Option<bool>,
    /// All of it, in PEM.
    #[serde(skip_serializing_if = "is_default")]
    pub cert: Option<bool>,
    /// Its whole chain, in PEM.
    #[serde(skip_serializing_if = "is_default")]
    pub chain: Option<bool>,
    /// Its DNS names; they do by default.
    #[serde(skip_serializing_if = "is_default")]
    pub dns: Option<bool>,
    /// Its URI; it does by default.
    #[serde(skip_serializing_if = "is_default")]
    pub uri: Option<bool>,
}
