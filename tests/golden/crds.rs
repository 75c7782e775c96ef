//! The committed CustomResourceDefinitions are those of the types, and those that users' clusters have.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

use lateen_api::{KINDS, crd};
use serde::Deserialize;
use serde_json::Value;

/// Differences from the definitions in users' clusters that are meant, as path prefixes, and why.
const EXPLAINED: &[(&str, &str)] = &[];

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds")
}

#[test]
fn committed_definitions_are_those_of_the_types() {
    let mut stale = Vec::new();
    for info in KINDS {
        let name = crd::file_name(info);
        let generated = serde_yaml::to_string(&crd::crd(info)).unwrap();
        if fs::read_to_string(committed().join(&name)).ok() != Some(generated) {
            stale.push(name);
        }
    }
    assert!(stale.is_empty(), "stale in crds/: {stale:?}; run `cargo xtask crds`");
    let expected: BTreeSet<String> = KINDS.iter().map(crd::file_name).collect();
    let found: BTreeSet<String> = fs::read_dir(committed())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    assert_eq!(found, expected, "crds/ holds other files than one per kind");
}

/// All a definition says that matters to a client or to a stored object, as lines under paths.
fn facts(definition: &Value) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let spec = &definition["spec"];
    let name = spec["names"]["kind"].as_str().unwrap();
    for key in ["group", "scope"] {
        facts.insert(format!("{name}/{key}"), spec[key].to_string());
    }
    for key in ["kind", "listKind", "plural", "singular", "shortNames", "categories"] {
        facts.insert(format!("{name}/names.{key}"), spec["names"][key].to_string());
    }
    for version in spec["versions"].as_array().unwrap() {
        let path = format!("{name}/{}", version["name"].as_str().unwrap());
        for key in ["served", "storage", "subresources"] {
            facts.insert(format!("{path}/{key}"), version[key].to_string());
        }
        for column in version["additionalPrinterColumns"].as_array().into_iter().flatten() {
            let column_path = format!("{path}/column {}", column["name"].as_str().unwrap());
            facts.insert(column_path, format!("{} {}", column["jsonPath"], column["type"]));
        }
        schema_facts(&format!("{path}:"), &version["schema"]["openAPIV3Schema"], &mut facts);
    }
    facts
}

fn schema_facts(path: &str, schema: &Value, facts: &mut BTreeMap<String, String>) {
    let Value::Object(schema) = schema else { return };
    for (key, value) in schema {
        match key.as_str() {
            "description" => {}
            "properties" => {
                for (name, property) in value.as_object().unwrap() {
                    schema_facts(&format!("{path}.{name}"), property, facts);
                }
            }
            "items" => schema_facts(&format!("{path}[]"), value, facts),
            "additionalProperties" => schema_facts(&format!("{path}{{}}"), value, facts),
            // A set.
            "x-kubernetes-validations" => {
                for rule in value.as_array().unwrap() {
                    let words: Vec<&str> = rule["rule"].as_str().unwrap().split_whitespace().collect();
                    facts.insert(format!("{path} rule {}", words.join(" ")), rule["message"].to_string());
                }
            }
            "required" | "enum" => {
                let set: BTreeSet<String> = value.as_array().unwrap().iter().map(Value::to_string).collect();
                facts.insert(format!("{path} {key}"), format!("{set:?}"));
            }
            "minimum" | "maximum" => {
                facts.insert(format!("{path} {key}"), value.as_f64().unwrap().to_string());
            }
            _ => {
                facts.insert(format!("{path} {key}"), value.to_string());
            }
        }
    }
}

#[test]
fn definitions_agree_with_those_in_users_clusters() {
    let Ok(reference) = env::var("LATEEN_REFERENCE") else {
        println!("skipped: LATEEN_REFERENCE is not set, so there is nothing to compare crds/ with");
        return;
    };
    let text = fs::read_to_string(Path::new(&reference).join("reference/istio-crds.yaml")).unwrap();
    let mut theirs = BTreeMap::new();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = Value::deserialize(document).unwrap();
        if !value.is_null() {
            theirs.append(&mut facts(&value));
        }
    }
    let mut ours = BTreeMap::new();
    for definition in crd::all() {
        ours.append(&mut facts(&definition));
    }

    let mut differences = Vec::new();
    for path in theirs.keys().chain(ours.keys()).collect::<BTreeSet<_>>() {
        let (theirs, ours) = (theirs.get(path), ours.get(path));
        if theirs != ours && !EXPLAINED.iter().any(|(prefix, _)| path.starts_with(prefix)) {
            differences.push(format!("{path}: theirs {theirs:?}, ours {ours:?}"));
        }
    }
    println!(
        "{} facts compared, {} explained prefixes",
        theirs.len(),
        EXPLAINED.len()
    );
    for (prefix, reason) in EXPLAINED {
        println!("explained: {prefix}: {reason}");
        let used = theirs.keys().chain(ours.keys()).any(|path| path.starts_with(prefix));
        assert!(used, "the explanation of {prefix} explains nothing");
    }
    assert!(
        differences.is_empty(),
        "{} unexplained differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
}
