//! One change, and when each sidecar received it.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use memchr::memmem::Finder;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// A text that a change brings, and the time from the start of its writing until each sidecar has received it.
pub(crate) struct Watch {
    finder: Finder<'static>,
    start: Instant,
    /// In microseconds, by sidecar; 0 is not yet.
    seen: Box<[AtomicU32]>,
    left: AtomicUsize,
    all: Notify,
}

// === impl Watch ===

impl Watch {
    /// Begins now. No other content may hold the text, nor a longer one that begins with it.
    pub(crate) fn start(text: &str, sidecars: usize) -> Self {
        Self {
            finder: Finder::new(text.as_bytes()).into_owned(),
            start: Instant::now(),
            seen: (0..sidecars).map(|_| AtomicU32::new(0)).collect(),
            left: AtomicUsize::new(sidecars),
            all: Notify::new(),
        }
    }

    /// A sidecar has received a content.
    pub(crate) fn receive(&self, sidecar: usize, body: &[u8]) {
        let Some(seen) = self.seen.get(sidecar) else { return };
        if seen.load(Ordering::Relaxed) != 0 || self.finder.find(body).is_none() {
            return;
        }
        let micros = u32::try_from(self.start.elapsed().as_micros())
            .unwrap_or(u32::MAX)
            .max(1);
        let first = seen
            .compare_exchange(0, micros, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if first && self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all.notify_one();
        }
    }

    /// How many have not received it.
    pub(crate) fn missing(&self) -> usize {
        self.left.load(Ordering::Acquire)
    }

    /// Waits until all have received it, for so long at most.
    pub(crate) async fn all(&self, limit: Duration) {
        if self.missing() > 0 {
            // Whoever has not come by then is counted as missing.
            let _ = timeout(limit, self.all.notified()).await;
        }
    }

    /// The times of those that have received it, in milliseconds.
    pub(crate) fn millis(&self) -> Vec<f64> {
        let seen = self.seen.iter().map(|seen| seen.load(Ordering::Relaxed));
        seen.filter(|micros| *micros > 0)
            .map(|micros| f64::from(micros) / 1e3)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_sidecar_counts_once_and_only_with_the_text() {
        let watch = Watch::start("mark-1", 2);
        watch.receive(0, b"of mark-2");
        assert_eq!((watch.missing(), watch.millis().len()), (2, 0));
        watch.receive(0, b"x mark-1 y");
        watch.receive(0, b"mark-1");
        assert_eq!((watch.missing(), watch.millis().len()), (1, 1));
        watch.all(Duration::ZERO).await;
        watch.receive(1, b"mark-1");
        // Everybody had it before anybody waited.
        watch.all(Duration::from_secs(60)).await;
        assert_eq!((watch.missing(), watch.millis().len()), (0, 2));
        watch.receive(7, b"mark-1");
    }
}
