//! What an API server would say about an object, by the schema of its definition.
//!
//! Types, required fields, enums, bounds, patterns, exclusive fields and unique list entries are checked here, in the
//! API server's words. The rules in CEL are not: they are for an evaluator, or for code that knows the kind.

use std::fmt;

use regex::Regex;
use serde_json::{Map, Value};

use super::object_schema;
use crate::kinds::KindInfo;

/// The schema of a kind, to check objects with.
#[derive(Debug, Clone)]
pub struct ObjectSchema {
    schema: Value,
}

/// Something that an API server would refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where, such as `spec.http[0].timeout`.
    pub path: String,
    /// What.
    pub kind: ViolationKind,
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ViolationKind {
    /// It is not there.
    Required,
    /// It is not among those that are allowed, which are given second.
    Unsupported(String, Vec<String>),
    /// It occurs twice in a list of unique entries; its key is given.
    Duplicate(String),
    /// It breaks a rule, which is given as "must …" or "should …".
    Invalid(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.kind {
            ViolationKind::Required => write!(f, "{path}: Required value"),
            ViolationKind::Unsupported(value, supported) => {
                write!(
                    f,
                    "{path}: Unsupported value: {value:?}: supported values: {}",
                    supported.join(", ")
                )
            }
            ViolationKind::Duplicate(key) => write!(f, "{path}: Duplicate value: {key}"),
            ViolationKind::Invalid(rule) => write!(f, "{path}: Invalid value: {path} in body {rule}"),
        }
    }
}

impl ObjectSchema {
    /// The schema of a kind.
    pub fn of(info: &KindInfo) -> Self {
        Self {
            schema: object_schema(info),
        }
    }

    /// Everything in an object that its schema forbids, in the order of the schema; nothing when an API server would
    /// go on to the rules in CEL.
    pub fn check(&self, object: &Value) -> Vec<Violation> {
        let mut found = Vec::new();
        check(&self.schema, object, "", &mut found);
        found
    }
}

fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<Violation>) {
    let mut invalid = |rule: String| {
        found.push(Violation {
            path: path.to_owned(),
            kind: ViolationKind::Invalid(rule),
        });
    };
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if schema["x-kubernetes-int-or-string"] == true {
        if !(value.is_string() || is_integer(value)) {
            invalid(format!("must be an integer or a string: {:?}", type_of(value)));
        }
        return;
    }
    if let Some(expected) = schema["type"].as_str()
        && !is_type(value, expected)
    {
        invalid(format!("must be of type {expected}: {:?}", type_of(value)));
        return;
    }
    match value {
        Value::String(text) => check_string(schema, text, &mut invalid),
        Value::Number(number) => check_number(schema, number.as_f64().unwrap_or_default(), &mut invalid),
        _ => {}
    }
    if let (Some(supported), Some(text)) = (schema["enum"].as_array(), value.as_str())
        && !supported.contains(value)
    {
        let supported = supported.iter().map(Value::to_string).collect();
        let kind = ViolationKind::Unsupported(text.to_owned(), supported);
        found.push(Violation {
            path: path.to_owned(),
            kind,
        });
    }
    match value {
        Value::Array(items) => check_array(schema, items, path, found),
        Value::Object(object) => check_object(schema, object, path, found),
        _ => {}
    }
}

fn check_string(schema: &Value, text: &str, invalid: &mut impl FnMut(String)) {
    let length = text.chars().count() as u64;
    if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
        invalid(format!("should be at least {least} chars long"));
    }
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
        invalid(format!("should be at most {most} chars long"));
    }
    // Our own patterns compile; see the test over all schemas.
    if let Some(pattern) = schema["pattern"].as_str()
        && Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text))
    {
        invalid(format!("should match '{pattern}'"));
    }
}

fn check_number(schema: &Value, number: f64, invalid: &mut impl FnMut(String)) {
    let minimum = schema["minimum"]
        .as_f64()
        .or(int32(schema).then_some(f64::from(i32::MIN)));
    let maximum = schema["maximum"]
        .as_f64()
        .or(int32(schema).then_some(f64::from(i32::MAX)));
    if let Some(minimum) = minimum.filter(|minimum| number < *minimum) {
        invalid(format!("should be greater than or equal to {minimum}"));
    }
    if let Some(maximum) = maximum.filter(|maximum| number > *maximum) {
        invalid(format!("should be less than or equal to {maximum}"));
    }
}

fn int32(schema: &Value) -> bool {
    schema["format"] == "int32"
}

fn check_array(schema: &Value, items: &[Value], path: &str, found: &mut Vec<Violation>) {
    check_size(schema, "Items", "items", items.len(), path, found);
    let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut seen: Vec<Vec<&Value>> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let item_path = format!("{path}[{index}]");
        check(&schema["items"], item, &item_path, found);
        if keys.is_empty() {
            continue;
        }
        let key: Vec<&Value> = keys.iter().map(|key| &item[*key]).collect();
        if seen.contains(&key) {
            let fields: Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), item[*key].clone())).collect();
            let kind = ViolationKind::Duplicate(Value::Object(fields).to_string());
            found.push(Violation { path: item_path, kind });
        }
        seen.push(key);
    }
}

fn check_object(schema: &Value, object: &Map<String, Value>, path: &str, found: &mut Vec<Violation>) {
    let at = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !object.contains_key(name) {
            found.push(Violation {
                path: at(name),
                kind: ViolationKind::Required,
            });
        }
    }
    check_size(schema, "Properties", "properties", object.len(), path, found);
    let exclusive = std::iter::once(schema).chain(schema["allOf"].as_array().into_iter().flatten());
    for alternatives in exclusive.filter_map(|schema| schema["oneOf"].as_array()) {
        let set = alternatives.iter().filter(|alternative| {
            alternative["required"][0]
                .as_str()
                .is_some_and(|name| object.contains_key(name))
        });
        if set.count() > 1 {
            let rule = "must validate one and only one schema (oneOf)".to_owned();
            found.push(Violation {
                path: path.to_owned(),
                kind: ViolationKind::Invalid(rule),
            });
        }
    }
    for (name, value) in object {
        match (&schema["properties"][name.as_str()], &schema["additionalProperties"]) {
            (Value::Object(_), _) => check(&schema["properties"][name.as_str()], value, &at(name), found),
            (_, values @ Value::Object(_)) => check(values, value, &at(name), found),
            _ => {}
        }
    }
}

fn check_size(schema: &Value, suffix: &str, noun: &str, size: usize, path: &str, found: &mut Vec<Violation>) {
    let size = size as u64;
    let mut invalid = |rule: String| {
        found.push(Violation {
            path: path.to_owned(),
            kind: ViolationKind::Invalid(rule),
        });
    };
    if let Some(least) = schema[format!("min{suffix}")].as_u64().filter(|least| size < *least) {
        invalid(format!("should have at least {least} {noun}"));
    }
    if let Some(most) = schema[format!("max{suffix}")].as_u64().filter(|most| size > *most) {
        invalid(format!("should have at most {most} {noun}"));
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn is_type(value: &Value, expected: &str) -> bool {
    match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => is_integer(value),
        "number" => value.is_number(),
        _ => true,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
