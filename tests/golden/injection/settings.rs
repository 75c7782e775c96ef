//! The settings of a case: a table says how they differ from those of a fresh installation.

use std::fs;
use std::path::Path;

use lateen_injector::{InjectionSettings, Policy, Values};
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

/// The overlay that replaces the template `custom`, which is written in Go's language.
const CUSTOM: &str = "
metadata:
  annotations:
    prometheus.istio.io/merge-metrics: 'false'
    sidecar.istio.io/rewriteAppHTTPProbers: 'false'
    foo: bar
spec:
  containers:
  - name: '*'
    env:
    - {name: SOME_ENV, value: 'true'}
    - {name: SOME_FILE, value: /var/lib/data/foo.json}
    volumeMounts:
    - {name: some-injected-file, mountPath: /var/lib/data/foo.json, subPath: foo.json}
  volumes:
  - name: some-injected-file
    downwardAPI:
      items:
      - {path: foo.json, fieldRef: {fieldPath: \"metadata.annotations['foo']\"}}
";

/// The documents of a YAML file that are not empty.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|value| !value.is_null())
        .collect()
}

/// The settings of a case.
pub(crate) fn settings(directory: &Path, row: &Value) -> InjectionSettings {
    let mut settings = InjectionSettings {
        values: Values::default().with(&json!({
            "global": {
                "hub": "registry.istio.io/testing",
                "tag": "latest",
                "proxy": { "image": "proxyv2" },
                "proxy_init": { "image": "proxyv2" },
            },
        })),
        ..InjectionSettings::default()
    };
    if let Some(file) = row["inFilePath"].as_str() {
        let text = fs::read_to_string(directory.join(file)).unwrap();
        let overlay = documents(&text).remove(0);
        let values = &overlay["spec"]["values"];
        settings.values = settings.values.with(values);
        if let Some(templates) = values["sidecarInjectorWebhook"].get("templates") {
            let mut templates = templates.clone();
            if templates.get("custom").is_some() {
                templates["custom"] = CUSTOM.into();
            }
            let config = json!({ "templates": templates }).to_string();
            settings.policy = Policy::parse(&config).unwrap().0;
        }
    }
    for flag in row["setFlags"].as_array().into_iter().flatten() {
        set(&mut settings, flag.as_str().unwrap());
    }
    if let Some(mutation) = row["meshMutation(go)"].as_str() {
        let mesh = mesh_layer(mutation);
        settings.mesh = settings.mesh.merge(&mesh).unwrap().value;
    }
    let setup = row["setup(go)"].as_str().unwrap_or_default();
    if setup.contains("NativeSidecarModeDisabled") {
        settings.native_sidecars = false;
    }
    if setup.contains("fips-140-3") {
        settings.compliance_policy = "fips-140-3".to_owned();
    }
    if setup.contains("OpenShift") {
        let annotations = [
            ("openshift.io/sa.scc.uid-range", "1000620000/10000"),
            ("openshift.io/sa.scc.supplemental-groups", "1000620000/10000"),
        ];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
        settings.namespaces.insert("test-ns".to_owned(), annotations.into());
    }
    settings
}

/// A flag of the installer: a path of values, where `components.cni` stands for the plugin.
fn set(settings: &mut InjectionSettings, flag: &str) {
    let (path, value) = flag.split_once('=').unwrap();
    let path = match path {
        "components.cni.enabled" => "pilot.cni.enabled",
        "values.cni.provider" => "pilot.cni.provider",
        path => path.strip_prefix("values.").unwrap(),
    };
    let mut layer = match value {
        "true" | "false" => Value::Bool(value == "true"),
        value => Value::String(value.to_owned()),
    };
    for key in path.rsplit('.') {
        let mut map = Map::new();
        map.insert(key.to_owned(), layer);
        layer = Value::Object(map);
    }
    settings.values = settings.values.with(&layer);
}

/// What the table says in Go, as MeshConfig.
fn mesh_layer(mutation: &str) -> Value {
    if mutation.contains("ProxyConfig_TPROXY") {
        json!({ "defaultConfig": { "interceptionMode": "TPROXY" } })
    } else if mutation.contains("DrainDuration") {
        json!({ "defaultConfig": { "drainDuration": "23s" } })
    } else if mutation.contains("ISTIO_META_TLS_CLIENT_KEY") {
        let key = "/etc/identity/client/keys/client-key.pem";
        json!({ "defaultConfig": { "proxyMetadata": { "ISTIO_META_TLS_CLIENT_KEY": key } } })
    } else if mutation.contains("meshapi.Tracing{}") {
        json!({ "defaultConfig": { "tracing": {} } })
    } else if mutation.contains("LOCALHOST") {
        json!({ "inboundTrafficPolicy": { "mode": "LOCALHOST" } })
    } else if mutation.contains("OTEL_SEMANTIC_CONVENTIONS") {
        json!({ "extensionProviders": [{ "name": "otel", "opentelemetry": {
            "service": "otel-collector.observability.svc.cluster.local",
            "port": 4317,
            "serviceAttributeEnrichment": "OTEL_SEMANTIC_CONVENTIONS",
        } }] })
    } else {
        panic!("a mutation that this test does not know: {mutation}")
    }
}
