//! How long certificates last and when to renew them.

use std::time::{Duration, SystemTime};

/// How far a certificate's beginning lies before its issuance, for verifiers whose clocks are behind (as Istio's CA).
pub const CLOCK_SKEW_GRACE: Duration = Duration::from_secs(120);

/// From when to when a certificate is valid, whole seconds, both ends included (RFC 5280, §4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: SystemTime,
    /// The last second.
    pub not_after: SystemTime,
}

/// When a certificate is renewed. The default is Istio's: when half of its life is left, up to one percent of the life
/// sooner or later, so that a fleet started at once does not renew at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RenewalPolicy {
    /// The share of the life, 0 to 1, that is left at renewal (`SECRET_GRACE_PERIOD_RATIO`).
    pub grace_ratio: f64,
    /// By how much of the life, 0 to 1, the renewal moves sooner or later at most (`SECRET_GRACE_PERIOD_RATIO_JITTER`).
    pub jitter_ratio: f64,
}

// === impl Validity ===

impl Validity {
    /// From [`CLOCK_SKEW_GRACE`] before `now` to `lifetime` after it. Sizes beyond the clock's range stop at its end.
    #[must_use]
    pub fn starting(now: SystemTime, lifetime: Duration) -> Self {
        // RFC 5280 has no date after the year 9999; a request for more is as good as one for a century.
        let lifetime = lifetime.min(Duration::from_secs(100 * 366 * 24 * 3600));
        Self {
            not_before: now.checked_sub(CLOCK_SKEW_GRACE).unwrap_or(SystemTime::UNIX_EPOCH),
            not_after: now.checked_add(lifetime).unwrap_or(now),
        }
    }

    /// Whether `at` lies within.
    #[must_use]
    pub fn contains(&self, at: SystemTime) -> bool {
        self.not_before <= at && at <= self.not_after
    }

    /// The time from beginning to end; zero when the end comes first.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }
}

// === impl RenewalPolicy ===

impl RenewalPolicy {
    /// When to renew a certificate of this validity. `random` in 0 to 1 chooses the jitter: 0 the soonest, 1 the latest.
    /// The result lies within the validity whatever the numbers are.
    #[must_use]
    pub fn renew_at(&self, validity: Validity, random: f64) -> SystemTime {
        let within = |ratio: f64| if ratio.is_finite() { ratio.clamp(0.0, 1.0) } else { 0.5 };
        let jitter = within(self.jitter_ratio) * (1.0 - 2.0 * within(random));
        let grace = validity.length().mul_f64(within(within(self.grace_ratio) + jitter));
        validity
            .not_after
            .checked_sub(grace)
            .unwrap_or(validity.not_before)
            .max(validity.not_before)
    }
}

impl Default for RenewalPolicy {
    fn default() -> Self {
        Self {
            grace_ratio: 0.5,
            jitter_ratio: 0.01,
        }
    }
}
