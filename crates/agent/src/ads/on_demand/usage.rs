//! What Envoy has counted for each of its clusters: its admin interface says it of every endpoint, whatever statistics are
//! kept otherwise.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http::StatusCode;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::OnDemand;
use crate::http_client;

const TIMEOUT: Duration = Duration::from_secs(10);
const MAXIMUM_ANSWER: usize = 64 << 20;
/// How often it is looked at, at most and at least: a quarter of the time after which something is forgotten.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(300);

/// The requests of one cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// So far, to the endpoints that it has now.
    pub(super) requests: u64,
    /// There are some under way.
    pub(super) active: bool,
}

/// Forgets what is not used, until told to stop.
pub(crate) async fn watch_usage(on_demand: Arc<OnDemand>, admin: SocketAddr, stop: CancellationToken) {
    let pause = (on_demand.idle / 4).clamp(SHORTEST, LONGEST);
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        if on_demand.is_empty() {
            continue;
        }
        match ask(admin).await {
            Ok(counted) => {
                let forgotten = on_demand.look(&counted, Instant::now());
                if forgotten > 0 {
                    tracing::info!(clusters = forgotten, idle = ?on_demand.idle, "forgets what was not used");
                }
            }
            Err(error) => tracing::debug!(error = format!("{error:#}"), "cannot see which clusters are used"),
        }
    }
}

async fn ask(admin: SocketAddr) -> anyhow::Result<BTreeMap<String, Counted>> {
    let (status, text) = http_client::get(admin, "/clusters?format=json", TIMEOUT, MAXIMUM_ANSWER).await?;
    if status != StatusCode::OK {
        bail!("Envoy's admin interface: {status}");
    }
    read(&text).context("Envoy's /clusters")
}

/// `envoy.admin.v3.Clusters`, as far as it is read.
#[derive(Deserialize)]
struct Clusters {
    #[serde(default)]
    cluster_statuses: Vec<Cluster>,
}

#[derive(Deserialize)]
struct Cluster {
    name: String,
    #[serde(default)]
    host_statuses: Vec<Host>,
}

#[derive(Deserialize)]
struct Host {
    #[serde(default)]
    stats: Vec<Metric>,
}

/// `envoy.admin.v3.SimpleMetric`, whose 64 bits JSON has as text; zero is left out.
#[derive(Deserialize)]
struct Metric {
    name: String,
    #[serde(default)]
    value: String,
}

fn read(text: &str) -> serde_json::Result<BTreeMap<String, Counted>> {
    let clusters: Clusters = serde_json::from_str(text)?;
    let one = |cluster: Cluster| {
        let mut counted = Counted::default();
        for metric in cluster.host_statuses.into_iter().flat_map(|host| host.stats) {
            let value = metric.value.parse::<u64>().unwrap_or(0);
            match &*metric.name {
                "rq_total" => counted.requests += value,
                "rq_active" => counted.active |= value > 0,
                _ => {}
            }
        }
        (cluster.name, counted)
    };
    Ok(clusters.cluster_statuses.into_iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_all_endpoints_are_counted() {
        let text = r#"{"cluster_statuses": [
            {"name": "outbound|80||a.shop.svc.cluster.local", "host_statuses": [
                {"address": {}, "stats": [{"name": "cx_total", "value": "9"}, {"name": "rq_total", "value": "2"},
                    {"type": "GAUGE", "name": "rq_active"}]},
                {"stats": [{"value": "3", "name": "rq_total"}, {"type": "GAUGE", "name": "rq_active", "value": "1"}]}]},
            {"name": "outbound|80||b.shop.svc.cluster.local", "added_via_api": true}]}"#;
        let counted = read(text).unwrap();
        let of = |name: &str| counted[&format!("outbound|80||{name}.shop.svc.cluster.local")];
        assert_eq!(
            of("a"),
            Counted {
                requests: 5,
                active: true
            }
        );
        assert_eq!(of("b"), Counted::default());
        assert!(read("{}").unwrap().is_empty());
        assert!(read("no").is_err());
    }
}
