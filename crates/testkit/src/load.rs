//! Load: clients that ask without end and count what they get.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::http::Client;
use crate::wait::eventually;

/// The shortest time between two requests of a client: enough load to notice a gap of milliseconds, and little enough
/// for the machine to do something else.
const PACE: Duration = Duration::from_millis(3);
/// How many failures are kept in words.
const WORDS: usize = 10;

/// What all clients got.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// How many requests were made.
    pub requests: u64,
    /// How many got no answer, or one that is not 200.
    pub failed: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// The first failures, each with the time since the load began.
    pub failures: Vec<String>,
    /// The longest time that a request took.
    pub slowest: Duration,
}

impl Tally {
    /// Nothing, unless a request failed.
    ///
    /// # Errors
    /// When one did, or none was made; it says how many and what.
    pub fn none_failed(&self) -> Result<()> {
        ensure!(self.requests > 0, "no request was made");
        ensure!(
            self.failed == 0,
            "{} of {} requests failed, {:?}: {:#?}",
            self.failed,
            self.requests,
            self.statuses,
            self.failures
        );
        Ok(())
    }

    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// Running clients; they end when this is dropped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    clients: JoinSet<Tally>,
}

impl Load {
    /// Starts `clients` clients for each of `hosts`, all asking the server at `address` for `/`.
    pub fn start(address: SocketAddr, hosts: &[&str], clients: usize) -> Self {
        Self::asking(address, hosts, "/", clients)
    }

    /// Starts `clients` clients for each of `hosts`, all asking the server at `address` for `path`.
    pub fn asking(address: SocketAddr, hosts: &[&str], path: &str, clients: usize) -> Self {
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut running = JoinSet::new();
        for host in hosts.iter().flat_map(|host| std::iter::repeat_n(*host, clients)) {
            let target = (address, host.to_owned(), path.to_owned());
            running.spawn(ask(target, Arc::clone(&stop), Arc::clone(&requests)));
        }
        Self {
            stop,
            requests,
            clients: running,
        }
    }

    /// Waits until `count` more requests have been made.
    ///
    /// # Errors
    /// When that takes longer than `within`.
    pub async fn more(&self, count: u64, within: Duration) -> Result<()> {
        let enough = self.requests.load(Ordering::Relaxed) + count;
        let what = format!("{count} more requests");
        eventually(&what, within, async || {
            (self.requests.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await
    }

    /// Ends the load after the requests under way.
    ///
    /// # Errors
    /// When a client broke.
    pub async fn stop(mut self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        while let Some(one) = self.clients.join_next().await {
            all.add(one.context("a client broke")?);
        }
        all.failures.sort();
        Ok(all)
    }
}

async fn ask(
    (address, host, path): (SocketAddr, String, String),
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
) -> Tally {
    let mut client = Client::new(address);
    let mut tally = Tally::default();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let began = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let since = Instant::now();
        let answer = client.get(&host, &path).await;
        tally.slowest = tally.slowest.max(since.elapsed());
        tally.requests += 1;
        let failure = match answer {
            Ok(answer) => {
                *tally.statuses.entry(answer.status).or_default() += 1;
                (answer.status != 200).then(|| {
                    let flags = answer.header("x-flags").unwrap_or_default();
                    format!("{} {} {flags}", answer.status, answer.body)
                })
            }
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(failure) = failure {
            tally.failed += 1;
            if tally.failures.len() < WORDS {
                tally
                    .failures
                    .push(format!("{:8.3} s {host}: {failure}", began.elapsed().as_secs_f64()));
            }
        }
        requests.fetch_add(1, Ordering::Relaxed);
    }
    tally
}
