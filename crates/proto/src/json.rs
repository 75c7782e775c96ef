//! Proto-JSON by descriptor: `Any` is expanded in place, maps and fields come out sorted.

use std::sync::OnceLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};
use prost_types::Any;

use crate::dynamic;

/// A message could not be written as or read from JSON.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// No descriptor is known for this message type.
    #[error("no descriptor for message type `{0}`")]
    UnknownType(String),
    /// The bytes are not a message of the type they claim to be.
    #[error("cannot decode `{type_name}`: {source}")]
    Decode {
        /// Full name of the message type.
        type_name: String,
        /// What the decoder said.
        source: prost::DecodeError,
    },
    /// Two packed messages are of different types.
    #[error("is of type `{found}`, not of `{expected}`")]
    OtherType {
        /// The type that is there.
        expected: String,
        /// The type of what was to be merged into it.
        found: String,
    },
    /// The JSON does not fit the message, or the message has no JSON form.
    #[error("{type_name}: {source}")]
    Json {
        /// Full name of the message type.
        type_name: String,
        /// What the JSON reader or writer said.
        source: serde_json::Error,
    },
}

/// Descriptors of every Envoy, xDS and Lateen message.
pub fn descriptors() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
        // The set is made by our own build script from files that protox has checked.
        #[allow(clippy::expect_used)]
        DescriptorPool::decode(bytes).expect("descriptors made at build time are valid")
    })
}

/// Canonical proto-JSON (lowerCamelCase, enums by name) of a message.
///
/// # Errors
/// When the message holds an `Any` of a type without descriptor.
pub fn to_json<M: Message + Name>(message: &M) -> Result<serde_json::Value, JsonError> {
    dynamic_to_json(&M::full_name(), &message.encode_to_vec())
}

/// Canonical proto-JSON of a packed message, with `@type`.
///
/// # Errors
/// When its type, or the type of an `Any` within, has no descriptor, or the bytes do not decode.
pub fn any_to_json(any: &Any) -> Result<serde_json::Value, JsonError> {
    let name = dynamic::type_name(&any.type_url);
    let value = dynamic_to_json(name, &any.value)?;
    let mut object = serde_json::Map::new();
    object.insert("@type".to_owned(), any.type_url.clone().into());
    match value {
        serde_json::Value::Object(fields) => object.extend(fields),
        other => {
            object.insert("value".to_owned(), other);
        }
    }
    Ok(serde_json::Value::Object(object))
}

/// Reads a message from proto-JSON; unknown fields are errors.
///
/// # Errors
/// When the JSON does not fit the message type; the error names the field.
pub fn from_json<M: Message + Name + Default>(json: &serde_json::Value) -> Result<M, JsonError> {
    let name = M::full_name();
    let bytes = bytes_from_json(&name, json)?;
    M::decode(bytes.as_slice()).map_err(|source| JsonError::Decode {
        type_name: name,
        source,
    })
}

/// Reads a message of the type named `type_name` from proto-JSON and encodes it; equal JSON gives equal bytes.
///
/// # Errors
/// When the type is unknown or the JSON does not fit it.
pub fn bytes_from_json(type_name: &str, json: &serde_json::Value) -> Result<Vec<u8>, JsonError> {
    Ok(dynamic::encode(&dynamic_from_json(type_name, json)?))
}

/// Reads a message of the type named `type_name` from proto-JSON and packs it.
///
/// # Errors
/// When the type is unknown or the JSON does not fit it.
pub fn any_from_json(type_name: &str, json: &serde_json::Value) -> Result<Any, JsonError> {
    Ok(Any {
        type_url: format!("type.googleapis.com/{type_name}"),
        value: bytes_from_json(type_name, json)?,
    })
}

fn dynamic_to_json(type_name: &str, bytes: &[u8]) -> Result<serde_json::Value, JsonError> {
    let descriptor = descriptors()
        .get_message_by_name(type_name)
        .ok_or_else(|| JsonError::UnknownType(type_name.to_owned()))?;
    let message = DynamicMessage::decode(descriptor, bytes).map_err(|source| JsonError::Decode {
        type_name: type_name.to_owned(),
        source,
    })?;
    message
        .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
        .map_err(|source| JsonError::Json {
            type_name: type_name.to_owned(),
            source,
        })
}

fn dynamic_from_json(type_name: &str, json: &serde_json::Value) -> Result<DynamicMessage, JsonError> {
    let descriptor = descriptors()
        .get_message_by_name(type_name)
        .ok_or_else(|| JsonError::UnknownType(type_name.to_owned()))?;
    DynamicMessage::deserialize_with_options(descriptor, json, &DeserializeOptions::new()).map_err(|source| {
        JsonError::Json {
            type_name: type_name.to_owned(),
            source,
        }
    })
}
