//! Process life: logging, metrics, admin HTTP, readiness, drain, supervised tasks, clock.
//!
//! A binary makes one [`Supervisor`], spawns its parts on it and ends with [`Supervisor::run`]. Parts learn of the end
//! from a [`Drain`]; what must be there before the process says it is ready holds a [`ReadyGuard`].

pub mod admin;
mod clock;
mod drain;
pub mod logging;
pub mod metrics;
mod readiness;
mod supervisor;

pub use clock::{Clock, ManualClock};
pub use drain::{Drain, Shutdown};
pub use readiness::{Readiness, ReadyGuard};
pub use supervisor::{Failures, Supervisor, TaskFailure, TaskOutput};
