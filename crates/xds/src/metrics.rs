//! What istiod's dashboards show of proxies and pushes, under istiod's names.

use lateen_runtime::metrics::{
    Error, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Metrics,
};

use crate::types::short_name;

/// Counts what goes on on all streams. Clones share it.
#[derive(Debug, Clone)]
pub struct XdsMetrics {
    /// `pilot_xds`: streams by the proxies' version.
    pub(crate) connected: IntGaugeVec,
    /// `pilot_xds_pushes`: responses by type.
    pub(crate) pushes: IntCounterVec,
    /// `pilot_xds_push_time`: seconds to find out what to send.
    pub(crate) push_time: HistogramVec,
    /// `pilot_xds_send_time`: seconds until the connection has taken a response.
    pub(crate) send_time: Histogram,
    /// `pilot_xds_config_size_bytes`: sizes of responses.
    pub(crate) size: HistogramVec,
    /// `pilot_proxy_convergence_time`: seconds from a change to a proxy that holds it.
    pub(crate) convergence: Histogram,
    /// `pilot_proxy_queue_time`: seconds that new streams wait for their turn.
    pub(crate) queue_time: Histogram,
    /// `pilot_total_xds_rejects`: rejected responses by type.
    pub(crate) rejects: IntCounterVec,
    /// `pilot_xds_expired_nonce`: answers to responses that are not the last.
    pub(crate) expired: IntCounterVec,
    /// `pilot_total_xds_internal_errors`: streams that ended by our fault.
    pub(crate) internal_errors: IntCounter,
    /// `pilot_xds_recv_max`: the largest request so far, in bytes.
    pub(crate) largest_request: IntGauge,
    /// `pilot_xds_cds_reject` and its kin: 1 for a proxy whose last answer was a rejection.
    rejecting: Vec<(&'static str, IntGaugeVec)>,
}

const TIMES: [f64; 9] = [0.01, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
const SEND_TIMES: [f64; 8] = [0.01, 0.1, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
const WAITS: [f64; 8] = [0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
const SIZES: [f64; 6] = [1.0, 10_000.0, 1_000_000.0, 4_000_000.0, 10_000_000.0, 40_000_000.0];

impl XdsMetrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn new(metrics: &Metrics) -> Result<Self, Error> {
        let rejecting = |short: &'static str| {
            let help = format!("Proxies whose last answer about {short} was a rejection.");
            Ok((
                short,
                metrics.gauges(&format!("pilot_xds_{short}_reject"), &help, &["node", "err"])?,
            ))
        };
        Ok(Self {
            connected: metrics.gauges("pilot_xds", "Proxies connected over xDS.", &["version"])?,
            pushes: metrics.counters("pilot_xds_pushes", "Responses sent, by type.", &["type"])?,
            push_time: metrics.histograms(
                "pilot_xds_push_time",
                "Seconds to find out what to send, by type.",
                &["type"],
                &TIMES,
            )?,
            send_time: metrics.histogram(
                "pilot_xds_send_time",
                "Seconds until a connection has taken a response.",
                &SEND_TIMES,
            )?,
            size: metrics.histograms(
                "pilot_xds_config_size_bytes",
                "Sizes of responses' resources, by type.",
                &["type"],
                &SIZES,
            )?,
            convergence: metrics.histogram(
                "pilot_proxy_convergence_time",
                "Seconds from a change to a proxy that has acknowledged all it brings.",
                &WAITS,
            )?,
            queue_time: metrics.histogram(
                "pilot_proxy_queue_time",
                "Seconds that a new stream waits for its first response to be made.",
                &WAITS,
            )?,
            rejects: metrics.counters(
                "pilot_total_xds_rejects",
                "Responses that proxies rejected, by type.",
                &["type"],
            )?,
            expired: metrics.counters(
                "pilot_xds_expired_nonce",
                "Requests that answer a response that is not the last, by type.",
                &["type"],
            )?,
            internal_errors: metrics.counter(
                "pilot_total_xds_internal_errors",
                "Streams that ended by a fault of the control plane.",
            )?,
            largest_request: metrics.gauge("pilot_xds_recv_max", "The largest request so far, in bytes.")?,
            rejecting: ["cds", "eds", "lds", "rds"]
                .into_iter()
                .map(rejecting)
                .collect::<Result<_, Error>>()?,
        })
    }

    /// The gauge of proxies that reject a type, for the types that istiod has one for.
    pub(crate) fn rejecting(&self, type_url: &str) -> Option<&IntGaugeVec> {
        let short = short_name(type_url);
        self.rejecting
            .iter()
            .find(|(name, _)| *name == short)
            .map(|(_, gauge)| gauge)
    }
}
