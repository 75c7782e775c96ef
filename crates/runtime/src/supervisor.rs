//! Tasks that somebody watches: one that must not end takes the process with it.

use std::any::Any;
use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::{Drain, Shutdown};

/// Owns the process's tasks. Clones share them.
#[derive(Debug, Clone)]
pub struct Supervisor {
    tasks: TaskTracker,
    failures: mpsc::UnboundedSender<TaskFailure>,
    shutdown: Shutdown,
}

/// The end of the process that nobody asked for.
#[derive(Debug, thiserror::Error)]
pub enum TaskFailure {
    /// A task that must not end returned.
    #[error("task `{task}` ended though it must not")]
    Ended {
        /// The task's name.
        task: String,
    },
    /// A task returned an error.
    #[error("task `{task}` failed: {reason}")]
    Failed {
        /// The task's name.
        task: String,
        /// The error's text.
        reason: String,
    },
    /// A task panicked.
    #[error("task `{task}` panicked: {reason}")]
    Panicked {
        /// The task's name.
        task: String,
        /// The panic's message.
        reason: String,
    },
    /// The handlers of SIGTERM and SIGINT could not be set.
    #[error("cannot handle SIGTERM and SIGINT: {0}")]
    Signals(#[source] std::io::Error),
}

/// What a task may return: nothing, or an error that can be shown.
pub trait TaskOutput {
    /// The error's text, if there was one.
    fn error(self) -> Option<String>;
}

impl TaskOutput for () {
    fn error(self) -> Option<String> {
        None
    }
}

impl<E: Display> TaskOutput for Result<(), E> {
    fn error(self) -> Option<String> {
        // The alternate form of anyhow's errors shows the whole chain.
        self.err().map(|error| format!("{error:#}"))
    }
}

// === impl Supervisor ===

impl Supervisor {
    /// No task yet. The second part says what went wrong, to [`Self::run`].
    pub fn new() -> (Self, Failures) {
        let (failures, receiver) = mpsc::unbounded_channel();
        (
            Self {
                tasks: TaskTracker::new(),
                failures,
                shutdown: Shutdown::new(),
            },
            Failures(receiver),
        )
    }

    /// Runs a task that must not end before the drain begins: an earlier end, an error at any time, or a panic ends
    /// the process with [`TaskFailure`]. When the grace is used up the task is dropped.
    pub fn spawn<F>(&self, name: impl Into<String>, future: F)
    where
        F: Future<Output: TaskOutput> + Send + 'static,
    {
        let (task, drain, failures) = (name.into(), self.drain(), self.failures.clone());
        self.start(task, future, move |task, end| {
            let failure = match end {
                End::Expired => return,
                End::Returned(None) if drain.is_draining() => return,
                End::Returned(None) => TaskFailure::Ended { task },
                End::Returned(Some(reason)) => TaskFailure::Failed { task, reason },
                End::Panicked(reason) => TaskFailure::Panicked { task, reason },
            };
            tracing::error!(error = %failure, "ending the process");
            // Nobody listens any more when the process is already ending.
            let _ = failures.send(failure);
        });
    }

    /// Runs a task that may end. An error or a panic is logged and concerns nobody else.
    pub fn spawn_finite<F>(&self, name: impl Into<String>, future: F)
    where
        F: Future<Output: TaskOutput> + Send + 'static,
    {
        self.start(name.into(), future, |task, end| match end {
            End::Returned(Some(error)) => tracing::warn!(task, error, "task failed"),
            End::Panicked(error) => tracing::error!(task, error, "task panicked"),
            End::Returned(None) | End::Expired => {}
        });
    }

    /// Who wants to know of the end of the process.
    pub fn drain(&self) -> Drain {
        self.shutdown.drain()
    }

    /// Who may end the process.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Runs until SIGTERM, SIGINT, [`Shutdown::begin`] or a task's failure, then drains: tasks have `grace` to return,
    /// what is left is dropped. A second signal drops at once.
    ///
    /// # Errors
    /// The first [`TaskFailure`], whether it came before the drain or in it.
    pub async fn run(self, mut failures: Failures, grace: Duration) -> Result<(), TaskFailure> {
        let mut terminate = signal(SignalKind::terminate()).map_err(TaskFailure::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(TaskFailure::Signals)?;
        let drain = self.drain();
        let mut failure = tokio::select! {
            _ = terminate.recv() => { tracing::info!(signal = "SIGTERM", "draining"); None }
            _ = interrupt.recv() => { tracing::info!(signal = "SIGINT", "draining"); None }
            () = drain.started() => None,
            failure = failures.0.recv() => failure,
        };
        self.shutdown.begin();
        self.tasks.close();
        let hurry = async {
            tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        };
        tokio::select! {
            () = self.tasks.wait() => {}
            () = hurry => tracing::warn!("second signal, ending at once"),
            () = drain.expired() => {}
            () = tokio::time::sleep(grace) => tracing::warn!(tasks = self.tasks.len(), ?grace, "grace used up"),
        }
        self.shutdown.end();
        self.tasks.wait().await;
        if failure.is_none() {
            failure = failures.0.try_recv().ok();
        }
        failure.map_or(Ok(()), Err)
    }

    fn start<F>(&self, name: String, future: F, ended: impl FnOnce(String, End) + Send + 'static)
    where
        F: Future<Output: TaskOutput> + Send + 'static,
    {
        let drain = self.drain();
        let span = tracing::debug_span!("task", name);
        let task = async move {
            let work = AssertUnwindSafe(future).catch_unwind();
            let end = tokio::select! {
                biased;
                result = work => match result {
                    Ok(output) => End::Returned(output.error()),
                    Err(panic) => End::Panicked(panic_message(panic.as_ref())),
                },
                () = drain.expired() => End::Expired,
            };
            ended(name, end);
        };
        self.tasks.spawn(task.instrument(span));
    }
}

/// Tells [`Supervisor::run`] which task failed.
#[derive(Debug)]
pub struct Failures(mpsc::UnboundedReceiver<TaskFailure>);

enum End {
    Returned(Option<String>),
    Panicked(String),
    Expired,
}

/// The text of a panic, as far as it has one.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_task_that_must_not_end_takes_the_process_with_it() {
        let (supervisor, failures) = Supervisor::new();
        supervisor.spawn_finite("once", async { Err::<(), _>("not so bad") });
        supervisor.spawn("index", async {});
        let error = supervisor.run(failures, GRACE).await.unwrap_err().to_string();
        assert_eq!(error, "task `index` ended though it must not");
    }

    #[tokio::test]
    async fn a_panic_is_reported_with_its_text() {
        let (supervisor, failures) = Supervisor::new();
        supervisor.spawn("index", async {
            if true {
                panic!("lost {}", "count");
            }
        });
        let error = supervisor.run(failures, GRACE).await.unwrap_err().to_string();
        assert_eq!(error, "task `index` panicked: lost count");
    }

    #[tokio::test]
    async fn draining_waits_for_tasks() {
        let (supervisor, failures) = Supervisor::new();
        let (drain, shutdown) = (supervisor.drain(), supervisor.shutdown());
        let (done, finished) = tokio::sync::oneshot::channel();
        supervisor.spawn("server", async move {
            drain.started().await;
            tokio::task::yield_now().await;
            let _ = done.send(());
        });
        shutdown.begin();
        supervisor.run(failures, GRACE).await.unwrap();
        finished.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_grace_is_bounded() {
        let (supervisor, failures) = Supervisor::new();
        supervisor.spawn("stuck", std::future::pending::<()>());
        supervisor.shutdown().begin();
        supervisor.run(failures, GRACE).await.unwrap();
    }
}
