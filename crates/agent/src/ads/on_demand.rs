//! Clusters that come when they are first used, and are forgotten when they were not used for a while.
//!
//! Envoy itself asks for each name only once, over whichever stream: what was taken away would not come back. So a filter of its
//! listeners (`lateen.missing_cluster`) tells of every request whose cluster is not there: which virtual host it has, and which
//! route of it. The routes went by here before, so the clusters that they send to are known. They are named on Envoy's stream
//! of ADS, beside all that comes unasked; when they are on their way to Envoy the request goes on, and Envoy has it wait until
//! they can be used.
//!
//! What was not used for long is named no more, whereupon the control plane has Envoy remove it. While no control plane can be
//! reached everything stays.

mod request;
mod routes;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lateen_names::MISSING_CLUSTER_FILTER;
use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use memchr::memmem;
use prost::Message as _;
use tokio::sync::Notify;

pub(super) use request::{PATH, answer};
use routes::Routes;
use usage::Counted;
pub(crate) use usage::watch_usage;

/// The type of clusters.
pub(super) const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LISTENER: &[u8] = b"type.googleapis.com/envoy.config.listener.v3.Listener";
/// Everything that comes unasked.
const WILDCARD: &str = "*";

/// See the module. One Envoy's; it outlives its streams.
#[derive(Debug)]
pub(crate) struct OnDemand {
    idle: Duration,
    state: Mutex<State>,
    /// There is something to say to the control plane.
    news: Notify,
    /// Something was said by the control plane.
    answered: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Kept only if there is a listener that tells of missing clusters.
    routes: Option<Routes>,
    /// All that ever were missing.
    clusters: BTreeMap<String, Named>,
    /// Names that the control plane is to be told: whether they are wanted.
    unsaid: BTreeMap<String, bool>,
}

#[derive(Debug)]
struct Named {
    stage: Stage,
    /// When it was last seen in use, or missed.
    used: Instant,
    /// Requests so far, as Envoy counts them.
    requests: Option<u64>,
}

/// What is known of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is named, and not answered yet.
    Asked,
    /// It is on its way to Envoy, if not there.
    There,
    /// It is named, but there is no such cluster.
    Absent,
    /// It is named no more, and its removal has not come yet.
    Leaving {
        /// It was missed meanwhile. To name it now would leave open what a removal means that comes then.
        missed: bool,
    },
    /// It is neither named nor in Envoy.
    Forgotten,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It goes on.
    Pass,
    /// There is no such cluster.
    Refuse,
}

// === impl OnDemand ===

impl OnDemand {
    /// Forgets what was not used for `idle`.
    pub(crate) fn new(idle: Duration) -> Self {
        Self {
            idle,
            state: Mutex::default(),
            news: Notify::new(),
            answered: Notify::new(),
        }
    }

    /// The clusters that the routes of this name send to, of this virtual host, are named. Returns them: none if nothing is known
    /// of such a route.
    fn miss(&self, virtual_host: &str, route: &str, now: Instant) -> BTreeSet<String> {
        let mut state = self.lock();
        let State {
            routes,
            clusters,
            unsaid,
        } = &mut *state;
        let names = routes
            .as_ref()
            .map(|routes| routes.clusters(virtual_host, route))
            .unwrap_or_default();
        for name in &names {
            let named = clusters.entry(name.clone()).or_insert(Named {
                stage: Stage::Forgotten,
                used: now,
                requests: None,
            });
            named.used = now;
            match &mut named.stage {
                Stage::Forgotten => {
                    named.stage = Stage::Asked;
                    unsaid.insert(name.clone(), true);
                }
                Stage::Leaving { missed } => *missed = true,
                Stage::Asked | Stage::There | Stage::Absent => {}
            }
        }
        if !unsaid.is_empty() {
            self.news.notify_one();
        }
        names
    }

    /// What to do with a request that misses one of these; none while it is not known.
    fn verdict(&self, names: &BTreeSet<String>) -> Option<Verdict> {
        let state = self.lock();
        let mut stages = names
            .iter()
            .filter_map(|name| state.clusters.get(name))
            .map(|named| named.stage);
        if stages
            .clone()
            .any(|stage| matches!(stage, Stage::Asked | Stage::Leaving { .. }))
        {
            return None;
        }
        let refused = !names.is_empty() && stages.all(|stage| stage == Stage::Absent);
        Some(if refused { Verdict::Refuse } else { Verdict::Pass })
    }

    /// The next request to the control plane; never, while there is nothing to say. May be dropped and called again.
    pub(super) async fn next(&self) -> Bytes {
        loop {
            if let Some(request) = self.say() {
                return request;
            }
            self.news.notified().await;
        }
    }

    fn say(&self) -> Option<Bytes> {
        let unsaid = std::mem::take(&mut self.lock().unsaid);
        if unsaid.is_empty() {
            return None;
        }
        let (wanted, unwanted): (Vec<_>, Vec<_>) = unsaid.into_iter().partition(|(_, wanted)| *wanted);
        let names = |list: Vec<(String, bool)>| list.into_iter().map(|(name, _)| name).collect();
        let request = DeltaDiscoveryRequest {
            type_url: CLUSTER.to_owned(),
            resource_names_subscribe: names(wanted),
            resource_names_unsubscribe: names(unwanted),
            ..Default::default()
        };
        Some(request.encode_to_vec().into())
    }

    /// Envoy's first request for clusters on a stream, with the names that it does not know of, and without those that it would
    /// name though they are forgotten. What it has is named whatever was about to become of it: to the control plane a proxy with
    /// clusters that it has not named is one that has them all.
    pub(super) fn join(&self, request: Bytes) -> Bytes {
        let mut state = self.lock();
        state.unsaid.clear();
        if state.clusters.is_empty() {
            return request;
        }
        let Ok(mut read) = DeltaDiscoveryRequest::decode(request.clone()) else {
            return request;
        };
        let names = &mut read.resource_names_subscribe;
        names.retain(|name| !state.clusters.contains_key(name));
        if names.is_empty() {
            names.push(WILDCARD.to_owned());
        }
        for (name, named) in &mut state.clusters {
            named.stage = named
                .stage
                .on_new_stream(read.initial_resource_versions.contains_key(name));
            if named.stage != Stage::Forgotten {
                names.push(name.clone());
            }
        }
        drop(state);
        self.answered.notify_waiters();
        read.encode_to_vec().into()
    }

    /// A response of this type is on its way to Envoy.
    pub(super) fn on_response(&self, kind: &[u8], response: &Bytes) {
        let mut state = self.lock();
        if kind == LISTENER
            && state.routes.is_none()
            && memmem::find(response, MISSING_CLUSTER_FILTER.as_bytes()).is_some()
        {
            state.routes = Some(Routes::default());
        }
        let of_clusters = kind == CLUSTER.as_bytes() && !state.clusters.is_empty();
        if !of_clusters && (state.routes.is_none() || !routes::carries(kind)) {
            return;
        }
        let Ok(response) = DeltaDiscoveryResponse::decode(response.clone()) else {
            return;
        };
        if of_clusters {
            state.on_clusters(&response);
            if !state.unsaid.is_empty() {
                self.news.notify_one();
            }
            drop(state);
            self.answered.notify_waiters();
        } else if let Some(routes) = &mut state.routes {
            routes.on_response(response);
        }
    }

    /// Looks at what Envoy has counted, by cluster, and names no more what was not used for long. Returns how many.
    fn look(&self, counted: &BTreeMap<String, Counted>, now: Instant) -> usize {
        let mut state = self.lock();
        let State { clusters, unsaid, .. } = &mut *state;
        let mut forgotten = 0;
        for (name, named) in clusters {
            if let Some(found) = counted.get(name)
                && (found.active || named.requests != Some(found.requests))
            {
                named.used = now;
                named.requests = Some(found.requests);
            }
            if now.saturating_duration_since(named.used) < self.idle {
                continue;
            }
            named.stage = match named.stage {
                Stage::There => Stage::Leaving { missed: false },
                Stage::Absent => Stage::Forgotten,
                Stage::Asked | Stage::Leaving { .. } | Stage::Forgotten => continue,
            };
            named.requests = None;
            forgotten += 1;
            unsaid.insert(name.clone(), false);
        }
        if !unsaid.is_empty() {
            self.news.notify_one();
        }
        forgotten
    }

    /// Whether there is anything to look at.
    fn is_empty(&self) -> bool {
        let state = self.lock();
        state.clusters.values().all(|named| named.stage == Stage::Forgotten)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Stage ===

impl Stage {
    /// Responses may have been lost with the former stream: what Envoy says that it has is what counts.
    fn on_new_stream(self, in_envoy: bool) -> Self {
        match self {
            _ if in_envoy => Self::There,
            Self::Asked | Self::There | Self::Leaving { missed: true } => Self::Asked,
            Self::Leaving { missed: false } | Self::Forgotten => Self::Forgotten,
            Self::Absent => Self::Absent,
        }
    }
}

// === impl State ===

impl State {
    fn on_clusters(&mut self, response: &DeltaDiscoveryResponse) {
        for resource in &response.resources {
            if let Some(named) = self.clusters.get_mut(&resource.name)
                && matches!(named.stage, Stage::Asked | Stage::Absent)
            {
                named.stage = Stage::There;
            }
        }
        for name in &response.removed_resources {
            let Some(named) = self.clusters.get_mut(name) else {
                continue;
            };
            named.stage = match named.stage {
                Stage::Leaving { missed: true } => {
                    self.unsaid.insert(name.clone(), true);
                    Stage::Asked
                }
                Stage::Leaving { missed: false } | Stage::Forgotten => Stage::Forgotten,
                Stage::Asked | Stage::There | Stage::Absent => Stage::Absent,
            };
        }
    }
}

#[cfg(test)]
mod tests;
