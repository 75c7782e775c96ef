//! What services are to one another: other names of others, gateways between networks.

use std::collections::{BTreeMap, BTreeSet};

use lateen_model::service::{Resolution, TrafficDistribution};
use lateen_model::{ServiceKey, Shared};
use lateen_names::{Hostname, ObjectKey};

use super::super::network::gateways_of;
use super::build::service_key;
use super::{Env, Registry};

impl Registry {
    /// Finds out anew which services are other names of which.
    pub(super) fn refresh_aliases(&mut self, env: &Env<'_>) {
        let mut direct: BTreeMap<ServiceKey, Hostname> = BTreeMap::new();
        for (id, cluster) in self.clusters_in_order() {
            for (object, facts) in cluster
                .services
                .iter()
                .filter(|(_, facts)| facts.resolution == Resolution::Alias)
            {
                let target = facts
                    .external_name
                    .clone()
                    .filter(|_| self.selected(id, &facts.namespace, env));
                if let (Some(key), Some(target)) = (service_key(object, &env.mesh.domain), target) {
                    direct.entry(key).or_insert(target);
                }
            }
        }
        let by_host: BTreeMap<&Hostname, &Hostname> = direct.iter().map(|(key, target)| (&key.host, target)).collect();
        let resolve = |target: &Hostname| {
            let mut target = target;
            // More steps than aliases are a loop.
            for _ in 0..=by_host.len() {
                match by_host.get(target) {
                    Some(next) => target = next,
                    None => return Some(target.clone()),
                }
            }
            None
        };
        let aliases: BTreeMap<ServiceKey, Option<Hostname>> = direct
            .iter()
            .map(|(key, target)| (key.clone(), resolve(target)))
            .collect();
        let mut aliases_of: BTreeMap<Hostname, Vec<ServiceKey>> = BTreeMap::new();
        for (key, target) in &aliases {
            if let Some(target) = target {
                aliases_of.entry(target.clone()).or_default().push(key.clone());
            }
        }
        for keys in aliases_of.values_mut() {
            keys.sort_by(|a, b| (&a.namespace, &a.host).cmp(&(&b.namespace, &b.host)));
        }
        let keys = self.aliases.keys().chain(aliases.keys());
        self.dirty
            .services
            .extend(keys.filter(|key| self.aliases.get(key) != aliases.get(key)).cloned());
        let hosts = self.aliases_of.keys().chain(aliases_of.keys());
        let changed: BTreeSet<&Hostname> = hosts
            .filter(|host| self.aliases_of.get(*host) != aliases_of.get(*host))
            .collect();
        if !changed.is_empty() {
            let known = self
                .services
                .iter()
                .map(|(key, _)| key)
                .filter(|key| changed.contains(&key.host));
            self.dirty.services.extend(known.cloned());
        }
        (self.aliases, self.aliases_of) = (aliases, aliases_of);
    }

    /// Finds out anew whether a Service is a gateway between networks.
    pub(super) fn refresh_gateways(&mut self, object: &ObjectKey, env: &Env<'_>) {
        for (id, cluster) in &self.clusters {
            let key = (id.clone(), object.clone());
            let found = cluster
                .services
                .get(object)
                .filter(|facts| self.selected(id, &facts.namespace, env));
            let gateways = found.and_then(|facts| {
                let service = facts.lower(
                    service_key(object, &env.mesh.domain)?,
                    id,
                    TrafficDistribution::Any,
                    env.mesh,
                );
                Some(gateways_of(facts, &service, id, env.gateway_services, &cluster.nodes))
            });
            let gateways = gateways.filter(|gateways| !gateways.is_empty());
            self.dirty.gateways |= self.gateways.get(&key) != gateways.as_ref();
            match gateways {
                Some(gateways) => self.gateways.insert(key, gateways),
                None => self.gateways.remove(&key),
            };
        }
    }

    pub(super) fn collect_gateways(&mut self, env: &Env<'_>) {
        let of_mesh = env
            .mesh
            .networks
            .values()
            .flat_map(|network| network.gateways.iter().cloned());
        let all: BTreeSet<_> = self.gateways.values().flatten().cloned().chain(of_mesh).collect();
        self.network_gateways = Shared::new(all.into_iter().collect());
    }
}
