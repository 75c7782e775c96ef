//! The whole world at one moment, immutable.

use std::net::IpAddr;
use std::sync::Arc;

use lateen_names::{ClusterId, Namespace, ObjectKey};

use crate::destination::DestinationRule;
use crate::endpoint::{Endpoints, Instances, Workload};
use crate::extension::Extension;
use crate::gateway::Gateway;
use crate::mesh::{Mesh, NetworkGateway};
use crate::policy::{AuthorizationPolicy, EnvoyFilter, PeerAuthentication, RequestAuthentication, Telemetry};
use crate::route::VirtualService;
use crate::secret::{Credential, Sensitive};
use crate::sidecar::Sidecar;
use crate::{Diagnostic, Labels, Service, ServiceKey, Shared, Table};

/// Label of a Namespace, or annotation, by which its sidecars get clusters of HTTP on first use: `on-demand`.
pub const DISCOVERY: &str = "lateen.dev/discovery";

/// What `lower` publishes and `compile` reads. Tables are persistent: two snapshots share what did not change.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Grows with every snapshot.
    pub generation: u64,
    /// Settings.
    pub mesh: Shared<Mesh>,
    /// Labels of namespaces.
    pub namespaces: Table<Namespace, Labels>,
    /// Services.
    pub services: Table<ServiceKey, Service>,
    /// Endpoints by service.
    pub endpoints: Table<ServiceKey, Endpoints>,
    /// What is served at an address of a cluster: the inbound side of sidecars, the services of gateways.
    pub instances: Table<(ClusterId, IpAddr), Instances>,
    /// Pods that run, by cluster, namespace and name: what a proxy that connects is looked up in.
    pub workloads: Table<(ClusterId, ObjectKey), Workload>,
    /// Routes.
    pub virtual_services: Table<ObjectKey, VirtualService>,
    /// Policies by destination.
    pub destination_rules: Table<ObjectKey, DestinationRule>,
    /// Gateways.
    pub gateways: Table<ObjectKey, Gateway>,
    /// Sidecar objects.
    pub sidecars: Table<ObjectKey, Sidecar>,
    /// PeerAuthentications.
    pub peer_authentications: Table<ObjectKey, PeerAuthentication>,
    /// RequestAuthentications.
    pub request_authentications: Table<ObjectKey, RequestAuthentication>,
    /// AuthorizationPolicies.
    pub authorization_policies: Table<ObjectKey, AuthorizationPolicy>,
    /// Telemetries.
    pub telemetries: Table<ObjectKey, Telemetry>,
    /// EnvoyFilters.
    pub envoy_filters: Table<ObjectKey, EnvoyFilter>,
    /// TrafficExtensions by their own keys, WasmPlugins by keys that no TrafficExtension has.
    pub extensions: Table<ObjectKey, Extension>,
    /// Key material.
    pub credentials: Table<ObjectKey, Credential>,
    /// Credentials for registries of images, by the key of their Secret: Docker's configuration, JSON.
    pub pull_secrets: Table<ObjectKey, Sensitive>,
    /// Gateways into other networks, sorted.
    pub network_gateways: Shared<Vec<NetworkGateway>>,
    /// What users should know, sorted.
    pub diagnostics: Arc<[Diagnostic]>,
}

impl Snapshot {
    /// Whether sidecars of a namespace get clusters of HTTP on first use, as far as the namespace says so.
    pub fn is_on_demand(&self, namespace: &Namespace) -> bool {
        self.namespaces
            .get(namespace)
            .is_some_and(|labels| says_on_demand(labels))
    }

    /// The namespaces whose sidecars do.
    pub fn on_demand(&self) -> impl Iterator<Item = &Namespace> {
        let asking = self.namespaces.iter().filter(|(_, labels)| says_on_demand(labels));
        asking.map(|(namespace, _)| namespace)
    }
}

fn says_on_demand(labels: &Labels) -> bool {
    labels.get(DISCOVERY).is_some_and(|value| &**value == "on-demand")
}
