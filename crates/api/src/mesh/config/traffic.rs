//! Traffic policies and the visibility of services in MeshConfig.

use crate::networking::destination_rule::{ClientTlsSettings, ConnectionPoolSettings, OutlierDetection};
use crate::proto_enum::proto_enum;
use crate::serde_util::is_default;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What becomes of traffic to services that nobody has declared.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OutboundTrafficPolicy {
    /// Whether it may pass.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: OutboundTrafficPolicyMode,
    /// TLS of connections to such services, with ALLOW_ANY_DYNAMIC_DNS.
    #[serde(skip_serializing_if = "is_default")]
    pub tls: Option<ClientTlsSettings>,
}

proto_enum! {
    /// Whether traffic to undeclared services may pass.
    pub enum OutboundTrafficPolicyMode {
        /// No.
        RegistryOnly = (0, "REGISTRY_ONLY"),
        /// Yes, to the address that the application asked for.
        AllowAny = (1, "ALLOW_ANY"),
        /// Yes, to whatever the host that the application named resolves to.
        AllowAnyDynamicDns = (3, "ALLOW_ANY_DYNAMIC_DNS"),
    }
}

/// The address at which sidecars reach their workload.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct InboundTrafficPolicy {
    /// Which.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: InboundTrafficPolicyMode,
}

proto_enum! {
    /// The address at which sidecars reach their workload.
    pub enum InboundTrafficPolicyMode {
        /// The pod's own, which the client asked for.
        Passthrough = (0, "PASSTHROUGH"),
        /// The loopback address.
        Localhost = (1, "LOCALHOST"),
    }
}

/// How traffic is treated where a DestinationRule does not say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DefaultTrafficPolicy {
    /// Limits and timeouts of connections.
    #[serde(skip_serializing_if = "is_default")]
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When endpoints that fail are left out for a while.
    #[serde(skip_serializing_if = "is_default")]
    pub outlier_detection: Option<OutlierDetection>,
}

/// How paths are normalised.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyPathNormalization {
    /// How far.
    #[serde(skip_serializing_if = "is_default")]
    pub normalization: NormalizationType,
}

proto_enum! {
    /// How far paths are normalised.
    pub enum NormalizationType {
        /// As BASE.
        Default = (0, "DEFAULT"),
        /// Not at all.
        None = (1, "NONE"),
        /// As RFC 3986 says: dots, backslashes.
        Base = (2, "BASE"),
        /// Also several slashes become one.
        MergeSlashes = (3, "MERGE_SLASHES"),
        /// Also escaped slashes are unescaped before.
        DecodeAndMergeSlashes = (4, "DECODE_AND_MERGE_SLASHES"),
    }
}

/// Settings of some services.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSettings {
    /// The settings.
    #[serde(skip_serializing_if = "is_default")]
    pub settings: Option<ServiceSettingsValues>,
    /// The services, by name, perhaps with a leading wildcard; the most specific entry counts.
    #[serde(skip_serializing_if = "is_default")]
    pub hosts: Vec<String>,
}

/// Settings of a service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSettingsValues {
    /// Whether it is only reached within the client's own cluster.
    #[serde(skip_serializing_if = "is_default")]
    pub cluster_local: bool,
}

/// Which services other clusters may use.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceScopeConfigs {
    /// Labels of the namespaces.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace_selector: Option<LabelSelector>,
    /// Labels of the services.
    #[serde(skip_serializing_if = "is_default")]
    pub services_selector: Option<LabelSelector>,
    /// Who may use them.
    #[serde(skip_serializing_if = "is_default")]
    pub scope: ServiceScope,
}

proto_enum! {
    /// Who may use a service.
    pub enum ServiceScope {
        /// Its own cluster.
        Local = (0, "LOCAL"),
        /// Every cluster.
        Global = (1, "GLOBAL"),
    }
}

/// Who may see ServiceEntries, whatever they themselves say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceEntryVisibility {
    /// What holds where no policy matches.
    #[serde(skip_serializing_if = "is_default")]
    pub default_visibility: Visibility,
    /// Whether sidecars and gateways are bound by it too, and not just ambient proxies.
    #[serde(skip_serializing_if = "is_default")]
    pub apply_to_sidecars: bool,
    /// The policies, of which the first that matches applies.
    #[serde(skip_serializing_if = "is_default")]
    pub policies: Vec<VisibilityPolicy>,
}

/// Who may see some ServiceEntries.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VisibilityPolicy {
    /// Who.
    #[serde(skip_serializing_if = "is_default")]
    pub visibility: Visibility,
    /// Which, of which one must match.
    #[serde(skip_serializing_if = "is_default")]
    pub matching_rules: Vec<VisibilityMatchRule>,
}

/// Some ServiceEntries.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VisibilityMatchRule {
    /// Those in namespaces with these labels.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace_selector: Option<LabelSelector>,
}

proto_enum! {
    /// Who may see a ServiceEntry.
    pub enum Visibility {
        /// As the ServiceEntry says.
        VisibilityUnspecified = (0, "VISIBILITY_UNSPECIFIED"),
        /// Nobody.
        None = (1, "NONE"),
        /// Its own namespace.
        Namespace = (2, "NAMESPACE"),
        /// Everyone that the ServiceEntry names.
        Public = (3, "PUBLIC"),
    }
}

/// Objects by their labels, as Kubernetes selects them; all conditions must hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels and their values.
    #[serde(skip_serializing_if = "is_default")]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on labels.
    #[serde(skip_serializing_if = "is_default")]
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

/// A condition on a label.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelectorRequirement {
    /// The label.
    #[serde(skip_serializing_if = "is_default")]
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[serde(skip_serializing_if = "is_default")]
    pub operator: String,
    /// The values, for `In` and `NotIn`.
    #[serde(skip_serializing_if = "is_default")]
    pub values: Vec<String>,
}

/// The providers that hold where Telemetry objects name none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DefaultProviders {
    /// For tracing.
    #[serde(skip_serializing_if = "is_default")]
    pub tracing: Vec<String>,
    /// For metrics.
    #[serde(skip_serializing_if = "is_default")]
    pub metrics: Vec<String>,
    /// For access logs.
    #[serde(skip_serializing_if = "is_default")]
    pub access_logging: Vec<String>,
}

/// A place that configuration is read from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConfigSource {
    /// `fs:///path`, `xds://host:port` or `k8s://`.
    #[serde(skip_serializing_if = "is_default")]
    pub address: String,
    /// TLS toward a server.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_settings: Option<ClientTlsSettings>,
    /// What to read from there besides configuration.
    #[serde(skip_serializing_if = "is_default")]
    pub subscribed_resources: Vec<Resource>,
}

proto_enum! {
    /// Something to read from a source of configuration.
    pub enum Resource {
        /// Services and workloads.
        ServiceRegistry = (0, "SERVICE_REGISTRY"),
    }
}
