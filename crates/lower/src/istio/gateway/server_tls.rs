//! TLS of ports that Lateen's proxies serve: of gateways, and of sidecars' ingress listeners.

use std::sync::Arc;

use lateen_api::networking::gateway as api;
use lateen_model::gateway::{ServerTls, ServerTlsMode};

use crate::istio::report::{text, texts};

/// Lowers the TLS settings of a server.
pub fn lower_server_tls(from: &api::ServerTlsSettings) -> ServerTls {
    let credentials = match text(&from.credential_name) {
        Some(name) => vec![name],
        None => texts(&from.credential_names),
    };
    let certificate_files = if from.tls_certificates.is_empty() {
        text(&from.server_certificate)
            .zip(text(&from.private_key))
            .into_iter()
            .collect()
    } else {
        (from.tls_certificates.iter())
            .filter_map(|files| text(&files.server_certificate).zip(text(&files.private_key)))
            .collect()
    };
    ServerTls {
        https_redirect: from.https_redirect,
        mode: match from.mode {
            api::ServerTlsMode::Simple => ServerTlsMode::Simple,
            api::ServerTlsMode::Mutual => ServerTlsMode::Mutual,
            api::ServerTlsMode::AutoPassthrough => ServerTlsMode::AutoPassthrough,
            api::ServerTlsMode::IstioMutual => ServerTlsMode::IstioMutual,
            api::ServerTlsMode::OptionalMutual => ServerTlsMode::OptionalMutual,
            _ => ServerTlsMode::Passthrough,
        },
        credentials,
        certificate_files,
        ca_file: text(&from.ca_certificates),
        crl_file: text(&from.ca_crl),
        ca_credential: text(&from.ca_cert_credential_name),
        subject_alt_names: texts(&from.subject_alt_names),
        certificate_spki: texts(&from.verify_certificate_spki),
        certificate_hash: texts(&from.verify_certificate_hash),
        min_version: version(from.min_protocol_version),
        max_version: version(from.max_protocol_version),
        cipher_suites: valid_cipher_suites(from.cipher_suites.iter().map(String::as_str)),
        ecdh_curves: texts(&from.ecdh_curves),
        insecure_skip_verify: from.insecure_skip_verify,
    }
}

fn version(version: api::TlsProtocol) -> i32 {
    match version {
        api::TlsProtocol::TlsV1_0 => 1,
        api::TlsProtocol::TlsV1_1 => 2,
        api::TlsProtocol::TlsV1_2 => 3,
        api::TlsProtocol::TlsV1_3 => 4,
        _ => 0,
    }
}

/// Those cipher suites that Envoy knows, each once: one unknown name would make it refuse the whole listener.
pub fn valid_cipher_suites<'a>(suites: impl Iterator<Item = &'a str>) -> Vec<Arc<str>> {
    let mut valid: Vec<Arc<str>> = Vec::new();
    for suite in suites {
        if lateen_validate::CIPHER_SUITES.contains(&suite) && !valid.iter().any(|known| **known == *suite) {
            valid.push(suite.into());
        }
    }
    valid
}
