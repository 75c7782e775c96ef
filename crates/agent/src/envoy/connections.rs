//! How many clients are connected to Envoy, without those of the proxy's own listeners.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::bail;
use http::StatusCode;

use crate::config::Ports;
use crate::http_client;

const SUFFIX: &str = ".downstream_cx_active";
const MAXIMUM_ANSWER: usize = 4 << 20;

/// The listeners whose clients are probes and scrapers, who never leave.
#[derive(Debug)]
pub(super) struct OwnListeners(BTreeSet<String>);

impl OwnListeners {
    /// The static listeners on these ports, and the admin interface.
    pub(super) fn new(wildcard: &str, ports: &Ports) -> Self {
        let own = [
            ports.envoy_status,
            ports.envoy_prometheus,
            ports.secure_metrics,
            ports.secure_merged_metrics,
        ];
        // Envoy writes colons in names of statistics as underscores.
        let name = |port: u16| format!("{}_{port}", wildcard.replace(':', "_"));
        let named = own.into_iter().filter(|port| *port != 0).map(name);
        Self(named.chain(["admin", "admin.main_thread"].map(str::to_owned)).collect())
    }

    /// Asks Envoy.
    pub(super) async fn active(&self, admin: SocketAddr) -> anyhow::Result<u64> {
        let path = "/stats?usedonly&filter=downstream_cx_active$";
        let (status, stats) = http_client::get(admin, path, super::ADMIN_TIMEOUT, MAXIMUM_ANSWER).await?;
        if status != StatusCode::OK {
            bail!("Envoy's admin interface: {status}");
        }
        Ok(self.count(&stats))
    }

    /// Listeners' own gauges: not HTTP's, which count the same connections again, nor single workers', nor Envoy's
    /// internal listeners, whose connections come from within.
    fn count(&self, stats: &str) -> u64 {
        let active = |line: &str| {
            let (name, value) = line.rsplit_once(": ")?;
            let name = name.strip_prefix("listener.")?.strip_suffix(SUFFIX)?;
            let counted = !name.contains("worker_") && !name.starts_with("envoy_internal_") && !name.contains(".http.");
            (counted && !self.0.contains(name)).then(|| value.trim().parse::<u64>().ok())?
        };
        stats.lines().filter_map(active).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_of_the_application_count() {
        let ports = Ports {
            admin: 15000,
            status: 15020,
            envoy_status: 15021,
            envoy_prometheus: 15090,
            secure_metrics: 0,
            secure_merged_metrics: 0,
        };
        let own = OwnListeners::new("0.0.0.0", &ports);
        let stats = "http.inbound_0.0.0.0_80;.downstream_cx_active: 9\n\
            listener.0.0.0.0_15006.downstream_cx_active: 2\n\
            listener.0.0.0.0_15006.worker_0.downstream_cx_active: 2\n\
            listener.0.0.0.0_15021.downstream_cx_active: 1\n\
            listener.admin.downstream_cx_active: 1\n\
            listener.envoy_internal_main_internal.downstream_cx_active: 3\n\
            listener.10.0.0.1_8080.downstream_cx_active: 4\n";
        assert_eq!(own.count(stats), 6);
        assert_eq!(own.count(""), 0);
    }
}
