//! Whether the process may be sent work: everything registered has let go of its guard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// What the process waits for before it is ready. Clones share it.
///
/// Without guards it is ready, so register before the admin server is started.
#[derive(Debug, Clone)]
pub struct Readiness {
    awaited: Arc<Mutex<BTreeMap<u64, String>>>,
    count: watch::Sender<Count>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    registered: u64,
    awaited: usize,
}

/// Holds readiness back until it is dropped. A guard that is dropped by a panic goes on holding it back.
#[derive(Debug)]
#[must_use = "dropping the guard says that its part is ready"]
pub struct ReadyGuard {
    id: u64,
    readiness: Readiness,
}

// === impl Readiness ===

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Awaits nothing yet.
    pub fn new() -> Self {
        Self {
            awaited: Arc::default(),
            count: watch::Sender::new(Count::default()),
        }
    }

    /// Holds readiness back until the guard is dropped; `name` is what `/ready` shows meanwhile.
    pub fn register(&self, name: impl Into<String>) -> ReadyGuard {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.count.borrow().registered;
        awaited.insert(id, name.into());
        self.count.send_replace(Count {
            registered: id + 1,
            awaited: awaited.len(),
        });
        ReadyGuard {
            id,
            readiness: self.clone(),
        }
    }

    /// Whether nothing is awaited any more.
    pub fn is_ready(&self) -> bool {
        self.count.borrow().awaited == 0
    }

    /// What is still awaited, in the order of registration.
    pub fn awaited(&self) -> Vec<String> {
        self.awaited
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Returns once nothing is awaited.
    pub async fn ready(&self) {
        let mut count = self.count.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let _ = count.wait_for(|count| count.awaited == 0).await;
    }
}

// === impl ReadyGuard ===

impl Drop for ReadyGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut awaited = self.readiness.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = awaited.remove(&self.id) {
            tracing::info!(part = name, awaited = awaited.len(), "ready");
        }
        let left = awaited.len();
        self.readiness.count.send_modify(|count| count.awaited = left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_guard_makes_it_ready() {
        let readiness = Readiness::new();
        let (kube, files) = (readiness.register("kube"), readiness.register("files"));
        assert_eq!(readiness.awaited(), ["kube", "files"]);
        drop(kube);
        assert!(!readiness.is_ready());
        let waiting = readiness.clone();
        let mut waiting = std::pin::pin!(waiting.ready());
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(files);
        waiting.await;
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_panic_does_not_make_it_ready() {
        let readiness = Readiness::new();
        let guard = readiness.register("kube");
        let task = std::thread::spawn(move || {
            let _guard = guard;
            panic!("lost");
        });
        assert!(task.join().is_err());
        assert_eq!(readiness.awaited(), ["kube"]);
    }
}
