//! What all proxies of a class hold, made of its families' sets.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use lateen_compile::{Classes, Family};
use lateen_xds::{ResourceSet, Sets, Wanted};

use super::selected::{Places, Selected};
use super::{FAMILIES, Now};

/// What all proxies of a class hold, and the families' sets that it is made of.
pub(super) struct Joined {
    /// The snapshot as of which its sets are right; `None` before the first.
    pub(super) asked: Option<u64>,
    places: Places,
    /// The families' sets that `wanted` is made of, in the order of [`Family::ALL`].
    parts: [Option<ResourceSet>; FAMILIES],
    wanted: Option<Arc<Wanted>>,
}

impl Joined {
    /// Of nothing yet.
    pub(super) fn new(places: Places) -> Self {
        Self {
            asked: None,
            places,
            parts: [const { None }; FAMILIES],
            wanted: None,
        }
    }

    /// Has the families' sets right as of a snapshot.
    pub(super) fn keep_up(&mut self, now: &Now, classes: &Classes, selected: &mut Selected) {
        let generation = Some(now.snapshot.generation);
        if self.asked != generation {
            selected.renew(now, classes, &self.places);
            self.asked = generation;
        }
    }

    /// What the class holds as of a snapshot.
    pub(super) fn wanted(&mut self, now: &Now, classes: &Classes, selected: &mut Selected) -> Arc<Wanted> {
        self.keep_up(now, classes, selected);
        let kept = self.wanted.take();
        let wanted = match kept {
            Some(wanted) if wanted.snapshot == now.snapshot.generation => wanted,
            kept => self.join(kept.as_deref(), now, classes, selected),
        };
        self.wanted = Some(Arc::clone(&wanted));
        wanted
    }

    /// Puts the families' sets together. A type whose families have the sets that they had keeps its own.
    fn join(&mut self, kept: Option<&Wanted>, now: &Now, classes: &Classes, selected: &Selected) -> Arc<Wanted> {
        let mut renewed = [false; FAMILIES];
        for (family, (part, renewed)) in self.parts.iter_mut().zip(&mut renewed).enumerate() {
            let set = selected.set(&self.places, family);
            *renewed = part.as_ref().is_none_or(|part| !part.is_same(set));
            if *renewed {
                *part = Some(set.clone());
            }
        }
        let join = |(url, families): &(Arc<str>, Vec<usize>), kept: Option<&Sets>| {
            let same = families.iter().all(|&family| !renewed[family]);
            let kept = kept.filter(|_| same).and_then(|kept| kept.get(url));
            (Arc::clone(url), kept.cloned().unwrap_or_else(|| self.union(families)))
        };
        let of_type = |of: &(Arc<str>, Vec<usize>)| join(of, kept.map(|kept| &kept.sets));
        let all = |of: &(Arc<str>, Vec<usize>)| join(of, kept.map(|kept| &kept.by_name));
        Arc::new(Wanted {
            snapshot: now.snapshot.generation,
            version: Arc::clone(&now.version),
            changed_at: None,
            sets: types().iter().map(of_type).collect(),
            by_name: match classes.outbound.on_demand {
                Some(_) => [all(clusters_by_name())].into_iter().collect(),
                None => Sets::default(),
            },
        })
    }

    /// Sets of several families of one type. What a type has of one family is that family's set itself: a copy for each class
    /// would be compared with the next one name by name.
    fn union(&self, families: &[usize]) -> ResourceSet {
        ResourceSet::join(families.iter().filter_map(|&family| self.parts[family].as_ref()))
    }
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

/// Where clusters come on demand: the families of all that there are. Most of them come on demand, so what comes unasked is
/// put in with those.
fn clusters_by_name() -> &'static (Arc<str>, Vec<usize>) {
    static CLUSTERS: OnceLock<(Arc<str>, Vec<usize>)> = OnceLock::new();
    CLUSTERS.get_or_init(|| {
        let url = Family::OnDemandClusters.type_url();
        let of_type = (0..FAMILIES).filter(|&family| Family::ALL[family].type_url() == url);
        let lazy = |family: &usize| Family::ALL[*family] == Family::OnDemandClusters;
        let (mut families, others): (Vec<_>, Vec<_>) = of_type.partition(lazy);
        families.extend(others);
        (Arc::from(url), families)
    })
}
