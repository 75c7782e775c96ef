//! Which virtual host and which route of a table take a request.

use lateen_proto::envoy::config::route::v3::route_match::PathSpecifier;
use lateen_proto::envoy::config::route::v3::virtual_host::TlsRequirementType;
use lateen_proto::envoy::config::route::v3::{Route, RouteConfiguration, RouteMatch, VirtualHost};

use crate::exchange::{Chosen, Exchange, object_of};
use crate::matching::{full_match, header, header_in_words, metadata, query, runtime_fraction};
use crate::path::without_query;
use crate::trace::{Beaten, Kind, Place, Step};

/// How well a domain fits a host: exact, longest suffix, longest prefix, anything. Larger is better.
fn domain_rank(domain: &str, host: &str) -> Option<(u8, usize)> {
    let domain = domain.to_ascii_lowercase();
    if domain == "*" {
        return Some((0, 0));
    }
    if let Some(suffix) = domain.strip_prefix('*') {
        return (host.len() > suffix.len() && host.ends_with(suffix)).then_some((2, suffix.len()));
    }
    if let Some(prefix) = domain.strip_suffix('*') {
        return (host.len() > prefix.len() && host.starts_with(prefix)).then_some((1, prefix.len()));
    }
    (domain == host).then_some((3, 0))
}

/// A host without its port.
pub(crate) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

fn find_host<'a>(table: &'a RouteConfiguration, authority: &str) -> Option<(&'a VirtualHost, Step)> {
    let host = if table.ignore_port_in_host_matching {
        without_port(authority)
    } else {
        authority
    };
    let host = host.to_ascii_lowercase();
    let mut fitting: Vec<(&VirtualHost, &str, (u8, usize))> = Vec::new();
    for one in &table.virtual_hosts {
        let best = one
            .domains
            .iter()
            .filter_map(|domain| Some((domain.as_str(), domain_rank(domain, &host)?)))
            .max_by_key(|(_, rank)| *rank);
        if let Some((domain, rank)) = best {
            fitting.push((one, domain, rank));
        }
    }
    fitting.sort_by_key(|(_, _, rank)| std::cmp::Reverse(*rank));
    let (chosen, domain, rank) = *fitting.first()?;
    let how = match rank.0 {
        3 => format!("its domain {domain} is the host"),
        0 if table.virtual_hosts.len() == 1 => "it takes every host".to_owned(),
        0 => format!("no domain is {host}, and it takes every host"),
        _ => format!("its domain {domain} is the most specific that covers {host}"),
    };
    let beaten = fitting[1..]
        .iter()
        .map(|(one, domain, _)| Beaten::new(&one.name, format!("its domain {domain} is less specific")))
        .collect();
    Some((
        chosen,
        Step::new(Kind::VirtualHost, &chosen.name, how).with_beaten(beaten),
    ))
}

/// What a request must be for a route: how likely it is taken, or why it is not.
pub(crate) fn fits(matched: &RouteMatch, exchange: &Exchange<'_>) -> Result<f64, String> {
    let full = exchange.path();
    let path = without_query(&full);
    path_fits(matched, path)?;
    if let Some(wanted) = matched.headers.iter().find(|wanted| !header(wanted, &exchange.headers)) {
        return Err(header_in_words(wanted, &exchange.headers));
    }
    if let Some(wanted) = matched.query_parameters.iter().find(|wanted| !query(wanted, &full)) {
        let is = crate::matching::query_value(&full, &wanted.name)
            .map_or_else(|| "is absent".to_owned(), |value| format!("is `{value}`"));
        return Err(format!("query parameter {} does not match, it {is}", wanted.name));
    }
    if matched.grpc.is_some() && !exchange.is_grpc() {
        return Err("it is for gRPC".to_owned());
    }
    if let Some(context) = &matched.tls_context {
        let presented = exchange.connection.tls.as_ref().is_some_and(|tls| !tls.peer.is_empty());
        let asked = [context.presented, context.validated].into_iter().flatten();
        if asked.into_iter().any(|wanted| wanted != presented) {
            return Err("it asks for another client certificate".to_owned());
        }
    }
    if let Some(wanted) = matched
        .dynamic_metadata
        .iter()
        .find(|wanted| !metadata(wanted, &exchange.metadata))
    {
        return Err(format!(
            "what the filter {} knows of the request does not match",
            wanted.filter
        ));
    }
    if !matched.cookies.is_empty() || !matched.filter_state.is_empty() {
        return Err("its conditions on cookies or filter state are not simulated".to_owned());
    }
    match matched.runtime_fraction.as_ref().map(runtime_fraction) {
        Some(share) if share <= 0.0 => Err("it is for no request at all".to_owned()),
        Some(share) => Ok(share),
        None => Ok(1.0),
    }
}

fn path_fits(matched: &RouteMatch, path: &str) -> Result<(), String> {
    let sensitive = matched.case_sensitive.unwrap_or(true);
    let lower = |text: &str| {
        if sensitive {
            text.to_owned()
        } else {
            text.to_ascii_lowercase()
        }
    };
    let (fits, wanted) = match &matched.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => {
            (lower(path).starts_with(&lower(prefix)), format!("begin with {prefix}"))
        }
        Some(PathSpecifier::Path(exact)) => (lower(path) == lower(exact), format!("be {exact}")),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            let rest = lower(path).strip_prefix(&lower(prefix)).map(str::to_owned);
            let fits = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            (fits, format!("be {prefix} or lie below it"))
        }
        Some(PathSpecifier::SafeRegex(regex)) => (full_match(&regex.regex, path), format!("match {}", regex.regex)),
        Some(PathSpecifier::ConnectMatcher(_)) => (false, "be that of CONNECT".to_owned()),
        Some(PathSpecifier::PathMatchPolicy(_)) => (false, "fulfil a policy that is not simulated".to_owned()),
        None => (true, String::new()),
    };
    if fits {
        Ok(())
    } else {
        Err(format!("path must {wanted}, is {path}"))
    }
}

fn label(route: &Route, index: usize) -> String {
    if route.name.is_empty() {
        format!("route {index}")
    } else {
        route.name.clone()
    }
}

/// The routes of a virtual host, named as traces name them.
struct Named<'a> {
    exchange: &'a Exchange<'a>,
    table: &'a str,
    host: &'a str,
}

impl Named<'_> {
    fn place(&self, index: usize) -> (Option<Place>, Option<String>) {
        let place = Place {
            table: self.table.to_owned(),
            host: self.host.to_owned(),
            index,
        };
        let origin = self.exchange.proxy.origin(self.table, self.host, index);
        (Some(place), origin)
    }

    fn loser(&self, index: usize, route: &Route, reason: impl Into<String>) -> Beaten {
        let (place, origin) = self.place(index);
        Beaten {
            object: object_of(route.metadata.as_ref()),
            place,
            origin,
            ..Beaten::new(label(route, index), reason)
        }
    }
}

/// One way that routing may go.
pub(crate) struct Branch<'a> {
    pub share: f64,
    pub chosen: Chosen<'a>,
    pub steps: Vec<Step>,
}

fn nothing(steps: Vec<Step>, share: f64) -> Branch<'static> {
    Branch {
        share,
        chosen: Chosen::Nothing,
        steps,
    }
}

/// Chooses virtual host and route; several branches where a share of requests is asked for.
pub(crate) fn select<'a>(exchange: &Exchange<'a>) -> Vec<Branch<'a>> {
    let Some(table) = exchange.table else {
        return vec![nothing(Vec::new(), 1.0)];
    };
    let authority = exchange.authority();
    let Some((host, step)) = find_host(table, &authority) else {
        let why = format!(
            "no virtual host of the table {} has a domain for {authority}",
            table.name
        );
        return vec![nothing(vec![Step::new(Kind::VirtualHost, "none", why)], 1.0)];
    };
    let scheme = exchange.headers.get("x-forwarded-proto").unwrap_or_default();
    if host.require_tls() != TlsRequirementType::None && scheme != "https" {
        let step = step.note("plain HTTP is sent to HTTPS");
        return vec![Branch {
            share: 1.0,
            chosen: Chosen::Tls(host),
            steps: vec![step],
        }];
    }
    let named = Named {
        exchange,
        table: &table.name,
        host: &host.name,
    };
    let mut branches = Vec::new();
    let mut left = 1.0;
    let mut beaten: Vec<Beaten> = Vec::new();
    let empty = RouteMatch::default();
    let mut routes = host.routes.iter().enumerate();
    while left > 0.0 {
        let Some((index, route)) = routes.next() else { break };
        let share = match fits(route.r#match.as_ref().unwrap_or(&empty), exchange) {
            Err(reason) => {
                beaten.push(named.loser(index, route, reason));
                continue;
            }
            Ok(share) => share,
        };
        let later = host.routes.iter().enumerate().skip(index + 1);
        let later = later
            .filter(|(_, route)| fits(route.r#match.as_ref().unwrap_or(&empty), exchange).is_ok())
            .map(|(index, route)| named.loser(index, route, "it fits too, but comes later"));
        let why = match (index, share < 1.0) {
            (_, true) => format!("it fits, and is for {} % of requests", share * 100.0),
            (0, false) => "it is the first, and fits".to_owned(),
            (_, false) => "it is the first that fits".to_owned(),
        };
        let mut chosen =
            Step::new(Kind::Route, label(route, index), why).with_beaten(beaten.iter().cloned().chain(later).collect());
        chosen.object = object_of(route.metadata.as_ref());
        (chosen.place, chosen.origin) = named.place(index);
        branches.push(Branch {
            share: left * share,
            chosen: Chosen::Route(host, route),
            steps: vec![step.clone(), chosen],
        });
        left *= 1.0 - share;
        beaten.push(named.loser(index, route, "the request is not among its share"));
    }
    if left > 0.0 {
        let none = Step::new(Kind::Route, "none", "no route of the virtual host fits").with_beaten(beaten);
        branches.push(nothing(vec![step, none], left));
    }
    branches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_ranked_exact_suffix_prefix_any() {
        let mut domains = ["*", "a.*", "*.b.c", "*.c", "a.b.c", "*-b.c", "x.c"];
        domains.sort_by_key(|domain| std::cmp::Reverse(domain_rank(domain, "a.b.c")));
        assert_eq!(&domains[..5], ["a.b.c", "*.b.c", "*.c", "a.*", "*"]);
        assert_eq!(domain_rank("*.b.c", "b.c"), None);
        assert_eq!(domain_rank("*-b.c", "a-b.c"), Some((2, 4)));
    }

    #[test]
    fn ports_are_taken_off() {
        for (from, to) in [
            ("a:80", "a"),
            ("a", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("a:b", "a:b"),
        ] {
            assert_eq!(without_port(from), to);
        }
    }
}
