//! Probes: the kubelet cannot speak mutual TLS, so it asks the agent, and the agent asks the application.

use serde_json::{Map, Value, json};

use crate::pod;

/// The variable that tells the agent what to ask.
const PROBERS: &str = "ISTIO_KUBE_APP_PROBERS";

/// Where a probe or hook stands in a container, and the path that the agent answers it under.
const PLACES: &[(&[&str], &str, &str)] = &[
    (&["readinessProbe"], "app-health", "readyz"),
    (&["livenessProbe"], "app-health", "livez"),
    (&["startupProbe"], "app-health", "startupz"),
    (&["lifecycle", "preStop"], "app-lifecycle", "prestopz"),
    (&["lifecycle", "postStart"], "app-lifecycle", "poststartz"),
];

/// Sends the kubelet to the agent. What was sent there before stays as it is, and stays known to the agent.
pub(crate) fn rewrite(pod: &mut Value, port: i64) {
    if pod::container(pod, pod::PROXY).is_none() {
        return;
    }
    let mut probers = Map::new();
    for key in [pod::INIT_CONTAINERS, pod::CONTAINERS] {
        for container in pod::list_mut(pod, key).into_iter().flatten() {
            if pod::name(container) != pod::PROXY {
                rewrite_container(container, port, &mut probers);
            }
        }
    }
    if probers.is_empty() {
        return;
    }
    let Some(proxy) = pod::container_mut(pod, pod::PROXY) else {
        return;
    };
    let env = pod::as_object(proxy).entry("env").or_insert_with(|| json!([]));
    let Some(env) = env.as_array_mut() else { return };
    let known = env.iter().position(|variable| pod::name(variable) == PROBERS);
    if let Some(at) = known {
        let before = env[at]["value"].as_str().unwrap_or_default();
        let before: Map<String, Value> = serde_json::from_str(before).unwrap_or_default();
        probers.extend(before);
    }
    let mut probers: Vec<(String, Value)> = probers.into_iter().collect();
    probers.sort_by(|(a, _), (b, _)| a.cmp(b));
    let probers = Value::Object(probers.into_iter().collect()).to_string();
    let variable = json!({ "name": PROBERS, "value": probers });
    match known {
        Some(at) => env[at] = variable,
        None => env.push(variable),
    }
}

fn rewrite_container(container: &mut Value, port: i64, probers: &mut Map<String, Value>) {
    let name = pod::name(container).to_owned();
    let ports = container["ports"].as_array().cloned().unwrap_or_default();
    for (place, kind, action) in PLACES {
        let found = place.iter().try_fold(&mut *container, |value, key| value.get_mut(*key));
        let Some(probe) = found else { continue };
        let path = format!("/{kind}/{name}/{action}");
        let hook = *kind == "app-lifecycle";
        if let Some(prober) = rewrite_one(probe, &path, port, &ports, hook) {
            probers.insert(path, prober);
        }
    }
}

/// Rewrites a probe; `None` where it stays as it is: commands, probes that go to the agent already, and those of ports
/// that the container does not have.
fn rewrite_one(probe: &mut Value, path: &str, port: i64, ports: &[Value], hook: bool) -> Option<Value> {
    let kinds: &[&str] = if hook {
        &["httpGet", "tcpSocket"]
    } else {
        &["httpGet", "tcpSocket", "grpc"]
    };
    let kind = *kinds.iter().find(|kind| probe[**kind].is_object())?;
    let mut asked = probe[kind].clone();
    if let Some(named) = asked["port"].as_str() {
        let number = match named.parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) => pod::find(ports, named)?["containerPort"].clone(),
        };
        asked["port"] = number;
    }
    if kind != "grpc" && asked["port"] == port {
        return None;
    }
    let mut prober = json!({ kind: asked });
    match &probe["timeoutSeconds"] {
        Value::Null => {}
        timeout => prober["timeoutSeconds"] = timeout.clone(),
    }
    let fields = pod::as_object(probe);
    let mut request = match kind {
        "httpGet" => fields.get("httpGet").cloned().unwrap_or_default(),
        other => {
            fields.remove(other);
            json!({})
        }
    };
    request["path"] = path.into();
    request["port"] = port.into();
    // The agent is asked in plain text, and asks the application over TLS.
    if request["scheme"] == "HTTPS" {
        request["scheme"] = "HTTP".into();
    }
    fields.insert("httpGet".to_owned(), request);
    Some(prober)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_go_to_the_agent_and_once_only() {
        let mut pod = json!({"spec": {
            "containers": [{
                "name": "app",
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/r", "port": "http", "scheme": "HTTPS"}, "timeoutSeconds": 2},
                "livenessProbe": {"tcpSocket": {"port": 90}},
                "startupProbe": {"exec": {"command": ["x"]}},
                "lifecycle": {"preStop": {"httpGet": {"path": "/bye", "port": 80}}},
            }, {"name": "istio-proxy", "readinessProbe": {"httpGet": {"port": 15021}}}],
            "initContainers": [{"name": "side", "livenessProbe": {"grpc": {"port": 5000}}, "readinessProbe": {"httpGet": {"port": "nope"}}}],
        }});
        rewrite(&mut pod, 15020);
        let app = &pod["spec"]["containers"][0];
        assert_eq!(
            app["readinessProbe"],
            json!({"httpGet": {"path": "/app-health/app/readyz", "port": 15020, "scheme": "HTTP"}, "timeoutSeconds": 2})
        );
        assert_eq!(
            app["livenessProbe"],
            json!({"httpGet": {"path": "/app-health/app/livez", "port": 15020}})
        );
        assert_eq!(app["startupProbe"], json!({"exec": {"command": ["x"]}}));
        let side = &pod["spec"]["initContainers"][0];
        assert_eq!(side["livenessProbe"]["httpGet"]["path"], "/app-health/side/livez");
        assert_eq!(side["readinessProbe"], json!({"httpGet": {"port": "nope"}}));
        let probers = pod["spec"]["containers"][1]["env"][0]["value"].as_str().unwrap();
        let probers: Value = serde_json::from_str(probers).unwrap();
        assert_eq!(
            probers,
            json!({
                "/app-health/app/livez": {"tcpSocket": {"port": 90}},
                "/app-health/app/readyz": {"httpGet": {"path": "/r", "port": 8080, "scheme": "HTTPS"}, "timeoutSeconds": 2},
                "/app-health/side/livez": {"grpc": {"port": 5000}},
                "/app-lifecycle/app/prestopz": {"httpGet": {"path": "/bye", "port": 80}},
            })
        );
        let once = pod.clone();
        rewrite(&mut pod, 15020);
        assert_eq!(pod, once);
    }
}
