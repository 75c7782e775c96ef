//! TLS toward clients.

use std::sync::Arc;

use lateen_model::gateway::{ServerTls, ServerTlsMode};
use lateen_model::mesh::{Mesh, TlsSettings};
use lateen_proto::any;
use lateen_proto::envoy::config::core::v3::{TransportSocket, transport_socket};
use lateen_proto::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification;
use lateen_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use lateen_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsParameters,
};
use lateen_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::Common;
use super::chain::texts;
use crate::cluster::tls::agent_secret;
use crate::{names, source};

/// Cipher suites of mutual TLS within the mesh, as Istio's.
const MESH_CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];
/// Envoy's number for TLS 1.2.
const TLS_1_2: i32 = 3;
/// Envoy's number for TLS 1.3.
const TLS_1_3: i32 = 4;

/// A secret that the control plane serves.
pub(super) fn served_secret(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(source::awaited(source::ads())),
    }
}

pub(super) fn socket(context: &DownstreamTlsContext) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(context))),
    }
}

/// Peers of the mesh's own trust domains.
fn mesh_peers(mesh: &Mesh) -> Vec<StringMatcher> {
    std::iter::once(mesh.trust_domain.as_str())
        .chain(mesh.trust_domain_aliases.iter().map(|alias| &**alias))
        .map(|domain| StringMatcher {
            match_pattern: Some(MatchPattern::Prefix(format!("spiffe://{domain}/"))),
            ..Default::default()
        })
        .collect()
}

/// Mutual TLS with the mesh's certificates, or with certificates from files where the proxy brings its own.
pub(super) fn mutual(common: &Common, alpn: &[&str], check_peers: bool) -> DownstreamTlsContext {
    let (certificate, ca) = match &common.options.server_cert {
        Some([chain, key, root]) => (format!("file-cert:{chain}~{key}"), format!("file-root:{root}")),
        None => ("default".to_owned(), "ROOTCA".to_owned()),
    };
    let sans = if check_peers {
        mesh_peers(&common.mesh)
    } else {
        Vec::new()
    };
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(validation(sans)),
        validation_context_sds_secret_config: Some(agent_secret(&ca)),
        ..Default::default()
    };
    DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(mesh_parameters(&common.mesh.mesh_mtls)),
            tls_certificate_sds_secret_configs: vec![agent_secret(&certificate)],
            alpn_protocols: texts(alpn),
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
            ..Default::default()
        }),
        require_client_certificate: Some(true),
        ..Default::default()
    }
}

#[allow(deprecated)]
fn validation(match_subject_alt_names: Vec<StringMatcher>) -> CertificateValidationContext {
    CertificateValidationContext {
        match_subject_alt_names,
        ..Default::default()
    }
}

fn mesh_parameters(settings: &TlsSettings) -> TlsParameters {
    let ciphers = if settings.cipher_suites.is_empty() {
        texts(&MESH_CIPHERS)
    } else {
        texts(&settings.cipher_suites)
    };
    TlsParameters {
        tls_minimum_protocol_version: settings.min_version.max(TLS_1_2),
        tls_maximum_protocol_version: TLS_1_3,
        cipher_suites: ciphers,
        ecdh_curves: texts(&settings.ecdh_curves),
        ..Default::default()
    }
}

/// TLS of a gateway's server (or of a Sidecar's ingress listener).
pub(super) fn server(tls: &ServerTls, common: &Common, alpn: &[&str]) -> DownstreamTlsContext {
    if tls.mode == ServerTlsMode::IstioMutual {
        return gateway_mutual(tls, common, alpn);
    }
    let mutual = matches!(tls.mode, ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
    let certificates = if tls.credentials.is_empty() {
        tls.certificate_files
            .iter()
            .map(|(chain, key)| agent_secret(&format!("file-cert:{chain}~{key}")))
            .collect()
    } else {
        tls.credentials
            .iter()
            .map(|credential| credential_secret(credential))
            .collect()
    };
    let ca = mutual.then(|| ca_secret(tls)).flatten();
    let mut checks = validation(tls.subject_alt_names.iter().map(subject).collect());
    checks.verify_certificate_spki = texts(&tls.certificate_spki);
    checks.verify_certificate_hash = texts(&tls.certificate_hash);
    if let Some(crl) = &tls.crl_file {
        checks.crl = Some(lateen_proto::envoy::config::core::v3::DataSource {
            specifier: Some(lateen_proto::envoy::config::core::v3::data_source::Specifier::Filename(
                crl.to_string(),
            )),
            ..Default::default()
        });
    }
    if mutual && tls.insecure_skip_verify == Some(true) {
        checks.trust_chain_verification = TrustChainVerification::AcceptUntrusted.into();
    }
    let plain = checks == CertificateValidationContext::default();
    let validation = match ca {
        Some(ca) => Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(checks),
                validation_context_sds_secret_config: Some(ca),
                ..Default::default()
            },
        )),
        None if !plain => Some(ValidationContextType::ValidationContext(checks)),
        None => None,
    };
    let parameters = parameters(tls, &common.mesh);
    DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: parameters,
            tls_certificate_sds_secret_configs: certificates,
            alpn_protocols: texts(alpn),
            validation_context_type: validation,
            ..Default::default()
        }),
        require_client_certificate: Some(tls.mode == ServerTlsMode::Mutual),
        ..Default::default()
    }
}

fn gateway_mutual(tls: &ServerTls, common: &Common, alpn: &[&str]) -> DownstreamTlsContext {
    let mut context = mutual(common, alpn, true);
    if let Some(common_tls) = &mut context.common_tls_context {
        common_tls.tls_params = parameters(tls, &common.mesh);
        if !tls.subject_alt_names.is_empty() {
            let checks = validation(tls.subject_alt_names.iter().map(subject).collect());
            if let Some(ValidationContextType::CombinedValidationContext(combined)) =
                &mut common_tls.validation_context_type
            {
                combined.default_validation_context = Some(checks);
            }
        }
    }
    context
}

fn subject(name: &Arc<str>) -> StringMatcher {
    let pattern = match (name.strip_prefix('*'), name.strip_suffix('*')) {
        (Some(suffix), _) if !suffix.is_empty() => MatchPattern::Suffix(suffix.to_owned()),
        (_, Some(prefix)) if !prefix.is_empty() => MatchPattern::Prefix(prefix.to_owned()),
        _ => MatchPattern::Exact(name.to_string()),
    };
    StringMatcher {
        match_pattern: Some(pattern),
        ..Default::default()
    }
}

/// Explicit versions and suites; nothing where the user says nothing, so that Envoy's own defaults hold.
fn parameters(tls: &ServerTls, mesh: &Mesh) -> Option<TlsParameters> {
    let min = if tls.min_version == 0 {
        mesh.tls_defaults.min_version
    } else {
        tls.min_version
    };
    let suites = if tls.cipher_suites.is_empty() {
        &mesh.tls_defaults.cipher_suites
    } else {
        &tls.cipher_suites
    };
    let parameters = TlsParameters {
        tls_minimum_protocol_version: min,
        tls_maximum_protocol_version: tls.max_version,
        cipher_suites: texts(suites),
        ecdh_curves: texts(&mesh.tls_defaults.ecdh_curves),
        ..Default::default()
    };
    (parameters != TlsParameters::default()).then_some(parameters)
}

fn credential_secret(credential: &str) -> SdsSecretConfig {
    served_secret(&names::credential(credential))
}

/// Authorities: named apart, else beside the certificate (`<credential>-cacert`), else from a file.
fn ca_secret(tls: &ServerTls) -> Option<SdsSecretConfig> {
    if let Some(credential) = &tls.ca_credential {
        return Some(credential_secret(credential));
    }
    if let Some(credential) = tls.credentials.first() {
        return Some(served_secret(&format!("{}-cacert", names::credential(credential))));
    }
    tls.ca_file
        .as_ref()
        .map(|file| agent_secret(&format!("file-root:{file}")))
}
