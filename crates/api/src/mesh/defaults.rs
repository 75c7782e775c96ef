//! What holds when the user's MeshConfig says nothing: the values of a standard installation of Istio.

use super::config::{
    DefaultProviders, InboundTrafficPolicy, InboundTrafficPolicyMode, IngressControllerMode, MeshConfig,
    OutboundTrafficPolicy, OutboundTrafficPolicyMode,
};
use super::extension_provider::{
    EnvoyFileAccessLogProvider, ExtensionProvider, PrometheusMetricsProvider, StackdriverProvider,
};
use super::proxy_config::{AuthenticationPolicy, ProxyConfig};
use crate::Duration;
use crate::networking::destination_rule::LocalityLoadBalancerSetting;

impl MeshConfig {
    /// The mesh configuration over which the user's is laid. Mind that it differs from `MeshConfig::default()`, in
    /// which every field is empty.
    pub fn default_istio() -> Self {
        let everyone = || vec!["*".to_owned()];
        Self {
            proxy_listen_port: 15001,
            proxy_inbound_listen_port: 15006,
            connect_timeout: Some(Duration::from_secs(10)),
            protocol_detection_timeout: Some(Duration::ZERO),
            ingress_class: "istio".to_owned(),
            ingress_service: "istio-ingressgateway".to_owned(),
            ingress_controller_mode: IngressControllerMode::Strict,
            enable_tracing: true,
            default_config: Some(ProxyConfig::default_istio()),
            outbound_traffic_policy: Some(OutboundTrafficPolicy {
                mode: OutboundTrafficPolicyMode::AllowAny,
                ..Default::default()
            }),
            inbound_traffic_policy: Some(InboundTrafficPolicy {
                mode: InboundTrafficPolicyMode::Passthrough,
            }),
            enable_auto_mtls: Some(true),
            trust_domain: "cluster.local".to_owned(),
            default_service_export_to: everyone(),
            default_virtual_service_export_to: everyone(),
            default_destination_rule_export_to: everyone(),
            root_namespace: "istio-system".to_owned(),
            locality_lb_setting: Some(LocalityLoadBalancerSetting {
                enabled: Some(true),
                ..Default::default()
            }),
            // Envoy waits this long only after a failed lookup; a successful one is kept for the record's TTL.
            dns_refresh_rate: Some(Duration::from_secs(60)),
            enable_prometheus_merge: Some(true),
            extension_providers: vec![
                ExtensionProvider {
                    name: "prometheus".to_owned(),
                    prometheus: Some(PrometheusMetricsProvider::default()),
                    ..Default::default()
                },
                ExtensionProvider {
                    name: "stackdriver".to_owned(),
                    stackdriver: Some(StackdriverProvider::default()),
                    ..Default::default()
                },
                ExtensionProvider {
                    name: "envoy".to_owned(),
                    envoy_file_access_log: Some(EnvoyFileAccessLogProvider {
                        path: "/dev/stdout".to_owned(),
                        ..Default::default()
                    }),
                    ..Default::default()
                },
            ],
            default_providers: Some(DefaultProviders::default()),
            ..Default::default()
        }
    }
}

impl ProxyConfig {
    /// The proxy configuration over which the mesh's, the ProxyConfig objects' and the pod's annotation are laid.
    pub fn default_istio() -> Self {
        Self {
            config_path: "./etc/istio/proxy".to_owned(),
            binary_path: "/usr/local/bin/envoy".to_owned(),
            service_cluster: Some("istio-proxy".to_owned()),
            drain_duration: Some(Duration::from_secs(45)),
            termination_drain_duration: Some(Duration::from_secs(5)),
            discovery_address: "istiod.istio-system.svc:15012".to_owned(),
            proxy_admin_port: 15000,
            control_plane_auth_policy: AuthenticationPolicy::MutualTls,
            stat_name_length: 189,
            status_port: 15020,
            ..Default::default()
        }
    }
}
