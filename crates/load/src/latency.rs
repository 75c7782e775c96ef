//! How times are summed up.

use serde::{Deserialize, Serialize};

/// A distribution of times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: usize,
    /// Half took no longer.
    pub p50: f64,
    /// 99 of a hundred took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

// === impl Latency ===

impl Latency {
    /// Of times in any order; none where there are none.
    pub(crate) fn of(millis: &[f64]) -> Option<Self> {
        let mut sorted = millis.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            count: sorted.len(),
            p50: percentile(&sorted, 50.0)?,
            p99: percentile(&sorted, 99.0)?,
            max: *sorted.last()?,
        })
    }
}

/// The least of sorted times that so many of a hundred do not exceed (the nearest rank).
pub(crate) fn percentile(sorted: &[f64], of_hundred: f64) -> Option<f64> {
    let rank = (of_hundred / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 50.0), Some(50.0));
        assert_eq!(percentile(&hundred, 99.0), Some(99.0));
        assert_eq!(percentile(&hundred, 100.0), Some(100.0));
        assert_eq!(percentile(&hundred, 0.0), Some(1.0));
        assert_eq!(percentile(&[7.0], 99.0), Some(7.0));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn the_order_of_times_does_not_matter() {
        let latency = Latency::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!(
            (latency.count, latency.p50, latency.p99, latency.max),
            (3, 2.0, 3.0, 3.0)
        );
        assert_eq!(Latency::of(&[]), None);
    }
}
