//! WorkloadEntry: one workload that is not a pod, such as a virtual machine.

use crate::schema::rule;
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One workload that is not a pod, or one endpoint of a ServiceEntry.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "WorkloadEntry",
    plural = "workloadentries",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "One workload that is not a pod."
)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("Address is required", "has(self.address) || has(self.network)"), rule("UDS may not include ports", r#"(has(self.address) ? self.address : "").startsWith("unix://") ? !has(self.ports) : true"#)]))]
pub struct WorkloadEntrySpec {
    /// Its IP address, its DNS name if the service resolves those, or `unix://` and a path. May be empty when a
    /// network is given.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 256, "x-kubernetes-validations" = [rule("UDS must be an absolute path or abstract socket", r#"self.startsWith("unix://") ? (self.substring(7, 8) == "/" || self.substring(7, 8) == "@") : true"#), rule("UDS may not be a dir", r#"self.startsWith("unix://") ? !self.endsWith("/") : true"#)]))]
    pub address: String,
    /// Ports by the names of the service's ports; the service's own numbers otherwise.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxProperties" = 128, "x-kubernetes-validations" = [rule("port name must be valid", r#"self.all(key, size(key) < 63 && key.matches("^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$"))"#)], "x-values" = {"x-kubernetes-validations": [rule("port must be between 1-65535", "0 < self && self <= 65535")]}))]
    pub ports: BTreeMap<String, u32>,
    /// Its labels.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxProperties" = 256))]
    pub labels: BTreeMap<String, String>,
    /// The network it is on; others reach it through that network's gateway.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 2048))]
    pub network: String,
    /// Its place, as `region/zone/subzone`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 2048))]
    pub locality: String,
    /// Its share of the traffic, in proportion to the others; 1 when 0.
    #[serde(skip_serializing_if = "is_default")]
    pub weight: u32,
    /// The service account of its identity, in the namespace of the object.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 253))]
    pub service_account: String,
}
