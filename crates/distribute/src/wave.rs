//! How fast pushes follow each other: as fast as they go out, and no faster.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Shortest time from the end of a push to the next.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// Time from the beginning of a push to that of the next to the same proxies, where pushes are quick and changes go on.
const STEADY: Duration = Duration::from_millis(370);
/// Longest time from the beginning of a push to that of the next to the same proxies, unless more cannot be done.
const LONGEST: Duration = Duration::from_secs(1);
/// How long a push may take to go out before the next no longer waits for it: for any, and for each proxy.
const PATIENCE: Duration = Duration::from_millis(50);
const PATIENCE_EACH: Duration = Duration::from_micros(100);

/// A push on its way to those proxies that it brings something.
///
/// To compile it is the smaller part of the work: each proxy's stream finds out what is new to it and writes that, and the
/// proxy takes it and says so. Changes that come meanwhile would only queue up behind it, so they are gathered, and all have
/// the less to do; what is sent to those that are not ready for it would grow old on the way.
#[derive(Debug, Default)]
pub(crate) struct Wave {
    snapshot: AtomicU64,
    /// So many proxies are told of it.
    told: AtomicUsize,
    /// So many have taken it.
    taken: AtomicUsize,
    moved: Notify,
}

impl Wave {
    /// A push of this snapshot begins.
    pub(crate) fn begin(&self, snapshot: u64) {
        self.told.store(0, Ordering::Relaxed);
        self.taken.store(0, Ordering::Relaxed);
        self.snapshot.store(snapshot, Ordering::Relaxed);
    }

    /// One more proxy is told of it.
    pub(crate) fn add(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    /// A proxy that had all of one snapshot, or nothing yet (0), has all of another.
    pub(crate) fn taken(&self, from: u64, to: u64) {
        let snapshot = self.snapshot.load(Ordering::Relaxed);
        // Whoever has just connected was not told.
        if from > 0 && from < snapshot && snapshot <= to {
            self.taken.fetch_add(1, Ordering::Relaxed);
            if self.is_over() {
                self.moved.notify_one();
            }
        }
    }

    /// Most have taken it. A few that are slow must not hold up the others.
    fn is_over(&self) -> bool {
        let (told, taken) = (self.told.load(Ordering::Relaxed), self.taken.load(Ordering::Relaxed));
        taken >= told - told / 10
    }

    /// Waits until it is time for the next push, after one to one of so many parts that began at `begun`. Returns how long
    /// that took to go out.
    pub(crate) async fn rest(&self, begun: Instant, parts: u32) -> Duration {
        let told = u32::try_from(self.told.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        let limit = begun + PATIENCE.saturating_add(PATIENCE_EACH.saturating_mul(told)).min(LONGEST);
        while !self.is_over() {
            if tokio::time::timeout_at(limit.into(), self.moved.notified())
                .await
                .is_err()
            {
                break;
            }
        }
        let spent = begun.elapsed();
        tokio::time::sleep(pause(spent, parts)).await;
        spent
    }
}

/// How long to wait after a push to one of so many parts that took so long to be taken. Six times as long, so that pushes
/// take a seventh of the time, as far as the next push comes within [`STEADY`]; then as long, so that they take half. Where
/// that is too long for a mesh so large, it is less, so that each part has its turn in time.
fn pause(spent: Duration, parts: u32) -> Duration {
    let until = |period: Duration| (period / parts).saturating_sub(spent);
    spent
        .max((spent * 6).min(until(STEADY)))
        .min(until(LONGEST))
        .max(SHORTEST_PAUSE / parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_the_push_and_have_limits() {
        let millis = Duration::from_millis;
        let cases = [
            (0, 10),
            (1, 10),
            (4, 24),
            (20, 120),
            (100, 270),
            (200, 200),
            (600, 400),
            (990, 10),
            (5000, 10),
        ];
        for (spent, expected) in cases {
            assert_eq!(pause(millis(spent), 1), millis(expected), "{spent} ms");
        }
        for (spent, expected) in [(5, 30), (20, 20), (60, 40), (100, 1)] {
            assert_eq!(pause(millis(spent), 10), millis(expected), "{spent} ms of ten parts");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_is_over_when_most_have_taken_it() {
        let wave = Wave::default();
        wave.begin(7);
        for _ in 0..20 {
            wave.add();
        }
        // One that was further, one that comes from further behind than the push before.
        wave.taken(7, 8);
        for from in [6; 17] {
            wave.taken(from, 7);
        }
        assert!(!wave.is_over());
        wave.taken(2, 7);
        assert!(wave.is_over());
        let begun = tokio::time::Instant::now();
        wave.rest(Instant::now(), 1).await;
        assert!(begun.elapsed() < millis(50), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn proxies_that_take_nothing_do_not_stop_the_others() {
        let wave = Wave::default();
        wave.begin(1);
        wave.add();
        let begun = tokio::time::Instant::now();
        wave.rest(Instant::now(), 1).await;
        assert!(begun.elapsed() <= millis(200), "{:?}", begun.elapsed());
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }
}
