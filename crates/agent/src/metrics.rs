//! The agent's own metrics, by pilot-agent's names.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the agent counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    started: Instant,
    /// Milliseconds from the start to the first time the proxy was ready, plus one; zero before.
    ready_after: AtomicU64,
    pub(crate) scrapes: Counter,
    pub(crate) scrape_failures_envoy: Counter,
    pub(crate) scrape_failures_application: Counter,
    pub(crate) ca_requests: Counter,
    pub(crate) ca_failures: Counter,
    pub(crate) dns_requests: Counter,
    pub(crate) dns_upstream_requests: Counter,
    pub(crate) dns_upstream_failures: Counter,
    pub(crate) connection_failures: Counter,
    pub(crate) upstream_terminations: Counter,
    pub(crate) envoy_terminations: Counter,
    pub(crate) xds_requests: Counter,
    pub(crate) xds_responses: Counter,
    pub(crate) wasm_modules: Counter,
    pub(crate) wasm_failures: Counter,
}

// === impl Metrics ===

impl Metrics {
    /// All zero, from now.
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            ready_after: AtomicU64::default(),
            scrapes: Counter::default(),
            scrape_failures_envoy: Counter::default(),
            scrape_failures_application: Counter::default(),
            ca_requests: Counter::default(),
            ca_failures: Counter::default(),
            dns_requests: Counter::default(),
            dns_upstream_requests: Counter::default(),
            dns_upstream_failures: Counter::default(),
            connection_failures: Counter::default(),
            upstream_terminations: Counter::default(),
            envoy_terminations: Counter::default(),
            xds_requests: Counter::default(),
            xds_responses: Counter::default(),
            wasm_modules: Counter::default(),
            wasm_failures: Counter::default(),
        }
    }

    /// The proxy is ready; only the first time counts.
    pub(crate) fn ready(&self) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        let _ = self
            .ready_after
            .compare_exchange(0, millis, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// In Prometheus' text format. `expiry` is when the workload's certificate ends.
    pub(crate) fn render(&self, expiry: Option<SystemTime>) -> String {
        let mut out = String::new();
        let mut write = |name: &str, kind: &str, help: &str, samples: &[(&str, f64)]| {
            let _ = writeln!(
                out,
                "# HELP istio_agent_{name} {help}\n# TYPE istio_agent_{name} {kind}"
            );
            for (labels, value) in samples {
                let _ = writeln!(out, "istio_agent_{name}{labels} {value}");
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
        let count = |counter: &Counter| counter.get() as f64;
        let failures = [
            (r#"{type="envoy"}"#, count(&self.scrape_failures_envoy)),
            (r#"{type="application"}"#, count(&self.scrape_failures_application)),
        ];
        let plain = |counter: &Counter| [("", count(counter))];
        let modules = [
            (r#"{result="success"}"#, count(&self.wasm_modules)),
            (r#"{result="fetch_failure"}"#, count(&self.wasm_failures)),
        ];
        let csr = |counter: &Counter| [(r#"{request_type="csr"}"#, count(counter))];
        write("scrapes_total", "counter", "Scrapes answered.", &plain(&self.scrapes));
        write(
            "scrape_failures_total",
            "counter",
            "Scrapes of Envoy or the application that failed.",
            &failures,
        );
        write(
            "wasm_config_conversion_count",
            "counter",
            "Configurations whose WebAssembly module was looked for.",
            &modules,
        );
        write(
            "num_outgoing_requests",
            "counter",
            "Requests to the certificate authority.",
            &csr(&self.ca_requests),
        );
        write(
            "num_failed_outgoing_requests",
            "counter",
            "Failed requests to it.",
            &csr(&self.ca_failures),
        );
        write(
            "dns_requests_total",
            "counter",
            "DNS queries.",
            &plain(&self.dns_requests),
        );
        write(
            "dns_upstream_requests_total",
            "counter",
            "DNS queries passed on.",
            &plain(&self.dns_upstream_requests),
        );
        write(
            "dns_upstream_failures_total",
            "counter",
            "Of these, unanswered.",
            &plain(&self.dns_upstream_failures),
        );
        write(
            "istiod_connection_failures",
            "counter",
            "Failed connections to the control plane.",
            &plain(&self.connection_failures),
        );
        write(
            "istiod_connection_terminations",
            "counter",
            "Streams that the control plane ended.",
            &plain(&self.upstream_terminations),
        );
        write(
            "envoy_connection_terminations",
            "counter",
            "Streams that Envoy ended.",
            &plain(&self.envoy_terminations),
        );
        write(
            "xds_proxy_requests",
            "counter",
            "Discovery requests passed on.",
            &plain(&self.xds_requests),
        );
        write(
            "xds_proxy_responses",
            "counter",
            "Discovery responses passed on.",
            &plain(&self.xds_responses),
        );
        if let Some(expiry) = expiry {
            let left = match expiry.duration_since(SystemTime::now()) {
                Ok(left) => left.as_secs_f64(),
                Err(over) => -over.duration().as_secs_f64(),
            };
            write(
                "cert_expiry_seconds",
                "gauge",
                "Life left of the workload's certificate.",
                &[(r#"{resource_name="default"}"#, left)],
            );
        }
        let ready_after = self.ready_after.load(Ordering::Relaxed);
        if ready_after > 0 {
            #[expect(clippy::cast_precision_loss, reason = "a start-up takes no years")]
            let seconds = (ready_after - 1) as f64 / 1000.0;
            write(
                "startup_duration_seconds",
                "gauge",
                "From the start to the first readiness.",
                &[("", seconds)],
            );
        }
        if let Some(bytes) = resident_memory() {
            #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
            write(
                "process_resident_memory_bytes",
                "gauge",
                "Resident memory of the agent.",
                &[("", bytes as f64)],
            );
        }
        out
    }
}

/// This process's resident memory in bytes, where /proc tells it.
fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_one_type_line() {
        let metrics = Metrics::new();
        metrics.dns_requests.increment();
        metrics.ready();
        let text = metrics.render(Some(SystemTime::now()));
        assert!(text.contains("\nistio_agent_dns_requests_total 1\n"), "{text}");
        assert!(text.contains("istio_agent_startup_duration_seconds"), "{text}");
        assert!(text.contains("istio_agent_process_resident_memory_bytes"), "{text}");
        let mut types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let all = types.len();
        types.dedup();
        assert_eq!(types.len(), all);
    }
}
