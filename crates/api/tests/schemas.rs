//! What must hold of every schema, whatever the kind.

use lateen_api::crd::{ObjectSchema, all};
use lateen_api::{Duration, KINDS, decode_object, kind, networking};
use proptest::prelude::*;
use serde_json::{Value, json};

fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), visit);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            walk(&schema[key], &format!("{path}[]"), visit);
        }
    }
}

#[test]
fn schemas_are_structural_and_described() {
    for crd in all() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        walk(&schema["properties"]["spec"], kind, &mut |path, schema| {
            let free = schema["x-kubernetes-int-or-string"] == true;
            assert!(free || schema["type"].is_string(), "{path} has no type");
            for forbidden in ["$ref", "$defs", "title", "default", "const", "x-items", "x-values"] {
                assert!(schema[forbidden].is_null(), "{path} has {forbidden}");
            }
            if let Some(pattern) = schema["pattern"].as_str() {
                regex::Regex::new(pattern).unwrap();
            }
            if !path.ends_with("[]") {
                assert!(schema["description"].is_string(), "{path} has no description");
            }
        });
    }
}

#[test]
fn kinds_are_found_in_their_served_versions() {
    for info in KINDS {
        assert!(info.versions.contains(&info.storage_version), "{info:?}");
        for version in info.versions {
            let found = kind(&format!("{}/{version}", info.group), info.kind).unwrap();
            assert_eq!(found.crd_name(), info.crd_name());
        }
        assert!(kind(&format!("{}/v9", info.group), info.kind).is_none());
    }
    assert!(kind("v1", "Service").is_none());
}

#[test]
fn exclusive_fields_exclude_each_other() {
    let object = |spec: Value| json!({ "spec": spec });
    let schema = ObjectSchema::of(kind("networking.istio.io/v1", "VirtualService").unwrap());
    let route = |uri: Value| object(json!({ "http": [{ "match": [{ "uri": uri }] }] }));
    assert_eq!(schema.check(&route(json!({ "exact": "" }))), []);
    let found = schema.check(&route(json!({ "exact": "", "prefix": "/" })));
    assert_eq!(
        found[0].to_string(),
        "spec.http[0].match[0].uri: Invalid value: spec.http[0].match[0].uri in body must validate one and only one schema (oneOf)"
    );

    let schema = ObjectSchema::of(kind("networking.istio.io/v1", "DestinationRule").unwrap());
    let hash =
        |hash: Value| object(json!({ "host": "a", "trafficPolicy": { "loadBalancer": { "consistentHash": hash } } }));
    assert_eq!(schema.check(&hash(json!({ "useSourceIp": true, "maglev": {} }))), []);
    assert_eq!(
        schema
            .check(&hash(json!({ "useSourceIp": true, "httpHeaderName": "a" })))
            .len(),
        1
    );
    assert_eq!(schema.check(&hash(json!({ "ringHash": {}, "maglev": {} }))).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn durations_survive_writing_and_reading(nanos in any::<i64>()) {
        let duration = Duration::from_nanos(nanos);
        prop_assert_eq!(duration.to_string().parse::<Duration>().unwrap(), duration);
    }

    #[test]
    fn parsing_a_duration_never_panics(text in "[-+0-9.hmsunµ ]{0,12}") {
        let _ = text.parse::<Duration>();
    }

    #[test]
    fn decoding_never_panics_and_names_what_it_leaves_out(key in "[a-zA-Z_.]{1,8}", number in any::<f64>()) {
        let json = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {},
            "spec": { "hosts": ["a"], key.as_str(): number },
        });
        match decode_object::<networking::VirtualService>(&json) {
            Ok(decoded) => prop_assert!(decoded.unknown.len() <= 1),
            Err(error) => prop_assert!(error.path.starts_with("spec")),
        }
    }
}
