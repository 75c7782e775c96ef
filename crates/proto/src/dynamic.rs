//! Messages by descriptor alone: merging them, and writing them so that equal messages are equal bytes.

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, Value};
use prost_types::Any;

use crate::json::{JsonError, descriptors};

/// What a list in a patch does to the list that it is merged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lists {
    /// Its elements are added at the end, as protobuf's own merging does.
    Append,
    /// It takes its place.
    Replace,
}

/// Merges one encoded message into another of the same type: fields that `patch` sets win, messages are merged field by
/// field, maps key by key. A duration is one value, so it is replaced, not merged by its seconds and nanoseconds.
///
/// # Errors
/// When the type has no descriptor, or bytes are no message of it.
pub fn merge(type_name: &str, base: &[u8], patch: &[u8], lists: Lists) -> Result<Vec<u8>, JsonError> {
    let mut base = decode(type_name, base)?;
    merge_into(&mut base, &decode(type_name, patch)?, lists);
    Ok(encode(&base))
}

/// [`merge`] for packed messages; both must be of one type.
///
/// # Errors
/// As [`merge`], and when the types differ.
pub fn merge_any(base: &Any, patch: &Any, lists: Lists) -> Result<Any, JsonError> {
    let (name, other) = (type_name(&base.type_url), type_name(&patch.type_url));
    if name != other {
        return Err(JsonError::OtherType {
            expected: name.to_owned(),
            found: other.to_owned(),
        });
    }
    Ok(Any {
        type_url: base.type_url.clone(),
        value: merge(name, &base.value, &patch.value, lists)?,
    })
}

/// The name in a type URL.
pub(crate) fn type_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

fn decode(type_name: &str, bytes: &[u8]) -> Result<DynamicMessage, JsonError> {
    let descriptor = descriptors()
        .get_message_by_name(type_name)
        .ok_or_else(|| JsonError::UnknownType(type_name.to_owned()))?;
    DynamicMessage::decode(descriptor, bytes).map_err(|source| JsonError::Decode {
        type_name: type_name.to_owned(),
        source,
    })
}

fn merge_into(base: &mut DynamicMessage, patch: &DynamicMessage, lists: Lists) {
    for (field, value) in patch.fields() {
        match (base.get_field_mut(&field), value) {
            (Value::Message(base), Value::Message(patch)) if !is_duration(base) => merge_into(base, patch, lists),
            (Value::List(base), Value::List(patch)) if lists == Lists::Append => base.extend(patch.iter().cloned()),
            (Value::Map(base), Value::Map(patch)) => {
                base.extend(patch.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
            (base, value) => *base = value.clone(),
        }
    }
}

fn is_duration(message: &DynamicMessage) -> bool {
    message.descriptor().full_name() == "google.protobuf.Duration"
}

/// Encodes a message with its maps in the order of their keys, also those within packed messages whose types are known.
pub(crate) fn encode(message: &DynamicMessage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packed = is_any(message);
    for (field, value) in message.fields() {
        match value {
            Value::Bytes(inner) if packed && field.name() == "value" => {
                put(&mut bytes, field.number(), &sorted_any(message, inner));
            }
            Value::Message(inner) if !is_group(&field) => put(&mut bytes, field.number(), &encode(inner)),
            Value::List(all) if matches!(field.kind(), Kind::Message(_)) && !is_group(&field) => {
                for inner in all.iter().filter_map(Value::as_message) {
                    put(&mut bytes, field.number(), &encode(inner));
                }
            }
            Value::Map(entries) => {
                let Kind::Message(entry) = field.kind() else { continue };
                let mut sorted: Vec<_> = entries.iter().collect();
                sorted.sort_by(|one, other| order(one.0, other.0));
                for (key, value) in sorted {
                    let mut one = DynamicMessage::new(entry.clone());
                    one.set_field(&entry.map_entry_key_field(), key.clone().into());
                    one.set_field(&entry.map_entry_value_field(), value.clone());
                    put(&mut bytes, field.number(), &encode(&one));
                }
            }
            _ => {
                let mut one = DynamicMessage::new(message.descriptor());
                one.set_field(&field, value.clone());
                bytes.extend(one.encode_to_vec());
            }
        }
    }
    bytes
}

fn put(bytes: &mut Vec<u8>, number: u32, inner: &[u8]) {
    encode_key(number, WireType::LengthDelimited, bytes);
    encode_varint(inner.len() as u64, bytes);
    bytes.extend_from_slice(inner);
}

fn is_group(field: &FieldDescriptor) -> bool {
    field.is_group()
}

fn is_any(message: &DynamicMessage) -> bool {
    message.descriptor().full_name() == "google.protobuf.Any"
}

/// The bytes within an `Any`, sorted; as they are where the type is not known.
fn sorted_any(any: &DynamicMessage, inner: &[u8]) -> Vec<u8> {
    let url = any.get_field_by_name("type_url");
    let url = url.as_ref().and_then(|url| url.as_str()).unwrap_or_default();
    decode(type_name(url), inner).map_or_else(|_| inner.to_vec(), |message| encode(&message))
}

fn order(one: &MapKey, other: &MapKey) -> std::cmp::Ordering {
    match (one, other) {
        (MapKey::String(one), MapKey::String(other)) => one.cmp(other),
        (MapKey::Bool(one), MapKey::Bool(other)) => one.cmp(other),
        (MapKey::I32(one), MapKey::I32(other)) => one.cmp(other),
        (MapKey::I64(one), MapKey::I64(other)) => one.cmp(other),
        (MapKey::U32(one), MapKey::U32(other)) => one.cmp(other),
        (MapKey::U64(one), MapKey::U64(other)) => one.cmp(other),
        // The keys of one map are of one type.
        _ => std::cmp::Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::envoy::config::cluster::v3::Cluster;
    use crate::{bytes_from_json, from_json, to_json};

    const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

    fn merged(base: &Value, patch: &Value, lists: Lists) -> Value {
        let of = |value| bytes_from_json(CLUSTER, value).unwrap();
        let bytes = merge(CLUSTER, &of(base), &of(patch), lists).unwrap();
        let cluster = <Cluster as prost::Message>::decode(bytes.as_slice()).unwrap();
        to_json(&cluster).unwrap()
    }

    #[test]
    fn merging_is_protobufs_but_for_durations() {
        let base = json!({
            "name": "a",
            "connectTimeout": "1.5s",
            "commonLbConfig": {"healthyPanicThreshold": {"value": 5.0}},
            "healthChecks": [{"timeout": "1s"}],
        });
        let patch = json!({
            "connectTimeout": "2s",
            "commonLbConfig": {"updateMergeWindow": "3s"},
            "healthChecks": [{"timeout": "9s"}],
        });
        let result = merged(&base, &patch, Lists::Append);
        assert_eq!(result["connectTimeout"], "2s");
        assert_eq!(result["name"], "a");
        assert_eq!(result["commonLbConfig"]["healthyPanicThreshold"]["value"], 5.0);
        assert_eq!(result["commonLbConfig"]["updateMergeWindow"], "3s");
        assert_eq!(result["healthChecks"].as_array().unwrap().len(), 2);
        let replaced = merged(&base, &patch, Lists::Replace);
        assert_eq!(replaced["healthChecks"], json!([{"timeout": "9s"}]));
    }

    #[test]
    fn equal_messages_are_equal_bytes() {
        let fields: serde_json::Map<String, Value> = (0..40).map(|i| (format!("key-{i}"), json!(i))).collect();
        let value = json!({
            "name": "a",
            "metadata": {"filterMetadata": {"istio": fields}},
            "typedExtensionProtocolOptions": {"x": {
                "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "metadata": {"filterMetadata": {"istio": fields}},
            }},
        });
        let bytes = bytes_from_json(CLUSTER, &value).unwrap();
        for _ in 0..8 {
            assert_eq!(bytes, bytes_from_json(CLUSTER, &value).unwrap());
        }
        let typed: Cluster = from_json(&value).unwrap();
        assert_eq!(prost::Message::encode_to_vec(&typed), bytes);
    }
}
