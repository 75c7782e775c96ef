//! Issuers' keys: which are wanted, and how long a snapshot waits for them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use lateen_compile::key_sources;
use lateen_lower::{Index, KeysEvent};
use lateen_model::Snapshot;
use lateen_model::endpoint::Address;
use lateen_model::service::of_host;
use lateen_names::Hostname;
use lateen_runtime::Supervisor;
use lateen_runtime::metrics::Metrics;
use lateen_sources::jwks::{JwksMetrics, Policy, Settings, SystemResolver, Wanted, watch as fetch};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::config::Config;

/// How long the first snapshot waits: longer than any attempt takes.
const AT_FIRST: Duration = Duration::from_secs(40);
/// How long later ones wait: an issuer that is well answers sooner.
const LATER: Duration = Duration::from_secs(1);
/// How long nothing waits after it waited in vain: who names issuers that do not answer delays others once only.
const NOT_AGAIN: Duration = Duration::from_secs(60);

/// What the owner of the index knows of keys.
pub(super) struct Keys {
    wanted: watch::Sender<Wanted>,
    /// What was fetched.
    pub arriving: mpsc::Receiver<Vec<KeysEvent>>,
    api_server: BTreeSet<SocketAddr>,
    handed_out: bool,
    held_until: Option<Instant>,
    not_before: Option<Instant>,
}

/// Starts to fetch what will be wanted.
pub(super) fn start(
    config: &Config,
    api_server: BTreeSet<SocketAddr>,
    supervisor: &Supervisor,
    metrics: &Metrics,
) -> Result<Keys> {
    let settings = Settings {
        refresh: config.jwks_refresh.max(Duration::from_secs(1)),
        policy: Policy {
            blocked: config.jwks_blocked.clone(),
            permitted: config.jwks_permitted.clone(),
        },
        roots: Some(config.jwks_roots.clone()),
        store: Some(config.data_dir.join("issuers-keys.json")),
        ..Settings::default()
    };
    let (wanted, wanting) = watch::channel(Wanted::default());
    let (events, arriving) = mpsc::channel(super::WAITING);
    let fetching = fetch(
        settings,
        Arc::new(SystemResolver),
        JwksMetrics::new(metrics)?,
        wanting,
        events,
    );
    let drain = supervisor.drain();
    supervisor.spawn("keys of token issuers", async move {
        tokio::select! {
            () = fetching => {}
            () = drain.started() => {}
        }
        anyhow::Ok(())
    });
    Ok(Keys {
        wanted,
        arriving,
        api_server,
        handed_out: false,
        held_until: None,
        not_before: None,
    })
}

impl Keys {
    /// Has fetched what a snapshot needs, and nothing fetched from the API server that it knows.
    pub(super) fn want(&mut self, old: Option<&Snapshot>, new: &Snapshot) {
        let same = old.is_some_and(|old| {
            old.mesh == new.mesh
                && old.request_authentications == new.request_authentications
                && old.services == new.services
                && api_servers(old) == api_servers(new)
        });
        if same {
            return;
        }
        let sources = key_sources(new);
        let api_server = match sources.is_empty() {
            true => BTreeSet::new(),
            false => self.api_server.iter().copied().chain(api_servers(new)).collect(),
        };
        let wanted = Wanted { sources, api_server };
        self.wanted.send_if_modified(|current| {
            let changed = *current != wanted;
            *current = wanted;
            changed
        });
    }

    /// Until when a snapshot is held back.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// The time is over.
    pub(super) fn give_up(&mut self) {
        self.not_before = Some(Instant::now() + NOT_AGAIN);
    }

    /// Whether the snapshot of an index has to wait for a first attempt.
    pub(super) fn hold(&mut self, index: &Index) -> bool {
        let now = Instant::now();
        let missing = self
            .wanted
            .borrow()
            .sources
            .keys()
            .any(|source| !index.knows_keys(source));
        let may = self.not_before.is_none_or(|at| at <= now);
        if missing && may {
            let most = if self.handed_out { LATER } else { AT_FIRST };
            let until = *self.held_until.get_or_insert(now + most);
            if now < until {
                return true;
            }
            self.give_up();
        }
        self.held_until = None;
        self.handed_out = true;
        false
    }
}

/// Where the snapshot knows the API server to listen: the Service `default/kubernetes` and its endpoints.
fn api_servers(snapshot: &Snapshot) -> BTreeSet<SocketAddr> {
    let Ok(host) = Hostname::new(&format!("kubernetes.default.svc.{}", snapshot.mesh.domain)) else {
        return BTreeSet::new();
    };
    let mut found = BTreeSet::new();
    for (key, service) in of_host(&snapshot.services, &host) {
        let addresses = service.addresses.values().flatten();
        for address in addresses {
            found.extend(service.ports.iter().map(|port| SocketAddr::new(*address, port.number)));
        }
        let endpoints = snapshot
            .endpoints
            .get(key)
            .into_iter()
            .flat_map(|all| all.by_port.values().flatten());
        for endpoint in endpoints {
            for address in std::iter::once(&endpoint.address).chain(&endpoint.additional) {
                if let Address::Ip(ip) = address {
                    found.insert(SocketAddr::new(*ip, endpoint.port));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use lateen_lower::{FetchedKeys, KeySource};

    use super::*;

    fn keys(sources: &[&str]) -> Keys {
        let sources = sources
            .iter()
            .map(|url| (KeySource::Uri((*url).into()), LATER))
            .collect();
        let (_, arriving) = mpsc::channel(1);
        Keys {
            wanted: watch::Sender::new(Wanted {
                sources,
                ..Wanted::default()
            }),
            arriving,
            api_server: BTreeSet::new(),
            handed_out: false,
            held_until: None,
            not_before: None,
        }
    }

    fn index(answered: &[&str]) -> Index {
        let mut index = Index::new(lateen_lower::Settings::new("").unwrap());
        let events = answered.iter().map(|url| KeysEvent {
            source: KeySource::Uri((*url).into()),
            fetched: Some(FetchedKeys::default()),
        });
        index.apply_keys(events.collect());
        index
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_snapshot_waits_for_every_first_attempt_and_not_for_ever() {
        let mut keys = keys(&["a", "b"]);
        assert!(keys.hold(&index(&["a"])));
        assert!(
            !keys.hold(&index(&["a", "b"])),
            "whatever came of it, an attempt was made"
        );
        assert!(keys.held_until().is_none());

        let mut silent = self::keys(&["a"]);
        assert!(silent.hold(&index(&[])));
        tokio::time::advance(AT_FIRST).await;
        assert!(!silent.hold(&index(&[])));
    }

    #[tokio::test(start_paused = true)]
    async fn later_ones_wait_a_moment_and_a_silent_issuer_delays_others_once() {
        let mut keys = keys(&[]);
        assert!(!keys.hold(&index(&[])));
        let want = |keys: &Keys, url: &str| {
            let source = KeySource::Uri(url.into());
            keys.wanted
                .send_modify(|wanted| _ = wanted.sources.insert(source, LATER));
        };
        want(&keys, "silent");
        assert!(keys.hold(&index(&[])));
        // Further ones do not prolong it.
        tokio::time::advance(LATER / 2).await;
        want(&keys, "silent, too");
        assert!(keys.hold(&index(&[])));
        tokio::time::advance(LATER / 2).await;
        assert!(!keys.hold(&index(&[])));
        want(&keys, "another one");
        assert!(!keys.hold(&index(&[])), "not again so soon");
        tokio::time::advance(NOT_AGAIN).await;
        assert!(keys.hold(&index(&[])));
    }
}
