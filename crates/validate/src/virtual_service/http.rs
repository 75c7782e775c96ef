//! HTTP routes of VirtualServices.

use lateen_api::networking::virtual_service::{
    CorsPolicy, HeaderOperations, Headers, HttpAbortType, HttpBodySpecifier, HttpDelayType, HttpDirectResponse,
    HttpFaultInjection, HttpMatchRequest, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, StringMatchType,
};

use super::{destination, gateways, string_match, string_regex, weights};
use crate::{Findings, GRPC_STATUS, text};

/// Conditions of Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// Methods that a cross-origin policy may allow.
const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*",
];

pub(super) fn route(route: &HttpRoute, in_delegate: bool, field: &str, findings: &mut Findings) {
    action(route, in_delegate, field, findings);
    for (at, matched) in route.r#match.iter().enumerate() {
        http_match(matched, &format!("{field}.match[{at}]"), findings);
    }
    headers(route.headers.as_ref(), &format!("{field}.headers"), findings);
    if let Some(policy) = &route.cors_policy {
        cors(policy, &format!("{field}.corsPolicy"), findings);
    }
    if let Some(injection) = &route.fault {
        fault(injection, &format!("{field}.fault"), findings);
    }
    mirrors(route, field, findings);
    if let Some(to) = &route.redirect {
        redirect(to, route, &format!("{field}.redirect"), findings);
    }
    if let Some(response) = &route.direct_response {
        direct_response(response, &format!("{field}.directResponse"), findings);
    }
    if let Some(policy) = &route.retries {
        retries(policy, &format!("{field}.retries"), findings);
    }
    if let Some(change) = &route.rewrite {
        rewrite(change, &format!("{field}.rewrite"), findings);
    }
    authority_once(route, field, findings);
    for (at, to) in route.route.iter().enumerate() {
        let field = format!("{field}.route[{at}]");
        destination(to.destination.as_ref(), &format!("{field}.destination"), findings);
        headers(to.headers.as_ref(), &format!("{field}.headers"), findings);
    }
    weights(
        route.route.iter().map(|to| to.weight),
        &format!("{field}.route"),
        findings,
    );
    if let Some(timeout) = route.timeout {
        findings.check(format!("{field}.timeout"), text::duration(timeout));
    }
}

/// What answers the request: exactly one thing, and nothing that goes ill with it.
fn action(route: &HttpRoute, in_delegate: bool, field: &str, findings: &mut Findings) {
    let forwards = !route.route.is_empty();
    if route.delegate.is_some() && in_delegate {
        findings.error(format!("{field}.delegate"), "a delegate cannot delegate further");
    } else if route.delegate.is_some() {
        for (name, there) in [("redirect", route.redirect.is_some()), ("route", forwards)] {
            if there {
                findings.error(
                    format!("{field}.{name}"),
                    "the delegate says where requests go; remove the field",
                );
            }
        }
        return;
    }
    let (answer, conflicts) = if route.redirect.is_some() {
        (
            "redirect",
            [("route", forwards), ("directResponse", route.direct_response.is_some())],
        )
    } else if route.direct_response.is_some() {
        ("directResponse", [("route", forwards), ("redirect", false)])
    } else {
        if !forwards {
            findings.error(
                field,
                "the route leads nowhere; give `route`, `redirect` or `directResponse`",
            );
        }
        return;
    };
    let ill = [("fault", route.fault.is_some()), ("rewrite", route.rewrite.is_some())];
    for (name, _) in conflicts.into_iter().chain(ill).filter(|(_, there)| *there) {
        findings.error(
            format!("{field}.{name}"),
            format!("cannot stand beside `{answer}`; remove one of them"),
        );
    }
}

fn http_match(matched: &HttpMatchRequest, field: &str, findings: &mut Findings) {
    for (name, value) in &matched.headers {
        let field = format!("{field}.headers[{name}]");
        findings.check(&field, text::match_header(name));
        string_match(value, &field, findings);
    }
    for (name, value) in &matched.without_headers {
        let field = format!("{field}.withoutHeaders[{name}]");
        findings.check(&field, text::match_header(name));
        // `*` is no expression, but is taken for "there at all".
        if value.match_type() != Some(StringMatchType::Regex("*")) {
            string_match(value, &field, findings);
        }
    }
    if let Some(uri) = &matched.uri {
        string_regex(uri, &format!("{field}.uri"), findings);
    }
    for (name, value) in [
        ("scheme", &matched.scheme),
        ("method", &matched.method),
        ("authority", &matched.authority),
    ] {
        if let Some(value) = value {
            string_match(value, &format!("{field}.{name}"), findings);
        }
    }
    for (name, value) in &matched.query_params {
        string_match(value, &format!("{field}.queryParams[{name}]"), findings);
    }
    if matched.port != 0 {
        findings.check(format!("{field}.port"), text::port(matched.port.into()));
    }
    text::workload_labels(&matched.source_labels, &format!("{field}.sourceLabels"), findings);
    gateways(&matched.gateways, &format!("{field}.gateways"), findings);
    if !matched.source_namespace.is_empty() && !text::is_label(&matched.source_namespace) {
        findings.error(
            format!("{field}.sourceNamespace"),
            format!("`{}` is no namespace", matched.source_namespace),
        );
    }
}

fn headers(headers: Option<&Headers>, field: &str, findings: &mut Findings) {
    let Some(headers) = headers else { return };
    let mut operations =
        |operations: Option<&HeaderOperations>, field: String, changeable: fn(&str) -> Result<(), String>| {
            let Some(operations) = operations else { return };
            for (kind, map) in [("add", &operations.add), ("set", &operations.set)] {
                for (name, value) in map {
                    let field = format!("{field}.{kind}[{name}]");
                    findings.check(&field, changeable(name));
                    findings.check(field, text::header_value(value));
                }
            }
            for (at, name) in operations.remove.iter().enumerate() {
                findings.check(format!("{field}.remove[{at}]"), text::other_header(name));
            }
        };
    operations(
        headers.request.as_ref(),
        format!("{field}.request"),
        text::request_header,
    );
    operations(
        headers.response.as_ref(),
        format!("{field}.response"),
        text::other_header,
    );
}

/// The authority may be set in one place only.
fn authority_once(route: &HttpRoute, field: &str, findings: &mut Findings) {
    let rewrite = route
        .rewrite
        .iter()
        .map(|rewrite| rewrite.authority.as_str())
        .filter(|authority| !authority.is_empty());
    let request = route.headers.iter().filter_map(|headers| headers.request.as_ref());
    let headers = request.flat_map(|operations| operations.set.iter().chain(&operations.add));
    let headers = headers
        .filter(|(name, _)| text::is_authority_header(name))
        .map(|(_, value)| value.as_str());
    let all: Vec<&str> = rewrite.chain(headers).collect();
    if all.len() > 1 {
        findings.error(
            field,
            format!(
                "the authority is set more than once, to {}; keep one",
                all.join(" and ")
            ),
        );
    }
}

fn cors(policy: &CorsPolicy, field: &str, findings: &mut Findings) {
    for (at, origin) in policy.allow_origins.iter().enumerate() {
        let field = format!("{field}.allowOrigins[{at}]");
        match origin.match_type() {
            None | Some(StringMatchType::Exact("") | StringMatchType::Prefix("") | StringMatchType::Regex("")) => {
                findings.error(field, "the origin is empty");
            }
            _ => string_regex(origin, &field, findings),
        }
    }
    for (at, method) in policy.allow_methods.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            findings.error(
                format!("{field}.allowMethods[{at}]"),
                format!("`{method}` is no method; use {}", METHODS.join(", ")),
            );
        }
    }
    for (name, list) in [
        ("allowHeaders", &policy.allow_headers),
        ("exposeHeaders", &policy.expose_headers),
    ] {
        for (at, header) in list.iter().enumerate() {
            if header != "*" {
                findings.check(format!("{field}.{name}[{at}]"), text::header_name(header));
            }
        }
    }
    if let Some(age) = policy.max_age {
        let field = format!("{field}.maxAge");
        findings.check(&field, text::duration(age));
        if age.as_nanos() % 1_000_000_000 != 0 {
            findings.error(field, "only whole seconds are supported");
        }
    }
}

fn fault(fault: &HttpFaultInjection, field: &str, findings: &mut Findings) {
    if fault.delay.is_none() && fault.abort.is_none() {
        findings.error(field, "give `delay` or `abort`");
    }
    if let Some(abort) = &fault.abort {
        let field = format!("{field}.abort");
        if let Some(share) = &abort.percentage {
            findings.check(format!("{field}.percentage.value"), text::percentage(share.value));
        }
        match abort.error_type() {
            Some(HttpAbortType::HttpStatus(status)) => {
                findings.check(format!("{field}.httpStatus"), http_status(status.into()))
            }
            Some(HttpAbortType::GrpcStatus(name)) if !GRPC_STATUS.contains(&name) => {
                findings.error(
                    format!("{field}.grpcStatus"),
                    format!("`{name}` is no status; use one such as NOT_FOUND"),
                );
            }
            Some(HttpAbortType::GrpcStatus(_)) => {}
            Some(HttpAbortType::Http2Error(_)) => {
                findings.error(format!("{field}.http2Error"), "HTTP/2 errors are not supported")
            }
            None => findings.warning(field, "says not with which status; nothing is aborted"),
        }
    }
    if let Some(delay) = &fault.delay {
        let field = format!("{field}.delay");
        if let Some(share) = &delay.percentage {
            findings.check(format!("{field}.percentage.value"), text::percentage(share.value));
        }
        match delay.http_delay_type() {
            Some(HttpDelayType::FixedDelay(delay)) => {
                findings.check(format!("{field}.fixedDelay"), text::duration(delay))
            }
            Some(HttpDelayType::ExponentialDelay(_)) => {
                findings.error(
                    format!("{field}.exponentialDelay"),
                    "is not supported; use `fixedDelay`",
                );
            }
            None => {}
        }
    }
}

fn http_status(status: i64) -> Result<(), String> {
    if (200..=600).contains(&status) {
        Ok(())
    } else {
        Err(format!("{status} is no final status; use 200 to 599"))
    }
}

fn mirrors(route: &HttpRoute, field: &str, findings: &mut Findings) {
    if let Some(percent) = route.mirror_percent {
        if percent > 100 {
            findings.error(format!("{field}.mirrorPercent"), "the share must be 0 to 100");
        }
        findings.warning(
            format!("{field}.mirrorPercent"),
            "is deprecated; use `mirrorPercentage`",
        );
    }
    if let Some(share) = &route.mirror_percentage {
        mirror_share(share.value, &format!("{field}.mirrorPercentage"), findings);
    }
    if route.mirror.is_some() {
        destination(route.mirror.as_ref(), &format!("{field}.mirror"), findings);
        if !route.mirrors.is_empty() {
            findings.error(format!("{field}.mirror"), "cannot stand beside `mirrors`; put it there");
        }
    }
    for (at, mirror) in route.mirrors.iter().enumerate() {
        let field = format!("{field}.mirrors[{at}]");
        destination(mirror.destination.as_ref(), &format!("{field}.destination"), findings);
        if let Some(share) = &mirror.percentage {
            mirror_share(share.value, &format!("{field}.percentage"), findings);
        }
    }
}

fn mirror_share(share: f64, field: &str, findings: &mut Findings) {
    if !(0.0..=100.0).contains(&share) {
        findings.error(format!("{field}.value"), "the share must be 0 to 100");
    }
}

fn redirect(redirect: &HttpRedirect, route: &HttpRoute, field: &str, findings: &mut Findings) {
    if !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty() {
        findings.error(field, "set only one of `uri` and `prefixRewrite`");
    }
    let other_match = |matched: &HttpMatchRequest| {
        matched
            .uri
            .as_ref()
            .is_some_and(|uri| !matches!(uri.match_type(), Some(StringMatchType::Prefix(_))))
    };
    if !redirect.prefix_rewrite.is_empty() && route.r#match.iter().any(other_match) {
        findings.error(format!("{field}.prefixRewrite"), "needs matches of the path by prefix");
    }
    let texts = [
        &redirect.uri,
        &redirect.prefix_rewrite,
        &redirect.authority,
        &redirect.scheme,
    ];
    if texts.iter().all(|text| text.is_empty()) && redirect.redirect_port().is_none() {
        findings.error(
            field,
            "changes nothing; give `uri`, `prefixRewrite`, `authority`, `scheme` or a port",
        );
    }
    if redirect.redirect_code != 0 && !(300..=399).contains(&redirect.redirect_code) {
        findings.error(
            format!("{field}.redirectCode"),
            format!(
                "{} is no redirect; use 301, 302, 303, 307 or 308",
                redirect.redirect_code
            ),
        );
    }
    if !matches!(redirect.scheme.as_str(), "" | "http" | "https") {
        findings.error(
            format!("{field}.scheme"),
            format!("`{}` is neither http nor https", redirect.scheme),
        );
    }
    if let Some(port) = redirect.port.filter(|port| *port > 0) {
        findings.check(format!("{field}.port"), text::port(port.into()));
    }
}

fn direct_response(response: &HttpDirectResponse, field: &str, findings: &mut Findings) {
    findings.check(format!("{field}.status"), http_status(response.status.into()));
    let size = response
        .body
        .as_ref()
        .and_then(|body| body.specifier())
        .map_or(0, |body| match body {
            HttpBodySpecifier::String(text) => text.len(),
            HttpBodySpecifier::Bytes(bytes) => bytes.len(),
        });
    if size > 1024 * 1024 {
        findings.error(format!("{field}.body"), format!("has {size} bytes, 1 MiB is allowed"));
    } else if size > 100 * 1024 {
        findings.warning(
            format!("{field}.body"),
            format!("{size} bytes go to every proxy; serve large answers from a service"),
        );
    }
}

fn retries(retries: &HttpRetry, field: &str, findings: &mut Findings) {
    if retries.attempts < 0 {
        findings.error(format!("{field}.attempts"), "cannot be negative");
    }
    let more =
        retries.per_try_timeout.is_some() || !retries.retry_on.is_empty() || retries.retry_remote_localities.is_some();
    if retries.attempts == 0 && more {
        findings.error(
            format!("{field}.attempts"),
            "0 turns retries off, so that the other fields have no meaning; give a number or remove them",
        );
    }
    for (name, time) in [("perTryTimeout", retries.per_try_timeout), ("backoff", retries.backoff)] {
        if let Some(time) = time {
            findings.check(format!("{field}.{name}"), text::duration(time));
        }
    }
    if retries.retry_on.is_empty() {
        return;
    }
    for condition in retries.retry_on.split(',') {
        let status = condition
            .parse::<u16>()
            .is_ok_and(|status| (100..=511).contains(&status));
        if !status && !RETRY_ON.contains(&condition) {
            findings.error(
                format!("{field}.retryOn"),
                format!("`{condition}` is neither a condition that Envoy knows nor a status"),
            );
        }
    }
}

fn rewrite(rewrite: &HttpRewrite, field: &str, findings: &mut Findings) {
    let regex = rewrite.uri_regex_rewrite.as_ref();
    if !rewrite.uri.is_empty() && regex.is_some() {
        findings.error(field, "set only one of `uri` and `uriRegexRewrite`");
    }
    if rewrite.uri.is_empty() && rewrite.authority.is_empty() && regex.is_none() {
        findings.error(field, "changes nothing; give `uri`, `uriRegexRewrite` or `authority`");
    }
    if let Some(regex) = regex {
        let field = format!("{field}.uriRegexRewrite");
        if regex.r#match.is_empty() || regex.rewrite.is_empty() {
            findings.error(&field, "give both `match` and `rewrite`");
        }
        findings.check(format!("{field}.match"), text::regex(&regex.r#match));
    }
}
