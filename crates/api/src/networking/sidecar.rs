//! Sidecar: what the proxy of a workload listens on and which services it knows.

use crate::networking::destination_rule::ConnectionPoolSettings;
use crate::networking::gateway::ServerTlsSettings;
use crate::networking::virtual_service::Destination;
use crate::proto_enum::proto_enum;
use crate::schema::rule;
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the proxies of some workloads listen on and which services they know. Without one they know every
/// service that is exported to them.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "Sidecar",
    plural = "sidecars",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "What the proxy of a workload listens on and knows."
)]
#[serde(default, rename_all = "camelCase")]
pub struct SidecarSpec {
    /// The workloads, in its namespace; the default of the namespace, or of the mesh in the root namespace,
    /// when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub workload_selector: Option<WorkloadSelector>,
    /// What the proxy listens on for its workload; taken from the workload's services when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub ingress: Vec<IstioIngressListener>,
    /// What the proxy knows, per listener; inherited from the mesh's default when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub egress: Vec<IstioEgressListener>,
    /// Limits of connections to the workload.
    #[serde(skip_serializing_if = "is_default")]
    pub inbound_connection_pool: Option<ConnectionPoolSettings>,
    /// What becomes of traffic to unknown services; the mesh's default when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

/// A listener for traffic to the workload.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["port"]))]
pub struct IstioIngressListener {
    /// The port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<SidecarPort>,
    /// The address to listen on; the workload's own when empty. With one, traffic is not redirected.
    #[serde(skip_serializing_if = "is_default")]
    pub bind: String,
    /// How traffic gets there.
    #[serde(skip_serializing_if = "is_default")]
    pub capture_mode: CaptureMode,
    /// Where traffic goes: `127.0.0.1:port`, `[::1]:port`, `0.0.0.0:port` or `[::]:port` for the workload's own
    /// address, or `unix://` and a path.
    #[serde(skip_serializing_if = "is_default")]
    pub default_endpoint: String,
    /// TLS that the proxy ends for clients outside of the mesh; SIMPLE, MUTUAL or OPTIONAL_MUTUAL.
    #[serde(skip_serializing_if = "is_default")]
    pub tls: Option<ServerTlsSettings>,
    /// Limits of connections to the port.
    #[serde(skip_serializing_if = "is_default")]
    pub connection_pool: Option<ConnectionPoolSettings>,
}

/// A listener for traffic from the workload.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["hosts"]))]
pub struct IstioEgressListener {
    /// The port; when absent, one listener for each port of the known services.
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<SidecarPort>,
    /// The address, or the Unix domain socket, to listen on.
    #[serde(skip_serializing_if = "is_default")]
    pub bind: String,
    /// How traffic gets there.
    #[serde(skip_serializing_if = "is_default")]
    pub capture_mode: CaptureMode,
    /// The known services as `namespace/host`; the namespace may be `*`, `.` for this one or `~` for none, the
    /// host may have a leading wildcard.
    #[serde(skip_serializing_if = "is_default")]
    pub hosts: Vec<String>,
}

/// A port of a listener.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct SidecarPort {
    /// Its number.
    #[serde(skip_serializing_if = "is_default")]
    pub number: u32,
    /// HTTP, HTTPS, HTTP2, GRPC, MONGO, TCP or TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Old; do not use.
    #[serde(skip_serializing_if = "is_default")]
    pub target_port: u32,
}

proto_enum! {
    /// How traffic gets to a listener.
    pub enum CaptureMode {
        /// As the environment has it.
        Default = (0, "DEFAULT"),
        /// By redirection.
        Iptables = (1, "IPTABLES"),
        /// By itself: the application addresses the listener.
        None = (2, "NONE"),
    }
}

/// Workloads, by the labels of their pods or WorkloadEntries.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Labels that a workload must all have, in the namespace of the object; every workload when empty.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxProperties" = 256, "x-values" = {"maxLength": 63, "x-kubernetes-validations": [rule("wildcard is not supported in selector", r#"!self.contains("*")"#)]}))]
    pub labels: BTreeMap<String, String>,
}

/// What becomes of traffic to services that nobody has declared.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct OutboundTrafficPolicy {
    /// Whether it may pass.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: OutboundTrafficPolicyMode,
    /// A gateway that it all goes through.
    #[serde(skip_serializing_if = "is_default")]
    pub egress_proxy: Option<Destination>,
}

proto_enum! {
    /// Whether traffic to undeclared services may pass.
    pub enum OutboundTrafficPolicyMode {
        /// No.
        RegistryOnly = (0, "REGISTRY_ONLY"),
        /// Yes, to the address that the application asked for.
        AllowAny = (1, "ALLOW_ANY"),
    }
}
