//! How fast a denial takes hold, and that nothing slips through once every proxy has acknowledged it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::call::{Ask, Connection};
use lateen_testkit::eventually;
use tokio::task::JoinSet;

use crate::ONE;
use crate::rows::{Line, Request};
use crate::scene::Scene;

/// How long a denial may take, from the file that holds it to the first request that is refused.
const AT_MOST: Duration = Duration::from_secs(1);
/// How many requests follow the last acknowledgement.
const REQUESTS: usize = 10_000;
const CLIENTS: usize = 16;
/// Of how many requests one has a connection of its own.
const FRESH: usize = 10;
const ROUNDS: usize = 3;

const DENIED: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: revoked, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/secret]}}]}]}
";

/// What the load saw: when a request was sent and its answer came, and its status.
type Seen = Arc<Mutex<Vec<(Instant, Instant, u16)>>>;

/// A client and the connection that it keeps.
struct Client {
    line: Line,
    ask: Ask,
    open: Option<Connection>,
}

impl Client {
    fn new(scene: &Scene, caller: &str) -> Result<Self> {
        let mut request = Request {
            caller: caller.to_owned(),
            path: "/secret".to_owned(),
            ..Request::default()
        };
        if caller.starts_with('@') {
            request.dial = Some("10.96.0.10:80".parse()?);
        }
        Ok(Self {
            line: request.line(scene)?,
            ask: request.ask(scene, String::new())?,
            open: None,
        })
    }

    /// The status of one request, over the connection of the one before if it is still good.
    async fn status(&mut self) -> Result<u16> {
        let mut open = match self.open.take().filter(|open| !open.is_closed()) {
            Some(open) => open,
            None => self.line.connect().await?,
        };
        let reply = open.ask(&self.ask).await?;
        if reply.headers.get("connection").is_none_or(|value| value != "close") {
            self.open = Some(open);
        }
        Ok(reply.status)
    }
}

/// Who asks, by turns: without a proxy, with and without mutual TLS, and through a sidecar with its pool of connections.
fn caller(number: usize) -> &'static str {
    ["plain", "shop/ann", "@client"][number % 3]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_thousand_requests_after_the_acknowledgement_none_passes() -> Result<()> {
    let _alone = ONE.lock().await;
    let Some(mut scene) = Scene::start().await? else {
        return Ok(());
    };
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        scene.set("", "").await?;
        scene.warm().await?;
        // Connections that will have said nothing when the denial comes.
        let mut idle = Vec::new();
        for number in 0..CLIENTS {
            let mut client = Client::new(&scene, caller(number))?;
            // A sidecar's pool may still have a connection of the round before.
            eventually("who asks is let pass", Duration::from_secs(10), async || {
                client.status().await.is_ok_and(|status| status == 200).then_some(())
            })
            .await?;
            idle.push(client);
        }
        let (seen, stop) = (Seen::default(), Arc::new(AtomicBool::new(false)));
        let mut load = JoinSet::new();
        for number in 0..6 {
            let client = Client::new(&scene, caller(number))?;
            load.spawn(asking(client, Arc::clone(&seen), Arc::clone(&stop)));
        }
        let (written, acknowledged) = scene.set("", DENIED).await?;
        let requests = if round + 1 == ROUNDS { REQUESTS } else { REQUESTS / 10 };
        let begun = Instant::now();
        let passed = after(&scene, requests).await?;
        let took = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        while let Some(done) = load.join_next().await {
            done??;
        }
        let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        let first = seen
            .iter()
            .filter(|(_, _, status)| *status == 403)
            .map(|(_, end, _)| *end)
            .min();
        let first = first.context("the load was never refused")?.duration_since(written);
        let late = seen
            .iter()
            .filter(|(begun, _, status)| *status == 200 && *begun > acknowledged)
            .count();
        let before = seen.iter().filter(|(begun, ..)| *begun < written).count();
        let mut of_idle = 0;
        for client in &mut idle {
            // Envoy closes connections of the listener before with their next answer (after `drainDuration` at the latest).
            of_idle += usize::from(client.status().await? == 200);
            let next = client.status().await?;
            ensure!(next == 403, "a connection from before goes on being let pass: {next}");
        }
        println!(
            "round {}: first refusal {first:?} after the file was written, all proxies acknowledged after {:?}; of {requests} \
             requests in {took:?} after that, {passed} passed; of the load of {} requests ({before} before), {late} passed \
             after it; of {CLIENTS} connections that were idle since before, {of_idle} passed one more request",
            round + 1,
            acknowledged.duration_since(written),
            seen.len(),
        );
        ensure!(before > 0, "there was no load before the change");
        ensure!(
            passed == 0,
            "{passed} of {requests} requests passed after the last acknowledgement"
        );
        slowest = slowest.max(first);
    }
    ensure!(slowest < AT_MOST, "the first refusal came after {slowest:?}");
    Ok(())
}

/// Asks until it is told to stop.
async fn asking(mut client: Client, seen: Seen, stop: Arc<AtomicBool>) -> Result<()> {
    let mut pace = tokio::time::interval(Duration::from_millis(3));
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let begun = Instant::now();
        let status = client.status().await?;
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((begun, Instant::now(), status));
    }
    Ok(())
}

/// How many of so many requests pass.
async fn after(scene: &Scene, requests: usize) -> Result<usize> {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = Client::new(scene, caller(number))?;
        clients.spawn(async move {
            let mut passed = 0;
            for request in 0..requests / CLIENTS {
                if request % FRESH == 0 {
                    client.open = None;
                }
                let status = client.status().await?;
                ensure!(matches!(status, 200 | 403), "status {status}");
                passed += usize::from(status == 200);
            }
            Ok(passed)
        });
    }
    let mut passed = 0;
    while let Some(done) = clients.join_next().await {
        passed += done??;
    }
    Ok(passed)
}
