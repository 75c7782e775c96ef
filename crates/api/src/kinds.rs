//! The table of custom resources.

use serde_json::Value;

use crate::schema::structural;
use crate::{extensions, networking, security, telemetry};

/// A kind of custom resource: what discovery, watches and the CustomResourceDefinitions need to know of it.
pub struct KindInfo {
    /// API group, such as `networking.istio.io`.
    pub group: &'static str,
    /// Kind, such as `VirtualService`.
    pub kind: &'static str,
    /// Plural in lower case, as in URLs and in RBAC rules.
    pub plural: &'static str,
    /// What `kubectl get` takes besides.
    pub short_names: &'static [&'static str],
    /// The versions an API server serves; all have the same schema, so objects of any are read by the same type.
    pub versions: &'static [&'static str],
    /// The version in which objects are stored.
    pub storage_version: &'static str,
    /// Whether objects belong to a namespace.
    pub scope: Scope,
    /// Groups of kinds that `kubectl get` takes.
    pub categories: &'static [&'static str],
    /// What `kubectl get` shows besides the name.
    pub columns: &'static [Column],
    /// Whether an object without `spec` is refused.
    pub spec_required: bool,
    pub(crate) schema: fn() -> Value,
}

/// Whether the objects of a kind belong to a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// They do.
    Namespaced,
    /// They do not.
    Cluster,
}

/// A column of `kubectl get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The title.
    pub name: &'static str,
    /// Where the value stands in the object, as a JSON path.
    pub json_path: &'static str,
    /// Its type in OpenAPI, or `date`.
    pub r#type: &'static str,
}

impl KindInfo {
    /// The name in lower case and singular.
    pub fn singular(&self) -> String {
        self.kind.to_ascii_lowercase()
    }

    /// The name of the CustomResourceDefinition.
    pub fn crd_name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    /// Whether an object with this `apiVersion` and `kind` is of this kind, in a version that is served.
    pub fn is(&self, api_version: &str, kind: &str) -> bool {
        kind == self.kind
            && api_version
                .split_once('/')
                .is_some_and(|(group, version)| group == self.group && self.versions.contains(&version))
    }
}

impl std::fmt::Debug for KindInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KindInfo({})", self.crd_name())
    }
}

/// The kind of an object, by its `apiVersion` and `kind`; `None` when it is none of ours or its version is not served.
pub fn kind(api_version: &str, kind: &str) -> Option<&'static KindInfo> {
    KINDS.iter().find(|info| info.is(api_version, kind))
}

const AGE: Column = Column {
    name: "Age",
    json_path: ".metadata.creationTimestamp",
    r#type: "date",
};

const fn column(name: &'static str, json_path: &'static str) -> Column {
    Column {
        name,
        json_path,
        r#type: "string",
    }
}

/// Every custom resource of the mesh.
pub const KINDS: &[KindInfo] = &[
    KindInfo {
        group: "networking.istio.io",
        kind: "VirtualService",
        plural: "virtualservices",
        short_names: &["vs"],
        versions: &["v1", "v1alpha3", "v1beta1"],
        storage_version: "v1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "networking-istio-io"],
        columns: &[
            column("Gateways", ".spec.gateways"),
            column("Hosts", ".spec.hosts"),
            AGE,
        ],
        spec_required: false,
        schema: structural::<networking::VirtualServiceSpec>,
    },
    KindInfo {
        group: "networking.istio.io",
        kind: "DestinationRule",
        plural: "destinationrules",
        short_names: &["dr"],
        versions: &["v1", "v1alpha3", "v1beta1"],
        storage_version: "v1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "networking-istio-io"],
        columns: &[column("Host", ".spec.host"), AGE],
        spec_required: false,
        schema: structural::<networking::DestinationRuleSpec>,
    },
    KindInfo {
        group: "networking.istio.io",
        kind: "Gateway",
        plural: "gateways",
        short_names: &["gw"],
        versions: &["v1", "v1alpha3", "v1beta1"],
        storage_version: "v1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "networking-istio-io"],
        columns: &[],
        spec_required: false,
        schema: structural::<networking::GatewaySpec>,
    },
    KindInfo {
        group: "networking.istio.io",
        kind: "ServiceEntry",
        plural: "serviceentries",
        short_names: &["se"],
        versions: &["v1", "v1alpha3", "v1beta1"],
        storage_version: "v1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "networking-istio-io"],
        columns: &[
            column("Hosts", ".spec.hosts"),
            column("Location", ".spec.location"),
            column("Resolution", ".spec.resolution"),
            AGE,
        ],
        spec_required: true,
        schema: structural::<networking::ServiceEntrySpec>,
    },
    KindInfo {
        group: "networking.istio.io",
        kind: "WorkloadEntry",
        plural: "workloadentries",
        short_names: &["we"],
        versions: &["v1", "v1alpha3", "v1beta1"],
        storage_version: "v1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "networking-istio-io"],
        columns: &[AGE, column("Address", ".spec.address")],
        spec_required: true,
        schema: structural::<networking::WorkloadEntrySpec>,
    },
    KindInfo {
        group: "networking.istio.io",
        kind: "WorkloadGroup",
        plural: "workloadgroups",
        short_names: &["wg"],
        versions: &["v1", "v1alpha3", "v1beta1"],
        storage_version: "v1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "networking-istio-io"],
        columns: &[AGE],
        spec_required: true,
        schema: structural::<networking::WorkloadGroupSpec>,
    },
    KindInfo {
        group: "networking.istio.io",
        kind: "Sidecar",
        plural: "sidecars",
        short_names: &[],
        versions: &["v1", "v1alpha3", "v1beta1"],
        storage_version: "v1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "networking-istio-io"],
        columns: &[],
        spec_required: false,
        schema: structural::<networking::SidecarSpec>,
    },
    KindInfo {
        group: "networking.istio.io",
        kind: "EnvoyFilter",
        plural: "envoyfilters",
        short_names: &[],
        versions: &["v1alpha3"],
        storage_version: "v1alpha3",
        scope: Scope::Namespaced,
        categories: &["istio-io", "networking-istio-io"],
        columns: &[],
        spec_required: false,
        schema: structural::<networking::EnvoyFilterSpec>,
    },
    KindInfo {
        group: "networking.istio.io",
        kind: "ProxyConfig",
        plural: "proxyconfigs",
        short_names: &[],
        versions: &["v1beta1"],
        storage_version: "v1beta1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "networking-istio-io"],
        columns: &[],
        spec_required: false,
        schema: structural::<networking::ProxyConfigSpec>,
    },
    KindInfo {
        group: "security.istio.io",
        kind: "PeerAuthentication",
        plural: "peerauthentications",
        short_names: &["pa"],
        versions: &["v1", "v1beta1"],
        storage_version: "v1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "security-istio-io"],
        columns: &[column("Mode", ".spec.mtls.mode"), AGE],
        spec_required: false,
        schema: structural::<security::PeerAuthenticationSpec>,
    },
    KindInfo {
        group: "security.istio.io",
        kind: "RequestAuthentication",
        plural: "requestauthentications",
        short_names: &["ra"],
        versions: &["v1", "v1beta1"],
        storage_version: "v1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "security-istio-io"],
        columns: &[],
        spec_required: false,
        schema: structural::<security::RequestAuthenticationSpec>,
    },
    KindInfo {
        group: "security.istio.io",
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        short_names: &["ap"],
        versions: &["v1", "v1beta1"],
        storage_version: "v1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "security-istio-io"],
        columns: &[column("Action", ".spec.action"), AGE],
        spec_required: false,
        schema: structural::<security::AuthorizationPolicySpec>,
    },
    KindInfo {
        group: "telemetry.istio.io",
        kind: "Telemetry",
        plural: "telemetries",
        short_names: &["telemetry"],
        versions: &["v1", "v1alpha1"],
        storage_version: "v1alpha1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "telemetry-istio-io"],
        columns: &[AGE],
        spec_required: false,
        schema: structural::<telemetry::TelemetrySpec>,
    },
    KindInfo {
        group: "extensions.istio.io",
        kind: "WasmPlugin",
        plural: "wasmplugins",
        short_names: &[],
        versions: &["v1alpha1"],
        storage_version: "v1alpha1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "extensions-istio-io"],
        columns: &[AGE],
        spec_required: true,
        schema: structural::<extensions::WasmPluginSpec>,
    },
    KindInfo {
        group: "extensions.istio.io",
        kind: "TrafficExtension",
        plural: "trafficextensions",
        short_names: &[],
        versions: &["v1alpha1"],
        storage_version: "v1alpha1",
        scope: Scope::Namespaced,
        categories: &["istio-io", "extensions-istio-io"],
        columns: &[AGE],
        spec_required: true,
        schema: structural::<extensions::TrafficExtensionSpec>,
    },
];
