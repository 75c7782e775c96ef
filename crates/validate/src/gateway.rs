//! Gateway, and TLS of servers wherever else it stands.

use std::collections::BTreeSet;

use lateen_api::networking::gateway::{GatewaySpec, Server, ServerTlsMode, ServerTlsSettings, TlsProtocol};

use crate::text::Protocol;
use crate::{CIPHER_SUITES, Finding, Findings, Subject, text};

/// What is wrong with a Gateway.
pub fn check(spec: &GatewaySpec, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.metadata(subject, false);
    if !text::is_label(subject.name()) {
        findings.error(
            "metadata.name",
            format!("`{}` has to be a DNS label, without dots", subject.name()),
        );
    }
    if spec.servers.is_empty() {
        findings.error("spec.servers", "there is no server; give at least one");
    }
    let mut names = BTreeSet::new();
    for (at, entry) in spec.servers.iter().enumerate() {
        let field = format!("spec.servers[{at}]");
        server(entry, &field, &mut findings);
        if let Some(port) = &entry.port {
            if !names.insert(&port.name) {
                findings.error(
                    format!("{field}.port.name"),
                    format!("there are two ports `{}`; rename one", port.name),
                );
            }
            let redirects = entry.tls.as_ref().is_some_and(|tls| tls.https_redirect);
            if redirects && text::protocol(&port.protocol) != Some(Protocol::Http) {
                findings.warning(
                    format!("{field}.tls.httpsRedirect"),
                    "only servers of plain HTTP can redirect",
                );
            }
        }
    }
    findings.0
}

fn server(server: &Server, field: &str, findings: &mut Findings) {
    if server.hosts.is_empty() {
        findings.error(
            format!("{field}.hosts"),
            "there is no host; give at least one, for example `*`",
        );
    }
    for (at, host) in server.hosts.iter().enumerate() {
        findings.check(format!("{field}.hosts[{at}]"), text::namespaced_host(host, true));
    }
    let socket = server.bind.strip_prefix("unix://");
    if let Some(path) = socket {
        findings.check(format!("{field}.bind"), text::unix_socket(path));
    } else if !server.bind.is_empty() && server.bind.parse::<std::net::IpAddr>().is_err() {
        findings.error(format!("{field}.bind"), format!("`{}` is no IP address", server.bind));
    }
    if let Some(tls) = &server.tls {
        server_tls(tls, &format!("{field}.tls"), findings);
    }
    let Some(port) = &server.port else {
        return findings.error(format!("{field}.port"), "the port is missing");
    };
    let field_port = format!("{field}.port");
    if socket.is_none() || port.number > 0 {
        findings.check(format!("{field_port}.number"), text::port(port.number.into()));
    }
    if socket.is_some() && port.number > 0 {
        findings.error(format!("{field_port}.number"), "a Unix socket has no port; use 0");
    }
    if port.target_port > 0 {
        findings.error(
            format!("{field_port}.targetPort"),
            "has no effect on gateways; remove it",
        );
    }
    if port.name.is_empty() {
        findings.error(format!("{field_port}.name"), "the name is missing");
    }
    let Some(protocol) = text::protocol(&port.protocol) else {
        let message = format!(
            "`{}` is no protocol; use HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, MONGO, MYSQL, REDIS, TCP or TLS",
            port.protocol
        );
        return findings.error(format!("{field_port}.protocol"), message);
    };
    match (&server.tls, protocol) {
        (None, Protocol::Tls) => {
            findings.error(format!("{field}.tls"), format!("{} needs TLS settings", port.protocol))
        }
        (Some(tls), Protocol::Http) => {
            let passes = matches!(tls.mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough);
            let files = [&tls.ca_certificates, &tls.private_key, &tls.server_certificate];
            if !passes || files.iter().any(|file| !file.is_empty()) {
                findings.error(
                    format!("{field}.tls"),
                    "plain HTTP has no TLS but `httpsRedirect`; use protocol HTTPS",
                );
            }
        }
        (Some(_), Protocol::Other) => {
            findings.error(
                format!("{field}.tls"),
                format!("{} has no TLS; use protocol TLS", port.protocol),
            );
        }
        _ => {}
    }
}

/// TLS of a server.
pub(crate) fn server_tls(tls: &ServerTlsSettings, field: &str, findings: &mut Findings) {
    if matches!(tls.min_protocol_version, TlsProtocol::TlsV1_0 | TlsProtocol::TlsV1_1) && tls.cipher_suites.is_empty() {
        findings.warning(
            format!("{field}.minProtocolVersion"),
            "TLS below 1.2 needs old cipher suites, which are off by default; name them",
        );
    }
    let mut known = BTreeSet::new();
    for (at, suite) in tls.cipher_suites.iter().enumerate() {
        let field = format!("{field}.cipherSuites[{at}]");
        let operator = suite.is_empty() || suite == "ALL" || !suite.starts_with(|c: char| c.is_alphanumeric());
        if !operator && !CIPHER_SUITES.contains(&suite.as_str()) {
            findings.warning(
                field,
                format!("`{suite}` is no cipher suite that Envoy knows; it is ignored"),
            );
        } else if !known.insert(suite) {
            findings.warning(field, format!("`{suite}` is there twice"));
        }
    }
    let sources = [
        ("serverCertificate", !tls.server_certificate.is_empty()),
        ("privateKey", !tls.private_key.is_empty()),
        ("caCertificates", !tls.ca_certificates.is_empty()),
        ("tlsCertificates", !tls.tls_certificates.is_empty()),
        ("credentialName", !tls.credential_name.is_empty()),
        ("credentialNames", !tls.credential_names.is_empty()),
    ];
    match tls.mode {
        ServerTlsMode::IstioMutual => {
            for (name, _) in sources.iter().filter(|(_, given)| *given) {
                findings.error(
                    format!("{field}.{name}"),
                    "ISTIO_MUTUAL uses the mesh's certificates; remove it",
                );
            }
            return;
        }
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough
            if sources.iter().any(|(_, given)| *given) || !tls.ca_crl.is_empty() =>
        {
            findings.warning(field, format!("{} uses no certificates; they are ignored", tls.mode));
        }
        _ => {}
    }
    certificates(tls, field, findings);
}

fn certificates(tls: &ServerTlsSettings, field: &str, findings: &mut Findings) {
    let named = !tls.credential_name.is_empty() || !tls.credential_names.is_empty();
    let files = !tls.server_certificate.is_empty() && !tls.private_key.is_empty();
    let sources = [
        files,
        !tls.credential_name.is_empty(),
        !tls.credential_names.is_empty(),
        !tls.tls_certificates.is_empty(),
    ];
    if sources.iter().filter(|given| **given).count() > 1 {
        findings.error(
            field,
            "set only one of credentialName, credentialNames, tlsCertificates and serverCertificate with privateKey",
        );
    }
    let mutual = matches!(tls.mode, ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
    let terminates = mutual || tls.mode == ServerTlsMode::Simple;
    if terminates && named {
        return;
    }
    if mutual && tls.ca_certificates.is_empty() {
        findings.error(
            format!("{field}.caCertificates"),
            format!("{} needs the authorities of clients", tls.mode),
        );
    }
    if terminates {
        let pairs: Vec<(String, &str, &str)> = if tls.tls_certificates.is_empty() {
            vec![(field.to_owned(), &tls.server_certificate, &tls.private_key)]
        } else {
            let pairs = tls.tls_certificates.iter().enumerate();
            pairs
                .map(|(at, pair)| {
                    (
                        format!("{field}.tlsCertificates[{at}]"),
                        pair.server_certificate.as_str(),
                        pair.private_key.as_str(),
                    )
                })
                .collect()
        };
        if pairs.len() > 2 {
            findings.warning(
                format!("{field}.tlsCertificates"),
                "at most two certificates are supported",
            );
        }
        for (field, certificate, key) in pairs {
            for (name, file) in [("serverCertificate", certificate), ("privateKey", key)] {
                if file.is_empty() {
                    findings.error(
                        format!("{field}.{name}"),
                        format!("{} needs it, or `credentialName`", tls.mode),
                    );
                }
            }
        }
    }
    if !tls.ca_crl.is_empty() {
        if !tls.credential_name.is_empty() {
            findings.error(
                format!("{field}.caCrl"),
                "the Secret of `credentialName` has to contain it",
            );
        }
        if tls.mode == ServerTlsMode::Simple {
            findings.error(
                format!("{field}.caCrl"),
                "SIMPLE knows no client certificates that could be revoked",
            );
        }
    }
}
