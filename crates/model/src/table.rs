//! Persistent tables whose differences cost what changed, not what is there.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

/// A shared value with its hash, computed once. Two of them are equal when their 128-bit hashes are: values are never
/// compared field by field again. The hash does not depend on addresses or the process.
pub struct Shared<T> {
    hash: u128,
    value: Arc<T>,
}

impl<T: Hash> Shared<T> {
    /// Hashes and wraps the value.
    pub fn new(value: T) -> Self {
        Self {
            hash: content_hash(&value),
            value: Arc::new(value),
        }
    }
}

impl<T> Shared<T> {
    /// The value's content hash.
    pub fn content_hash(&self) -> u128 {
        self.hash
    }

    /// The value, shared.
    pub fn arc(&self) -> &Arc<T> {
        &self.value
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self {
            hash: self.hash,
            value: Arc::clone(&self.value),
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl<T> Eq for Shared<T> {}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.hash);
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T: Hash + Default> Default for Shared<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A hash that is the same in every process for equal values (`xxh3`, seedless).
pub fn content_hash<T: Hash + ?Sized>(value: &T) -> u128 {
    struct Wide(xxhash_rust::xxh3::Xxh3);
    impl Hasher for Wide {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            self.0.digest()
        }
    }
    let mut hasher = Wide(xxhash_rust::xxh3::Xxh3::new());
    value.hash(&mut hasher);
    hasher.0.digest128()
}

/// One key on which two tables differ.
#[derive(Debug)]
pub enum Change<'a, K, T> {
    /// The key is new.
    Added(&'a K, &'a Shared<T>),
    /// The key has another value: old, then new.
    Updated(&'a K, &'a Shared<T>, &'a Shared<T>),
    /// The key is gone; the value that it had.
    Removed(&'a K, &'a Shared<T>),
}

impl<'a, K, T> Change<'a, K, T> {
    /// The key on which the tables differ.
    pub fn key(&self) -> &'a K {
        match self {
            Self::Added(key, _) | Self::Updated(key, _, _) | Self::Removed(key, _) => key,
        }
    }
}

/// A persistent ordered map of shared values. A clone is one pointer.
pub struct Table<K, T>(OrdMap<K, Shared<T>>);

impl<K: Ord + fmt::Debug, T: fmt::Debug> fmt::Debug for Table<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter()).finish()
    }
}

impl<K, T> Clone for Table<K, T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Ord, T> Default for Table<K, T> {
    fn default() -> Self {
        Self(OrdMap::new())
    }
}

impl<K: Ord + Clone, T> PartialEq for Table<K, T> {
    fn eq(&self, other: &Self) -> bool {
        self.diff(other).next().is_none()
    }
}

impl<K: Ord + Clone, T> Table<K, T> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&Shared<T>>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.get(key)
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &Shared<T>)> {
        self.0.iter()
    }

    /// All values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &Shared<T>> {
        self.0.values()
    }

    /// The entries whose keys lie in a range.
    pub fn range<R: std::ops::RangeBounds<K>>(&self, range: R) -> impl Iterator<Item = (&K, &Shared<T>)> {
        self.0.range(range)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets a key's value. Returns whether that changed the table.
    pub fn set(&mut self, key: K, value: Shared<T>) -> bool {
        if self.0.get(&key) == Some(&value) {
            return false;
        }
        self.0.insert(key, value);
        true
    }

    /// Takes a key away. Returns whether it was there.
    pub fn remove(&mut self, key: &K) -> bool {
        self.0.remove(key).is_some()
    }

    /// What is different here from `old`, in the order of keys; costs what changed where the tables share their past.
    pub fn diff<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = Change<'a, K, T>> {
        old.0.diff(&self.0).filter_map(|item| match item {
            DiffItem::Add(key, value) => Some(Change::Added(key, value)),
            DiffItem::Update { old, new } if old.1 == new.1 => None,
            DiffItem::Update { old, new } => Some(Change::Updated(new.0, old.1, new.1)),
            DiffItem::Remove(key, value) => Some(Change::Removed(key, value)),
        })
    }
}

impl<K: Ord + Clone, T> FromIterator<(K, Shared<T>)> for Table<K, T> {
    fn from_iter<I: IntoIterator<Item = (K, Shared<T>)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}
