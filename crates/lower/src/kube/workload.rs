//! Workloads: WorkloadEntries, endpoints listed in ServiceEntries, and what all workloads have in common.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lateen_api::networking::workload_entry::{WorkloadEntry, WorkloadEntrySpec};
use lateen_model::Labels;
use lateen_model::endpoint::Address;
use lateen_names::{ClusterId, Locality, Namespace, Network, ObjectKey};

use super::pod::locality_of_label;
use crate::context::{created, labels};

/// What matters of a WorkloadEntry, or of an endpoint in a ServiceEntry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WorkloadFacts {
    pub namespace: Namespace,
    pub name: Arc<str>,
    pub created: i64,
    /// `None` where it can be reached through its network's gateway only.
    pub address: Option<Address>,
    pub ports: BTreeMap<Arc<str>, u16>,
    pub labels: Labels,
    pub network: Option<Network>,
    pub locality: Locality,
    pub weight: Option<u32>,
    pub account: Option<Arc<str>>,
    pub mtls: bool,
    pub hbone: bool,
    pub workload: Arc<str>,
    pub healthy: bool,
}

impl WorkloadFacts {
    /// Of a WorkloadEntry.
    pub(crate) fn new(entry: &WorkloadEntry, key: &ObjectKey) -> Option<Self> {
        let namespace = key.namespace.clone()?;
        let mut facts = Self::inline(&entry.spec, &namespace, key.name.as_str());
        facts.created = created(&entry.metadata);
        // Where both set a label, the object's own wins.
        facts.labels.extend(labels(entry.metadata.labels.as_ref()));
        facts.set_by_labels(&entry.spec);
        let annotation = |name: &str| entry.metadata.annotations.as_ref().and_then(|all| all.get(name));
        let own_label = entry
            .metadata
            .labels
            .as_ref()
            .and_then(|all| all.get("service.istio.io/workload-name"));
        facts.workload = annotation("istio.io/autoRegistrationGroup")
            .or(own_label)
            .map_or(key.name.as_str(), |v| v)
            .into();
        let checked = annotation("proxy.istio.io/health-checks-enabled");
        if checked.is_some_and(|text| matches!(text.as_str(), "true" | "True" | "TRUE" | "t" | "T" | "1")) {
            let mut conditions = entry.status.iter().flat_map(|status| &status.conditions);
            facts.healthy = conditions.any(|condition| condition.r#type == "Healthy" && condition.status == "True");
        }
        Some(facts)
    }

    /// Of an endpoint that a ServiceEntry lists.
    pub(crate) fn inline(spec: &WorkloadEntrySpec, namespace: &Namespace, name: &str) -> Self {
        let ports = spec
            .ports
            .iter()
            .filter_map(|(name, port)| Some((name.as_str().into(), u16::try_from(*port).ok()?)));
        let mut facts = Self {
            namespace: namespace.clone(),
            name: name.into(),
            created: 0,
            address: address(&spec.address),
            ports: ports.collect(),
            labels: labels(Some(&spec.labels)),
            network: Network::new(&spec.network)
                .ok()
                .filter(|network| !network.as_str().is_empty()),
            locality: Locality::default(),
            weight: Some(spec.weight).filter(|weight| *weight != 0),
            account: Some(spec.service_account.as_str())
                .filter(|text| !text.is_empty())
                .map(Arc::from),
            mtls: false,
            hbone: false,
            workload: name.into(),
            healthy: true,
        };
        facts.set_by_labels(spec);
        facts
    }

    fn set_by_labels(&mut self, spec: &WorkloadEntrySpec) {
        self.locality = match spec.locality.as_str() {
            "" => locality_of_label(&self.labels).unwrap_or_default(),
            text => Locality::parse(text),
        };
        self.mtls = match self.labels.get("security.istio.io/tlsMode") {
            Some(mode) => &**mode == "istio",
            None => self.account.is_some(),
        };
        self.hbone = self
            .labels
            .get("networking.istio.io/tunnel")
            .is_some_and(|value| &**value == "http");
    }

    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self.address {
            Some(Address::Ip(ip)) => Some(ip),
            _ => None,
        }
    }
}

fn address(text: &str) -> Option<Address> {
    match (text.parse::<IpAddr>(), text.strip_prefix("unix://")) {
        (Ok(ip), _) => Some(Address::Ip(ip)),
        (_, Some(path)) => Some(Address::Unix(path.into())),
        _ if text.is_empty() => None,
        _ => Some(Address::Host(text.into())),
    }
}

/// Adds what is known of a workload's place to its labels, where subsets and priorities may ask for it.
pub(crate) fn augment(
    own: &Labels,
    cluster: &ClusterId,
    locality: &Locality,
    node: Option<&str>,
    network: &Network,
) -> Labels {
    let mut all = own.clone();
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            all.insert(name.into(), value.into());
        }
    };
    add("topology.kubernetes.io/region", &locality.region);
    add("topology.kubernetes.io/zone", &locality.zone);
    add("topology.istio.io/subzone", &locality.sub_zone);
    add("topology.istio.io/cluster", cluster.as_str());
    add("kubernetes.io/hostname", node.unwrap_or_default());
    if own
        .get("topology.istio.io/network")
        .is_none_or(|value| value.is_empty())
    {
        add("topology.istio.io/network", network.as_str());
    }
    all
}
