//! What the router does with a request: answers, redirects, forwards.

use lateen_proto::envoy::config::core::v3::data_source::Specifier;
use lateen_proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use lateen_proto::envoy::config::route::v3::route::Action;
use lateen_proto::envoy::config::route::v3::route_action::hash_policy::PolicySpecifier;
use lateen_proto::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
};
use lateen_proto::envoy::config::route::v3::route_match::PathSpecifier;
use lateen_proto::envoy::config::route::v3::weighted_cluster::{ClusterWeight, cluster_weight};
use lateen_proto::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, RetryPolicy, Route, RouteAction, VirtualHost,
};

use crate::exchange::{Chosen, Exchange, millis};
use crate::headers::{HeaderChange, Headers, changes};
use crate::matching::{runtime_fraction, substitute};
use crate::path::without_query;
use crate::trace::{Forward, HttpForward, Mirror, Outcome, Retries, Verdict};
use crate::upstream;

/// Envoy's time-out where none is configured.
const DEFAULT_TIMEOUT: u64 = 15_000;

pub(crate) fn finish<'a>(exchange: Exchange<'a>, chosen: Chosen<'a>) -> Vec<Outcome> {
    let (host, route) = match chosen {
        Chosen::Route(host, route) => (host, route),
        Chosen::Tls(host) => {
            let location = format!("https://{}{}", exchange.authority(), exchange.path());
            let by = format!("virtual host {} wants TLS", host.name);
            return vec![exchange.answered(301, vec![("location".to_owned(), location)], None, &[], by)];
        }
        Chosen::Nothing => return vec![exchange.answered(404, Vec::new(), None, &[], "no route fits")],
    };
    match &route.action {
        Some(Action::DirectResponse(direct)) => {
            let changes = exchange.response_changes(chosen, None);
            let status = u16::try_from(direct.status).unwrap_or(500);
            // Envoy says where it is that was made or is to be found.
            let headers = match status {
                201 | 300..=399 => vec![(
                    "location".to_owned(),
                    location(&RedirectAction::default(), route, &exchange),
                )],
                _ => Vec::new(),
            };
            let by = "the route's direct response";
            vec![exchange.answered(status, headers, body(direct), &changes, by)]
        }
        Some(Action::Redirect(redirect)) => {
            let changes = exchange.response_changes(chosen, None);
            let status = match redirect.response_code() {
                RedirectResponseCode::MovedPermanently => 301,
                RedirectResponseCode::Found => 302,
                RedirectResponseCode::SeeOther => 303,
                RedirectResponseCode::TemporaryRedirect => 307,
                RedirectResponseCode::PermanentRedirect => 308,
            };
            let location = location(redirect, route, &exchange);
            let headers = vec![("location".to_owned(), location)];
            vec![exchange.answered(status, headers, None, &changes, "the route's redirect")]
        }
        Some(Action::Route(action)) => forwards(&exchange, host, route, action),
        Some(Action::FilterAction(_) | Action::NonForwardingAction(_)) | None => {
            vec![exchange.answered(404, Vec::new(), None, &[], "the route has no action of the router")]
        }
    }
}

fn body(direct: &DirectResponseAction) -> Option<String> {
    match direct.body.as_ref()?.specifier.as_ref()? {
        Specifier::InlineString(text) => Some(text.clone()),
        Specifier::InlineBytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Specifier::Filename(_) | Specifier::EnvironmentVariable(_) => None,
    }
}

fn location(redirect: &RedirectAction, route: &Route, exchange: &Exchange<'_>) -> String {
    let forwarded = exchange.headers.get("x-forwarded-proto").unwrap_or_default();
    let scheme = match &redirect.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => "https".to_owned(),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => scheme.clone(),
        _ => exchange.headers.get(":scheme").unwrap_or_else(|| forwarded.clone()),
    };
    let port = match redirect.port_redirect {
        0 => String::new(),
        port => format!(":{port}"),
    };
    let host = if redirect.host_redirect.is_empty() {
        kept_host(&exchange.authority(), &scheme, &forwarded, !port.is_empty())
    } else {
        redirect.host_redirect.clone()
    };
    let full = exchange.path();
    let query = full.split_once('?').map(|(_, query)| query);
    let asked = |path: &str| match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut path = match &redirect.path_rewrite_specifier {
        // A query of the redirect's own takes the place of the request's, and stays.
        Some(PathRewriteSpecifier::PathRedirect(path)) if path.contains('?') => {
            return format!("{scheme}://{host}{port}{path}");
        }
        Some(PathRewriteSpecifier::PathRedirect(path)) if !path.is_empty() => asked(path),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => replaced_prefix(route, &full, prefix),
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => asked(&substitute(rewrite, without_query(&full))),
        _ => full.clone(),
    };
    if redirect.strip_query {
        path = without_query(&path).to_owned();
    }
    format!("{scheme}://{host}{port}{path}")
}

/// The request's host for a redirect: a port that the new scheme or port makes wrong is left out.
fn kept_host(authority: &str, scheme: &str, forwarded: &str, new_port: bool) -> String {
    let end = if authority.starts_with('[') {
        authority.rfind("]:").map(|at| at + 1)
    } else {
        authority.rfind(':')
    };
    let Some(end) = end else {
        return authority.to_owned();
    };
    let port = &authority[end..];
    let default = (forwarded == "https" && port == ":443") || (forwarded == "http" && port == ":80");
    if new_port || (scheme != forwarded && default) {
        authority[..end].to_owned()
    } else {
        authority.to_owned()
    }
}

/// The path with query whose matched part is replaced.
fn replaced_prefix(route: &Route, full: &str, prefix: &str) -> String {
    let matched = match route
        .r#match
        .as_ref()
        .and_then(|matched| matched.path_specifier.as_ref())
    {
        Some(PathSpecifier::Prefix(text) | PathSpecifier::PathSeparatedPrefix(text)) => text.len(),
        Some(PathSpecifier::Path(_) | PathSpecifier::SafeRegex(_)) => without_query(full).len(),
        _ => 0,
    };
    format!("{prefix}{}", full.get(matched..).unwrap_or_default())
}

/// A cluster that the route may choose, with its share.
type Share<'a> = (String, f64, Option<&'a ClusterWeight>);

fn clusters<'a>(action: &'a RouteAction, exchange: &Exchange<'_>) -> Vec<Share<'a>> {
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![(name.clone(), 1.0, None)],
        Some(ClusterSpecifier::ClusterHeader(header)) => {
            vec![(exchange.headers.get(header).unwrap_or_default(), 1.0, None)]
        }
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let weight = |one: &ClusterWeight| f64::from(one.weight.unwrap_or_default());
            let total: f64 = weighted.clusters.iter().map(weight).sum();
            weighted
                .clusters
                .iter()
                .filter(|one| weight(one) > 0.0)
                .map(|one| {
                    let name = if one.name.is_empty() {
                        exchange.headers.get(&one.cluster_header).unwrap_or_default()
                    } else {
                        one.name.clone()
                    };
                    (name, weight(one) / total, Some(one))
                })
                .collect()
        }
        _ => vec![(String::new(), 1.0, None)],
    }
}

fn forwards(exchange: &Exchange<'_>, host: &VirtualHost, route: &Route, action: &RouteAction) -> Vec<Outcome> {
    let chosen = Chosen::Route(host, route);
    clusters(action, exchange)
        .into_iter()
        .map(|(cluster, share, weighted)| {
            let mut exchange = exchange.clone();
            exchange.share *= share;
            let changes = exchange.response_changes(chosen, weighted);
            let Some(found) = exchange.proxy.clusters.get(&cluster) else {
                let status = match action.cluster_not_found_response_code() {
                    ClusterNotFoundResponseCode::ServiceUnavailable => 503,
                    ClusterNotFoundResponseCode::NotFound => 404,
                    ClusterNotFoundResponseCode::InternalServerError => 500,
                };
                let by = format!("there is no cluster {cluster}");
                return exchange.answered(status, Vec::new(), None, &changes, by);
            };
            let mut upstream = upstream::describe(exchange.proxy, found, exchange.connection);
            if exchange
                .manager
                .http_filters
                .iter()
                .any(|filter| filter.name == upstream::ALPN)
            {
                upstream::offer(&mut upstream, found, exchange.version);
            }
            exchange.steps.push(upstream::step(&upstream, exchange.share));
            if upstream.is_empty() {
                let by = format!("no endpoint of the cluster {cluster} takes requests");
                return exchange.answered(503, Vec::new(), None, &changes, by);
            }
            let mut http = toward_upstream(&exchange, host, route, action, weighted);
            http.response = changes;
            http.response.extend(exchange.response.iter().cloned());
            Outcome {
                share: exchange.share,
                steps: exchange.steps,
                verdict: Verdict::Forwarded(Box::new(Forward {
                    cluster,
                    upstream: Some(upstream),
                    http: Some(http),
                    delay: exchange.delay,
                })),
            }
        })
        .collect()
}

fn toward_upstream(
    exchange: &Exchange<'_>,
    host: &VirtualHost,
    route: &Route,
    action: &RouteAction,
    weighted: Option<&ClusterWeight>,
) -> HttpForward {
    let mut headers = exchange.headers.clone();
    let request = mutate_request(&mut headers, exchange, host, route, weighted);
    if let Some(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(name)) =
        weighted.and_then(|one| one.host_rewrite_specifier.as_ref())
    {
        headers.set(":authority", name);
    }
    match &action.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(name)) => headers.set(":authority", name),
        Some(HostRewriteSpecifier::HostRewriteHeader(from)) => {
            if let Some(value) = headers.get(from).filter(|value| !value.is_empty()) {
                headers.set(":authority", &value);
            }
        }
        Some(HostRewriteSpecifier::HostRewritePathRegex(rewrite)) => {
            let path = headers.get(":path").unwrap_or_default();
            headers.set(":authority", &substitute(rewrite, without_query(&path)));
        }
        _ => {}
    }
    let path = headers.get(":path").unwrap_or_default();
    if !action.prefix_rewrite.is_empty() {
        headers.set(":path", &replaced_prefix(route, &path, &action.prefix_rewrite));
    } else if let Some(rewrite) = &action.regex_rewrite {
        let plain = without_query(&path);
        let rewritten = format!("{}{}", substitute(rewrite, plain), &path[plain.len()..]);
        headers.set(":path", &rewritten);
    }
    let authority = headers.get(":authority").unwrap_or_default();
    let timeout = match &action.timeout {
        None => Some(DEFAULT_TIMEOUT),
        Some(timeout) => Some(millis(timeout)).filter(|timeout| *timeout > 0),
    };
    let hedging = action.hedge_policy.as_ref().or(host.hedge_policy.as_ref());
    HttpForward {
        method: exchange.method(),
        path: headers.get(":path").unwrap_or_default(),
        headers: headers.plain(),
        request,
        response: Vec::new(),
        timeout,
        retries: action.retry_policy.as_ref().or(host.retry_policy.as_ref()).map(retries),
        hedging: hedging
            .filter(|policy| policy.hedge_on_per_try_timeout)
            .map(|_| "a try that takes too long goes on beside its retry".to_owned()),
        mirrors: mirrors(exchange, host, action, &authority),
        hash: action
            .hash_policy
            .iter()
            .filter_map(|policy| hash(policy.policy_specifier.as_ref()?))
            .collect(),
        authority,
    }
}

fn mutate_request(
    headers: &mut Headers,
    exchange: &Exchange<'_>,
    host: &VirtualHost,
    route: &Route,
    weighted: Option<&ClusterWeight>,
) -> Vec<HeaderChange> {
    let mut all = Vec::new();
    let mut places: Vec<(&[_], &[String])> = Vec::new();
    if let Some(one) = weighted {
        places.push((&one.request_headers_to_add, &one.request_headers_to_remove));
    }
    places.push((&route.request_headers_to_add, &route.request_headers_to_remove));
    places.push((&host.request_headers_to_add, &host.request_headers_to_remove));
    if let Some(table) = exchange.table {
        places.push((&table.request_headers_to_add, &table.request_headers_to_remove));
        if table.most_specific_header_mutations_wins {
            places.reverse();
        }
    }
    for (add, remove) in places {
        let made = changes(add, remove, headers);
        headers.apply(&made);
        all.extend(made);
    }
    all
}

fn retries(policy: &RetryPolicy) -> Retries {
    Retries {
        on: policy.retry_on.clone(),
        attempts: policy.num_retries.unwrap_or(1),
        per_try_timeout: policy
            .per_try_timeout
            .as_ref()
            .map(millis)
            .filter(|timeout| *timeout > 0),
        status_codes: policy.retriable_status_codes.clone(),
    }
}

fn mirrors(exchange: &Exchange<'_>, host: &VirtualHost, action: &RouteAction, authority: &str) -> Vec<Mirror> {
    let empty = Vec::new();
    let table = exchange.table.map_or(&empty, |table| &table.request_mirror_policies);
    let policies = [&action.request_mirror_policies, &host.request_mirror_policies, table]
        .into_iter()
        .find(|policies| !policies.is_empty());
    policies
        .into_iter()
        .flatten()
        .map(|policy| {
            let authority = if !policy.host_rewrite_literal.is_empty() {
                policy.host_rewrite_literal.clone()
            } else if policy.disable_shadow_host_suffix_append {
                authority.to_owned()
            } else {
                let host = crate::route::without_port(authority);
                format!("{host}-shadow{}", &authority[host.len()..])
            };
            Mirror {
                cluster: policy.cluster.clone(),
                share: policy.runtime_fraction.as_ref().map_or(1.0, runtime_fraction),
                authority,
            }
        })
        .collect()
}

fn hash(policy: &PolicySpecifier) -> Option<String> {
    Some(match policy {
        PolicySpecifier::Header(header) => format!("header {}", header.header_name),
        PolicySpecifier::Cookie(cookie) => format!("cookie {}", cookie.name),
        PolicySpecifier::ConnectionProperties(properties) if properties.source_ip => "the client's address".to_owned(),
        PolicySpecifier::QueryParameter(parameter) => format!("query parameter {}", parameter.name),
        PolicySpecifier::FilterState(state) => format!("filter state {}", state.key),
        PolicySpecifier::ConnectionProperties(_) => return None,
    })
}
