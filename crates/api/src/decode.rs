//! Reading JSON by the rules of protobuf's JSON form: null is absence, unknown fields are reported, errors have paths.
//!
//! Plain serde loses unknown fields and does not say where a wrong value stands. The deserializer here keeps both, for
//! any type of this crate and of `k8s-openapi`.

mod reader;

use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use self::reader::{Context, Path, Reader};

/// A value, and what of the input had no place in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded<T> {
    /// What was understood.
    pub value: T,
    /// The paths of the fields that the type does not have, such as `spec.http[0].tiemout`, in the order of the input.
    /// An API server refuses or prunes these; the owner of the value decides what they mean to it.
    pub unknown: Vec<String>,
}

/// A value of the wrong type, or outside its enum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct DecodeError {
    /// Where it stands, such as `spec.http[0].timeout`; empty for the whole value.
    pub path: String,
    /// What is wrong, and what was expected.
    pub message: String,
}

/// Reads any value, with field names as the API server demands them.
///
/// # Errors
/// A value of the wrong type, with its path.
pub fn decode<T: DeserializeOwned>(json: &Value) -> Result<Decoded<T>, DecodeError> {
    read(json, false)
}

/// Reads a value that no API server has checked, as protobuf's own parser does: field names in snake case and numbers
/// in quotes are understood too. For MeshConfig, MeshNetworks and ProxyConfig, in ConfigMaps and annotations.
///
/// # Errors
/// A value of the wrong type, with its path.
pub fn decode_proto<T: DeserializeOwned>(json: &Value) -> Result<Decoded<T>, DecodeError> {
    read(json, true)
}

/// Reads a Kubernetes object: `apiVersion` and `kind` are checked against the type (any served version will do) and
/// not reported as unknown, and an absent `spec` is an empty one.
///
/// # Errors
/// Another kind or group, or a value of the wrong type, with its path.
pub fn decode_object<K>(json: &Value) -> Result<Decoded<K>, DecodeError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let error = |path: &str, message: String| DecodeError {
        path: path.to_owned(),
        message,
    };
    let Value::Object(object) = json else {
        return Err(error("", "expected an object".to_owned()));
    };
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("kind") != K::kind(&()) {
        return Err(error(
            "kind",
            format!("expected {}, found {:?}", K::kind(&()), text("kind")),
        ));
    }
    let group = text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
    if group != K::group(&()) {
        return Err(error(
            "apiVersion",
            format!("expected group {}, found {group:?}", K::group(&())),
        ));
    }
    let mut body: Map<String, Value> = Map::new();
    for (key, value) in object {
        if key != "apiVersion" && key != "kind" {
            body.insert(key.clone(), value.clone());
        }
    }
    let spec = body.entry("spec").or_insert_with(|| Value::Object(Map::new()));
    if spec.is_null() {
        *spec = Value::Object(Map::new());
    }
    decode(&Value::Object(body))
}

fn read<T: DeserializeOwned>(json: &Value, lenient: bool) -> Result<Decoded<T>, DecodeError> {
    let mut context = Context {
        lenient,
        unknown: Vec::new(),
    };
    let value = T::deserialize(Reader {
        value: json,
        path: &Path::Root,
        context: &mut context,
    })?;
    Ok(Decoded {
        value,
        unknown: context.unknown,
    })
}

#[cfg(test)]
mod tests;
