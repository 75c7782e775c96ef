//! What all classes need of a snapshot, worked out once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lateen_model::route::{GatewayRef, VirtualService};
use lateen_model::{Service, Shared, Snapshot};
use lateen_names::{Namespace, ObjectKey};

use crate::changes::Changes;
use crate::facts::Traits;
use crate::scope::{Exported, Rules};

/// A snapshot's services and routes in their order of precedence, and what else does not depend on who looks. What did not
/// change is shared with the survey before it.
#[derive(Debug, Clone)]
pub struct Survey {
    /// All services, oldest first.
    pub(crate) services: Arc<[Shared<Service>]>,
    /// VirtualServices of sidecars, oldest first.
    pub(crate) routes: Arc<[Shared<VirtualService>]>,
    pub(crate) traits: Arc<Traits>,
    rules: Arc<KnownRules>,
}

/// Rules, read when first asked for.
#[derive(Debug, Default)]
struct KnownRules {
    exported: OnceLock<Arc<Exported>>,
    /// Those that hold for callers in a namespace whose workloads no rule selects.
    by_namespace: Mutex<BTreeMap<Namespace, Arc<Rules>>>,
}

impl Survey {
    /// Surveys a snapshot.
    pub fn new(snapshot: &Snapshot) -> Self {
        Self {
            services: sorted_services(snapshot),
            routes: sorted_routes(snapshot),
            traits: Arc::new(Traits::new(snapshot)),
            rules: Arc::default(),
        }
    }

    /// Surveys the snapshot that these changes lead to.
    pub fn next(&self, snapshot: &Snapshot, changes: &Changes) -> Self {
        let mut next = self.clone();
        if changes.services() {
            next.services = sorted_services(snapshot);
        }
        if changes.routes() {
            next.routes = sorted_routes(snapshot);
        }
        if changes.rules() {
            next.rules = Arc::default();
        }
        if changes.traits() {
            let traits = Traits::new(snapshot);
            if *next.traits != traits {
                next.traits = Arc::new(traits);
            }
        }
        next
    }

    /// Whether proxies' facts are the same under both surveys, as far as services, endpoints, routes and rules decide.
    pub fn classes_alike(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.traits, &other.traits) || self.traits == other.traits
    }

    pub(crate) fn rules(&self, snapshot: &Snapshot, namespace: &Namespace) -> Arc<Rules> {
        // Whatever a panic left is whole: entries are only added.
        let mut known = self.rules.by_namespace.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = known
            .entry(namespace.clone())
            .or_insert_with(|| Arc::new(self.rules_for(snapshot, namespace, &[])));
        Arc::clone(rules)
    }

    /// The rules for callers in a namespace that `selected` rules select.
    pub(crate) fn rules_for(&self, snapshot: &Snapshot, namespace: &Namespace, selected: &[ObjectKey]) -> Rules {
        let exported = self.rules.exported.get_or_init(|| Arc::new(Exported::new(snapshot)));
        Rules::new(snapshot, Arc::clone(exported), namespace, selected)
    }
}

fn sorted_services(snapshot: &Snapshot) -> Arc<[Shared<Service>]> {
    let mut services: Vec<_> = snapshot.services.values().cloned().collect();
    services
        .sort_by(|a, b| (a.created, &a.name, &a.namespace, &a.host).cmp(&(b.created, &b.name, &b.namespace, &b.host)));
    services.into()
}

fn sorted_routes(snapshot: &Snapshot) -> Arc<[Shared<VirtualService>]> {
    let of_mesh = |route: &&Shared<VirtualService>| route.gateways.contains(&GatewayRef::Mesh);
    let mut routes: Vec<_> = snapshot.virtual_services.values().filter(of_mesh).cloned().collect();
    routes.sort_by(|a, b| {
        (a.created, &a.origin.key.name, &a.namespace).cmp(&(b.created, &b.origin.key.name, &b.namespace))
    });
    routes.into()
}
