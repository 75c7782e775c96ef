//! Compiled sets by family and class, and built resources by input.

mod kept;
mod memo;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use lateen_compile::facts::{EndpointFacts, ExtensionFacts, InboundFacts, ListenerFacts, OutboundFacts};
use lateen_compile::{Anew, Changes, Classes, Family, Input, Replaced, Scope, Sight, Survey, replaced, select};
use lateen_model::{Diagnostic, Proxy, Shared, Snapshot, content_hash};
use lateen_names::ObjectRef;
use lateen_xds::{Difference, ResourceSet, Wanted};

use kept::Kept;
use memo::{Made, Memo};

/// What every class holds as of one snapshot. Owned by one thread at a time; everything that it hands out is shared and
/// immutable.
///
/// A snapshot costs what differs from the one before: of the classes in use, a set that nothing concerns stays as it is,
/// of one that a few hosts concern these hosts' resources are selected anew, and only what is left is selected whole.
#[derive(Default)]
pub struct Families {
    now: Option<Arc<Now>>,
    before: Option<Arc<Snapshot>>,
    /// What leads from the snapshot before to the present one.
    changes: Arc<Changes>,
    /// Snapshots turned to since [`Families::take_turns`].
    turns: Vec<Turn>,
    /// What classes see, by their outbound facts.
    scopes: Kept<Shared<OutboundFacts>, Seen>,
    /// Sets by family and facts.
    sets: Kept<Key, Held>,
    memo: Memo,
    /// What proxies with the same sets share.
    wanted: HashMap<Classes, Joined>,
    classes: HashMap<Classes, Arc<Classes>>,
    work: Work,
}

/// How many sets were found to be right, one way or another, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Nothing concerned them.
    pub kept: u64,
    /// Some hosts' resources were selected anew.
    pub by_hosts: u64,
    /// They were selected whole.
    pub whole: u64,
}

struct Now {
    snapshot: Arc<Snapshot>,
    survey: Survey,
    version: Arc<str>,
}

/// A step from one snapshot to the next, as far as proxies' classes depend on it.
pub struct Turn {
    changes: Arc<Changes>,
    everybody: bool,
}

impl Turn {
    /// Whether a proxy's Node has to be read anew, and its classes.
    pub fn concerns(&self, proxy: &Proxy) -> bool {
        self.everybody || self.changes.concern(proxy)
    }
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

/// What all proxies of a class hold, and the families' sets that it was joined from.
struct Joined {
    wanted: Arc<Wanted>,
    places: Places,
    parts: [ResourceSet; FAMILIES],
    generation: u64,
}

const FAMILIES: usize = Family::ALL.len();

/// Where what a class sees is kept, and its sets, in the order of [`Family::ALL`]: most turns concern few of them, and to
/// look for each by its key would be most of the work. All of them are asked for whenever the class is.
#[derive(Clone, Copy)]
struct Places {
    scope: usize,
    sets: [usize; FAMILIES],
}

impl Families {
    /// Turns to a snapshot, unless a newer one is in force already. Sets that nobody has asked for since the last one are
    /// forgotten.
    pub fn turn(&mut self, snapshot: &Arc<Snapshot>) {
        let last = self.generation();
        if snapshot.generation <= last && self.now.is_some() {
            return;
        }
        self.sets.retain(|held| held.generation == Some(last));
        self.wanted.retain(|_, joined| joined.generation == last);
        self.scopes.retain(|seen| seen.generation == last);
        self.classes.retain(|_, classes| Arc::strong_count(classes) > 1);
        self.memo.sweep();
        let survey = match self.now.take() {
            Some(now) => {
                self.changes = Arc::new(Changes::between(&now.snapshot, snapshot));
                let survey = now.survey.next(snapshot, &self.changes);
                self.turns.push(Turn {
                    changes: Arc::clone(&self.changes),
                    everybody: !survey.classes_alike(&now.survey),
                });
                self.before = Some(Arc::clone(&now.snapshot));
                survey
            }
            None => Survey::new(snapshot),
        };
        self.now = Some(Arc::new(Now {
            snapshot: Arc::clone(snapshot),
            survey,
            version: snapshot.generation.to_string().into(),
        }));
    }

    /// Forgets what was before the present snapshot, now that everybody has asked.
    pub fn forget_before(&mut self) {
        self.before = None;
        for seen in self.scopes.values_mut() {
            seen.before = None;
        }
    }

    /// The snapshot last turned to; `None` before the first.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.now.as_ref().map(|now| &now.snapshot)
    }

    /// Its number; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.snapshot().map_or(0, |snapshot| snapshot.generation)
    }

    /// The steps since the last call: whom none of them concerns has the classes that it had.
    pub fn take_turns(&mut self) -> Vec<Turn> {
        std::mem::take(&mut self.turns)
    }

    /// The classes of a proxy under the snapshot last turned to, shared by all proxies that have the same; `None` before
    /// the first snapshot.
    pub fn classes_of(&mut self, proxy: &Proxy) -> Option<Arc<Classes>> {
        let now = self.now.as_ref()?;
        let classes = Classes::read(&now.survey, &now.snapshot, proxy);
        let known = self
            .classes
            .entry(classes)
            .or_insert_with_key(|classes| Arc::new(classes.clone()));
        Some(Arc::clone(known))
    }

    /// Everything that proxies of these classes hold under the snapshot last turned to; nothing before the first.
    pub fn wanted(&mut self, classes: &Classes) -> Arc<Wanted> {
        let Some(now) = self.now.clone() else {
            return Arc::default();
        };
        let generation = now.snapshot.generation;
        let places = match self.wanted.get(classes) {
            Some(joined) if joined.generation == generation => return Arc::clone(&joined.wanted),
            Some(joined) => joined.places,
            None => self.places(&now, classes),
        };
        self.look(&now, classes, places.scope);
        let mut selected = false;
        for (family, place) in Family::ALL.into_iter().zip(places.sets) {
            selected |= self.renew(family, &now, classes, place, places.scope);
        }
        if selected {
            self.scopes[places.scope].scope.forget_tables();
        }
        let parts = places.sets.map(|place| self.sets[place].set.clone());
        let kept = self.wanted.get_mut(classes);
        let sets = Self::join(kept.as_deref(), &parts);
        let by_name = Self::by_name(kept.as_deref(), classes, &parts);
        let wanted = Arc::new(Wanted {
            snapshot: generation,
            version: Arc::clone(&now.version),
            changed_at: None,
            sets: Arc::new(sets),
            by_name,
        });
        let joined = Joined {
            wanted: Arc::clone(&wanted),
            places,
            parts,
            generation,
        };
        match kept {
            Some(kept) => *kept = joined,
            None => {
                self.wanted.insert(classes.clone(), joined);
            }
        }
        wanted
    }

    /// Where what a class holds is kept, or will be.
    fn places(&mut self, now: &Now, classes: &Classes) -> Places {
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

    /// The families' sets by type. What a type has of one family is that family's set itself: a copy for each class would be
    /// compared with the next one name by name.
    fn join(previous: Option<&Joined>, parts: &[ResourceSet]) -> BTreeMap<Arc<str>, ResourceSet> {
        let one = |(url, places): &(Arc<str>, Vec<usize>)| {
            let same = |joined: &&Joined| places.iter().all(|&place| joined.parts[place].is_same(&parts[place]));
            let kept = previous.filter(same).and_then(|joined| joined.wanted.set(url)).cloned();
            (Arc::clone(url), kept.unwrap_or_else(|| union(parts, places)))
        };
        types().iter().map(one).collect()
    }

    /// Where clusters come on demand: all that there are. Most of them are, so what comes unasked is put in with them.
    fn by_name(previous: Option<&Joined>, classes: &Classes, parts: &[ResourceSet]) -> BTreeMap<Arc<str>, ResourceSet> {
        if classes.outbound.on_demand.is_none() {
            return BTreeMap::new();
        }
        let lazy = |place: &usize| Family::ALL[*place] == Family::OnDemandClusters;
        let of_type = |place: &usize| Family::ALL[*place].type_url() == Family::OnDemandClusters.type_url();
        let (mut places, others): (Vec<_>, Vec<_>) = (0..parts.len()).filter(of_type).partition(lazy);
        places.extend(others);
        let url: Arc<str> = Arc::from(Family::OnDemandClusters.type_url());
        let same = |joined: &&Joined| places.iter().all(|&place| joined.parts[place].is_same(&parts[place]));
        let kept = previous.filter(same).and_then(|joined| joined.wanted.by_name.get(&url));
        let all = kept.cloned().unwrap_or_else(|| union(parts, &places));
        [(url, all)].into()
    }

    /// Which objects made the resource of a name, for a class; empty if there is no such resource.
    pub fn origins(&self, name: &str, family: Family) -> Arc<[ObjectRef]> {
        self.memo.origins(family.type_url(), name)
    }

    /// Findings of all builds that are in use.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let noted = self.sets.values().flat_map(|held| &held.noted);
        let mut all: Vec<Diagnostic> = noted.flat_map(|made| made.diagnostics.iter().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// How many sets and how many built resources are kept.
    pub fn sizes(&self) -> (usize, usize) {
        (self.sets.len(), self.memo.len())
    }

    /// What was done so far.
    pub fn work(&self) -> Work {
        self.work
    }

    /// Finds out whether a set is still right, and selects anew what is not. Whether anything was selected.
    fn renew(&mut self, family: Family, now: &Now, classes: &Classes, place: usize, scope: usize) -> bool {
        let generation = now.snapshot.generation;
        let changes = Arc::clone(&self.changes);
        let held = &mut self.sets[place];
        let anew = match held.generation {
            Some(found) if found == generation => return false,
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

/// Sets of several families of one type.
fn union(parts: &[ResourceSet], places: &[usize]) -> ResourceSet {
    ResourceSet::join(places.iter().map(|&place| &parts[place]))
}

/// The types of resources, each with the places among all of those families that come unasked; shared by all classes.
fn types() -> &'static [(Arc<str>, Vec<usize>)] {
    static TYPES: OnceLock<Vec<(Arc<str>, Vec<usize>)>> = OnceLock::new();
    TYPES.get_or_init(|| {
        let mut types: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        let unasked = |(_, family): &(usize, Family)| *family != Family::OnDemandClusters;
        for (place, family) in Family::ALL.into_iter().enumerate().filter(unasked) {
            types.entry(Arc::from(family.type_url())).or_default().push(place);
        }
        types.into_iter().collect()
    })
}

/// A short text that stands for a class in debug output.
pub(crate) fn class_name(classes: &Classes) -> String {
    let mut hasher = DefaultHasher::new();
    classes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
