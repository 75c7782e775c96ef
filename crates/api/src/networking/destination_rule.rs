//! DestinationRule: what happens to traffic after routing has chosen a service.

mod connection_pool;
mod load_balancer;

pub use self::connection_pool::{
    ConnectionKeepalive, ConnectionPoolSettings, H2UpgradePolicy, HttpSettings, TcpKeepalive, TcpSettings,
};
pub use self::load_balancer::{
    BackendUtilizationLb, ConsistentHashLb, HashAlgorithm, HashKey, HttpCookie, HttpCookieAttribute, LbPolicy,
    LoadBalancerSettings, LocalityDistribute, LocalityFailover, LocalityLoadBalancerSetting, Maglev, RingHash,
    SimpleLb, WarmupConfiguration, ZoneAwareFailover, ZoneAwareLoadBalancerSetting,
};

use crate::Duration;
use crate::networking::virtual_service::PortSelector;
use crate::proto_enum::proto_enum;
use crate::schema::rule;
use crate::selector::WorkloadSelector;
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What happens to traffic after routing has chosen a service.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "DestinationRule",
    plural = "destinationrules",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "What happens to traffic after routing has chosen a service."
)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["host"]))]
pub struct DestinationRuleSpec {
    /// The service, as its name in the registry or with a leading wildcard. A short name is completed with the
    /// namespace of this object.
    #[serde(skip_serializing_if = "is_default")]
    pub host: String,
    /// How traffic to the service is treated.
    #[serde(skip_serializing_if = "is_default")]
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named parts of the service, usually its versions, with treatment of their own.
    #[serde(skip_serializing_if = "is_default")]
    pub subsets: Vec<Subset>,
    /// The namespaces that see it: names, `.` for its own, `*` for all; the mesh's default when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub export_to: Vec<String>,
    /// The clients it is for, in its own namespace; all when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub workload_selector: Option<WorkloadSelector>,
}

/// A part of a service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["name"]))]
pub struct Subset {
    /// The name that routes refer to.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Labels that endpoints of the subset must have; all endpoints when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// How traffic to the subset is treated; what it does not say comes from the service.
    #[serde(skip_serializing_if = "is_default")]
    pub traffic_policy: Option<TrafficPolicy>,
}

/// How traffic to a service is treated.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// How an endpoint is chosen.
    #[serde(skip_serializing_if = "is_default")]
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Limits and timeouts of connections.
    #[serde(skip_serializing_if = "is_default")]
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When endpoints that fail are left out for a while.
    #[serde(skip_serializing_if = "is_default")]
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS toward the service; when absent, mutual TLS wherever the endpoint supports it, if the mesh has that
    /// on.
    #[serde(skip_serializing_if = "is_default")]
    pub tls: Option<ClientTlsSettings>,
    /// Treatment of single ports, which replaces that of the service field by field; 4096 at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 4096))]
    pub port_level_settings: Vec<PortTrafficPolicy>,
    /// Sends TCP through an HTTP tunnel.
    #[serde(skip_serializing_if = "is_default")]
    pub tunnel: Option<TunnelSettings>,
    /// Begins each connection with a PROXY header.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Limits retries to a share of the requests under way.
    #[serde(skip_serializing_if = "is_default")]
    pub retry_budget: Option<RetryBudget>,
}

/// How traffic to one port is treated.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct PortTrafficPolicy {
    /// The port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<PortSelector>,
    /// How an endpoint is chosen.
    #[serde(skip_serializing_if = "is_default")]
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Limits and timeouts of connections.
    #[serde(skip_serializing_if = "is_default")]
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When endpoints that fail are left out for a while.
    #[serde(skip_serializing_if = "is_default")]
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS toward the port.
    #[serde(skip_serializing_if = "is_default")]
    pub tls: Option<ClientTlsSettings>,
}

/// Sends TCP through an HTTP tunnel, whose far end is this service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["targetHost", "targetPort"]))]
pub struct TunnelSettings {
    /// The method of the request that opens it: `CONNECT` (the default) or `POST`.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    /// The host to connect to at the far end.
    #[serde(skip_serializing_if = "is_default")]
    pub target_host: String,
    /// The port to connect to at the far end.
    #[serde(skip_serializing_if = "is_default")]
    pub target_port: u32,
}

/// The PROXY header that connections begin with.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyProtocol {
    /// Its version.
    #[serde(skip_serializing_if = "is_default")]
    pub version: ProxyProtocolVersion,
}

proto_enum! {
    /// A version of the PROXY protocol.
    pub enum ProxyProtocolVersion {
        /// As text.
        V1 = (0, "V1"),
        /// Binary.
        V2 = (1, "V2"),
    }
}

/// Limits retries to a share of the requests under way.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RetryBudget {
    /// The share in percent, 0 to 100; 20 by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true, "maximum" = 100, "minimum" = 0))]
    pub percent: Option<f64>,
    /// So many retries at once are allowed at least; 3 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub min_retry_concurrency: u32,
    /// The span over which requests are counted; only those under way when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub budget_interval: Option<Duration>,
}

/// When endpoints that fail are left out for a while.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct OutlierDetection {
    /// Old form of `consecutive_gateway_errors`.
    #[serde(skip_serializing_if = "is_default")]
    pub consecutive_errors: i32,
    /// Whether failures to connect are counted apart from errors that the endpoint answers with.
    #[serde(skip_serializing_if = "is_default")]
    pub split_external_local_origin_errors: bool,
    /// So many failures to connect in a row leave an endpoint out, if they are counted apart; 5 by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub consecutive_local_origin_failures: Option<u32>,
    /// So many errors 502, 503 and 504 (or TCP failures) in a row leave an endpoint out; off by default and at
    /// 0.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub consecutive_gateway_errors: Option<u32>,
    /// So many errors from 500 to 599 (or TCP failures) in a row leave an endpoint out; 5 by default, off at 0.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub consecutive_5xx_errors: Option<u32>,
    /// How often endpoints are judged; 10s by default, 1ms at least.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub interval: Option<Duration>,
    /// How long an endpoint is left out, times how often it has been; 30s by default, 1ms at least.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub base_ejection_time: Option<Duration>,
    /// How many of the endpoints may be out at once, in percent; 10 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_ejection_percent: i32,
    /// Below this share of healthy endpoints, in percent, none is left out and all are used; 0 by default,
    /// which turns it off.
    #[serde(skip_serializing_if = "is_default")]
    pub min_health_percent: i32,
    /// The statuses that count as errors, 100 to 599, instead of those from 500.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-items" = {"maximum": 599, "minimum": 100}))]
    pub outlier_detection_http_error_codes: Vec<u32>,
}

/// TLS of connections that a proxy opens.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientTlsSettings {
    /// Whether and how.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: ClientTlsMode,
    /// The path of the client's certificate in the proxy's file system, for MUTUAL.
    #[serde(skip_serializing_if = "is_default")]
    pub client_certificate: String,
    /// The path of the client's key in the proxy's file system, for MUTUAL.
    #[serde(skip_serializing_if = "is_default")]
    pub private_key: String,
    /// The path of the authorities' certificates in the proxy's file system; the server is not verified when
    /// empty, unless the mesh has that on.
    #[serde(skip_serializing_if = "is_default")]
    pub ca_certificates: String,
    /// A Secret with certificate, key and authorities instead of files; excludes the paths.
    #[serde(skip_serializing_if = "is_default")]
    pub credential_name: String,
    /// Names of which the server's certificate must have one; overrides those of the ServiceEntry.
    #[serde(skip_serializing_if = "is_default")]
    pub subject_alt_names: Vec<String>,
    /// The server name to send; for ISTIO_MUTUAL the mesh's own form.
    #[serde(skip_serializing_if = "is_default")]
    pub sni: String,
    /// Whether to accept any certificate; the mesh's default when absent.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub insecure_skip_verify: Option<bool>,
    /// The path of a list of revoked certificates in the proxy's file system.
    #[serde(skip_serializing_if = "is_default")]
    pub ca_crl: String,
}

proto_enum! {
    /// Whether and how a proxy opens connections with TLS.
    pub enum ClientTlsMode {
        /// Without.
        Disable = (0, "DISABLE"),
        /// With TLS, and no certificate of its own.
        Simple = (1, "SIMPLE"),
        /// With TLS and a certificate that is given here.
        Mutual = (2, "MUTUAL"),
        /// With TLS and the certificate of the workload's identity in the mesh.
        IstioMutual = (3, "ISTIO_MUTUAL"),
    }
}
