//! How a sidecar follows what it is sent: it asks for the endpoints of the clusters, and for the route tables of the
//! listeners, that it holds, and no longer for those of what was removed.

use super::catalog::Catalog;
use super::names::Numbers;
use super::wire::Response;

/// What one sidecar holds of a type that leads to others, and asks for therefore.
#[derive(Debug, Default)]
pub(crate) struct Following {
    links: Numbers,
    targets: Numbers,
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

    /// Takes a response of the type that is followed.
    pub(crate) fn take(&mut self, catalog: &Catalog, response: &Response) -> Wish {
        let now: Vec<(&str, Option<u32>)> = response
            .resources
            .iter()
            .map(|resource| (resource.name.as_str(), catalog.link(&resource.name, resource.body())))
            .chain(response.removed.iter().map(|name| (name.as_str(), None)))
            .collect();
        let known = catalog.known();
        let (mut perhaps, mut wish) = (Vec::new(), Wish::default());
        for (name, link) in &now {
            for former in known.links_of(name).iter().filter(|former| Some(**former) != *link) {
                if self.links.remove(*former) {
                    perhaps.extend_from_slice(known.targets_of(*former));
                }
            }
            self.links_to(&known, *link, &mut wish);
        }
        // Another cluster or listener may lead there, too.
        for target in perhaps {
            let held = |link: &u32| self.links.contains(*link);
            if !known.links_to(target).iter().any(held) && self.targets.remove(target) {
                wish.less.push(known.target(target).to_owned());
            }
        }
        wish
    }

    fn links_to(&mut self, known: &super::catalog::Known, link: Option<u32>, wish: &mut Wish) {
        let Some(link) = link.filter(|link| self.links.insert(*link)) else {
            return;
        };
        for target in known.targets_of(link) {
            if self.targets.insert(*target) {
                wish.more.push(known.target(*target).to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Resource;
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

    fn response(resources: &[(&str, &str)], removed: &[&str]) -> Response {
        Response {
            resources: resources
                .iter()
                .map(|(name, body)| Resource::new(name, body.as_bytes().to_vec()))
                .collect(),
            removed: removed.iter().map(ToString::to_string).collect(),
            ..Response::default()
        }
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
        let first = response(&[("a", "80,90"), ("b", "80"), ("c", "")], &[]);
        assert_eq!(following.take(&catalog, &first), wish(&["80", "90"], &[]));
        assert_eq!(following.take(&catalog, &first), Wish::default());
        // Another sidecar asks for itself.
        assert_eq!(Following::default().take(&catalog, &first), wish(&["80", "90"], &[]));
    }

    #[test]
    fn what_nothing_leads_to_any_more_is_not_asked_for() {
        let (catalog, mut following) = (catalog(), Following::default());
        following.take(&catalog, &response(&[("a", "80,90"), ("b", "80")], &[]));
        assert_eq!(following.take(&catalog, &response(&[], &["a"])), wish(&[], &["90"]));
        assert_eq!(
            following.take(&catalog, &response(&[("b", "70")], &[])),
            wish(&["70"], &["80"])
        );
        assert_eq!(
            following.take(&catalog, &response(&[("b", "")], &[])),
            wish(&[], &["70"])
        );
        assert!(following.is_empty());
        assert_eq!(
            following.take(&catalog, &response(&[("a", "80,90")], &[])),
            wish(&["80", "90"], &[])
        );
    }

    #[test]
    fn what_moves_from_one_to_another_in_one_response_stays() {
        let (catalog, mut following) = (catalog(), Following::default());
        following.take(&catalog, &response(&[("a", "80")], &[]));
        assert_eq!(
            following.take(&catalog, &response(&[("b", "80")], &["a"])),
            Wish::default()
        );
    }
}
