//! How a policy names what it applies to: workloads by label, or objects by reference.

use crate::proto_enum::proto_enum;
use crate::schema::rule;
use crate::serde_util::is_default;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Workloads, by the labels of their pods or WorkloadEntries.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Labels that a workload must all have, in the namespace of the policy; every workload when empty.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxProperties" = 4096, "x-kubernetes-validations" = [rule("wildcard not allowed in label key match", r#"self.all(key, !key.contains("*"))"#), rule("key must not be empty", "self.all(key, key.size() != 0)")], "x-values" = {"maxLength": 63, "x-kubernetes-validations": [rule("wildcard not allowed in label value match", r#"!self.contains("*")"#)]}))]
    pub match_labels: BTreeMap<String, String>,
}

/// An object that a policy applies to, instead of a selector.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["kind", "name"]))]
pub struct PolicyTargetReference {
    /// Its API group; empty for the core group.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 253, "pattern" = r#"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"#))]
    pub group: String,
    /// Its kind, such as `Gateway`, `Service` or `ServiceEntry`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 63, "minLength" = 1, "pattern" = "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"))]
    pub kind: String,
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 253, "minLength" = 1))]
    pub name: String,
    /// Its namespace, which must be the policy's own; hence always empty.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("cross namespace referencing is not currently supported", "self.size() == 0")]))]
    pub namespace: String,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["number"]))]
pub struct PortSelector {
    /// Its number, 1 to 65535.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maximum" = 65535, "minimum" = 1))]
    pub number: u32,
}

proto_enum! {
    /// The direction of traffic, seen from the proxy.
    pub enum WorkloadMode {
        /// Whatever the context implies; both directions as a rule.
        Undefined = (0, "UNDEFINED"),
        /// Traffic that leaves the workload, or that a gateway forwards.
        Client = (1, "CLIENT"),
        /// Traffic that arrives at the workload.
        Server = (2, "SERVER"),
        /// Both directions.
        ClientAndServer = (3, "CLIENT_AND_SERVER"),
    }
}
