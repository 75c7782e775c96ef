//! What several templates have in common: arguments, environment, volumes and mounts of the proxy.

use serde_json::{Map, Value, json};

use crate::annotations::{
    BOOTSTRAP_OVERRIDE, PROXY_CPU, PROXY_CPU_LIMIT, PROXY_MEMORY, PROXY_MEMORY_LIMIT, READY_DELAY, READY_PERIOD,
    READY_THRESHOLD, STATUS_PORT, USER_VOLUME, USER_VOLUME_MOUNT,
};
use crate::context::Context;
use crate::{pod, proxy_config};

/// Environment variables: a name stands once, and the last value counts.
#[derive(Default)]
pub(super) struct Env(Vec<Value>);

impl Env {
    pub(super) fn value(&mut self, name: &str, value: impl Into<String>) {
        self.put(json!({ "name": name, "value": value.into() }));
    }

    pub(super) fn field(&mut self, name: &str, path: &str) {
        self.put(json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } }));
    }

    pub(super) fn resource(&mut self, name: &str, resource: &str) {
        let reference = json!({ "resource": resource, "divisor": "1" });
        self.put(json!({ "name": name, "valueFrom": { "resourceFieldRef": reference } }));
    }

    /// ProxyConfig's `proxyMetadata`.
    pub(super) fn proxy_metadata(&mut self, context: &Context<'_>) {
        for (name, value) in &context.proxy_config.proxy_metadata {
            self.value(name, value);
        }
    }

    pub(super) fn into_json(self) -> Value {
        Value::Array(self.0)
    }

    fn put(&mut self, variable: Value) {
        match self.0.iter_mut().find(|known| pod::name(known) == pod::name(&variable)) {
            Some(known) => *known = variable,
            None => self.0.push(variable),
        }
    }
}

/// What the agent must know to get certificates and configuration, whatever proxy it runs.
pub(super) fn identity(context: &Context<'_>, env: &mut Env) {
    let values = &context.settings.values;
    env.value(
        "PILOT_CERT_PROVIDER",
        values.text_or("global.pilotCertProvider", "istiod"),
    );
    let authority = match (values.text("global.caAddress"), values.text("revision")) {
        (address, _) if !address.is_empty() => address,
        (_, revision) => {
            let revision = if revision.is_empty() {
                revision
            } else {
                format!("-{revision}")
            };
            let namespace = values.text_or("global.istioNamespace", "istio-system");
            format!("istiod{revision}.{namespace}.svc:15012")
        }
    };
    env.value("CA_ADDR", authority);
    env.field("POD_NAME", "metadata.name");
    env.field("POD_NAMESPACE", "metadata.namespace");
    env.field("INSTANCE_IP", "status.podIP");
    env.field("SERVICE_ACCOUNT", "spec.serviceAccountName");
    env.field("HOST_IP", "status.hostIP");
    env.value(
        "PROXY_CONFIG",
        format!("{}\n", proxy_config::to_json(context.proxy_config)),
    );
    env.value("ISTIO_META_POD_PORTS", pod_ports(context));
    env.value("ISTIO_META_APP_CONTAINERS", context.app_containers().join(","));
    env.value(
        "ISTIO_META_CLUSTER_ID",
        values.text_or("global.multiCluster.clusterName", "Kubernetes"),
    );
    env.field("ISTIO_META_NODE_NAME", "spec.nodeName");
}

/// What telemetry tells the workload by.
pub(super) fn workload(context: &Context<'_>, env: &mut Env) {
    let values = &context.settings.values;
    match values.text("global.network") {
        network if network.is_empty() => {}
        network => env.value("ISTIO_META_NETWORK", network),
    }
    let owner = context.owner;
    let name = context.label("service.istio.io/workload-name").unwrap_or(&owner.name);
    if !name.is_empty() {
        env.value("ISTIO_META_WORKLOAD_NAME", name);
    }
    if !owner.api_version.is_empty() && !owner.name.is_empty() {
        let namespace = if owner.namespace.is_empty() {
            "default"
        } else {
            &owner.namespace
        };
        let kind = owner.kind.to_lowercase();
        env.value(
            "ISTIO_META_OWNER",
            format!(
                "kubernetes://apis/{}/namespaces/{namespace}/{kind}s/{}",
                owner.api_version, owner.name
            ),
        );
    }
    let trust_domain = match context.settings.mesh.trust_domain.as_str() {
        "" => values.text("global.trustDomain"),
        domain => domain.to_owned(),
    };
    let mesh = values.text_or("global.meshID", &trust_domain);
    if !mesh.is_empty() {
        env.value("ISTIO_META_MESH_ID", mesh);
    }
    if !trust_domain.is_empty() {
        env.value("TRUST_DOMAIN", trust_domain);
    }
}

/// What depends on the limits of the container. `GOMEMLIMIT` is for images whose agent is written in Go.
pub(super) fn limits(context: &Context<'_>, env: &mut Env) {
    env.resource("ISTIO_CPU_LIMIT", "limits.cpu");
    env.resource("GOMEMLIMIT", "limits.memory");
    let policy = &context.settings.compliance_policy;
    if !policy.is_empty() {
        env.value("COMPLIANCE_POLICY", policy);
        if policy == "fips-140-3" {
            env.value("GODEBUG", "fips140=only");
        }
    }
}

/// The ports of the application, then those that the user gave the proxy, in whichever list that stands.
fn pod_ports(context: &Context<'_>) -> String {
    let containers = pod::list(context.pod, pod::CONTAINERS).iter();
    let applications = containers.filter(|container| pod::name(container) != pod::PROXY);
    let all = applications.chain(pod::container(context.pod, pod::PROXY));
    let ports = all.filter_map(|container| container["ports"].as_array()).flatten();
    Value::Array(ports.cloned().collect()).to_string()
}

/// The arguments of the agent.
pub(super) fn arguments(context: &Context<'_>, role: &str) -> Vec<String> {
    let values = &context.settings.values;
    let flag = |flag: &str, annotation: &str, path: &str| format!("{flag}={}", context.annotation_or(annotation, path));
    let mut arguments = vec![
        "proxy".to_owned(),
        role.to_owned(),
        "--domain".to_owned(),
        format!(
            "$(POD_NAMESPACE).svc.{}",
            values.text_or("global.proxy.clusterDomain", "cluster.local")
        ),
        flag("--proxyLogLevel", "sidecar.istio.io/logLevel", "global.proxy.logLevel"),
        flag(
            "--proxyComponentLogLevel",
            "sidecar.istio.io/componentLogLevel",
            "global.proxy.componentLogLevel",
        ),
        flag(
            "--log_output_level",
            "sidecar.istio.io/agentLogLevel",
            "global.logging.level",
        ),
    ];
    match values.number_or("global.sts.servicePort", 0) {
        0 => {}
        port => arguments.push(format!("--stsPort={port}")),
    }
    if values.flag("global.logAsJson") {
        arguments.push("--log_as_json".to_owned());
    }
    arguments
}

/// The proxy's resources: the annotations', all of them, or the installation's.
pub(super) fn resources(context: &Context<'_>) -> Value {
    let asked = |cpu: &str, memory: &str| {
        let mut amounts = Map::new();
        for (resource, annotation) in [("cpu", cpu), ("memory", memory)] {
            if let Some(amount) = context.annotation(annotation) {
                amounts.insert(resource.to_owned(), amount.into());
            }
        }
        (!amounts.is_empty()).then_some(Value::Object(amounts))
    };
    let (requests, limits) = (
        asked(PROXY_CPU, PROXY_MEMORY),
        asked(PROXY_CPU_LIMIT, PROXY_MEMORY_LIMIT),
    );
    if requests.is_none() && limits.is_none() {
        let resources = context.settings.values.object("global.proxy.resources");
        return without_empty(resources.unwrap_or_default());
    }
    pod::without_nulls(&json!({ "requests": requests, "limits": limits }))
}

fn without_empty(mut resources: Value) -> Value {
    if let Some(fields) = resources.as_object_mut() {
        fields.retain(|_, value| value.as_object().is_none_or(|map| !map.is_empty()));
    }
    resources
}

/// The readiness probe of the proxy, on the port that answers it; none where the agent's port is switched off.
pub(super) fn readiness(context: &Context<'_>, port: u16) -> Value {
    if context.annotation_or(STATUS_PORT, "global.proxy.statusPort") == "0" {
        return Value::Null;
    }
    json!({
        "httpGet": { "path": "/healthz/ready", "port": port },
        "initialDelaySeconds": context.number_or(READY_DELAY, "global.proxy.readinessInitialDelaySeconds", 0),
        "periodSeconds": context.number_or(READY_PERIOD, "global.proxy.readinessPeriodSeconds", 15),
        "timeoutSeconds": 3,
        "failureThreshold": context.number_or(READY_THRESHOLD, "global.proxy.readinessFailureThreshold", 4),
    })
}

/// Which of the volumes a template has.
pub(super) struct Storage<'a> {
    context: &'a Context<'a>,
    /// Volumes in the order that they are told of in the status.
    volumes: Vec<Value>,
    mounts: Vec<Value>,
}

impl<'a> Storage<'a> {
    pub(super) fn new(context: &'a Context<'a>) -> Self {
        Self {
            context,
            volumes: Vec::new(),
            mounts: Vec::new(),
        }
    }

    pub(super) fn into_parts(self) -> (Value, Value) {
        (Value::Array(self.volumes), Value::Array(self.mounts))
    }

    /// A volume and its mount. A volume without source is an empty directory to Kubernetes, and gives way to a source
    /// that a later template adds.
    pub(super) fn add(&mut self, mut volume: Value, path: &str, read_only: bool) {
        let name = pod::name(&volume).to_owned();
        let mut mount = json!({ "name": name, "mountPath": path });
        if read_only {
            mount["readOnly"] = true.into();
        }
        self.mounts.push(mount);
        // What the user calls by this name already is the user's.
        if let Some(own) = pod::find(pod::list(self.context.pod, "volumes"), &name)
            && own.as_object().is_some_and(|fields| fields.len() > 1)
        {
            volume = json!({ "name": name });
        }
        self.volumes.push(volume);
    }

    /// Sockets of the agent, and of whoever else gives the workload its certificate.
    pub(super) fn sockets(&mut self, credentials: bool) {
        self.add(
            json!({ "name": "workload-socket" }),
            "/var/run/secrets/workload-spiffe-uds",
            false,
        );
        if credentials {
            self.add(
                json!({ "name": "credential-socket" }),
                "/var/run/secrets/credential-uds",
                false,
            );
        }
        let path = "/var/run/secrets/workload-spiffe-credentials";
        if self.context.settings.values.text("global.caName") == "GkeWorkloadCertificate" {
            let driver = json!({ "driver": "workloadcertificates.security.cloud.google.com" });
            self.add(json!({ "name": "gke-workload-certificate", "csi": driver }), path, true);
        } else {
            self.add(json!({ "name": "workload-certs" }), path, false);
        }
        if let Some(name) = self.context.annotation(BOOTSTRAP_OVERRIDE) {
            let volume = json!({ "name": "custom-bootstrap-volume", "configMap": { "name": name } });
            self.add(volume, "/etc/istio/custom-bootstrap", false);
        }
    }

    /// What the agent works with: its directory, its data, what it knows of the pod, and its token.
    pub(super) fn agent(&mut self, directory: &str) {
        let memory = json!({ "name": directory, "emptyDir": { "medium": "Memory" } });
        self.add(memory, "/etc/istio/proxy", false);
        self.add(
            json!({ "name": "istio-data", "emptyDir": {} }),
            "/var/lib/istio/data",
            false,
        );
        let item = |name: &str| json!({ "path": name, "fieldRef": { "fieldPath": format!("metadata.{name}") } });
        let items = json!({ "items": [item("labels"), item("annotations")] });
        self.add(
            json!({ "name": "istio-podinfo", "downwardAPI": items }),
            "/etc/istio/pod",
            false,
        );
        let token = json!({
            "path": "istio-token",
            "expirationSeconds": 43200,
            "audience": self.context.settings.values.text_or("global.sds.token.aud", "istio-ca"),
        });
        let sources = json!({ "sources": [{ "serviceAccountToken": token }] });
        self.add(
            json!({ "name": "istio-token", "projected": sources }),
            "/var/run/secrets/tokens",
            false,
        );
    }

    /// The roots that authenticate the control plane; where wanted, also the list of revoked certificates.
    pub(super) fn roots(&mut self, revocation: bool) {
        let values = &self.context.settings.values;
        let ours = values.text_or("global.pilotCertProvider", "istiod") == "istiod";
        if ours {
            let volume = if values.flag("pilot.env.ENABLE_CLUSTER_TRUST_BUNDLE_API") {
                let name = values.text_or("global.trustBundleName", "root-cert");
                let bundle = json!({ "name": format!("istio.io:istiod-ca:{name}"), "path": "root-cert.pem" });
                json!({ "name": "istiod-ca-cert", "projected": { "sources": [{ "clusterTrustBundle": bundle }] } })
            } else {
                let name = values.text_or("global.trustBundleName", "istio-ca-root-cert");
                json!({ "name": "istiod-ca-cert", "configMap": { "name": name } })
            };
            self.add(volume, "/var/run/secrets/istio", false);
        }
        if revocation {
            let name = values.text_or("pilot.crlConfigMapName", "istio-ca-crl");
            let volume = json!({ "name": "istio-ca-crl", "configMap": { "name": name, "optional": true } });
            self.add(volume, "/var/run/secrets/istio/crl", false);
            if !ours {
                self.mounts.pop();
            }
        }
        if values.flag("global.mountMtlsCerts") {
            let account = self.context.pod["spec"]["serviceAccountName"].as_str();
            let account = account.filter(|account| !account.is_empty()).unwrap_or("default");
            let secret = json!({ "optional": true, "secretName": format!("istio.{account}") });
            self.add(json!({ "name": "istio-certs", "secret": secret }), "/etc/certs/", true);
        }
    }

    /// Volumes and mounts that the pod's annotations add.
    pub(super) fn users(&mut self) {
        let of = |key: &str| -> Map<String, Value> {
            let text = self.context.annotation(key).unwrap_or("{}");
            serde_json::from_str(text).unwrap_or_default()
        };
        for (name, mount) in of(USER_VOLUME_MOUNT) {
            self.mounts.push(named(&name, mount));
        }
        for (name, volume) in of(USER_VOLUME) {
            self.volumes.push(named(&name, volume));
        }
    }
}

fn named(name: &str, mut value: Value) -> Value {
    pod::as_object(&mut value).insert("name".to_owned(), name.into());
    value
}

/// The secrets that images are pulled with; `None` where the installation names none.
pub(super) fn pull_secrets(context: &Context<'_>) -> Option<Value> {
    let secrets = context.settings.values.texts("global.imagePullSecrets");
    let secrets: Vec<Value> = secrets.into_iter().map(|name| json!({ "name": name })).collect();
    (!secrets.is_empty()).then_some(Value::Array(secrets))
}

/// When images are pulled; null where the installation does not say.
pub(super) fn pull_policy(context: &Context<'_>) -> Value {
    match context.settings.values.text("global.imagePullPolicy") {
        policy if policy.is_empty() => Value::Null,
        policy => policy.into(),
    }
}
