//! What is served at an address: the inbound side of the proxy there.

use std::net::IpAddr;

use lateen_model::ServiceKey;
use lateen_model::endpoint::{Instance, Instances};
use lateen_model::service::{Protocol, Resolution};
use lateen_names::ClusterId;

use super::super::pod::PodFacts;
use super::super::service::{ServiceFacts, Target};
use super::super::workload::WorkloadFacts;
use super::build::{service_key, target_at};
use super::update::in_namespace;
use super::{Cluster, Env, Registry};

/// An instance with what decides its place.
struct Found {
    created: i64,
    instance: Instance,
}

impl Registry {
    /// A WorkloadEntry at the address stands before pods; a pod's services are those that select it, else those whose
    /// slices list it; services of ServiceEntries come on top.
    pub(super) fn instances_at(&self, id: &ClusterId, address: IpAddr, env: &Env<'_>) -> Instances {
        let mut found = Vec::new();
        let entry = self
            .workload_entries_at
            .get(&address)
            .filter(|_| *id == self.local)
            .into_iter()
            .flatten();
        let workload = entry
            .filter_map(|key| self.workload_entries.get(key))
            .find(|w| w.healthy && !w.labels.is_empty());
        if let Some(cluster) = self.clusters.get(id) {
            match workload {
                Some(workload) if self.selected(id, &workload.namespace, env) => {
                    self.of_workload_entry(&mut found, cluster, workload, env);
                }
                _ => {
                    let pods = cluster.pods_at.get(&address).into_iter().flatten();
                    let pods = pods.filter_map(|key| cluster.pods.get(key)).filter(|pod| pod.live);
                    for pod in pods.filter(|pod| self.selected(id, &pod.namespace, env)) {
                        of_pod(&mut found, cluster, pod, address, env);
                    }
                }
            }
        }
        for key in self.entry_services_at.get(&(id.clone(), address)).into_iter().flatten() {
            let Some(service) = self.services.get(key) else {
                continue;
            };
            let here = self.entry_instances.get(key).into_iter().flatten();
            let here = here.filter(|instance| instance.cluster == *id && instance.address == address);
            found.extend(here.map(|instance| Found {
                created: service.created,
                instance: Instance {
                    service: key.clone(),
                    port: instance.port,
                    target_port: instance.target,
                },
            }));
        }
        found.sort_by(|a, b| {
            let host = |found: &Found| found.instance.service.host.clone();
            a.created.cmp(&b.created).then_with(|| host(a).cmp(&host(b)))
        });
        let mut instances: Vec<Instance> = Vec::with_capacity(found.len());
        for Found { instance, .. } in found {
            if !instances.contains(&instance) {
                instances.push(instance);
            }
        }
        Instances { instances }
    }

    fn of_workload_entry(&self, found: &mut Vec<Found>, cluster: &Cluster, workload: &WorkloadFacts, env: &Env<'_>) {
        for (object, service) in in_namespace(&cluster.services, &workload.namespace) {
            if !service.selects(&workload.labels) || service.resolution != Resolution::Static {
                continue;
            }
            let Some(key) = service_key(object, &env.mesh.domain) else {
                continue;
            };
            for port in service.ports.iter().filter(|port| port.port.protocol != Protocol::Udp) {
                if let Some(target_port) = target_at(workload, port) {
                    let instance = Instance {
                        service: key.clone(),
                        port: port.port.number,
                        target_port,
                    };
                    found.push(Found {
                        created: service.created,
                        instance,
                    });
                }
            }
        }
    }
}

fn of_pod(found: &mut Vec<Found>, cluster: &Cluster, pod: &PodFacts, address: IpAddr, env: &Env<'_>) {
    let mut selected = false;
    for (object, service) in in_namespace(&cluster.services, &pod.namespace) {
        let Some(key) = service_key(object, &env.mesh.domain).filter(|_| service.selects(&pod.labels)) else {
            continue;
        };
        selected = true;
        add_service(found, service, &key, |port| match &port.target {
            Target::Number(number) => Some(*number),
            Target::Name(name) => pod.port_named(name, &port.transport),
        });
    }
    if selected {
        return;
    }
    let slices = cluster
        .slices_at
        .get(&address)
        .into_iter()
        .flatten()
        .filter_map(|key| cluster.slices.get(key));
    for slice in slices.filter(|slice| slice.namespace == pod.namespace) {
        let service = cluster.services.get(&slice.service);
        if let (Some(service), Some(key)) = (service, service_key(&slice.service, &env.mesh.domain)) {
            let number = |name: &str| {
                slice
                    .ports
                    .iter()
                    .find(|port| *port.name == *name)
                    .map(|port| port.number)
            };
            add_service(found, service, &key, |port| number(&port.port.name));
        }
    }
}

/// Several ports of a service that lead to one target with one protocol are one listener.
fn add_service(
    found: &mut Vec<Found>,
    service: &ServiceFacts,
    key: &ServiceKey,
    target: impl Fn(&super::super::service::ServicePort) -> Option<u16>,
) {
    let mut seen: Vec<(u16, Protocol)> = Vec::new();
    for port in &service.ports {
        let Some(target_port) = target(port) else { continue };
        if seen.contains(&(target_port, port.port.protocol)) {
            continue;
        }
        seen.push((target_port, port.port.protocol));
        let instance = Instance {
            service: key.clone(),
            port: port.port.number,
            target_port,
        };
        found.push(Found {
            created: service.created,
            instance,
        });
    }
}
