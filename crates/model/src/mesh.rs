//! Settings of the whole mesh and of single proxies (MeshConfig, MeshNetworks, ProxyConfig).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use lateen_names::{Hostname, Namespace, Network, TrustDomain};

use crate::destination::{ClientTls, HttpPool, Keepalive, LocalityLb};
use crate::route::Retries;
use crate::sidecar::OutboundPolicy;
use crate::{ExportTo, NamespaceSelector};

/// Format of access log lines.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// Text with formatters; empty: Istio's default format.
    Text(Arc<str>),
    /// JSON object of formatters, in canonical JSON; empty: Istio's default labels.
    Json(Arc<str>),
}

/// Path normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PathNormalization {
    /// As `Base`.
    #[default]
    Default,
    /// None.
    None,
    /// RFC 3986 without percent-decoding.
    Base,
    /// And `//` becomes `/`.
    MergeSlashes,
    /// And `%2F`, `%5C` are decoded.
    DecodeAndMergeSlashes,
}

/// Which Ingress objects are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IngressMode {
    /// None.
    Off,
    /// Those without class and those of the class.
    Default,
    /// Those of the class.
    #[default]
    Strict,
}

/// What an extension provider does, with its own fields as the user's canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExtensionProvider {
    /// Its name.
    pub name: Arc<str>,
    /// Which kind: the key of the oneof, e.g. `envoyExtAuthzGrpc`, `zipkin`.
    pub kind: Arc<str>,
    /// Fields, canonical JSON.
    pub config: Arc<str>,
}

/// Lowest TLS version, cipher suites and curves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TlsSettings {
    /// Envoy's enum number; 0: Istio's default.
    pub min_version: i32,
    /// Cipher suites, in order.
    pub cipher_suites: Vec<Arc<str>>,
    /// Curves, in order.
    pub ecdh_curves: Vec<Arc<str>>,
}

/// One network of a multi-network mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct NetworkInfo {
    /// Registries (cluster IDs) whose endpoints are on it.
    pub registries: Vec<Arc<str>>,
    /// Address ranges that are on it.
    pub ranges: Vec<IpNet>,
    /// Gateways into it: address or name, port; service references are resolved by `lower`.
    pub gateways: Vec<NetworkGateway>,
}

/// A gateway into a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkGateway {
    /// Network.
    pub network: Network,
    /// Cluster it is in, if known.
    pub cluster: Option<Arc<str>>,
    /// Address or name.
    pub address: Arc<str>,
    /// Port.
    pub port: u16,
}

/// Settings of one service or host pattern (`serviceSettings`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceSettings {
    /// Whether its traffic stays within the caller's cluster.
    pub cluster_local: bool,
    /// Hosts.
    pub hosts: Vec<Hostname>,
}

/// MeshConfig, lowered. Made by `lower`, which applies Istio's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mesh {
    /// The namespace whose objects hold for the whole mesh.
    pub root_namespace: Namespace,
    /// Trust domain.
    pub trust_domain: TrustDomain,
    /// Further trust domains that count as the same.
    pub trust_domain_aliases: Vec<Arc<str>>,
    /// Suffix of service names: `cluster.local`.
    pub domain: Arc<str>,
    /// Where sidecars take captured outbound connections: 15001.
    pub outbound_port: u16,
    /// Where sidecars take captured inbound connections: 15006.
    pub inbound_port: u16,
    /// Where sidecars are an HTTP proxy, if at all.
    pub http_proxy_port: Option<u16>,
    /// Outbound policy.
    pub outbound: OutboundPolicy,
    /// Whether inbound connections to ports that no service has are passed on to the application (`inboundTrafficPolicy`).
    pub inbound_passthrough: bool,
    /// Whether mutual TLS is used wherever the endpoint takes it.
    pub auto_mtls: bool,
    /// Time-out of connecting upstream.
    pub connect_timeout: Duration,
    /// Keep-alive of upstream connections.
    pub tcp_keepalive: Option<Keepalive>,
    /// How long a connection may take to show its protocol; `None`: no limit.
    pub protocol_detection_timeout: Option<Duration>,
    /// Access log file; `None`: none by this setting.
    pub access_log_file: Option<Arc<str>>,
    /// Format of it.
    pub access_log_format: LogFormat,
    /// Whether logs go to the gRPC service of the bootstrap too.
    pub access_log_service: bool,
    /// Whether only listeners (not routes) log: `disableEnvoyListenerLog`.
    pub disable_listener_log: bool,
    /// Whether tracing is on.
    pub tracing: bool,
    /// Extension providers, in order.
    pub providers: Vec<ExtensionProvider>,
    /// Default providers of tracing, metrics, access logs.
    pub default_tracing: Vec<Arc<str>>,
    /// See `default_tracing`.
    pub default_metrics: Vec<Arc<str>>,
    /// See `default_tracing`.
    pub default_access_logging: Vec<Arc<str>>,
    /// Locality load balancing.
    pub locality_lb: LocalityLb,
    /// Retries where a route says nothing.
    pub default_retries: Option<Retries>,
    /// Retries of requests that a sidecar passes on to its application.
    pub default_inbound_retries: Option<Retries>,
    /// Visibility of services without `exportTo`. In these three, an empty list of namespaces means the object's own.
    pub default_service_export_to: ExportTo,
    /// Visibility of VirtualServices without `exportTo`.
    pub default_virtual_service_export_to: ExportTo,
    /// Visibility of DestinationRules without `exportTo`.
    pub default_destination_rule_export_to: ExportTo,
    /// How often names are resolved.
    pub dns_refresh: Duration,
    /// Whether HTTP/1 becomes HTTP/2 by default.
    pub h2_upgrade: bool,
    /// Path normalization.
    pub path_normalization: PathNormalization,
    /// Ingress class.
    pub ingress_class: Arc<str>,
    /// Ingress mode.
    pub ingress_mode: IngressMode,
    /// Service of the ingress gateway.
    pub ingress_service: Arc<str>,
    /// Value of the label `istio` of the ingress gateway's pods.
    pub ingress_selector: Arc<str>,
    /// TLS of mutual TLS within the mesh.
    pub mesh_mtls: TlsSettings,
    /// TLS toward and from outside.
    pub tls_defaults: TlsSettings,
    /// Whether DestinationRules without CA verify against the system's authorities.
    pub verify_certificate_at_client: bool,
    /// Whether authorizers and route statistics prefer `Host` with port stripped, and other header casing.
    pub preserve_header_case: bool,
    /// Services whose traffic stays in their cluster, and so on.
    pub service_settings: Vec<ServiceSettings>,
    /// The namespaces that are looked at: those that one of these selects; without any, all. `lower` has applied them.
    pub discovery_selectors: Vec<NamespaceSelector>,
    /// Networks.
    pub networks: BTreeMap<Network, NetworkInfo>,
    /// Pool and outlier detection where a DestinationRule has none (`defaultTrafficPolicy`); nothing else is set in it.
    pub default_policy: crate::destination::TrafficPolicy,
    /// HTTP pool settings that apply where no DestinationRule speaks.
    pub default_http_pool: Option<HttpPool>,
    /// Name of the statistics of inbound clusters, with formatters; empty: Envoy's own.
    pub inbound_stat_name: Arc<str>,
    /// Name of the statistics of outbound clusters, with formatters; empty: Envoy's own.
    pub outbound_stat_name: Arc<str>,
    /// ProxyConfig of proxies that bring none.
    pub default_config: ProxyConfig,
    /// Istiod environment variables that change configuration, e.g. `PILOT_ENABLE_AMBIENT`; sorted.
    pub environment: BTreeMap<Arc<str>, Arc<str>>,
}

impl Mesh {
    /// A boolean among the environment variables, with its default.
    pub fn feature(&self, name: &str, default: bool) -> bool {
        self.environment.get(name).map_or(default, |value| is_true(value))
    }
}

/// Whether an environment variable's value says yes.
pub fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "t")
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tracer {
    /// Kind: `zipkin`, `datadog`, `lightstep`, `stackdriver`, `openCensusAgent`.
    pub kind: Arc<str>,
    /// Address, `host:port`.
    pub address: Arc<str>,
    /// Access token.
    pub access_token: Option<Arc<str>>,
}

/// Tracing of a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ProxyTracing {
    /// Tracer.
    pub tracer: Option<Tracer>,
    /// Share of requests, in parts per million; `None`: 1 %.
    pub sampling: Option<u32>,
    /// Longest tag that holds the path; 0: Envoy's default.
    pub max_path_tag_length: u32,
    /// Tags by name.
    pub tags: BTreeMap<Arc<str>, crate::policy::TagSource>,
    /// Whether Istio's own tags are added (default yes).
    pub istio_tags: Option<bool>,
    /// TLS toward the tracer.
    pub tls: Option<ClientTls>,
}

/// Switches for headers that proxies add (`proxyHeaders`); `None` is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ProxyHeaders {
    /// Whether `x-forwarded-client-cert` details are set: mode as Envoy's number.
    pub forwarded_client_cert: Option<i32>,
    /// Names of its fields: subject, cert, chain, dns, uri.
    pub set_current_client_cert_details: Option<(bool, bool, bool, bool, bool)>,
    /// Whether `x-request-id` is made.
    pub request_id: Option<bool>,
    /// Value of `server`; `Some(None)` turns it off.
    pub server: Option<Option<Arc<str>>>,
    /// Whether `x-envoy-attempt-count` is sent.
    pub attempt_count: Option<bool>,
    /// Whether Envoy's debug headers are sent.
    pub envoy_debug_headers: Option<bool>,
    /// Mode of Istio's metadata exchange headers: `IN_MESH` or undefined.
    pub metadata_exchange_in_mesh: bool,
    /// Whether HTTP/1 header names keep their case.
    pub preserve_http1_case: Option<bool>,
    /// Whether the port is kept in `x-forwarded-host` and so on.
    pub x_forwarded_host: Option<bool>,
    /// See `x_forwarded_host`.
    pub x_forwarded_port: Option<bool>,
}

/// What changes a proxy's configuration of its ProxyConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ProxyConfig {
    /// Tracing; `None`: the mesh's.
    pub tracing: ProxyTracing,
    /// Header switches.
    pub headers: ProxyHeaders,
    /// Proxies in front of a gateway that are trusted (`gatewayTopology.numTrustedProxies`).
    pub trusted_proxies: u32,
    /// `gatewayTopology.forwardClientCertDetails` as Envoy's number.
    pub forward_client_cert: Option<i32>,
    /// Whether a PROXY protocol header is taken at gateways (`gatewayTopology.proxyProtocol`).
    pub proxy_protocol: bool,
    /// Private key provider, canonical JSON.
    pub private_key_provider: Option<Arc<str>>,
    /// Address and port of the status server, for readiness checks that are passed through.
    pub status_port: u16,
    /// How long draining takes.
    pub drain: Option<Duration>,
    /// Compression of the statistics endpoint and other bootstrap matters stay with the agent.
    pub interception: Option<crate::proxy::Interception>,
    /// Addresses of the access log service and the metrics service.
    pub access_log_service: Option<Arc<str>>,
    /// Authorities beyond the mesh's (`caCertificatesPem`).
    pub ca_certificates: Vec<Arc<str>>,
}
