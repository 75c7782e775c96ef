//! Time as an argument: the system's, or one that a test moves by hand.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

/// Tells the time and waits for it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Manual(Arc<watch::Sender<SystemTime>>),
}

/// Moves the time of the [`Clock`] that it was made with.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<watch::Sender<SystemTime>>);

// === impl Clock ===

impl Clock {
    /// The system's wall clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until it is moved.
    pub fn manual(start: SystemTime) -> (Self, ManualClock) {
        let time = Arc::new(watch::Sender::new(start));
        (Self(Source::Manual(Arc::clone(&time))), ManualClock(time))
    }

    /// The time now.
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            Source::System => SystemTime::now(),
            Source::Manual(time) => *time.borrow(),
        }
    }

    /// Returns once `duration` has passed.
    pub async fn sleep(&self, duration: Duration) {
        match &self.0 {
            Source::System => tokio::time::sleep_until(Instant::now() + duration).await,
            Source::Manual(_) => self.sleep_until(self.now() + duration).await,
        }
    }

    /// Returns at `time`, at once if it has passed. The system's clock is looked at again at least every minute, so
    /// that a corrected wall clock is noticed.
    pub async fn sleep_until(&self, time: SystemTime) {
        const LOOK_AGAIN: Duration = Duration::from_secs(60);
        match &self.0 {
            Source::System => {
                while let Ok(left) = time.duration_since(SystemTime::now())
                    && !left.is_zero()
                {
                    tokio::time::sleep(left.min(LOOK_AGAIN)).await;
                }
            }
            Source::Manual(now) => {
                // The sender lives as long as this clock, so waiting cannot fail.
                let _ = now.subscribe().wait_for(|now| *now >= time).await;
            }
        }
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// Moves the time on and wakes who waited for it.
    pub fn advance(&self, duration: Duration) {
        self.0.send_modify(|now| *now += duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_its_sleepers() {
        let (clock, hand) = Clock::manual(SystemTime::UNIX_EPOCH);
        let mut sleeping = std::pin::pin!(clock.sleep(Duration::from_secs(3600)));
        hand.advance(Duration::from_secs(1));
        assert!(futures::poll!(&mut sleeping).is_pending());
        hand.advance(Duration::from_secs(3600));
        sleeping.await;
        assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(3601));
    }

    #[tokio::test]
    async fn the_past_is_now() {
        Clock::system().sleep_until(SystemTime::UNIX_EPOCH).await;
    }
}
