//! ServiceEntry: a service that the cluster's own registry does not know.

use crate::networking::sidecar::WorkloadSelector;
use crate::networking::workload_entry::WorkloadEntrySpec;
use crate::proto_enum::proto_enum;
use crate::schema::rule;
use crate::serde_util::is_default;
use crate::status::ServiceEntryStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A service that the cluster's own registry does not know.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "ServiceEntry",
    plural = "serviceentries",
    namespaced,
    status = "ServiceEntryStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "A service that the cluster's own registry does not know."
)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["hosts"], "x-kubernetes-validations" = [rule("only one of WorkloadSelector or Endpoints can be set", "(has(self.workloadSelector) ? 1 : 0) + (has(self.endpoints) ? 1 : 0) <= 1"), rule("CIDR addresses are allowed only for NONE/STATIC resolution types", r#"!((has(self.addresses) ? self.addresses : []).exists(k, k.contains("/")) && !((has(self.resolution) ? self.resolution : "NONE") in ["STATIC", "NONE"]))"#), rule("NONE mode cannot set endpoints", r#"((has(self.resolution) ? self.resolution : "NONE") == "NONE") ? !has(self.endpoints) : true"#), rule("DNS_ROUND_ROBIN mode cannot have multiple endpoints", r#"((has(self.resolution) ? self.resolution : "") == "DNS_ROUND_ROBIN") ? ((has(self.endpoints) ? self.endpoints : []).size() <= 1) : true"#)]))]
pub struct ServiceEntrySpec {
    /// Its DNS names, perhaps with a leading wildcard; 1 to 256.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 256, "minItems" = 1, "x-items" = {"x-kubernetes-validations": [rule("hostname cannot be wildcard", r#"self != "*""#)]}))]
    pub hosts: Vec<String>,
    /// Its virtual addresses, or ranges of them; 256 at most. None means that one may be assigned.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 256, "x-items" = {"maxLength": 64}))]
    pub addresses: Vec<String>,
    /// Its ports; 256 at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 256, "x-kubernetes-list-map-keys" = ["name"], "x-kubernetes-list-type" = "map", "x-kubernetes-validations" = [rule("port number cannot be duplicated", "self.all(l1, self.exists_one(l2, l1.number == l2.number))")]))]
    pub ports: Vec<ServicePort>,
    /// Whether it is part of the mesh.
    #[serde(skip_serializing_if = "is_default")]
    pub location: Location,
    /// How the addresses of its endpoints are found.
    #[serde(skip_serializing_if = "is_default")]
    pub resolution: Resolution,
    /// Its endpoints; excludes `workload_selector`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 4096))]
    pub endpoints: Vec<WorkloadEntrySpec>,
    /// The pods and WorkloadEntries of its namespace that are its endpoints; only within the mesh.
    #[serde(skip_serializing_if = "is_default")]
    pub workload_selector: Option<WorkloadSelector>,
    /// The namespaces that see it: names, `.` for its own, `*` for all, `~` for none; the mesh's default when
    /// empty.
    #[serde(skip_serializing_if = "is_default")]
    pub export_to: Vec<String>,
    /// Names of which the endpoints' certificates must have one.
    #[serde(skip_serializing_if = "is_default")]
    pub subject_alt_names: Vec<String>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["number", "name"]))]
pub struct ServicePort {
    /// Its number, 1 to 65535.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("port must be between 1-65535", "0 < self && self <= 65535")]))]
    pub number: u32,
    /// HTTP, HTTPS, HTTP2, GRPC, MONGO, TCP or TLS; read from the name, or sniffed, when empty.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 256))]
    pub protocol: String,
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 256))]
    pub name: String,
    /// The port of the endpoints; `number` when 0.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("port must be between 1-65535", "0 < self && self <= 65535")]))]
    pub target_port: u32,
}

proto_enum! {
    /// Whether a service is part of the mesh.
    pub enum Location {
        /// It is not: no mutual TLS by default, and the client's side enforces policy.
        MeshExternal = (0, "MESH_EXTERNAL"),
        /// It is.
        MeshInternal = (1, "MESH_INTERNAL"),
    }
}

proto_enum! {
    /// How the addresses of a service's endpoints are found.
    pub enum Resolution {
        /// The client already knows; connections go on to the address they are meant for.
        None = (0, "NONE"),
        /// They are given.
        Static = (1, "STATIC"),
        /// By DNS, from the endpoints' names or the service's; all results are used.
        Dns = (2, "DNS"),
        /// By DNS; new connections go to the first result only, old ones stay.
        DnsRoundRobin = (3, "DNS_ROUND_ROBIN"),
        /// By DNS at the time of the request, from the name that the client asks for; for wildcards.
        DynamicDns = (4, "DYNAMIC_DNS"),
    }
}
