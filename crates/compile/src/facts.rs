//! What each family of resources may know of a proxy. Proxies whose facts are equal form a class and share everything.

mod reached;
mod traits;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use lateen_model::endpoint::Instance;
use lateen_model::extension::Extension;
use lateen_model::gateway::GatewaySelector;
use lateen_model::mesh::ProxyConfig;
use lateen_model::patch::Patch;
use lateen_model::policy::{EnvoyFilter, Scope as PolicyScope};
use lateen_model::proxy::{Capabilities, Interception, IpFamilies, Options, ProxyKind};
use lateen_model::{Labels, Proxy, Shared, Snapshot, Table};
use lateen_names::{ClusterId, Hostname, Locality, Namespace, Network, ObjectKey};

use crate::listener::plan::plans_by_endpoints;
use crate::survey::Survey;
pub(crate) use traits::Traits;

/// A family of resources: one key, one list, one difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Clusters that are called.
    OutboundClusters,
    /// Those of them that come by name only, when they are first used.
    OnDemandClusters,
    /// Clusters of the application itself.
    InboundClusters,
    /// Endpoints of the clusters that are called.
    Endpoints,
    /// Listeners for calls; all listeners of a gateway.
    OutboundListeners,
    /// Listeners for being called.
    InboundListeners,
    /// Route tables.
    Routes,
    /// Virtual hosts that come one by one.
    VirtualHosts,
    /// Key material.
    Secrets,
    /// The name table.
    NameTable,
    /// Configurations that filters ask for by name.
    Extensions,
}

impl Family {
    /// All of them, in push order.
    pub const ALL: [Self; 11] = [
        Self::OutboundClusters,
        Self::OnDemandClusters,
        Self::InboundClusters,
        Self::Endpoints,
        Self::Extensions,
        Self::OutboundListeners,
        Self::InboundListeners,
        Self::Routes,
        Self::VirtualHosts,
        Self::Secrets,
        Self::NameTable,
    ];

    /// The xDS type of its resources.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::OutboundClusters | Self::OnDemandClusters | Self::InboundClusters => {
                "type.googleapis.com/envoy.config.cluster.v3.Cluster"
            }
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::OutboundListeners | Self::InboundListeners => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHosts => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            Self::Secrets => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Extensions => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::NameTable => "type.googleapis.com/istio.networking.nds.v1.NameTable",
        }
    }
}

/// Facts that everything outbound sees: clusters, virtual hosts, and in part listeners and endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OutboundFacts {
    /// Kind.
    pub kind: ProxyKind,
    /// Namespace.
    pub namespace: Namespace,
    /// Cluster.
    pub cluster: ClusterId,
    /// Network.
    pub network: Network,
    /// Address families.
    pub families: IpFamilies,
    /// Interception.
    pub interception: Interception,
    /// DNS domain of short names.
    pub dns_domain: Arc<str>,
    /// Options.
    pub options: Options,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// ProxyConfig.
    pub config: Shared<ProxyConfig>,
    /// The Sidecar object in force.
    pub sidecar: Option<ObjectKey>,
    /// DestinationRules whose workload selector matches.
    pub rules: Vec<ObjectKey>,
    /// Those sets of `sourceLabels` in VirtualServices that match.
    pub source_labels: BTreeSet<Labels>,
    /// EnvoyFilters in force, in order of application.
    pub envoy_filters: Vec<FilterInForce>,
    /// Telemetries in force: root, namespace, workload.
    pub telemetries: Vec<ObjectKey>,
    /// Gateways that select the proxy, oldest first (routers only).
    pub gateways: Vec<ObjectKey>,
    /// Services and ports at the proxy (routers only): a Gateway's port is the service's, its listener the target port.
    pub gateway_ports: Vec<Instance>,
    /// Authorization, request authentication policies in force (routers only).
    pub policies: Policies,
    /// Hosts to which more leads than routes, where clusters that only routes lead to come on demand; else `None`.
    pub on_demand: Option<Shared<BTreeSet<Hostname>>>,
    /// Where the proxy is, where some cluster with inline endpoints orders them by place; else `None`.
    pub place: Option<Place>,
}

/// Where a proxy is, as far as the order of endpoints depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// Locality.
    pub locality: Locality,
    /// Those of its labels that some rule orders endpoints by (`failoverPriority`).
    pub labels: Labels,
}

/// An EnvoyFilter that concerns a proxy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FilterInForce {
    /// The filter.
    pub key: ObjectKey,
    /// Places in its list of those patches that are for proxies of another version or other metadata.
    pub left_out: Vec<usize>,
}

/// Further facts that outbound listeners see.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListenerFacts {
    /// See [`OutboundFacts`].
    pub outbound: Shared<OutboundFacts>,
    /// Facts that only telemetry sees.
    pub telemetry: TelemetryFacts,
    /// Own address, where some services have listeners of their own for their endpoints, of which the proxy is one.
    pub own: Option<IpAddr>,
    /// TrafficExtensions and WasmPlugins for calls, in order of application.
    pub extensions: Vec<ObjectKey>,
}

/// Facts that the configurations see which filters ask for by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExtensionFacts {
    /// EnvoyFilters in force, in order of application.
    pub envoy_filters: Vec<FilterInForce>,
    /// Extensions that run WebAssembly modules, on any side.
    pub modules: Vec<ObjectKey>,
}

/// What telemetry names a proxy by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TelemetryFacts {
    /// Canonical service.
    pub canonical_name: Arc<str>,
    /// Canonical revision.
    pub canonical_revision: Arc<str>,
    /// Mesh ID.
    pub mesh_id: Arc<str>,
    /// Namespace.
    pub namespace: Namespace,
    /// Service account.
    pub service_account: Arc<str>,
    /// Workload.
    pub workload: Arc<str>,
    /// Cluster.
    pub cluster: ClusterId,
}

impl TelemetryFacts {
    /// What stays of them where nobody asks for a workload's names.
    pub(crate) fn nameless(facts: &Self) -> Self {
        Self {
            canonical_name: "".into(),
            canonical_revision: "".into(),
            mesh_id: Arc::clone(&facts.mesh_id),
            namespace: facts.namespace.clone(),
            service_account: "".into(),
            workload: "".into(),
            cluster: facts.cluster.clone(),
        }
    }
}

/// Facts that endpoints see.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointFacts {
    /// See [`OutboundFacts`].
    pub outbound: Shared<OutboundFacts>,
    /// Where the proxy is.
    pub locality: Locality,
    /// Its node, where some visible service is local to nodes.
    pub node: Option<Arc<str>>,
    /// Those of its labels that some rule orders endpoints by (`failoverPriority`).
    pub labels: Labels,
}

/// Keys of policies in force, each list in order of application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Policies {
    /// PeerAuthentications: root, namespace, workload.
    pub peer: Vec<ObjectKey>,
    /// RequestAuthentications.
    pub request: Vec<ObjectKey>,
    /// AuthorizationPolicies.
    pub authorization: Vec<ObjectKey>,
}

/// Facts that everything inbound sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InboundFacts {
    /// Kind.
    pub kind: ProxyKind,
    /// Namespace.
    pub namespace: Namespace,
    /// Cluster.
    pub cluster: ClusterId,
    /// Address families.
    pub families: IpFamilies,
    /// Interception.
    pub interception: Interception,
    /// Options.
    pub options: Options,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// ProxyConfig.
    pub config: Shared<ProxyConfig>,
    /// The Sidecar object in force.
    pub sidecar: Option<ObjectKey>,
    /// What is served here, in the order in which services win conflicts over a port.
    pub instances: Vec<Instance>,
    /// Policies in force.
    pub policies: Policies,
    /// EnvoyFilters in force, in order of application.
    pub envoy_filters: Vec<FilterInForce>,
    /// Telemetries in force.
    pub telemetries: Vec<ObjectKey>,
    /// Facts that only telemetry sees.
    pub telemetry: TelemetryFacts,
    /// Own addresses, where they are bound or matched (without interception) or passed on to; else empty.
    pub addresses: Vec<IpAddr>,
    /// TrafficExtensions and WasmPlugins for being called, in order of application.
    pub extensions: Vec<ObjectKey>,
}

/// All keys of one proxy. Facts are hashed once, so that a key costs the same however much it says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Classes {
    /// Clusters, routes, name table, secrets.
    pub outbound: Shared<OutboundFacts>,
    /// Outbound listeners.
    pub listeners: Shared<ListenerFacts>,
    /// Endpoints.
    pub endpoints: Shared<EndpointFacts>,
    /// Inbound clusters and listeners.
    pub inbound: Shared<InboundFacts>,
    /// Configurations of filters.
    pub extensions: Shared<ExtensionFacts>,
}

impl Classes {
    /// Reads off a proxy what each family may know of it.
    pub fn of(snapshot: &Snapshot, proxy: &Proxy) -> Self {
        Self::read(&Survey::new(snapshot), snapshot, proxy)
    }

    /// The same with a survey of that snapshot at hand.
    pub fn read(survey: &Survey, snapshot: &Snapshot, proxy: &Proxy) -> Self {
        let sidecar = sidecar_of(snapshot, proxy);
        let envoy_filters = filters_in_force(snapshot, proxy);
        let telemetries = in_force(&snapshot.telemetries, snapshot, proxy, |telemetry| &telemetry.scope);
        let policies = Policies {
            peer: in_force(&snapshot.peer_authentications, snapshot, proxy, |policy| &policy.scope),
            request: in_force(&snapshot.request_authentications, snapshot, proxy, |policy| {
                &policy.scope
            }),
            authorization: in_force(&snapshot.authorization_policies, snapshot, proxy, |policy| {
                &policy.scope
            }),
        };
        let extensions = extensions_in_force(snapshot, proxy);
        let on_side = |inbound: bool| -> Vec<ObjectKey> {
            let here = extensions
                .iter()
                .filter(|(_, extension)| extension.may_concern(inbound));
            here.map(|(key, _)| key.clone()).collect()
        };
        let instances = instances_of(snapshot, proxy);
        let traits = &survey.traits;
        let labels = traits.ordering_labels(proxy);
        let router = proxy.kind == ProxyKind::Router;
        // What patches change of virtual hosts they change in tables.
        let virtual_hosts =
            proxy.capabilities.virtual_hosts && !crate::envoyfilter::change_routes(snapshot, &envoy_filters);
        // Streams that can name clusters can have virtual hosts one by one. Patches and extensions may send requests to
        // clusters without a route that says so.
        let on_demand = proxy.kind == ProxyKind::Sidecar
            && virtual_hosts
            && envoy_filters.is_empty()
            && extensions.is_empty()
            && snapshot.is_on_demand(&proxy.namespace);
        let capabilities = Capabilities {
            virtual_hosts,
            tells_agent: on_demand && proxy.capabilities.tells_agent,
            ..proxy.capabilities
        };
        let outbound = Shared::new(OutboundFacts {
            kind: proxy.kind,
            namespace: proxy.namespace.clone(),
            cluster: proxy.cluster.clone(),
            network: proxy.network.clone(),
            families: proxy.families(),
            interception: proxy.interception,
            dns_domain: Arc::clone(&proxy.dns_domain),
            options: proxy.options.clone(),
            capabilities,
            config: proxy.config.clone(),
            sidecar: sidecar.clone(),
            rules: traits.selected_rules(proxy),
            source_labels: traits.source_labels(proxy),
            envoy_filters: envoy_filters.clone(),
            telemetries: telemetries.clone(),
            gateways: if router {
                gateways_of(snapshot, proxy, &instances)
            } else {
                Vec::new()
            },
            gateway_ports: if router { instances.clone() } else { Vec::new() },
            policies: if router { policies.clone() } else { Policies::default() },
            on_demand: on_demand.then(|| traits.reached.clone()),
            place: traits.inline_places.then(|| Place {
                locality: proxy.locality.clone(),
                labels: labels.clone(),
            }),
        });
        let telemetry = TelemetryFacts {
            canonical_name: Arc::clone(&proxy.canonical.0),
            canonical_revision: Arc::clone(&proxy.canonical.1),
            mesh_id: Arc::clone(&proxy.mesh_id),
            namespace: proxy.namespace.clone(),
            service_account: Arc::clone(&proxy.service_account),
            workload: Arc::clone(&proxy.workload),
            cluster: proxy.cluster.clone(),
        };
        let sidecar_key = sidecar.clone();
        let bound = proxy.interception == Interception::None && !router;
        let planned = instances.iter().any(|instance| {
            let service = snapshot.services.get(&instance.service);
            service.is_some_and(|service| plans_by_endpoints(service))
        });
        let addresses = |known: bool| if known { proxy.addresses.clone() } else { Vec::new() };
        Self {
            listeners: Shared::new(ListenerFacts {
                outbound: outbound.clone(),
                telemetry: telemetry.clone(),
                own: proxy.addresses.first().copied().filter(|_| planned),
                extensions: on_side(false),
            }),
            extensions: Shared::new(ExtensionFacts {
                envoy_filters: envoy_filters.clone(),
                modules: (extensions.iter())
                    .filter(|(_, extension)| extension.wasm().is_some())
                    .map(|(key, _)| key.clone())
                    .collect(),
            }),
            endpoints: Shared::new(EndpointFacts {
                outbound: outbound.clone(),
                locality: proxy.locality.clone(),
                node: proxy.node.clone().filter(|_| traits.node_local),
                labels,
            }),
            inbound: Shared::new(InboundFacts {
                kind: proxy.kind,
                namespace: proxy.namespace.clone(),
                cluster: proxy.cluster.clone(),
                families: proxy.families(),
                interception: proxy.interception,
                options: proxy.options.clone(),
                capabilities: Capabilities {
                    virtual_hosts: false,
                    tells_agent: false,
                    ..proxy.capabilities
                },
                config: proxy.config.clone(),
                sidecar,
                instances,
                policies,
                envoy_filters,
                telemetries,
                telemetry,
                addresses: addresses(bound || forwards_to_pod(snapshot, sidecar_key.as_ref())),
                extensions: on_side(true),
            }),
            outbound,
        }
    }
}

/// The Sidecar in force: one that selects the proxy, else its namespace's, else the root namespace's; the oldest of several.
fn sidecar_of(snapshot: &Snapshot, proxy: &Proxy) -> Option<ObjectKey> {
    if proxy.kind != ProxyKind::Sidecar {
        return None;
    }
    let root = &snapshot.mesh.root_namespace;
    let rank = |(_, sidecar): &(&ObjectKey, &Shared<lateen_model::sidecar::Sidecar>)| match &sidecar.selector {
        Some(selector) if sidecar.namespace == proxy.namespace && selector.matches(&proxy.labels) => Some(0_u8),
        None if sidecar.namespace == proxy.namespace => Some(1),
        None if sidecar.namespace == *root => Some(2),
        _ => None,
    };
    snapshot
        .sidecars
        .iter()
        .filter_map(|entry| rank(&entry).map(|rank| (rank, entry.1.created, entry.0)))
        .min()
        .map(|(_, _, key)| key.clone())
}

/// Policies of the root namespace, then of the proxy's; within each those for everything, then those that select it;
/// older first.
fn in_force<T>(
    table: &Table<ObjectKey, T>,
    snapshot: &Snapshot,
    proxy: &Proxy,
    scope: impl Fn(&T) -> &PolicyScope,
) -> Vec<ObjectKey> {
    let root = &snapshot.mesh.root_namespace;
    let mut found: Vec<_> = table
        .iter()
        .filter_map(|(key, policy)| {
            let scope = scope(policy);
            let in_root = scope.namespace == *root;
            if !in_root && scope.namespace != proxy.namespace {
                return None;
            }
            let selected = if scope.targets.is_empty() {
                scope.selector.matches(&proxy.labels)
            } else {
                proxy.kind != ProxyKind::Sidecar && scope.targets.iter().any(|target| targets(target, proxy, scope))
            };
            selected.then(|| {
                let rank = match (in_root, scope.selector.is_empty() && scope.targets.is_empty()) {
                    (true, true) => 0_u8,
                    (true, false) => 1,
                    (false, true) => 2,
                    (false, false) => 3,
                };
                (rank, scope.created, key)
            })
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, _, key)| key.clone()).collect()
}

/// Filters of low priority first; of equal ones those of the root namespace, then the older.
fn filters_in_force(snapshot: &Snapshot, proxy: &Proxy) -> Vec<FilterInForce> {
    let keys = in_force(&snapshot.envoy_filters, snapshot, proxy, |filter| &filter.scope);
    let mut found: Vec<_> = keys
        .into_iter()
        .filter_map(|key| Some((snapshot.envoy_filters.get(&key)?, key)))
        .collect();
    found.sort_by(|(one, a), (other, b)| {
        let rank = |filter: &EnvoyFilter| {
            let elsewhere = filter.scope.namespace != snapshot.mesh.root_namespace;
            (filter.priority, elsewhere, filter.scope.created)
        };
        rank(one).cmp(&rank(other)).then_with(|| a.name.cmp(&b.name))
    });
    let for_others = |patch: &Patch| {
        let known = &proxy.options.extra;
        let metadata = patch
            .proxy_metadata
            .iter()
            .all(|(key, value)| known.get(key) == Some(value));
        let version = patch.proxy_version.as_ref();
        let version = version.is_none_or(|pattern| pattern.matches(&proxy.version));
        !(metadata && version)
    };
    found
        .into_iter()
        .map(|(filter, key)| {
            let left_out = filter
                .patches
                .iter()
                .filter(|patch| for_others(patch))
                .map(|patch| patch.index);
            FilterInForce {
                key,
                left_out: left_out.collect(),
            }
        })
        .collect()
}

/// Extensions of high priority first; of equal ones those of the proxy's namespace, then the older.
fn extensions_in_force<'a>(snapshot: &'a Snapshot, proxy: &Proxy) -> Vec<(ObjectKey, &'a Extension)> {
    let keys = in_force(&snapshot.extensions, snapshot, proxy, |extension| &extension.scope);
    let mut found: Vec<_> = keys
        .into_iter()
        .filter_map(|key| snapshot.extensions.get(&key).map(|extension| (key, &**extension)))
        .collect();
    let rank = |extension: &Extension| {
        (
            std::cmp::Reverse(extension.priority),
            extension.scope.namespace != proxy.namespace,
            extension.scope.created,
        )
    };
    found.sort_by(|(a, one), (b, other)| rank(one).cmp(&rank(other)).then_with(|| a.name.cmp(&b.name)));
    found
}

/// Whether a policy attached to a Gateway concerns this proxy of it.
fn targets(target: &lateen_model::policy::TargetRef, proxy: &Proxy, scope: &PolicyScope) -> bool {
    &*target.kind == "Gateway"
        && scope.namespace == proxy.namespace
        && proxy.labels.get("gateway.networking.k8s.io/gateway-name") == Some(&target.name)
}

fn instances_of(snapshot: &Snapshot, proxy: &Proxy) -> Vec<Instance> {
    let instances = proxy
        .addresses
        .iter()
        .filter_map(|address| snapshot.instances.get(&(proxy.cluster.clone(), *address)))
        .flat_map(|instances| &instances.instances);
    // The order tells which of several services wins a port; another address of the same workload only repeats them.
    let mut all: Vec<Instance> = Vec::new();
    for instance in instances {
        if !all.contains(instance) {
            all.push(instance.clone());
        }
    }
    all
}

fn gateways_of(snapshot: &Snapshot, proxy: &Proxy, instances: &[Instance]) -> Vec<ObjectKey> {
    let own_namespace_only = snapshot.mesh.feature("PILOT_SCOPE_GATEWAY_TO_NAMESPACE", false);
    let mut found: Vec<_> = snapshot
        .gateways
        .iter()
        .filter(|(_, gateway)| match &gateway.selects {
            GatewaySelector::Labels(selector) => {
                selector.matches(&proxy.labels) && (!own_namespace_only || gateway.namespace == proxy.namespace)
            }
            GatewaySelector::Services(hosts) => instances.iter().any(|instance| hosts.contains(&instance.service.host)),
        })
        .map(|(key, gateway)| (gateway.created, &key.name, &key.namespace, key))
        .collect();
    found.sort();
    found.into_iter().map(|(_, _, _, key)| key.clone()).collect()
}

/// Whether a Sidecar's inbound listeners pass connections on to the pod's own address.
fn forwards_to_pod(snapshot: &Snapshot, sidecar: Option<&ObjectKey>) -> bool {
    sidecar
        .and_then(|key| snapshot.sidecars.get(key))
        .is_some_and(|sidecar| {
            let targets = sidecar
                .ingress
                .iter()
                .filter_map(|ingress| ingress.default_endpoint.as_deref());
            targets
                .into_iter()
                .any(|target| target.starts_with("0.0.0.0:") || target.starts_with("[::]:"))
        })
}
