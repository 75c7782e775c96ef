//! Which DestinationRules hold toward a host, merged where several are for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lateen_model::destination::{DestinationRule, Subset, TrafficPolicy};
use lateen_model::{ExportTo, Selector, Shared, Snapshot};
use lateen_names::{Hostname, Namespace, ObjectKey};

/// DestinationRules for one host, merged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MergedRule {
    /// The objects that it was merged from, in order.
    pub from: Vec<ObjectKey>,
    /// Namespace of the first one.
    pub namespace: Namespace,
    /// Host.
    pub host: Hostname,
    /// Policy of the whole host: the first rule's that has one.
    pub policy: TrafficPolicy,
    /// Subsets; the first of a name wins.
    pub subsets: Vec<Subset>,
}

/// The DestinationRules that callers in a namespace see.
#[derive(Debug)]
pub struct Rules {
    /// Those of the callers' own namespace that are for it.
    own: HostRules,
    exported: Arc<Exported>,
    namespace: Namespace,
    root: Namespace,
}

/// What namespaces let others have, by the namespace that it comes from: the same for all callers, though not every rule in
/// it is for all.
#[derive(Debug, Default)]
pub struct Exported(HashMap<Namespace, HostRules>);

impl Exported {
    /// Reads them.
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut exported: BTreeMap<&Namespace, Vec<Keyed<'_>>> = BTreeMap::new();
        for (key, rule) in ordered(snapshot.destination_rules.iter()) {
            if !is_private(rule) {
                exported.entry(&rule.namespace).or_default().push((key, rule));
            }
        }
        let by_namespace = exported.into_iter();
        Self(
            by_namespace
                .map(|(namespace, rules)| (namespace.clone(), HostRules::new(&rules)))
                .collect(),
        )
    }
}

impl Rules {
    /// Reads them; of those with a workload selector only the `selected` ones. `exported` is what that snapshot's namespaces
    /// let others have.
    pub fn new(snapshot: &Snapshot, exported: Arc<Exported>, namespace: &Namespace, selected: &[ObjectKey]) -> Self {
        let root = &snapshot.mesh.root_namespace;
        let own = snapshot
            .destination_rules
            .iter()
            .filter(|(key, rule)| rule.workload_selector.is_none() || selected.contains(key))
            .filter(|(_, rule)| {
                // The root namespace's public rules are for everybody, and to its own proxies they are nothing else.
                let for_own = if rule.namespace == *root {
                    is_private(rule)
                } else {
                    rule.export_to.visible_in(&rule.namespace)
                };
                rule.namespace == *namespace && for_own
            });
        Self {
            own: HostRules::new(&ordered(own)),
            exported,
            namespace: namespace.clone(),
            root: root.clone(),
        }
    }

    /// The policy toward a host whose service is defined in `namespace` (Istio's order: the caller's namespace, the
    /// service's, the root namespace; within each the most specific host).
    pub fn of(&self, host: &Hostname, namespace: Option<&Namespace>) -> Option<&Shared<MergedRule>> {
        let own = self.own.best(host).and_then(|rules| choose(rules.iter()));
        own.or_else(|| self.exported_from(namespace?, host))
            .or_else(|| self.exported_from(&self.root, host))
    }

    /// The most specific host decides first, then whether its rules are for the callers.
    fn exported_from(&self, namespace: &Namespace, host: &Hostname) -> Option<&Shared<MergedRule>> {
        let rules = self.exported.0.get(namespace)?.best(host)?;
        choose(rules.iter().filter(|rule| rule.export_to.visible_in(&self.namespace)))
    }
}

type Keyed<'a> = (&'a ObjectKey, &'a Shared<DestinationRule>);

/// Rules in the order in which they count.
fn ordered<'a>(rules: impl Iterator<Item = Keyed<'a>>) -> Vec<Keyed<'a>> {
    let mut rules: Vec<Keyed<'a>> = rules.collect();
    rules.sort_by(|(a, x), (b, y)| {
        let rank = |rule: &DestinationRule| (rule.workload_selector.is_none(), rule.created);
        (rank(x), &a.name, &a.namespace).cmp(&(rank(y), &b.name, &b.namespace))
    });
    rules
}

/// Whether a rule is for its own namespace alone. Rules for selected workloads always are.
fn is_private(rule: &DestinationRule) -> bool {
    rule.workload_selector.is_some()
        || matches!(&rule.export_to, ExportTo::Namespaces(list) if list[..] == [rule.namespace.clone()])
}

/// The rules for selected workloads (which these callers are) come first; of others the newest reach counts.
fn choose<'a>(rules: impl Iterator<Item = &'a Reach> + Clone) -> Option<&'a Shared<MergedRule>> {
    let selected = rules.clone().find(|rule| rule.selector.is_some());
    selected.or_else(|| rules.last()).map(|rule| &rule.merged)
}

/// Rules for one host that reach the same callers.
#[derive(Debug)]
struct Reach {
    export_to: ExportTo,
    selector: Option<Selector>,
    merged: Shared<MergedRule>,
}

/// Rules of one namespace, found by host.
#[derive(Debug, Default)]
struct HostRules {
    exact: HashMap<Hostname, Vec<Reach>>,
    /// Most specific first.
    wildcards: Vec<(Hostname, Vec<Reach>)>,
}

impl HostRules {
    fn new(rules: &[Keyed<'_>]) -> Self {
        let mut hosts: BTreeMap<&Hostname, Vec<Keyed<'_>>> = BTreeMap::new();
        for (key, rule) in rules {
            hosts.entry(&rule.host).or_default().push((key, rule));
        }
        let mut found = Self::default();
        for (host, rules) in hosts {
            let reaches = merge(&rules);
            if host.is_wildcard() {
                found.wildcards.push((host.clone(), reaches));
            } else {
                found.exact.insert(host.clone(), reaches);
            }
        }
        found.wildcards.sort_by(|(a, _), (b, _)| a.specificity(b));
        found
    }

    fn best(&self, host: &Hostname) -> Option<&[Reach]> {
        let wildcard = || self.wildcards.iter().find(|(pattern, _)| pattern.covers(host));
        let found = self.exact.get(host).or_else(|| wildcard().map(|(_, rules)| rules));
        found.map(Vec::as_slice)
    }
}

/// Merges rules for one host: a rule joins those before it that reach the same callers, and those whose callers it
/// reaches among others.
fn merge(rules: &[Keyed<'_>]) -> Vec<Reach> {
    struct Growing {
        export_to: ExportTo,
        selector: Option<Selector>,
        merged: MergedRule,
        /// Whether nothing in it is a user's own: it was made of Gateway API backend policies.
        backend: bool,
    }
    let mut found: Vec<Growing> = Vec::new();
    for (key, rule) in rules {
        let backend = &*rule.origin.kind != "DestinationRule";
        let mut apart = true;
        for known in &mut found {
            if known.selector != rule.workload_selector || !reaches(&rule.export_to, &known.export_to) {
                continue;
            }
            apart &= rule.export_to != known.export_to;
            known.merged.from.push((*key).clone());
            join(&mut known.merged, rule, (known.backend, backend));
            known.backend &= backend;
        }
        if apart {
            found.push(Growing {
                export_to: rule.export_to.clone(),
                selector: rule.workload_selector.clone(),
                backend,
                merged: MergedRule {
                    from: vec![(*key).clone()],
                    namespace: rule.namespace.clone(),
                    host: rule.host.clone(),
                    policy: rule.policy.clone(),
                    subsets: rule.subsets.clone(),
                },
            });
        }
    }
    let done = found.into_iter().map(|growing| Reach {
        export_to: growing.export_to,
        selector: growing.selector,
        merged: Shared::new(growing.merged),
    });
    done.collect()
}

/// Whether a rule of that reach is for all callers of another's, as far as both list them.
fn reaches(new: &ExportTo, known: &ExportTo) -> bool {
    match (new, known) {
        (ExportTo::Namespaces(new), ExportTo::Namespaces(known)) => known.iter().all(|one| new.contains(one)),
        _ => new == known,
    }
}

/// Adds subsets of new names, and the policy where there is none. Of a user's rule and one made of a backend policy the
/// user's counts, part by part, whichever is older.
fn join(merged: &mut MergedRule, rule: &DestinationRule, (known_backend, new_backend): (bool, bool)) {
    for subset in &rule.subsets {
        if !merged.subsets.iter().any(|known| known.name == subset.name) {
            merged.subsets.push(subset.clone());
        }
    }
    let nothing = TrafficPolicy::default();
    match (known_backend, new_backend) {
        (false, true) => fill(&mut merged.policy, &rule.policy),
        (true, false) => {
            let backend = std::mem::replace(&mut merged.policy, rule.policy.clone());
            fill(&mut merged.policy, &backend);
        }
        _ if merged.policy == nothing => merged.policy = rule.policy.clone(),
        _ => {}
    }
}

/// Fills what a policy leaves open, port by port.
fn fill(policy: &mut TrafficPolicy, wider: &TrafficPolicy) {
    fn gap<T: Clone>(own: &mut Option<T>, wider: &Option<T>) {
        if own.is_none() {
            own.clone_from(wider);
        }
    }
    gap(&mut policy.load_balancer, &wider.load_balancer);
    gap(&mut policy.pool, &wider.pool);
    gap(&mut policy.outlier, &wider.outlier);
    gap(&mut policy.tls, &wider.tls);
    gap(&mut policy.tunnel, &wider.tunnel);
    gap(&mut policy.proxy_protocol, &wider.proxy_protocol);
    gap(&mut policy.retry_budget, &wider.retry_budget);
    for (port, wider) in &wider.ports {
        fill(policy.ports.entry(*port).or_default(), wider);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lateen_names::{Hostname, Namespace};
    use serde_json::{Value, json};

    use super::{Exported, Rules};
    use crate::testing::world;

    fn rule(namespace: &str, name: &str, spec: Value) -> String {
        let document = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec,
        });
        format!("---\n{document}\n")
    }

    fn from(objects: &str, caller: &str, host: &str) -> Vec<String> {
        let snapshot = world(json!({}), objects, false);
        let rules = Rules::new(
            &snapshot,
            Arc::new(Exported::new(&snapshot)),
            &Namespace::new(caller).unwrap(),
            &[],
        );
        let shop = Namespace::new("shop").unwrap();
        let found = rules.of(&Hostname::new(host).unwrap(), Some(&shop));
        found.map_or_else(Vec::new, |rule| rule.from.iter().map(|key| key.to_string()).collect())
    }

    const CART: &str = "cart.shop.svc.cluster.local";

    #[test]
    fn the_callers_namespace_comes_first_then_the_services_then_the_root_one() {
        let own = rule("front", "own", json!({"host": CART}));
        let service = rule("shop", "service", json!({"host": "cart"}));
        let root = rule("istio-system", "root", json!({"host": "*.local"}));
        let all = format!("{own}{service}{root}");
        assert_eq!(from(&all, "front", CART), ["front/own"]);
        assert_eq!(from(&all, "back", CART), ["shop/service"]);
        assert_eq!(from(&all, "istio-system", CART), ["shop/service"]);
        assert_eq!(from(&root, "back", CART), ["istio-system/root"]);
    }

    #[test]
    fn a_rule_exported_elsewhere_only_is_not_for_its_own_namespace_and_hides_wider_ones_from_others() {
        let narrow = rule("shop", "narrow", json!({"host": "cart", "exportTo": ["front"]}));
        let wide = rule("shop", "wide", json!({"host": "*.shop.svc.cluster.local"}));
        let all = format!("{narrow}{wide}");
        assert_eq!(from(&all, "front", CART), ["shop/narrow"]);
        assert_eq!(from(&all, "shop", CART), ["shop/wide"]);
        assert!(from(&all, "back", CART).is_empty());
    }

    #[test]
    fn rules_of_equal_reach_merge() {
        let first = rule("shop", "a", json!({"host": "cart", "subsets": [{"name": "v1"}]}));
        let second = rule("shop", "b", json!({"host": "cart", "subsets": [{"name": "v2"}]}));
        let private = rule(
            "shop",
            "c",
            json!({"host": "cart", "exportTo": ["."], "subsets": [{"name": "v3"}]}),
        );
        let all = format!("{first}{second}{private}");
        assert_eq!(from(&all, "front", CART), ["shop/a", "shop/b"]);
        assert_eq!(from(&all, "shop", CART), ["shop/c"]);
    }
}
