//! `/inject`: pods get their sidecars.

use std::collections::BTreeMap;

use anyhow::Result;
use lateen_injector::{Decision, InjectionSettings, Request as Pod, decide, inject, patch};
use lateen_runtime::Clock;
use lateen_runtime::metrics::{Histogram, IntCounter, Metrics};
use serde_json::Value;

use super::{Request, Verdict};

/// The variables that path parameters stand for; others stand for themselves, in capitals.
const VARIABLES: &[(&str, &str)] = &[("cluster", "ISTIO_META_CLUSTER_ID"), ("net", "ISTIO_META_NETWORK")];

/// Injection's metrics.
#[derive(Debug, Clone)]
pub(super) struct InjectMetrics {
    requests: IntCounter,
    successes: IntCounter,
    failures: IntCounter,
    skips: IntCounter,
    seconds: Histogram,
    clock: Clock,
}

impl InjectMetrics {
    pub(super) fn new(metrics: &Metrics) -> Result<Self> {
        Ok(Self {
            requests: metrics.counter("sidecar_injection_requests_total", "Requests to inject a sidecar.")?,
            successes: metrics.counter("sidecar_injection_success_total", "Requests answered with a sidecar.")?,
            failures: metrics.counter("sidecar_injection_failure_total", "Requests that failed.")?,
            skips: metrics.counter("sidecar_injection_skip_total", "Pods that get no sidecar.")?,
            seconds: metrics.histogram(
                "sidecar_injection_time_seconds",
                "Time that injecting took.",
                &[0.1, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0],
            )?,
            clock: Clock::system(),
        })
    }

    pub(super) fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = self.clock.now();
        let done = work();
        let taken = self.clock.now().duration_since(start).unwrap_or_default();
        self.seconds.observe(taken.as_secs_f64());
        done
    }

    /// Counts a request by its answer; none is a pod that gets no sidecar.
    pub(super) fn count(&self, verdict: &Option<Verdict>) {
        self.requests.inc();
        match verdict {
            None => self.skips.inc(),
            Some(verdict) if verdict.refused.is_some() => self.failures.inc(),
            Some(_) => self.successes.inc(),
        }
    }

    pub(super) fn count_unreadable(&self) {
        self.requests.inc();
        self.failures.inc();
    }
}

/// The verdict on a pod; `None` where it gets no sidecar.
pub(super) fn answer(request: &Request, variables: &str, settings: &InjectionSettings) -> Option<Verdict> {
    let pod = &request.object;
    let name = pod["metadata"]["name"]
        .as_str()
        .or_else(|| pod["metadata"]["generateName"].as_str());
    let name = name.unwrap_or_default();
    if !pod.is_object() {
        return Some(Verdict::refuse(400, "BadRequest", "request.object: must be a Pod"));
    }
    let namespace = match pod["metadata"]["namespace"].as_str() {
        Some(namespace) if !namespace.is_empty() => namespace,
        _ => &request.namespace,
    };
    if let Decision::Skip(reason) = decide(pod, namespace, &settings.policy) {
        tracing::info!(namespace, pod = name, %reason, "no sidecar");
        return None;
    }
    let environment = environment(variables);
    let asked = Pod {
        pod,
        namespace,
        owner: None,
        environment: &environment,
    };
    let injected = inject(asked, settings).and_then(|injected| {
        let patch = patch(pod, &injected.pod)?;
        Ok((patch, injected.warnings))
    });
    Some(match injected {
        Ok((patch, warnings)) => {
            tracing::info!(
                namespace,
                pod = name,
                dry_run = request.dry_run.unwrap_or_default(),
                "sidecar injected"
            );
            Verdict {
                refused: None,
                patch: Some(patch).filter(|patch| patch != &Value::Array(Vec::new())),
                warnings,
            }
        }
        Err(error) => {
            tracing::warn!(namespace, pod = name, %error, "no sidecar could be injected");
            Verdict::refuse(422, "Invalid", format!("sidecar injection: {error}"))
        }
    })
}

/// The variables in the rest of the path: `cluster/C/net/N`, with `--slash--` for `/` in values, or the older
/// `:ENV:A=1:ENV:B=2`.
fn environment(path: &str) -> BTreeMap<String, String> {
    let path = path.trim_matches('/');
    if path.starts_with(":ENV:") {
        let pairs = path.split(":ENV:").filter_map(|pair| pair.split_once('='));
        let pairs = pairs.filter(|(name, _)| !name.is_empty());
        return pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    }
    let parts: Vec<&str> = path.split('/').collect();
    let (pairs, rest) = parts.as_chunks::<2>();
    if let [key] = rest
        && !key.is_empty()
    {
        tracing::warn!(key, "the last part of the webhook's path has no value and is left out");
    }
    let variable = |key: &str| {
        let known = VARIABLES.iter().find(|(name, _)| *name == key);
        known.map_or_else(|| key.to_uppercase(), |(_, variable)| (*variable).to_owned())
    };
    pairs
        .iter()
        .filter(|[key, _]| !key.is_empty())
        .map(|[key, value]| (variable(key), value.replace("--slash--", "/")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_holds_variables_of_the_proxy() {
        let of = |path: &str| {
            let pairs = environment(path)
                .into_iter()
                .map(|(name, value)| format!("{name}={value}"));
            pairs.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            of("cluster/c--slash--1/net/n/foo/bar"),
            "FOO=bar ISTIO_META_CLUSTER_ID=c/1 ISTIO_META_NETWORK=n"
        );
        assert_eq!(of("cluster/c/net"), "ISTIO_META_CLUSTER_ID=c");
        assert_eq!(of(":ENV:A=1:ENV:B=:ENV:=x"), "A=1 B=");
        assert_eq!(of(""), "");
    }
}
