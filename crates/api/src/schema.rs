//! From the types to structural schemas, the form of OpenAPI that CustomResourceDefinitions demand.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// One rule in CEL: `rule` must hold for `self`, else the API server answers with `message`. Messages are Istio's own,
/// since users and their tools know them.
pub(crate) fn rule(message: &str, rule: &str) -> Value {
    json!({ "message": message, "rule": rule })
}

/// At most one of these fields, in OpenAPI, which costs none of the API server's budget for CEL.
pub(crate) fn one_of(fields: &[&str]) -> Value {
    let required: Vec<Value> = fields.iter().map(|field| json!({ "required": [field] })).collect();
    let mut alternatives = vec![json!({ "not": { "anyOf": required } })];
    alternatives.extend(required);
    Value::Array(alternatives)
}

/// Lets a field appear under a second, older name.
pub(crate) fn alias(field: &'static str, alias: &'static str) -> impl FnMut(&mut Schema) {
    move |schema| {
        if let Some(Value::Object(properties)) = schema.get_mut("properties")
            && let Some(property) = properties.get(field).cloned()
        {
            properties.insert(alias.to_owned(), property);
        }
    }
}

/// The schema of a 64-bit integer, which protobuf's JSON form writes in quotes.
pub(crate) struct IntOrString;

impl JsonSchema for IntOrString {
    fn schema_name() -> Cow<'static, str> {
        "IntOrString".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "x-kubernetes-int-or-string": true,
        })
    }
}

/// The structural schema of a type.
pub(crate) fn structural<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    normalise(&mut schema);
    schema
}

/// Rewrites what schemars emits into what a structural schema may hold, and folds in our two own keywords:
/// `x-items` and `x-values` on a field constrain the elements of a list and the values of a map.
fn normalise(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    for key in ["$schema", "title", "default", "examples"] {
        object.remove(key);
    }
    // Absent and null mean the same to us; whether null is allowed is said by `nullable` alone.
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|t| t != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            object.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|v| !v.is_null());
    }
    if let Some(Value::Array(alternatives)) = object.get("anyOf")
        && let [Value::Object(inner), other] = alternatives.as_slice()
        && *other == json!({ "type": "null" })
    {
        let inner = inner.clone();
        object.remove("anyOf");
        for (key, value) in inner {
            object.entry(key).or_insert(value);
        }
    }
    bound_unsigned(object);
    for (ours, theirs) in [("x-items", "items"), ("x-values", "additionalProperties")] {
        if let Some(Value::Object(constraints)) = object.remove(ours)
            && let Some(Value::Object(target)) = object.get_mut(theirs)
        {
            target.extend(constraints);
        }
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(normalise);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key) {
            normalise(inner);
        }
    }
}

/// OpenAPI has no unsigned formats; bounds say the same.
fn bound_unsigned(object: &mut Map<String, Value>) {
    let maximum = match object.get("format").and_then(Value::as_str) {
        Some("uint32") => Some(u32::MAX),
        Some("uint64") => None,
        _ => return,
    };
    object.remove("format");
    object.entry("minimum").or_insert(json!(0));
    if let Some(maximum) = maximum {
        object.entry("maximum").or_insert(json!(maximum));
    }
}
