//! A gauge whose value is worked out when it is read.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Error, Gauge};

pub(super) struct Computed {
    gauge: Gauge,
    value: Box<dyn Fn() -> f64 + Send + Sync>,
}

impl Computed {
    pub(super) fn new(name: &str, help: &str, value: Box<dyn Fn() -> f64 + Send + Sync>) -> Result<Self, Error> {
        Ok(Self {
            gauge: Gauge::new(name, help)?,
            value,
        })
    }
}

impl Collector for Computed {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set((self.value)());
        self.gauge.collect()
    }
}
