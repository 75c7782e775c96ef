//! Resources and sets of them: encoded once, shared by every proxy that holds them.

mod known;
mod sets;

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

pub(crate) use self::known::Step;
use self::known::{Found, Known};
pub use self::sets::Sets;

/// One resource, encoded. Two resources are equal when their content hashes are.
#[derive(Clone)]
pub struct Resource {
    /// The name that proxies subscribe to.
    pub name: Arc<str>,
    /// Hash of `body`: the resource's version. Written as 16 hexadecimal digits on the wire.
    pub hash: u64,
    /// The encoded message, without the `Any` around it.
    pub body: Bytes,
}

/// What a proxy should hold of one type: an ordered map from name to resource. Copies share their structure, so that a
/// set with a few resources of a proxy's own costs little beside the one it was made from.
#[derive(Clone, Default)]
pub struct ResourceSet {
    map: Map,
    /// What is found out about it once, by those who hold a copy that [`Self::shared`] has made.
    known: Option<Arc<Known>>,
}

type Map = OrdMap<Arc<str>, Arc<Resource>>;

/// One difference between two sets.
#[derive(Debug, Clone)]
pub enum Difference<'a> {
    /// Only the later set has it.
    Added(&'a Arc<Resource>),
    /// Both have the name, with different content; this is the later one.
    Changed(&'a Arc<Resource>),
    /// Only the earlier set has it.
    Removed(&'a Arc<Resource>),
}

/// Everything a proxy should hold, as of one snapshot.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The snapshot that this was compiled from. Never goes down on one stream.
    pub snapshot: u64,
    /// What people see as the version, in `system_version_info` and `version_info`.
    pub version: Arc<str>,
    /// When the oldest change that this brings was noticed, for the time that proxies take to converge.
    pub changed_at: Option<Instant>,
    /// What to hold of each type, by type URL. A type that is missing is an empty set.
    pub sets: Sets,
    /// Of types of which there is more than comes unasked: all there is, by type URL. What it holds beyond `sets` is for
    /// streams that name it, be it beside a wildcard subscription; of a type that is missing, `sets` has everything.
    pub by_name: Sets,
}

// === impl Resource ===

impl Resource {
    /// A resource whose version is the hash of its encoded message.
    pub fn new(name: impl Into<Arc<str>>, body: Bytes) -> Self {
        Self {
            name: name.into(),
            hash: xxh3_64(&body),
            body,
        }
    }

    /// Encodes a message.
    pub fn encode(name: impl Into<Arc<str>>, message: &impl Message) -> Self {
        Self::new(name, message.encode_to_vec().into())
    }

    /// The version as proxies see it.
    pub fn version(&self) -> String {
        self.digits().map(char::from).into_iter().collect()
    }

    /// The digits of its version.
    pub(crate) fn digits(&self) -> [u8; 16] {
        std::array::from_fn(|at| b"0123456789abcdef"[(self.hash >> (60 - 4 * at)) as usize & 15])
    }
}

/// Reads a version that a proxy sent back. Another control plane's is `None`.
pub(crate) fn parse_version(version: &str) -> Option<u64> {
    (version.len() == 16)
        .then(|| u64::from_str_radix(version, 16).ok())
        .flatten()
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Resource {}

impl fmt::Debug for Resource {
    /// Without the body, which may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:016x} ({} bytes)", self.name, self.hash, self.body.len())
    }
}

// === impl ResourceSet ===

impl ResourceSet {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The resource of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.map.get(name)
    }

    /// Adds a resource, or replaces the one of its name.
    pub fn insert(&mut self, resource: Arc<Resource>) {
        self.known = None;
        self.map.insert(Arc::clone(&resource.name), resource);
    }

    /// Takes a resource out.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Resource>> {
        self.known = None;
        self.map.remove(name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The resources, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.map.values()
    }

    /// The resources whose names begin with `prefix`, by name.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Resource>> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.map
            .range::<_, str>(from)
            .map(|(_, resource)| resource)
            .take_while(move |r| r.name.starts_with(prefix))
    }

    /// Whether both are the same copy, which says more than equality and costs nothing.
    pub fn is_same(&self, other: &Self) -> bool {
        self.map.ptr_eq(&other.map)
    }

    /// The same set, which keeps what is found out about it, for many proxies that will hold it.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.known.get_or_insert_default();
        self
    }

    /// All resources of sets of one type, as [`Self::shared`]; the first of a name wins.
    ///
    /// Best with the largest first: what is found out about that one counts for this one, too.
    #[must_use]
    pub fn join<'a>(mut sets: impl Iterator<Item = &'a Self>) -> Self {
        let first = sets.next().cloned().unwrap_or_default();
        let (mut all, mut more) = (first.clone(), Vec::new());
        for resource in sets.flat_map(Self::iter) {
            if all.get(&resource.name).is_none() {
                all.insert(Arc::clone(resource));
                more.push(Arc::clone(resource));
            }
        }
        if !more.is_empty() {
            all.known = Some(Arc::new(Known::joined(first, more)));
        }
        all.shared()
    }

    fn joined(&self) -> Option<(&Self, &[Arc<Resource>])> {
        self.known.as_ref()?.made_of()
    }

    /// How this set differs from an earlier one, if that was found already or is kept from now on.
    pub(crate) fn step_from(&self, earlier: &Self) -> Option<&Step> {
        self.known.as_ref()?.step(earlier, self)
    }

    /// What to do to this set to get `later`, by name. Structure that both have in common is passed over, and what is known
    /// of `later` is not looked for again.
    pub fn diff<'a>(&'a self, later: &'a Self) -> impl Iterator<Item = Difference<'a>> {
        let same = self.is_same(later);
        let step = later.known.as_ref().filter(|_| !same);
        let step = step.and_then(|known| known.step(self, later));
        let direct = (step.is_none() && !same).then(|| self.compare(later));
        let kept = step.into_iter().flat_map(|step| &step.differences);
        kept.map(|found| match found {
            Found::Added(resource) => Difference::Added(resource),
            Found::Changed(resource) => Difference::Changed(resource),
            Found::Removed(resource) => Difference::Removed(resource),
        })
        .chain(direct.into_iter().flatten())
    }

    /// What `later` has that this set has not, or has with another content.
    pub(crate) fn brought_by<'a>(&'a self, later: &'a Self) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.diff(later).filter_map(|difference| match difference {
            Difference::Added(resource) | Difference::Changed(resource) => Some(resource),
            Difference::Removed(_) => None,
        })
    }

    fn compare<'a>(&'a self, later: &'a Self) -> impl Iterator<Item = Difference<'a>> {
        self.map.diff(&later.map).map(|item| match item {
            DiffItem::Add(_, resource) => Difference::Added(resource),
            DiffItem::Update { new: (_, resource), .. } => Difference::Changed(resource),
            DiffItem::Remove(_, resource) => Difference::Removed(resource),
        })
    }
}

impl FromIterator<Arc<Resource>> for ResourceSet {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(resources: I) -> Self {
        let named = resources.into_iter();
        Self {
            map: named.map(|resource| (Arc::clone(&resource.name), resource)).collect(),
            known: None,
        }
    }
}

impl FromIterator<Resource> for ResourceSet {
    fn from_iter<I: IntoIterator<Item = Resource>>(resources: I) -> Self {
        resources.into_iter().map(Arc::new).collect()
    }
}

impl fmt::Debug for ResourceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

// === impl Wanted ===

impl Wanted {
    /// What to hold of one type, unasked.
    pub fn set(&self, type_url: &str) -> Option<&ResourceSet> {
        self.sets.get(type_url)
    }

    /// Whether both hold the same sets, whatever snapshots they are of.
    pub fn is_same(&self, other: &Self) -> bool {
        self.sets.is_same(&other.sets) && self.by_name.is_same(&other.by_name)
    }

    /// What there is of one type, whether it comes unasked or by name only.
    pub fn all(&self, type_url: &str) -> Option<&ResourceSet> {
        self.by_name.get(type_url).or_else(|| self.set(type_url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str, body: &'static str) -> Arc<Resource> {
        Arc::new(Resource::new(name, Bytes::from_static(body.as_bytes())))
    }

    #[test]
    fn differences_by_name_and_content() {
        let old: ResourceSet = [resource("a", "1"), resource("b", "1"), resource("c", "1")]
            .into_iter()
            .collect();
        let mut new = old.clone();
        assert!(old.is_same(&new));
        new.insert(resource("a", "1"));
        new.insert(resource("b", "2"));
        new.remove("c");
        new.insert(resource("d", "1"));
        let diff: Vec<String> = old
            .diff(&new)
            .map(|difference| match difference {
                Difference::Added(r) => format!("+{}", r.name),
                Difference::Changed(r) => format!("~{}", r.name),
                Difference::Removed(r) => format!("-{}", r.name),
            })
            .collect();
        assert_eq!(diff, ["~b", "-c", "+d"]);

        // Kept or not, the differences are the same.
        let words = |old: &ResourceSet, new: &ResourceSet| -> Vec<String> {
            old.diff(new).map(|difference| format!("{difference:?}")).collect()
        };
        let kept = new.clone().shared();
        assert_eq!(words(&old, &kept), words(&old, &new));
        assert_eq!(words(&kept, &old), words(&new, &old));
        assert!(words(&kept, &new).is_empty());
        let mut later = kept.clone();
        later.remove("d");
        assert_eq!(words(&old, &later).len(), 2);
    }

    #[test]
    fn sets_that_differ_in_the_same_part_take_the_same_step() {
        let set = |resources: &[Arc<Resource>]| resources.iter().cloned().collect::<ResourceSet>().shared();
        let (one, other) = (resource("in", "1"), resource("inside", "1"));
        let before = set(&[resource("a", "1"), resource("b", "1")]);
        let after = set(&[resource("a", "2"), resource("c", "1")]);
        let with = |set: &ResourceSet, more: &Arc<Resource>| {
            let more: ResourceSet = [Arc::clone(more)].into_iter().collect();
            ResourceSet::join([set, &more].into_iter())
        };
        let step = |more: &Arc<Resource>| {
            let (from, to) = (with(&before, more), with(&after, more));
            assert_eq!((from.len(), to.len()), (3, 3));
            let step = std::ptr::from_ref(to.step_from(&from).unwrap());
            let found: Vec<String> = from.diff(&to).map(|difference| format!("{difference:?}")).collect();
            let looked_for: Vec<String> = from.compare(&to).map(|difference| format!("{difference:?}")).collect();
            assert_eq!(found, looked_for);
            step
        };
        assert_eq!(step(&one), step(&other));
        // What else differs is found all the same.
        let (from, to) = (with(&before, &one), with(&after, &other));
        assert_eq!(from.diff(&to).count(), 5);
        // The first of a name wins.
        let name_taken = with(&after, &resource("c", "9"));
        assert!(name_taken.is_same(&after));
    }

    #[test]
    fn a_set_keeps_steps_from_a_few_earlier_ones_and_finds_the_others() {
        let later: ResourceSet = [resource("a", "new")].into_iter().collect();
        let later = later.shared();
        for i in 0..40 {
            let body = ["1", "2", "3"][i % 3];
            let earlier: ResourceSet = [resource("a", body), resource("b", body)].into_iter().collect();
            assert_eq!(earlier.diff(&later).count(), 2);
            assert_eq!(later.step_from(&earlier).is_some(), i < 16);
        }
        assert!(later.clone().shared().step_from(&ResourceSet::new()).is_none());
    }

    #[test]
    fn versions_read_back() {
        let resource = resource("a", "1");
        assert_eq!(parse_version(&resource.version()), Some(resource.hash));
        assert_eq!(parse_version("2026-01-01T00:00:00Z/7"), None);
        assert_eq!(parse_version(""), None);
    }
}
