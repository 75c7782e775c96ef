//! What of services, routes and rules decides which facts about a proxy count at all, read once for all proxies.

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_model::destination::{LocalityLb, TrafficPolicy};
use lateen_model::proxy::ProxyKind;
use lateen_model::route::GatewayRef;
use lateen_model::service::{Resolution, TrafficDistribution};
use lateen_model::{Labels, Proxy, Selector, Shared, Snapshot};
use lateen_names::{Hostname, Namespace, ObjectKey};

use super::reached;

/// See the module. While two snapshots' traits are equal, their services, endpoints, routes and rules class proxies alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Traits {
    /// Whether some service or rule cares on which node a caller is.
    pub(crate) node_local: bool,
    /// Whether some cluster with inline endpoints may order them by place.
    pub(crate) inline_places: bool,
    /// Hosts whose clusters no class gets on demand.
    pub(crate) reached: Shared<BTreeSet<Hostname>>,
    /// The labels by which some rule orders endpoints.
    failover_labels: BTreeSet<Arc<str>>,
    /// Sets of `sourceLabels`, and whether a VirtualService of the mesh asks for them or one of gateways only.
    source_labels: BTreeSet<(bool, Labels)>,
    /// Rules for selected workloads.
    selected_rules: Vec<(ObjectKey, Namespace, Selector)>,
}

impl Traits {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let failover_labels = failover_labels(snapshot);
        Self {
            node_local: any_node_local(snapshot) || failover_labels.contains("kubernetes.io/hostname"),
            inline_places: places_inline(snapshot),
            reached: Shared::new(reached::hosts(snapshot)),
            failover_labels,
            source_labels: all_source_labels(snapshot),
            selected_rules: snapshot
                .destination_rules
                .iter()
                .filter_map(|(key, rule)| {
                    let selector = rule.workload_selector.clone()?;
                    Some((key.clone(), rule.namespace.clone(), selector))
                })
                .collect(),
        }
    }

    /// Those of a proxy's labels by which some rule orders endpoints.
    pub(crate) fn ordering_labels(&self, proxy: &Proxy) -> Labels {
        self.failover_labels
            .iter()
            .filter_map(|key| proxy.labels.get_key_value(key))
            .map(|(key, value)| (Arc::clone(key), Arc::clone(value)))
            .collect()
    }

    /// Those sets of `sourceLabels` that match a proxy.
    pub(crate) fn source_labels(&self, proxy: &Proxy) -> BTreeSet<Labels> {
        let here = |mesh: bool| mesh || proxy.kind == ProxyKind::Router;
        let matches = |labels: &Labels| labels.iter().all(|(key, value)| proxy.labels.get(key) == Some(value));
        self.source_labels
            .iter()
            .filter(|(mesh, labels)| here(*mesh) && matches(labels))
            .map(|(_, labels)| labels.clone())
            .collect()
    }

    /// DestinationRules whose workload selector matches a proxy.
    pub(crate) fn selected_rules(&self, proxy: &Proxy) -> Vec<ObjectKey> {
        self.selected_rules
            .iter()
            .filter(|(_, namespace, selector)| *namespace == proxy.namespace && selector.matches(&proxy.labels))
            .map(|(key, _, _)| key.clone())
            .collect()
    }
}

fn any_node_local(snapshot: &Snapshot) -> bool {
    snapshot
        .services
        .values()
        .any(|service| service.node_local || service.traffic_distribution == TrafficDistribution::PreferSameNode)
}

fn places_inline(snapshot: &Snapshot) -> bool {
    snapshot
        .services
        .iter()
        .filter(|(_, service)| matches!(service.resolution, Resolution::Dns | Resolution::DnsRoundRobin))
        .filter_map(|(key, _)| snapshot.endpoints.get(key))
        .flat_map(|endpoints| endpoints.by_port.values().flatten())
        .any(|endpoint| !endpoint.workload.locality.is_empty())
}

fn failover_labels(snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
    fn of_policy(policy: &TrafficPolicy) -> impl Iterator<Item = &LocalityLb> {
        policy
            .load_balancer
            .as_ref()
            .and_then(|balancer| balancer.locality.as_ref())
            .into_iter()
    }
    fn deep(policy: &TrafficPolicy) -> impl Iterator<Item = &LocalityLb> {
        of_policy(policy).chain(policy.ports.values().flat_map(of_policy))
    }
    let rules = snapshot
        .destination_rules
        .values()
        .flat_map(|rule| deep(&rule.policy).chain(rule.subsets.iter().flat_map(|subset| deep(&subset.policy))));
    std::iter::once(&snapshot.mesh.locality_lb)
        .chain(rules)
        .flat_map(|locality| &locality.failover_priority)
        .map(|entry| Arc::from(entry.split('=').next().unwrap_or_default()))
        .collect()
}

fn all_source_labels(snapshot: &Snapshot) -> BTreeSet<(bool, Labels)> {
    let mut all = BTreeSet::new();
    for service in snapshot.virtual_services.values() {
        let http = service.http.iter().flat_map(|route| &route.matches);
        let tls = service.tls.iter().flat_map(|route| &route.matches);
        let tcp = service.tcp.iter().flat_map(|route| &route.matches);
        let labels = http
            .map(|m| &m.source.labels)
            .chain(tls.chain(tcp).map(|m| &m.source.labels))
            .filter(|labels| !labels.is_empty());
        let mesh = service.gateways.contains(&GatewayRef::Mesh);
        all.extend(labels.map(|labels| (mesh, labels.clone())));
    }
    all
}
