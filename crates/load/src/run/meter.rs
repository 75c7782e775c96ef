//! What is received and used between two times.

use anyhow::Result;
use tokio::time::Instant;

use crate::fleet::{Fleet, Received};
use crate::latency::Latency;
use crate::process::{Usage, usage};
use crate::report::{Phase, Server};

/// A phase that has begun.
pub(super) struct Meter {
    name: String,
    pid: Option<u32>,
    began: Instant,
    received: Received,
    used: Option<Usage>,
}

// === impl Meter ===

impl Meter {
    /// Begins now.
    ///
    /// # Errors
    /// When the server's process has gone.
    pub(super) fn start(fleet: &Fleet, pid: Option<u32>, name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            pid,
            used: pid.map(usage).transpose()?,
            received: fleet.received(),
            began: Instant::now(),
        })
    }

    /// Ends now. Something was done so many times, and arrived after so many milliseconds each.
    ///
    /// # Errors
    /// When the server's process has gone.
    pub(super) fn stop(self, fleet: &Fleet, times: usize, arrivals: Vec<f64>) -> Result<Phase> {
        let received = fleet.received();
        let server = match (self.used, self.pid.map(usage).transpose()?) {
            (Some(before), Some(now)) => Some(Server {
                cpu_seconds: now.cpu - before.cpu,
                resident: now.resident,
                peak: now.peak,
            }),
            _ => None,
        };
        Ok(Phase {
            name: self.name,
            times,
            seconds: self.began.elapsed().as_secs_f64(),
            latency: Latency::of(&arrivals),
            arrivals,
            responses: received.responses - self.received.responses,
            resources: received.resources - self.received.resources,
            bytes: received.bytes - self.received.bytes,
            server,
            ..Phase::default()
        })
    }
}
