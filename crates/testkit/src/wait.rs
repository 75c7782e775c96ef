//! Waiting for conditions.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{interval, timeout};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until there is something to be seen.
///
/// # Errors
/// When there is nothing after `within`; the error names `what`.
pub async fn eventually<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let looking = async {
        let mut ticks = interval(LOOK);
        loop {
            ticks.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    timeout(within, looking)
        .await
        .ok()
        .with_context(|| format!("not within {within:?}: {what}"))
}
