//! Endpoints that all become unready at once.
//!
//! A kubelet that restarts calls every pod of its node unready until it has probed it again, though nothing happened to
//! the pods. Where these are all that a service has, proxies would refuse every request meanwhile. So the last endpoints
//! that were ready are believed in for a while longer: what could be asked before may still answer, and nobody else can.
//! Endpoints that end, or that have gone, are never held over.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use lateen_lower::{Change, Event, Kind, Object};
use lateen_names::{ClusterId, ObjectKey};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::Update;

/// Hands updates on, with changes that would leave a service without a ready endpoint held back for `grace`. Returns when
/// the source ends, or nobody wants updates any more.
pub async fn hold_over(grace: Duration, mut arriving: mpsc::Receiver<Update>, updates: mpsc::Sender<Update>) {
    let mut slices = Slices::default();
    let (mut problems, mut versions) = (Arc::default(), BTreeMap::new());
    loop {
        let due = slices.due();
        let update = tokio::select! {
            update = arriving.recv() => match update {
                Some(mut update) => {
                    update.events = slices.admit(update.events, Instant::now() + grace);
                    problems = Arc::clone(&update.problems);
                    versions.clone_from(&update.versions);
                    update
                }
                None => return,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Update {
                events: slices.release(Instant::now()),
                problems: Arc::clone(&problems),
                versions: versions.clone(),
            },
        };
        if updates.send(update).await.is_err() {
            return;
        }
    }
}

/// By cluster, namespace and name.
type Key = (ClusterId, ObjectKey);

/// What has been handed on of every slice, and what is held back.
#[derive(Debug, Default)]
struct Slices {
    ready: BTreeMap<Key, Ready>,
    of_service: BTreeMap<Key, BTreeSet<Key>>,
    held: BTreeMap<Key, (Instant, Event)>,
}

/// The endpoints of a slice that are ready.
#[derive(Debug)]
struct Ready {
    service: Key,
    addresses: BTreeSet<IpAddr>,
}

impl Slices {
    /// The events to hand on; the others are held until `deadline`.
    fn admit(&mut self, events: Vec<Event>, deadline: Instant) -> Vec<Event> {
        let mut admitted = Vec::with_capacity(events.len());
        for event in events {
            let Some((key, slice)) = about(&event) else {
                admitted.push(event);
                continue;
            };
            if slice.is_some_and(|slice| self.strands(&key, slice)) {
                let (deadline, _) = self.held.remove(&key).unwrap_or((deadline, event.clone()));
                tracing::debug!(slice = %key.1, "every endpoint became unready at once; held over");
                self.held.insert(key, (deadline, event));
            } else {
                self.held.remove(&key);
                self.note(key, slice);
                admitted.push(event);
            }
        }
        admitted
    }

    /// Whether the service would have no ready endpoint any more, while those that it had are still there.
    fn strands(&self, key: &Key, slice: &EndpointSlice) -> bool {
        let Some(before) = self.ready.get(key).filter(|before| !before.addresses.is_empty()) else {
            return false;
        };
        let mut stay = BTreeSet::new();
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.as_ref();
            let is = |condition: Option<bool>, unsaid| condition.unwrap_or(unsaid);
            if is(conditions.and_then(|all| all.ready), true) {
                return false;
            }
            if !is(conditions.and_then(|all| all.terminating), false) {
                stay.extend(addresses(&endpoint.addresses));
            }
        }
        let mut others = self.of_service.get(&before.service).into_iter().flatten();
        before.addresses.is_subset(&stay)
            && !others
                .any(|other| other != key && self.ready.get(other).is_some_and(|slice| !slice.addresses.is_empty()))
    }

    fn note(&mut self, key: Key, slice: Option<&EndpointSlice>) {
        if let Some(before) = self.ready.remove(&key)
            && let Some(slices) = self.of_service.get_mut(&before.service)
        {
            slices.remove(&key);
            if slices.is_empty() {
                self.of_service.remove(&before.service);
            }
        }
        let Some((slice, service)) = slice.and_then(|slice| Some((slice, service(&key, slice)?))) else {
            return;
        };
        let ready = slice.endpoints.iter().filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|all| all.ready).unwrap_or(true)
        });
        let addresses = ready.flat_map(|endpoint| addresses(&endpoint.addresses)).collect();
        self.of_service.entry(service.clone()).or_default().insert(key.clone());
        self.ready.insert(key, Ready { service, addresses });
    }

    /// When the next of those that are held must be handed on.
    fn due(&self) -> Option<Instant> {
        self.held.values().map(|(deadline, _)| *deadline).min()
    }

    /// What has been held long enough.
    fn release(&mut self, now: Instant) -> Vec<Event> {
        let due = self.held.extract_if(.., |_, (deadline, _)| *deadline <= now);
        let due: Vec<(Key, Event)> = due.map(|(key, (_, event))| (key, event)).collect();
        let mut events = Vec::with_capacity(due.len());
        for (key, event) in due {
            tracing::info!(slice = %key.1, "no endpoint is ready any more");
            self.note(key, about(&event).and_then(|(_, slice)| slice));
            events.push(event);
        }
        events
    }
}

/// The slice that an event is about; without content where it is gone.
fn about(event: &Event) -> Option<(Key, Option<&EndpointSlice>)> {
    let (key, slice) = match &event.change {
        Change::Apply(object) => match Arc::as_ref(object) {
            Object::EndpointSlice(slice) => (object.key().ok()?, Some(slice)),
            _ => return None,
        },
        Change::Delete { kind, key } if *kind == Kind::EndpointSlice => (key.clone(), None),
        Change::Delete { .. } => return None,
    };
    Some(((event.cluster.clone(), key), slice))
}

fn service((cluster, key): &Key, slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    let service = ObjectKey {
        namespace: key.namespace.clone(),
        name: lateen_names::Name::new(name).ok()?,
    };
    Some((cluster.clone(), service))
}

fn addresses(texts: &[String]) -> impl Iterator<Item = IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    /// A slice of the service `web`, with an endpoint for each letter: `r`eady, `u`nready, `t`erminating.
    fn slice(name: &str, endpoints: &str) -> Event {
        let endpoints: Vec<serde_json::Value> = endpoints
            .chars()
            .enumerate()
            .map(|(at, state)| {
                serde_json::json!({
                    "addresses": [format!("10.0.0.{at}")],
                    "conditions": {"ready": state == 'r', "serving": state != 'u', "terminating": state == 't'},
                })
            })
            .collect();
        let raw = serde_json::json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        });
        Event {
            cluster: ClusterId::new("Kubernetes").unwrap(),
            change: Change::Apply(Arc::new(Object::decode(Kind::EndpointSlice, &raw).unwrap().value)),
        }
    }

    fn gone(name: &str) -> Event {
        let (key, _) = about(&slice(name, "")).unwrap();
        Event {
            cluster: key.0,
            change: Change::Delete {
                kind: Kind::EndpointSlice,
                key: key.1,
            },
        }
    }

    /// Hands each batch in, a second after the one before; says what is handed on, and when, in seconds.
    async fn told(batches: Vec<Vec<Event>>) -> Vec<(u64, usize)> {
        let (read, arriving) = mpsc::channel(1);
        let (updates, mut seen) = mpsc::channel::<Update>(1);
        let began = Instant::now();
        let mut told = Vec::new();
        let writing = async move {
            for events in batches {
                let update = Update {
                    events,
                    versions: BTreeMap::new(),
                    problems: Arc::default(),
                };
                read.send(update).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            tokio::time::sleep(GRACE * 2).await;
        };
        let reading = async {
            while let Some(update) = seen.recv().await {
                if !update.events.is_empty() {
                    told.push((began.elapsed().as_secs(), update.events.len()));
                }
            }
        };
        tokio::join!(writing, hold_over(GRACE, arriving, updates), reading);
        told
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_that_all_become_unready_are_held_over_until_they_are_ready_again() {
        let flicker = vec![vec![slice("a", "rr")], vec![slice("a", "uu")], vec![slice("a", "ur")]];
        assert_eq!(told(flicker).await, [(0, 1), (2, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_unready_is_told_in_the_end() {
        let down = vec![
            vec![slice("a", "rr")],
            vec![slice("a", "ur")],
            vec![slice("a", "uu")],
            vec![slice("a", "uu")],
        ];
        assert_eq!(told(down).await, [(0, 1), (1, 1), (12, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_or_is_gone_or_was_never_ready_is_told_at_once() {
        let ends = vec![vec![slice("a", "r")], vec![slice("a", "t")], vec![slice("a", "")]];
        assert_eq!(told(ends).await, [(0, 1), (1, 1), (2, 1)]);
        let deleted = vec![vec![slice("a", "r")], vec![slice("a", "u")], vec![gone("a")]];
        assert_eq!(told(deleted).await, [(0, 1), (2, 1)]);
        let young = vec![vec![slice("a", "u")], vec![slice("a", "uu")]];
        assert_eq!(told(young).await, [(0, 1), (1, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_with_other_endpoints_needs_none_held_over() {
        let two = vec![
            vec![slice("a", "r"), slice("b", "r")],
            vec![slice("a", "u")],
            vec![slice("b", "u")],
        ];
        assert_eq!(told(two).await, [(0, 2), (1, 1), (12, 1)]);
    }
}
