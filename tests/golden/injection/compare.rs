//! Objects compared by what Kubernetes and the agent read in them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Lists that are sets by a key, by the name of the field.
const KEYED: &[(&str, &str)] = &[
    ("env", "name"),
    ("volumeMounts", "mountPath"),
    ("volumes", "name"),
    ("ports", "containerPort"),
    ("imagePullSecrets", "name"),
    ("sysctls", "name"),
];

/// Annotations that hold JSON.
const JSON: &[&str] = &[
    "sidecar.istio.io/status",
    "proxy.istio.io/overrides",
    "k8s.v1.cni.cncf.io/networks",
];

/// Fields that Go writes though they are empty, false or zero.
const EMPTY: &[&str] = &[
    "resources",
    "strategy",
    "updateStrategy",
    "metadata",
    "paused",
    "test",
    "minReadySeconds",
];

/// Where two objects differ, a line for each place.
pub(crate) fn differences(ours: &Value, theirs: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk("", &normal("", ours), &normal("", theirs), &mut found);
    found
}

fn walk(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in ours {
                walk(
                    &format!("{path}.{key}"),
                    value,
                    theirs.get(key).unwrap_or(&Value::Null),
                    found,
                );
            }
            for (key, value) in theirs.iter().filter(|(key, _)| !ours.contains_key(*key)) {
                walk(&format!("{path}.{key}"), &Value::Null, value, found);
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                walk(&format!("{path}[{index}]"), ours, theirs, found);
            }
        }
        (ours, theirs) if ours == theirs => {}
        (ours, theirs) => found.push(format!("{path}: {ours}, not {theirs}")),
    }
}

/// A value with everything left out or made alike that means the same.
fn normal(field: &str, value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(normal_object(field, map)),
        Value::Array(items) => {
            let key = KEYED.iter().find(|(name, _)| *name == field).map(|(_, key)| *key);
            let mut items: Vec<Value> = items.iter().map(|item| normal("", item)).collect();
            // A volume without source is an empty directory.
            for volume in items.iter_mut().filter(|_| field == "volumes") {
                if let Some(fields) = volume.as_object_mut().filter(|fields| fields.len() == 1) {
                    fields.insert("emptyDir".to_owned(), json!({}));
                }
            }
            // In the status they are names.
            if let Some(key) = key.filter(|_| items.iter().all(Value::is_object)) {
                items.sort_by_key(|item| item[key].to_string());
                return Value::Object(
                    items
                        .into_iter()
                        .map(|item| (item[key].to_string().trim_matches('"').to_owned(), item))
                        .collect(),
                );
            }
            Value::Array(items)
        }
        other => other.clone(),
    }
}

fn normal_object(field: &str, map: &Map<String, Value>) -> Map<String, Value> {
    let mut normal_map = Map::new();
    let variable = map.get("name").and_then(Value::as_str).unwrap_or_default();
    for (key, value) in map {
        let is_list = value.as_array().is_some_and(Vec::is_empty);
        let is_empty = value.as_object().is_some_and(Map::is_empty) || *value == false || *value == 0;
        // The status is the controllers' to write.
        if value.is_null() || is_list || key == "status" || (is_empty && EMPTY.contains(&key.as_str())) {
            continue;
        }
        let value = match value {
            Value::String(text) if field == "annotations" && JSON.contains(&key.as_str()) => json_in(text),
            Value::String(text) if key == "value" && is_json(variable) => json_in(text),
            Value::String(text) if key == "value" => Value::String(text.trim_end().to_owned()),
            Value::String(_) | Value::Number(_) if ["limits", "requests"].contains(&field) => quantity(value),
            // Zero is what a probe without it has.
            Value::Number(number) if key == "initialDelaySeconds" && number.as_i64() == Some(0) => continue,
            value => normal(key, value),
        };
        // An empty value is no value.
        if key == "value" && value == "" {
            continue;
        }
        normal_map.insert(key.clone(), value);
    }
    normal_map
}

fn is_json(variable: &str) -> bool {
    [
        "PROXY_CONFIG",
        "ISTIO_META_POD_PORTS",
        "ISTIO_KUBE_APP_PROBERS",
        "ISTIO_PROMETHEUS_ANNOTATIONS",
    ]
    .contains(&variable)
}

fn json_in(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(value) => json!({ "json": normal("", &value) }),
        Err(_) => Value::String(text.to_owned()),
    }
}

/// An amount, in thousandths.
fn quantity(value: &Value) -> Value {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let units: BTreeMap<&str, f64> = [
        ("m", 1.0),
        ("", 1e3),
        ("k", 1e6),
        ("M", 1e9),
        ("G", 1e12),
        ("Ki", 1024.0 * 1e3),
        ("Mi", 1024.0 * 1024.0 * 1e3),
        ("Gi", 1024.0 * 1024.0 * 1024.0 * 1e3),
    ]
    .into();
    let end = text
        .find(|letter: char| letter.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    json!(number.parse::<f64>().unwrap() * units[unit])
}
