//! WorkloadGroup: the template and the health check of registered workloads.

use crate::networking::workload_entry::WorkloadEntrySpec;
use crate::schema::{one_of, rule};
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The template and the health check of workloads that register themselves.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "WorkloadGroup",
    plural = "workloadgroups",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "The template and the health check of registered workloads."
)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["template"]))]
pub struct WorkloadGroupSpec {
    /// Labels and annotations for their WorkloadEntries.
    #[serde(skip_serializing_if = "is_default")]
    pub metadata: Option<WorkloadGroupMetadata>,
    /// What their WorkloadEntries say; the address is each one's own.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("UDS may not include ports", r#"(has(self.address) ? self.address : "").startsWith("unix://") ? !has(self.ports) : true"#)]))]
    pub template: Option<WorkloadEntrySpec>,
    /// How their agents find out whether they are healthy.
    #[serde(skip_serializing_if = "is_default")]
    pub probe: Option<ReadinessProbe>,
}

/// Labels and annotations for WorkloadEntries.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadGroupMetadata {
    /// Labels.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxProperties" = 256))]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxProperties" = 256))]
    pub annotations: BTreeMap<String, String>,
}

/// How an agent finds out whether its application is healthy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["httpGet", "tcpSocket", "exec", "grpc"])))]
pub struct ReadinessProbe {
    /// How long to wait before the first probe.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minimum" = 0))]
    pub initial_delay_seconds: i32,
    /// How long a probe may take; 1 by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minimum" = 0))]
    pub timeout_seconds: i32,
    /// The time between probes; 10 by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minimum" = 0))]
    pub period_seconds: i32,
    /// So many successes in a row make it healthy; 1 by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minimum" = 0))]
    pub success_threshold: i32,
    /// So many failures in a row make it unhealthy; 3 by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minimum" = 0))]
    pub failure_threshold: i32,
    /// By an HTTP request.
    #[serde(skip_serializing_if = "is_default")]
    pub http_get: Option<HttpHealthCheckConfig>,
    /// By a connection.
    #[serde(skip_serializing_if = "is_default")]
    pub tcp_socket: Option<TcpHealthCheckConfig>,
    /// By a command.
    #[serde(skip_serializing_if = "is_default")]
    pub exec: Option<ExecHealthCheckConfig>,
    /// By gRPC's health protocol.
    #[serde(skip_serializing_if = "is_default")]
    pub grpc: Option<GrpcHealthCheckConfig>,
}

/// How a [`ReadinessProbe`] asks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HealthCheckMethod<'a> {
    /// `ReadinessProbe::http_get` is set.
    HttpGet(&'a HttpHealthCheckConfig),
    /// `ReadinessProbe::tcp_socket` is set.
    TcpSocket(&'a TcpHealthCheckConfig),
    /// `ReadinessProbe::exec` is set.
    Exec(&'a ExecHealthCheckConfig),
    /// `ReadinessProbe::grpc` is set.
    Grpc(&'a GrpcHealthCheckConfig),
}

impl ReadinessProbe {
    /// Which one of the exclusive fields is set; the first in the order of [`HealthCheckMethod`] if the CRD rule was bypassed.
    pub fn health_check_method(&self) -> Option<HealthCheckMethod<'_>> {
        self.http_get
            .as_ref()
            .map(HealthCheckMethod::HttpGet)
            .or_else(|| self.tcp_socket.as_ref().map(HealthCheckMethod::TcpSocket))
            .or_else(|| self.exec.as_ref().map(HealthCheckMethod::Exec))
            .or_else(|| self.grpc.as_ref().map(HealthCheckMethod::Grpc))
    }
}

/// A probe by an HTTP request; a status from 200 to 399 is success.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["port"]))]
pub struct HttpHealthCheckConfig {
    /// The path.
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// The port.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("port must be between 1-65535", "0 < self && self <= 65535")]))]
    pub port: u32,
    /// The host; the application's own address when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub host: String,
    /// `HTTP` (the default) or `HTTPS`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("scheme must be one of [HTTP, HTTPS]", r#"self in ["", "HTTP", "HTTPS"]"#)]))]
    pub scheme: String,
    /// Headers of the request.
    #[serde(skip_serializing_if = "is_default")]
    pub http_headers: Vec<HttpHeader>,
}

/// A header and its value.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpHeader {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("pattern" = "^[-_A-Za-z0-9]+$"))]
    pub name: String,
    /// Its value.
    #[serde(skip_serializing_if = "is_default")]
    pub value: String,
}

/// A probe by a connection.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["port"]))]
pub struct TcpHealthCheckConfig {
    /// The host; the application's own address when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub host: String,
    /// The port.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("port must be between 1-65535", "0 < self && self <= 65535")]))]
    pub port: u32,
}

/// A probe by a command, which succeeds with exit status 0.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["command"]))]
pub struct ExecHealthCheckConfig {
    /// The command and its arguments, without a shell.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-items" = {"minLength": 1}))]
    pub command: Vec<String>,
}

/// A probe by gRPC's health protocol.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcHealthCheckConfig {
    /// The port.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("port must be between 1-65535", "0 < self && self <= 65535")]))]
    pub port: u32,
    /// The service to ask for; the whole server when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
}
