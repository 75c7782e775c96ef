//! Sets by type.

use std::sync::Arc;

use super::ResourceSet;

/// Sets by type URL, one for each type. Copies share everything.
///
/// There are a dozen types at most, and each class of proxies gets all of its own anew whenever any set changes: a list that
/// is made in one go costs a fraction of a map, and to look through it costs no more, since URLs differ in length.
#[derive(Debug, Clone, Default)]
pub struct Sets(Arc<[(Arc<str>, ResourceSet)]>);

impl Sets {
    /// The set of a type.
    pub fn get(&self, type_url: &str) -> Option<&ResourceSet> {
        self.iter().find(|(url, _)| **url == *type_url).map(|(_, set)| set)
    }

    /// Adds the set of a type, or replaces it. Copies made before keep what they have.
    pub fn insert(&mut self, type_url: impl Into<Arc<str>>, set: ResourceSet) {
        let type_url = type_url.into();
        let others = self.iter().filter(|(url, _)| *url != type_url);
        self.0 = others.cloned().chain([(Arc::clone(&type_url), set)]).collect();
    }

    /// Types and their sets.
    pub fn iter(&self) -> impl Iterator<Item = &(Arc<str>, ResourceSet)> {
        self.0.iter()
    }

    /// Of how many types there is a set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none of any type.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both have the same sets of the same types, in the same order, which says more than equality and costs little.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |((url, set), (other_url, other)): (&(_, ResourceSet), &(_, ResourceSet))| {
            set.is_same(other) && url == other_url
        };
        Arc::ptr_eq(&self.0, &other.0) || (self.len() == other.len() && self.iter().zip(other.iter()).all(same))
    }
}

impl FromIterator<(Arc<str>, ResourceSet)> for Sets {
    /// Each type once.
    fn from_iter<I: IntoIterator<Item = (Arc<str>, ResourceSet)>>(sets: I) -> Self {
        Self(sets.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Resource;

    fn set(name: &str) -> ResourceSet {
        [Resource::new(name, Bytes::new())].into_iter().collect()
    }

    #[test]
    fn one_set_for_each_type() {
        let (one, two) = (set("one"), set("two"));
        let mut sets: Sets = [(Arc::from("a"), one.clone()), (Arc::from("b"), one.clone())]
            .into_iter()
            .collect();
        let before = sets.clone();
        assert!(sets.is_same(&before));
        sets.insert("a", two.clone());
        sets.insert("c", one.clone());
        assert_eq!(sets.len(), 3);
        assert!(sets.get("a").unwrap().is_same(&two));
        assert!(sets.get("b").unwrap().is_same(&one));
        assert!(sets.get("d").is_none());
        assert!(!sets.is_same(&before));
        assert!(before.get("a").unwrap().is_same(&one));
        assert_eq!(before.len(), 2);
    }

    #[test]
    fn equal_lists_of_the_same_sets_are_the_same() {
        let (one, other) = (set("x"), set("x"));
        let make = |url: &str, of: &ResourceSet| [(Arc::from(url), of.clone())].into_iter().collect::<Sets>();
        assert!(make("a", &one).is_same(&make("a", &one)));
        assert!(!make("a", &one).is_same(&make("b", &one)));
        assert!(!make("a", &one).is_same(&make("a", &other)));
        assert!(!Sets::default().is_same(&make("a", &one)));
    }
}
