//! The connection manager: from a request to the router, filter by filter.

use lateen_proto::Struct;
use lateen_proto::envoy::config::route::v3::{FilterConfig, RouteConfiguration};
use lateen_proto::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use lateen_proto::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use lateen_proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use lateen_proto::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication;
use lateen_proto::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    RouteSpecifier, StripPortMode,
};
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
};
use lateen_proto::{Value, value};

use crate::action;
use crate::exchange::{Chosen, Exchange};
use crate::fault::{self, Cross};
use crate::headers::Headers;
use crate::jwt::{self, Judged};
use crate::matching::{Metadata, metadata};
use crate::path::{Normalized, normalize};
use crate::proxy::Proxy;
use crate::rbac::{self, Decision, Facts};
use crate::request::{Connection, Http, Version};
use crate::route;
use crate::trace::{Kind, Outcome, Step};

/// Ends of type names of filters that neither judge requests nor change where they go.
const HARMLESS: &[&str] = &[
    "grpc_stats.v3.FilterConfig",
    "grpc_web.v3.GrpcWeb",
    "set_filter_state.v3.Config",
    "on_demand.v3.OnDemand",
    "http.dynamic_forward_proxy.v3.FilterConfig",
];

/// Follows a request; `steps` are those of the connection.
pub(crate) fn run(
    proxy: &Proxy,
    manager: &HttpConnectionManager,
    connection: &Connection,
    terminated: bool,
    request: &Http,
    mut steps: Vec<Step>,
) -> Vec<Outcome> {
    let (table, step) = table(proxy, manager);
    steps.push(step);
    let exchange = Exchange {
        proxy,
        connection,
        manager,
        table,
        version: request.version,
        headers: headers(manager, connection, terminated, request),
        metadata: Metadata::default(),
        response: Vec::new(),
        delay: None,
        steps,
        share: 1.0,
    };
    begin(exchange, request)
}

fn begin(mut exchange: Exchange<'_>, request: &Http) -> Vec<Outcome> {
    let path = &request.path;
    let options = exchange.manager.http_protocol_options.as_ref();
    if request.version == Version::Http10 && !options.is_some_and(|options| options.accept_http_10) {
        return vec![exchange.answered(426, Vec::new(), None, &[], "HTTP/1.0 is not accepted")];
    }
    match normalize(path, exchange.manager) {
        Normalized::Path(normal) => {
            if normal != *path
                && let Some(step) = exchange.steps.last_mut()
            {
                step.notes.push(format!("the path {path} is taken as {normal}"));
            }
            exchange.headers.set(":path", &normal);
        }
        Normalized::Redirect(to) => {
            let headers = vec![("location".to_owned(), to)];
            return vec![exchange.answered(307, headers, None, &[], "the path has escaped slashes")];
        }
        Normalized::Invalid(why) => return vec![exchange.answered(400, Vec::new(), None, &[], why)],
    }
    let mut outcomes = Vec::new();
    routed(exchange, 0, &mut outcomes);
    outcomes
}

fn table<'a>(proxy: &'a Proxy, manager: &'a HttpConnectionManager) -> (Option<&'a RouteConfiguration>, Step) {
    let named = |name: &str| {
        let found = proxy.tables.get(name);
        let why = match found {
            Some(_) => "the connection manager names it",
            None => "the connection manager names it, but it is not there: every request is answered 404",
        };
        (found, Step::new(Kind::RouteTable, name, why))
    };
    match &manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => named(&rds.route_config_name),
        Some(RouteSpecifier::RouteConfig(table)) => {
            let why = "it is part of the connection manager";
            (Some(table), Step::new(Kind::RouteTable, &table.name, why))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            let step = Step::new(Kind::RouteTable, "none", "scoped routes are not simulated");
            (None, step)
        }
        None => (
            None,
            Step::new(Kind::RouteTable, "none", "the connection manager has no routes"),
        ),
    }
}

/// The request's headers as filters see them.
fn headers(manager: &HttpConnectionManager, connection: &Connection, terminated: bool, request: &Http) -> Headers {
    let mut all = Headers::new([
        (":method".to_owned(), request.method.clone()),
        (
            ":authority".to_owned(),
            authority(manager, connection, &request.authority),
        ),
        (":path".to_owned(), request.path.clone()),
    ]);
    // Later values of one name stay values of their own.
    let rest = request.headers.iter().filter(|(name, _)| !name.starts_with(':'));
    for (name, value) in rest {
        all.apply(&[crate::headers::HeaderChange::Append(name.clone(), value.clone())]);
    }
    if manager.use_remote_address.unwrap_or_default() && !manager.skip_xff_append {
        let own = connection
            .source
            .map_or_else(|| "unknown".to_owned(), |ip| ip.to_string());
        let list = match all.get("x-forwarded-for") {
            Some(told) => format!("{told},{own}"),
            None => own,
        };
        all.set("x-forwarded-for", &list);
    }
    let scheme = if terminated { "https" } else { "http" };
    let trusted = !manager.use_remote_address.unwrap_or_default() || manager.xff_num_trusted_hops > 0;
    match all.get("x-forwarded-proto") {
        Some(told) if trusted => all.set(":scheme", &told),
        _ => {
            all.set("x-forwarded-proto", scheme);
            all.set(":scheme", scheme);
        }
    }
    all
}

fn authority(manager: &HttpConnectionManager, connection: &Connection, authority: &str) -> String {
    let host = route::without_port(authority);
    let port = authority[host.len()..]
        .strip_prefix(':')
        .and_then(|port| port.parse().ok());
    let own = port == Some(connection.entry.destination().port());
    let any = matches!(manager.strip_port_mode, Some(StripPortMode::StripAnyHostPort(true)));
    let strip = any || (manager.strip_matching_host_port && own);
    let mut out = if strip { host } else { authority }.to_owned();
    if manager.strip_trailing_host_dot {
        let host = route::without_port(&out);
        out = format!("{}{}", host.strip_suffix('.').unwrap_or(host), &out[host.len()..]);
    }
    out
}

/// Looks the route up, and goes on from a filter.
fn routed(exchange: Exchange<'_>, from: usize, outcomes: &mut Vec<Outcome>) {
    for branch in route::select(&exchange) {
        let mut exchange = exchange.clone();
        exchange.share *= branch.share;
        exchange.steps.extend(branch.steps);
        filters(exchange, branch.chosen, from, outcomes);
    }
}

/// What a filter does.
enum Done {
    /// Goes on.
    On,
    /// The route is looked up anew.
    Again,
    /// It has ended.
    Ended(Outcome),
}

fn filters<'a>(mut exchange: Exchange<'a>, chosen: Chosen<'a>, from: usize, outcomes: &mut Vec<Outcome>) {
    let manager = exchange.manager;
    for (index, one) in manager.http_filters.iter().enumerate().skip(from) {
        let switched = exchange.filter_config::<FilterConfig>(&one.name, chosen);
        if switched.as_ref().map_or(one.disabled, |config| config.disabled) {
            continue;
        }
        if is(one, "router.v3.Router") {
            outcomes.extend(action::finish(exchange, chosen));
            return;
        }
        match filter(one, chosen, &mut exchange, outcomes) {
            Done::On => {}
            Done::Ended(outcome) => {
                outcomes.push(outcome);
                return;
            }
            Done::Again => {
                routed(exchange, index + 1, outcomes);
                return;
            }
        }
        if exchange.share <= 0.0 {
            return;
        }
    }
    outcomes.push(exchange.answered(404, Vec::new(), None, &[], "the connection manager has no router"));
}

fn is(filter: &HttpFilter, end: &str) -> bool {
    matches!(&filter.config_type, Some(ConfigType::TypedConfig(config)) if config.type_url.ends_with(end))
}

fn filter<'a>(one: &HttpFilter, chosen: Chosen<'a>, exchange: &mut Exchange<'a>, outcomes: &mut Vec<Outcome>) -> Done {
    let Some(ConfigType::TypedConfig(config)) = &one.config_type else {
        return unsimulated(one, exchange);
    };
    if HARMLESS.iter().any(|end| config.type_url.ends_with(end)) {
        return Done::On;
    }
    if is(one, "rbac.v3.RBAC") {
        let Ok(mut rules) = config.to_msg::<Rbac>() else {
            return unsimulated(one, exchange);
        };
        match exchange.filter_config::<RbacPerRoute>(&one.name, chosen) {
            Some(RbacPerRoute { rbac: None }) => return Done::On,
            Some(RbacPerRoute { rbac: Some(own) }) => rules = own,
            None => {}
        }
        return authorize(one, &rules, chosen, exchange);
    }
    if is(one, "jwt_authn.v3.JwtAuthentication") {
        let Ok(config) = config.to_msg::<JwtAuthentication>() else {
            return unsimulated(one, exchange);
        };
        return tokens(one, &config, chosen, exchange);
    }
    if is(one, "ext_authz.v3.ExtAuthz") {
        let Ok(config) = config.to_msg::<ExtAuthz>() else {
            return unsimulated(one, exchange);
        };
        let asked = config
            .filter_enabled_metadata
            .as_ref()
            .is_none_or(|matcher| metadata(matcher, &exchange.metadata));
        if asked {
            let step = Step::new(Kind::HttpFilter, &one.name, "an external authorizer is asked");
            exchange
                .steps
                .push(step.note("what it says is not known; told is what happens if it allows the request"));
        }
        return Done::On;
    }
    if is(one, "fault.v3.HTTPFault") {
        let own = exchange.filter_config::<HttpFault>(&one.name, chosen);
        let Some(fault) = own.or_else(|| config.to_msg().ok()) else {
            return unsimulated(one, exchange);
        };
        let before = exchange.steps.len();
        let (failed, notes) = fault::inject(&fault, chosen, exchange);
        if !notes.is_empty() {
            let mut step = Step::new(Kind::HttpFilter, &one.name, "faults are injected");
            step.notes = notes;
            exchange.steps.insert(before, step.clone());
            outcomes.extend(failed.map(|mut failed| {
                failed.steps.push(step);
                failed
            }));
        }
        return Done::On;
    }
    if is(one, "cors.v3.Cors") {
        return match exchange
            .filter_config::<CorsPolicy>(&one.name, chosen)
            .map(|policy| fault::cross_origin(&policy, exchange))
        {
            None | Some(Cross::Nothing) => Done::On,
            Some(Cross::Marked(why)) => {
                exchange.steps.push(Step::new(Kind::HttpFilter, &one.name, why));
                Done::On
            }
            Some(Cross::Answered(headers, why)) => {
                exchange.steps.push(Step::new(Kind::HttpFilter, &one.name, why.clone()));
                Done::Ended(exchange.clone().answered(200, headers, None, &[], why))
            }
        };
    }
    unsimulated(one, exchange)
}

fn unsimulated(one: &HttpFilter, exchange: &mut Exchange<'_>) -> Done {
    let step = Step::new(
        Kind::HttpFilter,
        &one.name,
        "this filter is not simulated: the request passes it unchanged",
    );
    exchange.steps.push(step);
    Done::On
}

fn authorize<'a>(one: &HttpFilter, filter: &Rbac, chosen: Chosen<'a>, exchange: &mut Exchange<'a>) -> Done {
    let (decision, shadow) = {
        let facts = facts(exchange);
        let decision = filter.rules.as_ref().map(|rules| rbac::decide(rules, &facts));
        let shadow = filter.shadow_rules.as_ref().map(|rules| {
            let (matched, open) = rbac::matching(rules, &facts);
            matched.or(open).unwrap_or_default().to_owned()
        });
        (decision, shadow)
    };
    if let Some(policy) = shadow.filter(|policy| !policy.is_empty()) {
        // What rules on trial leave behind; external authorizers are asked where it is there.
        let text = Value {
            kind: Some(value::Kind::StringValue(policy)),
        };
        let key = format!("{}shadow_effective_policy_id", filter.shadow_rules_stat_prefix);
        let left: &mut Struct = exchange
            .metadata
            .entry("envoy.filters.http.rbac".to_owned())
            .or_default();
        left.fields.insert(key, text);
    }
    match decision {
        None => Done::On,
        Some(Decision::Allowed(why)) => {
            exchange.steps.push(Step::new(Kind::HttpFilter, &one.name, why));
            Done::On
        }
        Some(Decision::Open(why)) => {
            let step = Step::new(Kind::HttpFilter, &one.name, why);
            exchange
                .steps
                .push(step.note("told is what happens if the request may pass"));
            Done::On
        }
        Some(Decision::Denied(why)) => {
            exchange.steps.push(Step::new(Kind::HttpFilter, &one.name, why.clone()));
            let changes = exchange.response_changes(chosen, None);
            let body = Some("RBAC: access denied".to_owned());
            Done::Ended(exchange.clone().answered(403, Vec::new(), body, &changes, why))
        }
    }
}

fn facts<'a>(exchange: &'a Exchange<'_>) -> Facts<'a> {
    let connection = exchange.connection;
    // Of the addresses that proxies wrote down, the last ones are their own where they are trusted.
    let hops = usize::try_from(exchange.manager.xff_num_trusted_hops).unwrap_or_default();
    let told = exchange.headers.get("x-forwarded-for");
    let told = told.as_ref().and_then(|list| list.rsplit(',').nth(hops));
    Facts {
        destination: connection.entry.destination(),
        source: connection.source,
        client: told.map_or(connection.source, |told| told.trim().parse().ok()),
        tls: connection.tls.as_ref(),
        headers: &exchange.headers,
        metadata: &exchange.metadata,
    }
}

fn tokens<'a>(one: &HttpFilter, config: &JwtAuthentication, chosen: Chosen<'a>, exchange: &mut Exchange<'a>) -> Done {
    match jwt::run(config, exchange) {
        Judged::Passes { again, why } => {
            exchange.steps.push(Step::new(Kind::HttpFilter, &one.name, why));
            if again { Done::Again } else { Done::On }
        }
        Judged::Refused { status, why } => {
            exchange.steps.push(Step::new(Kind::HttpFilter, &one.name, why.clone()));
            let changes = exchange.response_changes(chosen, None);
            let body = Some(why.clone());
            Done::Ended(exchange.clone().answered(status, Vec::new(), body, &changes, why))
        }
    }
}
