//! Reloading when files change.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::Watcher;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::places::Places;
use super::{FileSource, Problem, Update};
use crate::update::log_new;

/// Editors write a file in several steps: nothing is read before there was quiet for this long …
const QUIET: Duration = Duration::from_millis(20);
/// … or this long had passed.
const AT_MOST: Duration = Duration::from_millis(200);
/// How often files are read though nothing tells of a change: notifications can be lost.
const RESCAN: Duration = Duration::from_secs(30);

/// Reads all files, hands on what they hold, and goes on handing on what changes until the receiver is gone. Each
/// problem is logged when it comes up.
///
/// # Errors
/// When a path does not exist at the beginning, or the system cannot watch it.
pub async fn watch(mut source: FileSource, updates: mpsc::Sender<Update>) -> Result<(), WatchError> {
    // Watching begins before the first reading, or a change between the two would be missed.
    let (wake, mut woken) = mpsc::channel::<()>(1);
    let first_places = Places::of(source.paths());
    let places = Arc::new(Mutex::new(first_places.clone()));
    let concerned = Arc::clone(&places);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let nothing = event.as_ref().is_ok_and(|event| {
            let places = lock(&concerned);
            event.kind.is_access() || !event.paths.is_empty() && !event.paths.iter().any(|path| places.concern(path))
        });
        if !nothing {
            // A full channel means that a reload is due anyway.
            let _ = wake.try_send(());
        }
    })?;
    first_places.watch(None, &mut watcher)?;
    let mut first = true;
    let mut problems: Arc<[Problem]> = Arc::default();
    loop {
        // Reading blocks, and a directory may hold a great many files.
        let reloaded = tokio::task::spawn_blocking(move || {
            let result = source.reload();
            (source, result)
        });
        let Ok((back, result)) = reloaded.await else {
            return Err(WatchError::Ended);
        };
        source = back;
        match result {
            Ok(events) => {
                let same = *problems == *source.problems();
                log_new(&problems, source.problems());
                problems = source.problems().into();
                if first || !events.is_empty() || !same {
                    first = false;
                    if updates
                        .send(Update {
                            events,
                            versions: BTreeMap::new(),
                            problems: Arc::clone(&problems),
                        })
                        .await
                        .is_err()
                    {
                        return Ok(());
                    }
                }
            }
            Err(error) if first => return Err(error.into()),
            // Between removing and making a path there is nothing; what was read stays in force.
            Err(error) => tracing::warn!(%error, "configuration cannot be read; what was read before stays in force"),
        }
        tokio::select! {
            () = updates.closed() => return Ok(()),
            woken = timeout_at(Instant::now() + RESCAN, woken.recv()) => {
                if let Ok(None) = woken {
                    return Err(WatchError::Ended);
                }
            }
        }
        move_on(&places, source.paths(), &mut watcher);
        let limit = Instant::now() + AT_MOST;
        while Instant::now() < limit {
            if timeout_at(limit.min(Instant::now() + QUIET), woken.recv())
                .await
                .is_err()
            {
                break;
            }
        }
    }
}

/// Watches where the paths lead to now: a link on the way may have been turned, or a directory replaced.
fn move_on(places: &Mutex<Places>, paths: &[PathBuf], watcher: &mut dyn Watcher) {
    let now = Places::of(paths);
    // The watcher's own thread takes the lock, and is waited for below.
    let before = std::mem::replace(&mut *lock(places), now.clone());
    if let Err(error) = now.watch(Some(&before), watcher) {
        tracing::warn!(%error, "a directory cannot be watched; it is read every 30 s");
    }
}

/// It is written in one go, so one that a panic left behind is whole.
fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Files cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A path cannot be read.
    #[error(transparent)]
    File(#[from] super::FileError),
    /// The system refuses to watch.
    #[error("cannot watch files: {0}")]
    Watch(#[from] notify::Error),
    /// The watcher or the reader ended though nobody asked it to.
    #[error("watching files ended")]
    Ended,
}
