//! Structural schemas (OpenAPI v3 as CustomResourceDefinitions have it), without CEL.

use lateen_validate::Finding;
use regex::Regex;
use serde_json::{Map, Value};

use super::error;

/// Checks a whole object. `apiVersion`, `kind` and `metadata` are not the schema's business.
pub(super) fn check(schema: &Value, object: &Value, findings: &mut Vec<Finding>) {
    let Some(Value::Object(properties)) = schema.get("properties") else {
        return;
    };
    if let Some(required) = schema.get("required").and_then(Value::as_array) {
        for name in required
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| object.get(*name).is_none())
        {
            findings.push(error(name, "it is required".to_owned()));
        }
    }
    if let (Some(schema), Some(spec)) = (properties.get("spec"), object.get("spec")) {
        value(schema, spec, "spec", findings);
    }
}

fn value(schema: &Value, given: &Value, path: &str, findings: &mut Vec<Finding>) {
    // Null is absence: the API server drops such fields.
    if given.is_null() {
        return;
    }
    let mut wrong = |message: String| findings.push(error(path, message));
    if let Some(expected) = schema.get("type").and_then(Value::as_str) {
        let either = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
        let fits = match expected {
            "object" => given.is_object(),
            "array" => given.is_array(),
            "string" => given.is_string(),
            "boolean" => given.is_boolean(),
            "integer" => given.is_i64() || given.is_u64() || given.as_f64().is_some_and(|number| number.fract() == 0.0),
            "number" => given.is_number(),
            _ => true,
        };
        if !fits && !either {
            wrong(format!("must be of type {expected}"));
            return;
        }
    }
    if let Some(allowed) = schema
        .get("enum")
        .and_then(Value::as_array)
        .filter(|allowed| !allowed.contains(given))
    {
        let names = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        wrong(format!("{given} is none of {names}"));
    }
    let limit = |key: &str| schema.get(key).and_then(Value::as_f64);
    let mut within = |size: f64, least: &str, most: &str, what: &str| {
        if let Some(limit) = limit(least).filter(|limit| size < *limit) {
            wrong(format!("must have {what} of at least {limit}"));
        }
        if let Some(limit) = limit(most).filter(|limit| size > *limit) {
            wrong(format!("must have {what} of at most {limit}"));
        }
    };
    match given {
        Value::Number(number) => within(number.as_f64().unwrap_or_default(), "minimum", "maximum", "a value"),
        Value::String(text) => {
            within(text.chars().count() as f64, "minLength", "maxLength", "a length");
            let pattern = schema.get("pattern").and_then(Value::as_str);
            if let Some(pattern) =
                pattern.filter(|pattern| Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text)))
            {
                findings.push(error(path, format!("`{text}` does not match {pattern}")));
            }
        }
        Value::Array(items) => {
            within(items.len() as f64, "minItems", "maxItems", "a number of items");
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    value(schema, item, &format!("{path}[{index}]"), findings);
                }
            }
        }
        Value::Object(fields) => {
            within(
                fields.len() as f64,
                "minProperties",
                "maxProperties",
                "a number of entries",
            );
            object(schema, fields, path, findings);
        }
        Value::Bool(_) | Value::Null => {}
    }
    combinations(schema, given, path, findings);
}

fn object(schema: &Value, fields: &Map<String, Value>, path: &str, findings: &mut Vec<Finding>) {
    let required = schema.get("required").and_then(Value::as_array);
    for name in required.into_iter().flatten().filter_map(Value::as_str) {
        if fields.get(name).is_none_or(Value::is_null) {
            findings.push(error(&format!("{path}.{name}"), "it is required".to_owned()));
        }
    }
    let properties = schema.get("properties");
    let additional = schema.get("additionalProperties").filter(|schema| schema.is_object());
    for (name, field) in fields {
        // Fields that the schema does not have were found when the object was read.
        if let Some(schema) = properties.and_then(|properties| properties.get(name)).or(additional) {
            value(schema, field, &format!("{path}.{name}"), findings);
        }
    }
}

fn combinations(schema: &Value, given: &Value, path: &str, findings: &mut Vec<Finding>) {
    let fits = |schema: &Value| {
        let mut wrong = Vec::new();
        value(schema, given, path, &mut wrong);
        // Parts of a combination name fields without types.
        if let (Value::Object(fields), Some(required)) = (given, schema.get("required").and_then(Value::as_array)) {
            let missing = required
                .iter()
                .filter_map(Value::as_str)
                .any(|name| fields.get(name).is_none_or(Value::is_null));
            return wrong.is_empty() && !missing;
        }
        wrong.is_empty()
    };
    let list = |key: &str| schema.get(key).and_then(Value::as_array);
    if let Some(parts) = list("oneOf").filter(|parts| parts.iter().filter(|part| fits(part)).count() != 1) {
        let names = required_names(parts);
        findings.push(error(path, format!("set one of {names}, not several")));
    }
    if let Some(parts) = list("anyOf").filter(|parts| !parts.iter().any(fits)) {
        findings.push(error(path, format!("set at least one of {}", required_names(parts))));
    }
    for part in list("allOf").into_iter().flatten() {
        value(part, given, path, findings);
    }
    if schema.get("not").is_some_and(fits) {
        findings.push(error(
            path,
            "has a combination of fields that is not allowed".to_owned(),
        ));
    }
}

/// The fields that a combination is about.
fn required_names(parts: &[Value]) -> String {
    let names = parts
        .iter()
        .filter_map(|part| part.get("required").and_then(Value::as_array))
        .flatten();
    names.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}
