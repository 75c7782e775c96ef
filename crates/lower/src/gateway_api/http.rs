//! HTTPRoute and GRPCRoute.
//!
//! Every match of every rule becomes a route of its own: the Gateway API orders matches, not rules, and over all routes
//! that are attached to the same listener for the same host.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::gateway_api::{self as api, GrpcRouteFilterType, HttpRouteFilterType, MatchType, PathMatchType};
use lateen_model::route::{
    Headers, HttpAction, HttpMatch, HttpRoute, NamedMatch, PathMatch, Retries, Rewrite, TextMatch, WeightedDestination,
};

use super::Conversion;
use super::backends::Referrer;
use super::filters;
use crate::istio::report::time;

/// When a request is tried again although no status was named: nothing has reached the application then.
const CONNECTION_ERRORS: [&str; 4] = ["connect-failure", "refused-stream", "unavailable", "cancelled"];

/// Istio's reason for a filter that cannot be had.
const INVALID_FILTER: &str = "InvalidFilter";

/// A filter of either kind of route.
enum Filter<'f> {
    Request(&'f api::HeaderModifier),
    Response(&'f api::HeaderModifier),
    Redirect(&'f api::RequestRedirect),
    Mirror(&'f api::RequestMirror),
    Rewrite(&'f api::UrlRewrite),
    Cors(&'f api::Cors),
}

/// What the filters of a rule come to.
#[derive(Default)]
struct Effects {
    headers: Headers,
    rewrite: Rewrite,
    redirect: Option<lateen_model::route::Redirect>,
    mirrors: Vec<lateen_model::route::Mirror>,
    cors: Option<lateen_model::route::Cors>,
}

impl Conversion<'_> {
    /// The routes of an HTTPRoute; none where one of its rules is not valid.
    pub(super) fn http_routes(&mut self, from: Referrer<'_>, spec: &api::HttpRouteSpec) -> Vec<HttpRoute> {
        let mut routes = Vec::new();
        for (at, rule) in spec.rules.iter().enumerate() {
            let field = format!("spec.rules[{at}]");
            let Ok(template) = self.http_rule(from, rule, at, &field) else {
                return Vec::new();
            };
            let matches: Vec<HttpMatch> = rule.matches.iter().map(http_match).collect();
            routes.extend(split(template, matches));
        }
        routes
    }

    /// The routes of a GRPCRoute; none where one of its rules is not valid.
    pub(super) fn grpc_routes(&mut self, from: Referrer<'_>, spec: &api::GrpcRouteSpec) -> Vec<HttpRoute> {
        let mut routes = Vec::new();
        for (at, rule) in spec.rules.iter().enumerate() {
            let field = format!("spec.rules[{at}]");
            let Ok(template) = self.grpc_rule(from, rule, at, &field) else {
                return Vec::new();
            };
            let mut matches = Vec::with_capacity(rule.matches.len());
            for (index, matched) in rule.matches.iter().enumerate() {
                match grpc_match(matched) {
                    Ok(matched) => matches.push(matched),
                    Err(message) => {
                        let field = format!("{field}.matches[{index}].method");
                        self.unresolved(from, &field, "InvalidConfiguration", message);
                        return Vec::new();
                    }
                }
            }
            routes.extend(split(template, matches));
        }
        routes
    }

    fn http_rule(
        &mut self,
        from: Referrer<'_>,
        rule: &api::HttpRouteRule,
        at: usize,
        field: &str,
    ) -> Result<HttpRoute, ()> {
        let filters = self.http_filters(from, &rule.filters, field)?;
        let effects = self.effects(from, &filters, field)?;
        let retries = rule.retry.as_ref().map(retries);
        let timeouts = rule.timeouts.as_ref();
        let whole = timeouts
            .and_then(|timeouts| time(timeouts.request))
            .filter(|time| !time.is_zero());
        let attempt = timeouts
            .and_then(|timeouts| time(timeouts.backend_request))
            .filter(|time| !time.is_zero());
        let (timeout, retries) = match retries {
            Some(retries) => (
                whole,
                Some(Retries {
                    per_try_timeout: attempt,
                    ..retries
                }),
            ),
            // Without retries there is one attempt, whose time-out is the tighter one.
            None => (attempt.or(whole), None),
        };
        let action = if let Some(redirect) = effects.redirect {
            HttpAction::Redirect(redirect)
        } else if Self::no_share(&rule.backend_refs) {
            HttpAction::Direct {
                status: 500,
                body: None,
            }
        } else {
            let mut destinations = Vec::new();
            for (index, mut destination) in self.destinations(from, &rule.backend_refs, field)? {
                let filters = &rule
                    .backend_refs
                    .get(index)
                    .map(|backend| backend.filters.as_slice())
                    .unwrap_or_default();
                let field = format!("{field}.backendRefs[{index}]");
                let filters = self.http_filters(from, filters, &field)?;
                self.backend_filters(from, &filters, &field, &mut destination)?;
                destinations.push(destination);
            }
            HttpAction::Forward(destinations)
        };
        Ok(HttpRoute {
            grpc: false,
            name: Some(route_name(from, rule.name.as_deref(), at)),
            field: origin(from, field),
            matches: Vec::new(),
            action,
            rewrite: effects.rewrite,
            headers: effects.headers,
            timeout,
            retries,
            fault: None,
            mirrors: effects.mirrors,
            cors: effects.cors,
        })
    }

    fn grpc_rule(
        &mut self,
        from: Referrer<'_>,
        rule: &api::GrpcRouteRule,
        at: usize,
        field: &str,
    ) -> Result<HttpRoute, ()> {
        let filters = self.grpc_filters(from, &rule.filters, field)?;
        let effects = self.effects(from, &filters, field)?;
        let action = if Self::no_share(&rule.backend_refs) {
            HttpAction::Direct {
                status: 500,
                body: None,
            }
        } else {
            let mut destinations = Vec::new();
            for (index, mut destination) in self.destinations(from, &rule.backend_refs, field)? {
                let filters = &rule
                    .backend_refs
                    .get(index)
                    .map(|backend| backend.filters.as_slice())
                    .unwrap_or_default();
                let field = format!("{field}.backendRefs[{index}]");
                let filters = self.grpc_filters(from, filters, &field)?;
                self.backend_filters(from, &filters, &field, &mut destination)?;
                destinations.push(destination);
            }
            HttpAction::Forward(destinations)
        };
        Ok(HttpRoute {
            grpc: true,
            name: Some(route_name(from, rule.name.as_deref(), at)),
            field: origin(from, field),
            matches: Vec::new(),
            action,
            rewrite: effects.rewrite,
            headers: effects.headers,
            timeout: None,
            retries: None,
            fault: None,
            mirrors: effects.mirrors,
            cors: None,
        })
    }

    fn http_filters<'f>(
        &mut self,
        from: Referrer<'_>,
        filters: &'f [api::HttpRouteFilter],
        field: &str,
    ) -> Result<Vec<Filter<'f>>, ()> {
        let mut list = Vec::with_capacity(filters.len());
        for (at, filter) in filters.iter().enumerate() {
            list.extend(match filter.r#type {
                HttpRouteFilterType::RequestHeaderModifier => {
                    filter.request_header_modifier.as_ref().map(Filter::Request)
                }
                HttpRouteFilterType::ResponseHeaderModifier => {
                    filter.response_header_modifier.as_ref().map(Filter::Response)
                }
                HttpRouteFilterType::RequestRedirect => filter.request_redirect.as_ref().map(Filter::Redirect),
                HttpRouteFilterType::RequestMirror => filter.request_mirror.as_ref().map(Filter::Mirror),
                HttpRouteFilterType::UrlRewrite => filter.url_rewrite.as_ref().map(Filter::Rewrite),
                HttpRouteFilterType::Cors => filter.cors.as_ref().map(Filter::Cors),
                HttpRouteFilterType::ExternalAuth | HttpRouteFilterType::ExtensionRef => {
                    let message = "filters of this type are not supported; the whole route has no effect";
                    self.unresolved(from, &format!("{field}.filters[{at}].type"), INVALID_FILTER, message);
                    return Err(());
                }
            });
        }
        Ok(list)
    }

    fn grpc_filters<'f>(
        &mut self,
        from: Referrer<'_>,
        filters: &'f [api::GrpcRouteFilter],
        field: &str,
    ) -> Result<Vec<Filter<'f>>, ()> {
        let mut list = Vec::with_capacity(filters.len());
        for (at, filter) in filters.iter().enumerate() {
            list.extend(match filter.r#type {
                GrpcRouteFilterType::RequestHeaderModifier => {
                    filter.request_header_modifier.as_ref().map(Filter::Request)
                }
                GrpcRouteFilterType::ResponseHeaderModifier => {
                    filter.response_header_modifier.as_ref().map(Filter::Response)
                }
                GrpcRouteFilterType::RequestMirror => filter.request_mirror.as_ref().map(Filter::Mirror),
                GrpcRouteFilterType::ExtensionRef => {
                    let message = "filters of this type are not supported; the whole route has no effect";
                    self.unresolved(from, &format!("{field}.filters[{at}].type"), INVALID_FILTER, message);
                    return Err(());
                }
            });
        }
        Ok(list)
    }

    fn effects(&mut self, from: Referrer<'_>, filters: &[Filter<'_>], field: &str) -> Result<Effects, ()> {
        let mut effects = Effects::default();
        let mut authority = None;
        for (at, filter) in filters.iter().enumerate() {
            let field = format!("{field}.filters[{at}]");
            match filter {
                Filter::Request(modifier) => {
                    (effects.headers.request, authority) = self.modifier(from, modifier, &field)?;
                }
                Filter::Response(modifier) => effects.headers.response = self.modifier(from, modifier, &field)?.0,
                Filter::Redirect(redirect) => effects.redirect = Some(filters::redirect(redirect)),
                Filter::Mirror(mirror) => effects.mirrors.extend(self.mirror(from, mirror, &field)),
                Filter::Rewrite(rewrite) => effects.rewrite = filters::rewrite(rewrite),
                Filter::Cors(cors) => effects.cors = Some(filters::cors(cors)),
            }
        }
        effects.rewrite.authority = effects.rewrite.authority.or(authority);
        Ok(effects)
    }

    /// Filters of one back end: headers only.
    fn backend_filters(
        &mut self,
        from: Referrer<'_>,
        filters: &[Filter<'_>],
        field: &str,
        destination: &mut WeightedDestination,
    ) -> Result<(), ()> {
        for (at, filter) in filters.iter().enumerate() {
            let field = format!("{field}.filters[{at}]");
            match filter {
                Filter::Request(modifier) => {
                    (destination.headers.request, destination.authority) = self.modifier(from, modifier, &field)?;
                }
                Filter::Response(modifier) => destination.headers.response = self.modifier(from, modifier, &field)?.0,
                _ => {
                    let message = "back ends can only have header modifiers; the whole route has no effect";
                    self.unresolved(from, &field, INVALID_FILTER, message);
                    return Err(());
                }
            }
        }
        Ok(())
    }

    fn modifier(
        &mut self,
        from: Referrer<'_>,
        modifier: &api::HeaderModifier,
        field: &str,
    ) -> Result<(lateen_model::route::HeaderOps, Option<Arc<str>>), ()> {
        filters::headers(modifier).map_err(|message| self.unresolved(from, field, INVALID_FILTER, message))
    }
}

/// The rule's name, or one that says where it stands.
fn route_name(from: Referrer<'_>, name: Option<&str>, at: usize) -> Arc<str> {
    match name {
        Some(name) => name.into(),
        None => format!("{}.{}.{at}", from.meta.namespace, from.meta.origin.key.name).into(),
    }
}

/// Which object a route came from, and where in it.
pub(super) fn origin(from: Referrer<'_>, field: &str) -> Arc<str> {
    format!("{} {field}", from.meta.origin).into()
}

/// One route per match; one for all requests without matches.
fn split(template: HttpRoute, matches: Vec<HttpMatch>) -> Vec<HttpRoute> {
    if matches.is_empty() {
        return vec![template];
    }
    matches
        .into_iter()
        .map(|matched| HttpRoute {
            matches: vec![matched],
            ..template.clone()
        })
        .collect()
}

fn retries(from: &api::HttpRouteRetry) -> Retries {
    let attempts = from.attempts.map_or(2, |attempts| u32::try_from(attempts).unwrap_or(0));
    let codes = from.codes.iter().map(ToString::to_string);
    let conditions: Vec<String> = CONNECTION_ERRORS
        .iter()
        .map(|name| (*name).to_owned())
        .chain(codes)
        .collect();
    Retries {
        attempts,
        per_try_timeout: None,
        retry_on: (attempts > 0).then(|| conditions.join(",").into()),
        remote_localities: None,
        ignore_previous_hosts: None,
        backoff: time(from.backoff),
    }
}

fn http_match(from: &api::HttpRouteMatch) -> HttpMatch {
    HttpMatch {
        path: Some(match from.path.r#type {
            PathMatchType::Exact => PathMatch::Exact(from.path.value.as_str().into()),
            PathMatchType::PathPrefix => path_prefix(&from.path.value),
            PathMatchType::RegularExpression => PathMatch::Regex(from.path.value.as_str().into()),
        }),
        method: from.method.as_deref().map(|method| TextMatch::Exact(method.into())),
        headers: named(&from.headers),
        query: named(&from.query_params),
        ..HttpMatch::default()
    }
}

/// A prefix of whole segments; a slash at its end says nothing.
pub(super) fn path_prefix(path: &str) -> PathMatch {
    match path.strip_suffix('/').unwrap_or(path) {
        "" => PathMatch::Prefix("/".into()),
        prefix => PathMatch::PathPrefix(prefix.into()),
    }
}

/// Conditions by name; of equal names the first counts.
fn named(from: &[api::HttpHeaderMatch]) -> Vec<NamedMatch> {
    let mut conditions = BTreeMap::new();
    for matched in from {
        let value = match matched.r#type {
            MatchType::Exact => TextMatch::Exact(matched.value.as_str().into()),
            MatchType::RegularExpression => TextMatch::Regex(matched.value.as_str().into()),
        };
        conditions.entry(matched.name.as_str()).or_insert(value);
    }
    conditions
        .into_iter()
        .map(|(name, value)| NamedMatch {
            name: name.into(),
            value,
        })
        .collect()
}

/// A call's path is `/<service>/<method>`.
fn grpc_match(from: &api::GrpcRouteMatch) -> Result<HttpMatch, &'static str> {
    let path = match &from.method {
        None => None,
        Some(matched) => {
            let exact = matched.r#type == MatchType::Exact;
            Some(match (matched.service.as_deref(), matched.method.as_deref()) {
                (None, None) => return Err("give `service` or `method`; the whole route has no effect"),
                (Some(service), None) if exact => path_prefix(&format!("/{service}/")),
                (Some(service), None) => PathMatch::Regex(format!("/{service}/.+").into()),
                (None, Some(method)) => PathMatch::Regex(format!("/[^/]+/{method}").into()),
                (Some(service), Some(method)) if exact => PathMatch::Exact(format!("/{service}/{method}").into()),
                (Some(service), Some(method)) => PathMatch::Regex(format!("/{service}/{method}").into()),
            })
        }
    };
    Ok(HttpMatch {
        path,
        headers: named(&from.headers),
        ..HttpMatch::default()
    })
}

/// Puts routes into the order of the Gateway API: exact paths, prefixes, expressions; longer ones first; then those
/// with a method, with more headers, with more query parameters. Equal ones stay in their order.
pub(super) fn sort(routes: &mut [HttpRoute]) {
    routes.sort_by_key(|route| {
        let Some(matched) = route.matches.first() else {
            return (true, Reverse((0, 0, false, 0, 0)));
        };
        let (rank, length) = match &matched.path {
            Some(PathMatch::Exact(path)) => (3, path.len()),
            Some(PathMatch::Prefix(path) | PathMatch::PathPrefix(path)) => (2, path.len()),
            Some(PathMatch::Regex(path)) => (1, path.len()),
            None => (0, 0),
        };
        (
            false,
            Reverse((
                rank,
                length,
                matched.method.is_some(),
                matched.headers.len(),
                matched.query.len(),
            )),
        )
    });
}
