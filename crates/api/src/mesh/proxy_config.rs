//! ProxyConfig as it stands in MeshConfig and in annotations: how a proxy and its agent start.

mod connection;
mod headers;
mod tracing;

pub use self::connection::{
    ConnectionProfile, ConnectionSettings, HeadersWithUnderscoresAction, PathWithEscapedSlashesAction,
};
pub use self::headers::{
    AttemptCount, EnvoyDebugHeaders, ForwardClientCertDetails, MetadataExchangeHeaders, MetadataExchangeMode,
    ProxyHeaders, ProxyProtocolConfiguration, RequestId, ServerHeader, SetCurrentClientCertDetails, Topology,
    XForwardedHost, XForwardedPort,
};
pub use self::tracing::{
    CustomTag, CustomTagType, Datadog, Environment, Lightstep, Literal, OpenCensusAgent, RequestHeader, Stackdriver,
    TraceContext, Tracer, Tracing, Zipkin,
};

use crate::Duration;
use crate::networking::destination_rule::{ClientTlsSettings, TcpKeepalive};
use crate::networking::proxy_config::ProxyImage;
use crate::networking::workload_group::ReadinessProbe;
use crate::proto_enum::proto_enum;
use crate::serde_util::is_default;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a proxy and its agent start. See [`ProxyConfig::default_istio`] for what holds when a field is empty.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyConfig {
    /// The directory for the proxy's configuration; `./etc/istio/proxy`.
    #[serde(skip_serializing_if = "is_default")]
    pub config_path: String,
    /// The proxy's executable; `/usr/local/bin/envoy`.
    #[serde(skip_serializing_if = "is_default")]
    pub binary_path: String,
    /// The name that the proxy calls itself in tracing and in the node; `istio-proxy`.
    #[serde(skip_serializing_if = "is_default")]
    pub service_cluster: Option<String>,
    /// How that name is made from the workload instead.
    #[serde(skip_serializing_if = "is_default")]
    pub tracing_service_name: Option<TracingServiceName>,
    /// How long connections are drained when listeners change; 45s.
    #[serde(skip_serializing_if = "is_default")]
    pub drain_duration: Option<Duration>,
    /// The control plane, `host:port`; `istiod.istio-system.svc:15012`.
    #[serde(skip_serializing_if = "is_default")]
    pub discovery_address: String,
    /// Old; without effect.
    #[serde(skip_serializing_if = "is_default")]
    pub discovery_refresh_delay: Option<Duration>,
    /// Old form of `tracing.zipkin`.
    #[serde(skip_serializing_if = "is_default")]
    pub zipkin_address: String,
    /// A statsd server, `host:port`.
    #[serde(skip_serializing_if = "is_default")]
    pub statsd_udp_address: String,
    /// Old form of `envoy_metrics_service`.
    #[serde(skip_serializing_if = "is_default")]
    pub envoy_metrics_service_address: String,
    /// The port of Envoy's administration, on the loopback address; 15000.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy_admin_port: i32,
    /// Old; the node's labels say it.
    #[serde(skip_serializing_if = "is_default")]
    pub availability_zone: String,
    /// How the control plane is authenticated; mutual TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub control_plane_auth_policy: AuthenticationPolicy,
    /// A complete bootstrap configuration instead of a generated one.
    #[serde(skip_serializing_if = "is_default")]
    pub custom_config_file: String,
    /// The longest name in statistics, in bytes; 189.
    #[serde(skip_serializing_if = "is_default")]
    pub stat_name_length: i32,
    /// The number of worker threads; 0 for one per core; by the container's CPU limit when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub concurrency: Option<i32>,
    /// A template for the bootstrap configuration. Of a form of Istio's own.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy_bootstrap_template_path: String,
    /// How traffic gets to the proxy.
    #[serde(skip_serializing_if = "is_default")]
    pub interception_mode: InboundInterceptionMode,
    /// Tracing.
    #[serde(skip_serializing_if = "is_default")]
    pub tracing: Option<Tracing>,
    /// Secrets over SDS. Old; always on.
    #[serde(skip_serializing_if = "is_default")]
    pub sds: Option<Sds>,
    /// A service that access logs are sent to.
    #[serde(skip_serializing_if = "is_default")]
    pub envoy_access_log_service: Option<RemoteService>,
    /// A service that metrics are sent to.
    #[serde(skip_serializing_if = "is_default")]
    pub envoy_metrics_service: Option<RemoteService>,
    /// Variables for the proxy's environment; those that begin with `ISTIO_META_` become metadata of the node.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy_metadata: BTreeMap<String, String>,
    /// Values of Envoy's runtime.
    #[serde(skip_serializing_if = "is_default")]
    pub runtime_values: BTreeMap<String, String>,
    /// The agent's port for readiness and probes; 15020.
    #[serde(skip_serializing_if = "is_default")]
    pub status_port: i32,
    /// Further labels that metrics may have.
    #[serde(skip_serializing_if = "is_default")]
    pub extra_stat_tags: Vec<String>,
    /// What stands in front of a gateway.
    #[serde(skip_serializing_if = "is_default")]
    pub gateway_topology: Option<Topology>,
    /// How long connections are drained when the proxy ends; 5s.
    #[serde(skip_serializing_if = "is_default")]
    pub termination_drain_duration: Option<Duration>,
    /// The name of the mesh in telemetry; the trust domain when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub mesh_id: String,
    /// How the agent finds out whether the application on a virtual machine is healthy.
    #[serde(skip_serializing_if = "is_default")]
    pub readiness_probe: Option<ReadinessProbe>,
    /// Which of Envoy's statistics are kept besides Istio's own choice.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy_stats_matcher: Option<ProxyStatsMatcher>,
    /// Whether the application's containers wait for the proxy.
    #[serde(skip_serializing_if = "is_default")]
    pub hold_application_until_proxy_starts: Option<bool>,
    /// Further authorities that the agent trusts, in PEM.
    #[serde(skip_serializing_if = "is_default")]
    pub ca_certificates_pem: Vec<String>,
    /// The image of the proxy.
    #[serde(skip_serializing_if = "is_default")]
    pub image: Option<ProxyImage>,
    /// Hardware that computes with private keys.
    #[serde(skip_serializing_if = "is_default")]
    pub private_key_provider: Option<PrivateKeyProvider>,
    /// Which headers the proxy adds.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy_headers: Option<ProxyHeaders>,
    /// How often access logs are written out; 1s by default.
    #[serde(skip_serializing_if = "is_default")]
    pub file_flush_interval: Option<Duration>,
    /// How much of an access log is gathered before it is written out, in KiB; 64 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub file_flush_min_size_kb: u32,
    /// Whether statistics may be compressed for whoever fetches them; they may by default.
    #[serde(skip_serializing_if = "is_default")]
    pub stats_compression: Option<bool>,
    /// Limits and timeouts of the connections that the proxy accepts.
    #[serde(skip_serializing_if = "is_default")]
    pub connection_settings: Option<ConnectionSettings>,
}

/// Where the name that a proxy calls itself comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ClusterName<'a> {
    /// `ProxyConfig::service_cluster` is set.
    ServiceCluster(&'a str),
    /// `ProxyConfig::tracing_service_name` is set.
    TracingServiceName(TracingServiceName),
}

impl ProxyConfig {
    /// Which one of the exclusive fields is set; the first in the order of [`ClusterName`] if the CRD rule was bypassed.
    pub fn cluster_name(&self) -> Option<ClusterName<'_>> {
        self.service_cluster
            .as_deref()
            .map(ClusterName::ServiceCluster)
            .or_else(|| self.tracing_service_name.map(ClusterName::TracingServiceName))
    }
}

proto_enum! {
    /// How the name of a service in tracing is made.
    pub enum TracingServiceName {
        /// Of the label `app` and the namespace.
        AppLabelAndNamespace = (0, "APP_LABEL_AND_NAMESPACE"),
        /// Of the canonical name.
        CanonicalNameOnly = (1, "CANONICAL_NAME_ONLY"),
        /// Of the canonical name and the namespace.
        CanonicalNameAndNamespace = (2, "CANONICAL_NAME_AND_NAMESPACE"),
    }
}

proto_enum! {
    /// How traffic gets to a proxy.
    pub enum InboundInterceptionMode {
        /// Redirected by the kernel, which hides the client's address from the application.
        Redirect = (0, "REDIRECT"),
        /// Redirected by the kernel, with the client's address kept.
        Tproxy = (1, "TPROXY"),
        /// Not at all; listeners are addressed.
        None = (2, "NONE"),
    }
}

proto_enum! {
    /// How the control plane is authenticated.
    pub enum AuthenticationPolicy {
        /// Not at all.
        None = (0, "NONE"),
        /// By mutual TLS.
        MutualTls = (1, "MUTUAL_TLS"),
        /// As the mesh says.
        Inherit = (1000, "INHERIT"),
    }
}

/// Which of Envoy's statistics are kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyStatsMatcher {
    /// Those that begin with one of these.
    #[serde(skip_serializing_if = "is_default")]
    pub inclusion_prefixes: Vec<String>,
    /// Those that end with one of these.
    #[serde(skip_serializing_if = "is_default")]
    pub inclusion_suffixes: Vec<String>,
    /// Those that one of these expressions matches.
    #[serde(skip_serializing_if = "is_default")]
    pub inclusion_regexps: Vec<String>,
}

/// A service that a proxy sends something to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RemoteService {
    /// Its address, `host:port`.
    #[serde(skip_serializing_if = "is_default")]
    pub address: String,
    /// TLS toward it.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_settings: Option<ClientTlsSettings>,
    /// Whether idle connections are probed.
    #[serde(skip_serializing_if = "is_default")]
    pub tcp_keepalive: Option<TcpKeepalive>,
}

/// Secrets over SDS.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Sds {
    /// Whether they are.
    #[serde(skip_serializing_if = "is_default")]
    pub enabled: bool,
    /// The path of the service account's token.
    #[serde(skip_serializing_if = "is_default")]
    pub k8s_sa_jwt_path: String,
}

/// Hardware that computes with private keys.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PrivateKeyProvider {
    /// Instructions of Intel's CPUs.
    #[serde(skip_serializing_if = "is_default")]
    pub cryptomb: Option<CryptoMb>,
    /// Intel's accelerator.
    #[serde(skip_serializing_if = "is_default")]
    pub qat: Option<Qat>,
}

/// The kind of a [`PrivateKeyProvider`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PrivateKeyProviderType<'a> {
    /// `PrivateKeyProvider::cryptomb` is set.
    Cryptomb(&'a CryptoMb),
    /// `PrivateKeyProvider::qat` is set.
    Qat(&'a Qat),
}

impl PrivateKeyProvider {
    /// Which one of the exclusive fields is set; the first in the order of [`PrivateKeyProviderType`] if the CRD rule was bypassed.
    pub fn provider(&self) -> Option<PrivateKeyProviderType<'_>> {
        self.cryptomb
            .as_ref()
            .map(PrivateKeyProviderType::Cryptomb)
            .or_else(|| self.qat.as_ref().map(PrivateKeyProviderType::Qat))
    }
}

/// Computes with private keys by instructions of Intel's CPUs that handle several at once.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CryptoMb {
    /// How long to wait for more work before starting.
    #[serde(skip_serializing_if = "is_default")]
    pub poll_delay: Option<Duration>,
    /// Whether to go on without when the CPU has them not.
    #[serde(skip_serializing_if = "is_default")]
    pub fallback: Option<bool>,
}

/// Computes with private keys on Intel's accelerator.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Qat {
    /// How often to ask whether work is done.
    #[serde(skip_serializing_if = "is_default")]
    pub poll_delay: Option<Duration>,
    /// Whether to go on without when there is none.
    #[serde(skip_serializing_if = "is_default")]
    pub fallback: Option<bool>,
}
