//! `sidecar`: the proxy beside an application, and what redirects traffic to it.

use lateen_api::mesh::config::InboundTrafficPolicyMode;
use lateen_api::mesh::extension_provider::ServiceAttributeEnrichment;
use serde_json::{Map, Value, json};

use super::parts::{self, Env, Storage};
use crate::annotations::{
    BOOTSTRAP_OVERRIDE, EXCLUDE_INBOUND_PORTS, EXCLUDE_INTERFACES, EXCLUDE_OUTBOUND_PORTS, EXCLUDE_OUTBOUND_RANGES,
    INCLUDE_INBOUND_PORTS, INCLUDE_OUTBOUND_PORTS, INCLUDE_OUTBOUND_RANGES, INTERCEPTION_MODE, KUBEVIRT_INTERFACES,
    REROUTE_INTERFACES, STATUS_PORT,
};
use crate::context::Context;
use crate::{image, pod};

/// Annotation with which Multus adds networks to a pod.
const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

pub(super) fn patch(context: &Context<'_>) -> Value {
    let (labels, annotations) = metadata(context);
    let mut storage = Storage::new(context);
    storage.sockets(true);
    storage.agent("istio-envoy");
    storage.roots(true);
    storage.users();
    tracer_certificates(context, &mut storage);
    let (volumes, mounts) = storage.into_parts();
    let mut init = Vec::new();
    if context.interception_mode() != "NONE" {
        init.push(redirection(context));
    }
    let mut proxy = proxy(context);
    proxy["volumeMounts"] = mounts;
    let mut containers = Vec::new();
    if context.native {
        proxy["restartPolicy"] = "Always".into();
        init.push(proxy);
    } else {
        containers.push(proxy);
    }
    json!({
        "metadata": { "labels": labels, "annotations": annotations },
        "spec": {
            "initContainers": init,
            "containers": containers,
            "volumes": volumes,
            "imagePullSecrets": parts::pull_secrets(context).unwrap_or_else(|| json!([])),
        },
    })
}

fn metadata(context: &Context<'_>) -> (Map<String, Value>, Map<String, Value>) {
    let (mut labels, mut annotations) = super::metadata(context);
    let mode = context.label("security.istio.io/tlsMode").unwrap_or("istio");
    labels.insert("security.istio.io/tlsMode".to_owned(), mode.into());
    let hbone = context.proxy_config.proxy_metadata.get("ISTIO_META_ENABLE_HBONE");
    if hbone.is_some_and(|enabled| enabled == "true") {
        let tunnel = context.label("networking.istio.io/tunnel").unwrap_or("http");
        labels.insert("networking.istio.io/tunnel".to_owned(), tunnel.into());
    }
    if context.cni() {
        for_cni(context, &mut annotations);
    }
    (labels, annotations)
}

/// The CNI plugin knows the pod by its annotations only: they say all that redirection depends on.
fn for_cni(context: &Context<'_>, annotations: &mut Map<String, Value>) {
    let values = &context.settings.values;
    let mut put = |key: &str, value: String| annotations.insert(key.to_owned(), value.into());
    if values.text("pilot.cni.provider") == "multus" {
        put(
            NETWORKS,
            with_multus_network(context.annotation(NETWORKS).unwrap_or_default()),
        );
    }
    put(INTERCEPTION_MODE, context.interception_mode().to_owned());
    for (key, path) in [
        (INCLUDE_OUTBOUND_RANGES, "global.proxy.includeIPRanges"),
        (EXCLUDE_OUTBOUND_RANGES, "global.proxy.excludeIPRanges"),
        (INCLUDE_OUTBOUND_PORTS, "global.proxy.includeOutboundPorts"),
        (EXCLUDE_OUTBOUND_PORTS, "global.proxy.excludeOutboundPorts"),
    ] {
        let value = context.annotation_or(key, path);
        if !value.is_empty() {
            put(key, value);
        }
    }
    put(
        INCLUDE_INBOUND_PORTS,
        context.annotation_or(INCLUDE_INBOUND_PORTS, "global.proxy.includeInboundPorts"),
    );
    put(EXCLUDE_INBOUND_PORTS, excluded_inbound_ports(context));
}

/// Adds the network of the CNI plugin to the networks of a pod, in the form that they are written in.
fn with_multus_network(networks: &str) -> String {
    const NAMESPACE: &str = "default";
    const NAME: &str = "istio-cni";
    let ours = format!("{NAMESPACE}/{NAME}");
    if networks.trim().is_empty() {
        return ours;
    }
    if networks.contains(']') {
        let Ok(Value::Array(mut listed)) = serde_json::from_str(networks) else {
            return networks.to_owned();
        };
        if !listed
            .iter()
            .any(|network| network["name"] == NAME && network["namespace"] == NAMESPACE)
        {
            listed.push(json!({ "name": NAME, "namespace": NAMESPACE }));
        }
        return Value::Array(listed).to_string();
    }
    if networks.split(',').any(|network| network.trim() == ours) {
        return networks.to_owned();
    }
    format!("{networks}, {ours}")
}

/// Ports whose inbound traffic is left alone: those asked for, and the agent's own.
fn excluded_inbound_ports(context: &Context<'_>) -> String {
    let asked = context.annotation_or(EXCLUDE_INBOUND_PORTS, "global.proxy.excludeInboundPorts");
    let status = context.annotation_or(STATUS_PORT, "global.proxy.statusPort");
    let status = status.trim();
    if matches!(status, "" | "0") || asked.split(',').any(|port| port == status) {
        return asked;
    }
    let ports = asked.split(',').map(str::trim).filter(|port| !port.is_empty());
    ports.chain([status]).collect::<Vec<_>>().join(",")
}

/// The init container that redirects traffic, or makes sure that the CNI plugin has.
fn redirection(context: &Context<'_>) -> Value {
    let (values, cni) = (&context.settings.values, context.cni());
    let privileged = values.flag("global.proxy.privileged");
    let (uid, gid) = if context.is_tproxy() {
        (1337, 1337)
    } else {
        (context.uid, context.gid)
    };
    let mut security = json!({
        "allowPrivilegeEscalation": privileged,
        "privileged": privileged,
        "capabilities": { "drop": ["ALL"] },
        "readOnlyRootFilesystem": cni,
        "runAsGroup": if cni { gid } else { 0 },
        "runAsUser": if cni { uid } else { 0 },
        "runAsNonRoot": cni,
    });
    if !cni {
        security["capabilities"]["add"] = json!(["NET_ADMIN", "NET_RAW"]);
    }
    if let Some(profile) = values.object("global.proxy.seccompProfile") {
        security["seccompProfile"] = profile;
    }
    let mut env = Env::default();
    env.proxy_metadata(context);
    json!({
        "name": if cni { pod::VALIDATION } else { pod::INIT },
        "image": image::init(context),
        "imagePullPolicy": parts::pull_policy(context),
        "args": redirection_arguments(context),
        "env": env.into_json(),
        "resources": parts::resources(context),
        "securityContext": security,
    })
}

fn redirection_arguments(context: &Context<'_>) -> Vec<String> {
    let (values, mesh) = (&context.settings.values, &context.settings.mesh);
    let port = |port: i32, other: &str| if port == 0 { other.to_owned() } else { port.to_string() };
    let excluded = match excluded_inbound_ports(context) {
        ports if ports.is_empty() => "15090,15021".to_owned(),
        ports => format!("15090,15021,{ports}"),
    };
    let uid = if context.is_tproxy() { 1337 } else { context.uid };
    let mut arguments = vec!["istio-iptables".to_owned()];
    let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    add("-p", port(mesh.proxy_listen_port, "15001"));
    add("-z", port(mesh.proxy_inbound_listen_port, "15006"));
    add("-u", uid.to_string());
    add("-m", context.interception_mode().to_owned());
    add(
        "-i",
        context.annotation_or(INCLUDE_OUTBOUND_RANGES, "global.proxy.includeIPRanges"),
    );
    add(
        "-x",
        context.annotation_or(EXCLUDE_OUTBOUND_RANGES, "global.proxy.excludeIPRanges"),
    );
    add(
        "-b",
        context.annotation_or(INCLUDE_INBOUND_PORTS, "global.proxy.includeInboundPorts"),
    );
    add("-d", excluded);
    for (flag, key, path) in [
        ("-q", INCLUDE_OUTBOUND_PORTS, "global.proxy.includeOutboundPorts"),
        ("-o", EXCLUDE_OUTBOUND_PORTS, "global.proxy.excludeOutboundPorts"),
    ] {
        let value = context.annotation_or(key, path);
        if context.annotation(key).is_some() || !value.is_empty() {
            add(flag, value);
        }
    }
    let reroute = context.annotation(REROUTE_INTERFACES);
    if let Some(interfaces) = reroute.or_else(|| context.annotation(KUBEVIRT_INTERFACES)) {
        add("-k", interfaces.to_owned());
    }
    if let Some(interfaces) = context.annotation(EXCLUDE_INTERFACES) {
        add("-c", interfaces.to_owned());
    }
    let level = context.annotation_or("sidecar.istio.io/agentLogLevel", "global.logging.level");
    arguments.push(format!("--log_output_level={level}"));
    if values.flag("global.logAsJson") {
        arguments.push("--log_as_json".to_owned());
    }
    if context.cni() {
        arguments.extend(["--run-validation".to_owned(), "--skip-rule-apply".to_owned()]);
    } else if values.flag("global.proxy_init.forceApplyIptables") {
        arguments.push("--force-apply".to_owned());
    }
    if values.flag("global.nativeNftables") {
        arguments.push("--native-nftables".to_owned());
    }
    arguments
}

fn proxy(context: &Context<'_>) -> Value {
    let values = &context.settings.values;
    let mut arguments = parts::arguments(context, "sidecar");
    match values.text("global.proxy.outlierLogPath") {
        path if path.is_empty() => {}
        path => arguments.push(format!("--outlierLogPath={path}")),
    }
    let readiness = parts::readiness(context, 15021);
    let startup = if readiness.is_null() || values.text("global.proxy.startupProbe.enabled") == "false" {
        Value::Null
    } else {
        json!({
            "httpGet": { "path": "/healthz/ready", "port": 15021 },
            "initialDelaySeconds": 0,
            "periodSeconds": 1,
            "timeoutSeconds": 3,
            "failureThreshold": values.number_or("global.proxy.startupProbe.failureThreshold", 600),
        })
    };
    pod::without_nulls(&json!({
        "name": pod::PROXY,
        "image": image::proxy(context),
        "imagePullPolicy": parts::pull_policy(context),
        "ports": [{ "containerPort": 15090, "protocol": "TCP", "name": "http-envoy-prom" }],
        "args": arguments,
        "lifecycle": lifecycle(context),
        "env": environment(context),
        "startupProbe": startup,
        "readinessProbe": readiness,
        "securityContext": security(context),
        "resources": parts::resources(context),
    }))
}

/// A sidecar that the application waits for says when it is ready; one that outlives it begins to drain when the pod
/// begins to end.
fn lifecycle(context: &Context<'_>) -> Value {
    if let Some(lifecycle) = context.settings.values.object("global.proxy.lifecycle") {
        return lifecycle;
    }
    if context.native {
        let port = context.annotation_or(STATUS_PORT, "global.proxy.statusPort");
        let command = json!([
            "pilot-agent",
            "request",
            format!("--debug-port={port}"),
            "POST",
            "drain"
        ]);
        return json!({ "preStop": { "exec": { "command": command } } });
    }
    if context.holds_application() {
        return json!({ "postStart": { "exec": { "command": ["pilot-agent", "wait"] } } });
    }
    Value::Null
}

fn environment(context: &Context<'_>) -> Value {
    let mut env = Env::default();
    let inbound = context.settings.mesh.inbound_traffic_policy.as_ref();
    if inbound.is_some_and(|policy| policy.mode == InboundTrafficPolicyMode::Localhost) {
        env.value("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", "true");
    }
    parts::identity(context, &mut env);
    parts::limits(context, &mut env);
    env.value("ISTIO_META_INTERCEPTION_MODE", context.interception_mode());
    parts::workload(context, &mut env);
    if context.annotation(BOOTSTRAP_OVERRIDE).is_some() {
        let path = "/etc/istio/custom-bootstrap/custom_bootstrap.json";
        env.value("ISTIO_BOOTSTRAP_OVERRIDE", path);
    }
    if context.settings.values.text("global.proxy.tracer") == "datadog" {
        let written = context.annotation("apm.datadoghq.com/env").unwrap_or("{}");
        let variables: Map<String, Value> = serde_json::from_str(written).unwrap_or_default();
        for (name, value) in &variables {
            env.value(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    }
    let attributes = telemetry_attributes(context);
    if !attributes.is_empty() {
        env.value("OTEL_RESOURCE_ATTRIBUTES", attributes);
    }
    env.proxy_metadata(context);
    env.into_json()
}

/// The service's attributes by OpenTelemetry's conventions for Kubernetes, where a tracing provider asks for them.
fn telemetry_attributes(context: &Context<'_>) -> String {
    let providers = &context.settings.mesh.extension_providers;
    let wanted = providers.iter().filter_map(|provider| provider.opentelemetry.as_ref());
    let conventions = ServiceAttributeEnrichment::OtelSemanticConventions;
    if !wanted
        .into_iter()
        .any(|provider| provider.service_attribute_enrichment == conventions)
    {
        return String::new();
    }
    let asked = |attribute: &str| {
        let value = context.annotation(&format!("resource.opentelemetry.io/{attribute}"));
        value.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let containers = pod::list(context.pod, pod::CONTAINERS);
    let namespace = context.owner.namespace.as_str();
    let named = || Some(namespace.to_owned()).filter(|name| !name.is_empty());
    let version = || context.label("app.kubernetes.io/version").map(str::to_owned);
    let of_image = || match containers {
        [only] => image_version(only["image"].as_str()?),
        _ => None,
    };
    let instance = || Some(format!("{namespace}.$(POD_NAME).{}", pod::name(containers.first()?)));
    let attributes = [
        ("service.namespace", asked("service.namespace").or_else(named)),
        (
            "service.version",
            asked("service.version").or_else(version).or_else(of_image),
        ),
        ("service.instance.id", asked("service.instance.id").or_else(instance)),
    ];
    let attributes = attributes
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
    attributes.collect::<Vec<_>>().join(",")
}

/// Tag and digest of an image, as far as it has them.
fn image_version(image: &str) -> Option<String> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once(':').map(|(_, tag)| tag);
    let parts: Vec<&str> = tag.into_iter().chain(digest).collect();
    (!parts.is_empty()).then(|| parts.join("@"))
}

fn security(context: &Context<'_>) -> Value {
    let values = &context.settings.values;
    let asked = context.annotation_or("sidecar.istio.io/capNetBindService", "global.proxy.capNetBindService");
    let (tproxy, low_ports) = (context.is_tproxy(), asked == "true");
    let tracing = context.proxy_config.proxy_metadata.get("IPTABLES_TRACE_LOGGING");
    let mut security = if tracing.is_some_and(|enabled| enabled == "true") {
        // The kernel's trace can be read by root with all privileges only.
        json!({
            "allowPrivilegeEscalation": true,
            "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
            "privileged": true,
            "readOnlyRootFilesystem": true,
            "runAsGroup": context.gid,
            "runAsNonRoot": false,
            "runAsUser": 0,
        })
    } else {
        let privileged = values.flag("global.proxy.privileged");
        let root = tproxy || low_ports;
        let mut capabilities = json!({ "drop": ["ALL"] });
        let wanted = [(tproxy, "NET_ADMIN"), (low_ports, "NET_BIND_SERVICE")];
        let added: Vec<&str> = wanted
            .iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, name)| *name)
            .collect();
        if !added.is_empty() {
            capabilities["add"] = json!(added);
        }
        json!({
            "allowPrivilegeEscalation": privileged,
            "capabilities": capabilities,
            "privileged": privileged,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": !root,
            "runAsUser": if root { 0 } else { context.uid },
            "runAsGroup": if root { 1337 } else { context.gid },
        })
    };
    if let Some(profile) = values.object("global.proxy.seccompProfile") {
        security["seccompProfile"] = profile;
    }
    security
}

/// The authorities of Lightstep's collector, where it is the tracer and has TLS.
fn tracer_certificates(context: &Context<'_>, storage: &mut Storage<'_>) {
    let tracing = context.proxy_config.tracing.as_ref();
    let tls = tracing.and_then(|tracing| tracing.tls_settings.as_ref());
    let (Some(tls), "lightstep") = (tls, context.settings.values.text("global.proxy.tracer").as_str()) else {
        return;
    };
    let directory = tls
        .ca_certificates
        .rsplit_once('/')
        .map_or("", |(directory, _)| directory);
    let secret = json!({ "optional": true, "secretName": "lightstep.cacert" });
    let volume = json!({ "name": "lightstep-certs", "secret": secret });
    storage.add(volume, &format!("{directory}/"), true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_added_in_the_form_that_is_there() {
        assert_eq!(with_multus_network(""), "default/istio-cni");
        assert_eq!(with_multus_network("a, b"), "a, b, default/istio-cni");
        assert_eq!(with_multus_network("default/istio-cni"), "default/istio-cni");
        let json = r#"[{"name":"a"},{"name":"istio-cni","namespace":"default"}]"#;
        assert_eq!(with_multus_network(json), json);
        assert_eq!(with_multus_network(r#"[{"name":"a"}]"#), json);
    }

    #[test]
    fn versions_are_read_off_images() {
        assert_eq!(image_version("r:5000/a"), None);
        assert_eq!(image_version("r:5000/a:1").as_deref(), Some("1"));
        assert_eq!(image_version("a:1@sha256:f").as_deref(), Some("1@sha256:f"));
        assert_eq!(image_version("a@sha256:f").as_deref(), Some("sha256:f"));
    }
}
