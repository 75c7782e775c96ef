//! Which objects are let in, beside what Istio's admission says of them.

use lateen_lower::{Admission, Kind, Object, yaml};
use lateen_validate::Level;
use serde_json::Value;

use crate::world::{errors, reference, world};

const KINDS: [&str; 9] = [
    "VirtualService",
    "DestinationRule",
    "Gateway",
    "Sidecar",
    "EnvoyFilter",
    "PeerAuthentication",
    "RequestAuthentication",
    "AuthorizationPolicy",
    "Telemetry",
];

/// Errors and warnings about a document; `None` for kinds that are not checked.
fn judge(admission: &Admission, document: &Value) -> Option<(Vec<String>, Vec<String>)> {
    let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    let kind = Kind::find(group, text("kind"))?;
    if !KINDS.contains(&kind.name()) || group == "gateway.networking.k8s.io" {
        return None;
    }
    let decoded = match Object::decode(kind, document) {
        Ok(decoded) => decoded,
        Err(error) => return Some((vec![error.to_string()], Vec::new())),
    };
    let findings = admission.check(document, &decoded.value, &decoded.unknown);
    let of = |level| {
        findings
            .iter()
            .filter(|finding| finding.level == level)
            .map(ToString::to_string)
            .collect()
    };
    Some((of(Level::Error), of(Level::Warning)))
}

fn name(document: &Value) -> (String, String, String) {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let namespace = text("/metadata/namespace").unwrap_or_else(|| "default".to_owned());
    (
        text("/kind").unwrap_or_default(),
        namespace,
        text("/metadata/name").unwrap_or_default(),
    )
}

#[test]
fn the_same_objects_are_let_in_and_warned_about() {
    let Some(folder) = reference("corpus") else { return };
    let admission = Admission::new();
    let mut wrong = Vec::new();
    let mut judged = 0;
    let mut scenarios: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    scenarios.sort();
    for scenario in scenarios {
        let (Ok(input), Ok(expected)) = (
            std::fs::read_to_string(scenario.join("input.yaml")),
            std::fs::read_to_string(scenario.join("expected/validation.json")),
        ) else {
            continue;
        };
        let expected: Vec<Value> = serde_json::from_str(&expected).unwrap();
        for document in yaml::documents(&input).map(Result::unwrap) {
            let Some((errors, warnings)) = judge(&admission, &document) else {
                continue;
            };
            let (kind, namespace, name) = name(&document);
            let Some(verdict) = expected.iter().find(|verdict| {
                verdict["kind"] == kind
                    && verdict["name"] == name
                    && verdict["namespace"].as_str().unwrap_or("default") == namespace
            }) else {
                continue;
            };
            judged += 1;
            let warned = verdict["warnings"]
                .as_array()
                .is_some_and(|warnings| !warnings.is_empty());
            if verdict["accepted"] != errors.is_empty() || warned == warnings.is_empty() {
                wrong.push(format!(
                    "{} {kind} {namespace}/{name}\n  Istio: {verdict}\n  ours: {errors:?} {warnings:?}",
                    scenario.display()
                ));
            }
        }
    }
    println!("{judged} objects judged");
    assert!(
        wrong.is_empty(),
        "{} of {judged} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn istios_examples_of_good_and_bad_objects() {
    let Some(folder) = reference("goldens/validation/crds") else {
        return;
    };
    let admission = Admission::new();
    let mut wrong = Vec::new();
    let mut judged = 0;
    for file in [
        "authz",
        "destinationrule",
        "envoyfilter",
        "peerauth",
        "reqauth",
        "telemetry",
    ] {
        for side in ["valid", "invalid"] {
            let path = folder.join(format!("{file}-{side}.yaml"));
            let text = std::fs::read_to_string(&path).unwrap();
            for mut document in yaml::documents(&text)
                .map(Result::unwrap)
                .filter(|document| !document.is_null())
            {
                let expected = document.as_object_mut().and_then(|document| document.remove("_err"));
                let Some((errors, _)) = judge(&admission, &document) else {
                    continue;
                };
                judged += 1;
                if expected.is_some() == errors.is_empty() {
                    wrong.push(format!("{}: {expected:?} but {errors:?}\n  {document}", path.display()));
                }
            }
        }
    }
    println!("{judged} examples judged");
    assert!(
        wrong.is_empty(),
        "{} of {judged} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn what_is_let_in_is_lowered_whole() {
    let Some(folder) = reference("corpus") else { return };
    let mut wrong = Vec::new();
    let mut scenarios: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    scenarios.sort();
    for scenario in scenarios
        .iter()
        .filter(|path| !path.to_string_lossy().contains("/invalid-"))
    {
        let Ok(input) = std::fs::read_to_string(scenario.join("input.yaml")) else {
            continue;
        };
        let snapshot = world(&input);
        // Missing references, refused grants and delegates at odds with their root are what some scenarios are about.
        let errors = errors(&snapshot).into_iter().filter(|error| error.code != "IST0101");
        let errors =
            errors.filter(|error| KINDS.contains(&&*error.object.kind) || error.object.kind.ends_with("Route"));
        let errors =
            errors.filter(|error| !error.message.contains("ReferenceGrant") && !error.field.ends_with(".delegate"));
        wrong.extend(errors.map(|error| format!("{}: {error}", scenario.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
