//! Metrics: Prometheus is sent to the agent, which adds the application's metrics to the proxy's.

use lateen_api::mesh::MeshConfig;
use serde_json::{Value, json};

use crate::annotations::{MERGE_METRICS, flag};
use crate::inject::InjectError;
use crate::pod;

/// Ports of the mesh, which are not the application's to name.
const RESERVED: &[i64] = &[15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090];

/// Prometheus reads annotations with everything but letters and digits as `_`.
const SCRAPE: &str = "prometheus_io_scrape";
const PORT: &str = "prometheus_io_port";
const PATH: &str = "prometheus_io_path";
const TARGETS: &str = "prometheus_istio_io_scrape_targets";
const SECURE_PORT: &str = "prometheus_istio_io_secure_port";

/// Sends Prometheus to the agent, and tells the agent where the application's metrics are.
pub(crate) fn merge(pod: &mut Value, mesh: &MeshConfig, port: i64) -> Result<(), InjectError> {
    let asked = pod::annotation(pod, MERGE_METRICS).and_then(flag);
    if !asked.or(mesh.enable_prometheus_merge).unwrap_or(true) || scrape_is_off(pod) {
        return Ok(());
    }
    let of = |wanted: &str| annotation(pod, wanted).map(|(key, value)| (key.to_owned(), value.to_owned()));
    let port_text = port.to_string();
    // Whoever names the agent's port has been here before, or wants it so.
    if of(PORT).is_some_and(|(_, named)| named == port_text) {
        return Ok(());
    }
    let text = |wanted: &str| of(wanted).map(|(_, value)| value).unwrap_or_default();
    let targets = of(TARGETS)
        .map(|(key, value)| targets(&key, &value, port))
        .transpose()?;
    let targets = targets.unwrap_or_default();
    let (app_port, app_path) = match targets.first() {
        Some((port, path)) => (port.clone(), path.clone()),
        None => (text(PORT), text(PATH)),
    };
    if targets.is_empty()
        && let Some((key, value)) = of(PORT).filter(|(_, value)| !value.is_empty())
    {
        check(&key, &value, &value, port)?;
    }
    let scrape = text(SCRAPE);
    if !(scrape.is_empty() && app_port.is_empty() && app_path.is_empty()) {
        let mut written = json!({ "scrape": scrape, "path": app_path, "port": app_port });
        if !targets.is_empty() {
            let targets: Vec<Value> = targets
                .iter()
                .map(|(port, path)| json!({ "port": port, "path": path }))
                .collect();
            written["targets"] = Value::Array(targets);
        }
        tell_agent(pod, &written.to_string());
    }
    let annotations = pod
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("annotations"));
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        annotations.retain(|key, _| ![SCRAPE, PORT, PATH, TARGETS].contains(&plain(key).as_str()));
    }
    pod::annotate(pod, "prometheus.io/port", port_text);
    pod::annotate(pod, "prometheus.io/path", "/stats/prometheus");
    pod::annotate(pod, "prometheus.io/scrape", "true");
    Ok(())
}

/// Names the port of metrics over mutual TLS, where the proxy has one.
pub(crate) fn secure_port(pod: &mut Value) {
    if annotation(pod, SECURE_PORT).is_some() {
        return;
    }
    let env = pod::container(pod, pod::PROXY).and_then(|proxy| proxy["env"].as_array());
    let port = env.and_then(|env| pod::find(env, "ENVOY_SECURE_MERGED_METRICS_PORT"));
    let port = port.and_then(|variable| variable["value"].as_str()).map(str::to_owned);
    if let Some(port) = port.filter(|port| !port.is_empty() && port != "0") {
        pod::annotate(pod, "prometheus.istio.io/secure-port", port);
    }
}

fn tell_agent(pod: &mut Value, config: &str) {
    const VARIABLE: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
    let Some(proxy) = pod::container_mut(pod, pod::PROXY) else {
        return;
    };
    let env = pod::as_object(proxy).entry("env").or_insert_with(|| json!([]));
    if let Some(env) = env.as_array_mut() {
        env.retain(|variable| pod::name(variable) != VARIABLE);
        env.push(json!({ "name": VARIABLE, "value": config }));
    }
}

fn annotation<'a>(pod: &'a Value, wanted: &str) -> Option<(&'a str, &'a str)> {
    pod::metadata(pod, "annotations").find(|(key, _)| plain(key) == wanted)
}

fn scrape_is_off(pod: &Value) -> bool {
    let found = pod::metadata(pod, "annotations").filter(|(key, _)| plain(key) == SCRAPE);
    found.filter_map(|(_, value)| flag(value)).next() == Some(false)
}

/// `port:path`, separated by commas.
fn targets(key: &str, list: &str, agent: i64) -> Result<Vec<(String, String)>, InjectError> {
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (port, path) = entry.split_once(':').unwrap_or((entry, ""));
            let (port, path) = (port.trim(), path.trim());
            check(key, list, port, agent)?;
            let path = if path.is_empty() { "/metrics" } else { path };
            Ok((port.to_owned(), path.to_owned()))
        })
        .collect()
}

fn check(key: &str, value: &str, port: &str, agent: i64) -> Result<(), InjectError> {
    let reason = match port.parse::<u16>().ok().filter(|port| *port != 0).map(i64::from) {
        None => format!("`{port}` is no port"),
        Some(port) if port == agent || RESERVED.contains(&port) => {
            format!("port {port} belongs to the mesh; name a port of the application")
        }
        Some(_) => return Ok(()),
    };
    Err(InjectError::Annotation {
        name: key.to_owned(),
        value: value.to_owned(),
        reason,
    })
}

fn plain(key: &str) -> String {
    key.chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(annotations: Value) -> Result<Value, InjectError> {
        let mut pod = json!({
            "metadata": {"annotations": annotations},
            "spec": {"containers": [{"name": "app"}, {"name": "istio-proxy"}]},
        });
        merge(&mut pod, &MeshConfig::default_istio(), 15020)?;
        let once = pod.clone();
        merge(&mut pod, &MeshConfig::default_istio(), 15020)?;
        assert_eq!(pod, once, "once more changes nothing");
        Ok(pod)
    }

    #[test]
    fn the_agent_learns_where_the_applications_metrics_are() {
        let pod = merged(json!({"prometheus.io/port": "9090", "prometheus_io/path": "/m"})).unwrap();
        assert_eq!(
            pod["metadata"]["annotations"],
            json!({"prometheus.io/port": "15020", "prometheus.io/path": "/stats/prometheus", "prometheus.io/scrape": "true"})
        );
        assert_eq!(
            pod["spec"]["containers"][1]["env"],
            json!([{"name": "ISTIO_PROMETHEUS_ANNOTATIONS", "value": r#"{"scrape":"","path":"/m","port":"9090"}"#}])
        );
        let pod = merged(json!({"prometheus.istio.io/scrape-targets": "80:/a, 81"})).unwrap();
        let told = pod["spec"]["containers"][1]["env"][0]["value"].as_str().unwrap();
        let told: Value = serde_json::from_str(told).unwrap();
        assert_eq!(
            told["targets"],
            json!([{"port": "80", "path": "/a"}, {"port": "81", "path": "/metrics"}])
        );
    }

    #[test]
    fn who_opts_out_is_left_alone_and_ports_of_the_mesh_are_refused() {
        for annotations in [
            json!({"prometheus.io/scrape": "false"}),
            json!({"prometheus.istio.io/merge-metrics": "false", "prometheus.io/port": "1"}),
        ] {
            assert_eq!(
                merged(annotations.clone()).unwrap()["metadata"]["annotations"],
                annotations
            );
        }
        assert!(merged(json!({"prometheus.io/port": "15090"})).is_err());
        assert!(merged(json!({"prometheus.istio.io/scrape-targets": "x:/a"})).is_err());
    }
}
