//! Services, endpoints and workloads from facts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lateen_model::endpoint::{Address, Endpoint, Endpoints, Health, Workload};
use lateen_model::service::{Resolution, TrafficDistribution};
use lateen_model::{Labels, Service, ServiceKey, Shared};
use lateen_names::{ClusterId, Hostname, Locality, Namespace, ObjectKey};

use super::super::entry::EntryFacts;
use super::super::network::network_of;
use super::super::pod::{PodFacts, locality_of_label};
use super::super::service::{ServiceFacts, Target};
use super::super::slice::Conditions;
use super::super::workload::{WorkloadFacts, augment};
use super::update::{in_namespace, link, unlink};
use super::{Cluster, EntryInstance, Env, Registry};

/// The key of a Kubernetes Service's service.
pub(super) fn service_key(key: &ObjectKey, domain: &str) -> Option<ServiceKey> {
    let namespace = key.namespace.clone()?;
    let host = Hostname::lower(&format!("{}.{namespace}.svc.{domain}", key.name)).ok()?;
    Some(ServiceKey { host, namespace })
}

/// The Kubernetes Service that a key would be the key of.
fn kube_key(key: &ServiceKey, domain: &str) -> Option<ObjectKey> {
    let name = key.host.as_str().strip_suffix(domain)?.strip_suffix(".svc.")?;
    let name = name.strip_suffix(key.namespace.as_str())?.strip_suffix('.')?;
    Some(ObjectKey {
        namespace: Some(key.namespace.clone()),
        name: lateen_names::Name::new(name).ok()?,
    })
}

/// Endpoints in the making.
#[derive(Default)]
struct Draft {
    by_port: BTreeMap<u16, Vec<Endpoint>>,
    instances: BTreeSet<EntryInstance>,
}

/// Leaves of a service's shadows those that have ports which the service has not.
fn keep_with_ports(service: &mut Service) {
    let ports: BTreeSet<u16> = service.ports.iter().map(|port| port.number).collect();
    let more = |shadow: &Shared<Service>| shadow.ports.iter().any(|port| !ports.contains(&port.number));
    service.shadows.retain(more);
}

impl Registry {
    pub(super) fn refresh_workload(&mut self, id: &ClusterId, key: &ObjectKey, env: &Env<'_>) {
        let network = self.network_of_namespace(id, env);
        let Some(cluster) = self.clusters.get(id) else { return };
        let Some(pod) = cluster
            .pods
            .get(key)
            .filter(|pod| self.selected(id, &pod.namespace, env))
        else {
            self.workloads.remove(&(id.clone(), key.clone()));
            return;
        };
        let of_node = || {
            pod.node
                .as_ref()
                .and_then(|node| cluster.nodes.get(node))
                .map(|node| node.locality.clone())
        };
        let locality = locality_of_label(&pod.labels).or_else(of_node).unwrap_or_default();
        let network = network_of(id, pod.ips.first().copied(), &pod.labels, network.as_ref(), env.mesh);
        let workload = Workload {
            name: key.name.as_str().into(),
            namespace: pod.namespace.clone(),
            labels: augment(&pod.labels, id, &locality, pod.node.as_deref(), &network),
            workload_name: pod.workload.clone(),
            identity: Some(identity(&pod.namespace, &pod.account, env)),
            locality,
            network,
            cluster: id.clone(),
            node: pod.node.clone(),
            mtls: pod
                .labels
                .get("security.istio.io/tlsMode")
                .is_some_and(|mode| &**mode == "istio"),
            hbone: pod.hbone,
            hostname: pod.hostname.clone(),
            subdomain: pod.subdomain.clone(),
        };
        self.workloads.set((id.clone(), key.clone()), Shared::new(workload));
    }

    fn workload(&self, id: &ClusterId, pod: &ObjectKey) -> Option<&Shared<Workload>> {
        self.workloads.get(&(id.clone(), pod.clone()))
    }

    /// Makes a service and its endpoints anew, from every object that defines it.
    pub(super) fn refresh_service(&mut self, key: &ServiceKey, env: &Env<'_>) {
        let built = self.build(key, env);
        let (changed, instances) = match built {
            None => {
                let changed = self.services.remove(key);
                self.endpoints.remove(key);
                (changed, BTreeSet::new())
            }
            Some((service, endpoints, instances)) => {
                let changed = self.services.set(key.clone(), Shared::new(service));
                self.endpoints.set(key.clone(), Shared::new(endpoints));
                (changed, instances)
            }
        };
        let old = self.entry_instances.remove(key).unwrap_or_default();
        if !changed && old == instances {
            if !instances.is_empty() {
                self.entry_instances.insert(key.clone(), instances);
            }
            return;
        }
        for instance in &old {
            unlink(
                &mut self.entry_services_at,
                &(instance.cluster.clone(), instance.address),
                key,
            );
        }
        for instance in &instances {
            link(
                &mut self.entry_services_at,
                (instance.cluster.clone(), instance.address),
                key,
            );
        }
        let both = old.iter().chain(&instances);
        self.dirty
            .addresses
            .extend(both.map(|instance| (instance.cluster.clone(), instance.address)));
        if !instances.is_empty() {
            self.entry_instances.insert(key.clone(), instances);
        }
    }

    fn build(&self, key: &ServiceKey, env: &Env<'_>) -> Option<(Service, Endpoints, BTreeSet<EntryInstance>)> {
        let kube: Vec<(&ClusterId, &Cluster, &ServiceFacts)> = match kube_key(key, &env.mesh.domain) {
            Some(object) => self
                .clusters_in_order()
                .filter(|(id, _)| self.selected(id, &key.namespace, env))
                .filter_map(|(id, cluster)| Some((id, cluster, cluster.services.get(&object)?)))
                .collect(),
            None => Vec::new(),
        };
        let objects = self.entries_of.get(key).into_iter().flatten();
        let mut entries: Vec<&EntryFacts> = objects.filter_map(|object| self.entries.get(object)).collect();
        if !self.selected(&self.local, &key.namespace, env) {
            entries.clear();
        }
        // The oldest owns the host.
        entries.sort_by(|a, b| (a.created, &a.key.name).cmp(&(b.created, &b.key.name)));

        let mut service = self.merge(key, &kube, &entries, env)?;
        let mut draft = Draft::default();
        for (id, cluster, facts) in &kube {
            self.add_slices(&mut draft, id, cluster, facts, &service, env);
        }
        if let Some((id, _, facts)) = kube.first().filter(|(id, ..)| **id == self.local) {
            self.add_selected_workload_entries(&mut draft, id, facts, &service, env);
        }
        for entry in &entries {
            self.add_entry(&mut draft, entry, key, &service, env);
        }
        for endpoints in draft.by_port.values_mut() {
            endpoints.sort_by(|a, b| (&a.address, a.port).cmp(&(&b.address, b.port)));
            endpoints.dedup();
        }
        let identities = draft
            .by_port
            .values()
            .flatten()
            .filter_map(|endpoint| endpoint.workload.identity.clone());
        service.accounts.extend(identities);
        service.accounts.sort();
        service.accounts.dedup();
        service.alias_of = self.aliases.get(key).cloned().flatten();
        service.aliases = self.aliases_of.get(&key.host).cloned().unwrap_or_default();
        Some((service, Endpoints { by_port: draft.by_port }, draft.instances))
    }

    /// One service of all the objects that define it: the local cluster's before other clusters' before ServiceEntries.
    fn merge(
        &self,
        key: &ServiceKey,
        kube: &[(&ClusterId, &Cluster, &ServiceFacts)],
        entries: &[&EntryFacts],
        env: &Env<'_>,
    ) -> Option<Service> {
        let nearby = |id: &ClusterId| self.distribution_of_namespace(id, &key.namespace);
        if let Some(((id, _, first), others)) = kube.split_first() {
            let mut service = first.lower(key.clone(), id, nearby(id), env.mesh);
            for (id, _, facts) in others {
                let other = facts.lower(key.clone(), id, nearby(id), env.mesh);
                service.addresses.extend(other.addresses);
                service.external_addresses.extend(other.external_addresses);
                service.accounts.extend(other.accounts);
            }
            for entry in entries {
                let other = entry.lower(key, &self.local, nearby(&self.local), env.mesh);
                service.shadows.push(Shared::new(other));
            }
            keep_with_ports(&mut service);
            return Some(service);
        }
        let (first, others) = entries.split_first()?;
        let mut service = first.lower(key, &self.local, nearby(&self.local), env.mesh);
        for entry in others {
            let other = entry.lower(key, &self.local, nearby(&self.local), env.mesh);
            let alike = service.resolution == other.resolution
                && service.labels == other.labels
                && service.selector == other.selector
                && service.export_to == other.export_to;
            if !alike {
                service.shadows.push(Shared::new(other));
                continue;
            }
            for port in other.ports {
                if service.port(port.number).is_none() {
                    service.ports.push(port);
                }
            }
            service.passthrough_ports.extend(other.passthrough_ports);
            service.subject_alt_names.extend(other.subject_alt_names);
            service.ranges.extend(other.ranges);
            for (cluster, addresses) in other.addresses {
                service.addresses.entry(cluster).or_default().extend(addresses);
            }
        }
        keep_with_ports(&mut service);
        for addresses in service.addresses.values_mut() {
            let mut seen = BTreeSet::new();
            addresses.retain(|address| seen.insert(*address));
        }
        Some(service)
    }

    fn distribution_of_namespace(&self, id: &ClusterId, namespace: &Namespace) -> TrafficDistribution {
        let facts = self
            .clusters
            .get(id)
            .and_then(|cluster| cluster.namespaces.get(namespace));
        facts.and_then(|facts| facts.traffic_distribution).unwrap_or_default()
    }

    fn add_slices(
        &self,
        draft: &mut Draft,
        id: &ClusterId,
        cluster: &Cluster,
        facts: &ServiceFacts,
        service: &Service,
        env: &Env<'_>,
    ) {
        let dual = env.mesh.feature("ISTIO_DUAL_STACK", false) && facts.addresses.len() > 1;
        let mut seen = BTreeSet::new();
        let slices = cluster.slices_of_service.get(&facts.key).into_iter().flatten();
        for slice in slices.filter_map(|slice| cluster.slices.get(slice)) {
            for endpoint in &slice.endpoints {
                let Some(health) = health(endpoint.conditions, facts) else {
                    continue;
                };
                for address in &endpoint.addresses {
                    let pod = match &endpoint.pod {
                        Some(pod) => cluster.pods.get(pod),
                        None => pod_at(cluster, *address, &slice.namespace),
                    };
                    if endpoint.pod.is_some() && pod.is_none() {
                        // The slice is ahead of the pod: without it, nothing is known of the endpoint's identity.
                        continue;
                    }
                    let all = pod
                        .filter(|pod| dual && endpoint.pod.is_some() && pod.ips.len() > 1)
                        .map(|pod| &pod.ips);
                    if all.is_some() && slice.ipv6 {
                        continue;
                    }
                    let workload = match pod.and_then(|pod| self.workload(id, &pod.key)) {
                        Some(workload) => workload.clone(),
                        None => self.unknown_workload(id, &slice.namespace, *address, env),
                    };
                    for port in &slice.ports {
                        let Some(number) = service.ports.iter().find(|p| p.name == port.name).map(|p| p.number) else {
                            continue;
                        };
                        if !seen.insert((*address, number)) {
                            continue;
                        }
                        draft.by_port.entry(number).or_default().push(Endpoint {
                            address: Address::Ip(all.and_then(|all| all.first()).copied().unwrap_or(*address)),
                            additional: all
                                .map(|all| all.iter().skip(1).copied().map(Address::Ip).collect())
                                .unwrap_or_default(),
                            port: port.number,
                            weight: None,
                            health,
                            workload: workload.clone(),
                        });
                    }
                }
            }
        }
    }

    /// WorkloadEntries that a Kubernetes Service selects.
    fn add_selected_workload_entries(
        &self,
        draft: &mut Draft,
        id: &ClusterId,
        facts: &ServiceFacts,
        service: &Service,
        env: &Env<'_>,
    ) {
        if facts.resolution != Resolution::Static || !env.mesh.feature("PILOT_ENABLE_K8S_SELECT_WORKLOAD_ENTRIES", true)
        {
            return;
        }
        for (_, workload) in in_namespace(&self.workload_entries, &facts.namespace) {
            let Some(ip) = workload
                .ip()
                .filter(|_| workload.healthy && facts.selects(&workload.labels))
            else {
                continue;
            };
            let shared = self.shared(workload, id, env);
            for port in &service.ports {
                let Some(target) = facts.port_like(port).and_then(|port| target_at(workload, port)) else {
                    continue;
                };
                draft.by_port.entry(port.number).or_default().push(Endpoint {
                    address: Address::Ip(ip),
                    additional: Vec::new(),
                    port: target,
                    weight: workload.weight,
                    health: Health::Healthy,
                    workload: shared.clone(),
                });
            }
        }
    }

    fn add_entry(&self, draft: &mut Draft, entry: &EntryFacts, key: &ServiceKey, service: &Service, env: &Env<'_>) {
        if let Some(selector) = &entry.selector {
            for (id, cluster) in self
                .clusters_in_order()
                .filter(|(id, _)| self.selected(id, &entry.namespace, env))
            {
                let pods = in_namespace(&cluster.pods, &entry.namespace).map(|(_, pod)| pod);
                for pod in pods.filter(|pod| pod.ready && selector.matches(&pod.labels)) {
                    if let Some(workload) = self.workload(id, &pod.key) {
                        add_pod(draft, entry, service, pod, workload, id, env);
                    }
                }
            }
            for (_, workload) in in_namespace(&self.workload_entries, &entry.namespace) {
                if workload.healthy && selector.matches(&workload.labels) && (entry.is_dns() || workload.ip().is_some())
                {
                    self.add_workload(draft, entry, service, workload, env);
                }
            }
        } else if entry.endpoints.is_empty() && entry.is_dns() {
            let itself = WorkloadFacts {
                address: Some(Address::Host(key.host.as_str().into())),
                ..WorkloadFacts::inline(&Default::default(), &entry.namespace, entry.key.name.as_str())
            };
            self.add_workload(draft, entry, service, &itself, env);
        } else {
            for workload in &entry.endpoints {
                self.add_workload(draft, entry, service, workload, env);
            }
        }
    }

    fn add_workload(
        &self,
        draft: &mut Draft,
        entry: &EntryFacts,
        service: &Service,
        workload: &WorkloadFacts,
        env: &Env<'_>,
    ) {
        let Some(address) = &workload.address else { return };
        let shared = self.shared(workload, &self.local, env);
        for port in &entry.ports {
            let target = match address {
                Address::Unix(_) => 0,
                _ => workload
                    .ports
                    .get(&port.port.name)
                    .copied()
                    .filter(|port| *port != 0)
                    .or(port.target)
                    .unwrap_or(port.port.number),
            };
            let endpoint = Endpoint {
                address: address.clone(),
                additional: Vec::new(),
                port: target,
                weight: workload.weight,
                health: Health::Healthy,
                workload: shared.clone(),
            };
            draft.add(entry, service, port, endpoint);
        }
    }

    fn shared(&self, facts: &WorkloadFacts, id: &ClusterId, env: &Env<'_>) -> Shared<Workload> {
        let of_namespace = self.network_of_namespace(id, env);
        let network = facts.network.clone();
        let network =
            network.unwrap_or_else(|| network_of(id, facts.ip(), &facts.labels, of_namespace.as_ref(), env.mesh));
        Shared::new(Workload {
            name: facts.name.clone(),
            namespace: facts.namespace.clone(),
            labels: augment(&facts.labels, id, &facts.locality, None, &network),
            workload_name: facts.workload.clone(),
            identity: facts
                .account
                .as_ref()
                .map(|account| identity(&facts.namespace, account, env)),
            locality: facts.locality.clone(),
            network,
            cluster: id.clone(),
            node: None,
            mtls: facts.mtls,
            hbone: facts.hbone,
            hostname: None,
            subdomain: None,
        })
    }

    /// An address in a slice that no pod has.
    fn unknown_workload(
        &self,
        id: &ClusterId,
        namespace: &Namespace,
        address: IpAddr,
        env: &Env<'_>,
    ) -> Shared<Workload> {
        let of_namespace = self.network_of_namespace(id, env);
        let network = network_of(id, Some(address), &Labels::new(), of_namespace.as_ref(), env.mesh);
        Shared::new(Workload {
            name: "".into(),
            namespace: namespace.clone(),
            labels: augment(&Labels::new(), id, &Locality::default(), None, &network),
            workload_name: "".into(),
            identity: None,
            locality: Locality::default(),
            network,
            cluster: id.clone(),
            node: None,
            mtls: false,
            hbone: false,
            hostname: None,
            subdomain: None,
        })
    }
}

impl Draft {
    /// Adds what a ServiceEntry serves on a port, under the port of the service that has its name or number.
    fn add(
        &mut self,
        entry: &EntryFacts,
        service: &Service,
        port: &super::super::entry::EntryPort,
        endpoint: Endpoint,
    ) {
        let by_name = service.ports.iter().find(|candidate| candidate.name == port.port.name);
        let Some(number) = by_name
            .or_else(|| service.port(port.port.number))
            .map(|port| port.number)
        else {
            return;
        };
        let endpoints = self.by_port.entry(number).or_default();
        // Envoy takes one endpoint only where it resolves a name once per connection.
        if entry.resolution == Resolution::DnsRoundRobin && !endpoints.is_empty() {
            return;
        }
        if let Address::Ip(address) = endpoint.address {
            let cluster = endpoint.workload.cluster.clone();
            self.instances.insert(EntryInstance {
                cluster,
                address,
                port: number,
                target: endpoint.port,
            });
        }
        endpoints.push(endpoint);
    }
}

fn add_pod(
    draft: &mut Draft,
    entry: &EntryFacts,
    service: &Service,
    pod: &PodFacts,
    workload: &Shared<Workload>,
    _cluster: &ClusterId,
    env: &Env<'_>,
) {
    let Some((first, others)) = pod.ips.split_first() else {
        return;
    };
    let dual = env.mesh.feature("ISTIO_DUAL_STACK", false);
    for port in &entry.ports {
        let named = pod
            .port_named(&port.port.name, "TCP")
            .filter(|_| !port.port.name.is_empty());
        let endpoint = Endpoint {
            address: Address::Ip(*first),
            additional: others.iter().copied().filter(|_| dual).map(Address::Ip).collect(),
            port: named.or(port.target).unwrap_or(port.port.number),
            weight: None,
            health: Health::Healthy,
            workload: workload.clone(),
        };
        draft.add(entry, service, port, endpoint);
    }
}

/// Where a Service's port leads at a WorkloadEntry: a name must be among its ports, a number is taken as it is unless the
/// WorkloadEntry maps the port's name.
pub(super) fn target_at(workload: &WorkloadFacts, port: &super::super::service::ServicePort) -> Option<u16> {
    match &port.target {
        Target::Number(number) => Some(workload.ports.get(&port.port.name).copied().unwrap_or(*number)),
        Target::Name(name) => workload.ports.get(name).copied(),
    }
}

/// Pods that are ready, as endpoints that are listed by hand are looked up.
fn pod_at<'a>(cluster: &'a Cluster, address: IpAddr, namespace: &Namespace) -> Option<&'a PodFacts> {
    let pods = cluster
        .pods_at
        .get(&address)
        .into_iter()
        .flatten()
        .filter_map(|key| cluster.pods.get(key));
    pods.filter(|pod| pod.ready).find(|pod| pod.namespace == *namespace)
}

/// `None` for endpoints that are shutting down: nobody needs to know of them, except where sessions stay until they end.
fn health(conditions: Conditions, service: &ServiceFacts) -> Option<Health> {
    if conditions.ready.unwrap_or(true) {
        return Some(Health::Healthy);
    }
    if conditions.terminating.unwrap_or(true) {
        let serving = conditions.serving.unwrap_or(true);
        return (service.keeps_draining() && serving).then_some(Health::Draining);
    }
    Some(Health::Unhealthy)
}

fn identity(namespace: &Namespace, account: &str, env: &Env<'_>) -> std::sync::Arc<str> {
    format!("spiffe://{}/ns/{namespace}/sa/{account}", env.mesh.trust_domain).into()
}
