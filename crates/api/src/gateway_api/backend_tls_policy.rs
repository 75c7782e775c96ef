//! BackendTLSPolicy: TLS toward a backend.

use std::collections::BTreeMap;

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::common::LocalObjectReference;
use super::status::PolicyStatus;
use crate::serde_util::is_default;

/// TLS toward a backend, and how its certificate is checked.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "BackendTLSPolicy",
    plural = "backendtlspolicies",
    root = "BackendTlsPolicy",
    namespaced,
    status = "PolicyStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "TLS toward a backend."
)]
#[serde(default, rename_all = "camelCase")]
pub struct BackendTlsPolicySpec {
    /// The backends, in the same namespace.
    #[serde(skip_serializing_if = "is_default")]
    pub target_refs: Vec<LocalPolicyTargetReferenceWithSectionName>,
    /// How the backend's certificate is checked.
    pub validation: BackendTlsPolicyValidation,
    /// Settings of the implementation's own.
    #[serde(skip_serializing_if = "is_default")]
    pub options: BTreeMap<String, String>,
}

/// An object in the same namespace, or one port of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalPolicyTargetReferenceWithSectionName {
    /// Its API group; empty for the core group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The name of one of its ports; all when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub section_name: Option<String>,
}

/// How a backend's certificate is checked.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BackendTlsPolicyValidation {
    /// ConfigMaps with the certificates of authorities under `ca.crt`; excludes the well-known ones.
    #[serde(rename = "caCertificateRefs", skip_serializing_if = "is_default")]
    pub ca_certificate_refs: Vec<LocalObjectReference>,
    /// `System`: the authorities that the proxy's platform trusts.
    #[serde(rename = "wellKnownCACertificates", skip_serializing_if = "is_default")]
    pub well_known_ca_certificates: Option<String>,
    /// The server name to send, which must also be in the certificate unless alternative names are given.
    pub hostname: String,
    /// The names of which one must be in the certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// A name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubjectAltName {
    /// Which of the two.
    pub r#type: SubjectAltNameType,
    /// A DNS name, perhaps with a leading wildcard.
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: Option<String>,
    /// A URI, such as a SPIFFE ID.
    #[serde(skip_serializing_if = "is_default")]
    pub uri: Option<String>,
}

/// The type of a name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SubjectAltNameType {
    /// A DNS name.
    #[default]
    Hostname,
    /// A URI.
    #[serde(rename = "URI")]
    Uri,
}
