//! What the endpoints of a cluster are made of, whether they are sent as a resource of their own or within it.

use std::sync::Arc;

use lateen_model::destination::{LocalityLb, Subset, TlsMode, TrafficPolicy};
use lateen_model::endpoint::{Address, Endpoint, Endpoints, Health};
use lateen_model::mesh::NetworkGateway;
use lateen_model::service::{Registry, TrafficDistribution};
use lateen_model::{Labels, Service, Shared, Snapshot};
use lateen_names::{ClusterId, Locality};
use lateen_proto::envoy::config::endpoint::v3 as envoy;

use super::group::{Group, Member, by_place};
use super::network::{self, Networks};
use super::order::{self, Caller, PlaceLabels, Setting};
use super::peer::{AllPeers, Peers};
use crate::cluster::policy;
use crate::facts::OutboundFacts;
use crate::scope::MergedRule;

/// Everything that decides over the endpoints of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Members {
    endpoints: Shared<Endpoints>,
    port: u16,
    subset: Labels,
    /// Whether names count as endpoints; over EDS Envoy takes addresses only.
    names: bool,
    unhealthy: bool,
    draining: bool,
    tls: Option<TlsMode>,
    peers: Peers,
    mtls_only: bool,
    networks: Option<Networks>,
    view: Vec<Arc<str>>,
    /// The only cluster, for services that stay in theirs.
    cluster: Option<ClusterId>,
    /// The only node, for services that stay on theirs; the inner `None` is an unknown one.
    node: Option<Option<Arc<str>>>,
    order: Option<(Setting, Caller, bool)>,
}

/// What is the same for all clusters of a class.
pub(crate) struct Viewer<'a> {
    pub(crate) facts: &'a OutboundFacts,
    pub(crate) locality: &'a Locality,
    pub(crate) labels: &'a Labels,
    pub(crate) node: Option<&'a Arc<str>>,
    pub(crate) peers: &'a AllPeers,
    pub(crate) gateways: Shared<Vec<NetworkGateway>>,
    pub(crate) mesh_locality: &'a LocalityLb,
    pub(crate) unhealthy: Unhealthy,
    cluster_local: Vec<(&'a lateen_names::Hostname, bool)>,
    root: &'a lateen_names::Namespace,
    empty: Shared<Endpoints>,
}

/// Which services' unready endpoints callers get to know of, marked as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unhealthy {
    /// Only those with a traffic distribution, which need it to know when to go elsewhere.
    WhereNeeded,
    /// Of services whose rules do not ask for more healthy ones than a panic threshold of zero.
    Auto,
    /// All.
    Always,
}

impl<'a> Viewer<'a> {
    pub(crate) fn new(
        snapshot: &'a Snapshot,
        facts: &'a OutboundFacts,
        (locality, labels, node): (&'a Locality, &'a Labels, Option<&'a Arc<str>>),
        peers: &'a AllPeers,
    ) -> Self {
        let mesh = &snapshot.mesh;
        let hosts = |settings: &'a lateen_model::mesh::ServiceSettings| {
            settings.hosts.iter().map(|host| (host, settings.cluster_local))
        };
        Self {
            facts,
            locality,
            labels,
            node,
            peers,
            gateways: snapshot.network_gateways.clone(),
            mesh_locality: &mesh.locality_lb,
            unhealthy: if mesh.feature("PILOT_SEND_UNHEALTHY_ENDPOINTS", false) {
                Unhealthy::Always
            } else if mesh.feature("PILOT_AUTO_SEND_UNHEALTHY_ENDPOINTS", true) {
                Unhealthy::Auto
            } else {
                Unhealthy::WhereNeeded
            },
            cluster_local: mesh.service_settings.iter().flat_map(hosts).collect(),
            root: &mesh.root_namespace,
            empty: Shared::default(),
        }
    }

    /// The most specific setting wins; without any, Kubernetes' own services and the control plane's stay in their
    /// cluster.
    fn stays_in_cluster(&self, service: &Service) -> bool {
        self.cluster_local
            .iter()
            .filter(|(host, _)| host.covers(&service.host))
            .min_by(|(a, _), (b, _)| a.specificity(b))
            .map_or_else(
                || {
                    let host = service.host.as_str();
                    service.registry == Registry::Kubernetes
                        && (service.namespace == "kube-system"
                            || host.starts_with("kubernetes.default.svc.")
                            || (&*service.name == "istiod" && service.namespace == *self.root))
                },
                |(_, local)| *local,
            )
    }
}

impl Members {
    /// What a class sees of a port of a service, or of a subset of it.
    pub(crate) fn new(
        snapshot: &Snapshot,
        viewer: &Viewer<'_>,
        service: &Service,
        port: u16,
        (rule, subset): (Option<&MergedRule>, Option<&Subset>),
        (names, mtls_only): (bool, bool),
    ) -> Self {
        let endpoints = snapshot.endpoints.get(&service.key()).unwrap_or(&viewer.empty).clone();
        let nothing = TrafficPolicy::default();
        let host_policy = rule.map_or(&nothing, |rule| &rule.policy);
        // The mesh's default policy has no say in failing over: only a rule that is in force turns that on.
        let mut effective = policy::of_host(host_policy, port, &nothing);
        if let Some(subset) = subset {
            effective = policy::of_subset(effective, subset, port);
        }
        let outlier = effective.outlier.is_some();
        let distribution = service.traffic_distribution;
        let setting = Setting::in_force(effective.load_balancer.as_ref(), distribution, viewer.mesh_locality);
        let facts = viewer.facts;
        let place = PlaceLabels {
            network: facts.network.as_str(),
            cluster: facts.cluster.as_str(),
            node: viewer.node,
        };
        let order = setting.filter(|setting| setting.acts(outlier)).map(|setting| {
            let caller = Caller::new(&setting, viewer.locality, viewer.labels, &place);
            (setting, caller, outlier)
        });
        let forced = distribution != TrafficDistribution::Any;
        let wants_healthy = effective
            .outlier
            .as_ref()
            .and_then(|outlier| outlier.min_health_percent)
            .is_some_and(|percent| percent > 0);
        let tls = policy::tls_mode(host_policy, subset, port);
        let of_port = endpoints.by_port.get(&port).map(Vec::as_slice).unwrap_or_default();
        let namespaces = of_port.iter().map(|endpoint| &endpoint.workload.namespace);
        let peers = if tls.is_none() {
            Peers::of(viewer.peers, namespaces)
        } else {
            Peers::default()
        };
        Self {
            port,
            subset: subset.map(|subset| subset.labels.clone()).unwrap_or_default(),
            names,
            unhealthy: forced
                || match viewer.unhealthy {
                    Unhealthy::Always => true,
                    Unhealthy::Auto => !wants_healthy,
                    Unhealthy::WhereNeeded => false,
                },
            draining: has_label(service, COOKIE_SESSION),
            tls,
            peers,
            mtls_only,
            networks: (!viewer.gateways.is_empty()).then(|| Networks {
                own: facts.network.clone(),
                gateways: viewer.gateways.clone(),
                by_name: names,
                families: facts.families,
            }),
            view: facts.options.requested_network_view.clone(),
            cluster: viewer.stays_in_cluster(service).then(|| facts.cluster.clone()),
            node: service.node_local.then(|| viewer.node.cloned()),
            order,
            endpoints,
        }
    }

    /// Whether there is anything at all behind it.
    pub(crate) fn is_empty(&self) -> bool {
        !self.of_port().iter().any(|endpoint| self.admits(endpoint))
    }

    fn of_port(&self) -> &[Endpoint] {
        self.endpoints
            .by_port
            .get(&self.port)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    fn admits(&self, endpoint: &Endpoint) -> bool {
        let workload = &endpoint.workload;
        let in_view = self.view.is_empty()
            || workload.network.as_str().is_empty()
            || self.view.iter().any(|network| **network == *workload.network.as_str());
        let healthy = match super::group::health(endpoint) {
            Health::Healthy => true,
            Health::Unhealthy => self.unhealthy,
            Health::Draining => self.draining,
        };
        in_view
            && healthy
            && (self.names || !matches!(endpoint.address, Address::Host(_)))
            && self.cluster.as_ref().is_none_or(|cluster| *cluster == workload.cluster)
            && self.node.as_ref().is_none_or(|node| *node == workload.node)
            && self
                .subset
                .iter()
                .all(|(key, value)| workload.labels.get(key) == Some(value))
    }

    /// Whether callers use mutual TLS toward an endpoint: a rule decides, else the endpoint's own policy; in any case
    /// only where the endpoint takes it.
    fn mtls(&self, endpoint: &Endpoint) -> bool {
        let workload = &endpoint.workload;
        workload.mtls
            && match self.tls {
                Some(mode) => mode == TlsMode::IstioMutual,
                None => !self
                    .peers
                    .disabled(&workload.namespace, &workload.labels, endpoint.port),
            }
    }

    fn groups(&self) -> Vec<Group> {
        let members = self
            .of_port()
            .iter()
            .filter(|endpoint| self.admits(endpoint))
            .map(|endpoint| (&endpoint.workload.locality, Member::new(endpoint, self.mtls(endpoint))));
        let mut groups = by_place(members);
        if let Some(networks) = &self.networks {
            groups = network::apply(groups, networks);
        }
        if self.mtls_only {
            for group in &mut groups {
                group.members.retain(|member| member.mtls);
                group.weight = group.members.iter().fold(0, |sum: u32, m| sum.saturating_add(m.weight));
            }
        }
        match &self.order {
            Some((setting, caller, outlier)) => order::apply(groups, setting, caller, *outlier),
            None => groups,
        }
    }

    /// The assignment, for a cluster of that name.
    pub(crate) fn assignment(&self, cluster: &str) -> envoy::ClusterLoadAssignment {
        envoy::ClusterLoadAssignment {
            cluster_name: cluster.to_owned(),
            endpoints: self.groups().iter().map(Group::to_envoy).collect(),
            ..envoy::ClusterLoadAssignment::default()
        }
    }
}

/// Label of services whose sessions stick to endpoints by a cookie.
const COOKIE_SESSION: &str = "istio.io/persistent-session";
/// The same by a header.
const HEADER_SESSION: &str = "istio.io/persistent-session-header";

fn has_label(service: &Service, label: &str) -> bool {
    service.labels.get(label).is_some_and(|value| !value.is_empty())
}

/// Whether requests that stick to an endpoint go on to it while it terminates.
pub(crate) fn has_sessions(service: &Service) -> bool {
    has_label(service, COOKIE_SESSION) || has_label(service, HEADER_SESSION)
}
