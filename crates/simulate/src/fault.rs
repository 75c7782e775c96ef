//! Injected faults, and cross-origin requests.

use lateen_proto::envoy::config::route::v3::route::Action;
use lateen_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use lateen_proto::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use lateen_proto::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use lateen_proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use lateen_proto::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;

use crate::exchange::{Chosen, Exchange, millis};
use crate::headers::HeaderChange;
use crate::matching::{fraction, header, runtime_fraction, text};
use crate::trace::{Delay, Outcome};

/// Applies faults: the outcome of the share that fails, and what is left of the request.
pub(crate) fn inject<'a>(
    fault: &HttpFault,
    chosen: Chosen<'a>,
    exchange: &mut Exchange<'a>,
) -> (Option<Outcome>, Vec<String>) {
    let mut notes = Vec::new();
    if !concerns(fault, chosen, exchange) {
        return (None, notes);
    }
    if let Some(delay) = &fault.delay {
        let share = delay.percentage.as_ref().map_or(0.0, fraction);
        let milliseconds = match &delay.fault_delay_secifier {
            Some(FaultDelaySecifier::FixedDelay(fixed)) => Some(millis(fixed)),
            Some(FaultDelaySecifier::HeaderDelay(_)) => exchange
                .headers
                .get("x-envoy-fault-delay-request")
                .and_then(|value| value.parse().ok()),
            None => None,
        };
        if let (Some(milliseconds), true) = (milliseconds, share > 0.0) {
            notes.push(format!("{} % wait for {milliseconds} ms", percent(share)));
            exchange.delay = Some(Delay { milliseconds, share });
        }
    }
    let Some(abort) = &fault.abort else {
        return (None, notes);
    };
    let share = abort.percentage.as_ref().map_or(0.0, fraction);
    let number = |name: &str| exchange.headers.get(name).and_then(|value| value.parse().ok());
    let (status, grpc) = match &abort.error_type {
        Some(ErrorType::HttpStatus(status)) => (u16::try_from(*status).unwrap_or(500), None),
        // Who does not speak gRPC gets no failure at all.
        Some(ErrorType::GrpcStatus(status)) => (200, Some(*status)),
        Some(ErrorType::HeaderAbort(_)) => {
            match (
                number("x-envoy-fault-abort-request"),
                number("x-envoy-fault-abort-grpc-request"),
            ) {
                (Some(status), _) => (u16::try_from(status).unwrap_or(500), None),
                (None, Some(status)) => (200, Some(status)),
                (None, None) => return (None, notes),
            }
        }
        None => return (None, notes),
    };
    if share <= 0.0 {
        return (None, notes);
    }
    notes.push(format!("{} % are answered {status}", percent(share)));
    let mut failed = exchange.clone();
    failed.share *= share;
    exchange.share *= 1.0 - share;
    let changes = failed.response_changes(chosen, None);
    let grpc = grpc.filter(|_| failed.is_grpc());
    let headers = grpc.map(|status| ("grpc-status".to_owned(), status.to_string()));
    let outcome = failed.answered(
        status,
        headers.into_iter().collect(),
        Some("fault filter abort".to_owned()),
        &changes,
        "an injected fault",
    );
    (Some(outcome), notes)
}

fn percent(share: f64) -> f64 {
    (share * 1_000_000.0).round() / 10_000.0
}

fn concerns(fault: &HttpFault, chosen: Chosen<'_>, exchange: &Exchange<'_>) -> bool {
    if !fault.upstream_cluster.is_empty() {
        let route = chosen.route().map(|(_, route)| route);
        let cluster = match route.and_then(|route| route.action.as_ref()) {
            Some(Action::Route(action)) => match &action.cluster_specifier {
                Some(ClusterSpecifier::Cluster(name)) => name.as_str(),
                _ => "",
            },
            _ => "",
        };
        if cluster != fault.upstream_cluster {
            return false;
        }
    }
    let nodes = &fault.downstream_nodes;
    let node = exchange.headers.get("x-envoy-downstream-service-node");
    (nodes.is_empty() || node.is_some_and(|node| nodes.contains(&node)))
        && fault.headers.iter().all(|wanted| header(wanted, &exchange.headers))
}

/// What the filter does with a request of another origin.
pub(crate) enum Cross {
    /// Nothing.
    Nothing,
    /// It goes on; answers are marked.
    Marked(String),
    /// It is a preflight request, which is answered.
    Answered(Vec<(String, String)>, String),
}

pub(crate) fn cross_origin(policy: &CorsPolicy, exchange: &mut Exchange<'_>) -> Cross {
    if policy
        .filter_enabled
        .as_ref()
        .is_some_and(|share| runtime_fraction(share) <= 0.0)
    {
        return Cross::Nothing;
    }
    let Some(origin) = exchange.headers.get("origin").filter(|origin| !origin.is_empty()) else {
        return Cross::Nothing;
    };
    let allowed = policy
        .allow_origin_string_match
        .iter()
        .any(|matcher| text(matcher, &origin));
    let preflight = exchange.method() == "OPTIONS"
        && exchange
            .headers
            .get("access-control-request-method")
            .is_some_and(|method| !method.is_empty());
    let kept = preflight && policy.forward_not_matching_preflights == Some(false);
    if !allowed && !kept {
        return Cross::Marked(format!("origin {origin} is not allowed: answers are not marked"));
    }
    let mut headers = Vec::new();
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            headers.push((name.to_owned(), value.to_owned()));
        }
    };
    if allowed {
        add("access-control-allow-origin", &origin);
        if policy.allow_credentials == Some(true) {
            add("access-control-allow-credentials", "true");
        }
    }
    if preflight {
        add("access-control-allow-methods", &policy.allow_methods);
        add("access-control-allow-headers", &policy.allow_headers);
        add("access-control-max-age", &policy.max_age);
    }
    if allowed {
        add("access-control-expose-headers", &policy.expose_headers);
    }
    if preflight {
        let not = if allowed { "" } else { " not" };
        return Cross::Answered(
            headers,
            format!("a preflight request is answered, origin {origin} is{not} allowed"),
        );
    }
    let changes = headers.into_iter().map(|(name, value)| HeaderChange::Set(name, value));
    exchange.response.extend(changes);
    Cross::Marked(format!("origin {origin} is allowed: answers are marked so"))
}
