//! How far proxies have come.

use std::sync::Arc;

use lateen_names::ObjectRef;
use lateen_runtime::metrics::{Error, Metrics};
use prometheus::IntGauge;

/// How far the connected proxies have come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many there are.
    pub proxies: usize,
    /// The newest snapshot.
    pub newest: u64,
    /// The newest snapshot that all of them hold, or needed no byte of; the newest there is when none is connected.
    pub settled: u64,
    /// How many do not hold the newest snapshot yet.
    pub behind: usize,
    /// The ID of the one that is furthest behind.
    pub behind_proxy: Option<Arc<str>>,
    /// What they rejected and would still be sent: each resource once, however many rejected it.
    pub rejections: Vec<Rejection>,
}

/// A resource that a proxy rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The objects that it was made from.
    pub objects: Arc<[ObjectRef]>,
    /// Its type.
    pub type_url: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The ID of a proxy that rejected it.
    pub proxy: Arc<str>,
    /// The proxy's words.
    pub reason: Arc<str>,
}

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
