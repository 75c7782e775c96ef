//! The status that is reported on every custom resource of the mesh.

use crate::proto_enum::proto_enum;
use crate::serde_util::is_default;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the control plane has made of an object.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct IstioStatus {
    /// The state of the object, a condition for each aspect of it.
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: Vec<IstioCondition>,
    /// What the analysis of the configuration has to say about it.
    #[serde(skip_serializing_if = "is_default")]
    pub validation_messages: Vec<ValidationMessage>,
    /// The generation of the object that this status is about.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "crate::serde_util::integer")]
    #[schemars(with = "crate::schema::IntOrString")]
    pub observed_generation: i64,
}

/// One aspect of the state of an object.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct IstioCondition {
    /// The aspect, such as `Reconciled`.
    #[serde(skip_serializing_if = "is_default")]
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    #[serde(skip_serializing_if = "is_default")]
    pub status: String,
    /// When it was last looked at.
    #[serde(skip_serializing_if = "is_default")]
    pub last_probe_time: Option<Time>,
    /// When `status` last changed.
    #[serde(skip_serializing_if = "is_default")]
    pub last_transition_time: Option<Time>,
    /// Why, as one word in camel case.
    #[serde(skip_serializing_if = "is_default")]
    pub reason: String,
    /// Why, for humans.
    #[serde(skip_serializing_if = "is_default")]
    pub message: String,
    /// The generation of the object that this condition is about.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "crate::serde_util::integer")]
    #[schemars(with = "crate::schema::IntOrString")]
    pub observed_generation: i64,
}

/// A finding of the analysis of the configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ValidationMessage {
    /// What kind of finding it is.
    #[serde(skip_serializing_if = "is_default")]
    pub r#type: Option<ValidationMessageType>,
    /// How grave it is.
    #[serde(skip_serializing_if = "is_default")]
    pub level: ValidationMessageLevel,
    /// Where it is explained.
    #[serde(skip_serializing_if = "is_default")]
    pub documentation_url: String,
}

/// A kind of finding.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ValidationMessageType {
    /// Its name in camel case.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Its code, such as `IST0101`, which does not change.
    #[serde(skip_serializing_if = "is_default")]
    pub code: String,
}

proto_enum! {
    /// How grave a finding is.
    pub enum ValidationMessageLevel {
        /// Nobody said.
        Unknown = (0, "UNKNOWN"),
        /// The configuration does not do what it says.
        Error = (3, "ERROR"),
        /// It may not do what was meant.
        Warning = (8, "WARNING"),
        /// Worth knowing.
        Info = (12, "INFO"),
    }
}

/// What the control plane has made of a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceEntryStatus {
    /// The state of the object, a condition for each aspect of it.
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: Vec<IstioCondition>,
    /// What the analysis of the configuration has to say about it.
    #[serde(skip_serializing_if = "is_default")]
    pub validation_messages: Vec<ValidationMessage>,
    /// The generation of the object that this status is about.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "crate::serde_util::integer")]
    #[schemars(with = "crate::schema::IntOrString")]
    pub observed_generation: i64,
    /// The virtual addresses that were assigned to its hosts.
    #[serde(skip_serializing_if = "is_default")]
    pub addresses: Vec<ServiceEntryAddress>,
}

/// A virtual address that was assigned to a host.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceEntryAddress {
    /// The address.
    #[serde(skip_serializing_if = "is_default")]
    pub value: String,
    /// The host.
    #[serde(skip_serializing_if = "is_default")]
    pub host: String,
}
