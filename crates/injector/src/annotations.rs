//! The annotations that change what a pod gets, and which values they may have.

use std::net::IpAddr;

use lateen_api::mesh::ProxyConfig;
use serde_json::Value;

use crate::inject::InjectError;
use crate::pod;

pub(crate) const STATUS: &str = "sidecar.istio.io/status";
pub(crate) const OVERRIDES: &str = "proxy.istio.io/overrides";
pub(crate) const TEMPLATES: &str = "inject.istio.io/templates";
pub(crate) const PROXY_CONFIG: &str = "proxy.istio.io/config";
pub(crate) const INTERCEPTION_MODE: &str = "sidecar.istio.io/interceptionMode";
pub(crate) const NATIVE: &str = "sidecar.istio.io/nativeSidecar";
pub(crate) const STATUS_PORT: &str = "status.sidecar.istio.io/port";
pub(crate) const MERGE_METRICS: &str = "prometheus.istio.io/merge-metrics";
pub(crate) const REWRITE_PROBES: &str = "sidecar.istio.io/rewriteAppHTTPProbers";
pub(crate) const INCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";
pub(crate) const EXCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
pub(crate) const INCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeInboundPorts";
pub(crate) const EXCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
pub(crate) const INCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
pub(crate) const EXCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
pub(crate) const EXCLUDE_INTERFACES: &str = "traffic.sidecar.istio.io/excludeInterfaces";
pub(crate) const KUBEVIRT_INTERFACES: &str = "traffic.sidecar.istio.io/kubevirtInterfaces";
pub(crate) const REROUTE_INTERFACES: &str = "istio.io/reroute-virtual-interfaces";
pub(crate) const PROXY_CPU: &str = "sidecar.istio.io/proxyCPU";
pub(crate) const PROXY_CPU_LIMIT: &str = "sidecar.istio.io/proxyCPULimit";
pub(crate) const PROXY_MEMORY: &str = "sidecar.istio.io/proxyMemory";
pub(crate) const PROXY_MEMORY_LIMIT: &str = "sidecar.istio.io/proxyMemoryLimit";
pub(crate) const READY_DELAY: &str = "readiness.status.sidecar.istio.io/initialDelaySeconds";
pub(crate) const READY_PERIOD: &str = "readiness.status.sidecar.istio.io/periodSeconds";
pub(crate) const READY_THRESHOLD: &str = "readiness.status.sidecar.istio.io/failureThreshold";
pub(crate) const USER_VOLUME: &str = "sidecar.istio.io/userVolume";
pub(crate) const USER_VOLUME_MOUNT: &str = "sidecar.istio.io/userVolumeMount";
pub(crate) const BOOTSTRAP_OVERRIDE: &str = "sidecar.istio.io/bootstrapOverride";

/// Checks the values of the annotations that a pod has.
pub(crate) fn check(pod: &Value) -> Result<(), InjectError> {
    for (name, value) in pod::metadata(pod, "annotations") {
        check_one(name, value).map_err(|reason| InjectError::Annotation {
            name: name.to_owned(),
            value: value.to_owned(),
            reason,
        })?;
    }
    Ok(())
}

fn check_one(name: &str, value: &str) -> Result<(), String> {
    match name {
        INTERCEPTION_MODE => match value {
            "REDIRECT" | "TPROXY" | "NONE" => Ok(()),
            _ => Err("must be REDIRECT, TPROXY or NONE".to_owned()),
        },
        STATUS_PORT => port(value),
        READY_DELAY | READY_PERIOD | READY_THRESHOLD => match value.parse::<u32>() {
            Ok(_) => Ok(()),
            Err(_) => Err("must be a number from 0".to_owned()),
        },
        INCLUDE_OUTBOUND_RANGES if value == "*" => Ok(()),
        INCLUDE_OUTBOUND_RANGES | EXCLUDE_OUTBOUND_RANGES => ranges(value),
        INCLUDE_INBOUND_PORTS if value == "*" => Ok(()),
        INCLUDE_OUTBOUND_PORTS if value == "*" => Ok(()),
        INCLUDE_INBOUND_PORTS | EXCLUDE_INBOUND_PORTS | INCLUDE_OUTBOUND_PORTS | EXCLUDE_OUTBOUND_PORTS => ports(value),
        EXCLUDE_INTERFACES | KUBEVIRT_INTERFACES | REROUTE_INTERFACES => interfaces(value),
        MERGE_METRICS => flag(value)
            .map(|_| ())
            .ok_or_else(|| "must be true or false".to_owned()),
        PROXY_CPU | PROXY_CPU_LIMIT | PROXY_MEMORY | PROXY_MEMORY_LIMIT if !is_quantity(value) => {
            Err("must be a quantity such as 100m or 128Mi".to_owned())
        }
        PROXY_CONFIG => {
            let layer: Value = serde_yaml::from_str(value).map_err(|error| error.to_string())?;
            let merged = ProxyConfig::default_istio().merge(&layer);
            merged.map(|_| ()).map_err(|error| error.to_string())
        }
        USER_VOLUME | USER_VOLUME_MOUNT => match serde_json::from_str(value) {
            Ok(Value::Object(_)) => Ok(()),
            _ => Err("must be a JSON object of volumes by name".to_owned()),
        },
        _ => Ok(()),
    }
}

/// A flag as Go writes flags.
pub(crate) fn flag(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn port(text: &str) -> Result<(), String> {
    match text.trim().parse::<u16>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("`{}` is no port", text.trim())),
    }
}

fn ports(list: &str) -> Result<(), String> {
    match list.trim() {
        "" => Ok(()),
        list => list.split(',').try_for_each(port),
    }
}

fn ranges(list: &str) -> Result<(), String> {
    let range = |text: &str| {
        let (address, length) = text.split_once('/')?;
        let longest = match address.parse::<IpAddr>().ok()? {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        (length.parse::<u8>().ok()? <= longest).then_some(())
    };
    for text in list.split(',').filter(|_| !list.is_empty()) {
        range(text).ok_or_else(|| format!("`{text}` is no address range such as 10.0.0.0/8"))?;
    }
    Ok(())
}

fn interfaces(list: &str) -> Result<(), String> {
    for name in list.split(',').map(str::trim).filter(|_| !list.is_empty()) {
        let mut letters = name.chars();
        let sound = letters.next().is_some_and(|first| first.is_ascii_alphabetic())
            && letters.all(|letter| letter.is_ascii_alphanumeric() || "_.-".contains(letter))
            && name.len() <= 15;
        if !sound {
            return Err(format!("`{name}` is no name of a network interface"));
        }
    }
    Ok(())
}

/// Whether text is a quantity of Kubernetes.
fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let digits = number.bytes().any(|byte| byte.is_ascii_digit()) && number.matches('.').count() <= 1;
    let exponent = || {
        let power = suffix.strip_prefix(['e', 'E'])?;
        power.parse::<i32>().ok()
    };
    let known = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    digits && (known.contains(&suffix) || exponent().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_would_break_a_pod_are_refused() {
        for (name, good, bad) in [
            (INCLUDE_OUTBOUND_RANGES, "10.0.0.0/8,fd00::/8", "10.0.0.0"),
            (EXCLUDE_OUTBOUND_RANGES, "", "*"),
            (INCLUDE_INBOUND_PORTS, "*", "80,x"),
            (EXCLUDE_OUTBOUND_PORTS, "80, 90", "70000"),
            (EXCLUDE_INTERFACES, "eth0,net1", "0eth"),
            (PROXY_CPU, "1e3", "100x"),
            (PROXY_MEMORY_LIMIT, ".5Gi", "1.2.3"),
            (READY_PERIOD, "0", "-1"),
            (MERGE_METRICS, "t", "yes"),
            (INTERCEPTION_MODE, "NONE", "none"),
            (PROXY_CONFIG, "concurrency: 2", "concurrency: two"),
            (USER_VOLUME, "{}", "[]"),
            (STATUS_PORT, "0", ""),
        ] {
            assert_eq!(check_one(name, good), Ok(()), "{name}: {good}");
            assert!(check_one(name, bad).is_err(), "{name}: {bad}");
        }
    }
}
