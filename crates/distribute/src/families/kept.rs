//! Values by key, each with a place where it is found without the key.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::{Index, IndexMut};

use slab::Slab;

/// See the module. A place is good for as long as its value is kept.
pub(super) struct Kept<K, V> {
    places: HashMap<K, usize>,
    values: Slab<V>,
}

impl<K: Eq + Hash, V> Kept<K, V> {
    /// The place of a key's value, which is made if there is none.
    pub(super) fn place(&mut self, key: K, make: impl FnOnce() -> V) -> usize {
        let values = &mut self.values;
        *self.places.entry(key).or_insert_with(|| values.insert(make()))
    }

    /// Keeps those values only for which this holds.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        let values = &mut self.values;
        self.places.retain(|_, place| {
            let kept = keep(&values[*place]);
            if !kept {
                values.remove(*place);
            }
            kept
        });
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.values.iter().map(|(_, value)| value)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.values.iter_mut().map(|(_, value)| value)
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self {
            places: HashMap::new(),
            values: Slab::new(),
        }
    }
}

impl<K, V> Index<usize> for Kept<K, V> {
    type Output = V;

    fn index(&self, place: usize) -> &V {
        &self.values[place]
    }
}

impl<K, V> IndexMut<usize> for Kept<K, V> {
    fn index_mut(&mut self, place: usize) -> &mut V {
        &mut self.values[place]
    }
}
