//! Metrics under the names that istiod's dashboards know, and the text form that Prometheus reads.
//!
//! The registry is the `prometheus` crate's, not `prometheus-client`'s: the latter adds `_total` to every counter, and
//! most of istiod's counters do not end in it.

mod process;

use std::sync::Arc;

use prometheus::core::Collector;
pub use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};
use prometheus::{HistogramOpts, Opts, PullingGauge, Registry, TextEncoder};

/// Content type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Makes and holds metrics. Clones share them.
///
/// Every constructor fails with [`Error::AlreadyReg`] when another metric has the name, and with [`Error::Msg`] when the
/// name or a label is not one of Prometheus'.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty registry.
    pub fn new() -> Self {
        Self {
            registry: Arc::new(Registry::new()),
        }
    }

    /// Adds what `/proc` says of this process: CPU seconds, resident and virtual memory, open files, start time,
    /// under the names of Prometheus' client libraries.
    ///
    /// # Errors
    /// When they are there already.
    pub fn add_process(&self) -> Result<(), Error> {
        self.registry.register(Box::new(process::Process::new()?))
    }

    /// A count that only grows.
    ///
    /// # Errors
    /// See [`Metrics`].
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.add(IntCounter::new(name, help)?)
    }

    /// Counts by label.
    ///
    /// # Errors
    /// See [`Metrics`].
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    /// A whole number that goes up and down.
    ///
    /// # Errors
    /// See [`Metrics`].
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.add(IntGauge::new(name, help)?)
    }

    /// Whole numbers by label.
    ///
    /// # Errors
    /// See [`Metrics`].
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    /// A number with a fraction that goes up and down.
    ///
    /// # Errors
    /// See [`Metrics`].
    pub fn float_gauge(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.add(Gauge::new(name, help)?)
    }

    /// A distribution with the upper bounds of its buckets.
    ///
    /// # Errors
    /// See [`Metrics`].
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
        self.add(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        )?)
    }

    /// Distributions by label.
    ///
    /// # Errors
    /// See [`Metrics`].
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<HistogramVec, Error> {
        self.add(HistogramVec::new(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
            labels,
        )?)
    }

    /// A number that is worked out when it is asked for.
    ///
    /// # Errors
    /// See [`Metrics`].
    pub fn computed(
        &self,
        name: &str,
        help: &str,
        value: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.collect(PullingGauge::new(name, help, Box::new(value))?)
    }

    /// Adds any collector, for values that are looked up when they are asked for.
    ///
    /// # Errors
    /// See [`Metrics`].
    pub fn collect(&self, collector: impl Collector + 'static) -> Result<(), Error> {
        self.registry.register(Box::new(collector))
    }

    /// The registry itself, for parts that register their own.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All metrics in Prometheus' text form ([`CONTENT_TYPE`]).
    ///
    /// # Errors
    /// When a collector hands out what cannot be written.
    pub fn encode(&self) -> Result<String, Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    fn add<M: Collector + Clone + 'static>(&self, metric: M) -> Result<M, Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_out_as_they_went_in() {
        let metrics = Metrics::new();
        let pushes = metrics.counters("pilot_xds_pushes", "Pushes.", &["type"]).unwrap();
        pushes.with_label_values(&["cds"]).inc();
        let text = metrics.encode().unwrap();
        assert!(text.contains("pilot_xds_pushes{type=\"cds\"} 1"), "{text}");
        assert!(matches!(
            metrics.gauge("pilot_xds_pushes", "Again."),
            Err(Error::AlreadyReg)
        ));
    }

    #[test]
    fn computed_numbers_are_worked_out_when_asked_for() {
        let metrics = Metrics::new();
        let asked = std::sync::atomic::AtomicU32::new(0);
        let count = move || f64::from(asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1);
        metrics.computed("asked", "Times asked.", count).unwrap();
        assert!(metrics.encode().unwrap().contains("asked 1\n"));
        assert!(metrics.encode().unwrap().contains("asked 2\n"));
    }

    #[test]
    fn the_process_is_measured() {
        let metrics = Metrics::new();
        metrics.add_process().unwrap();
        let text = metrics.encode().unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_start_time_seconds") > 1.7e9);
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
