//! The table of names that the agent's DNS proxy answers from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lateen_model::endpoint::{Address, Endpoint, Endpoints, Health};
use lateen_model::proxy::ProxyKind;
use lateen_model::service::{Registry, Resolution};
use lateen_model::{Service, Shared, Snapshot};
use lateen_names::{ClusterId, Hostname, Namespace, Network, ObjectRef};
use lateen_proto::istio::networking::nds::v1::NameTable;
use lateen_proto::istio::networking::nds::v1::name_table::NameInfo;

use crate::Scope;
use crate::built::{Built, Resource};
use crate::facts::OutboundFacts;

/// What the table is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    /// What the Sidecar in force lets through, in its order: an earlier name wins.
    names: Shared<Vec<Named>>,
    cluster: ClusterId,
    network: Network,
    /// Whether pods of other clusters are among the addresses of a headless service, too.
    other_clusters: bool,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Named {
    host: Hostname,
    name: Arc<str>,
    namespace: Namespace,
    registry: Registry,
    addresses: Vec<IpAddr>,
    /// Of headless services, whose names mean their pods.
    pods: Option<Shared<Endpoints>>,
    unready: bool,
    origin: ObjectRef,
}

/// Lists the table of a class: one where the proxy's agent answers DNS, else none.
pub fn select(snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Vec<Input> {
    if !facts.options.dns_capture || facts.kind != ProxyKind::Sidecar {
        return Vec::new();
    }
    let names = scope
        .egress
        .iter()
        .flat_map(|entry| &entry.services)
        .filter_map(|service| named(snapshot, facts, service))
        .collect();
    vec![Input {
        names: Shared::new(names),
        cluster: facts.cluster.clone(),
        network: facts.network.clone(),
        other_clusters: snapshot.mesh.feature("ENABLE_MULTICLUSTER_HEADLESS", true),
    }]
}

fn named(snapshot: &Snapshot, facts: &OutboundFacts, service: &Service) -> Option<Named> {
    if service.resolution == Resolution::Alias {
        return None;
    }
    let reachable = |address: &&IpAddr| match address {
        IpAddr::V4(_) => facts.families.v4(),
        IpAddr::V6(_) => facts.families.v6(),
    };
    let known = service.addresses_in(&facts.cluster);
    let mut addresses: Vec<IpAddr> = known.iter().filter(reachable).copied().collect();
    // Addresses that a user gave stand for the service whatever family the proxy has: it intercepts them.
    if addresses.is_empty() && service.registry == Registry::External {
        addresses = known.to_vec();
    }
    let headless = addresses.is_empty() && service.resolution == Resolution::Passthrough && !service.ports.is_empty();
    let pods = if headless {
        snapshot.endpoints.get(&service.key()).cloned()
    } else {
        None
    };
    if addresses.is_empty() && pods.is_none() {
        return None;
    }
    Some(Named {
        host: service.host.clone(),
        name: Arc::clone(&service.name),
        namespace: service.namespace.clone(),
        registry: service.registry,
        addresses,
        pods,
        unready: service.publish_not_ready,
        origin: service.origin.clone(),
    })
}

impl Input {
    /// Builds the resource.
    pub fn build(&self) -> Built {
        let mut table: BTreeMap<String, NameInfo> = BTreeMap::new();
        for service in self.names.iter() {
            self.enter(&mut table, service);
        }
        let origins: BTreeSet<&ObjectRef> = self.names.iter().map(|service| &service.origin).collect();
        let origins: Vec<ObjectRef> = origins.into_iter().cloned().collect();
        Built::new(Resource::encode("nametable", &NameTable { table }), origins)
    }

    fn enter(&self, table: &mut BTreeMap<String, NameInfo>, service: &Named) {
        let mut addresses: Vec<String> = service.addresses.iter().map(IpAddr::to_string).collect();
        if let Some(pods) = &service.pods {
            addresses.extend(self.enter_pods(table, service, pods));
        }
        if addresses.is_empty() {
            return;
        }
        let kubernetes = service.registry == Registry::Kubernetes;
        let host = service.host.to_string();
        // The agent knows the short forms of Kubernetes' names by these; names of a cluster set have none.
        let short = kubernetes && !host.ends_with(".clusterset.local");
        let info = NameInfo {
            ips: addresses,
            registry: registry(service.registry).to_owned(),
            shortname: if short { service.name.to_string() } else { String::new() },
            namespace: if short {
                service.namespace.to_string()
            } else {
                String::new()
            },
            ..NameInfo::default()
        };
        match table.get_mut(&host) {
            None => {
                table.insert(host, info);
            }
            Some(known) if known.registry == registry(Registry::Kubernetes) => {}
            // Kubernetes' own service wins over entries that decorate its host; entries for one host add up.
            Some(known) if kubernetes => *known = info,
            Some(known) => known.ips.extend(info.ips),
        }
    }

    /// Enters the names of single pods (`<hostname>.<subdomain>.<namespace>.svc.<domain>`), those of the own cluster before
    /// others of that name; returns the addresses that stand for the service.
    fn enter_pods(&self, table: &mut BTreeMap<String, NameInfo>, service: &Named, pods: &Endpoints) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        let mut here: BTreeMap<String, NameInfo> = BTreeMap::new();
        let mut elsewhere: BTreeMap<String, NameInfo> = BTreeMap::new();
        for pod in pods.by_port.values().flatten() {
            let Some(ips) = addresses(pod) else { continue };
            let ready = service.unready || pod.health == Health::Healthy;
            if !ready || !seen.insert(ips[0].clone()) {
                continue;
            }
            let workload = &pod.workload;
            let same = |a: &str, b: &str| a.is_empty() || b.is_empty() || a == b;
            let same_network = same(workload.network.as_str(), self.network.as_str());
            let same_cluster = same(workload.cluster.as_str(), self.cluster.as_str());
            let domain = service.host.as_str().split_once('.').map(|(_, domain)| domain);
            if let (Some(subdomain), true, Some(domain)) = (&workload.subdomain, same_network, domain) {
                let hostname = workload.hostname.as_deref().unwrap_or_default();
                let short = format!("{hostname}.{subdomain}");
                let entry = if same_cluster { &mut here } else { &mut elsewhere };
                let info = entry.entry(format!("{short}.{domain}")).or_insert_with(|| NameInfo {
                    registry: registry(service.registry).to_owned(),
                    shortname: short,
                    namespace: service.namespace.to_string(),
                    ..NameInfo::default()
                });
                info.ips.extend(ips.iter().cloned());
            }
            // Connections to pods go there without a gateway between: those of other networks are out of reach.
            if same_network && (same_cluster || self.other_clusters) {
                all.extend(ips);
            }
        }
        for (host, info) in elsewhere {
            here.entry(host).or_insert(info);
        }
        table.extend(here);
        all
    }
}

/// All addresses of a pod; `None` where one of them is none.
fn addresses(pod: &Endpoint) -> Option<Vec<String>> {
    std::iter::once(&pod.address)
        .chain(&pod.additional)
        .map(|address| match address {
            Address::Ip(ip) => Some(ip.to_string()),
            Address::Host(_) | Address::Unix(_) => None,
        })
        .collect()
}

fn registry(registry: Registry) -> &'static str {
    match registry {
        Registry::Kubernetes => "Kubernetes",
        Registry::External => "External",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::Family;
    use crate::testing::{resources, service, sidecar, world};

    fn table(objects: &str, capture: bool) -> Option<Value> {
        let snapshot = world(json!({}), objects, false);
        let mut proxy = sidecar("10.1.0.9", "");
        proxy.options.dns_capture = capture;
        let mut all = resources(&snapshot, &proxy, &[Family::NameTable]);
        all.remove("nametable").map(|resource| resource["table"].clone())
    }

    #[test]
    fn names_mean_their_services_addresses_where_the_agent_answers() {
        let objects = service("reviews", &[("10.1.0.1", "eu-a", json!({}))]);
        assert!(table(&objects, false).is_none());
        let expected = json!({"reviews.default.svc.cluster.local": {
            "ips": ["10.96.0.1"], "registry": "Kubernetes", "shortname": "reviews", "namespace": "default"}});
        assert_eq!(table(&objects, true), Some(expected));
    }

    #[test]
    fn headless_names_mean_ready_pods() {
        let pods = [("10.1.0.1", "eu-a", json!({})), ("10.1.0.2", "eu-b", json!({}))];
        let headless = service("db", &pods).replace("\"10.96.0.1\"", "\"None\"");
        let found = table(&headless, true).unwrap();
        assert_eq!(
            found["db.default.svc.cluster.local"]["ips"],
            json!(["10.1.0.1", "10.1.0.2"])
        );
    }

    #[test]
    fn entries_for_one_host_add_up() {
        let entry = |name: &str, address: &str| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
                 metadata: {{name: {name}, namespace: {name}}}\n\
                 spec: {{hosts: [api.example.com], addresses: [{address}], resolution: STATIC,\n\
                 ports: [{{number: 80, name: http, protocol: HTTP}}]}}\n"
            )
        };
        let found = table(&format!("{}{}", entry("a", "240.0.0.1"), entry("b", "240.0.0.2")), true).unwrap();
        assert_eq!(found["api.example.com"]["ips"], json!(["240.0.0.1", "240.0.0.2"]));
    }
}
