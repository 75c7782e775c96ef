//! Sets of resources by family and facts, each kept right from one snapshot to the next.

use std::hash::Hash;
use std::sync::Arc;

use lateen_compile::facts::{EndpointFacts, ExtensionFacts, InboundFacts, ListenerFacts, OutboundFacts};
use lateen_compile::{Anew, Changes, Classes, Family, Input, Replaced, Scope, Sight, replaced, select};
use lateen_model::{Diagnostic, Shared, Snapshot, content_hash};
use lateen_names::ObjectRef;
use lateen_xds::{Difference, ResourceSet};

use super::kept::Kept;
use super::memo::{Made, Memo};
use super::{FAMILIES, Now, Work};

/// See the module. A set that nobody has asked for under a snapshot is forgotten with the next.
#[derive(Default)]
pub(super) struct Selected {
    before: Option<Arc<Snapshot>>,
    /// What leads from the snapshot before to the present one.
    changes: Arc<Changes>,
    /// What classes see, by their outbound facts.
    scopes: Kept<Shared<OutboundFacts>, Seen>,
    /// Sets by family and facts.
    sets: Kept<Key, Held>,
    memo: Memo,
    work: Work,
}

/// What a class sees of the present snapshot and of the one before.
struct Seen {
    scope: Arc<Scope>,
    before: Option<Arc<Scope>>,
    generation: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    family: Family,
    facts: Facts,
}

/// The facts of one family, as a key.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Facts {
    Outbound(Shared<OutboundFacts>),
    Listeners(Shared<ListenerFacts>),
    Endpoints(Shared<EndpointFacts>),
    Inbound(Shared<InboundFacts>),
    Extensions(Shared<ExtensionFacts>),
}

/// A set, and the snapshot with which it was last found to be right; `None` if it has yet to be selected.
#[derive(Default)]
struct Held {
    set: ResourceSet,
    /// Hash of the list of inputs that the set was selected as; `None` once some of it was selected anew.
    selected: Option<u128>,
    /// What came with findings.
    noted: Vec<Arc<Made>>,
    generation: Option<u64>,
}

/// Where what a class sees is kept, and its sets, in the order of [`Family::ALL`]: most turns concern few of them, and to
/// look for each by its key would be most of the work. All of them are asked for whenever the class is.
#[derive(Clone, Copy)]
pub(super) struct Places {
    scope: usize,
    sets: [usize; FAMILIES],
}

impl Selected {
    /// Forgets what nobody has asked for under the last snapshot.
    pub(super) fn forget_unasked(&mut self, last: u64) {
        self.sets.retain(|held| held.generation == Some(last));
        self.scopes.retain(|seen| seen.generation == last);
        self.memo.sweep();
    }

    /// From now on it is asked about the snapshot that these changes led to.
    pub(super) fn turn(&mut self, before: &Arc<Snapshot>, changes: Arc<Changes>) {
        self.before = Some(Arc::clone(before));
        self.changes = changes;
    }

    /// Forgets what was before the present snapshot, now that everybody has asked.
    pub(super) fn forget_before(&mut self) {
        self.before = None;
        for seen in self.scopes.values_mut() {
            seen.before = None;
        }
    }

    /// Where what a class holds is kept, or will be.
    pub(super) fn places(&mut self, now: &Now, classes: &Classes) -> Places {
        let outbound = &classes.outbound;
        Places {
            scope: self.scopes.place(outbound.clone(), || Seen {
                scope: Arc::new(Scope::within(&now.survey, &now.snapshot, outbound)),
                before: None,
                generation: now.snapshot.generation,
            }),
            sets: Family::ALL.map(|family| {
                let facts = facts(family, classes);
                self.sets.place(Key { family, facts }, Held::default)
            }),
        }
    }

    /// Finds out whether all sets of a class are still right, and selects anew what is not.
    pub(super) fn renew(&mut self, now: &Now, classes: &Classes, places: &Places) {
        self.look(now, classes, places.scope);
        let mut selected = false;
        for (family, place) in Family::ALL.into_iter().zip(places.sets) {
            selected |= self.renew_set(family, now, classes, place, places.scope);
        }
        if selected {
            self.scopes[places.scope].scope.forget_tables();
        }
    }

    /// A class's set of a family, by its place among all families.
    pub(super) fn set(&self, places: &Places, family: usize) -> &ResourceSet {
        &self.sets[places.sets[family]].set
    }

    /// Which objects made the resource of a name; empty if there is no such resource.
    pub(super) fn origins(&self, name: &str, family: Family) -> Arc<[ObjectRef]> {
        self.memo.origins(family.type_url(), name)
    }

    /// Findings of all builds that are in use.
    pub(super) fn diagnostics(&self) -> Vec<Diagnostic> {
        let noted = self.sets.values().flat_map(|held| &held.noted);
        let mut all: Vec<Diagnostic> = noted.flat_map(|made| made.diagnostics.iter().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// How many sets and how many built resources are kept.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.sets.len(), self.memo.len())
    }

    pub(super) fn work(&self) -> Work {
        self.work
    }

    /// Finds out whether a set is still right, and selects anew what is not. Whether anything was selected.
    fn renew_set(&mut self, family: Family, now: &Now, classes: &Classes, place: usize, scope: usize) -> bool {
        let generation = now.snapshot.generation;
        let held = &mut self.sets[place];
        if held.generation == Some(generation) {
            return false;
        }
        let changes = Arc::clone(&self.changes);
        let anew = match held.generation {
            Some(_) => changes.anew(family, classes),
            None => Anew::Everything,
        };
        if anew == Anew::Nothing {
            held.generation = Some(generation);
            self.work.kept += 1;
            return false;
        }
        let old = std::mem::take(held);
        let seen = &self.scopes[scope];
        let (snapshot, scope) = (&*now.snapshot, Arc::clone(&seen.scope));
        let replaced = match (&anew, &self.before, &seen.before) {
            (Anew::Hosts(hosts), Some(before), Some(scope_before)) => {
                let before = Sight {
                    snapshot: before,
                    scope: scope_before,
                };
                let now = Sight {
                    snapshot,
                    scope: &scope,
                };
                replaced(family, before, now, classes, hosts)
            }
            _ => None,
        };
        let held = match replaced {
            Some(replaced) => {
                self.work.by_hosts += 1;
                self.replace(old, replaced)
            }
            None => {
                self.work.whole += 1;
                self.whole(old, &select(family, snapshot, &scope, classes))
            }
        };
        self.sets[place] = Held {
            generation: Some(generation),
            set: held.set.shared(),
            ..held
        };
        true
    }

    /// A set with some of its resources replaced.
    fn replace(&mut self, old: Held, Replaced { mut gone, inputs }: Replaced) -> Held {
        if gone.is_empty() && inputs.is_empty() {
            return old;
        }
        let mut held = Held { selected: None, ..old };
        held.noted
            .retain(|made| made.name.as_ref().is_none_or(|name| !gone.contains(&**name)));
        for input in &inputs {
            let (made, resource) = self.memo.build(content_hash(input), input);
            if let Some(resource) = resource {
                gone.remove(&*resource.name);
                let known = held.set.get(&resource.name);
                if known.is_none_or(|known| known.hash != resource.hash) {
                    held.set.insert(resource);
                }
            }
            if !made.diagnostics.is_empty() {
                held.noted.push(made);
            }
        }
        for name in gone {
            if held.set.get(&name).is_some() {
                held.set.remove(&name);
            }
        }
        held
    }

    /// The set of all these inputs' resources; the first of a name wins.
    fn whole(&mut self, old: Held, inputs: &[Input]) -> Held {
        let hashes: Vec<u128> = inputs.iter().map(content_hash).collect();
        let selected = Some(content_hash(&hashes));
        if old.selected == selected {
            return old;
        }
        let mut set = ResourceSet::new();
        let mut noted = Vec::new();
        for (hash, input) in hashes.into_iter().zip(inputs) {
            let (made, resource) = self.memo.build(hash, input);
            if let Some(resource) = resource
                && set.get(&resource.name).is_none()
            {
                set.insert(resource);
            }
            if !made.diagnostics.is_empty() {
                noted.push(made);
            }
        }
        Held {
            set: if old.set.is_empty() {
                set
            } else {
                patched(&old.set, set)
            },
            selected,
            noted,
            generation: None,
        }
    }

    /// Finds out what a class sees now, unless that was done already.
    fn look(&mut self, now: &Now, classes: &Classes, place: usize) {
        let seen = &mut self.scopes[place];
        if seen.generation == now.snapshot.generation {
            return;
        }
        let before = Arc::clone(&seen.scope);
        if self.changes.scopes() {
            seen.scope = Arc::new(Scope::within(&now.survey, &now.snapshot, &classes.outbound));
            seen.scope.inherit(&before, &self.changes);
        }
        seen.before = Some(before);
        seen.generation = now.snapshot.generation;
    }
}

fn facts(family: Family, classes: &Classes) -> Facts {
    match family {
        Family::OutboundClusters
        | Family::OnDemandClusters
        | Family::Routes
        | Family::VirtualHosts
        | Family::Secrets
        | Family::NameTable => Facts::Outbound(classes.outbound.clone()),
        Family::Extensions => Facts::Extensions(classes.extensions.clone()),
        Family::OutboundListeners => Facts::Listeners(classes.listeners.clone()),
        Family::Endpoints => Facts::Endpoints(classes.endpoints.clone()),
        Family::InboundClusters | Family::InboundListeners => Facts::Inbound(classes.inbound.clone()),
    }
}

/// The new content on the old structure, so that their difference costs what changed; the old one itself if equal.
fn patched(old: &ResourceSet, new: ResourceSet) -> ResourceSet {
    let mut patched = old.clone();
    for difference in old.diff(&new) {
        match difference {
            Difference::Added(resource) | Difference::Changed(resource) => patched.insert(Arc::clone(resource)),
            Difference::Removed(resource) => {
                patched.remove(&resource.name);
            }
        }
    }
    patched
}
