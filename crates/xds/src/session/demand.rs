//! What a stream should hold of a type of which there is more than comes unasked.
//!
//! How Envoy asks, tried on 1.40 with the filter `envoy.filters.http.on_demand` whose clusters come over the stream of its
//! other configuration:
//! - The first request to a cluster that is not there subscribes to its name beside the wildcard subscription, in a request
//!   of type Cluster without `*`; requests that come meanwhile wait for the same answer. Bodies (100 KiB, chunked or not)
//!   and weighted clusters go through, without any runtime feature. The endpoints are asked for as those of all clusters.
//! - The answer that there is no such cluster ends the wait at once, with 503.
//! - **A name is asked for once.** When a cluster is removed, requests under way are finished, but the next one does not ask
//!   again: it waits for its time-out, then fails, unless the cluster comes meanwhile. The same happens to later requests to a
//!   name that there is not.
//!   So what Envoy asked for by itself stays until it no longer exists, and comes back unasked if it exists again.
//!   It is no different on a stream of the filter's own (`api_config_source`, one for each listener): a second name is asked
//!   for only after the first was answered, and a name that was asked for is never asked for again, whether it was answered
//!   with a cluster, with its removal or not at all, and over whichever stream the removal came.
//!   But a request goes on waiting, and goes through as soon as the cluster comes, whoever had it sent. So behind `lateen-agent`
//!   a filter tells the agent of the request, and it is the agent that names clusters on this stream and names them no more;
//!   for the session that is no different from Envoy's doing it.
//! - On a new stream Envoy subscribes to `*` and to every name that it ever asked for, removed ones included, and lists in
//!   `initial_resource_versions` what it has, of both kinds.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::resource::{ResourceSet, Wanted};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// Everything is held, as if it came unasked.
    whole: bool,
    made: Option<Made>,
}

/// A set that was made, and of what.
#[derive(Debug)]
struct Made {
    unasked: ResourceSet,
    all: ResourceSet,
    set: ResourceSet,
}

impl Demand {
    /// From now on all there is.
    pub(super) fn keep_all(&mut self) {
        self.whole = true;
        self.made = None;
    }

    /// The stream names other things than before.
    pub(super) fn renamed(&mut self) {
        self.made = None;
    }

    /// The stream names something besides.
    pub(super) fn named(&mut self, name: &str) {
        if let Some(made) = &mut self.made
            && let Some(resource) = made.all.get(name)
            && made.unasked.get(name).is_none()
        {
            made.set.insert(Arc::clone(resource));
        }
    }

    /// The stream no longer names something.
    pub(super) fn unnamed(&mut self, name: &str) {
        if let Some(made) = &mut self.made
            && made.unasked.get(name).is_none()
        {
            made.set.remove(name);
        }
    }

    /// What to hold of a type. A stream that names nothing shares the set that comes unasked.
    pub(super) fn target(
        &mut self,
        wanted: &Wanted,
        url: &str,
        wildcard: bool,
        named: &BTreeSet<Arc<str>>,
    ) -> ResourceSet {
        let unasked = wanted.set(url).cloned().unwrap_or_default();
        let Some(all) = wanted.by_name.get(url) else {
            self.made = None;
            return unasked;
        };
        if self.whole || !wildcard {
            return all.clone();
        }
        if let Some(made) = &self.made
            && made.unasked.is_same(&unasked)
            && made.all.is_same(all)
        {
            return made.set.clone();
        }
        let mut set = unasked.clone();
        for resource in named.iter().filter_map(|name| all.get(name)) {
            if unasked.get(&resource.name).is_none() {
                set.insert(Arc::clone(resource));
            }
        }
        self.made = Some(Made {
            unasked,
            all: all.clone(),
            set: set.clone(),
        });
        set
    }
}
