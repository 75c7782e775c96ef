//! Facts of all clusters, and the services, endpoints and instances made of them.
//!
//! Events change facts and mark what depends on them; [`Registry::refresh`] makes anew what is marked:
//! Node → Pods → (EndpointSlices → Services, ServiceEntries that select them, addresses); EndpointSlice → Service;
//! WorkloadEntry → Services and ServiceEntries that select it; settings → everything. What comes out equal to what is
//! there changes no table.

mod build;
mod instances;
mod relations;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lateen_model::endpoint::{Endpoints, Instances, Workload};
use lateen_model::mesh::{Mesh, NetworkGateway};
use lateen_model::service::TrafficDistribution;
use lateen_model::{Diagnostic, Labels, NamespaceSelector, Service, ServiceKey, Shared, Table};
use lateen_names::{ClusterId, Hostname, Namespace, Network, ObjectKey};

use super::entry::EntryFacts;
use super::network::GatewayService;
use super::pod::{NodeFacts, PodFacts};
use super::service::ServiceFacts;
use super::slice::SliceFacts;
use super::workload::WorkloadFacts;

/// Settings on which everything here depends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Env<'a> {
    pub mesh: &'a Mesh,
    pub gateway_services: &'a [GatewayService],
    pub discovery: &'a [NamespaceSelector],
}

/// What matters of a Namespace.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NamespaceFacts {
    pub labels: Labels,
    pub traffic_distribution: Option<TrafficDistribution>,
}

/// Facts of one cluster, and where to find them.
#[derive(Debug, Default)]
struct Cluster {
    namespaces: BTreeMap<Namespace, NamespaceFacts>,
    nodes: BTreeMap<Arc<str>, NodeFacts>,
    services: BTreeMap<ObjectKey, ServiceFacts>,
    slices: BTreeMap<ObjectKey, SliceFacts>,
    pods: BTreeMap<ObjectKey, PodFacts>,
    slices_of_service: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    slices_of_pod: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    slices_at: BTreeMap<IpAddr, BTreeSet<ObjectKey>>,
    pods_at: BTreeMap<IpAddr, BTreeSet<ObjectKey>>,
    pods_on: BTreeMap<Arc<str>, BTreeSet<ObjectKey>>,
}

/// What has to be made anew.
#[derive(Debug, Default)]
struct Dirty {
    everything: bool,
    aliases: bool,
    gateways: bool,
    workloads: BTreeSet<(ClusterId, ObjectKey)>,
    kube_services: BTreeSet<ObjectKey>,
    services: BTreeSet<ServiceKey>,
    addresses: BTreeSet<(ClusterId, IpAddr)>,
}

/// What a ServiceEntry's service serves at an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct EntryInstance {
    cluster: ClusterId,
    address: IpAddr,
    port: u16,
    target: u16,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Registry {
    local: ClusterId,
    clusters: BTreeMap<ClusterId, Cluster>,
    entries: BTreeMap<ObjectKey, EntryFacts>,
    entries_of: BTreeMap<ServiceKey, BTreeSet<ObjectKey>>,
    workload_entries: BTreeMap<ObjectKey, WorkloadFacts>,
    workload_entries_at: BTreeMap<IpAddr, BTreeSet<ObjectKey>>,
    dirty: Dirty,

    /// Alias services with what they stand for at last; `None` in a loop.
    aliases: BTreeMap<ServiceKey, Option<Hostname>>,
    aliases_of: BTreeMap<Hostname, Vec<ServiceKey>>,
    entry_instances: BTreeMap<ServiceKey, BTreeSet<EntryInstance>>,
    entry_services_at: BTreeMap<(ClusterId, IpAddr), BTreeSet<ServiceKey>>,
    gateways: BTreeMap<(ClusterId, ObjectKey), BTreeSet<NetworkGateway>>,

    pub namespaces: Table<Namespace, Labels>,
    pub services: Table<ServiceKey, Service>,
    pub endpoints: Table<ServiceKey, Endpoints>,
    pub instances: Table<(ClusterId, IpAddr), Instances>,
    /// Made of the pods' facts and their nodes'.
    pub workloads: Table<(ClusterId, ObjectKey), Workload>,
    pub network_gateways: Shared<Vec<NetworkGateway>>,
}

impl Registry {
    pub(crate) fn new(local: ClusterId) -> Self {
        Self {
            local,
            clusters: BTreeMap::new(),
            entries: BTreeMap::new(),
            entries_of: BTreeMap::new(),
            workload_entries: BTreeMap::new(),
            workload_entries_at: BTreeMap::new(),
            dirty: Dirty::default(),
            aliases: BTreeMap::new(),
            aliases_of: BTreeMap::new(),
            entry_instances: BTreeMap::new(),
            entry_services_at: BTreeMap::new(),
            gateways: BTreeMap::new(),
            namespaces: Table::default(),
            services: Table::default(),
            endpoints: Table::default(),
            instances: Table::default(),
            workloads: Table::default(),
            network_gateways: Shared::default(),
        }
    }

    /// Marks everything: settings have changed.
    pub(crate) fn mark_everything(&mut self) {
        self.dirty.everything = true;
    }

    /// Whether objects of that namespace count, by the mesh's discovery selectors.
    pub(crate) fn selected(&self, cluster: &ClusterId, namespace: &Namespace, env: &Env<'_>) -> bool {
        if env.discovery.is_empty() {
            return true;
        }
        let known = self
            .clusters
            .get(cluster)
            .and_then(|cluster| cluster.namespaces.get(namespace));
        let implied;
        let labels = match known {
            Some(facts) => &facts.labels,
            None => {
                implied = Labels::from([("kubernetes.io/metadata.name".into(), namespace.as_str().into())]);
                &implied
            }
        };
        env.discovery.iter().any(|selector| selector.matches(labels))
    }

    /// The network that a cluster's system namespace says its workloads are on.
    fn network_of_namespace(&self, cluster: &ClusterId, env: &Env<'_>) -> Option<Network> {
        let facts = self.clusters.get(cluster)?.namespaces.get(&env.mesh.root_namespace)?;
        let text = facts
            .labels
            .get("topology.istio.io/network")
            .filter(|text| !text.is_empty())?;
        Network::new(text).ok()
    }

    /// The local cluster first, then the others by name.
    fn clusters_in_order(&self) -> impl Iterator<Item = (&ClusterId, &Cluster)> {
        let local = self.clusters.get_key_value(&self.local);
        local
            .into_iter()
            .chain(self.clusters.iter().filter(|(id, _)| **id != self.local))
    }

    /// Makes anew what is marked.
    pub(crate) fn refresh(&mut self, env: &Env<'_>, diagnostics: &mut BTreeMap<ObjectKey, Vec<Diagnostic>>) {
        if std::mem::take(&mut self.dirty.everything) {
            self.expand();
        }
        for (cluster, pod) in std::mem::take(&mut self.dirty.workloads) {
            self.refresh_workload(&cluster, &pod, env);
        }
        for key in std::mem::take(&mut self.dirty.kube_services) {
            self.dirty.services.extend(build::service_key(&key, &env.mesh.domain));
            self.refresh_gateways(&key, env);
        }
        if std::mem::take(&mut self.dirty.aliases) {
            self.refresh_aliases(env);
        }
        for key in std::mem::take(&mut self.dirty.services) {
            self.refresh_service(&key, env);
        }
        for (cluster, address) in std::mem::take(&mut self.dirty.addresses) {
            let instances = self.instances_at(&cluster, address, env);
            let key = (cluster, address);
            match instances.instances.is_empty() {
                true => self.instances.remove(&key),
                false => self.instances.set(key, Shared::new(instances)),
            };
        }
        if std::mem::take(&mut self.dirty.gateways) {
            self.collect_gateways(env);
        }
        diagnostics.retain(|key, _| self.entries.get(key).is_some_and(|entry| !entry.diagnostics.is_empty()));
        for (key, entry) in self.entries.iter().filter(|(_, entry)| !entry.diagnostics.is_empty()) {
            diagnostics
                .entry(key.clone())
                .or_insert_with(|| entry.diagnostics.clone());
        }
    }

    /// Marks all that there is, one by one.
    fn expand(&mut self) {
        let dirty = &mut self.dirty;
        (dirty.aliases, dirty.gateways) = (true, true);
        for (id, cluster) in &self.clusters {
            dirty.kube_services.extend(cluster.services.keys().cloned());
            dirty
                .workloads
                .extend(cluster.pods.keys().map(|pod| (id.clone(), pod.clone())));
            let addresses = cluster.pods_at.keys().chain(cluster.slices_at.keys());
            dirty.addresses.extend(addresses.map(|address| (id.clone(), *address)));
        }
        dirty.services.extend(self.entries_of.keys().cloned());
        dirty.services.extend(self.services.iter().map(|(key, _)| key.clone()));
        let local = self.local.clone();
        dirty
            .addresses
            .extend(self.workload_entries_at.keys().map(|address| (local.clone(), *address)));
        dirty
            .addresses
            .extend(self.instances.iter().map(|(key, _)| key.clone()));
        dirty
            .workloads
            .extend(self.workloads.iter().map(|(key, _)| key.clone()));
    }
}
