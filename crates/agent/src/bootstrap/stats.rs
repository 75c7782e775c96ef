//! Which statistics Envoy keeps, how their names become tags, and where they are sent.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{socket_address, user_address};
use crate::config::{AgentConfig, parse_duration};

/// Tags and the expressions that cut them out of statistics' names.
const TAGS: [(&str, &str); 9] = [
    ("cluster_name", r"^cluster(\.(.+);)"),
    (
        "http_conn_manager_prefix",
        r"^http\.(((?:[_.[:digit:]\w]*|[_\[\]aAbBcCdDeEfF[:digit:]\w\:]*));\.)",
    ),
    ("thread_name", r"^server(\.(.+))\.watchdog"),
    ("tcp_prefix", r"^tcp\.((.*?)\.)\w+?$"),
    ("response_code", r"_rq(_(\d{3}))$"),
    ("response_code_class", r"_rq(_(\dxx))$"),
    (
        "http_conn_manager_listener_prefix",
        r"^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
    ),
    (
        "listener_address",
        r"^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
    ),
    (
        "mongo_prefix",
        r"^mongo\.(.+?)\.(collection|cmd|cx_|op_|delays_|decoding_)(.*?)$",
    ),
];
const LATER_TAGS: [(&str, &str); 7] = [
    ("cache", r"(cache\.(.+?)\.)"),
    ("component", r"(component\.(.+?)\.)"),
    ("tag", r"(tag\.(.+?);\.)"),
    ("wasm_filter", r"(wasm_filter\.(.+?)\.)"),
    ("authz_enforce_result", r"rbac(\.(allowed|denied))"),
    ("authz_dry_run_action", r"(\.istio_dry_run_(allow|deny)_)"),
    ("authz_dry_run_result", r"(\.shadow_(allowed|denied))"),
];
/// Readiness, draining and the mesh's dashboards need these.
const PREFIXES: [&str; 5] = [
    "cluster_manager",
    "listener_manager",
    "server",
    "cluster.xds-grpc",
    "wasm",
];
const SUFFIXES: [&str; 4] = ["rbac.allowed", "rbac.denied", "shadow_allowed", "shadow_denied"];
const DRAIN_SUFFIX: &str = "downstream_cx_active";
const REGEXP: &str = r"vhost\..*\.route\..*";

/// Tags, histograms' buckets and the inclusion list.
pub(super) fn config(config: &AgentConfig) -> Value {
    let tag = |(name, regex): (&str, String)| json!({ "tag_name": name, "regex": regex });
    let fixed =
        |tags: &'static [(&'static str, &'static str)]| tags.iter().map(|(name, regex)| (*name, (*regex).to_owned()));
    let extra = extra_tags(config);
    let own = extra
        .iter()
        .map(|name| (name.as_str(), format!(r"({name}=\.=(.*?);\.;)")));
    let tags: Vec<Value> = fixed(&TAGS).chain(own).chain(fixed(&LATER_TAGS)).map(tag).collect();
    let mut stats = json!({
        "use_all_default_tags": false,
        "stats_tags": tags,
        "stats_matcher": { "inclusion_list": { "patterns": patterns(config) } },
    });
    if let Some(buckets) = buckets(config) {
        stats["histogram_bucket_settings"] = buckets;
    }
    stats
}

fn extra_tags(config: &AgentConfig) -> Vec<String> {
    let annotation = config
        .annotations
        .get("sidecar.istio.io/extraStatTags")
        .map(String::as_str)
        .unwrap_or_default();
    let mut tags: Vec<String> = Vec::new();
    for tag in config
        .proxy
        .extra_stat_tags
        .iter()
        .map(String::as_str)
        .chain(annotation.split(','))
    {
        if !tag.is_empty() && !tags.iter().any(|seen| seen == tag) {
            tags.push(tag.to_owned());
        }
    }
    tags
}

fn patterns(config: &AgentConfig) -> Vec<Value> {
    let matcher = &config.proxy.proxy_stats_matcher;
    // An annotation replaces ProxyConfig's list; what the mesh needs is always there.
    let list = |annotation: &str, configured: &Option<Vec<String>>, needed: &[&str]| {
        let annotated = config.annotations.get(annotation).filter(|text| !text.is_empty());
        let mut wanted: Vec<String> = match annotated {
            Some(text) => text.split(',').map(str::to_owned).collect(),
            None => configured.clone().unwrap_or_default(),
        };
        wanted.extend(needed.iter().map(|needed| (*needed).to_owned()));
        with_pod_ips(wanted, &config.instance_ips)
    };
    let prefixes = list(
        "sidecar.istio.io/statsInclusionPrefixes",
        &matcher.inclusion_prefixes,
        &PREFIXES,
    );
    let mut needed = SUFFIXES.to_vec();
    if config.drain.exit_on_zero_connections {
        needed.push(DRAIN_SUFFIX);
    }
    let suffixes = list(
        "sidecar.istio.io/statsInclusionSuffixes",
        &matcher.inclusion_suffixes,
        &needed,
    );
    let regexps = list(
        "sidecar.istio.io/statsInclusionRegexps",
        &matcher.inclusion_regexps,
        &[REGEXP],
    );
    let prefix = |text: &str| json!({ "prefix": text });
    std::iter::once(prefix("reporter="))
        .chain(prefixes.iter().map(|text| prefix(text)))
        .chain(suffixes.iter().map(|text| json!({ "suffix": text })))
        .chain(regexps.iter().map(|text| json!({ "safe_regex": { "regex": text } })))
        .chain(["component", "istio"].map(prefix))
        .collect()
}

/// `{pod_ip}` stands for each address of the pod.
fn with_pod_ips(patterns: Vec<String>, ips: &[IpAddr]) -> Vec<String> {
    let expand = |pattern: String| -> Vec<String> {
        if !pattern.contains("{pod_ip}") {
            return vec![pattern];
        }
        ips.iter()
            .map(|ip| pattern.replace("{pod_ip}", &ip.to_string()))
            .collect()
    };
    patterns.into_iter().flat_map(expand).collect()
}

fn buckets(config: &AgentConfig) -> Option<Value> {
    let text = config.annotations.get("sidecar.istio.io/statsHistogramBuckets")?;
    match serde_json::from_str::<std::collections::BTreeMap<String, Vec<serde_json::Number>>>(text) {
        Ok(buckets) => {
            let setting = |(prefix, buckets)| json!({ "match": { "prefix": prefix }, "buckets": buckets });
            Some(Value::Array(buckets.into_iter().map(setting).collect()))
        }
        Err(error) => {
            tracing::warn!(%error, "annotation sidecar.istio.io/statsHistogramBuckets must map prefixes to lists of numbers; ignored");
            None
        }
    }
}

/// How often statistics are flushed, and unused ones forgotten.
pub(super) fn intervals(config: &AgentConfig, bootstrap: &mut Map<String, Value>) {
    let read = |key: &str| {
        let text = config.annotations.get(key)?;
        parse_duration(text)
            .inspect_err(|error| tracing::warn!(%error, annotation = key, "ignored"))
            .ok()
    };
    let mut flush = Duration::from_secs(5);
    if let Some(interval) = read("sidecar.istio.io/statsFlushInterval") {
        flush = interval;
        bootstrap.insert("stats_flush_interval".into(), json!(seconds(interval)));
    }
    if let Some(interval) = read("sidecar.istio.io/statsEvictionInterval") {
        if !flush.is_zero() && interval.as_nanos().is_multiple_of(flush.as_nanos()) {
            bootstrap.insert("stats_eviction_interval".into(), json!(seconds(interval)));
        } else {
            tracing::warn!(
                "annotation sidecar.istio.io/statsEvictionInterval must be a multiple of the flush interval; ignored"
            );
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

/// Where statistics are pushed to.
pub(super) fn sinks(config: &AgentConfig) -> anyhow::Result<Vec<Value>> {
    let mut sinks = Vec::new();
    if config
        .proxy
        .envoy_metrics_service
        .as_ref()
        .is_some_and(|service| !service.address.is_empty())
    {
        sinks.push(json!({
            "name": "envoy.stat_sinks.metrics_service",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.metrics.v3.MetricsServiceConfig",
                "transport_api_version": "V3",
                "grpc_service": { "envoy_grpc": { "cluster_name": "envoy_metrics_service" } },
            },
        }));
    }
    if !config.proxy.statsd_udp_address.is_empty() {
        let (host, port) = user_address(
            &config.proxy.statsd_udp_address,
            "statsdUdpAddress",
            &config.environment,
        )?;
        match resolve(&host, port) {
            Ok(ip) => sinks.push(json!({
                "name": "envoy.stat_sinks.statsd",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.config.metrics.v3.StatsdSink",
                    "address": socket_address(&ip.to_string(), port),
                },
            })),
            Err(error) => {
                tracing::warn!(%error, host, "ProxyConfig.statsdUdpAddress does not resolve; no statistics are sent")
            }
        }
    }
    Ok(sinks)
}

/// Envoy wants an address here, not a name.
fn resolve(host: &str, port: u16) -> std::io::Result<IpAddr> {
    use std::net::ToSocketAddrs as _;
    let mut addresses = (host, port).to_socket_addrs()?;
    addresses
        .next()
        .map(|address| address.ip())
        .ok_or_else(|| std::io::ErrorKind::NotFound.into())
}
