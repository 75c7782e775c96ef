//! TLS toward the upstream.

use std::sync::Arc;

use lateen_model::destination::{ClientTls, TlsMode};
use lateen_proto::any;
use lateen_proto::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use lateen_proto::envoy::config::core::v3 as core;
use lateen_proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use lateen_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use lateen_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use lateen_proto::envoy::r#type::matcher::v3 as matcher;
use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};

use super::settings::Settings;
use super::values;
use crate::{names, source};

/// The cluster of the bootstrap that leads to the agent's secrets.
const AGENT: &str = "sds-grpc";
/// That leads to an SDS server in the pod.
pub(crate) const EXTERNAL: &str = "sds-external";
/// That leads to an SDS server of files in the pod.
const FILES: &str = "sds-external-file";
/// The workload's own certificate, as the agent names it.
const OWN: &str = "default";
/// The mesh's authorities, as the agent names them.
const ROOT: &str = "ROOTCA";

/// TLS that is decided on, with what HTTP has to do about it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decided {
    pub(crate) context: Option<tls::UpstreamTlsContext>,
    /// Only toward endpoints that take mutual TLS.
    pub(crate) where_taken: bool,
    /// It is the mesh's own mutual TLS.
    pub(crate) mesh: bool,
    /// Server name and certificate follow the request's host.
    pub(crate) follow_host: (bool, bool),
}

/// What decides over TLS.
pub(crate) struct Question<'a> {
    pub(crate) rule: Option<&'a ClientTls>,
    /// Whether the rule is for selected workloads only: then they may use its credential.
    pub(crate) selected: bool,
    pub(crate) settings: &'a Settings,
    /// Whether mutual TLS is used without a rule, where endpoints take it.
    pub(crate) auto: bool,
    pub(crate) external: bool,
    /// Names that the servers may present, where the rule names none: identities, or a ServiceEntry's.
    pub(crate) identities: &'a [Arc<str>],
    /// Whether those names hold for TLS that is not the mesh's own.
    pub(crate) identities_for_all: bool,
    /// Server name of mutual TLS within the mesh.
    pub(crate) sni: &'a str,
    /// Whether names are resolved per request.
    pub(crate) dynamic: bool,
    pub(crate) http2: bool,
}

/// Decides: a rule's TLS as it says; without rule, mutual TLS wherever endpoints take it.
pub(crate) fn decide(question: &Question<'_>) -> Decided {
    let Some((settings, where_taken)) = effective(question) else {
        return Decided {
            context: None,
            where_taken: false,
            mesh: false,
            follow_host: (false, false),
        };
    };
    let plain = Decided {
        context: None,
        where_taken: false,
        mesh: false,
        follow_host: (false, false),
    };
    if withheld(&settings, question) {
        return plain;
    }
    let skip = settings.insecure_skip_verify == Some(true);
    let sni = settings.sni.as_deref().unwrap_or_default().is_empty();
    let certificate = !skip && (question.dynamic || (sni && settings.subject_alt_names.is_empty()));
    let (context, follow_host) = match settings.mode {
        TlsMode::Disable => return plain,
        TlsMode::IstioMutual => (
            Some(mesh_mutual(&settings, question)),
            if question.dynamic {
                (sni, certificate)
            } else {
                (false, false)
            },
        ),
        TlsMode::Simple | TlsMode::Mutual => (originated(&settings, question), (sni, certificate)),
    };
    Decided {
        where_taken: where_taken && settings.mode == TlsMode::IstioMutual,
        mesh: settings.mode == TlsMode::IstioMutual,
        follow_host,
        context,
    }
}

/// The settings in force, and whether they hold only where endpoints take mutual TLS.
fn effective(question: &Question<'_>) -> Option<(ClientTls, bool)> {
    let identities = || question.identities.to_vec();
    let mounted = |[certificate, key, ca]: &[Arc<str>; 3], names, sni, skip| ClientTls {
        mode: TlsMode::Mutual,
        certificate: Some(Arc::clone(certificate)),
        private_key: Some(Arc::clone(key)),
        ca: Some(Arc::clone(ca)).filter(|ca| !ca.is_empty()),
        subject_alt_names: names,
        sni,
        insecure_skip_verify: skip,
        ..ClientTls::default()
    };
    let settings = question.settings;
    let own_sni = || (!question.sni.is_empty()).then(|| Arc::from(question.sni));
    let Some(rule) = question.rule else {
        if !question.auto || question.external || !settings.auto_mtls {
            return None;
        }
        let tls = match &settings.client_cert {
            Some(files) => mounted(files, identities(), own_sni(), None),
            None => ClientTls {
                mode: TlsMode::IstioMutual,
                subject_alt_names: identities(),
                sni: own_sni(),
                ..ClientTls::default()
            },
        };
        return Some((tls, true));
    };
    let tls = match (rule.mode, &settings.client_cert) {
        (TlsMode::Disable | TlsMode::Simple, _) => rule.clone(),
        (_, Some(files)) if !(question.external && settings.rules_for_external) => mounted(
            files,
            rule.subject_alt_names.clone(),
            rule.sni.clone(),
            rule.insecure_skip_verify,
        ),
        (TlsMode::IstioMutual, None) => ClientTls {
            mode: TlsMode::IstioMutual,
            subject_alt_names: if rule.subject_alt_names.is_empty() {
                identities()
            } else {
                rule.subject_alt_names.clone()
            },
            sni: rule.sni.clone().filter(|sni| !sni.is_empty()).or_else(own_sni),
            insecure_skip_verify: rule.insecure_skip_verify,
            ..ClientTls::default()
        },
        _ => rule.clone(),
    };
    Some((tls, false))
}

/// A sidecar gets no credential of a rule that is for everybody: those who may not read it would wait for it forever.
/// ConfigMaps hold no secrets and are for all.
fn withheld(settings: &ClientTls, question: &Question<'_>) -> bool {
    let private = settings
        .credential
        .as_deref()
        .is_some_and(|name| !name.is_empty() && !name.starts_with("configmap://"));
    private
        && question.settings.sidecar
        && !question.selected
        && matches!(settings.mode, TlsMode::Simple | TlsMode::Mutual)
}

fn mesh_mutual(settings: &ClientTls, question: &Question<'_>) -> tls::UpstreamTlsContext {
    let mut protocols = Vec::with_capacity(3);
    if question.settings.peer_exchange {
        protocols.push("istio-peer-exchange");
    }
    protocols.push("istio");
    if question.http2 {
        protocols.push("h2");
    }
    let mut common = common();
    common.alpn_protocols = protocols.into_iter().map(str::to_owned).collect();
    common.tls_certificate_sds_secret_configs = vec![agent_secret(OWN)];
    common.validation_context_type = Some(validated(&settings.subject_alt_names, None, agent_secret(ROOT)));
    tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: settings.sni.as_deref().unwrap_or_default().to_owned(),
        ..tls::UpstreamTlsContext::default()
    }
}

/// TLS that is not the mesh's own; `None` where a client certificate is demanded but not given.
fn originated(settings: &ClientTls, question: &Question<'_>) -> Option<tls::UpstreamTlsContext> {
    let mutual = settings.mode == TlsMode::Mutual;
    let skip = settings.insecure_skip_verify == Some(true);
    let names = if question.identities_for_all && settings.subject_alt_names.is_empty() {
        question.identities
    } else {
        &settings.subject_alt_names[..]
    };
    let mut common = common();
    if let Some(credential) = settings.credential.as_deref().filter(|name| !name.is_empty()) {
        if mutual {
            common.tls_certificate_sds_secret_configs = vec![credential_secret(credential, question.settings)];
        }
        if !skip {
            let ca = credential_secret(&format!("{credential}-cacert"), question.settings);
            common.validation_context_type = Some(validated(names, None, ca));
        }
    } else {
        if mutual {
            let certificate = settings.certificate.as_deref().filter(|path| !path.is_empty())?;
            let key = settings.private_key.as_deref().filter(|path| !path.is_empty())?;
            common.tls_certificate_sds_secret_configs = vec![file_secret(
                &format!("file-cert:{certificate}~{key}"),
                question.settings,
            )];
        }
        common.validation_context_type = Some(if skip {
            ValidationContextType::ValidationContext(tls::CertificateValidationContext::default())
        } else {
            let ca = settings
                .ca
                .as_deref()
                .filter(|path| !path.is_empty())
                .unwrap_or("system");
            validated(
                names,
                settings.crl.as_deref().filter(|path| !path.is_empty()),
                file_secret(&format!("file-root:{ca}"), question.settings),
            )
        });
    }
    if let Some(params) = &mut common.tls_params {
        let owned = |list: &[Arc<str>]| list.iter().map(|text| text.to_string()).collect();
        params.ecdh_curves = owned(&question.settings.tls.ecdh_curves);
        params.cipher_suites = owned(&question.settings.tls.cipher_suites);
    }
    if question.http2 {
        common.alpn_protocols = vec!["h2".to_owned()];
    }
    Some(tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: settings.sni.as_deref().unwrap_or_default().to_owned(),
        ..tls::UpstreamTlsContext::default()
    })
}

fn common() -> tls::CommonTlsContext {
    tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12.into(),
            tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
            ..tls::TlsParameters::default()
        }),
        ..tls::CommonTlsContext::default()
    }
}

fn validated(names: &[Arc<str>], crl: Option<&str>, authorities: tls::SdsSecretConfig) -> ValidationContextType {
    #[allow(deprecated)]
    let context = tls::CertificateValidationContext {
        match_subject_alt_names: names
            .iter()
            .map(|name| matcher::StringMatcher {
                match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(name.to_string())),
                ..matcher::StringMatcher::default()
            })
            .collect(),
        crl: crl.map(|path| core::DataSource {
            specifier: Some(core::data_source::Specifier::Filename(path.to_owned())),
            ..core::DataSource::default()
        }),
        ..tls::CertificateValidationContext::default()
    };
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(context),
        validation_context_sds_secret_config: Some(authorities),
        ..CombinedCertificateValidationContext::default()
    })
}

fn over_grpc(name: &str, cluster: &str, wait: bool) -> tls::SdsSecretConfig {
    let source = source::over_grpc(cluster);
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(if wait { source::awaited(source) } else { source }),
    }
}

/// A secret that the agent holds for the workload itself, waited for without limit.
pub(crate) fn agent_secret(name: &str) -> tls::SdsSecretConfig {
    over_grpc(name, AGENT, true)
}

/// A file that the agent (or a server in the pod) reads.
pub(crate) fn file_secret(name: &str, settings: &Settings) -> tls::SdsSecretConfig {
    over_grpc(name, if settings.file_socket { FILES } else { AGENT }, false)
}

/// A secret that a user names: the workload's own for `builtin://`, of a server in the pod for `sds://`, else Lateen's.
pub(crate) fn credential_secret(name: &str, settings: &Settings) -> tls::SdsSecretConfig {
    match name {
        "builtin://" => agent_secret(OWN),
        "builtin://-cacert" => agent_secret(ROOT),
        _ if settings.credential_socket && name.starts_with("sds://") => over_grpc(name, EXTERNAL, false),
        _ => tls::SdsSecretConfig {
            name: if name.starts_with("invalid://") {
                "invalid://".to_owned()
            } else {
                names::credential(name)
            },
            sds_config: Some(source::ads()),
        },
    }
}

/// A transport socket of TLS.
pub(crate) fn socket(context: &tls::UpstreamTlsContext) -> core::TransportSocket {
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(context))),
    }
}

/// A transport socket without TLS.
pub(crate) fn raw() -> core::TransportSocket {
    core::TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&RawBuffer {}))),
    }
}

/// Sockets by what an endpoint takes: mutual TLS, or none.
pub(crate) fn by_endpoint(mutual: core::TransportSocket) -> Vec<TransportSocketMatch> {
    vec![
        TransportSocketMatch {
            name: "tlsMode-istio".to_owned(),
            r#match: Some(values::object([("tlsMode", values::text("istio"))])),
            transport_socket: Some(mutual),
        },
        TransportSocketMatch {
            name: "tlsMode-disabled".to_owned(),
            r#match: Some(values::object([])),
            transport_socket: Some(raw()),
        },
    ]
}

/// A socket that sends a PROXY protocol header first.
pub(crate) fn with_proxy_protocol(inner: core::TransportSocket, version: u8) -> core::TransportSocket {
    let version = match version {
        2 => core::proxy_protocol_config::Version::V2,
        _ => core::proxy_protocol_config::Version::V1,
    };
    core::TransportSocket {
        name: "envoy.transport_sockets.upstream_proxy_protocol".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(
            &ProxyProtocolUpstreamTransport {
                config: Some(core::ProxyProtocolConfig {
                    version: version.into(),
                    ..core::ProxyProtocolConfig::default()
                }),
                transport_socket: Some(inner),
                ..ProxyProtocolUpstreamTransport::default()
            },
        ))),
    }
}
