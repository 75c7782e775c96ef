//! What all clusters of a class have in common.

use std::sync::Arc;
use std::time::Duration;

use lateen_model::destination::{Keepalive, LocalityLb, TrafficPolicy};
use lateen_model::mesh::{Mesh, ProxyConfig, TlsSettings};
use lateen_model::proxy::{IpFamilies, Options, ProxyKind};
use lateen_model::{Shared, Snapshot};
use lateen_proto::envoy::config::cluster::v3::cluster::DnsLookupFamily;

/// Settings of the mesh and of the class that clusters are made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Settings {
    pub(crate) sidecar: bool,
    pub(crate) families: IpFamilies,
    pub(crate) dual_stack: bool,
    /// Whether HTTP/1 header names keep their case.
    pub(crate) keeps_case: bool,
    pub(crate) client_cert: Option<[Arc<str>; 3]>,
    /// Whether rules, not `client_cert`, decide over TLS toward the outside.
    pub(crate) rules_for_external: bool,
    /// Whether SDS servers at sockets in the pod hold credentials, and files.
    pub(crate) credential_socket: bool,
    pub(crate) file_socket: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) h2_upgrade: bool,
    pub(crate) tls: TlsSettings,
    pub(crate) auto_mtls: bool,
    /// Whether ALPN offers the exchange of peer metadata, as Istio's proxies do.
    pub(crate) peer_exchange: bool,
    pub(crate) dns_refresh: Duration,
    pub(crate) default_policy: TrafficPolicy,
    pub(crate) locality: LocalityLb,
    /// Whether places' weights always count.
    pub(crate) always_weigh: bool,
    /// Whether unready endpoints are among those that clusters get.
    pub(crate) unhealthy: bool,
    pub(crate) redis: bool,
    pub(crate) outbound_stat_name: Arc<str>,
    pub(crate) inbound_stat_name: Arc<str>,
}

impl Settings {
    pub(crate) fn new(
        snapshot: &Snapshot,
        kind: ProxyKind,
        families: IpFamilies,
        options: &Options,
        config: &ProxyConfig,
    ) -> Shared<Self> {
        let mesh = &snapshot.mesh;
        let set = |key: &str| options.extra.get(key).is_some_and(|value| &**value == "true");
        Shared::new(Self {
            sidecar: kind == ProxyKind::Sidecar,
            families,
            dual_stack: dual_stack(mesh),
            keeps_case: config
                .headers
                .preserve_http1_case
                .or(mesh.default_config.headers.preserve_http1_case)
                .unwrap_or(false),
            client_cert: options.client_cert.clone(),
            rules_for_external: mesh.feature("PREFER_DESTINATIONRULE_TLS_FOR_EXTERNAL_SERVICES", true),
            credential_socket: set("credential"),
            file_socket: set("credential-file"),
            connect_timeout: mesh.connect_timeout,
            keepalive: mesh.tcp_keepalive.clone(),
            h2_upgrade: mesh.h2_upgrade,
            tls: mesh.tls_defaults.clone(),
            auto_mtls: mesh.auto_mtls,
            peer_exchange: mesh.feature("PILOT_ENABLE_METADATA_EXCHANGE", true)
                && !mesh.feature("PILOT_DISABLE_MX_ALPN", false),
            dns_refresh: mesh.dns_refresh,
            default_policy: mesh.default_policy.clone(),
            locality: mesh.locality_lb.clone(),
            always_weigh: mesh.feature("ENABLE_LOCALITY_WEIGHTED_LB_CONFIG", false),
            unhealthy: mesh.feature("PILOT_SEND_UNHEALTHY_ENDPOINTS", false)
                || mesh.feature("PILOT_AUTO_SEND_UNHEALTHY_ENDPOINTS", true),
            redis: mesh.feature("PILOT_ENABLE_REDIS_FILTER", false),
            outbound_stat_name: mesh.outbound_stat_name.clone(),
            inbound_stat_name: mesh.inbound_stat_name.clone(),
        })
    }

    /// Loopback addresses, the first family's first.
    pub(crate) fn loopbacks(&self) -> &'static [&'static str] {
        match (self.families.v4(), self.families.v6()) {
            (true, true) => &["127.0.0.1", "::1"],
            (false, true) => &["::1"],
            _ => &["127.0.0.1"],
        }
    }

    /// Source addresses of connections to the application, which interception lets through.
    pub(crate) fn bind_addresses(&self) -> &'static [&'static str] {
        match (self.families.v4(), self.families.v6()) {
            (true, true) => &["127.0.0.6", "::6"],
            (false, true) => &["::6"],
            _ => &["127.0.0.6"],
        }
    }
}

/// Whether proxies with addresses of both families use both.
pub(crate) fn dual_stack(mesh: &Mesh) -> bool {
    mesh.feature("ISTIO_DUAL_STACK", false)
}

/// The families that names are resolved to.
pub(crate) fn lookup_family(families: IpFamilies, dual_stack: bool) -> DnsLookupFamily {
    match (families.v4(), families.v6()) {
        (true, true) if dual_stack => DnsLookupFamily::All,
        (false, true) => DnsLookupFamily::V6Only,
        _ => DnsLookupFamily::V4Only,
    }
}
