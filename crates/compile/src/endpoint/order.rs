//! Endpoints by place: weights and priorities as the caller's place and the load balancing settings ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_model::Labels;
use lateen_model::destination::{LoadBalancer, LocalityLb};
use lateen_model::service::TrafficDistribution;
use lateen_names::Locality;

use super::group::Group;

const NETWORK: &str = "topology.istio.io/network";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUB_ZONE: &str = "topology.istio.io/subzone";
const CLUSTER: &str = "topology.istio.io/cluster";
const NODE: &str = "kubernetes.io/hostname";

/// The setting that is in force, and whether it holds without outlier detection too.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Setting {
    pub(crate) locality: LocalityLb,
    pub(crate) forced: bool,
}

impl Setting {
    /// The rule's own setting, else the service's traffic distribution, else the mesh's; `None` where it is off.
    pub(crate) fn in_force(
        balancer: Option<&LoadBalancer>,
        distribution: TrafficDistribution,
        mesh: &LocalityLb,
    ) -> Option<Self> {
        let plain = |locality: &LocalityLb| {
            (locality.enabled != Some(false)).then(|| Self {
                locality: locality.clone(),
                forced: false,
            })
        };
        if let Some(own) = balancer.and_then(|balancer| balancer.locality.as_ref()) {
            return plain(own);
        }
        let labels: &[&str] = match distribution {
            TrafficDistribution::Any => return plain(mesh),
            TrafficDistribution::PreferSameZone => &[NETWORK, REGION, ZONE],
            TrafficDistribution::PreferSameNode => &[NETWORK, REGION, ZONE, SUB_ZONE, NODE],
        };
        Some(Self {
            locality: LocalityLb {
                failover_priority: labels.iter().map(|label| Arc::from(*label)).collect(),
                ..LocalityLb::default()
            },
            forced: true,
        })
    }

    /// Whether Envoy has to balance by the weights of places.
    pub(crate) fn weighs(&self, outlier: bool) -> bool {
        let fails_over = !self.locality.failover.is_empty() || !self.locality.failover_priority.is_empty();
        !self.locality.distribute.is_empty() || (fails_over && (outlier || self.forced))
    }

    /// Whether it changes anything for anybody: failing over needs something that notices failures.
    pub(crate) fn acts(&self, outlier: bool) -> bool {
        !self.locality.distribute.is_empty() || outlier || self.forced
    }
}

/// Where the caller is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Caller {
    pub(crate) locality: Locality,
    /// Of its labels, and of what its place adds to them, those that the setting reads.
    pub(crate) labels: Labels,
}

impl Caller {
    /// Reads off what the setting needs; `known` finds labels that stand for a place.
    pub(crate) fn new(setting: &Setting, locality: &Locality, labels: &Labels, place: &PlaceLabels<'_>) -> Self {
        let wanted = setting.locality.failover_priority.iter().filter_map(|entry| {
            let key = entry.split('=').next().unwrap_or_default();
            let value = place.value(key, locality, labels)?;
            Some((Arc::from(key), value))
        });
        let by_labels_only = !setting.locality.failover_priority.is_empty()
            && setting.locality.failover.is_empty()
            && setting.locality.distribute.is_empty();
        Self {
            labels: wanted.collect(),
            locality: if by_labels_only {
                Locality::default()
            } else {
                locality.clone()
            },
        }
    }
}

/// What stands for labels that say where a proxy is.
pub(crate) struct PlaceLabels<'a> {
    pub(crate) network: &'a str,
    pub(crate) cluster: &'a str,
    pub(crate) node: Option<&'a Arc<str>>,
}

impl PlaceLabels<'_> {
    fn value(&self, key: &str, locality: &Locality, labels: &Labels) -> Option<Arc<str>> {
        let known = |value: &str| (!value.is_empty()).then(|| Arc::from(value));
        let own = || labels.get(key).cloned();
        match key {
            REGION => known(&locality.region).or_else(own),
            ZONE => known(&locality.zone).or_else(own),
            SUB_ZONE => known(&locality.sub_zone).or_else(own),
            CLUSTER => known(self.cluster).or_else(own),
            NODE => self.node.cloned().or_else(own),
            NETWORK => own().filter(|value| !value.is_empty()).or_else(|| known(self.network)),
            _ => own(),
        }
    }
}

/// Weighs or orders groups of endpoints as one caller has to see them.
pub(crate) fn apply(groups: Vec<Group>, setting: &Setting, caller: &Caller, outlier: bool) -> Vec<Group> {
    let locality = &setting.locality;
    if !locality.distribute.is_empty() {
        return distribute(groups, locality, &caller.locality);
    }
    if !outlier && !setting.forced {
        return groups;
    }
    if locality.failover_priority.is_empty() {
        return fail_over(groups, &caller.locality, &locality.failover);
    }
    let groups = by_labels(groups, &locality.failover_priority, &caller.labels);
    if locality.failover.is_empty() {
        groups
    } else {
        fail_over(groups, &caller.locality, &locality.failover)
    }
}

/// Whether a place is within one that a rule names: `region/zone/subzone`, each part `*` or left out for any.
fn within(place: &Locality, rule: &str) -> bool {
    let mut parts = rule.splitn(3, '/');
    let mut fits = |value: &str, may_be_empty: bool| {
        let part = parts.next().unwrap_or_default();
        part == "*" || (may_be_empty && part.is_empty()) || part == value
    };
    fits(&place.region, false) && fits(&place.zone, true) && fits(&place.sub_zone, true)
}

/// Gives each place its share; places without one get nothing.
fn distribute(mut groups: Vec<Group>, setting: &LocalityLb, here: &Locality) -> Vec<Group> {
    let Some((_, shares)) = setting.distribute.iter().find(|(from, _)| within(here, from)) else {
        return groups;
    };
    let mut left: BTreeSet<usize> = (0..groups.len()).collect();
    for (place, share) in shares {
        let members: Vec<usize> = left
            .iter()
            .copied()
            .filter(|index| within(&groups[*index].locality, place))
            .collect();
        let total: u64 = members.iter().map(|index| u64::from(groups[*index].weight)).sum();
        for index in members {
            left.remove(&index);
            let own = u64::from(groups[index].weight) * u64::from(*share);
            if own > 0 && total > 0 {
                groups[index].weight = u32::try_from(own.div_ceil(total)).unwrap_or(u32::MAX);
            }
        }
    }
    for index in left {
        groups[index].members.clear();
    }
    groups
}

/// Orders by place: the same sub-zone, zone, region, then the region that takes over, then the rest.
fn fail_over(mut groups: Vec<Group>, here: &Locality, failover: &[(Arc<str>, Arc<str>)]) -> Vec<Group> {
    for group in &mut groups {
        let there = &group.locality;
        let distance = match (
            here.region == there.region,
            here.zone == there.zone,
            here.sub_zone == there.sub_zone,
        ) {
            (true, true, true) => 0,
            (true, true, false) => 1,
            (true, false, _) => 2,
            (false, _, _) => match failover.iter().find(|(from, _)| *from == here.region) {
                Some((_, to)) if *to != there.region => 4,
                _ => 3,
            },
        };
        group.priority = group.priority * 5 + distance;
    }
    without_gaps(groups)
}

/// Splits each place by how many of the labels, from the first on, endpoint and caller share.
fn by_labels(groups: Vec<Group>, order: &[Arc<str>], labels: &Labels) -> Vec<Group> {
    let mut split = Vec::with_capacity(groups.len());
    for group in groups {
        let mut by_priority: BTreeMap<u32, Group> = BTreeMap::new();
        let empty = Group {
            members: Vec::new(),
            weight: 0,
            ..group.clone()
        };
        for member in group.members {
            let priority = label_distance(order, labels, &member.labels);
            let target = by_priority.entry(priority).or_insert_with(|| empty.clone());
            target.priority = priority;
            target.weight = target.weight.saturating_add(member.weight);
            target.members.push(member);
        }
        split.extend(by_priority.into_values());
    }
    without_gaps(split)
}

/// How far down the list the first label is that differs; a differing network at its head only moves everything behind
/// the endpoints of the own network.
fn label_distance(order: &[Arc<str>], caller: &Labels, endpoint: &Labels) -> u32 {
    let count = u32::try_from(order.len()).unwrap_or(u32::MAX);
    let mut behind = 0;
    for (index, entry) in (0_u32..).zip(order) {
        let (key, wanted) = match entry.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (&**entry, caller.get(&**entry).map(|value| &**value)),
        };
        if wanted.unwrap_or_default() == endpoint.get(key).map(|value| &**value).unwrap_or_default() {
            continue;
        }
        if index == 0 && **entry == *NETWORK {
            behind = count;
            continue;
        }
        return behind + count - index;
    }
    behind
}

/// Numbers priorities from 0 without gaps, as Envoy wants them.
fn without_gaps(mut groups: Vec<Group>) -> Vec<Group> {
    let used: BTreeSet<u32> = groups.iter().map(|group| group.priority).collect();
    let rank: BTreeMap<u32, u32> = used.into_iter().zip(0..).collect();
    for group in &mut groups {
        group.priority = rank[&group.priority];
    }
    groups
}
