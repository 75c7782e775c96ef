//! Whether Envoy is ready: it has taken clusters and listeners once, its workers run, and it is live.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::StatusCode;

use crate::http_client;

const TIMEOUT: Duration = Duration::from_secs(2);
/// Statistics by a filter are short.
const MAXIMUM_ANSWER: usize = 1 << 20;
const FIRST: &str = "/stats?usedonly&filter=server.state%7Ccds.update_%7Clds.update_%7Cworkers_started";
const LATER: &str = "/stats?usedonly&filter=server.state";

/// Asks Envoy.
#[derive(Debug)]
pub(crate) struct Readiness {
    /// Envoy's admin interface; none when there is no Envoy.
    admin: Option<SocketAddr>,
    /// Configuration has come once: it stays whatever becomes of the control plane.
    configured: AtomicBool,
}

impl Readiness {
    /// Nothing known yet.
    pub(crate) fn new(admin: Option<SocketAddr>) -> Self {
        Self {
            admin,
            configured: AtomicBool::new(false),
        }
    }

    /// # Errors
    /// When Envoy is not ready; the message says what is missing.
    pub(crate) async fn check(&self) -> anyhow::Result<()> {
        let Some(admin) = self.admin else { return Ok(()) };
        let configured = self.configured.load(Ordering::Relaxed);
        let path = if configured { LATER } else { FIRST };
        let (status, stats) = http_client::get(admin, path, TIMEOUT, MAXIMUM_ANSWER)
            .await
            .context("Envoy's admin interface")?;
        if status != StatusCode::OK {
            bail!("Envoy's admin interface: {status}");
        }
        judge(&stats, configured)?;
        self.configured.store(true, Ordering::Relaxed);
        Ok(())
    }
}

fn judge(stats: &str, configured: bool) -> anyhow::Result<()> {
    let value = |name: &str| {
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
        line.trim().parse::<u64>().ok()
    };
    if !configured {
        for (what, kind) in [
            ("clusters", "cluster_manager.cds"),
            ("listeners", "listener_manager.lds"),
        ] {
            if value(&format!("{kind}.update_success")).unwrap_or(0) > 0 {
                continue;
            }
            match value(&format!("{kind}.update_rejected")).unwrap_or(0) {
                0 => bail!("Envoy has received no {what} yet"),
                rejected => bail!("Envoy has rejected its {what} {rejected} times: see its log"),
            }
        }
        if value("listener_manager.workers_started") != Some(1) {
            bail!("Envoy's workers have not started");
        }
    }
    match value("server.state") {
        Some(0) => Ok(()),
        Some(1) => bail!("Envoy is draining"),
        Some(2) => bail!("Envoy is pre-initializing"),
        Some(_) => bail!("Envoy is initializing"),
        None => bail!("Envoy does not tell its state"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_must_be_there_once() {
        let stats = |cds: &str, lds: &str| {
            format!(
                "cluster_manager.cds.{cds}\nlistener_manager.lds.{lds}\nlistener_manager.workers_started: 1\nserver.state: 0\n"
            )
        };
        assert!(judge(&stats("update_success: 1", "update_success: 3"), false).is_ok());
        let missing = judge(&stats("update_success: 1", "update_attempt: 1"), false).unwrap_err();
        assert_eq!(missing.to_string(), "Envoy has received no listeners yet");
        let rejected = judge(&stats("update_rejected: 2", "update_success: 1"), false).unwrap_err();
        assert!(rejected.to_string().contains("rejected its clusters 2 times"));
        assert!(judge("server.state: 0\n", true).is_ok());
        assert!(judge("server.state: 1\n", true).is_err());
        assert!(judge("server.state: 0\n", false).is_err());
    }
}
