//! How long to wait before something that failed is tried again.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

const FIRST: Duration = Duration::from_millis(200);
/// An API server that is back is found within this time.
const LONGEST: Duration = Duration::from_secs(10);

/// Pauses that double from one failure to the next, each with a random part, so that many who lost the same server do not
/// come back at once.
#[derive(Debug)]
pub(super) struct Pace(Option<ExponentialBackoff>);

impl Pace {
    pub(super) fn new() -> Self {
        Self(None)
    }

    /// It worked: the next failure is a first one.
    pub(super) fn reset(&mut self) {
        self.0 = None;
    }

    /// The pause after one more failure.
    pub(super) fn pause(&mut self) -> Duration {
        let pauses = self.0.get_or_insert_with(|| {
            ExponentialBuilder::default()
                .with_min_delay(FIRST)
                .with_max_delay(LONGEST)
                .with_jitter()
                .without_max_times()
                .build()
        });
        pauses.next().unwrap_or(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew_after_success() {
        let mut pace = Pace::new();
        let first = pace.pause();
        assert!((FIRST..=2 * FIRST).contains(&first), "{first:?}");
        let later = (0..20).map(|_| pace.pause()).last().unwrap();
        assert!((LONGEST..=2 * LONGEST).contains(&later), "{later:?}");
        pace.reset();
        assert!(pace.pause() <= 2 * FIRST);
    }
}
