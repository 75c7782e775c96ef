//! How a sidecar follows what it is sent: it asks for the endpoints of the clusters, and for the route tables of the
//! listeners, that it holds, and no longer for those of what was removed.

use super::catalog::{Catalog, Known};
use super::names::Numbers;
use super::wire::Resource;

/// What one sidecar holds of a type that leads to others, and asks for therefore.
#[derive(Debug, Default)]
pub(crate) struct Following {
    links: Numbers,
    targets: Numbers,
    /// Of the response that is arriving: what to ask for.
    more: Vec<u32>,
    /// Of the response that is arriving: what perhaps nothing leads to any more.
    perhaps: Vec<u32>,
}

/// What to ask for from now on, and what no longer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) more: Vec<String>,
    pub(crate) less: Vec<String>,
}

// === impl Following ===

impl Following {
    /// Whether nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Takes a resource of the type that is followed.
    pub(crate) fn take(&mut self, catalog: &Catalog, resource: &Resource) {
        let link = catalog.link(&resource.name, resource.body());
        let known = catalog.known();
        self.replace(&known, &resource.name, link);
        if let Some(link) = link.filter(|link| self.links.insert(*link)) {
            let new = known
                .targets_of(link)
                .iter()
                .filter(|target| self.targets.insert(**target));
            self.more.extend(new);
        }
    }

    /// Ends a response, which removes resources.
    pub(crate) fn finish(&mut self, catalog: &Catalog, removed: &[String]) -> Wish {
        let known = catalog.known();
        for name in removed {
            self.replace(&known, name, None);
        }
        let named = |target: u32| known.target(target).to_owned();
        let more = std::mem::take(&mut self.more).into_iter().map(named).collect();
        // Another cluster or listener may lead there, too.
        let mut less = Vec::new();
        for target in std::mem::take(&mut self.perhaps) {
            let held = |link: &u32| self.links.contains(*link);
            if !known.links_to(target).iter().any(held) && self.targets.remove(target) {
                less.push(named(target));
            }
        }
        Wish { more, less }
    }

    /// Gives up all links of a name but one.
    fn replace(&mut self, known: &Known, name: &str, link: Option<u32>) {
        for former in known.links_of(name).iter().filter(|former| Some(**former) != link) {
            if self.links.remove(*former) {
                self.perhaps.extend_from_slice(known.targets_of(*former));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body names what it leads to, by commas.
    fn catalog() -> Catalog {
        Catalog::new(|body| {
            let text = String::from_utf8_lossy(body).into_owned();
            text.split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        })
    }

    /// Takes a response whole.
    fn take(following: &mut Following, catalog: &Catalog, resources: &[(&str, &str)], removed: &[&str]) -> Wish {
        for (name, body) in resources {
            following.take(catalog, &Resource::new("", name, body.as_bytes().to_vec()));
        }
        let removed: Vec<String> = removed.iter().map(ToString::to_string).collect();
        following.finish(catalog, &removed)
    }

    fn wish(more: &[&str], less: &[&str]) -> Wish {
        Wish {
            more: more.iter().map(ToString::to_string).collect(),
            less: less.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn what_is_new_is_asked_for_once() {
        let (catalog, mut following) = (catalog(), Following::default());
        let first = [("a", "80,90"), ("b", "80"), ("c", "")];
        assert_eq!(take(&mut following, &catalog, &first, &[]), wish(&["80", "90"], &[]));
        assert_eq!(take(&mut following, &catalog, &first, &[]), Wish::default());
        // Another sidecar asks for itself.
        let other = &mut Following::default();
        assert_eq!(take(other, &catalog, &first, &[]), wish(&["80", "90"], &[]));
    }

    #[test]
    fn what_nothing_leads_to_any_more_is_not_asked_for() {
        let (catalog, mut following) = (catalog(), Following::default());
        let mut take =
            |resources: &[(&str, &str)], removed: &[&str]| take(&mut following, &catalog, resources, removed);
        take(&[("a", "80,90"), ("b", "80")], &[]);
        assert_eq!(take(&[], &["a"]), wish(&[], &["90"]));
        assert_eq!(take(&[("b", "70")], &[]), wish(&["70"], &["80"]));
        assert_eq!(take(&[("b", "")], &[]), wish(&[], &["70"]));
        assert_eq!(take(&[("a", "80,90")], &[]), wish(&["80", "90"], &[]));
    }

    #[test]
    fn what_moves_from_one_to_another_in_one_response_stays() {
        let (catalog, mut following) = (catalog(), Following::default());
        take(&mut following, &catalog, &[("a", "80")], &[]);
        assert_eq!(take(&mut following, &catalog, &[("b", "80")], &["a"]), Wish::default());
        assert!(!following.is_empty());
        assert_eq!(take(&mut following, &catalog, &[], &["b"]), wish(&[], &["80"]));
        assert!(following.is_empty());
    }
}
