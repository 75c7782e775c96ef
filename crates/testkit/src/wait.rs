//! Waiting for conditions.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpStream;
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

/// Waits until somebody takes connections at `address`.
///
/// # Errors
/// When nobody does after `within`.
pub async fn listens(address: SocketAddr, within: Duration) -> Result<()> {
    eventually(&format!("{address} takes connections"), within, async || {
        TcpStream::connect(address).await.ok().map(drop)
    })
    .await
}
