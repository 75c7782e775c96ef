//! What a route does with requests.

use std::sync::Arc;

use lateen_api::networking::virtual_service as api;
use lateen_model::route::{
    Abort, AbortStatus, Cors, Delay, Fault, HeaderOps, Headers, HttpAction, Mirror, PathRewrite, Percent, Redirect,
    RedirectPort, Retries, Rewrite,
};

use super::Lowering;
use super::matching::text_match;
use crate::istio::report::{parts_per_million, positive, text, texts, time};

impl Lowering<'_> {
    /// Mirrors, the old single one first. An explicit share of 0 mirrors nothing; without a share, everything.
    pub(super) fn mirrors(&mut self, route: &api::HttpRoute, field: &str) -> Vec<Mirror> {
        let mut mirrors = Vec::new();
        if let Some(destination) = &route.mirror {
            let percent = match (&route.mirror_percentage, route.mirror_percent) {
                (Some(percent), _) => percentage(Some(percent)),
                (None, Some(percent)) => Percent(percent.min(100) * 10_000),
                (None, None) => Percent::ALL,
            };
            let destination = self.destination(Some(destination), &format!("{field}.mirror"));
            mirrors.extend(destination.map(|destination| Mirror { destination, percent }));
        }
        for (at, mirror) in route.mirrors.iter().enumerate() {
            let percent = mirror
                .percentage
                .as_ref()
                .map_or(Percent::ALL, |percent| percentage(Some(percent)));
            let field = format!("{field}.mirrors[{at}].destination");
            let destination = self.destination(mirror.destination.as_ref(), &field);
            mirrors.extend(destination.map(|destination| Mirror { destination, percent }));
        }
        mirrors.retain(|mirror| mirror.percent.0 > 0);
        mirrors
    }
}

fn percentage(from: Option<&api::Percent>) -> Percent {
    Percent(from.map_or(0, |percent| parts_per_million(percent.value)))
}

/// Header operations, and the authority that they set: Envoy changes `Host` only as a rewrite, pseudo headers not at all.
pub(super) fn headers(from: Option<&api::Headers>) -> (Headers, Option<Arc<str>>) {
    let request = from.and_then(|headers| headers.request.as_ref());
    let response = from.and_then(|headers| headers.response.as_ref());
    let authority = request.and_then(|operations| {
        // `set` is stronger than `add`.
        [&operations.set, &operations.add]
            .into_iter()
            .find_map(|map| map.iter().rfind(|(name, _)| is_authority(name)))
    });
    let authority = authority.and_then(|(_, value)| text(value));
    (
        Headers {
            request: operations(request),
            response: operations(response),
        },
        authority,
    )
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn operations(from: Option<&api::HeaderOperations>) -> HeaderOps {
    let Some(from) = from else { return HeaderOps::default() };
    let changeable = |name: &str| !name.starts_with(':') && !name.eq_ignore_ascii_case("host");
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        let pairs = map.iter().filter(|(name, _)| changeable(name));
        pairs
            .map(|(name, value)| (Arc::from(name.as_str()), Arc::from(value.as_str())))
            .collect()
    };
    HeaderOps {
        set: pairs(&from.set),
        add: pairs(&from.add),
        remove: from
            .remove
            .iter()
            .filter(|name| changeable(name))
            .map(|name| name.as_str().into())
            .collect(),
    }
}

pub(super) fn rewrite(from: Option<&api::HttpRewrite>) -> Rewrite {
    let Some(from) = from else { return Rewrite::default() };
    let path = match &from.uri_regex_rewrite {
        Some(regex) => Some(PathRewrite::Regex {
            pattern: regex.r#match.as_str().into(),
            substitution: regex.rewrite.as_str().into(),
        }),
        None => text(&from.uri).map(PathRewrite::Prefix),
    };
    Rewrite {
        path,
        authority: text(&from.authority),
    }
}

pub(super) fn redirect(from: &api::HttpRedirect) -> HttpAction {
    let port = from.redirect_port().and_then(|port| match port {
        api::RedirectPort::Port(number) => u16::try_from(number).ok().map(RedirectPort::Number),
        api::RedirectPort::DerivePort(api::RedirectPortSelection::FromRequestPort) => Some(RedirectPort::RequestPort),
        api::RedirectPort::DerivePort(_) => Some(RedirectPort::ProtocolDefault),
    });
    let status = match from.redirect_code {
        0 | 301 => 301,
        code @ (302 | 303 | 307 | 308) => code as u16,
        // Envoy knows no other redirects.
        _ => return HttpAction::Invalid { status: 500 },
    };
    HttpAction::Redirect(Redirect {
        path: text(&from.prefix_rewrite)
            .map(PathRewrite::Prefix)
            .or(text(&from.uri).map(PathRewrite::Full)),
        authority: text(&from.authority),
        port,
        scheme: text(&from.scheme),
        status,
    })
}

pub(super) fn direct_response(from: &api::HttpDirectResponse) -> HttpAction {
    let body = from
        .body
        .as_ref()
        .and_then(|body| body.specifier())
        .map(|body| match body {
            api::HttpBodySpecifier::String(text) => Arc::from(text.as_bytes()),
            api::HttpBodySpecifier::Bytes(bytes) => Arc::from(bytes),
        });
    match u16::try_from(from.status) {
        Ok(status @ 200..=599) => HttpAction::Direct { status, body },
        _ => HttpAction::Invalid { status: 500 },
    }
}

/// When and how a failed request is tried again, as routes and MeshConfig have it.
pub fn lower_retries(from: &api::HttpRetry) -> Retries {
    Retries {
        attempts: positive(from.attempts).unwrap_or(0),
        per_try_timeout: time(from.per_try_timeout),
        retry_on: text(&from.retry_on),
        remote_localities: from.retry_remote_localities,
        ignore_previous_hosts: from.retry_ignore_previous_hosts,
        backoff: time(from.backoff),
    }
}

/// Faults. Without a share, none are injected (the old integer share counts for delays).
pub(super) fn fault(from: &api::HttpFaultInjection) -> Option<Fault> {
    let delay = from.delay.as_ref().and_then(|delay| {
        let percent = match &delay.percentage {
            Some(percent) => percentage(Some(percent)),
            None => Percent(positive(delay.percent).unwrap_or(0).min(100) * 10_000),
        };
        Some(Delay {
            fixed: time(delay.fixed_delay)?,
            percent,
        })
    });
    let abort = from.abort.as_ref().and_then(|abort| {
        let status = match abort.error_type()? {
            api::HttpAbortType::HttpStatus(status) => AbortStatus::Http(u16::try_from(status).ok()?),
            api::HttpAbortType::GrpcStatus(name) => AbortStatus::Grpc(grpc_status(name)?),
            api::HttpAbortType::Http2Error(_) => return None,
        };
        Some(Abort {
            status,
            percent: percentage(abort.percentage.as_ref()),
        })
    });
    (delay.is_some() || abort.is_some()).then_some(Fault { delay, abort })
}

fn grpc_status(name: &str) -> Option<u32> {
    lateen_validate::GRPC_STATUS
        .iter()
        .position(|known| *known == name)
        .and_then(|at| u32::try_from(at).ok())
}

pub(super) fn cors(from: &api::CorsPolicy) -> Cors {
    let allow_origins = if from.allow_origins.is_empty() {
        texts(&from.allow_origin)
            .into_iter()
            .map(lateen_model::route::TextMatch::Exact)
            .collect()
    } else {
        from.allow_origins.iter().map(text_match).collect()
    };
    Cors {
        allow_origins,
        allow_methods: texts(&from.allow_methods),
        allow_headers: texts(&from.allow_headers),
        expose_headers: texts(&from.expose_headers),
        max_age: time(from.max_age),
        allow_credentials: from.allow_credentials,
        forward_unmatched_preflights: match from.unmatched_preflights {
            api::UnmatchedPreflights::Forward => Some(true),
            api::UnmatchedPreflights::Ignore => Some(false),
            _ => None,
        },
    }
}
