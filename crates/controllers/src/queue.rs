//! Keys whose objects are to be looked at: each once, failures later and later, all of them at a bounded rate.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// See the module. Owned by one task.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    due: BTreeSet<(Instant, K)>,
    at: BTreeMap<K, Instant>,
    failures: BTreeMap<K, u32>,
    pace: Pace,
}

/// A bucket of tokens: a write takes one.
#[derive(Debug)]
struct Pace {
    per_second: f64,
    burst: f64,
    tokens: f64,
    counted: Instant,
}

impl<K: Ord + Clone> Queue<K> {
    /// An empty queue that lets `per_second` writes through, and `burst` at once after a pause.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        Self {
            due: BTreeSet::new(),
            at: BTreeMap::new(),
            failures: BTreeMap::new(),
            pace: Pace {
                per_second: f64::from(per_second.max(1)),
                burst: f64::from(burst.max(1)),
                tokens: f64::from(burst.max(1)),
                counted: Instant::now(),
            },
        }
    }

    /// Looks at it as soon as possible; one that failed keeps its time.
    pub(crate) fn add(&mut self, key: K) {
        if !self.at.contains_key(&key) {
            self.put(key, Instant::now());
        }
    }

    /// Looks at it again later, later each time.
    pub(crate) fn retry(&mut self, key: K) {
        let failures = self.failures.entry(key.clone()).or_default();
        let pause = FIRST_RETRY.saturating_mul(1 << (*failures).min(16)).min(LAST_RETRY);
        *failures += 1;
        self.put(key, Instant::now() + pause);
    }

    /// It is as it should be.
    pub(crate) fn done(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// The next key to look at, once one is due. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> K {
        loop {
            let Some((at, _)) = self.due.first() else {
                // Nobody adds while this borrows; the caller waits for events beside it.
                std::future::pending::<()>().await;
                continue;
            };
            tokio::time::sleep_until(*at).await;
            if let Some((_, key)) = self.due.pop_first() {
                self.at.remove(&key);
                return key;
            }
        }
    }

    /// Waits until one more write is allowed.
    pub(crate) async fn write_allowed(&mut self) {
        loop {
            let now = Instant::now();
            let gained = now.duration_since(self.pace.counted).as_secs_f64() * self.pace.per_second;
            self.pace.tokens = (self.pace.tokens + gained).min(self.pace.burst);
            self.pace.counted = now;
            if self.pace.tokens >= 1.0 {
                self.pace.tokens -= 1.0;
                return;
            }
            let missing = (1.0 - self.pace.tokens) / self.pace.per_second;
            tokio::time::sleep(Duration::from_secs_f64(missing)).await;
        }
    }

    fn put(&mut self, key: K, at: Instant) {
        if let Some(old) = self.at.insert(key.clone(), at) {
            self.due.remove(&(old, key.clone()));
        }
        self.due.insert((at, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_comes_once_however_often_it_was_added() {
        let mut queue = Queue::new(100, 100);
        for key in ["a", "b", "a"] {
            queue.add(key);
        }
        assert_eq!(queue.next().await, "a");
        assert_eq!(queue.next().await, "b");
        assert!(tokio::time::timeout(LAST_RETRY, queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_later_and_later_until_one_is_done() {
        let mut queue = Queue::new(100, 100);
        let mut waits = Vec::new();
        for _ in 0..3 {
            let began = Instant::now();
            queue.retry("a");
            // An event does not hurry what failed.
            queue.add("a");
            queue.next().await;
            waits.push(began.elapsed().as_millis() / 200);
        }
        assert_eq!(waits, [1, 2, 4]);
        queue.done(&"a");
        let began = Instant::now();
        queue.retry("a");
        queue.next().await;
        assert_eq!(began.elapsed().as_millis() / 200, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn writes_are_paced() {
        let mut queue = Queue::<u8>::new(10, 2);
        let began = Instant::now();
        for _ in 0..12 {
            queue.write_allowed().await;
        }
        let took = began.elapsed().as_millis();
        assert!((950..1200).contains(&took), "{took}");
    }
}
