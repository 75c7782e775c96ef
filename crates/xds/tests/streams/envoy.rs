//! What real Envoy makes of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lateen_xds::types::{CLUSTER, ENDPOINTS, LISTENER, ROUTE};
use lateen_xds::{Dialect, Event, Resource, Settings};
use tokio::task::JoinSet;

use crate::fixture::{TestServer, World, eventually, eventually_async};
use crate::live::{Envoy, Upstream, answers, binary, get};
use crate::messages::{bad_listener, cluster, endpoints, listener, routes};

/// How long Envoy waits for a cluster's endpoints in vain.
const ENVOYS_PATIENCE: Duration = Duration::from_secs(15);

/// A server, an Envoy, and two upstreams.
struct Scene {
    server: TestServer,
    envoy: Envoy,
    one: Upstream,
    two: Upstream,
    address: std::net::SocketAddr,
}

impl Scene {
    async fn start(binary: &PathBuf, dialect: Dialect) -> Self {
        let server = TestServer::start().await;
        let (one, two) = (Upstream::start("one").await, Upstream::start("two").await);
        server.publish(&[
            (CLUSTER, &[cluster("one", 1)]),
            (ENDPOINTS, &[endpoints("one", one.address)]),
            (LISTENER, &[listener("l", "r")]),
            (ROUTE, &[routes("r", "one")]),
        ]);
        let envoy = Envoy::start(binary, dialect, server.address).await;
        let address = envoy.listener("l").await;
        let scene = Self {
            server,
            envoy,
            one,
            two,
            address,
        };
        answers(address, "one").await;
        scene.server.settled(1).await;
        scene
    }

    /// The last rejection of a type, if its last answer was one.
    fn nack(&self, type_url: &str) -> Option<String> {
        let records = self.server.sessions.snapshot();
        let of = records
            .first()?
            .types
            .iter()
            .find(|of| &*of.status.type_url == type_url)?;
        of.nack.as_ref().map(|nack| nack.reason.to_string())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "Envoy's log:\n{}\nstreams: {:#?}",
                self.envoy.log(),
                self.server.sessions.snapshot()
            );
            println!("events: {:#?}", self.server.events());
        }
    }
}

fn sent(events: &[Event], url: &str) -> usize {
    let count = |event: &Event| match event {
        Event::Sent {
            response,
            resources,
            removed,
            ..
        } if &*response.type_url == url => resources + removed,
        _ => 0,
    };
    events.iter().map(count).sum()
}

async fn serves_changes_and_connects_anew(dialect: Dialect) {
    let Some(binary) = binary() else { return };
    let mut scene = Scene::start(&binary, dialect).await;
    let envoy = &scene.envoy;

    // A changed cluster whose endpoints are equal: it is used at once, and not when Envoy is tired of waiting.
    let since = Instant::now();
    let snapshot = scene.server.publish(&[(CLUSTER, &[cluster("one", 7)])]);
    scene.server.settled(snapshot).await;
    let mut warmed = async || {
        let active = envoy.admin("/config_dump?resource=dynamic_active_clusters").await;
        active.contains("\"connect_timeout\": \"7s\"").then_some(())
    };
    eventually_async("the changed cluster is warm", &mut warmed).await;
    assert!(since.elapsed() < ENVOYS_PATIENCE / 2, "after {:?}", since.elapsed());
    answers(scene.address, "one").await;

    // Another server takes over on the same address.
    let address = scene.server.address;
    let clusters = [cluster("one", 7)];
    let held: [(&str, &[Resource]); 4] = [
        (CLUSTER, &clusters),
        (ENDPOINTS, &[endpoints("one", scene.one.address)]),
        (LISTENER, &[listener("l", "r")]),
        (ROUTE, &[routes("r", "one")]),
    ];
    let world = World::new();
    let old = std::mem::replace(&mut scene.server, TestServer::start().await);
    old.stop().await;
    scene.server = TestServer::with(world, Settings::default(), address).await;
    scene.server.publish(&held);
    scene.server.settled(1).await;
    let mut asked = async || {
        let record = scene.server.sessions.snapshot().into_iter().next()?;
        (record.types.len() == 4).then_some(())
    };
    eventually_async("Envoy asks for everything again", &mut asked).await;
    scene.server.settled(1).await;
    if dialect == Dialect::Delta {
        assert_eq!(sent(&scene.server.events(), CLUSTER), 0, "it has them");
    }
    let snapshot = scene
        .server
        .publish(&[(ENDPOINTS, &[endpoints("one", scene.two.address)])]);
    scene.server.settled(snapshot).await;
    answers(scene.address, "two").await;
    assert_eq!(
        scene.envoy.stat("listener_manager.lds.update_rejected").await,
        Some(0),
        "{}",
        scene.envoy.log()
    );
}

async fn isolates_a_bad_listener(dialect: Dialect) {
    let Some(binary) = binary() else { return };
    let scene = Scene::start(&binary, dialect).await;
    let listeners = |bad: Resource| [bad, listener("good", "r"), listener("l", "r"), listener("more", "r")];
    let snapshot = scene.server.publish(&[(LISTENER, &listeners(bad_listener("bad")))]);
    answers(scene.envoy.listener("good").await, "one").await;
    answers(scene.envoy.listener("more").await, "one").await;
    answers(scene.address, "one").await;
    let record = &scene.server.settled(snapshot).await[0];
    let of_listeners = record.types.iter().find(|of| &*of.status.type_url == LISTENER).unwrap();
    assert_eq!(
        of_listeners
            .status
            .rejected
            .iter()
            .map(|name| &**name)
            .collect::<Vec<_>>(),
        ["bad"]
    );
    let reason = scene.nack(LISTENER).unwrap();
    assert!(
        reason.contains("StatPrefix") || reason.contains("stat_prefix"),
        "{reason}"
    );
    assert!(scene.server.metric("pilot_total_xds_rejects{type=\"lds\"}") >= Some(1.0));

    // It is mended.
    let snapshot = scene.server.publish(&[(LISTENER, &listeners(listener("bad", "r")))]);
    answers(scene.envoy.listener("bad").await, "one").await;
    let record = &scene.server.settled(snapshot).await[0];
    assert!(record.types.iter().all(|of| of.status.rejected.is_empty()));
}

async fn moves_traffic_without_loss(dialect: Dialect) {
    let Some(binary) = binary() else { return };
    let scene = Scene::start(&binary, dialect).await;
    let (address, stop) = (scene.address, Arc::new(AtomicBool::new(false)));
    let count = Arc::new(AtomicUsize::new(0));
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
        load.spawn(async move {
            let mut answered = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                answered.push(get(address, "/").await);
                count.fetch_add(1, Ordering::Relaxed);
            }
            answered
        });
    }
    // The cluster goes, another comes, and the route moves, all at once; and back.
    for i in 0..10 {
        let (name, upstream) = if i % 2 == 0 {
            ("two", &scene.two)
        } else {
            ("one", &scene.one)
        };
        let snapshot = scene.server.publish(&[
            (CLUSTER, &[cluster(name, 1)]),
            (ENDPOINTS, &[endpoints(name, upstream.address)]),
            (ROUTE, &[routes("r", name)]),
        ]);
        scene.server.settled(snapshot).await;
        answers(address, name).await;
        let enough = count.load(Ordering::Relaxed) + 50;
        eventually("requests go on", || {
            (count.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    let answered: Vec<_> = load.join_all().await.into_iter().flatten().collect();
    let lost: Vec<_> = answered
        .iter()
        .filter(|answer| !matches!(answer, Some((200, _))))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} requests were lost: {:?}",
        lost.len(),
        answered.len(),
        lost.first()
    );
}

#[tokio::test]
async fn delta_serves_changes_and_connects_anew() {
    serves_changes_and_connects_anew(Dialect::Delta).await;
}

#[tokio::test]
async fn the_state_of_the_world_serves_changes_and_connects_anew() {
    serves_changes_and_connects_anew(Dialect::StateOfTheWorld).await;
}

#[tokio::test]
async fn delta_isolates_a_bad_listener() {
    isolates_a_bad_listener(Dialect::Delta).await;
}

#[tokio::test]
async fn the_state_of_the_world_isolates_a_bad_listener() {
    isolates_a_bad_listener(Dialect::StateOfTheWorld).await;
}

#[tokio::test]
async fn delta_moves_traffic_without_loss() {
    moves_traffic_without_loss(Dialect::Delta).await;
}

#[tokio::test]
async fn the_state_of_the_world_moves_traffic_without_loss() {
    moves_traffic_without_loss(Dialect::StateOfTheWorld).await;
}
