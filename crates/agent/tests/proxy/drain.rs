//! The ways in which a proxy is told to drain or to end.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::LISTENER;
use crate::agent::{self, Agent, eventually, lives};
use crate::client::{self, Client, Kept};
use crate::control_plane::ControlPlane;

/// Much longer than any of these tests: whoever waits for this drain fails.
const NEVER: &str = "--termination-drain-duration=300s";
const SOON: Duration = Duration::from_secs(30);

/// A proxy that serves, and what it needs for that.
struct Serving {
    agent: Agent,
    client: Client,
    ip: IpAddr,
    _plane: ControlPlane,
}

impl Serving {
    /// None without an Envoy.
    async fn start(variables: &[(&str, &str)]) -> Option<Self> {
        let envoy = agent::envoy()?;
        let ip = agent::loopback();
        let plane = ControlPlane::start(None).await;
        plane.set_listeners(vec![super::listener("first", ip, LISTENER)]);
        let agent = Agent::new(&envoy, ip, &plane).flag(NEVER);
        let set = |agent: Agent, (key, value): &(&str, &str)| agent.env(key, value);
        let agent = variables.iter().fold(agent, set).start();
        agent.ready().await;
        Some(Self {
            client: Client::new(&plane, SocketAddr::new(ip, LISTENER)),
            agent,
            ip,
            _plane: plane,
        })
    }

    /// Asks the agent's own port.
    async fn post(&self, path: &str) -> u16 {
        let (status, _) = client::post(SocketAddr::new(self.ip, 15020), path).await.unwrap();
        status
    }

    /// Its exit code; `what` went wrong if it does not end soon.
    async fn end(&mut self, what: &str) -> Option<i32> {
        tokio::time::timeout(SOON, self.agent.wait()).await.expect(what)
    }
}

/// A client is told to go elsewhere, and answered until then.
async fn told_to_go(kept: &mut Kept, what: &str) {
    let told = async { while !kept.again().await.expect("a request failed while draining") {} };
    tokio::time::timeout(SOON, told).await.expect(what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quitting_does_not_wait_for_a_drain() {
    let Some(mut proxy) = Serving::start(&[]).await else {
        return;
    };
    assert_eq!(proxy.post("/quitquitquit").await, 200);
    assert_eq!(proxy.end("the agent drains").await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_to_drain_it_serves_on_and_then_ends_at_once() {
    let Some(mut proxy) = Serving::start(&[]).await else {
        return;
    };
    let mut kept = proxy.client.stay().await;
    let (status, _) = client::get(SocketAddr::new(proxy.ip, 15020), "/drain").await.unwrap();
    assert_eq!(status, 405, "drain wants POST");
    assert_eq!(proxy.post("/drain").await, 200);
    told_to_go(&mut kept, "nobody is told to go").await;
    proxy.client.once().await.expect("a drained proxy still serves");
    proxy.agent.terminate();
    assert_eq!(proxy.end("it drains once more").await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_exit_on_zero_connections_the_last_client_decides() {
    let variables = [
        ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true"),
        ("MINIMUM_DRAIN_DURATION", "1s"),
    ];
    let Some(mut proxy) = Serving::start(&variables).await else {
        return;
    };
    let kept = proxy.client.stay().await;
    let envoy = proxy.agent.envoy_pid();
    proxy.agent.terminate();
    // Longer than the minimum and several looks at the connections.
    let patience = tokio::time::timeout(Duration::from_secs(4), proxy.agent.wait()).await;
    assert!(patience.is_err(), "it ended while a client was connected: {patience:?}");
    assert!(lives(envoy));
    drop(kept);
    assert_eq!(proxy.end("nobody is connected any more").await, Some(0));
    assert!(!lives(envoy), "Envoy is left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_drain() {
    let Some(mut proxy) = Serving::start(&[]).await else {
        return;
    };
    let envoy = proxy.agent.envoy_pid();
    let mut kept = proxy.client.stay().await;
    proxy.agent.terminate();
    told_to_go(&mut kept, "no drain begins").await;
    proxy.agent.terminate();
    proxy.end("it drains on").await;
    eventually("Envoy's end", || async { !lives(envoy) }).await;
}
