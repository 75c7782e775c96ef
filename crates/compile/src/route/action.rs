//! What a route does: forwarding with retries, mirrors and hashes, redirects, fixed answers, faults, cross-origin rules.

use std::sync::Arc;
use std::time::Duration;

use lateen_model::destination::HashKey;
use lateen_model::mesh::Mesh;
use lateen_model::route::{
    AbortStatus, Cors, Fault, HeaderOps, Headers, HttpAction, HttpRoute, PathRewrite, Percent, Redirect, RedirectPort,
    Retries, Semantics, WeightedDestination,
};
use lateen_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use lateen_proto::envoy::config::core::v3::{DataSource, HeaderValue, HeaderValueOption, data_source};
use lateen_proto::envoy::config::route::v3 as pb;
use lateen_proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use lateen_proto::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
};
use lateen_proto::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HashPolicy, HostRewriteSpecifier, RequestMirrorPolicy, hash_policy,
};
use lateen_proto::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use lateen_proto::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier};
use lateen_proto::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use lateen_proto::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType};
use lateen_proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use lateen_proto::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use lateen_proto::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use lateen_proto::{Any, any};

use super::matching;
use super::select::{HashKeyOf, RouteSource};

/// Istio's default conditions for a retry.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
/// Istio's default number of retries.
const RETRIES: u32 = 2;
/// How often Envoy looks for a host that was not tried yet.
const HOST_SELECTION_ATTEMPTS: i64 = 5;

pub(super) fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
    }
}

/// The action of a plain route to one cluster, with the mesh's default retries.
pub(super) fn to_cluster(cluster: &str, hash: Option<&HashKeyOf>, mesh: &Mesh) -> pb::RouteAction {
    pb::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        retry_policy: retry_policy(mesh.default_retries.as_ref(), hash.is_some()),
        hash_policy: hash.map(hash_policy).into_iter().collect(),
        ..without_timeout(None)
    }
}

/// Envoy's own time-out of 15 s never applies; gRPC's header may not lengthen ours.
#[allow(deprecated)]
pub(super) fn without_timeout(timeout: Option<Duration>) -> pb::RouteAction {
    let timeout = duration(timeout.unwrap_or_default());
    pb::RouteAction {
        timeout: Some(timeout),
        max_grpc_timeout: Some(timeout),
        ..Default::default()
    }
}

/// The action of a route of a VirtualService, and the filters that it configures.
pub(super) fn apply(route: &HttpRoute, source: &RouteSource, mesh: &Mesh, out: &mut pb::Route) {
    headers(&route.headers, out);
    match &route.action {
        HttpAction::Redirect(redirect) => {
            out.action = Some(pb::route::Action::Redirect(self::redirect(
                redirect,
                source.port,
                &out.r#match,
            )))
        }
        HttpAction::Direct { status, body } => out.action = Some(direct(*status, body.as_deref())),
        HttpAction::Invalid { status } => out.action = Some(direct(*status, None)),
        HttpAction::Forward(to) => out.action = Some(forward(route, to, source, mesh, &out.r#match)),
    }
    if let Some(fault) = &route.fault {
        out.typed_per_filter_config
            .insert("envoy.filters.http.fault".to_owned(), self::fault(fault));
    }
    if let Some(cors) = &route.cors {
        out.typed_per_filter_config
            .insert("envoy.filters.http.cors".to_owned(), self::cors(cors));
    }
}

fn forward(
    route: &HttpRoute,
    to: &[WeightedDestination],
    source: &RouteSource,
    mesh: &Mesh,
    matched: &Option<pb::RouteMatch>,
) -> pb::route::Action {
    let used: Vec<&WeightedDestination> = match to {
        [only] => vec![only],
        many => many.iter().filter(|one| one.weight > 0).collect(),
    };
    if used.iter().all(|one| one.destination.is_none()) {
        return direct(500, None);
    }
    let mut action = without_timeout(route.timeout);
    let hashes: Vec<&HashKeyOf> = used
        .iter()
        .filter_map(|one| one.destination.as_ref())
        .filter_map(|destination| source.destinations.get(destination)?.hash.as_ref())
        .collect();
    if source.service.semantics == Semantics::GatewayApi {
        action.cluster_not_found_response_code = ClusterNotFoundResponseCode::InternalServerError.into();
    }
    action.retry_policy = retry_policy(
        route.retries.as_ref().or(mesh.default_retries.as_ref()),
        !hashes.is_empty(),
    );
    action.hash_policy = hashes.first().map(|key| hash_policy(key)).into_iter().collect();
    rewrite(route, matched, &mut action);
    action.request_mirror_policies = route
        .mirrors
        .iter()
        .filter(|mirror| mirror.percent.0 > 0)
        .filter_map(|mirror| {
            let cluster = source.destinations.get(&mirror.destination)?.cluster.to_string();
            let runtime_fraction = Some(matching::runtime_fraction(mirror.percent));
            Some(RequestMirrorPolicy {
                cluster,
                runtime_fraction,
                trace_sampled: Some(false),
                ..Default::default()
            })
        })
        .collect();
    let cluster = |one: &WeightedDestination| {
        let resolved = one
            .destination
            .as_ref()
            .and_then(|destination| source.destinations.get(destination));
        resolved.map_or_else(
            || "BlackHoleCluster".to_owned(),
            |resolved| resolved.cluster.to_string(),
        )
    };
    action.cluster_specifier = Some(match used[..] {
        [only] if only.headers == Headers::default() && only.authority.is_none() => {
            ClusterSpecifier::Cluster(cluster(only))
        }
        _ => ClusterSpecifier::WeightedClusters(pb::WeightedCluster {
            clusters: used
                .iter()
                .map(|one| weighted(one, cluster(one), used.len() == 1))
                .collect(),
            ..Default::default()
        }),
    });
    pb::route::Action::Route(action)
}

fn weighted(one: &WeightedDestination, cluster: String, alone: bool) -> ClusterWeight {
    let weight = if alone && one.weight == 0 { 1 } else { one.weight };
    let host = one.authority.as_ref();
    ClusterWeight {
        name: cluster,
        weight: Some(weight),
        request_headers_to_add: to_add(&one.headers.request),
        request_headers_to_remove: to_remove(&one.headers.request),
        response_headers_to_add: to_add(&one.headers.response),
        response_headers_to_remove: to_remove(&one.headers.response),
        host_rewrite_specifier: host.map(|host| {
            pb::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host.to_string())
        }),
        ..Default::default()
    }
}

fn rewrite(route: &HttpRoute, matched: &Option<pb::RouteMatch>, action: &mut pb::RouteAction) {
    use pb::route_match::PathSpecifier;
    let specifier = matched.as_ref().and_then(|matched| matched.path_specifier.as_ref());
    match &route.rewrite.path {
        None => {}
        Some(PathRewrite::Prefix(prefix)) => match specifier {
            // A prefix rewrite of `/a` to `/` would leave `//b` of `/a/b`.
            Some(PathSpecifier::PathSeparatedPrefix(from)) if &**prefix == "/" => {
                action.regex_rewrite = Some(RegexMatchAndSubstitute {
                    pattern: Some(matching::regex(&format!("^{}(/?)(.*)", escape(from)))),
                    substitution: "/\\2".to_owned(),
                });
            }
            Some(PathSpecifier::SafeRegex(_)) => {
                action.regex_rewrite = Some(RegexMatchAndSubstitute {
                    pattern: Some(matching::regex(".*")),
                    substitution: prefix.to_string(),
                });
            }
            _ => action.prefix_rewrite = prefix.to_string(),
        },
        Some(PathRewrite::Full(path)) => {
            action.regex_rewrite = Some(RegexMatchAndSubstitute {
                pattern: Some(matching::regex("/.*")),
                substitution: path.to_string(),
            });
        }
        Some(PathRewrite::Regex { pattern, substitution }) => {
            action.regex_rewrite = Some(RegexMatchAndSubstitute {
                pattern: Some(matching::regex(pattern)),
                substitution: substitution.to_string(),
            });
        }
    }
    if let Some(authority) = &route.rewrite.authority {
        action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(authority.to_string()));
    }
}

fn escape(text: &str) -> String {
    regex::escape(text)
}

fn direct(status: u16, body: Option<&[u8]>) -> pb::route::Action {
    let body = body.map(|bytes| DataSource {
        specifier: Some(match std::str::from_utf8(bytes) {
            Ok(text) => data_source::Specifier::InlineString(text.to_owned()),
            Err(_) => data_source::Specifier::InlineBytes(bytes::Bytes::copy_from_slice(bytes)),
        }),
        ..Default::default()
    });
    pb::route::Action::DirectResponse(pb::DirectResponseAction {
        status: status.into(),
        body,
        ..Default::default()
    })
}

/// `at` is the port at which requests come: Envoy cannot derive it, but each table of routes is for one.
fn redirect(redirect: &Redirect, at: u16, matched: &Option<pb::RouteMatch>) -> pb::RedirectAction {
    let code = match redirect.status {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    let path = redirect.path.as_ref().map(|path| match path {
        PathRewrite::Full(path) => PathRewriteSpecifier::PathRedirect(path.to_string()),
        PathRewrite::Prefix(prefix) => match matched.as_ref().and_then(|matched| matched.path_specifier.as_ref()) {
            Some(pb::route_match::PathSpecifier::PathSeparatedPrefix(from)) if &**prefix == "/" => {
                PathRewriteSpecifier::RegexRewrite(RegexMatchAndSubstitute {
                    pattern: Some(matching::regex(&format!("^{}(/?)(.*)", escape(from)))),
                    substitution: "/\\2".to_owned(),
                })
            }
            _ => PathRewriteSpecifier::PrefixRewrite(prefix.to_string()),
        },
        PathRewrite::Regex { pattern, substitution } => PathRewriteSpecifier::RegexRewrite(RegexMatchAndSubstitute {
            pattern: Some(matching::regex(pattern)),
            substitution: substitution.to_string(),
        }),
    });
    let port = match redirect.port {
        Some(RedirectPort::Number(port)) => port,
        Some(RedirectPort::RequestPort) => at,
        Some(RedirectPort::ProtocolDefault) | None => 0,
    };
    // A scheme's own port is left out; 80 and 443 tell the scheme where the redirect keeps that of the request.
    let own = match redirect.scheme.as_deref() {
        Some("https") => port == 443,
        Some("http") => port == 80,
        _ => matches!(port, 80 | 443),
    };
    let port = if own { 0 } else { u32::from(port) };
    // The scheme's default port is what Envoy leaves out when the scheme is rewritten; naming the scheme asks for that.
    let scheme = redirect
        .scheme
        .as_ref()
        .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_string()));
    pb::RedirectAction {
        host_redirect: redirect.authority.as_ref().map(ToString::to_string).unwrap_or_default(),
        port_redirect: port,
        response_code: code.into(),
        scheme_rewrite_specifier: scheme,
        path_rewrite_specifier: path,
        ..Default::default()
    }
}

fn headers(headers: &Headers, out: &mut pb::Route) {
    out.request_headers_to_add = to_add(&headers.request);
    out.request_headers_to_remove = to_remove(&headers.request);
    out.response_headers_to_add = to_add(&headers.response);
    out.response_headers_to_remove = to_remove(&headers.response);
}

fn to_add(ops: &HeaderOps) -> Vec<HeaderValueOption> {
    let option = |(name, value): &(Arc<str>, Arc<str>), action: HeaderAppendAction| HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_string(),
            value: value.to_string(),
            ..Default::default()
        }),
        append_action: action.into(),
        ..Default::default()
    };
    let set = ops
        .set
        .iter()
        .map(|pair| option(pair, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = ops
        .add
        .iter()
        .map(|pair| option(pair, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

fn to_remove(ops: &HeaderOps) -> Vec<String> {
    ops.remove.iter().map(ToString::to_string).collect()
}

/// Istio's retry policy: its defaults where the user says nothing, none where the user says zero attempts.
pub(super) fn retry_policy(retries: Option<&Retries>, hashed: bool) -> Option<pb::RetryPolicy> {
    let mut policy = pb::RetryPolicy {
        retry_on: RETRY_ON.to_owned(),
        num_retries: Some(RETRIES),
        host_selection_retry_max_attempts: HOST_SELECTION_ATTEMPTS,
        ..Default::default()
    };
    let mut avoid_tried = !hashed;
    if let Some(retries) = retries {
        if retries.attempts == 0 {
            return None;
        }
        policy.num_retries = Some(retries.attempts);
        if let Some(on) = &retries.retry_on {
            (policy.retry_on, policy.retriable_status_codes) = conditions(on);
        }
        policy.per_try_timeout = retries.per_try_timeout.map(duration);
        if let Some(base) = retries.backoff {
            policy.retry_back_off = Some(RetryBackOff {
                base_interval: Some(duration(base)),
                ..Default::default()
            });
        }
        if retries.remote_localities == Some(true) {
            policy.retry_priority = Some(RetryPriority {
                name: "envoy.retry_priorities.previous_priorities".to_owned(),
                config_type: Some(retry_priority::ConfigType::TypedConfig(any(
                    &PreviousPrioritiesConfig { update_frequency: 2 },
                ))),
            });
        }
        if let Some(ignore) = retries.ignore_previous_hosts {
            avoid_tried = ignore;
        }
    }
    if avoid_tried {
        policy.retry_host_predicate = vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(
                &PreviousHostsPredicate::default(),
            ))),
        }];
    }
    Some(policy)
}

/// Splits a list of conditions into Envoy's names and status codes; codes need a condition of their own.
fn conditions(on: &str) -> (String, Vec<u32>) {
    let mut names = Vec::new();
    let mut codes = Vec::new();
    for part in on.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.parse::<u32>() {
            Ok(code) if (100..600).contains(&code) => codes.push(code),
            _ => names.push(part),
        }
    }
    if !codes.is_empty() && !names.contains(&"retriable-status-codes") {
        names.push("retriable-status-codes");
    }
    (names.join(","), codes)
}

pub(super) fn hash_policy(key: &HashKeyOf) -> HashPolicy {
    use hash_policy::{ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter};
    let specifier = match &key.0 {
        HashKey::Header(name) => PolicySpecifier::Header(Header {
            header_name: name.to_string(),
            ..Default::default()
        }),
        HashKey::Cookie {
            name,
            path,
            ttl,
            attributes,
        } => PolicySpecifier::Cookie(Cookie {
            name: name.to_string(),
            path: path.as_ref().map(ToString::to_string).unwrap_or_default(),
            ttl: ttl.map(duration),
            attributes: attributes
                .iter()
                .map(|(name, value)| CookieAttribute {
                    name: name.to_string(),
                    value: value.to_string(),
                })
                .collect(),
        }),
        HashKey::SourceIp => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
        HashKey::Query(name) => PolicySpecifier::QueryParameter(QueryParameter { name: name.to_string() }),
    };
    HashPolicy {
        policy_specifier: Some(specifier),
        ..Default::default()
    }
}

fn fault(fault: &Fault) -> Any {
    let delay = fault.delay.as_ref().map(|delay| FaultDelay {
        percentage: Some(matching::fraction(delay.percent)),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(delay.fixed))),
    });
    let abort = fault.abort.as_ref().map(|abort| FaultAbort {
        percentage: Some(matching::fraction(abort.percent)),
        error_type: Some(match abort.status {
            AbortStatus::Http(status) => ErrorType::HttpStatus(status.into()),
            AbortStatus::Grpc(status) => ErrorType::GrpcStatus(status),
        }),
        ..Default::default()
    });
    any(&HttpFault {
        delay,
        abort,
        ..Default::default()
    })
}

fn cors(cors: &Cors) -> Any {
    let joined = |list: &[Arc<str>]| list.join(",");
    any(&CorsPolicy {
        allow_origin_string_match: cors
            .allow_origins
            .iter()
            .map(|origin| matching::text(origin, false))
            .collect(),
        allow_methods: joined(&cors.allow_methods),
        allow_headers: joined(&cors.allow_headers),
        expose_headers: joined(&cors.expose_headers),
        max_age: cors.max_age.map(|age| age.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: cors.allow_credentials,
        filter_enabled: Some(matching::runtime_fraction(Percent::ALL)),
        forward_not_matching_preflights: cors.forward_unmatched_preflights,
        ..Default::default()
    })
}
