//! Limits of connections and requests, and when an endpoint is taken out.

use lateen_model::destination::{ConnectionPool, Keepalive, OutlierDetection, RetryBudget};
use lateen_proto::envoy::config::cluster::v3 as envoy;
use lateen_proto::envoy::config::cluster::v3::circuit_breakers::{Thresholds, thresholds};
use lateen_proto::envoy::config::core::v3 as core;
use lateen_proto::envoy::r#type::v3::Percent;

use super::settings::Settings;
use super::values;

/// Sets time-out of connecting, keep-alive and circuit breakers. What nobody limits is without limit: Envoy's own
/// limits (1024, and 3 retries) would turn requests away that the application could have served.
pub(crate) fn limit(
    cluster: &mut envoy::Cluster,
    pool: &ConnectionPool,
    budget: Option<&RetryBudget>,
    settings: &Settings,
) {
    let set = |value: Option<u32>| Some(value.filter(|n| *n > 0).unwrap_or(u32::MAX));
    let http = pool.http.as_ref();
    let tcp = pool.tcp.as_ref();
    let timeout = tcp
        .and_then(|tcp| tcp.connect_timeout)
        .unwrap_or(settings.connect_timeout);
    cluster.connect_timeout = Some(values::duration(timeout));
    cluster.circuit_breakers = Some(envoy::CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: set(tcp.and_then(|tcp| tcp.max_connections)),
            max_pending_requests: set(http.and_then(|http| http.max_pending)),
            max_requests: set(http.and_then(|http| http.max_requests)),
            max_retries: set(http.and_then(|http| http.max_retries)),
            retry_budget: budget.map(retry_budget),
            ..Thresholds::default()
        }],
        per_host_thresholds: Vec::new(),
    });
    for keepalive in [settings.keepalive.as_ref(), tcp.and_then(|tcp| tcp.keepalive.as_ref())]
        .into_iter()
        .flatten()
    {
        keep_alive(cluster, keepalive);
    }
}

fn retry_budget(budget: &RetryBudget) -> thresholds::RetryBudget {
    thresholds::RetryBudget {
        budget_percent: Some(values::percent_milli(budget.percent_milli.unwrap_or(20_000))),
        budget_interval: budget.interval.map(values::duration),
        min_retry_concurrency: Some(budget.min_concurrency.filter(|n| *n > 0).unwrap_or(3)),
    }
}

/// Turns keep-alive on; what it does not say stays as it was, at last as the operating system has it.
fn keep_alive(cluster: &mut envoy::Cluster, keepalive: &Keepalive) {
    let options = cluster.upstream_connection_options.get_or_insert_default();
    let tcp = options.tcp_keepalive.get_or_insert_with(core::TcpKeepalive::default);
    let seconds = |time: std::time::Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    if let Some(probes) = keepalive.probes.filter(|n| *n > 0) {
        tcp.keepalive_probes = Some(probes);
    }
    if let Some(time) = keepalive.time {
        tcp.keepalive_time = Some(seconds(time));
    }
    if let Some(interval) = keepalive.interval {
        tcp.keepalive_interval = Some(seconds(interval));
    }
}

/// Sets outlier detection. Ejection by success rate is off. The panic threshold, below which Envoy ignores health, is
/// what the rule says and zero by default: services in Kubernetes have few endpoints. Where callers learn of unready
/// endpoints because of the service itself (`forced`), it is zero in any case.
pub(crate) fn detect(cluster: &mut envoy::Cluster, outlier: &OutlierDetection, forced: bool) {
    let enforce = |count: Option<u32>| count.map(|count| if count > 0 { 100 } else { 0 });
    let split = outlier.split_local_origin;
    let local = outlier.consecutive_local_origin.filter(|count| split && *count > 0);
    cluster.outlier_detection = Some(envoy::OutlierDetection {
        enforcing_success_rate: Some(0),
        consecutive_5xx: outlier.consecutive_5xx,
        enforcing_consecutive_5xx: enforce(outlier.consecutive_5xx),
        consecutive_gateway_failure: outlier.consecutive_gateway,
        enforcing_consecutive_gateway_failure: enforce(outlier.consecutive_gateway),
        interval: outlier.interval.map(values::duration),
        base_ejection_time: outlier.base_ejection.map(values::duration),
        max_ejection_percent: outlier.max_ejection_percent.filter(|percent| *percent > 0),
        split_external_local_origin_errors: split,
        consecutive_local_origin_failure: local,
        enforcing_consecutive_local_origin_failure: enforce(local),
        enforcing_local_origin_success_rate: split.then_some(0),
        ..envoy::OutlierDetection::default()
    });
    let percent = if forced {
        0
    } else {
        outlier.min_health_percent.unwrap_or(0)
    };
    cluster.common_lb_config.get_or_insert_default().healthy_panic_threshold = Some(Percent {
        value: f64::from(percent),
    });
}
