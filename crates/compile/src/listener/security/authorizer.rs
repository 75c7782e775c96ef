//! External authorizers, as the mesh's providers `envoyExtAuthzHttp` and `envoyExtAuthzGrpc` describe them.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_model::mesh::Mesh;
use lateen_proto::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use lateen_proto::envoy::config::core::v3::http_uri::HttpUpstreamType;
use lateen_proto::envoy::config::core::v3::{ApiVersion, GrpcService, HeaderValue, HttpUri};
use lateen_proto::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
use lateen_proto::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz as Http, HttpService,
};
use lateen_proto::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as Tcp;
use lateen_proto::envoy::r#type::matcher::v3::{ListStringMatcher, MetadataMatcher};
use lateen_proto::envoy::r#type::v3::{HttpStatus, StatusCode};
use serde_json::Value;

use super::{Upstream, filters, matchers};

/// How long an authorizer may take where its provider does not say: Istio's default.
const TIMEOUT: prost_types::Duration = prost_types::Duration { seconds: 600, nanos: 0 };

/// The filters that ask an authorizer.
pub(super) struct Authorizer {
    pub http: Http,
    /// Only for authorizers that speak gRPC.
    pub tcp: Option<Tcp>,
}

/// A provider's kind and fields. None where there is no such provider, or more than one.
fn provider(mesh: &Mesh, name: &str) -> Option<(bool, Value)> {
    let mut found = mesh
        .providers
        .iter()
        .filter(|provider| &*provider.name == name)
        .filter_map(|provider| {
            let grpc = match &*provider.kind {
                "envoyExtAuthzGrpc" => true,
                "envoyExtAuthzHttp" => false,
                _ => return None,
            };
            Some((grpc, serde_json::from_str(&provider.config).ok()?))
        });
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// The service and the port of a provider.
pub(super) fn service(mesh: &Mesh, name: &str) -> Option<(String, u16)> {
    let (_, config) = provider(mesh, name)?;
    let port = config["port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)?;
    Some((config["service"].as_str()?.to_owned(), port))
}

/// The filters of a provider. None where it is not there, says what Envoy cannot do, or its service is not in the mesh.
pub(super) fn build(mesh: &Mesh, name: &str, services: &BTreeMap<Arc<str>, Upstream>) -> Option<Authorizer> {
    let (grpc, config) = provider(mesh, name).filter(|_| fits_metadata(name))?;
    let upstream = services.get(name)?;
    let http = Http {
        status_on_error: status(&config)?,
        failure_mode_allow: config["failOpen"].as_bool().unwrap_or_default(),
        transport_api_version: ApiVersion::V3.into(),
        filter_enabled_metadata: Some(enabled(filters::HTTP, name)),
        with_request_body: body(&config["includeRequestBodyInCheck"]),
        ..Default::default()
    };
    let timeout = timeout(&config)?;
    if grpc {
        let service = GrpcService {
            timeout: Some(timeout),
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: upstream.cluster.to_string(),
                authority: upstream.host.as_str().to_owned(),
                ..Default::default()
            })),
            ..Default::default()
        };
        let tcp = Tcp {
            stat_prefix: filters::TCP_STATS.to_owned(),
            failure_mode_allow: http.failure_mode_allow,
            transport_api_version: ApiVersion::V3.into(),
            filter_enabled_metadata: Some(enabled(filters::TCP, name)),
            grpc_service: Some(service.clone()),
            ..Default::default()
        };
        return Some(Authorizer {
            http: Http {
                services: Some(Services::GrpcService(service)),
                ..http
            },
            tcp: Some(tcp),
        });
    }
    let (service, allowed_headers) = http_service(&config, upstream, timeout)?;
    let http = Http {
        allowed_headers,
        services: Some(Services::HttpService(service)),
        ..http
    };
    Some(Authorizer { http, tcp: None })
}

/// Whether a name can begin names of policies without being taken for another: what a DNS label may be.
fn fits_metadata(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('-') && !name.ends_with('-')
}

fn http_service(
    config: &Value,
    upstream: &Upstream,
    timeout: prost_types::Duration,
) -> Option<(HttpService, Option<ListStringMatcher>)> {
    let path_prefix = config["pathPrefix"].as_str().unwrap_or_default();
    if !path_prefix.is_empty() && !path_prefix.starts_with('/') {
        return None;
    }
    let sent = headers(&config["includeRequestHeadersInCheck"])?;
    // The old name of the field counts where the new one says nothing.
    let sent = sent.or(headers(&config["includeHeadersInCheck"])?);
    let response = AuthorizationResponse {
        allowed_upstream_headers: headers(&config["headersToUpstreamOnAllow"])?,
        allowed_client_headers: headers(&config["headersToDownstreamOnDeny"])?,
        allowed_client_headers_on_success: headers(&config["headersToDownstreamOnAllow"])?,
        ..Default::default()
    };
    let mut added: Vec<HeaderValue> = config["includeAdditionalHeadersInCheck"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            Some(HeaderValue {
                key: key.clone(),
                value: value.as_str()?.to_owned(),
                ..Default::default()
            })
        })
        .collect();
    added.sort_by(|a, b| a.key.cmp(&b.key));
    let service = HttpService {
        path_prefix: path_prefix.to_owned(),
        server_uri: Some(HttpUri {
            // Envoy wants it, but calls the cluster.
            uri: format!("http://{}", upstream.host.as_str()),
            timeout: Some(timeout),
            http_upstream_type: Some(HttpUpstreamType::Cluster(upstream.cluster.to_string())),
        }),
        authorization_request: (!added.is_empty()).then(|| AuthorizationRequest {
            headers_to_add: added,
            ..Default::default()
        }),
        authorization_response: (response != AuthorizationResponse::default()).then_some(response),
        ..Default::default()
    };
    Some((service, sent))
}

/// Names of headers; none at all where the list is empty. `None` where one is a lone `*`.
fn headers(list: &Value) -> Option<Option<ListStringMatcher>> {
    let names = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    let patterns = names.map(matchers::header_name).collect::<Option<Vec<_>>>()?;
    Some((!patterns.is_empty()).then_some(ListStringMatcher { patterns }))
}

fn timeout(config: &Value) -> Option<prost_types::Duration> {
    match config["timeout"].as_str() {
        Some(text) => text.parse().ok(),
        None => Some(TIMEOUT),
    }
}

/// The status that clients get when the authorizer cannot be reached; Envoy's own where none is set.
fn status(config: &Value) -> Option<Option<HttpStatus>> {
    match config["statusOnError"].as_str().filter(|text| !text.is_empty()) {
        Some(text) => {
            let code = StatusCode::try_from(text.parse::<i32>().ok()?).ok()?;
            Some(Some(HttpStatus { code: code.into() }))
        }
        None => Some(None),
    }
}

fn body(settings: &Value) -> Option<BufferSettings> {
    settings.is_object().then(|| BufferSettings {
        max_request_bytes: settings["maxRequestBytes"]
            .as_u64()
            .and_then(|size| u32::try_from(size).ok())
            .unwrap_or(0),
        allow_partial_message: settings["allowPartialMessage"].as_bool().unwrap_or_default(),
        pack_as_bytes: settings["packAsBytes"].as_bool().unwrap_or_default(),
    })
}

/// Asks only where a rule of this provider matched, which the filter of rules notes in its metadata.
fn enabled(rules: &str, name: &str) -> MetadataMatcher {
    let key = format!("{}shadow_effective_policy_id", filters::CUSTOM_METADATA);
    let prefix = format!("{}-{name}", filters::CUSTOM);
    matchers::metadata(rules, &[key], matchers::string_value(matchers::prefix(prefix)))
}
