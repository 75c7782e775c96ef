//! PeerAuthentication: which connections a workload accepts.

use crate::proto_enum::proto_enum;
use crate::schema::rule;
use crate::selector::WorkloadSelector;
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Whether some workloads accept plain connections, mutual TLS, or both.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "PeerAuthentication",
    plural = "peerauthentications",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "Which connections some workloads accept."
)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("portLevelMtls requires selector", "has(self.portLevelMtls) ? (((has(self.selector) && has(self.selector.matchLabels)) ? self.selector.matchLabels : {}).size() > 0) : true")]))]
pub struct PeerAuthenticationSpec {
    /// The workloads, in its namespace; all, or all of the mesh in the root namespace, when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub selector: Option<WorkloadSelector>,
    /// For all ports; inherited when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub mtls: Option<MutualTls>,
    /// For single ports, by the number of the workload's port in text; needs a selector.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minProperties" = 1, "x-kubernetes-validations" = [rule("port must be between 1-65535", "self.all(key, 0 < int(key) && int(key) <= 65535)")]))]
    pub port_level_mtls: BTreeMap<String, MutualTls>,
}

/// What is accepted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct MutualTls {
    /// The mode.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: MutualTlsMode,
}

proto_enum! {
    /// What connections a workload accepts.
    pub enum MutualTlsMode {
        /// As the next wider policy says; PERMISSIVE when none does.
        Unset = (0, "UNSET"),
        /// Plain ones only.
        Disable = (1, "DISABLE"),
        /// Plain ones and mutual TLS.
        Permissive = (2, "PERMISSIVE"),
        /// Mutual TLS only.
        Strict = (3, "STRICT"),
    }
}
