//! Trust, certificates and TLS in MeshConfig.

use crate::Duration;
use crate::networking::destination_rule::ClientTlsSettings;
use crate::proto_enum::proto_enum;
use crate::serde_util::is_default;
use serde::{Deserialize, Serialize};

/// A certificate authority outside of the control plane that speaks Istio's protocol.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Ca {
    /// Its address, `host:port`.
    #[serde(skip_serializing_if = "is_default")]
    pub address: String,
    /// TLS toward it.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_settings: Option<ClientTlsSettings>,
    /// How long an answer may take; 10s by default.
    #[serde(skip_serializing_if = "is_default")]
    pub request_timeout: Option<Duration>,
    /// Whether the control plane asks it, rather than the agents.
    #[serde(skip_serializing_if = "is_default")]
    pub istiod_side: bool,
}

/// Authorities that workloads trust.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CertificateData {
    /// Their certificates in PEM.
    #[serde(skip_serializing_if = "is_default")]
    pub pem: Option<String>,
    /// Where a SPIFFE bundle with them is served.
    #[serde(skip_serializing_if = "is_default")]
    pub spiffe_bundle_url: Option<String>,
    /// The Kubernetes signers whose certificates they are for.
    #[serde(skip_serializing_if = "is_default")]
    pub cert_signers: Vec<String>,
    /// The trust domains that they are for.
    #[serde(skip_serializing_if = "is_default")]
    pub trust_domains: Vec<String>,
}

/// Where the certificates of a [`CertificateData`] come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CertificateSource<'a> {
    /// `CertificateData::pem` is set.
    Pem(&'a str),
    /// `CertificateData::spiffe_bundle_url` is set.
    SpiffeBundleUrl(&'a str),
}

impl CertificateData {
    /// Which one of the exclusive fields is set; the first in the order of [`CertificateSource`] if the CRD rule was bypassed.
    pub fn certificate_data(&self) -> Option<CertificateSource<'_>> {
        self.pem.as_deref().map(CertificateSource::Pem).or_else(|| {
            self.spiffe_bundle_url
                .as_deref()
                .map(CertificateSource::SpiffeBundleUrl)
        })
    }
}

/// A certificate to provide.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Certificate {
    /// The Secret to write it to.
    #[serde(skip_serializing_if = "is_default")]
    pub secret_name: String,
    /// Its DNS names.
    #[serde(skip_serializing_if = "is_default")]
    pub dns_names: Vec<String>,
}

/// Settings of TLS.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsConfig {
    /// The oldest version.
    #[serde(skip_serializing_if = "is_default")]
    pub min_protocol_version: MeshTlsProtocol,
    /// The curves; Envoy's default when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub ecdh_curves: Vec<String>,
    /// The ciphers, by Envoy's names; Istio's default when empty. Without effect on TLS 1.3.
    #[serde(skip_serializing_if = "is_default")]
    pub cipher_suites: Vec<String>,
}

proto_enum! {
    /// The oldest version of TLS that is accepted.
    pub enum MeshTlsProtocol {
        /// As the mesh chooses: TLS 1.2.
        TlsAuto = (0, "TLS_AUTO"),
        /// TLS 1.2.
        TlsV1_2 = (1, "TLSV1_2"),
        /// TLS 1.3.
        TlsV1_3 = (2, "TLSV1_3"),
    }
}
