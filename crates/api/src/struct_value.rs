//! Free-form objects: protobuf's `Struct`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An object of any shape, kept as it was written: plugin configuration, patches to Envoy's configuration, log labels.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Struct(pub serde_json::Map<String, serde_json::Value>);

impl Struct {
    /// The same as a JSON value.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::Value::Object(self.0.clone())
    }
}

impl JsonSchema for Struct {
    fn schema_name() -> Cow<'static, str> {
        "Struct".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
    }
}
