//! Keys over time: fetched again, kept while an issuer is down, forgotten when nobody wants them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lateen_lower::{FetchedKeys, KeySource, KeysEvent};
use lateen_runtime::metrics::Metrics;
use lateen_sources::jwks::{JwksMetrics, Settings, SystemResolver, Wanted, watch as fetch};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::issuer::{Issuer, PATIENCE, Reply, ok, permitting, set, with_head};

/// A poller with short intervals.
struct Polling {
    wanted: watch::Sender<Wanted>,
    events: mpsc::Receiver<Vec<KeysEvent>>,
    waiting: Vec<KeysEvent>,
    metrics: Metrics,
    running: JoinSet<()>,
}

impl Polling {
    fn start() -> Self {
        Self::keeping(None)
    }

    fn keeping(store: Option<PathBuf>) -> Self {
        let (wanted, wanting) = watch::channel(Wanted::default());
        let (sender, events) = mpsc::channel(1);
        let settings = Settings {
            refresh: Duration::from_millis(40),
            retry: Duration::from_millis(5),
            retry_with_keys: Duration::from_millis(10),
            policy: permitting(&["127.0.0.0/8"]),
            roots: None,
            store,
        };
        let metrics = Metrics::new();
        let counters = JwksMetrics::new(&metrics).unwrap();
        let mut running = JoinSet::new();
        running.spawn(fetch(settings, Arc::new(SystemResolver), counters, wanting, sender));
        Self {
            wanted,
            events,
            waiting: Vec::new(),
            metrics,
            running,
        }
    }

    fn want(&self, sources: &[&KeySource], within: Duration) {
        let sources: BTreeMap<_, _> = sources.iter().map(|source| ((*source).clone(), within)).collect();
        self.wanted.send_modify(|wanted| wanted.sources = sources);
    }

    async fn next(&mut self) -> KeysEvent {
        while self.waiting.is_empty() {
            self.waiting = timeout(PATIENCE, self.events.recv()).await.unwrap().unwrap();
        }
        self.waiting.remove(0)
    }

    /// What is known of a source next; of no other anything may be told.
    async fn told(&mut self, source: &KeySource) -> Option<FetchedKeys> {
        let event = self.next().await;
        assert_eq!(event.source, *source);
        event.fetched
    }
}

fn known(fetched: Option<FetchedKeys>) -> (Option<String>, Option<String>) {
    let fetched = fetched.unwrap();
    (
        fetched.keys.map(|keys| keys.to_string()),
        fetched.problem.map(|problem| problem.to_string()),
    )
}

#[tokio::test]
async fn keys_outlive_their_issuer_and_follow_it_when_it_is_back() {
    let issuer = Issuer::start(|_| ok(&set("one"))).await;
    let source = issuer.uri("/keys");
    let mut polling = Polling::start();
    polling.want(&[&source], PATIENCE);
    assert_eq!(known(polling.told(&source).await), (Some(set("one")), None));

    issuer.answer(|_| with_head("503 Service Unavailable", "", ""));
    let (keys, problem) = known(polling.told(&source).await);
    assert_eq!(keys, Some(set("one")));
    assert!(problem.unwrap().contains("503"));

    // What is no key set replaces nothing.
    issuer.answer(|_| ok("<html>maintenance</html>"));
    let (keys, problem) = known(polling.told(&source).await);
    assert_eq!(keys, Some(set("one")));
    assert!(problem.unwrap().contains("no JSON Web Key Set"));

    issuer.answer(|_| ok(&set("two")));
    assert_eq!(known(polling.told(&source).await), (Some(set("two")), None));

    let address = issuer.address;
    drop(issuer);
    let (keys, problem) = known(polling.told(&source).await);
    assert_eq!(keys, Some(set("two")));
    assert!(problem.unwrap().contains("cannot connect"));

    let again = Issuer::start_at(address, None, |_| ok(&set("three"))).await.unwrap();
    assert_eq!(known(polling.told(&source).await), (Some(set("three")), None));

    // Equal keys are fetched again and not told again.
    let before = again.connected();
    timeout(PATIENCE, async {
        while again.connected() < before + 3 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(polling.events.try_recv().is_err());

    polling.want(&[], PATIENCE);
    assert_eq!(polling.told(&source).await, None);
    let text = polling.metrics.encode().unwrap();
    assert!(text.contains("pilot_jwks_resolver_network_fetch_success_total"));
    drop(polling.wanted);
    timeout(PATIENCE, polling.running.join_all()).await.unwrap();
}

#[tokio::test]
async fn the_first_attempt_is_told_whatever_came_of_it_and_others_do_not_wait_for_it() {
    let silent = Issuer::start(|_| Reply::Stuck(Vec::new())).await;
    let good = Issuer::start(|_| ok(&set("good"))).await;
    let (first, second) = (silent.uri("/keys"), good.uri("/keys"));
    let mut polling = Polling::start();
    polling.want(&[&first, &second], Duration::from_millis(500));
    // The good one does not wait for the silent one.
    assert_eq!(known(polling.told(&second).await), (Some(set("good")), None));
    let (keys, problem) = known(polling.told(&first).await);
    assert_eq!(keys, None);
    assert!(problem.unwrap().contains("no answer within 500 ms"));
    // It is tried again, and told once it answers.
    silent.answer(|_| ok(&set("late")));
    assert_eq!(known(polling.told(&first).await), (Some(set("late")), None));
}

#[tokio::test]
async fn a_hundred_silent_issuers_do_not_starve_a_good_one() {
    let silent = Issuer::start(|_| Reply::Stuck(Vec::new())).await;
    let good = Issuer::start(|_| ok(&set("good"))).await;
    let mut sources: Vec<KeySource> = (0..100).map(|at| silent.uri(&format!("/{at}"))).collect();
    sources.push(good.uri("/keys"));
    let mut polling = Polling::start();
    polling.want(&sources.iter().collect::<Vec<_>>(), Duration::from_millis(200));
    loop {
        let event = polling.next().await;
        if event.source == good.uri("/keys") {
            assert_eq!(known(event.fetched), (Some(set("good")), None));
            break;
        }
    }
}

#[tokio::test]
async fn keys_outlive_a_restart_while_their_issuer_is_down() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("keys.json");
    let issuer = Issuer::start(|_| ok(&set("one"))).await;
    let source = issuer.uri("/keys");
    let mut first = Polling::keeping(Some(store.clone()));
    first.want(&[&source], PATIENCE);
    assert_eq!(known(first.told(&source).await), (Some(set("one")), None));
    drop(first.wanted);
    timeout(PATIENCE, first.running.join_all()).await.unwrap();

    issuer.answer(|_| with_head("503 Service Unavailable", "", ""));
    let mut second = Polling::keeping(Some(store.clone()));
    second.want(&[&source], PATIENCE);
    let (keys, problem) = known(second.told(&source).await);
    assert_eq!(keys, Some(set("one")));
    assert!(problem.unwrap().contains("503"));
    issuer.answer(|_| ok(&set("two")));
    assert_eq!(known(second.told(&source).await), (Some(set("two")), None));
    drop(second.wanted);
    timeout(PATIENCE, second.running.join_all()).await.unwrap();

    // What is too old, or no key set, is as good as nothing.
    issuer.answer(|_| with_head("503 Service Unavailable", "", ""));
    let text = std::fs::read_to_string(&store).unwrap();
    assert!(text.contains("two"), "{text}");
    let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
    old[0]["fetched"] = 1.into();
    let mut broken: serde_json::Value = serde_json::from_str(&text).unwrap();
    broken[0]["keys"] = "{}".into();
    for content in [old.to_string(), broken.to_string(), "junk".to_owned()] {
        std::fs::write(&store, content).unwrap();
        let mut third = Polling::keeping(Some(store.clone()));
        third.want(&[&source], PATIENCE);
        let (keys, problem) = known(third.told(&source).await);
        assert!(keys.is_none() && problem.is_some(), "{keys:?}");
    }
}
