//! The end of the process in two steps: a graceful one, and a hard one when the grace is used up.

use tokio_util::sync::CancellationToken;

/// Starts the end of the process. Clones act on the same end.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    drain: Drain,
}

/// Learns of the end of the process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    graceful: CancellationToken,
    hard: CancellationToken,
}

// === impl Shutdown ===

impl Shutdown {
    /// An end that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the graceful end: everybody finishes what they have and takes nothing new.
    pub fn begin(&self) {
        self.drain.graceful.cancel();
    }

    /// Ends at once: what still runs is dropped. Begins the graceful end too.
    pub fn end(&self) {
        self.drain.graceful.cancel();
        self.drain.hard.cancel();
    }

    /// Who wants to know of this end.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }
}

// === impl Drain ===

impl Drain {
    /// A drain that never begins, for tests and for tools that run once.
    pub fn never() -> Self {
        Self::default()
    }

    /// Whether the graceful end has begun.
    pub fn is_draining(&self) -> bool {
        self.graceful.is_cancelled()
    }

    /// Returns once the graceful end has begun.
    pub async fn started(&self) {
        self.graceful.cancelled().await;
    }

    /// Returns once the grace is used up: drop what you still hold.
    pub async fn expired(&self) {
        self.hard.cancelled().await;
    }

    /// Like [`Self::started`], without borrowing, for APIs that want a `'static` future.
    pub fn started_owned(&self) -> impl Future<Output = ()> + Send + 'static {
        self.graceful.clone().cancelled_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_hard_end_implies_the_graceful_one() {
        let shutdown = Shutdown::new();
        let drain = shutdown.drain();
        assert!(!drain.is_draining());
        shutdown.end();
        drain.started().await;
        drain.expired().await;
        assert!(drain.is_draining());
    }
}
