//! The bootstraps that Istio's own agent writes for the same settings, as far as stock Envoy can take them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::build;
use crate::config::{Environment, ProxyConfig, load_for_test};

#[test]
fn bootstraps_are_those_of_the_reference() {
    let Some(reference) = std::env::var_os("LATEEN_REFERENCE") else {
        println!("skipped: LATEEN_REFERENCE is not set");
        return;
    };
    let folder = Path::new(&reference).join("goldens/bootstrap");
    let cases: Value = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let mut compared = 0;
    for case in cases["cases"].as_array().unwrap() {
        let name = case["base"].as_str().unwrap();
        if name == "tracing_lightstep" {
            println!("skipped: {name}: stock Envoy has no such tracer");
            continue;
        }
        let input = case["proxyCfgBase"].as_str().unwrap_or(name);
        let text = std::fs::read_to_string(folder.join(format!("{input}.proxycfg"))).unwrap();
        let golden = std::fs::read(folder.join(format!("{name}_golden.json"))).unwrap();
        let expected = comparable(serde_json::from_slice(&golden).unwrap());
        let actual = comparable(ours(case, &text));
        for (key, value) in &expected {
            assert_eq!(actual.get(key), Some(value), "{name}: {key}");
        }
        let more: Vec<_> = actual.keys().filter(|key| !expected.contains_key(*key)).collect();
        assert!(more.is_empty(), "{name}: {more:?} is not in the reference");
        compared += 1;
    }
    println!("{compared} cases compared");
}

fn ours(case: &Value, text: &str) -> Value {
    let strings =
        |key: &str| -> BTreeMap<String, String> { serde_json::from_value(case[key].clone()).unwrap_or_default() };
    let mut variables = strings("envVars");
    let mut document = proxy_config(text);
    // The reference sets this one by an expression, as metadata of ProxyConfig.
    if let Some(key) = variables.keys().find(|key| key.contains('(')).cloned() {
        let value = variables.remove(&key).unwrap();
        let name = key.split('(').next().unwrap();
        document.insert("proxyMetadata".into(), json!({ name: value }));
    }
    let mut config = load_for_test("sidecar --outlierLogPath /dev/stdout", [("PROXY_CONFIG", "")]).unwrap();
    let mut all = crate::config::proxy_defaults();
    all.remove("controlPlaneAuthPolicy");
    all.extend(document);
    config.proxy = ProxyConfig::from_document(all).unwrap();
    config.instance_ips = ["10.3.3.3", "10.4.4.4", "10.5.5.5", "10.6.6.6"]
        .map(|ip| ip.parse::<IpAddr>().unwrap())
        .to_vec();
    config.ports.admin = config.proxy.proxy_admin_port;
    for (key, port) in [
        ("secureMetricsPort", &mut config.ports.secure_metrics),
        ("secureMergedMetricsPort", &mut config.ports.secure_merged_metrics),
    ] {
        *port = u16::try_from(case[key].as_u64().unwrap_or(0)).unwrap();
    }
    if case["compliancePolicy"] == "fips-140-2" {
        variables.insert("COMPLIANCE_POLICY".into(), "fips-140-2".into());
    }
    let environment = Environment::default().with_defaults(variables);
    config.labels = environment.labels().unwrap();
    config.namespace = environment.get("POD_NAMESPACE").unwrap_or_default().to_owned();
    config.environment = environment;
    config.annotations = strings("annotations");
    build(&config).unwrap()
}

/// What is compared: not the test's own names and paths, not what only Istio's Envoy has.
fn comparable(mut bootstrap: Value) -> Map<String, Value> {
    let node = bootstrap["node"].take();
    bootstrap["node"] = json!({
        "cluster": node["cluster"],
        "locality": node["locality"],
        "labels": node["metadata"]["LABELS"],
        "ips": node["metadata"]["INSTANCE_IPS"],
        "annotations": node["metadata"]["ANNOTATIONS"],
    });
    // Discovery of workloads' metadata is an extension of Istio's Envoy.
    bootstrap.as_object_mut().unwrap().remove("bootstrap_extensions");
    let patterns = bootstrap["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]
        .as_array_mut()
        .unwrap();
    patterns.retain(|pattern| pattern["prefix"] != "workload_discovery");
    let ads = &mut bootstrap["dynamic_resources"]["ads_config"]["grpc_services"][0]["envoy_grpc"];
    ads.as_object_mut().unwrap().remove("retry_policy");
    let clusters = bootstrap["static_resources"]["clusters"].as_array().unwrap().clone();
    let clusters = clusters.into_iter().map(|mut cluster| {
        let name = cluster["name"].as_str().unwrap().to_owned();
        if let Some(pipe) = cluster.pointer_mut("/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/pipe") {
            pipe["path"] = json!("socket");
        }
        (name, cluster)
    });
    bootstrap["static_resources"]["clusters"] = Value::Object(clusters.collect());
    match bootstrap {
        Value::Object(map) => map,
        other => panic!("no object: {other}"),
    }
}

/// ProxyConfig in protobuf's text format, as the JSON that users write.
fn proxy_config(text: &str) -> Map<String, Value> {
    let without_comments: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n");
    let tokens = tokens(&without_comments);
    let mut rest = tokens.as_slice();
    match message(&mut rest) {
        Value::Object(map) => map,
        other => panic!("no object: {other}"),
    }
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => tokens.push(format!(
                "\"{}",
                chars.by_ref().take_while(|c| *c != '"').collect::<String>()
            )),
            '{' | '}' | '[' | ']' => tokens.push(c.to_string()),
            c if c.is_alphanumeric() || c == '_' || c == '-' => {
                let mut word = c.to_string();
                while let Some(next) = chars.next_if(|c| c.is_alphanumeric() || "_-.".contains(*c)) {
                    word.push(next);
                }
                tokens.push(word);
            }
            _ => {}
        }
    }
    tokens
}

fn message(tokens: &mut &[String]) -> Value {
    let mut fields = Map::new();
    while let Some((key, rest)) = tokens.split_first() {
        *tokens = rest;
        if key == "}" {
            break;
        }
        fields.insert(camel_case(key), value(tokens));
    }
    // Durations and wrappers are scalars in JSON.
    let keys: Vec<&str> = fields.keys().map(String::as_str).collect();
    match keys[..] {
        ["seconds"] => json!(format!("{}s", fields["seconds"])),
        ["value"] => fields["value"].take(),
        _ => Value::Object(fields),
    }
}

fn value(tokens: &mut &[String]) -> Value {
    let (token, rest) = tokens.split_first().unwrap();
    *tokens = rest;
    match token.as_str() {
        "{" => message(tokens),
        "[" => {
            let mut items = Vec::new();
            while tokens[0] != "]" {
                items.push(value(tokens));
            }
            *tokens = &tokens[1..];
            // A list of entries is a map.
            let entry = |item: &Value| Some((item.get("key")?.as_str()?.to_owned(), item.get("value")?.clone()));
            let entries: Option<Map<String, Value>> = items.iter().map(entry).collect();
            entries
                .filter(|entries| !entries.is_empty())
                .map_or(Value::Array(items), Value::Object)
        }
        text if text.starts_with('"') => json!(text[1..]),
        "true" => json!(true),
        "false" => json!(false),
        number => number
            .parse::<u64>()
            .map_or_else(|_| json!(number), |number| json!(number)),
    }
}

fn camel_case(key: &str) -> String {
    let mut parts = key.split('_');
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        out.push_str(&part[..1].to_uppercase());
        out.push_str(&part[1..]);
    }
    out
}
