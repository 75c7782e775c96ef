//! The HTTP connection manager.

use std::sync::Arc;

use lateen_model::extension::Phase;
use lateen_model::mesh::PathNormalization;
use lateen_model::service::Protocol;
use lateen_proto::any;
use lateen_proto::envoy::config::core::v3::http1_protocol_options::{HeaderKeyFormat, header_key_format::HeaderFormat};
use lateen_proto::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions, TypedExtensionConfig,
};
use lateen_proto::envoy::config::listener::v3 as pb;
use lateen_proto::envoy::config::route::v3::RouteConfiguration;
use lateen_proto::envoy::extensions::filters::http::cors::v3::Cors;
use lateen_proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use lateen_proto::envoy::extensions::filters::http::grpc_stats::v3::{FilterConfig as GrpcStats, filter_config};
use lateen_proto::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use lateen_proto::envoy::extensions::filters::http::router::v3::Router;
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation,
    SetCurrentClientCertDetails, UpgradeConfig,
};
use lateen_proto::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
use lateen_proto::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use prost::{Message, Name};

use super::Common;
use super::chain::filter;
use super::forward::Forward;
use super::on_demand;
use super::telemetry::Side;
use crate::extension::ALL_PHASES;
use crate::{alpn, source};

/// What is particular to one connection manager.
pub(super) struct Http {
    /// Side.
    pub side: Side,
    /// Name of its statistics, without the delimiter.
    pub stat_prefix: String,
    /// Where its routes come from.
    pub routes: Source,
    /// What is spoken, where known.
    pub protocol: Protocol,
    /// Whether the client is outside of the mesh and its address is to be believed.
    pub edge: bool,
    /// Port by which extensions choose traffic: of the service for callers, of the workload where it is called, 0 where
    /// it is not known.
    pub port: u16,
    /// Filters that decide who may pass: external authorizers, tokens, rules.
    pub security: [Vec<hcm::HttpFilter>; 3],
    /// Services whose hosts are looked up as they are asked for.
    pub forwards: Vec<Forward>,
}

/// Where routes come from.
pub(super) enum Source {
    /// A table by name.
    Rds(Arc<str>),
    /// A table of its own.
    Inline(Box<RouteConfiguration>),
}

/// The network filters of a chain of HTTP: extensions that handle bytes, and the connection manager.
pub(super) fn network_filters(http: Http, common: &Common) -> Vec<pb::Filter> {
    let mut all = common.extensions.network(http.side, http.port, &ALL_PHASES);
    all.push(filter(
        "envoy.filters.network.http_connection_manager",
        &manager(http, common),
    ));
    all
}

fn manager(mut http: Http, common: &Common) -> hcm::HttpConnectionManager {
    let headers = &common.config.headers;
    let inbound = http.side == Side::Inbound;
    let serving = inbound || http.side == Side::Gateway;
    let mut out = hcm::HttpConnectionManager {
        stat_prefix: format!("{};", http.stat_prefix),
        use_remote_address: Some(http.edge),
        proxy_100_continue: true,
        stream_idle_timeout: Some(prost_types::Duration::default()),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        generate_request_id: headers.request_id,
        append_x_forwarded_port: headers.x_forwarded_port.unwrap_or_default(),
        request_id_extension: Some(hcm::RequestIdExtension {
            typed_config: Some(any(&UuidRequestIdConfig {
                use_request_id_for_trace_sampling: Some(common.telemetry.uses_request_id(http.side)),
                ..Default::default()
            })),
        }),
        ..Default::default()
    };
    normalize(common.mesh.path_normalization, &mut out);
    if serving {
        match &headers.server {
            Some(None) => out.server_header_transformation = ServerHeaderTransformation::PassThrough.into(),
            Some(Some(name)) => out.server_name = name.to_string(),
            None => out.server_name = "istio-envoy".to_owned(),
        }
        let (subject, cert, chain, dns, uri) =
            headers
                .set_current_client_cert_details
                .unwrap_or((true, http.side == Side::Gateway, false, true, true));
        out.set_current_client_cert_details = Some(SetCurrentClientCertDetails {
            subject: Some(subject),
            cert,
            chain,
            dns,
            uri,
            ..Default::default()
        });
        let default = if inbound {
            ForwardClientCertDetails::AppendForward
        } else {
            ForwardClientCertDetails::SanitizeSet
        };
        let chosen = if inbound {
            headers.forwarded_client_cert
        } else {
            common.config.forward_client_cert
        };
        out.forward_client_cert_details = chosen.unwrap_or(default.into());
    } else if let Some(None) = headers.server {
        out.server_header_transformation = ServerHeaderTransformation::PassThrough.into();
    }
    if http.side == Side::Gateway {
        out.xff_num_trusted_hops = common.config.trusted_proxies;
    }
    protocol_options(&http, common, &mut out);
    out.route_specifier = Some(match std::mem::replace(&mut http.routes, Source::Rds("".into())) {
        Source::Inline(table) => RouteSpecifier::RouteConfig(*table),
        Source::Rds(name) => RouteSpecifier::Rds(hcm::Rds {
            route_config_name: name.to_string(),
            config_source: Some(source::awaited(source::ads())),
        }),
    });
    out.access_log = common.telemetry.access_logs(common, http.side, false);
    out.tracing = common.telemetry.tracing(common, http.side);
    out.http_filters = filters(http, common);
    out
}

fn normalize(mode: PathNormalization, out: &mut hcm::HttpConnectionManager) {
    let (normalize, merge, escaped) = match mode {
        PathNormalization::None => (false, false, PathWithEscapedSlashesAction::KeepUnchanged),
        PathNormalization::Default | PathNormalization::Base => {
            (true, false, PathWithEscapedSlashesAction::KeepUnchanged)
        }
        PathNormalization::MergeSlashes => (true, true, PathWithEscapedSlashesAction::KeepUnchanged),
        PathNormalization::DecodeAndMergeSlashes => (true, true, PathWithEscapedSlashesAction::UnescapeAndForward),
    };
    out.normalize_path = Some(normalize);
    out.merge_slashes = merge;
    out.path_with_escaped_slashes_action = escaped.into();
}

fn protocol_options(http: &Http, common: &Common, out: &mut hcm::HttpConnectionManager) {
    if let Some(idle) = common.options.idle_timeout_ms {
        out.common_http_protocol_options = Some(HttpProtocolOptions {
            idle_timeout: Some(super::tcp::duration(std::time::Duration::from_millis(idle))),
            ..Default::default()
        });
    }
    if http.side == Side::Inbound && matches!(http.protocol, Protocol::Grpc | Protocol::Http2) {
        out.http2_protocol_options = Some(Http2ProtocolOptions::default());
    }
    let preserve = common
        .config
        .headers
        .preserve_http1_case
        .unwrap_or(common.mesh.preserve_header_case);
    if http.side == Side::Gateway || common.options.http10 || preserve {
        out.http_protocol_options = Some(Http1ProtocolOptions {
            accept_http_10: common.options.http10,
            header_key_format: preserve.then(|| HeaderKeyFormat {
                header_format: Some(HeaderFormat::StatefulFormatter(TypedExtensionConfig {
                    name: "preserve_case".to_owned(),
                    typed_config: Some(any(&PreserveCaseFormatterConfig::default())),
                })),
            }),
            ..Default::default()
        });
    }
}

/// The filters in Istio's order: who may pass, with extensions between the stages, statistics, faults, cross-origin
/// rules, the router.
fn filters(http: Http, common: &Common) -> Vec<hcm::HttpFilter> {
    let extensions = |phase| common.extensions.http(http.side, http.port, phase);
    let [custom, tokens, rules] = http.security;
    let mut all = custom;
    all.extend(extensions(Phase::Authn));
    all.extend(tokens);
    all.extend(extensions(Phase::Authz));
    all.extend(rules);
    all.extend(extensions(Phase::Stats));
    all.extend(extensions(Phase::Unspecified));
    if http.protocol == Protocol::GrpcWeb {
        all.push(http_filter("envoy.filters.http.grpc_web", &GrpcWeb::default()));
    }
    let grpc_stats = GrpcStats {
        emit_filter_state: true,
        per_method_stat_specifier: Some(filter_config::PerMethodStatSpecifier::StatsForAllMethods(false)),
        ..Default::default()
    };
    all.push(http_filter("envoy.filters.http.grpc_stats", &grpc_stats));
    if http.side != Side::Inbound {
        all.push(alpn::filter());
    }
    all.push(http_filter("envoy.filters.http.fault", &HttpFault::default()));
    all.push(http_filter("envoy.filters.http.cors", &Cors::default()));
    all.extend(http.forwards.iter().map(|forward| forward.http_filter(common)));
    if common.on_demand && http.side == Side::Outbound {
        all.extend(on_demand::filters(common.capabilities));
    }
    let debug = common.config.headers.envoy_debug_headers.unwrap_or(true);
    all.push(http_filter(
        "envoy.filters.http.router",
        &Router {
            suppress_envoy_headers: !debug,
            ..Default::default()
        },
    ));
    all
}

/// An HTTP filter.
pub(crate) fn http_filter<M: Message + Name>(name: &str, config: &M) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}
