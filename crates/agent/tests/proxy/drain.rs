//! The ways in which a proxy is told to drain or to end.

use std::net::SocketAddr;
use std::time::Duration;

use crate::LISTENER;
use crate::agent::{Agent, eventually, lives};
use crate::client::{self, Client};
use crate::control_plane::ControlPlane;

/// Much longer than any of these tests: whoever waits for this drain fails.
const NEVER: &str = "--termination-drain-duration=300s";
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quitting_does_not_wait_for_a_drain() {
    let Some(envoy) = crate::agent::envoy() else { return };
    let ip = crate::agent::loopback();
    let plane = ControlPlane::start(None).await;
    plane.set_listeners(vec![super::listener("first", ip, LISTENER)]);
    let mut agent = Agent::new(&envoy, ip, &plane)
        .flag("--termination-drain-duration=300s")
        .start();
    agent.ready().await;
    let (status, _) = client::post(SocketAddr::new(ip, 15020), "/quitquitquit").await.unwrap();
    assert_eq!(status, 200);
    let ended = tokio::time::timeout(Duration::from_secs(30), agent.wait()).await;
    assert_eq!(ended.expect("the agent drains"), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_to_drain_it_serves_on_and_then_ends_at_once() {
    let Some(envoy) = crate::agent::envoy() else { return };
    let ip = crate::agent::loopback();
    let plane = ControlPlane::start(None).await;
    plane.set_listeners(vec![super::listener("first", ip, LISTENER)]);
    let mut agent = Agent::new(&envoy, ip, &plane).flag(NEVER).start();
    agent.ready().await;
    let client = Client::new(&plane, SocketAddr::new(ip, LISTENER));
    let mut kept = client.stay().await;
    let (status, _) = client::get(SocketAddr::new(ip, 15020), "/drain").await.unwrap();
    assert_eq!(status, 405, "drain wants POST");
    let (status, _) = client::post(SocketAddr::new(ip, 15020), "/drain").await.unwrap();
    assert_eq!(status, 200);
    // Who is connected is told to go elsewhere, and answered until then.
    let told = async { while !kept.again().await.expect("a request failed while draining") {} };
    tokio::time::timeout(SOON, told).await.expect("nobody is told to go");
    client.once().await.expect("a drained proxy still serves");
    agent.terminate();
    let ended = tokio::time::timeout(SOON, agent.wait()).await;
    assert_eq!(ended.expect("it drains once more"), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_exit_on_zero_connections_the_last_client_decides() {
    let Some(envoy) = crate::agent::envoy() else { return };
    let ip = crate::agent::loopback();
    let plane = ControlPlane::start(None).await;
    plane.set_listeners(vec![super::listener("first", ip, LISTENER)]);
    let mut agent = Agent::new(&envoy, ip, &plane)
        .flag(NEVER)
        .env("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true")
        .env("MINIMUM_DRAIN_DURATION", "1s")
        .start();
    agent.ready().await;
    let client = Client::new(&plane, SocketAddr::new(ip, LISTENER));
    let kept = client.stay().await;
    let envoy = agent.envoy_pid();
    agent.terminate();
    // Longer than the minimum and several looks at the connections.
    let patience = tokio::time::timeout(Duration::from_secs(4), agent.wait()).await;
    assert!(patience.is_err(), "it ended while a client was connected: {patience:?}");
    assert!(lives(envoy));
    drop(kept);
    let ended = tokio::time::timeout(SOON, agent.wait()).await;
    assert_eq!(ended.expect("nobody is connected any more"), Some(0));
    assert!(!lives(envoy), "Envoy is left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_drain() {
    let Some(envoy) = crate::agent::envoy() else { return };
    let ip = crate::agent::loopback();
    let plane = ControlPlane::start(None).await;
    plane.set_listeners(vec![super::listener("first", ip, LISTENER)]);
    let mut agent = Agent::new(&envoy, ip, &plane).flag(NEVER).start();
    agent.ready().await;
    let envoy = agent.envoy_pid();
    let client = Client::new(&plane, SocketAddr::new(ip, LISTENER));
    let mut kept = client.stay().await;
    agent.terminate();
    let draining = async { while !kept.again().await.expect("a request failed while draining") {} };
    tokio::time::timeout(SOON, draining).await.expect("no drain begins");
    agent.terminate();
    tokio::time::timeout(SOON, agent.wait()).await.expect("it drains on");
    eventually("Envoy's end", || async { !lives(envoy) }).await;
}
