//! What a process uses, from `/proc`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often memory is looked at.
const INTERVAL: Duration = Duration::from_millis(250);

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system time, in seconds.
    pub(crate) cpu: f64,
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
    /// The most it was since the process began, in bytes.
    pub(crate) peak: u64,
}

/// Memory at one time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the run began.
    pub at: f64,
    /// Resident memory, in bytes.
    pub resident: u64,
}

/// Looks at a process's memory again and again; ends when it is dropped.
pub(crate) struct Sampler {
    samples: Arc<Mutex<Vec<Sample>>>,
    _task: JoinSet<()>,
}

/// What a process has used so far.
///
/// # Errors
/// When there is no such process, or this is no Linux.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        std::fs::read_to_string(&path).with_context(|| format!("{path}: is --pid the control plane's process?"))
    };
    parse(
        &read("stat")?,
        &read("status")?,
        rustix::param::clock_ticks_per_second(),
    )
    .with_context(|| format!("/proc/{pid}/stat or status cannot be read"))
}

fn parse(stat: &str, status: &str, ticks: u64) -> Option<Usage> {
    // The name before it may hold anything, parentheses too.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let mut seconds = || Some(times.next()?.parse::<f64>().ok()? / ticks as f64);
    let cpu = seconds()? + seconds()?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(1024 * line.split_whitespace().next()?.parse::<u64>().ok()?)
    };
    Some(Usage {
        cpu,
        resident: bytes("VmRSS:")?,
        peak: bytes("VmHWM:")?,
    })
}

// === impl Sampler ===

impl Sampler {
    /// Begins now.
    pub(crate) fn start(pid: u32) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (began, kept) = (Instant::now(), samples.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut ticks = interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let Ok(usage) = usage(pid) else { return };
                let sample = Sample {
                    at: began.elapsed().as_secs_f64(),
                    resident: usage.resident,
                };
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
            }
        });
        Self { samples, _task: task }
    }

    /// What it has seen.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Lets this process have as many connections as the system allows; how many.
///
/// # Errors
/// When the system refuses.
pub(crate) fn raise_open_files() -> Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, most).context("cannot raise the limit of open files")?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_memory_are_read_whatever_the_process_is_called() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 1 1 1";
        let status = "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let usage = parse(stat, status, 100).unwrap();
        assert_eq!(usage.cpu, 3.0);
        assert_eq!((usage.resident, usage.peak), (1 << 20, 2 << 20));
        assert_eq!(parse(stat, "Name:\ta\n", 100), None);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(usage(std::process::id()).unwrap().resident > 0);
        assert!(usage(u32::MAX).is_err());
    }
}
