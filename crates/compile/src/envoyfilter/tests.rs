//! Worlds with EnvoyFilters, lowered and compiled.

use lateen_model::Diagnostic;
use serde_json::{Value, json};

use crate::Family;
use crate::testing::{inputs, resources, router, service, sidecar, world};

/// What a sidecar gets of one family, and what is found on the way, with these patches.
fn patched(family: Family, patches: &Value) -> (Vec<Value>, Vec<Diagnostic>) {
    filtered(family, &[(0, patches)])
}

fn filtered(family: Family, filters: &[(i32, &Value)]) -> (Vec<Value>, Vec<Diagnostic>) {
    let mut documents = service("db", &[("10.1.0.9", "", json!({}))]);
    for (at, (priority, patches)) in filters.iter().enumerate() {
        let filter = json!({
            "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
            "metadata": {"name": format!("filter-{at}"), "namespace": "default"},
            "spec": {"priority": priority, "configPatches": patches},
        });
        documents += &format!("---\n{filter}\n");
    }
    let snapshot = world(json!({}), &documents, false);
    let proxy = sidecar("10.1.0.9", "");
    let built = inputs(&snapshot, &proxy, family).into_iter().map(|input| input.build());
    let found = built
        .flat_map(|built| built.diagnostics)
        .chain(snapshot.diagnostics.iter().cloned());
    let errors = found
        .filter(|found| found.severity == lateen_model::Severity::Error)
        .collect();
    (resources(&snapshot, &proxy, &[family]).into_values().collect(), errors)
}

fn named<'a>(all: &'a [Value], name: &str) -> Option<&'a Value> {
    all.iter().find(|one| one["name"] == name)
}

fn http_filters(listener: &Value) -> Vec<Vec<String>> {
    let chains = listener["filterChains"].as_array().unwrap();
    let managers = chains.iter().flat_map(|chain| chain["filters"].as_array().unwrap());
    let managers = managers.filter_map(|filter| filter["typedConfig"]["httpFilters"].as_array());
    managers
        .map(|filters| {
            filters
                .iter()
                .map(|filter| filter["name"].as_str().unwrap().to_owned())
                .collect()
        })
        .collect()
}

fn lua(name: &str) -> Value {
    json!({"name": name, "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": "-- nothing"},
    }})
}

#[test]
fn clusters_are_merged_added_and_removed_by_what_they_are_of() {
    let patches = json!([
        {"applyTo": "CLUSTER", "match": {"context": "SIDECAR_OUTBOUND", "cluster": {"service": "db.default.svc.cluster.local", "portNumber": 80}},
         "patch": {"operation": "MERGE", "value": {"connect_timeout": "7s"}}},
        {"applyTo": "CLUSTER", "match": {"cluster": {"name": "BlackHoleCluster"}}, "patch": {"operation": "REMOVE"}},
        {"applyTo": "CLUSTER", "match": {"context": "GATEWAY"}, "patch": {"operation": "MERGE", "value": {"connect_timeout": "8s"}}},
        {"applyTo": "CLUSTER", "patch": {"operation": "ADD", "value": {"name": "mine", "type": "STATIC", "connect_timeout": "1s"}}},
    ]);
    let (all, found) = patched(Family::OutboundClusters, &patches);
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(
        named(&all, "outbound|80||db.default.svc.cluster.local").unwrap()["connectTimeout"],
        "7s"
    );
    assert_eq!(named(&all, "PassthroughCluster").unwrap()["connectTimeout"], "10s");
    assert!(named(&all, "BlackHoleCluster").is_none());
    assert_eq!(named(&all, "mine").unwrap()["type"], "STATIC");
    let (inbound, _) = patched(Family::InboundClusters, &patches);
    assert!(named(&inbound, "mine").is_none(), "what is of any side is added once");
}

#[test]
fn inbound_clusters_are_found_by_their_service() {
    let by_service = |host: &str| {
        json!([{"applyTo": "CLUSTER", "match": {"context": "SIDECAR_INBOUND", "cluster": {"service": host}},
                "patch": {"operation": "MERGE", "value": {"connect_timeout": "7s"}}}])
    };
    let timeout = |host: &str| {
        let (all, _) = patched(Family::InboundClusters, &by_service(host));
        named(&all, "inbound|8080||").unwrap()["connectTimeout"].clone()
    };
    assert_eq!(timeout("db.default.svc.cluster.local"), "7s");
    assert_ne!(timeout("other.default.svc.cluster.local"), "7s");
}

#[test]
fn filters_of_lower_priority_come_first() {
    let set = |seconds: u32| {
        json!([{"applyTo": "CLUSTER", "match": {"cluster": {"name": "PassthroughCluster"}},
                "patch": {"operation": "MERGE", "value": {"connect_timeout": format!("{seconds}s")}}}])
    };
    let (late, early) = (set(1), set(2));
    let (all, _) = filtered(Family::OutboundClusters, &[(5, &late), (-5, &early)]);
    assert_eq!(named(&all, "PassthroughCluster").unwrap()["connectTimeout"], "1s");
}

#[test]
fn http_filters_go_where_they_are_sent() {
    let insert = |operation: &str, sub: Option<&str>, name: &str| {
        let mut filter = json!({"name": "envoy.filters.network.http_connection_manager"});
        if let Some(sub) = sub {
            filter["subFilter"] = json!({"name": sub});
        }
        json!({"applyTo": "HTTP_FILTER",
               "match": {"context": "SIDECAR_INBOUND", "listener": {"filterChain": {"filter": filter}}},
               "patch": {"operation": operation, "value": lua(name)}})
    };
    let router = "envoy.filters.http.router";
    let patches = json!([
        insert("INSERT_BEFORE", Some(router), "before"),
        insert("INSERT_FIRST", None, "first"),
        insert("INSERT_BEFORE", Some("istio.stats"), "stats"),
        insert("INSERT_BEFORE", Some("nothing.of.this.name"), "lost"),
        insert("INSERT_AFTER", Some("first"), "second"),
    ]);
    let (all, found) = patched(Family::InboundListeners, &patches);
    assert!(found.is_empty(), "{found:?}");
    let managers = http_filters(named(&all, "virtualInbound").unwrap());
    assert!(!managers.is_empty());
    for filters in managers {
        assert_eq!(filters[..2], ["first", "second"]);
        assert_eq!(filters[filters.len() - 3..], ["before", "stats", router]);
    }
}

#[test]
fn a_filter_behind_the_router_is_refused_and_the_rest_applied() {
    let patches = json!([
        {"applyTo": "HTTP_FILTER", "match": {"context": "SIDECAR_INBOUND"}, "patch": {"operation": "ADD", "value": lua("last")}},
        {"applyTo": "LISTENER", "match": {"listener": {"name": "virtualInbound"}},
         "patch": {"operation": "MERGE", "value": {"per_connection_buffer_limit_bytes": 4096}}},
    ]);
    let (all, found) = patched(Family::InboundListeners, &patches);
    let listener = named(&all, "virtualInbound").unwrap();
    assert_eq!(listener["perConnectionBufferLimitBytes"], 4096);
    assert!(http_filters(listener).iter().flatten().all(|name| name != "last"));
    assert_eq!(&*found[0].field, "spec.configPatches[0].patch.operation");
}

#[test]
fn a_value_that_is_no_message_is_named_and_the_rest_applied() {
    let patches = json!([
        {"applyTo": "CLUSTER", "patch": {"operation": "MERGE", "value": {"connect_time": "7s"}}},
        {"applyTo": "CLUSTER", "patch": {"operation": "MERGE", "value": {"alt_stat_name": "x"}}},
        {"applyTo": "BOOTSTRAP", "patch": {"operation": "MERGE", "value": {"node": {"id": "x"}}}},
    ]);
    let (all, found) = patched(Family::OutboundClusters, &patches);
    assert_eq!(named(&all, "PassthroughCluster").unwrap()["altStatName"], "x");
    let told: Vec<(&str, &str)> = found.iter().map(|found| (&*found.field, &*found.message)).collect();
    assert!(
        told.iter()
            .any(|(field, message)| *field == "spec.configPatches[0].patch.value" && message.contains("connect_time")),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|(field, message)| *field == "spec.configPatches[2].applyTo" && message.contains("bootstrapOverride")),
        "{told:?}"
    );
}

#[test]
fn network_filters_and_chains_are_matched_by_port() {
    let patches = json!([
        {"applyTo": "NETWORK_FILTER",
         "match": {"context": "SIDECAR_INBOUND", "listener": {"portNumber": 8080, "filterChain": {"filter": {"name": "envoy.filters.network.http_connection_manager"}}}},
         "patch": {"operation": "MERGE", "value": {"typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "server_name": "mine"}}}},
        {"applyTo": "FILTER_CHAIN", "match": {"context": "SIDECAR_INBOUND", "listener": {"filterChain": {"name": "virtualInbound-blackhole"}}},
         "patch": {"operation": "REMOVE"}},
    ]);
    let (all, found) = patched(Family::InboundListeners, &patches);
    assert!(found.is_empty(), "{found:?}");
    let chains = named(&all, "virtualInbound").unwrap()["filterChains"]
        .as_array()
        .unwrap();
    assert!(named(chains, "virtualInbound-blackhole").is_none());
    for chain in chains {
        for filter in chain["filters"].as_array().unwrap() {
            if filter["name"] == "envoy.filters.network.http_connection_manager" {
                let here = chain["filterChainMatch"]["destinationPort"] == 8080;
                assert_eq!(filter["typedConfig"]["serverName"] == "mine", here);
            }
        }
    }
}

#[test]
fn routes_are_patched_in_tables_and_within_inbound_listeners() {
    let patch = |context: &str| {
        json!([{"applyTo": "HTTP_ROUTE", "match": {"context": context, "routeConfiguration": {"vhost": {"route": {"action": "ROUTE"}}}},
                "patch": {"operation": "MERGE", "value": {"route": {"timeout": "3s"}}}},
               {"applyTo": "VIRTUAL_HOST", "match": {"context": context},
                "patch": {"operation": "ADD", "value": {"name": "mine", "domains": ["mine.test"]}}}])
    };
    let (tables, _) = patched(Family::Routes, &patch("SIDECAR_OUTBOUND"));
    let hosts = named(&tables, "80").unwrap()["virtualHosts"].as_array().unwrap();
    assert!(named(hosts, "mine").is_some());
    assert_eq!(
        named(hosts, "db.default.svc.cluster.local:80").unwrap()["routes"][0]["route"]["timeout"],
        "3s"
    );
    let (listeners, _) = patched(Family::InboundListeners, &patch("SIDECAR_INBOUND"));
    let text = named(&listeners, "virtualInbound").unwrap().to_string();
    assert!(text.contains("mine.test") && text.contains("\"timeout\":\"3s\""));
}

#[test]
fn extension_configurations_are_resources_of_their_own() {
    let patches = json!([{"applyTo": "EXTENSION_CONFIG", "match": {"context": "SIDECAR_INBOUND"},
                          "patch": {"operation": "ADD", "value": lua("mine")}}]);
    let (all, _) = patched(Family::Extensions, &patches);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["name"], "mine");
}

#[test]
fn gateways_ports_are_those_of_their_service() {
    let gateway = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"selector": {"istio": "ingressgateway"},
                 "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]},
    });
    let filter = json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
        "metadata": {"name": "e", "namespace": "default"},
        "spec": {"configPatches": [{
            "applyTo": "ROUTE_CONFIGURATION",
            "match": {"context": "GATEWAY", "routeConfiguration": {"portNumber": 80}},
            "patch": {"operation": "MERGE", "value": {"request_headers_to_remove": ["x"]}}}]},
    });
    let snapshot = world(json!({}), &format!("---\n{gateway}\n---\n{filter}\n"), false);
    let all = resources(&snapshot, &router("10.1.0.9"), &[Family::Routes]);
    assert_eq!(all["http.80"]["requestHeadersToRemove"], json!(["x"]));
}

#[test]
fn only_what_may_be_concerned_is_wrapped() {
    let patches = json!([{"applyTo": "CLUSTER", "match": {"cluster": {"name": "PassthroughCluster"}},
                          "patch": {"operation": "MERGE", "value": {"alt_stat_name": "x"}}}]);
    let filter = json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
        "metadata": {"name": "e", "namespace": "default"}, "spec": {"configPatches": patches},
    });
    let documents = format!("{}---\n{filter}\n", service("db", &[]));
    let snapshot = world(json!({}), &documents, false);
    let all = inputs(&snapshot, &sidecar("10.1.0.9", ""), Family::OutboundClusters);
    let wrapped = all
        .iter()
        .filter(|input| matches!(input, crate::Input::Patched(_)))
        .count();
    assert_eq!((wrapped, all.len() > 2), (1, true));
}
