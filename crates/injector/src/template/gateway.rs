//! `gateway`: the proxy as the pod's application, for gateways that are deployed like any other workload.

use serde_json::{Value, json};

use super::parts::{self, Env, Storage};
use crate::annotations::BOOTSTRAP_OVERRIDE;
use crate::context::Context;
use crate::{image, pod};

/// Lets the proxy listen on 80 and 443 without being root.
const LOW_PORTS: &str = "net.ipv4.ip_unprivileged_port_start";

pub(super) fn patch(context: &Context<'_>) -> Value {
    let (labels, annotations) = super::metadata(context);
    let mut storage = Storage::new(context);
    storage.sockets(true);
    storage.agent("istio-envoy");
    storage.roots(false);
    let (volumes, mounts) = storage.into_parts();
    let values = &context.settings.values;
    let proxy = pod::without_nulls(&json!({
        "name": pod::PROXY,
        "image": image::proxy(context),
        "imagePullPolicy": parts::pull_policy(context),
        "ports": [{ "containerPort": 15090, "protocol": "TCP", "name": "http-envoy-prom" }],
        "args": parts::arguments(context, "router"),
        "lifecycle": values.object("global.proxy.lifecycle"),
        "securityContext": { "runAsUser": context.uid, "runAsGroup": context.gid },
        "env": environment(context),
        "readinessProbe": {
            "httpGet": { "path": "/healthz/ready", "port": 15021 },
            "initialDelaySeconds": values.number_or("global.proxy.readinessInitialDelaySeconds", 0),
            "periodSeconds": values.number_or("global.proxy.readinessPeriodSeconds", 15),
            "timeoutSeconds": 3,
            "failureThreshold": values.number_or("global.proxy.readinessFailureThreshold", 4),
        },
        "volumeMounts": mounts,
    }));
    json!({
        "metadata": { "labels": labels, "annotations": annotations },
        "spec": {
            "securityContext": security(context),
            "containers": [proxy],
            "volumes": volumes,
            "imagePullSecrets": parts::pull_secrets(context).unwrap_or_else(|| json!([])),
        },
    })
}

/// The installation's security context, or leave to listen on low ports besides the pod's own kernel settings.
fn security(context: &Context<'_>) -> Value {
    if let Some(security) = context.settings.values.object("gateways.securityContext") {
        return security;
    }
    let own = context.pod["spec"]["securityContext"]["sysctls"].as_array();
    let mut sysctls = own.cloned().unwrap_or_default();
    if pod::find(&sysctls, LOW_PORTS).is_none() {
        sysctls.push(json!({ "name": LOW_PORTS, "value": "0" }));
    }
    json!({ "sysctls": sysctls })
}

fn environment(context: &Context<'_>) -> Value {
    let mut env = Env::default();
    parts::identity(context, &mut env);
    parts::limits(context, &mut env);
    env.value(
        "ISTIO_META_INTERCEPTION_MODE",
        context.proxy_config.interception_mode.as_str(),
    );
    parts::workload(context, &mut env);
    if context.annotation(BOOTSTRAP_OVERRIDE).is_some() {
        let path = "/etc/istio/custom-bootstrap/custom_bootstrap.json";
        env.value("ISTIO_BOOTSTRAP_OVERRIDE", path);
    }
    env.proxy_metadata(context);
    env.into_json()
}
