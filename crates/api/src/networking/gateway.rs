//! Gateway: the servers that a proxy at the edge of the mesh exposes.

use crate::proto_enum::proto_enum;
use crate::schema::rule;
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The servers that a proxy at the edge of the mesh exposes. VirtualServices that name the gateway say where
/// their traffic goes.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "Gateway",
    plural = "gateways",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "The servers that a proxy at the edge of the mesh exposes."
)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewaySpec {
    /// The servers.
    #[serde(skip_serializing_if = "is_default")]
    pub servers: Vec<Server>,
    /// Labels of the pods that are this gateway, in any namespace unless that is scoped to the gateway's own.
    #[serde(skip_serializing_if = "is_default")]
    pub selector: BTreeMap<String, String>,
}

/// A port, the hosts behind it, and their TLS.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["port", "hosts"]))]
pub struct Server {
    /// The port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<Port>,
    /// The address, or the Unix domain socket, to listen on; all addresses when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub bind: String,
    /// The hosts, as `host` or `namespace/host`, perhaps with a leading wildcard; the namespace (`.` for this
    /// one, `*` for any) is where VirtualServices for them may be.
    #[serde(skip_serializing_if = "is_default")]
    pub hosts: Vec<String>,
    /// TLS of the server; none when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub tls: Option<ServerTlsSettings>,
    /// Where traffic goes by default. Accepted for compatibility; Istio does not use it.
    #[serde(skip_serializing_if = "is_default")]
    pub default_endpoint: String,
    /// A name, unique among the servers of the gateway, for logs and statistics.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
}

/// A port of a server.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["number", "protocol", "name"]))]
pub struct Port {
    /// Its number.
    #[serde(skip_serializing_if = "is_default")]
    pub number: u32,
    /// HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, MONGO, TCP or TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// The port to listen on in place of `number`. Old; do not use.
    #[serde(skip_serializing_if = "is_default")]
    pub target_port: u32,
}

/// TLS of a server.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("only one of credentialNames or tlsCertificates can be set", "(has(self.tlsCertificates) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1"), rule("only one of credentialName or credentialNames can be set", "(has(self.credentialName) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1"), rule("only one of credentialName or tlsCertificates can be set", "(has(self.credentialNames) ? 1 : 0) + (has(self.tlsCertificates) ? 1 : 0) <= 1")]))]
pub struct ServerTlsSettings {
    /// Whether plain requests are answered with a redirection to https.
    #[serde(skip_serializing_if = "is_default")]
    pub https_redirect: bool,
    /// Who ends TLS, and whether the client must show a certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: ServerTlsMode,
    /// The path of the server's certificate in the proxy's file system.
    #[serde(skip_serializing_if = "is_default")]
    pub server_certificate: String,
    /// The path of the server's key in the proxy's file system.
    #[serde(skip_serializing_if = "is_default")]
    pub private_key: String,
    /// The path of the authorities' certificates in the proxy's file system, for clients' certificates.
    #[serde(skip_serializing_if = "is_default")]
    pub ca_certificates: String,
    /// The path of a list of revoked certificates in the proxy's file system.
    #[serde(skip_serializing_if = "is_default")]
    pub ca_crl: String,
    /// A Secret with certificate and key, and perhaps authorities, in the gateway's namespace.
    #[serde(skip_serializing_if = "is_default")]
    pub credential_name: String,
    /// Two Secrets at most, for certificates of different key types.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 2, "minItems" = 1))]
    pub credential_names: Vec<String>,
    /// A Secret or ConfigMap with only the authorities, in the gateway's namespace; overrides that of
    /// `credential_name`.
    #[serde(skip_serializing_if = "is_default")]
    pub ca_cert_credential_name: String,
    /// Two certificates at most as files, of different key types.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 2, "minItems" = 1))]
    pub tls_certificates: Vec<TlsCertificate>,
    /// Names of which the client's certificate must have one.
    #[serde(skip_serializing_if = "is_default")]
    pub subject_alt_names: Vec<String>,
    /// Base64 of the SHA-256 of the public keys, of which the client's certificate must have one.
    #[serde(skip_serializing_if = "is_default")]
    pub verify_certificate_spki: Vec<String>,
    /// Hexadecimal SHA-256 of the certificates, of which the client must show one.
    #[serde(skip_serializing_if = "is_default")]
    pub verify_certificate_hash: Vec<String>,
    /// The oldest version of TLS; TLS 1.2 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub min_protocol_version: TlsProtocol,
    /// The newest version of TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub max_protocol_version: TlsProtocol,
    /// The ciphers, by Envoy's names; Envoy's default when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub cipher_suites: Vec<String>,
    /// The curves; Envoy's default when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub ecdh_curves: Vec<String>,
    /// Whether to accept any certificate from clients.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub insecure_skip_verify: Option<bool>,
}

proto_enum! {
    /// Who ends TLS, and whether the client must show a certificate.
    pub enum ServerTlsMode {
        /// The service behind; the server name decides, by VirtualServices.
        Passthrough = (0, "PASSTHROUGH"),
        /// The gateway; the client shows none.
        Simple = (1, "SIMPLE"),
        /// The gateway; the client must show one that the given authorities signed.
        Mutual = (2, "MUTUAL"),
        /// The service behind; the server name itself names service and port, without VirtualServices.
        AutoPassthrough = (3, "AUTO_PASSTHROUGH"),
        /// The gateway, with its own identity in the mesh; the client must be of the mesh.
        IstioMutual = (4, "ISTIO_MUTUAL"),
        /// As MUTUAL, but the client may show none.
        OptionalMutual = (5, "OPTIONAL_MUTUAL"),
    }
}

proto_enum! {
    /// A version of TLS.
    pub enum TlsProtocol {
        /// As the proxy chooses.
        TlsAuto = (0, "TLS_AUTO"),
        /// TLS 1.0.
        TlsV1_0 = (1, "TLSV1_0"),
        /// TLS 1.1.
        TlsV1_1 = (2, "TLSV1_1"),
        /// TLS 1.2.
        TlsV1_2 = (3, "TLSV1_2"),
        /// TLS 1.3.
        TlsV1_3 = (4, "TLSV1_3"),
    }
}

/// A certificate as files in the proxy's file system.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsCertificate {
    /// The path of the certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub server_certificate: String,
    /// The path of the key.
    #[serde(skip_serializing_if = "is_default")]
    pub private_key: String,
    /// The path of the authorities' certificates.
    #[serde(skip_serializing_if = "is_default")]
    pub ca_certificates: String,
}
