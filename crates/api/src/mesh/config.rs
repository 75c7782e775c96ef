//! MeshConfig: the settings of the whole mesh.

mod security;
mod traffic;

pub use self::security::{Ca, Certificate, CertificateData, CertificateSource, MeshTlsProtocol, TlsConfig};
pub use self::traffic::{
    ConfigSource, DefaultProviders, DefaultTrafficPolicy, InboundTrafficPolicy, InboundTrafficPolicyMode,
    LabelSelector, LabelSelectorRequirement, NormalizationType, OutboundTrafficPolicy, OutboundTrafficPolicyMode,
    ProxyPathNormalization, Resource, ServiceEntryVisibility, ServiceScope, ServiceScopeConfigs, ServiceSettings,
    ServiceSettingsValues, Visibility, VisibilityMatchRule, VisibilityPolicy,
};

use crate::Duration;
use crate::mesh::extension_provider::ExtensionProvider;
use crate::mesh::proxy_config::ProxyConfig;
use crate::networking::destination_rule::{LocalityLoadBalancerSetting, TcpKeepalive, ZoneAwareLoadBalancerSetting};
use crate::networking::virtual_service::HttpRetry;
use crate::proto_enum::proto_enum;
use crate::serde_util::is_default;
use serde::{Deserialize, Serialize};

/// The settings of the whole mesh. See [`MeshConfig::default_istio`] for what holds when a field is empty.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MeshConfig {
    /// The port at which sidecars take their workload's outbound traffic; 15001.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy_listen_port: i32,
    /// The port at which sidecars take the traffic to their workload; 15006.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy_inbound_listen_port: i32,
    /// A port at which sidecars act as an HTTP proxy; off at 0.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy_http_port: i32,
    /// How long connecting may take; 10s.
    #[serde(skip_serializing_if = "is_default")]
    pub connect_timeout: Option<Duration>,
    /// How long a connection to a ztunnel may be idle; 1h when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub hbone_idle_timeout: Option<Duration>,
    /// How long to wait for the first bytes that tell the protocol; zero waits for ever, as it must for
    /// protocols in which the server speaks first.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol_detection_timeout: Option<Duration>,
    /// Whether idle connections are probed.
    #[serde(skip_serializing_if = "is_default")]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// The class of the Ingress objects that are read; `istio`.
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_class: String,
    /// The Service of the ingress gateway, for the addresses in the status of Ingress objects;
    /// `istio-ingressgateway`.
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_service: String,
    /// Which Ingress objects are read.
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_controller_mode: IngressControllerMode,
    /// The value of the label `istio` on the pods that serve Ingress objects; `ingressgateway` when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_selector: String,
    /// Whether requests are traced at all; they are.
    #[serde(skip_serializing_if = "is_default")]
    pub enable_tracing: bool,
    /// The file that proxies log to, such as `/dev/stdout`; no log when empty. Telemetry objects override it.
    #[serde(skip_serializing_if = "is_default")]
    pub access_log_file: String,
    /// The format of the log, as text or as JSON by `access_log_encoding`; Istio's default when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub access_log_format: String,
    /// Whether the log is text or JSON.
    #[serde(skip_serializing_if = "is_default")]
    pub access_log_encoding: AccessLogEncoding,
    /// Whether proxies send logs to the service in `default_config.envoy_access_log_service`.
    #[serde(skip_serializing_if = "is_default")]
    pub enable_envoy_access_log_service: bool,
    /// Whether connections that match no filter chain are not logged.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_envoy_listener_log: bool,
    /// The configuration of proxies, over which ProxyConfig objects and annotations are laid.
    #[serde(skip_serializing_if = "is_default")]
    pub default_config: Option<ProxyConfig>,
    /// What becomes of traffic to services that nobody has declared; it may pass.
    #[serde(skip_serializing_if = "is_default")]
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    /// The address at which sidecars reach their workload.
    #[serde(skip_serializing_if = "is_default")]
    pub inbound_traffic_policy: Option<InboundTrafficPolicy>,
    /// Where configuration is read from besides the Kubernetes API.
    #[serde(skip_serializing_if = "is_default")]
    pub config_sources: Vec<ConfigSource>,
    /// Whether clients use mutual TLS with every endpoint that has it, unless a DestinationRule says otherwise;
    /// they do.
    #[serde(skip_serializing_if = "is_default")]
    pub enable_auto_mtls: Option<bool>,
    /// The trust domain of identities; `cluster.local`.
    #[serde(skip_serializing_if = "is_default")]
    pub trust_domain: String,
    /// Trust domains that count as the same; authorization policies hold for all of them.
    #[serde(skip_serializing_if = "is_default")]
    pub trust_domain_aliases: Vec<String>,
    /// Further authorities that workloads trust.
    #[serde(skip_serializing_if = "is_default")]
    pub ca_certificates: Vec<CertificateData>,
    /// Who sees services and ServiceEntries that do not say; `*`.
    #[serde(skip_serializing_if = "is_default")]
    pub default_service_export_to: Vec<String>,
    /// Who sees VirtualServices that do not say; `*`.
    #[serde(skip_serializing_if = "is_default")]
    pub default_virtual_service_export_to: Vec<String>,
    /// Who sees DestinationRules that do not say; `*`.
    #[serde(skip_serializing_if = "is_default")]
    pub default_destination_rule_export_to: Vec<String>,
    /// The namespace whose policies hold for the whole mesh; `istio-system`.
    #[serde(skip_serializing_if = "is_default")]
    pub root_namespace: String,
    /// Preference of places, once a service has outlier detection; on.
    #[serde(skip_serializing_if = "is_default")]
    pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
    /// Preference of the client's own zone.
    #[serde(skip_serializing_if = "is_default")]
    pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
    /// How long to wait after a failed lookup of a service by DNS; 60s. A successful one is kept for the
    /// record's TTL.
    #[serde(skip_serializing_if = "is_default")]
    pub dns_refresh_rate: Option<Duration>,
    /// Whether HTTP/1.1 is carried over HTTP/2 between proxies.
    #[serde(skip_serializing_if = "is_default")]
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// The name in statistics for the traffic to a workload, with `%SERVICE%`, `%SERVICE_FQDN%`,
    /// `%SERVICE_PORT%`, `%TARGET_PORT%`, `%SERVICE_PORT_NAME%` and `%SERVICE_NAME%`.
    #[serde(skip_serializing_if = "is_default")]
    pub inbound_cluster_stat_name: String,
    /// The name in statistics for the traffic to services, with the same and `%SUBSET_NAME%`.
    #[serde(skip_serializing_if = "is_default")]
    pub outbound_cluster_stat_name: String,
    /// Certificates to provide for DNS names. Old; Istio does not use it any more.
    #[serde(skip_serializing_if = "is_default")]
    pub certificates: Vec<Certificate>,
    /// Settings of single services in meshes of several clusters.
    #[serde(skip_serializing_if = "is_default")]
    pub service_settings: Vec<ServiceSettings>,
    /// Which services other clusters of an ambient mesh may use.
    #[serde(skip_serializing_if = "is_default")]
    pub service_scope_configs: Vec<ServiceScopeConfigs>,
    /// Whether agents serve the application's metrics together with the proxy's; they do.
    #[serde(skip_serializing_if = "is_default")]
    pub enable_prometheus_merge: Option<bool>,
    /// Whether servers' certificates are verified by default. Old; they are.
    #[serde(skip_serializing_if = "is_default")]
    pub verify_certificate_at_client: Option<bool>,
    /// A certificate authority outside of the control plane.
    #[serde(skip_serializing_if = "is_default")]
    pub ca: Option<Ca>,
    /// The external services that policies refer to by name.
    #[serde(skip_serializing_if = "is_default")]
    pub extension_providers: Vec<ExtensionProvider>,
    /// The providers that hold where Telemetry objects name none.
    #[serde(skip_serializing_if = "is_default")]
    pub default_providers: Option<DefaultProviders>,
    /// The namespaces whose services are looked at, of which one selector must match; all when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub discovery_selectors: Vec<LabelSelector>,
    /// How the paths of requests are normalised before anything looks at them.
    #[serde(skip_serializing_if = "is_default")]
    pub path_normalization: Option<ProxyPathNormalization>,
    /// How failed requests are retried where a VirtualService does not say; twice by default.
    #[serde(skip_serializing_if = "is_default")]
    pub default_http_retry_policy: Option<HttpRetry>,
    /// How failed requests from a sidecar to its workload are retried; not by default.
    #[serde(skip_serializing_if = "is_default")]
    pub default_inbound_http_retry_policy: Option<HttpRetry>,
    /// TLS within the mesh.
    #[serde(rename = "meshMTLS", skip_serializing_if = "is_default")]
    pub mesh_mtls: Option<TlsConfig>,
    /// TLS with everyone else, where nothing more specific is said.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_defaults: Option<TlsConfig>,
    /// Limits of connections and outlier detection where a DestinationRule does not say.
    #[serde(skip_serializing_if = "is_default")]
    pub default_traffic_policy: Option<DefaultTrafficPolicy>,
    /// Who may see ServiceEntries, whatever they themselves say.
    #[serde(skip_serializing_if = "is_default")]
    pub service_entry_visibility: Option<ServiceEntryVisibility>,
}

proto_enum! {
    /// Which Ingress objects are read.
    pub enum IngressControllerMode {
        /// Unset; the default applies.
        Unspecified = (0, "UNSPECIFIED"),
        /// None.
        Off = (1, "OFF"),
        /// Those of the class, and those without any.
        Default = (2, "DEFAULT"),
        /// Those of the class.
        Strict = (3, "STRICT"),
    }
}

proto_enum! {
    /// The form of the access log.
    pub enum AccessLogEncoding {
        /// Text.
        Text = (0, "TEXT"),
        /// JSON.
        Json = (1, "JSON"),
    }
}

proto_enum! {
    /// Whether HTTP/1.1 is carried over HTTP/2.
    pub enum H2UpgradePolicy {
        /// No.
        DoNotUpgrade = (0, "DO_NOT_UPGRADE"),
        /// Yes.
        Upgrade = (1, "UPGRADE"),
    }
}
