//! How connections to endpoints are secured.

use lateen_proto::Struct;
use lateen_proto::envoy::config::cluster::v3::Cluster;
use lateen_proto::envoy::config::core::v3::TransportSocket;
use lateen_proto::envoy::config::core::v3::transport_socket::ConfigType;
use lateen_proto::envoy::config::endpoint::v3::LbEndpoint;
use lateen_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use lateen_proto::envoy::extensions::transport_sockets::tls::v3::{CertificateValidationContext, UpstreamTlsContext};
use serde::Serialize;

use crate::matching::text_in_words;

/// How connections to an endpoint are secured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Not at all.
    Plain,
    /// By TLS.
    Tls {
        /// Server name; empty for none, `*` for the request's host.
        sni: String,
        /// Protocols offered.
        alpn: Vec<String>,
        /// Name of the secret with the client's certificate; without one the client shows none.
        #[serde(skip_serializing_if = "Option::is_none")]
        certificate: Option<String>,
        /// Names that the server's certificate may have; empty: any.
        names: Vec<String>,
    },
    /// By something else.
    Other(String),
}

/// What an endpoint says of itself for the choice of a socket.
pub(super) fn labels(endpoint: &LbEndpoint) -> Option<&Struct> {
    endpoint
        .metadata
        .as_ref()?
        .filter_metadata
        .get("envoy.transport_socket_match")
}

/// The socket for an endpoint: the first whose labels the endpoint has, else the cluster's.
pub(super) fn transport(cluster: &Cluster, labels: Option<&Struct>, follows_host: bool) -> Transport {
    let has = |wanted: &Struct| {
        wanted
            .fields
            .iter()
            .all(|(name, value)| labels.is_some_and(|labels| labels.fields.get(name) == Some(value)))
    };
    let matched = cluster
        .transport_socket_matches
        .iter()
        .find(|one| one.r#match.as_ref().is_none_or(has))
        .and_then(|one| one.transport_socket.as_ref());
    match matched.or(cluster.transport_socket.as_ref()) {
        Some(socket) => of_socket(socket, follows_host),
        None => Transport::Plain,
    }
}

fn of_socket(socket: &TransportSocket, follows_host: bool) -> Transport {
    let Some(ConfigType::TypedConfig(config)) = &socket.config_type else {
        return Transport::Other(socket.name.clone());
    };
    if config.type_url.ends_with(".RawBuffer") {
        return Transport::Plain;
    }
    let Ok(context) = config.to_msg::<UpstreamTlsContext>() else {
        return Transport::Other(socket.name.clone());
    };
    let common = context.common_tls_context.unwrap_or_default();
    let inline = (!common.tls_certificates.is_empty()).then(|| "inline".to_owned());
    let certificate = common
        .tls_certificate_sds_secret_configs
        .first()
        .map(|secret| secret.name.clone())
        .or(inline);
    let names = match &common.validation_context_type {
        Some(ValidationContextType::ValidationContext(context)) => accepted(context),
        Some(ValidationContextType::CombinedValidationContext(both)) => both
            .default_validation_context
            .as_ref()
            .map(accepted)
            .unwrap_or_default(),
        _ => Vec::new(),
    };
    Transport::Tls {
        sni: if context.sni.is_empty() && follows_host {
            "*".to_owned()
        } else {
            context.sni
        },
        alpn: common.alpn_protocols,
        certificate,
        names,
    }
}

fn accepted(context: &CertificateValidationContext) -> Vec<String> {
    let typed = context
        .match_typed_subject_alt_names
        .iter()
        .filter_map(|name| name.matcher.as_ref());
    let old = context.match_subject_alt_names.iter();
    let plain = |text: String| text.trim_matches('`').to_owned();
    typed.chain(old).map(|matcher| plain(text_in_words(matcher))).collect()
}
