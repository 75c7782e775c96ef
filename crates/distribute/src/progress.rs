//! How far proxies have come.

use lateen_runtime::metrics::{Error, Metrics};
use prometheus::IntGauge;

/// Gauges of the distributor.
#[derive(Debug, Clone)]
pub struct ProgressMetrics {
    pub(crate) proxies: IntGauge,
    pub(crate) sets: IntGauge,
    pub(crate) resources: IntGauge,
    pub(crate) snapshot: IntGauge,
}

impl ProgressMetrics {
    /// Registers the gauges.
    ///
    /// # Errors
    /// When a gauge of the same name is registered already.
    pub fn new(metrics: &Metrics) -> Result<Self, Error> {
        Ok(Self {
            proxies: metrics.gauge("lateen_proxies", "Proxies that are connected.")?,
            sets: metrics.gauge(
                "lateen_class_sets",
                "Sets of resources kept, one for each family and class.",
            )?,
            resources: metrics.gauge(
                "lateen_built_resources",
                "Encoded resources kept, shared by all classes.",
            )?,
            snapshot: metrics.gauge("lateen_snapshot", "Number of the newest snapshot that was distributed.")?,
        })
    }
}
