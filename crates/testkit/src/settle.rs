//! Waiting until every proxy has what was written: read, sent, acknowledged and warm.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::agent::PodAgent;
use crate::{Lateend, eventually};

/// How long a change may take to be everywhere.
const PATIENCE: Duration = Duration::from_secs(30);

/// A change that is about to be written.
#[derive(Debug)]
pub struct Change {
    /// The newest snapshot that a proxy was to have before.
    before: u64,
}

impl Change {
    /// Looks at what proxies are to have now.
    ///
    /// # Errors
    /// When the control plane does not answer.
    pub async fn begin(lateend: &Lateend) -> Result<Self> {
        let before = rows(lateend)
            .await?
            .iter()
            .filter_map(|row| row["wanted"].as_u64())
            .max();
        Ok(Self {
            before: before.unwrap_or(0),
        })
    }

    /// Waits until the control plane has read a service named `marker`, and `proxies` proxies have acknowledged
    /// everything of a newer snapshot; says when that was seen.
    ///
    /// # Errors
    /// When that takes too long, or a proxy rejects something.
    pub async fn acknowledged(&self, lateend: &Lateend, marker: &str, proxies: usize) -> Result<Instant> {
        eventually("the control plane has read the change", PATIENCE, async || {
            let services = lateend.http("/debug/registryz").await.ok()?;
            services.body.contains(marker).then_some(())
        })
        .await?;
        let since = eventually("all proxies have the change", PATIENCE, async || {
            let rows = rows(lateend).await.ok()?;
            let settled = rows.iter().filter(|row| {
                row["settled"] == row["wanted"] && row["wanted"].as_u64().is_some_and(|wanted| wanted > self.before)
            });
            (settled.count() == proxies).then(Instant::now)
        })
        .await?;
        let status = lateend.push_status().await?;
        let none = status["rejected"].as_array().is_none_or(Vec::is_empty);
        ensure!(none, "proxies reject: {}", status["rejected"]);
        Ok(since)
    }
}

/// Waits until nothing of a proxy's clusters and listeners is warming any more.
///
/// # Errors
/// When that takes too long.
pub async fn warm(name: &str, agent: &PodAgent) -> Result<()> {
    eventually(&format!("{name} has warmed all up"), PATIENCE, async || {
        let filter = "/stats?filter=(total_listeners_warming|cluster_manager.warming_clusters)";
        let stats = agent.admin(filter).await.ok()?;
        stats.lines().all(|line| line.ends_with(": 0")).then_some(())
    })
    .await
}

async fn rows(lateend: &Lateend) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&lateend.http("/debug/syncz").await?.body)?)
}
