//! Taking facts in, and marking what depends on them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lateen_model::{Labels, Shared};
use lateen_names::{ClusterId, Name, Namespace, ObjectKey};

use super::super::entry::EntryFacts;
use super::super::pod::{NodeFacts, PodFacts};
use super::super::service::ServiceFacts;
use super::super::slice::SliceFacts;
use super::super::workload::WorkloadFacts;
use super::{Cluster, NamespaceFacts, Registry};

impl Registry {
    pub(crate) fn set_namespace(&mut self, cluster: &ClusterId, name: &Namespace, facts: Option<NamespaceFacts>) {
        if *cluster == self.local {
            match &facts {
                Some(facts) => self.namespaces.set(name.clone(), Shared::new(facts.labels.clone())),
                None => self.namespaces.remove(name),
            };
        }
        let state = self.clusters.entry(cluster.clone()).or_default();
        if put(&mut state.namespaces, name.clone(), facts).is_some() {
            // Namespaces change rarely, and what they say of networks, discovery and distances concerns all in them.
            self.mark_everything();
        }
    }

    pub(crate) fn set_node(&mut self, cluster: &ClusterId, name: &Name, facts: Option<NodeFacts>) {
        let node: Arc<str> = name.as_str().into();
        let state = self.clusters.entry(cluster.clone()).or_default();
        if put(&mut state.nodes, node.clone(), facts).is_none() {
            return;
        }
        let by_node = state
            .services
            .iter()
            .filter(|(_, service)| service.node_selector.is_some());
        self.dirty.kube_services.extend(by_node.map(|(key, _)| key.clone()));
        let on_node = state.pods_on.get(&node).into_iter().flatten();
        let pods: Vec<PodFacts> = on_node.filter_map(|pod| state.pods.get(pod)).cloned().collect();
        for pod in pods {
            self.touch_pod(cluster, &pod);
        }
    }

    pub(crate) fn set_service(&mut self, cluster: &ClusterId, key: &ObjectKey, facts: Option<ServiceFacts>) {
        let state = self.clusters.entry(cluster.clone()).or_default();
        let new = facts.clone();
        let Some(old) = put(&mut state.services, key.clone(), facts) else {
            return;
        };
        let mut addresses = BTreeSet::new();
        // Pods that no service selects fall back to slices that list them.
        for slice in state.slices_of_service.get(key).into_iter().flatten() {
            addresses.extend(state.slices.get(slice).into_iter().flat_map(SliceFacts::addresses));
        }
        for service in old.iter().chain(&new) {
            addresses.extend(addresses_selected(state, service));
            if *cluster == self.local {
                let workloads = in_namespace(&self.workload_entries, &service.namespace);
                let selected = workloads.filter(|(_, workload)| service.selects(&workload.labels));
                addresses.extend(selected.filter_map(|(_, workload)| workload.ip()));
            }
            self.dirty.aliases |= service.external_name.is_some();
        }
        self.dirty
            .addresses
            .extend(addresses.into_iter().map(|address| (cluster.clone(), address)));
        self.dirty.kube_services.insert(key.clone());
    }

    pub(crate) fn set_slice(&mut self, cluster: &ClusterId, key: &ObjectKey, facts: Option<SliceFacts>) {
        let state = self.clusters.entry(cluster.clone()).or_default();
        let new = facts.clone();
        let Some(old) = put(&mut state.slices, key.clone(), facts) else {
            return;
        };
        if let Some(old) = &old {
            unlink(&mut state.slices_of_service, &old.service, key);
            for address in old.addresses() {
                unlink(&mut state.slices_at, &address, key);
            }
            for pod in old.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref()) {
                unlink(&mut state.slices_of_pod, pod, key);
            }
        }
        if let Some(new) = &new {
            link(&mut state.slices_of_service, new.service.clone(), key);
            for address in new.addresses() {
                link(&mut state.slices_at, address, key);
            }
            for pod in new.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref()) {
                link(&mut state.slices_of_pod, pod.clone(), key);
            }
        }
        for slice in old.iter().chain(&new) {
            self.dirty.kube_services.insert(slice.service.clone());
            self.dirty
                .addresses
                .extend(slice.addresses().map(|address| (cluster.clone(), address)));
        }
    }

    pub(crate) fn set_pod(&mut self, cluster: &ClusterId, key: &ObjectKey, facts: Option<PodFacts>) {
        let state = self.clusters.entry(cluster.clone()).or_default();
        let new = facts.clone();
        let Some(old) = put(&mut state.pods, key.clone(), facts) else {
            return;
        };
        if let Some(old) = &old {
            for address in &old.ips {
                unlink(&mut state.pods_at, address, key);
            }
            if let Some(node) = &old.node {
                unlink(&mut state.pods_on, node, key);
            }
        }
        if let Some(new) = &new {
            for address in &new.ips {
                link(&mut state.pods_at, *address, key);
            }
            if let Some(node) = &new.node {
                link(&mut state.pods_on, node.clone(), key);
            }
        }
        for pod in old.iter().chain(&new) {
            self.touch_pod(cluster, pod);
        }
    }

    /// Marks what depends on a pod.
    fn touch_pod(&mut self, cluster: &ClusterId, pod: &PodFacts) {
        self.dirty.workloads.insert((cluster.clone(), pod.key.clone()));
        self.dirty
            .addresses
            .extend(pod.ips.iter().map(|address| (cluster.clone(), *address)));
        if let Some(state) = self.clusters.get(cluster) {
            let by_address = pod
                .ips
                .iter()
                .filter_map(|address| state.slices_at.get(address))
                .flatten();
            let by_name = state.slices_of_pod.get(&pod.key).into_iter().flatten();
            let slices = by_address.chain(by_name).filter_map(|slice| state.slices.get(slice));
            self.dirty
                .kube_services
                .extend(slices.map(|slice| slice.service.clone()));
        }
        self.touch_entries_selecting(&pod.namespace, &pod.labels);
    }

    fn touch_entries_selecting(&mut self, namespace: &Namespace, labels: &Labels) {
        let selecting = in_namespace(&self.entries, namespace)
            .filter(|(_, entry)| entry.selector.as_ref().is_some_and(|selector| selector.matches(labels)));
        self.dirty
            .services
            .extend(selecting.flat_map(|(_, entry)| entry.services()));
    }

    pub(crate) fn set_entry(&mut self, key: &ObjectKey, facts: Option<EntryFacts>) {
        let new = facts.clone();
        let Some(old) = put(&mut self.entries, key.clone(), facts) else {
            return;
        };
        for service in old.iter().flat_map(EntryFacts::services) {
            unlink(&mut self.entries_of, &service, key);
            self.dirty.services.insert(service);
        }
        for service in new.iter().flat_map(EntryFacts::services) {
            link(&mut self.entries_of, service.clone(), key);
            self.dirty.services.insert(service);
        }
    }

    pub(crate) fn set_workload_entry(&mut self, key: &ObjectKey, facts: Option<WorkloadFacts>) {
        let new = facts.clone();
        let Some(old) = put(&mut self.workload_entries, key.clone(), facts) else {
            return;
        };
        if let Some(address) = old.as_ref().and_then(WorkloadFacts::ip) {
            unlink(&mut self.workload_entries_at, &address, key);
        }
        if let Some(address) = new.as_ref().and_then(WorkloadFacts::ip) {
            link(&mut self.workload_entries_at, address, key);
        }
        for workload in old.iter().chain(&new) {
            self.dirty
                .addresses
                .extend(workload.ip().map(|address| (self.local.clone(), address)));
            if let Some(state) = self.clusters.get(&self.local) {
                let services = in_namespace(&state.services, &workload.namespace);
                let selecting = services.filter(|(_, service)| service.selects(&workload.labels));
                self.dirty.kube_services.extend(selecting.map(|(key, _)| key.clone()));
            }
            self.touch_entries_selecting(&workload.namespace, &workload.labels);
        }
    }
}

/// The addresses of the pods that a service selects.
fn addresses_selected<'a>(cluster: &'a Cluster, service: &'a ServiceFacts) -> impl Iterator<Item = IpAddr> + 'a {
    let pods = in_namespace(&cluster.pods, &service.namespace);
    pods.filter(|(_, pod)| service.selects(&pod.labels))
        .flat_map(|(_, pod)| pod.ips.iter().copied())
}

/// The entries of one namespace in a map by namespace and name.
pub(super) fn in_namespace<'a, T>(
    map: &'a BTreeMap<ObjectKey, T>,
    namespace: &'a Namespace,
) -> impl Iterator<Item = (&'a ObjectKey, &'a T)> {
    // The smallest name that there can be.
    let first = Name::new("!").ok().map(|name| ObjectKey {
        namespace: Some(namespace.clone()),
        name,
    });
    first
        .into_iter()
        .flat_map(|first| map.range(first..))
        .take_while(move |(key, _)| key.namespace.as_ref() == Some(namespace))
}

/// Sets or removes; `None` when that changed nothing, else what was there.
fn put<K: Ord, T: PartialEq>(map: &mut BTreeMap<K, T>, key: K, value: Option<T>) -> Option<Option<T>> {
    match value {
        Some(value) if map.get(&key) == Some(&value) => None,
        Some(value) => Some(map.insert(key, value)),
        None => map.remove(&key).map(Some),
    }
}

pub(super) fn link<K: Ord, V: Ord + Clone>(map: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: &V) {
    map.entry(key).or_default().insert(value.clone());
}

pub(super) fn unlink<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}
