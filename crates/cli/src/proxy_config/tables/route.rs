//! Route tables.

use std::collections::BTreeSet;

use serde_json::Value;

use super::origin;
use crate::proxy_config::dump::{field, items, name, text};

/// Domains that are shown of a virtual host.
const SHOWN: usize = 2;

/// One line for each route, but for those that pass traffic through as it is.
pub(super) fn rows(table: &Value) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for host in items(table, &["virtualHosts"]) {
        let row = |matches: String, origin: String| {
            let (table, host_name) = (name(table).to_owned(), name(host).to_owned());
            vec![table, host_name, domains(host), matches, origin]
        };
        let mut routes = items(host, &["routes"]).peekable();
        if routes.peek().is_none() {
            rows.push(row("/*".to_owned(), "404".to_owned()));
        }
        let routes = routes.filter(|route| text(route, &["route", "cluster"]) != "PassthroughCluster");
        rows.extend(routes.map(|route| row(match_text(route), origin(route))));
    }
    rows
}

/// One line.
pub(super) fn row(table: &Value) -> Vec<String> {
    let hosts = items(table, &["virtualHosts"]).count();
    vec![name(table).to_owned(), hosts.to_string()]
}

/// The domains without ports, each in its shortest form.
fn domains(host: &Value) -> String {
    let all: Vec<&str> = items(host, &["domains"]).filter_map(Value::as_str).collect();
    if let [only] = all[..] {
        return only.to_owned();
    }
    let plain: Vec<&str> = all.into_iter().filter(|domain| !has_port(domain)).collect();
    let known: BTreeSet<&str> = plain.iter().copied().collect();
    let longer = |domain: &&str| {
        [".", ".svc.cluster.local", ".svc"]
            .iter()
            .any(|end| domain.strip_suffix(end).is_some_and(|short| known.contains(short)))
    };
    let shown: Vec<&str> = plain.into_iter().filter(|domain| !longer(domain)).collect();
    if shown.len() > SHOWN {
        return format!("{} + {} more...", shown[..SHOWN].join(", "), shown.len() - SHOWN);
    }
    shown.join(", ")
}

fn has_port(domain: &str) -> bool {
    match domain.matches(':').count() {
        0 => false,
        1 | 2 => true,
        // An IPv6 address, with or without port.
        _ => !domain.ends_with(']'),
    }
}

/// What a route matches of the path; headers and parameters are marked.
pub(super) fn match_text(route: &Value) -> String {
    let Some(matches) = field(route, "match") else {
        return String::new();
    };
    // What stands before and after the text of each kind.
    let kinds: [(&[&str], &str, &str); 5] = [
        (&["prefix"], "", "*"),
        (&["pathSeparatedPrefix"], "PathPrefix:", ""),
        (&["path"], "", ""),
        (&["safeRegex", "regex"], "regex ", ""),
        (&["pathMatchPolicy", "typedConfig", "pathTemplate"], "template ", ""),
    ];
    let paths = kinds
        .iter()
        .filter_map(|(path, before, after)| match text(matches, path) {
            "" => None,
            found => Some(format!("{before}{found}{after}")),
        });
    paths.collect::<Vec<_>>().join(" ")
}

/// The cluster of a table that leads everything to one.
pub(super) fn only_cluster(table: &Value) -> Option<&str> {
    let mut hosts = items(table, &["virtualHosts"]);
    let (host, None) = (hosts.next()?, hosts.next()) else {
        return None;
    };
    let domains: Vec<&str> = items(host, &["domains"]).filter_map(Value::as_str).collect();
    let mut routes = items(host, &["routes"]);
    let (route, None) = (routes.next()?, routes.next()) else {
        return None;
    };
    let cluster = text(route, &["route", "cluster"]);
    let all = domains == ["*"] && text(route, &["match", "prefix"]) == "/";
    (all && !cluster.is_empty()).then_some(cluster)
}
