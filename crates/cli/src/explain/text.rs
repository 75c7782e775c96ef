//! The way of a request, for people.

use std::fmt::Write as _;

use lateen_simulate::{Beaten, Endpoint, Forward, HeaderChange, HttpForward, Kind, Outcome, Step, Transport, Verdict};

use super::journey::{Hop, Journey, Role};

/// How wide the first column is.
const COLUMN: usize = 11;
/// How many endpoints are shown.
const ENDPOINTS: usize = 4;
/// How many of those that lost are shown of a step.
const BEATEN: usize = 4;

pub(super) fn of(journey: &Journey) -> String {
    let mut out = match &journey.method {
        Some(method) => format!("{method} {} from {}\n", journey.to, journey.from),
        None => format!("{} from {}\n", journey.to, journey.from),
    };
    for note in &journey.notes {
        line(&mut out, 2, "note", note);
    }
    if let Some(resolved) = &journey.resolved {
        line(
            &mut out,
            2,
            "address",
            &format!("{}: {}", resolved.address, resolved.how),
        );
    }
    for hop in &journey.hops {
        hop_text(&mut out, hop);
    }
    out
}

/// One line: a word in the first column, and what is said.
fn line(out: &mut String, indent: usize, word: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{:indent$}{word:COLUMN$} {text}", "");
}

fn hop_text(out: &mut String, hop: &Hop) {
    let role = match hop.role {
        Role::Caller => "caller",
        Role::Gateway => "gateway",
        Role::Callee => "callee",
    };
    let by = hop.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let _ = writeln!(out, "\n{role} {}, asked for {}{by}", hop.proxy, hop.address);
    for note in &hop.notes {
        line(out, 2, "policy", note);
    }
    for step in &hop.trace.steps {
        step_text(out, step, 2);
    }
    let several = hop.trace.outcomes.len() > 1;
    for outcome in &hop.trace.outcomes {
        outcome_text(out, hop, outcome, several);
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Listener => "listener",
        Kind::FilterChain => "chain",
        Kind::NetworkFilter | Kind::HttpFilter => "filter",
        Kind::RouteTable => "table",
        Kind::VirtualHost => "host",
        Kind::Route => "route",
        Kind::Cluster => "cluster",
    }
}

fn step_text(out: &mut String, step: &Step, indent: usize) {
    let what = match (&step.origin, step.object.as_deref()) {
        (Some(origin), _) if step.kind == Kind::Route => route_name(origin, &step.name),
        (_, Some(path)) if step.kind == Kind::Cluster => match object(path) {
            Some(object) => format!("{} by {object}{}", step.name, subset(&step.name)),
            None => step.name.clone(),
        },
        _ => step.name.clone(),
    };
    line(
        out,
        indent,
        word(step.kind),
        &format!("{what}: {}", policies(&step.why)),
    );
    for beaten in step.beaten.iter().take(BEATEN) {
        line(
            out,
            indent,
            "",
            &format!("not {}: {}", beaten_name(beaten), beaten.reason),
        );
    }
    let more = step.beaten_more + step.beaten.len().saturating_sub(BEATEN);
    if more > 0 {
        line(out, indent, "", &format!("nor {more} more"));
    }
    for note in &step.notes {
        line(out, indent, "", note);
    }
}

fn route_name(origin: &str, name: &str) -> String {
    // Routes without a name are called by their number.
    if name.is_empty() || name.starts_with("route ") {
        origin.to_owned()
    } else {
        format!("{origin} ({name})")
    }
}

fn beaten_name(beaten: &Beaten) -> String {
    match &beaten.origin {
        Some(origin) => route_name(origin, &beaten.name),
        None => beaten.name.clone(),
    }
}

/// An object by its API path, `/apis/<group>/<version>/namespaces/<namespace>/<kind>/<name>`.
fn object(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let [_, _, _, _, namespace, kind, name] = parts[..] else {
        return None;
    };
    let kind: String = kind
        .split('-')
        .map(|part| {
            let mut letters = part.chars();
            letters
                .next()
                .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
                .unwrap_or_default()
        })
        .collect();
    Some(format!("{kind} {namespace}/{name}"))
}

/// The subset in the name of a cluster.
fn subset(cluster: &str) -> String {
    match cluster.split('|').nth(2) {
        Some(subset) if !subset.is_empty() => format!(" subset {subset}"),
        _ => String::new(),
    }
}

/// Istio's names of rules, `ns[shop]-policy[open]-rule[0]`, as objects and fields.
fn policies(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("ns[") {
        out.push_str(&rest[..at]);
        match policy(&rest[at..]) {
            Some((named, end)) => {
                out.push_str(&named);
                rest = &rest[at + end..];
            }
            None => {
                out.push_str("ns[");
                rest = &rest[at + 3..];
            }
        }
    }
    out + rest
}

fn policy(text: &str) -> Option<(String, usize)> {
    let (namespace, rest) = text.strip_prefix("ns[")?.split_once("]-policy[")?;
    let (name, rest) = rest.split_once("]-rule[")?;
    let (rule, rest) = rest.split_once(']')?;
    let named = format!("AuthorizationPolicy {namespace}/{name} spec.rules[{rule}]");
    Some((named, text.len() - rest.len()))
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 10_000.0).round() / 100.0)
}

fn outcome_text(out: &mut String, hop: &Hop, outcome: &Outcome, several: bool) {
    let indent = if several {
        let _ = writeln!(out, "  {}", percent(outcome.share));
        4
    } else {
        2
    };
    for step in &outcome.steps {
        step_text(out, step, indent);
    }
    match &outcome.verdict {
        Verdict::Answered(answer) => {
            line(
                out,
                indent,
                "answer",
                &format!("{} by this proxy: {}", answer.status, policies(&answer.by)),
            );
            for (name, value) in &answer.headers {
                line(out, indent, "", &format!("{name}: {value}"));
            }
        }
        Verdict::Refused { reason } => line(out, indent, "closed", &policies(reason)),
        Verdict::Forwarded(forward) => forward_text(out, hop, forward, indent),
    }
}

fn forward_text(out: &mut String, hop: &Hop, forward: &Forward, indent: usize) {
    if let Some(delay) = &forward.delay {
        let text = format!("{} wait for {} ms", percent(delay.share), delay.milliseconds);
        line(out, indent, "delay", &text);
    }
    if let Some(http) = &forward.http {
        http_text(out, http, indent);
    }
    let Some(upstream) = &forward.upstream else { return };
    for setting in &upstream.settings {
        line(out, indent, "limit", setting);
    }
    let to = if hop.role == Role::Callee {
        "application"
    } else {
        "endpoint"
    };
    let mut endpoints: Vec<&Endpoint> = upstream.endpoints.iter().collect();
    endpoints.sort_by(|a, b| b.share.total_cmp(&a.share));
    for endpoint in endpoints.iter().take(ENDPOINTS) {
        line(out, indent, to, &endpoint_text(endpoint, forward.http.is_none()));
    }
    if endpoints.len() > ENDPOINTS {
        line(out, indent, "", &format!("and {} more", endpoints.len() - ENDPOINTS));
    }
}

fn http_text(out: &mut String, http: &HttpForward, indent: usize) {
    line(
        out,
        indent,
        "request",
        &format!("{} {} at host {}", http.method, http.path, http.authority),
    );
    let timeout = match http.timeout {
        Some(timeout) => format!("time-out {timeout} ms"),
        None => "no time-out".to_owned(),
    };
    let retries = match &http.retries {
        Some(retries) => {
            let each = retries
                .per_try_timeout
                .map(|timeout| format!(", {timeout} ms each"))
                .unwrap_or_default();
            let (count, word) = (
                retries.attempts,
                if retries.attempts == 1 { "retry" } else { "retries" },
            );
            format!("{count} {word}{each} on {}", retries.on)
        }
        None => "no retries".to_owned(),
    };
    line(out, indent, "", &format!("{timeout}, {retries}"));
    for (word, changes) in [("header", &http.request), ("response", &http.response)] {
        for change in changes {
            line(out, indent, word, &change_text(change));
        }
    }
    for mirror in &http.mirrors {
        let text = format!(
            "{} to {} at host {}",
            percent(mirror.share),
            mirror.cluster,
            mirror.authority
        );
        line(out, indent, "copy", &text);
    }
    if !http.hash.is_empty() {
        line(
            out,
            indent,
            "hash",
            &format!("{} chooses the endpoint", http.hash.join(", ")),
        );
    }
    if let Some(hedging) = &http.hedging {
        line(out, indent, "hedge", hedging);
    }
}

fn change_text(change: &HeaderChange) -> String {
    match change {
        HeaderChange::Remove(name) => format!("remove {name}"),
        HeaderChange::Set(name, value) => format!("set {name}: {value}"),
        HeaderChange::Append(name, value) => format!("add {name}: {value}"),
        HeaderChange::AddIfAbsent(name, value) => format!("where absent, add {name}: {value}"),
        HeaderChange::Overwrite(name, value) => format!("where it is there, set {name}: {value}"),
    }
}

fn endpoint_text(endpoint: &Endpoint, bytes: bool) -> String {
    let transport = match &endpoint.transport {
        Transport::Plain if bytes => "as it comes".to_owned(),
        Transport::Plain => "plain text".to_owned(),
        Transport::Tls {
            sni,
            certificate: Some(_),
            ..
        } => format!("mutual TLS, server name {sni}"),
        Transport::Tls { sni, .. } if sni.is_empty() => "TLS".to_owned(),
        Transport::Tls { sni, .. } => format!("TLS, server name {sni}"),
        Transport::Other(name) => name.clone(),
    };
    let address = match endpoint.address.as_str() {
        "*" => "the request's own host",
        address => address,
    };
    let mut text = format!("{address} gets {}, {transport}", percent(endpoint.share));
    if endpoint.health != "healthy" {
        let _ = write!(text, ", {}", endpoint.health);
    }
    if endpoint.priority > 0 {
        let _ = write!(text, ", priority {}", endpoint.priority);
    }
    if !endpoint.locality.is_empty() {
        let _ = write!(text, ", in {}", endpoint.locality);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_rules_are_named_as_users_name_them() {
        assert_eq!(
            object("/apis/networking.istio.io/v1/namespaces/shop/destination-rule/reviews").as_deref(),
            Some("DestinationRule shop/reviews")
        );
        assert_eq!(object("/apis/x"), None);
        assert_eq!(
            policies("ns[shop]-policy[open]-rule[0] allows it, not ns[x"),
            "AuthorizationPolicy shop/open spec.rules[0] allows it, not ns[x"
        );
        assert_eq!(subset("outbound|80|v1|a.b"), " subset v1");
        assert_eq!(subset("outbound|80||a.b"), "");
    }
}
