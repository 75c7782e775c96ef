//! MeshConfig and MeshNetworks, with Istio's defaults, lowered to the model.
//!
//! [`Settings`] says where they come from. The user's document is laid over the defaults as Istio does it; where there is
//! no ConfigMap, what Istio's chart would have written is laid between them. A document that cannot be read leaves what was
//! there before it in force, with a diagnostic.

mod proxy_config;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use lateen_api::mesh::config::{
    AccessLogEncoding, H2UpgradePolicy, InboundTrafficPolicyMode, IngressControllerMode, LabelSelector,
    LabelSelectorRequirement, MeshConfig, MeshTlsProtocol, NormalizationType, OutboundTrafficPolicyMode, TlsConfig,
};
use lateen_api::mesh::networks::{MeshNetworks, NetworkEndpointsSource, NetworkGatewayAddress};
use lateen_model::mesh::{
    ExtensionProvider, IngressMode, LogFormat, Mesh, NetworkGateway, NetworkInfo, PathNormalization, ServiceSettings,
    TlsSettings,
};
use lateen_model::selector::{Operator, Requirement};
use lateen_model::sidecar::OutboundPolicy;
use lateen_model::{Diagnostic, ExportTo, NamespaceSelector, Severity};
use lateen_names::{ClusterId, Hostname, InvalidName, Name, Namespace, Network, ObjectKey, ObjectRef, TrustDomain};
use serde_json::Value;

use crate::Kind;
use crate::context::{diagnostic, export_to, labels};
use crate::istio::destination_rule::{lower_keepalive, lower_locality, lower_traffic_policy};
use crate::istio::virtual_service::lower_retries;
pub use crate::kube::network::GatewayService;
pub use proxy_config::lower as lower_proxy_config;

/// Where the settings of the mesh come from, and what is not among them.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The cluster whose Istio objects count; other clusters add endpoints.
    pub cluster: ClusterId,
    /// Suffix of service names.
    pub domain: String,
    /// The namespace of the control plane.
    pub system_namespace: Namespace,
    /// The ConfigMap there that holds MeshConfig and MeshNetworks.
    pub config_map: Name,
    /// The ConfigMap there that says what is injected into pods: not read here, but named by the same revision.
    pub injection: Name,
    /// Istiod's environment variables.
    pub environment: BTreeMap<String, String>,
    /// A MeshConfig document that counts in place of the ConfigMap's.
    pub mesh: Option<Value>,
    /// A MeshNetworks document that counts in place of the ConfigMap's.
    pub networks: Option<Value>,
}

impl Settings {
    /// Istio's defaults: cluster `Kubernetes`, domain `cluster.local`, and the ConfigMaps `istio` and
    /// `istio-sidecar-injector` in the namespace `istio-system`, both with `-<revision>` at the end unless the revision is
    /// empty or `default`.
    ///
    /// # Errors
    /// When the revision is nothing that an object could be named by.
    pub fn new(revision: &str) -> Result<Self, InvalidName> {
        let named = |name: &str| match revision {
            "" | "default" => Name::new(name),
            revision => Name::new(&format!("{name}-{revision}")),
        };
        Ok(Self {
            cluster: ClusterId::new("Kubernetes")?,
            domain: "cluster.local".to_owned(),
            system_namespace: Namespace::new("istio-system")?,
            config_map: named("istio")?,
            injection: named("istio-sidecar-injector")?,
            environment: BTreeMap::new(),
            mesh: None,
            networks: None,
        })
    }

    /// The ConfigMap, as diagnostics name it.
    pub(crate) fn origin(&self) -> ObjectRef {
        let key = ObjectKey {
            namespace: Some(self.system_namespace.clone()),
            name: self.config_map.clone(),
        };
        Kind::ConfigMap.reference(key)
    }
}

/// The settings in force, as Istio has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// MeshConfig.
    pub mesh: MeshConfig,
    /// MeshNetworks.
    pub networks: MeshNetworks,
}

/// The settings in force, lowered.
#[derive(Debug, Clone, PartialEq)]
pub struct Lowered {
    /// For the snapshot.
    pub mesh: Mesh,
    /// Services that lead to other networks.
    pub gateway_services: Vec<GatewayService>,
    /// Which namespaces are looked at; empty for all.
    pub discovery: Vec<NamespaceSelector>,
}

/// Lays the documents over the defaults. `origin` is the ConfigMap, for diagnostics. `chart` adds what Istio's chart
/// would have written.
pub fn effective(
    mesh: &Value,
    networks: &Value,
    chart: bool,
    before: Option<&Effective>,
    origin: &ObjectRef,
    diagnostics: &mut Vec<Diagnostic>,
) -> Effective {
    let mut base = MeshConfig::default_istio();
    if chart && mesh.get("defaultProviders").is_none_or(Value::is_null) {
        base.default_providers.get_or_insert_default().metrics = vec!["prometheus".to_owned()];
    }
    let mut note = |key: &str, path: &str, severity, message: String| {
        let field = if path.is_empty() {
            format!("data.{key}")
        } else {
            format!("data.{key}.{path}")
        };
        diagnostics.push(diagnostic(origin, &field, severity, "LTN0101", &message));
    };
    let config = match base.merge(mesh) {
        Ok(decoded) => {
            for path in decoded.unknown {
                note(
                    "mesh",
                    &path,
                    Severity::Warning,
                    "MeshConfig has no such field; it is ignored".to_owned(),
                );
            }
            decoded.value
        }
        Err(error) => {
            note(
                "mesh",
                &error.path,
                Severity::Error,
                format!("{}; the mesh settings before stay in force", error.message),
            );
            before.map_or(base, |before| before.mesh.clone())
        }
    };
    let decoded = match networks {
        Value::Null => Ok(MeshNetworks::default()),
        networks => lateen_api::decode_proto::<MeshNetworks>(networks).map(|decoded| {
            for path in decoded.unknown {
                note(
                    "meshNetworks",
                    &path,
                    Severity::Warning,
                    "MeshNetworks has no such field; it is ignored".to_owned(),
                );
            }
            decoded.value
        }),
    };
    let networks = decoded.unwrap_or_else(|error| {
        let message = format!("{}; the networks before stay in force", error.message);
        note("meshNetworks", &error.path, Severity::Error, message);
        before.map(|before| before.networks.clone()).unwrap_or_default()
    });
    Effective { mesh: config, networks }
}

/// Lowers the settings.
pub fn lower(
    effective: &Effective,
    settings: &Settings,
    origin: &ObjectRef,
    diagnostics: &mut Vec<Diagnostic>,
) -> Lowered {
    let mesh = &effective.mesh;
    let mut error = |field: &str, message: String| {
        diagnostics.push(diagnostic(
            origin,
            &format!("data.{field}"),
            Severity::Error,
            "LTN0102",
            &message,
        ));
    };
    let root_namespace = Namespace::new(&mesh.root_namespace).unwrap_or_else(|invalid| {
        error(
            "mesh.rootNamespace",
            format!("{invalid}; {} counts", settings.system_namespace),
        );
        settings.system_namespace.clone()
    });
    let trust_domain = TrustDomain::new(&mesh.trust_domain).unwrap_or_else(|invalid| {
        error(
            "mesh.trustDomain",
            format!("{invalid}; {} counts", TrustDomain::default()),
        );
        TrustDomain::default()
    });
    let (networks, gateway_services) = lower_networks(&effective.networks, &mut error);
    let text = |text: &str| Arc::<str>::from(text);
    let texts = |list: &[String]| {
        list.iter()
            .map(|text| Arc::from(text.as_str()))
            .collect::<Vec<Arc<str>>>()
    };
    let providers = mesh.default_providers.clone().unwrap_or_default();
    let outbound = mesh
        .outbound_traffic_policy
        .as_ref()
        .map(|policy| policy.mode)
        .unwrap_or_default();
    let inbound = mesh
        .inbound_traffic_policy
        .as_ref()
        .map(|policy| policy.mode)
        .unwrap_or_default();
    let policy = mesh.default_traffic_policy.as_ref();
    let policy = policy.map(|policy| {
        lower_traffic_policy(&lateen_api::networking::destination_rule::TrafficPolicy {
            connection_pool: policy.connection_pool.clone(),
            outlier_detection: policy.outlier_detection.clone(),
            ..Default::default()
        })
    });
    let policy = policy.unwrap_or_default();
    let duration = |value: Option<lateen_api::Duration>| value.and_then(lateen_api::Duration::to_std);
    let port = |number: i32, default: u16| u16::try_from(number).ok().filter(|port| *port != 0).unwrap_or(default);
    let discovery: Vec<NamespaceSelector> = mesh.discovery_selectors.iter().map(namespace_selector).collect();
    let lowered = Mesh {
        trust_domain,
        trust_domain_aliases: texts(&mesh.trust_domain_aliases),
        domain: text(&settings.domain),
        outbound_port: port(mesh.proxy_listen_port, 15001),
        inbound_port: port(mesh.proxy_inbound_listen_port, 15006),
        http_proxy_port: u16::try_from(mesh.proxy_http_port).ok().filter(|port| *port != 0),
        outbound: match outbound {
            OutboundTrafficPolicyMode::RegistryOnly => OutboundPolicy::RegistryOnly,
            _ => OutboundPolicy::AllowAny,
        },
        inbound_passthrough: inbound == InboundTrafficPolicyMode::Passthrough,
        auto_mtls: mesh.enable_auto_mtls.unwrap_or_default(),
        connect_timeout: duration(mesh.connect_timeout).unwrap_or_default(),
        tcp_keepalive: mesh.tcp_keepalive.as_ref().map(lower_keepalive),
        protocol_detection_timeout: duration(mesh.protocol_detection_timeout).filter(|time| !time.is_zero()),
        access_log_file: Some(text(&mesh.access_log_file)).filter(|file| !file.is_empty()),
        access_log_format: match mesh.access_log_encoding {
            AccessLogEncoding::Json => LogFormat::Json(text(&mesh.access_log_format)),
            _ => LogFormat::Text(text(&mesh.access_log_format)),
        },
        access_log_service: mesh.enable_envoy_access_log_service,
        disable_listener_log: mesh.disable_envoy_listener_log,
        tracing: mesh.enable_tracing,
        providers: mesh.extension_providers.iter().filter_map(provider).collect(),
        default_tracing: texts(&providers.tracing),
        default_metrics: texts(&providers.metrics),
        default_access_logging: texts(&providers.access_logging),
        locality_lb: mesh
            .locality_lb_setting
            .as_ref()
            .map(lower_locality)
            .unwrap_or_default(),
        default_retries: mesh.default_http_retry_policy.as_ref().map(lower_retries),
        default_inbound_retries: mesh.default_inbound_http_retry_policy.as_ref().map(lower_retries),
        default_service_export_to: default_export_to(&mesh.default_service_export_to, &root_namespace),
        default_virtual_service_export_to: default_export_to(&mesh.default_virtual_service_export_to, &root_namespace),
        default_destination_rule_export_to: default_export_to(
            &mesh.default_destination_rule_export_to,
            &root_namespace,
        ),
        dns_refresh: duration(mesh.dns_refresh_rate).unwrap_or_default(),
        h2_upgrade: mesh.h2_upgrade_policy == H2UpgradePolicy::Upgrade,
        path_normalization: match mesh
            .path_normalization
            .as_ref()
            .map(|value| value.normalization)
            .unwrap_or_default()
        {
            NormalizationType::Default => PathNormalization::Default,
            NormalizationType::None => PathNormalization::None,
            NormalizationType::Base => PathNormalization::Base,
            NormalizationType::MergeSlashes => PathNormalization::MergeSlashes,
            NormalizationType::DecodeAndMergeSlashes => PathNormalization::DecodeAndMergeSlashes,
        },
        ingress_class: text(&mesh.ingress_class),
        ingress_mode: match mesh.ingress_controller_mode {
            IngressControllerMode::Off => IngressMode::Off,
            IngressControllerMode::Default => IngressMode::Default,
            _ => IngressMode::Strict,
        },
        ingress_service: text(&mesh.ingress_service),
        ingress_selector: text(&mesh.ingress_selector),
        mesh_mtls: mesh.mesh_mtls.as_ref().map(tls).unwrap_or_default(),
        tls_defaults: mesh.tls_defaults.as_ref().map(tls).unwrap_or_default(),
        verify_certificate_at_client: mesh.verify_certificate_at_client.unwrap_or_default(),
        preserve_header_case: false,
        service_settings: mesh
            .service_settings
            .iter()
            .map(|settings| ServiceSettings {
                cluster_local: settings
                    .settings
                    .as_ref()
                    .is_some_and(|settings| settings.cluster_local),
                hosts: settings
                    .hosts
                    .iter()
                    .filter_map(|host| Hostname::lower(host).ok())
                    .collect(),
            })
            .collect(),
        discovery_selectors: discovery.clone(),
        networks,
        default_http_pool: policy.pool.as_ref().and_then(|pool| pool.http.clone()),
        default_policy: policy,
        inbound_stat_name: text(&mesh.inbound_cluster_stat_name),
        outbound_stat_name: text(&mesh.outbound_cluster_stat_name),
        default_config: mesh
            .default_config
            .as_ref()
            .map(proxy_config::lower)
            .unwrap_or_default(),
        environment: settings
            .environment
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
        root_namespace,
    };
    Lowered {
        mesh: lowered,
        gateway_services,
        discovery,
    }
}

fn namespace_selector(selector: &LabelSelector) -> NamespaceSelector {
    let requirement = |expression: &LabelSelectorRequirement| Requirement {
        key: expression.key.as_str().into(),
        operator: match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => Operator::Unknown,
        },
        values: expression.values.iter().map(|value| value.as_str().into()).collect(),
    };
    NamespaceSelector {
        labels: labels(Some(&selector.match_labels)),
        expressions: selector.match_expressions.iter().map(requirement).collect(),
    }
}

/// `.` cannot be resolved yet: it is the namespace of each object that says nothing of its own.
fn default_export_to(list: &[String], namespace: &Namespace) -> ExportTo {
    match list {
        [] => ExportTo::All,
        [own] if own == "." => ExportTo::Namespaces(Vec::new()),
        list => export_to(list, namespace).unwrap_or_default(),
    }
}

fn tls(config: &TlsConfig) -> TlsSettings {
    let texts = |list: &[String]| list.iter().map(|text| Arc::from(text.as_str())).collect();
    TlsSettings {
        // Envoy's numbers: TLSv1_2 is 3, TLSv1_3 is 4.
        min_version: match config.min_protocol_version {
            MeshTlsProtocol::TlsV1_3 => 4,
            MeshTlsProtocol::TlsV1_2 => 3,
            MeshTlsProtocol::TlsAuto => 0,
        },
        cipher_suites: texts(&config.cipher_suites),
        ecdh_curves: texts(&config.ecdh_curves),
    }
}

/// The provider's kind is the one field besides its name.
fn provider(provider: &lateen_api::mesh::ExtensionProvider) -> Option<ExtensionProvider> {
    let Ok(Value::Object(fields)) = serde_json::to_value(provider) else {
        return None;
    };
    let (kind, config) = fields.into_iter().find(|(key, _)| key != "name")?;
    Some(ExtensionProvider {
        name: provider.name.as_str().into(),
        kind: kind.into(),
        config: config.to_string().into(),
    })
}

fn lower_networks(
    networks: &MeshNetworks,
    error: &mut impl FnMut(&str, String),
) -> (BTreeMap<Network, NetworkInfo>, Vec<GatewayService>) {
    let mut lowered = BTreeMap::new();
    let mut services = Vec::new();
    for (name, network) in &networks.networks {
        let at = format!("meshNetworks.networks.{name}");
        let id = match Network::new(name) {
            Ok(id) => id,
            Err(invalid) => {
                error(&at, format!("{invalid}; the network is left out"));
                continue;
            }
        };
        let mut info = NetworkInfo::default();
        for (index, endpoints) in network.endpoints.iter().enumerate() {
            match endpoints.ne() {
                Some(NetworkEndpointsSource::FromRegistry(registry)) => info.registries.push(registry.into()),
                Some(NetworkEndpointsSource::FromCidr(text)) => match text.parse::<IpNet>() {
                    Ok(range) => info.ranges.push(range.trunc()),
                    Err(_) => error(
                        &format!("{at}.endpoints[{index}].fromCidr"),
                        format!("`{text}` is no address range such as 10.0.0.0/8; it is left out"),
                    ),
                },
                None => {}
            }
        }
        for (index, gateway) in network.gateways.iter().enumerate() {
            let Some(port) = u16::try_from(gateway.port).ok().filter(|port| *port != 0) else {
                error(
                    &format!("{at}.gateways[{index}].port"),
                    format!("{} is no port; the gateway is left out", gateway.port),
                );
                continue;
            };
            match gateway.gw() {
                Some(NetworkGatewayAddress::Address(address)) => info.gateways.push(NetworkGateway {
                    network: id.clone(),
                    cluster: None,
                    address: address.into(),
                    port,
                }),
                Some(NetworkGatewayAddress::RegistryServiceName(host)) => {
                    services.extend(Hostname::lower(host).ok().map(|host| GatewayService {
                        network: id.clone(),
                        host,
                        port,
                        registries: info.registries.clone(),
                    }));
                }
                None => {}
            }
        }
        lowered.insert(id, info);
    }
    (lowered, services)
}
