//! Listeners.

use serde_json::Value;

use super::dash;
use super::route::{match_text, only_cluster};
use crate::proxy_config::dump::{at, field, items, name, text};

/// Lists of application protocols that mean something together, and what.
const PROTOCOLS: &[(&str, &[&str])] = &[
    ("App: HTTP", &["http/1.0", "http/1.1", "h2c"]),
    (
        "App: Istio HTTP Plain",
        &["istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"],
    ),
    (
        "App: HTTP TLS",
        &[
            "http/1.0",
            "http/1.1",
            "h2c",
            "istio-http/1.0",
            "istio-http/1.1",
            "istio-h2",
        ],
    ),
    ("App: TCP TLS", &["istio-peer-exchange", "istio"]),
];

/// One line for each filter chain.
pub(super) fn rows(listener: &Value) -> Vec<Vec<String>> {
    let (addresses, port) = (addresses(listener).join(","), port(listener).to_string());
    chains(listener)
        .map(|chain| {
            let matches = field(chain, "filterChainMatch").map(chain_match).unwrap_or_default();
            let matches = if matches.is_empty() { "ALL".to_owned() } else { matches };
            vec![addresses.clone(), port.clone(), matches, destination(chain)]
        })
        .collect()
}

/// One line.
pub(super) fn row(listener: &Value) -> Vec<String> {
    vec![
        addresses(listener).join(","),
        port(listener).to_string(),
        kind(listener).to_owned(),
    ]
}

fn addresses(listener: &Value) -> Vec<String> {
    let additional = items(listener, &["additionalAddresses"]);
    let additional = additional.map(|one| text(one, &["address", "socketAddress", "address"]).to_owned());
    [address(listener).to_owned()].into_iter().chain(additional).collect()
}

/// Where it listens; empty for internal listeners.
pub(in super::super) fn address(listener: &Value) -> &str {
    match text(listener, &["address", "socketAddress", "address"]) {
        "" => text(listener, &["address", "pipe", "path"]),
        address => address,
    }
}

/// The port, 0 where it has none.
pub(in super::super) fn port(listener: &Value) -> u64 {
    at(listener, &["address", "socketAddress", "portValue"])
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

/// `HTTP`, `TCP`, `HTTP+TCP`, or `UNKNOWN`.
pub(in super::super) fn kind(listener: &Value) -> &'static str {
    let (mut http, mut tcp) = (false, false);
    for (kind, config) in chains(listener)
        .flat_map(|chain| items(chain, &["filters"]))
        .filter_map(typed)
    {
        http |= kind == "HttpConnectionManager";
        tcp |= kind == "TcpProxy" && text(config, &["cluster"]) != "BlackHoleCluster";
    }
    match (http, tcp) {
        (true, true) => "HTTP+TCP",
        (true, false) => "HTTP",
        (false, true) => "TCP",
        (false, false) => "UNKNOWN",
    }
}

fn chains(listener: &Value) -> impl Iterator<Item = &Value> {
    items(listener, &["filterChains"]).chain(field(listener, "defaultFilterChain"))
}

/// A filter's configuration and the last part of its type.
fn typed(filter: &Value) -> Option<(&str, &Value)> {
    let config = field(filter, "typedConfig")?;
    Some((text(config, &["@type"]).rsplit('.').next().unwrap_or_default(), config))
}

fn chain_match(chain: &Value) -> String {
    let texts = |key| items(chain, &[key]).filter_map(Value::as_str).collect::<Vec<_>>();
    let mut parts = Vec::new();
    let names = texts("serverNames");
    if !names.is_empty() {
        parts.push(format!("SNI: {}", names.join(",")));
    }
    match text(chain, &["transportProtocol"]) {
        "" => {}
        transport => parts.push(format!("Trans: {transport}")),
    }
    let protocols = texts("applicationProtocols");
    if !protocols.is_empty() {
        let known = PROTOCOLS.iter().find(|(_, list)| *list == protocols);
        parts.push(known.map_or_else(
            || format!("App: {}", protocols.join(",")),
            |(text, _)| (*text).to_owned(),
        ));
    }
    let ranges: Vec<String> = items(chain, &["prefixRanges"])
        .map(|range| {
            let length = field(range, "prefixLen").map_or_else(|| "0".to_owned(), Value::to_string);
            format!("{}/{length}", text(range, &["addressPrefix"]))
        })
        .collect();
    let port = field(chain, "destinationPort").map(|port| format!(":{port}"));
    match (ranges.is_empty(), port) {
        (true, None) => {}
        (true, Some(port)) => parts.push(format!("Addr: *{port}")),
        (false, port) => parts.push(format!("Addr: {}{}", ranges.join(","), port.unwrap_or_default())),
    }
    parts.join("; ")
}

/// Where a chain leads to.
fn destination(chain: &Value) -> String {
    let found = items(chain, &["filters"])
        .filter_map(typed)
        .find_map(|(kind, config)| match kind {
            "HttpConnectionManager" => Some(routes(config)),
            "TcpProxy" if text(config, &["cluster"]) != "BlackHoleCluster" => Some(clusters(config)),
            _ => None,
        });
    found.unwrap_or_else(|| "Non-HTTP/Non-TCP".to_owned())
}

fn routes(manager: &Value) -> String {
    if let Some(table) = field(manager, "routeConfig") {
        if let Some(cluster) = only_cluster(table) {
            return named(cluster);
        }
        let hosts = items(table, &["virtualHosts"]).map(|host| {
            let domains: Vec<&str> = items(host, &["domains"]).filter_map(Value::as_str).collect();
            let routes: Vec<String> = items(host, &["routes"]).map(match_text).collect();
            match domains[..] {
                ["*"] => routes.join(", "),
                _ => format!("{} {}", domains.join("/"), routes.join(", ")),
            }
        });
        return format!("Inline Route: {}", hosts.collect::<Vec<_>>().join("; "));
    }
    match text(manager, &["rds", "routeConfigName"]) {
        "" => "HTTP".to_owned(),
        name => format!("Route: {name}"),
    }
}

/// A cluster, or several with their weights.
fn clusters(proxy: &Value) -> String {
    match text(proxy, &["cluster"]) {
        "" => {
            let weighted = items(proxy, &["weightedClusters", "clusters"]).map(|cluster| {
                let weight = field(cluster, "weight").map_or_else(|| "0".to_owned(), Value::to_string);
                format!("{}={weight}", name(cluster))
            });
            format!("Clusters: {}", dash(&weighted.collect::<Vec<_>>().join(", ")))
        }
        cluster => named(cluster),
    }
}

fn named(cluster: &str) -> String {
    if cluster.contains("Cluster") {
        cluster.to_owned()
    } else {
        format!("Cluster: {cluster}")
    }
}
