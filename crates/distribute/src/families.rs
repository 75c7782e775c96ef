//! Compiled sets by family and class, and built resources by input.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use lateen_compile::{Built, Classes, Family, Input, Scope, select};
use lateen_model::{Diagnostic, Snapshot};
use lateen_names::ObjectRef;
use lateen_xds::{Resource, ResourceSet, Wanted};

/// What every class holds as of one snapshot. Owned by one thread at a time; everything that it hands out is shared and
/// immutable.
#[derive(Default)]
pub struct Families {
    generation: u64,
    /// Sets by family and facts, with the generation that last used them.
    sets: HashMap<Key, Held>,
    /// Built resources by input.
    built: HashMap<Input, (Arc<Made>, u64)>,
    /// What proxies with the same sets share.
    wanted: HashMap<Classes, (Arc<Wanted>, u64)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    family: Family,
    facts: Facts,
}

/// The facts of one family, as a key. Boxed whole: a hash alone could let two classes be taken for one.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Facts {
    Outbound(Arc<lateen_compile::facts::OutboundFacts>),
    Listeners(Arc<lateen_compile::facts::ListenerFacts>),
    Endpoints(Arc<lateen_compile::facts::EndpointFacts>),
    Inbound(Arc<lateen_compile::facts::InboundFacts>),
    Extensions(Arc<lateen_compile::facts::ExtensionFacts>),
}

struct Held {
    set: ResourceSet,
    generation: u64,
}

struct Made {
    resource: Option<Arc<Resource>>,
    diagnostics: Vec<Diagnostic>,
    origins: Arc<[ObjectRef]>,
}

impl Families {
    /// Turns to a snapshot. Sets that nobody has asked for since the last one are forgotten.
    pub fn turn(&mut self, snapshot: &Snapshot) {
        if snapshot.generation == self.generation {
            return;
        }
        let last = self.generation;
        self.sets.retain(|_, held| held.generation == last);
        self.built.retain(|_, (_, generation)| *generation == last);
        self.wanted.retain(|_, (_, generation)| *generation == last);
        self.generation = snapshot.generation;
    }

    /// The snapshot last turned to; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Everything that proxies of these classes hold under the snapshot last turned to.
    pub fn wanted(&mut self, snapshot: &Snapshot, classes: &Classes) -> Arc<Wanted> {
        if let Some((wanted, generation)) = self.wanted.get(classes)
            && *generation == self.generation
        {
            return Arc::clone(wanted);
        }
        let mut scope = None;
        let mut by_type: HashMap<&'static str, Vec<ResourceSet>> = HashMap::new();
        for family in Family::ALL {
            let set = self.set(family, snapshot, classes, &mut scope);
            by_type.entry(family.type_url()).or_default().push(set);
        }
        let sets = by_type
            .into_iter()
            .map(|(type_url, sets)| (Arc::from(type_url), joined(sets)))
            .collect();
        let sets = match self.wanted.get(classes) {
            Some((previous, _)) => kept(previous, sets),
            None => sets,
        };
        let wanted = Arc::new(Wanted {
            snapshot: snapshot.generation,
            version: snapshot.generation.to_string().into(),
            changed_at: None,
            sets,
        });
        self.wanted
            .insert(classes.clone(), (Arc::clone(&wanted), self.generation));
        wanted
    }

    /// Which objects made the resource of a name, for a class; empty if there is no such resource.
    pub fn origins(&self, name: &str, family: Family) -> Arc<[ObjectRef]> {
        let found = self.built.iter().find(|(input, (made, _))| {
            family_of(input) == family.type_url()
                && made.resource.as_ref().is_some_and(|resource| &*resource.name == name)
        });
        found.map_or_else(|| [].into(), |(_, (made, _))| Arc::clone(&made.origins))
    }

    /// Findings of all builds that are in use.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all: Vec<Diagnostic> = self
            .built
            .values()
            .flat_map(|(made, _)| made.diagnostics.iter().cloned())
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// How many sets and how many built resources are kept.
    pub fn sizes(&self) -> (usize, usize) {
        (self.sets.len(), self.built.len())
    }

    fn set(
        &mut self,
        family: Family,
        snapshot: &Snapshot,
        classes: &Classes,
        scope: &mut Option<Scope>,
    ) -> ResourceSet {
        let key = Key {
            family,
            facts: facts(family, classes),
        };
        if let Some(held) = self.sets.get(&key)
            && held.generation == self.generation
        {
            return held.set.clone();
        }
        let scope = scope.get_or_insert_with(|| Scope::new(snapshot, &classes.outbound));
        let mut set = ResourceSet::new();
        for input in select(family, snapshot, scope, classes) {
            let made = self.build(input);
            if let Some(resource) = &made.resource
                && set.get(&resource.name).is_none()
            {
                set.insert(Arc::clone(resource));
            }
        }
        let set = match self.sets.get(&key) {
            Some(held) => patched(&held.set, set),
            None => set,
        };
        self.sets.insert(
            key,
            Held {
                set: set.clone(),
                generation: self.generation,
            },
        );
        set
    }

    fn build(&mut self, input: Input) -> Arc<Made> {
        let generation = self.generation;
        if let Some((made, used)) = self.built.get_mut(&input) {
            *used = generation;
            return Arc::clone(made);
        }
        let Built {
            resource,
            diagnostics,
            origins,
        } = input.build();
        let resource = resource.map(|resource| {
            Arc::new(Resource {
                name: resource.name,
                hash: resource.hash,
                body: resource.bytes,
            })
        });
        let made = Arc::new(Made {
            resource,
            diagnostics,
            origins,
        });
        self.built.insert(input, (Arc::clone(&made), generation));
        made
    }
}

fn facts(family: Family, classes: &Classes) -> Facts {
    match family {
        Family::OutboundClusters | Family::Routes | Family::Secrets | Family::NameTable => {
            Facts::Outbound(Arc::new(classes.outbound.clone()))
        }
        Family::Extensions => Facts::Extensions(Arc::new(classes.extensions.clone())),
        Family::OutboundListeners => Facts::Listeners(Arc::new(classes.listeners.clone())),
        Family::Endpoints => Facts::Endpoints(Arc::new(classes.endpoints.clone())),
        Family::InboundClusters | Family::InboundListeners => Facts::Inbound(Arc::new(classes.inbound.clone())),
    }
}

fn family_of(input: &Input) -> &'static str {
    match input {
        Input::Patched(patched) => family_of(patched.inner()),
        Input::Added(added) => added.type_url(),
        Input::Cluster(_) => Family::OutboundClusters.type_url(),
        Input::Extension(_) => Family::Extensions.type_url(),
        Input::Endpoints(_) => Family::Endpoints.type_url(),
        Input::Listener(_) => Family::OutboundListeners.type_url(),
        Input::Routes(_) => Family::Routes.type_url(),
        Input::NameTable(_) => Family::NameTable.type_url(),
        Input::Secret(_) => Family::Secrets.type_url(),
    }
}

/// The new content on the old structure, so that their difference costs what changed; the old one itself if equal.
fn patched(old: &ResourceSet, new: ResourceSet) -> ResourceSet {
    use lateen_xds::Difference;
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

/// Sets of several families of one type; the first of a name wins.
fn joined(sets: Vec<ResourceSet>) -> ResourceSet {
    let mut sets = sets.into_iter();
    let mut all = sets.next().unwrap_or_default();
    for set in sets {
        for resource in set.iter() {
            if all.get(&resource.name).is_none() {
                all.insert(Arc::clone(resource));
            }
        }
    }
    all
}

/// The sets that a proxy had, where they did not change: then nobody needs to look at them.
fn kept(
    previous: &Wanted,
    sets: std::collections::BTreeMap<Arc<str>, ResourceSet>,
) -> std::collections::BTreeMap<Arc<str>, ResourceSet> {
    sets.into_iter()
        .map(|(type_url, set)| match previous.set(&type_url) {
            Some(old) => (type_url, patched(old, set)),
            None => (type_url, set),
        })
        .collect()
}

/// A short text that stands for a class in debug output.
pub(crate) fn class_name(classes: &Classes) -> String {
    let mut hasher = DefaultHasher::new();
    classes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
