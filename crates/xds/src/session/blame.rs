//! Which resources of a rejected response are to blame.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::resource::Resource;

/// Rejections that are remembered for each type and proxy; the oldest go first.
const REMEMBERED: usize = 256;

/// What a proxy rejected of one type, and the search for culprits.
#[derive(Debug, Default)]
pub(super) struct Blame {
    rejected: VecDeque<Rejection>,
    /// Parts of rejected responses, each to be sent alone, by name.
    parts: VecDeque<BTreeSet<Arc<str>>>,
}

#[derive(Debug)]
struct Rejection {
    name: Arc<str>,
    hash: u64,
    /// What the proxy has in its place.
    kept: Option<Arc<Resource>>,
    /// The proxy named it: it can decode it, and took the others of the response.
    named: bool,
}

impl Blame {
    /// Whether these very bytes were rejected.
    pub(super) fn is_rejected(&self, resource: &Resource) -> bool {
        self.rejected
            .iter()
            .any(|rejection| rejection.hash == resource.hash && rejection.name == resource.name)
    }

    /// Whether these very bytes were rejected by name, which harms nothing else in a response.
    pub(super) fn is_named(&self, resource: &Resource) -> bool {
        self.rejected
            .iter()
            .any(|rejection| rejection.named && rejection.hash == resource.hash && rejection.name == resource.name)
    }

    /// Whether nothing was ever rejected.
    pub(super) fn is_clean(&self) -> bool {
        self.rejected.is_empty() && self.parts.is_empty()
    }

    /// What the proxy kept when it last rejected a resource of this name.
    pub(super) fn kept(&self, name: &str) -> Option<&Arc<Resource>> {
        self.rejected
            .iter()
            .rev()
            .find(|rejection| &*rejection.name == name)?
            .kept
            .as_ref()
    }

    /// The names of which something was rejected.
    pub(super) fn names(&self) -> BTreeSet<&Arc<str>> {
        self.rejected.iter().map(|rejection| &rejection.name).collect()
    }

    /// Never again these bytes under this name.
    pub(super) fn reject(&mut self, name: Arc<str>, hash: u64, kept: Option<Arc<Resource>>, named: bool) {
        if self.rejected.len() == REMEMBERED {
            self.rejected.pop_front();
        }
        self.rejected.push_back(Rejection {
            name,
            hash,
            kept,
            named,
        });
    }

    /// The next part to send alone.
    pub(super) fn next_part(&mut self) -> Option<BTreeSet<Arc<str>>> {
        self.parts.pop_front()
    }

    /// Whether parts are left to send.
    pub(super) fn searching(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Has a rejected response of several resources sent again in parts: those that the proxy did not name first, since
    /// they are probably good, then each half of the suspects.
    pub(super) fn split(&mut self, names: Vec<Arc<str>>, removed: Vec<Arc<str>>, reason: &str) {
        let (suspects, innocent): (Vec<_>, Vec<_>) = names.iter().cloned().partition(|name| mentions(reason, name));
        let (mut first, second) = if suspects.is_empty() || innocent.is_empty() {
            let mut first = names;
            let second = first.split_off(first.len().div_ceil(2));
            (first, second)
        } else {
            (innocent, suspects)
        };
        first.extend(removed);
        for part in [second, first] {
            if !part.is_empty() {
                self.parts.push_front(part.into_iter().collect());
            }
        }
    }
}

/// Whether a proxy's error names a resource: Envoy writes `Error adding/updating listener(s) NAME: reason, NAME: reason`.
pub(super) fn mentions(reason: &str, name: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || "_-|/.~@".contains(c);
    !name.is_empty()
        && reason.match_indices(name).any(|(at, _)| {
            let before = reason[..at].chars().next_back();
            let mut after = reason[at + name.len()..].chars();
            let (next, then) = (after.next(), after.next());
            // A full stop ends a sentence, unless more of a name follows.
            let ends =
                next.is_none_or(|c| !part_of_name(c)) || (next == Some('.') && then.is_none_or(char::is_whitespace));
            before.is_none_or(|c| !part_of_name(c)) && ends
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_whole() {
        let reason =
            "Error adding/updating listener(s) 10.0.0.1_80: cannot bind '10.0.0.1:80': denied, b: no such filter";
        assert!(mentions(reason, "10.0.0.1_80"));
        assert!(mentions(reason, "b"));
        assert!(!mentions(reason, "0.0.1_80"));
        assert!(!mentions(reason, "10.0.0.1_8"));
        assert!(!mentions(reason, "a"));
        assert!(mentions("no route in table http.8080.", "http.8080"));
        assert!(!mentions("no route in table http.8080.x", "http.8080"));
    }

    #[test]
    fn suspects_go_last_and_alone() {
        let names: Vec<Arc<str>> = ["a", "b", "c", "d"].into_iter().map(Arc::from).collect();
        let mut blame = Blame::default();
        blame.split(names.clone(), vec![Arc::from("gone")], "error adding c: bad");
        assert_eq!(
            blame.next_part().unwrap(),
            ["a", "b", "d", "gone"].map(Arc::from).into()
        );
        assert_eq!(blame.next_part().unwrap(), ["c"].map(Arc::from).into());
        blame.split(names, Vec::new(), "bad");
        assert_eq!(blame.next_part().unwrap(), ["a", "b"].map(Arc::from).into());
        assert_eq!(blame.next_part().unwrap(), ["c", "d"].map(Arc::from).into());
        assert!(!blame.searching());
    }
}
