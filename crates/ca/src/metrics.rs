//! istiod's metrics of its CA, by istiod's names, so that dashboards and alerts keep working.

use std::time::SystemTime;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounter, IntCounterVec, Opts, Registry};

use crate::Clock;

/// Counters of the certificate service.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) requests: IntCounter,
    pub(crate) authentication_failures: IntCounter,
    pub(crate) request_errors: IntCounter,
    pub(crate) identity_errors: IntCounter,
    /// By `error`: why signing failed.
    pub(crate) signing_errors: IntCounterVec,
    /// By `reason`: why a caller was refused.
    pub(crate) refusals: IntCounterVec,
    pub(crate) issued: IntCounter,
    pub(crate) audit_lost: IntCounter,
    pub(crate) root_end: Expiry,
    pub(crate) chain_end: Expiry,
}

/// The end of a certificate, as a timestamp and as what is left of it when asked.
#[derive(Clone)]
pub(crate) struct Expiry {
    timestamp: Gauge,
    left: Gauge,
    clock: Clock,
}

impl Metrics {
    /// # Errors
    /// When the registry has one of these names already.
    pub(crate) fn register(registry: &Registry, clock: &Clock) -> Result<Self, prometheus::Error> {
        let counter = |name, help| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let expiry = |timestamp, left, what: &str| {
            let expiry = Expiry {
                timestamp: Gauge::new(timestamp, format!("When {what} expires, in seconds since 1970."))?,
                left: Gauge::new(
                    left,
                    format!("In how many seconds {what} expires; negative once it has."),
                )?,
                clock: clock.clone(),
            };
            registry.register(Box::new(expiry.clone()))?;
            Ok::<_, prometheus::Error>(expiry)
        };
        let signing_errors = IntCounterVec::new(
            Opts::new(
                "citadel_server_csr_sign_err_count",
                "Certificate requests whose signing failed.",
            ),
            &["error"],
        )?;
        registry.register(Box::new(signing_errors.clone()))?;
        let refusals = IntCounterVec::new(
            Opts::new(
                "lateen_ca_refusals_total",
                "Certificate requests that were refused to their callers.",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(refusals.clone()))?;
        Ok(Self {
            requests: counter("citadel_server_csr_count", "Certificate requests received.")?,
            authentication_failures: counter(
                "citadel_server_authentication_failure_count",
                "Certificate requests whose caller could not prove an identity.",
            )?,
            request_errors: counter(
                "citadel_server_csr_parsing_err_count",
                "Certificate requests that were malformed or asked to certify a weak key.",
            )?,
            identity_errors: counter(
                "citadel_server_id_extraction_err_count",
                "Certificate requests whose caller's identity cannot be certified.",
            )?,
            signing_errors,
            refusals,
            issued: counter(
                "citadel_server_success_cert_issuance_count",
                "Certificates issued to workloads.",
            )?,
            audit_lost: counter(
                "lateen_ca_audit_lost_total",
                "Lines of the audit log of certificates that could not be written.",
            )?,
            root_end: expiry(
                "citadel_server_root_cert_expiry_timestamp",
                "citadel_server_root_cert_expiry_seconds",
                "the root certificate",
            )?,
            chain_end: expiry(
                "citadel_server_cert_chain_expiry_timestamp",
                "citadel_server_cert_chain_expiry_seconds",
                "the signing certificate",
            )?,
        })
    }
}

impl Expiry {
    pub(crate) fn set(&self, end: SystemTime) {
        self.timestamp.set(seconds(end));
    }
}

impl Collector for Expiry {
    fn desc(&self) -> Vec<&Desc> {
        [self.timestamp.desc(), self.left.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.left.set(self.timestamp.get() - seconds((self.clock)()));
        [self.timestamp.collect(), self.left.collect()].concat()
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
