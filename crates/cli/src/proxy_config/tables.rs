//! Resources as tables for people.

use std::time::SystemTime;

use lateen_pki::Certificate;
use serde_json::Value;

use super::What;
use super::dump::{Dump, Secret, at, field, items, name, text};
use crate::print::table;

/// The table of one kind.
pub(super) fn of(what: What, dump: &Dump) -> String {
    match what {
        What::Cluster => {
            let header = ["SERVICE", "PORT", "SUBSET", "DIRECTION", "TYPE"];
            table(&header, dump.clusters.iter().map(cluster))
        }
        What::Listener => table(
            &["NAME", "ADDRESS", "PORT", "MATCH", "DESTINATION"],
            dump.listeners.iter().flat_map(listener),
        ),
        What::Route => {
            let header = ["TABLE", "VIRTUAL HOST", "DOMAINS", "MATCH", "DESTINATION"];
            table(&header, dump.routes.iter().flat_map(route_table))
        }
        What::Endpoint => {
            let header = ["ENDPOINT", "STATUS", "LOCALITY", "PRIORITY", "WEIGHT", "CLUSTER"];
            table(&header, dump.endpoints.iter().flat_map(endpoints))
        }
        What::Secret | What::All => {
            let now = SystemTime::now();
            let header = [
                "NAME",
                "TYPE",
                "STATE",
                "VALID",
                "SERIAL NUMBER",
                "NOT AFTER",
                "NOT BEFORE",
            ];
            table(&header, dump.secrets.iter().map(|entry| secret(entry, now)))
        }
    }
}

fn dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

/// `outbound|80|v1|host` says it all; other names stand for themselves.
fn cluster(cluster: &Value) -> Vec<String> {
    let kind = match (text(cluster, &["type"]), text(cluster, &["clusterType", "name"])) {
        ("", "") => "STATIC",
        ("", name) => name,
        (kind, _) => kind,
    };
    let parts: Vec<&str> = name(cluster).split('|').collect();
    let (service, port, subset, direction) = match parts[..] {
        [direction, port, subset, service] => (service, port, subset, direction),
        _ => (name(cluster), "", "", ""),
    };
    vec![
        dash(service),
        dash(port),
        dash(subset),
        dash(direction),
        kind.to_owned(),
    ]
}

fn listener(listener: &Value) -> Vec<Vec<String>> {
    let socket = at(listener, &["address", "socketAddress"]);
    let address = match socket.map(|socket| text(socket, &["address"])) {
        Some(address) => address,
        None => text(listener, &["address", "pipe", "path"]),
    };
    let port = socket
        .and_then(|socket| field(socket, "portValue"))
        .map(Value::to_string)
        .unwrap_or_default();
    let chains = items(listener, &["filterChains"]);
    let default = field(listener, "defaultFilterChain");
    let mut rows: Vec<Vec<String>> = chains
        .map(|chain| {
            (
                field(chain, "filterChainMatch").map(chain_match).unwrap_or_default(),
                chain,
            )
        })
        .chain(default.map(|chain| ("anything else".to_owned(), chain)))
        .map(|(matches, chain)| {
            let matches = if matches.is_empty() { "ALL".to_owned() } else { matches };
            vec![
                name(listener).to_owned(),
                dash(address),
                dash(&port),
                matches,
                chain_destination(chain),
            ]
        })
        .collect();
    if rows.is_empty() {
        rows.push(vec![
            name(listener).to_owned(),
            dash(address),
            dash(&port),
            "ALL".to_owned(),
            "-".to_owned(),
        ]);
    }
    rows
}

fn chain_match(chain: &Value) -> String {
    let texts = |key| {
        items(chain, &[key])
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(",")
    };
    let ranges = items(chain, &["prefixRanges"]).map(|range| {
        let length = field(range, "prefixLen").map_or_else(|| "0".to_owned(), Value::to_string);
        format!("{}/{length}", text(range, &["addressPrefix"]))
    });
    let parts = [
        (
            "Port",
            field(chain, "destinationPort")
                .map(Value::to_string)
                .unwrap_or_default(),
        ),
        ("Addr", ranges.collect::<Vec<_>>().join(",")),
        ("SNI", texts("serverNames")),
        ("Trans", text(chain, &["transportProtocol"]).to_owned()),
        ("App", texts("applicationProtocols")),
    ];
    let parts = parts.iter().filter(|(_, value)| !value.is_empty());
    parts
        .map(|(label, value)| format!("{label}: {value}"))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Where the last filter of a chain leads to: that is the one which passes traffic on.
fn chain_destination(chain: &Value) -> String {
    let destinations = items(chain, &["filters"]).filter_map(|filter| {
        let config = field(filter, "typedConfig")?;
        let kind = text(config, &["@type"]).rsplit('.').next().unwrap_or_default();
        match kind {
            "HttpConnectionManager" => Some(match at(config, &["rds", "routeConfigName"]).and_then(Value::as_str) {
                Some(table) => format!("Route: {table}"),
                None => format!("Route: {} (inline)", dash(text(config, &["routeConfig", "name"]))),
            }),
            "TcpProxy" => Some(clusters_of(config)),
            _ => None,
        }
    });
    dash(&destinations.last().unwrap_or_default())
}

/// A cluster, or several with their weights.
fn clusters_of(config: &Value) -> String {
    let one = text(config, &["cluster"]);
    if !one.is_empty() {
        return format!("Cluster: {one}");
    }
    let header = text(config, &["clusterHeader"]);
    if !header.is_empty() {
        return format!("Cluster of header {header}");
    }
    let weighted = items(config, &["weightedClusters", "clusters"]).map(|cluster| {
        let weight = field(cluster, "weight").map_or_else(|| "0".to_owned(), Value::to_string);
        format!("{}={weight}", name(cluster))
    });
    let weighted = weighted.collect::<Vec<_>>().join(", ");
    if weighted.is_empty() {
        String::new()
    } else {
        format!("Clusters: {weighted}")
    }
}

fn route_table(table: &Value) -> Vec<Vec<String>> {
    let hosts = items(table, &["virtualHosts"]);
    hosts
        .flat_map(|host| {
            let domains: Vec<&str> = items(host, &["domains"]).filter_map(Value::as_str).collect();
            let domains = match domains[..] {
                [] => "-".to_owned(),
                [only] => only.to_owned(),
                [first, ..] => format!("{first} + {} more", domains.len() - 1),
            };
            let row = move |matches, destination| {
                vec![
                    name(table).to_owned(),
                    name(host).to_owned(),
                    domains.clone(),
                    matches,
                    destination,
                ]
            };
            let mut rows: Vec<Vec<String>> = items(host, &["routes"])
                .map(|route| row(route_match(route), route_destination(route)))
                .collect();
            if rows.is_empty() {
                rows.push(row("-".to_owned(), "404".to_owned()));
            }
            rows
        })
        .collect()
}

fn route_match(route: &Value) -> String {
    let Some(matches) = field(route, "match") else {
        return "-".to_owned();
    };
    let path = [
        (text(matches, &["prefix"]), "*"),
        (text(matches, &["path"]), ""),
        (text(matches, &["pathSeparatedPrefix"]), "[/*]"),
        (text(matches, &["safeRegex", "regex"]), " (regex)"),
        (text(matches, &["pathMatchPolicy", "name"]), " (template)"),
    ];
    let path = path.into_iter().find(|(text, _)| !text.is_empty());
    let mut shown = path.map(|(text, mark)| format!("{text}{mark}")).unwrap_or_default();
    for (key, label) in [("headers", "headers"), ("queryParameters", "query")] {
        let names: Vec<&str> = items(matches, &[key]).map(name).collect();
        if !names.is_empty() {
            shown.push_str(&format!(" {label}: {}", names.join(",")));
        }
    }
    dash(&shown)
}

fn route_destination(route: &Value) -> String {
    if let Some(action) = field(route, "route") {
        return dash(clusters_of(action).trim_start_matches("Cluster: "));
    }
    if let Some(direct) = field(route, "directResponse") {
        return format!(
            "answers {}",
            field(direct, "status").map(Value::to_string).unwrap_or_default()
        );
    }
    if let Some(redirect) = field(route, "redirect") {
        let parts =
            ["schemeRedirect", "hostRedirect", "pathRedirect", "prefixRewrite"].map(|key| text(redirect, &[key]));
        let https = field(redirect, "httpsRedirect")
            .and_then(Value::as_bool)
            .unwrap_or_default();
        let parts: Vec<&str> = https
            .then_some("https")
            .into_iter()
            .chain(parts)
            .filter(|part| !part.is_empty())
            .collect();
        return format!("redirects to {}", dash(&parts.join(" ")));
    }
    "-".to_owned()
}

fn endpoints(assignment: &Value) -> Vec<Vec<String>> {
    let localities = items(assignment, &["endpoints"]);
    let rows = localities.flat_map(|locality| {
        let place = ["region", "zone", "subZone"].map(|key| text(locality, &["locality", key]));
        let place = place.join("/").trim_end_matches('/').to_owned();
        let number = |value: &Value, key: &str, absent: &str| {
            field(value, key).map_or_else(|| absent.to_owned(), Value::to_string)
        };
        let priority = number(locality, "priority", "0");
        items(locality, &["lbEndpoints"]).map(move |endpoint| {
            vec![
                address(endpoint),
                match text(endpoint, &["healthStatus"]) {
                    "" | "UNKNOWN" => "HEALTHY".to_owned(),
                    status => status.to_owned(),
                },
                dash(&place),
                priority.clone(),
                number(endpoint, "loadBalancingWeight", "1"),
                name(assignment).to_owned(),
            ]
        })
    });
    rows.collect()
}

fn address(endpoint: &Value) -> String {
    let Some(address) = at(endpoint, &["endpoint", "address"]) else {
        return dash(text(endpoint, &["endpointName"]));
    };
    if let Some(socket) = field(address, "socketAddress") {
        let (host, port) = (
            text(socket, &["address"]),
            field(socket, "portValue").map(Value::to_string).unwrap_or_default(),
        );
        return if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
    }
    let internal = text(address, &["envoyInternalAddress", "serverListenerName"]);
    if internal.is_empty() {
        dash(text(address, &["pipe", "path"]))
    } else {
        format!("internal: {internal}")
    }
}

/// Of a chain the leaf counts, of roots the first that ends.
fn secret(entry: &Secret, now: SystemTime) -> Vec<String> {
    let secret = &entry.secret;
    let (kind, source) = if let Some(source) = at(secret, &["tlsCertificate", "certificateChain"]) {
        ("Cert Chain", Some(source))
    } else if let Some(source) = at(secret, &["validationContext", "trustedCa"]) {
        ("CA", Some(source))
    } else {
        ("-", None)
    };
    let mut certificates = source
        .and_then(content)
        .and_then(|pem| Certificate::parse_pem(&pem).ok())
        .unwrap_or_default();
    if kind == "CA" {
        certificates.sort_by_key(Certificate::not_after);
    }
    let certificate = certificates.first();
    let time = |time: Option<SystemTime>| {
        time.map_or_else(
            || "-".to_owned(),
            |time| humantime::format_rfc3339_seconds(time).to_string(),
        )
    };
    vec![
        name(secret).to_owned(),
        kind.to_owned(),
        entry.state.to_owned(),
        certificate.map_or_else(|| "-".to_owned(), |one| one.validity().contains(now).to_string()),
        certificate.map_or_else(|| "-".to_owned(), |one| one.serial().to_owned()),
        time(certificate.map(Certificate::not_after)),
        time(certificate.map(Certificate::not_before)),
    ]
}

fn content(source: &Value) -> Option<Vec<u8>> {
    use base64::Engine as _;
    match text(source, &["inlineString"]) {
        "" => base64::engine::general_purpose::STANDARD
            .decode(text(source, &["inlineBytes"]))
            .ok(),
        text => Some(text.as_bytes().to_vec()),
    }
}
