//! Extensions of lowered worlds.

use serde_json::{Value, json};

use crate::Family;
use crate::testing::{inputs, resources, router, service, sidecar, world};

/// A TrafficExtension or WasmPlugin of `default`.
fn object(kind: &str, name: &str, spec: Value) -> String {
    let document = json!({
        "apiVersion": "extensions.istio.io/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    });
    format!("---\n{document}\n")
}

fn plugin(name: &str, more: Value) -> String {
    let mut spec = json!({"url": "registry.test/plugin:v1"});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    object("WasmPlugin", name, spec)
}

const GATEWAY: &str = "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
";

/// Names of the HTTP filters of a gateway's listener, without what comes with every one.
fn filters(objects: &str) -> Vec<String> {
    let snapshot = world(json!({}), &format!("{GATEWAY}{objects}"), false);
    let listeners = resources(&snapshot, &router("10.1.0.9"), &[Family::OutboundListeners]);
    let chain = &listeners["0.0.0.0_80"]["filterChains"][0];
    let chain = chain["filters"].as_array().unwrap();
    let manager = chain.last().unwrap();
    let http = manager["typedConfig"]["httpFilters"].as_array().unwrap();
    let names = chain.iter().chain(http).map(|filter| filter["name"].as_str().unwrap());
    let own = names.filter_map(|name| name.strip_prefix("extensions.istio.io/trafficextension/default."));
    own.map(|name| name.replace("~istio-translated-wasmplugin", ""))
        .collect()
}

#[test]
fn phases_stand_in_order_and_within_them_priorities() {
    let objects = [
        plugin("late", json!({})),
        plugin("stats", json!({"phase": "STATS"})),
        plugin("low", json!({"phase": "AUTHN", "priority": 1})),
        plugin("high", json!({"phase": "AUTHN", "priority": 2})),
        plugin("unsaid", json!({"phase": "AUTHN"})),
        plugin("bytes", json!({"phase": "STATS", "type": "NETWORK"})),
        object(
            "TrafficExtension",
            "script",
            json!({"phase": "AUTHZ", "lua": {"inlineCode": "x = 1"}}),
        ),
    ];
    let expected = ["bytes", "high", "low", "unsaid", "script", "stats", "late"];
    assert_eq!(filters(&objects.concat()), expected);
}

#[test]
fn traffic_and_workloads_are_chosen() {
    let matching = |matched: Value| plugin("one", json!({"match": [matched]}));
    assert_eq!(filters(&matching(json!({"mode": "CLIENT"}))), ["one"]);
    assert_eq!(filters(&matching(json!({"mode": "SERVER"}))), [""; 0]);
    assert_eq!(filters(&matching(json!({"ports": [{"number": 80}]}))), ["one"]);
    assert_eq!(filters(&matching(json!({"ports": [{"number": 81}]}))), [""; 0]);
    let selecting = |label: &str| plugin("one", json!({"selector": {"matchLabels": {"istio": label}}}));
    assert_eq!(filters(&selecting("ingressgateway")), ["one"]);
    assert_eq!(filters(&selecting("egressgateway")), [""; 0]);
}

#[test]
fn a_module_is_configured_apart() {
    let text = json!({"auths": {}}).to_string();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": "pull", "namespace": "default"}, "stringData": {".dockerconfigjson": text},
    });
    let spec = json!({
        "imagePullSecret": "pull", "imagePullPolicy": "Always", "failStrategy": "FAIL_RELOAD", "pluginName": "root",
        "pluginConfig": {"b": 1, "a": [true]},
        "vmConfig": {"env": [{"name": "X", "value": "y"}, {"name": "HOME", "valueFrom": "HOST"}]},
    });
    let one = plugin("one", spec);
    let found = |objects: &str| {
        let snapshot = world(json!({}), objects, false);
        let all = inputs(&snapshot, &router("10.1.0.9"), Family::Extensions);
        let built: Vec<_> = all.iter().map(|input| input.build()).collect();
        assert_eq!(built.len(), 1);
        let name = "extensions.istio.io/trafficextension/default.one~istio-translated-wasmplugin";
        let json = resources(&snapshot, &router("10.1.0.9"), &[Family::Extensions])[name].clone();
        (json["typedConfig"]["config"].clone(), built[0].clone())
    };
    let (config, built) = found(&format!("{one}---\n{secret}\n"));
    assert!(built.diagnostics.is_empty(), "{:?}", built.diagnostics);
    assert_eq!(config["rootId"], "root");
    assert_eq!(config["failurePolicy"], "FAIL_RELOAD");
    assert_eq!(config["configuration"]["value"], r#"{"a":[true],"b":1}"#);
    let vm = &config["vmConfig"];
    assert_eq!(vm["code"]["remote"]["httpUri"]["uri"], "oci://registry.test/plugin:v1");
    assert_eq!(
        vm["environmentVariables"],
        json!({"hostEnvKeys": ["HOME"], "keyValues": {
            "X": "y", "ISTIO_META_WASM_IMAGE_PULL_SECRET": text, "ISTIO_META_WASM_IMAGE_PULL_POLICY": "Always",
            "ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION": "1"}})
    );
    let bytes = built.resource.unwrap().bytes;
    assert!(!String::from_utf8_lossy(&super::public(&bytes)).contains("auths"));

    // Without the Secret there is a finding, and the agent is told that one is wanted.
    let (config, built) = found(&one);
    assert_eq!(&*built.diagnostics[0].field, "spec.imagePullSecret");
    let variables = &config["vmConfig"]["environmentVariables"]["keyValues"];
    assert_eq!(variables["ISTIO_META_WASM_IMAGE_PULL_SECRET"], "");
}

#[test]
fn what_is_for_servers_alone_widens_no_class_of_callers() {
    let plugin = plugin(
        "one",
        json!({"selector": {"matchLabels": {"app": "caller"}}, "match": [{"mode": "SERVER"}]}),
    );
    let snapshot = world(json!({}), &format!("{}{plugin}", service("web", &[])), false);
    let selected = sidecar("10.1.0.9", "");
    let mut other = selected.clone();
    other.labels.clear();
    let classes = |proxy| crate::Classes::of(&snapshot, proxy);
    assert_eq!(classes(&selected).listeners, classes(&other).listeners);
    assert_eq!(classes(&selected).outbound, classes(&other).outbound);
    assert_ne!(classes(&selected).inbound, classes(&other).inbound);
    assert_ne!(classes(&selected).extensions, classes(&other).extensions);
}
