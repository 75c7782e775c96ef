//! What holds for every pod: injecting again changes nothing, and what the user wrote is still there.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use lateen_injector::{InjectionSettings, Overlay, Request, inject, patch};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use serde_json::{Map, Value, json};

/// A field that is there or not.
const EXCLUDED_PORTS: &str = "traffic.sidecar.istio.io/excludeInboundPorts";

fn maybe(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), value]
}

fn probe() -> impl Strategy<Value = Value> {
    select(vec![
        json!({"httpGet": {"path": "/x", "port": 8080}, "timeoutSeconds": 2}),
        json!({"httpGet": {"path": "/x", "port": "http", "scheme": "HTTPS"}}),
        json!({"httpGet": {"port": "unknown"}}),
        json!({"tcpSocket": {"port": 9}}),
        json!({"grpc": {"port": 9, "service": "s"}}),
        json!({"exec": {"command": ["true"]}}),
    ])
}

fn container(name: &'static str) -> impl Strategy<Value = Value> {
    let fields = (
        maybe(probe()),
        maybe(probe()),
        maybe(select(vec![
            json!([]),
            json!([{"name": "A", "value": "1"}, {"name": "POD_NAME", "value": "mine"}]),
        ])),
        maybe(select(vec![
            json!([{"containerPort": 8080, "name": "http"}]),
            json!([{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}]),
        ])),
        maybe(select(vec![
            json!({"runAsUser": 7}),
            json!({"runAsUser": 1337, "runAsGroup": 8}),
        ])),
        maybe(Just(
            json!({"preStop": {"httpGet": {"port": 1}}, "postStart": {"exec": {"command": ["x"]}}}),
        )),
        maybe(select(vec![
            json!([{"name": "istio-data", "mountPath": "/data"}]),
            json!([{"name": "v", "mountPath": "/etc/istio/proxy"}]),
        ])),
    );
    fields.prop_map(move |(ready, live, env, ports, security, lifecycle, mounts)| {
        let image = if name == "istio-proxy" { "auto" } else { "app:1" };
        without_nulls(json!({
            "name": name, "image": image, "readinessProbe": ready, "livenessProbe": live, "env": env, "ports": ports,
            "securityContext": security, "lifecycle": lifecycle, "volumeMounts": mounts, "someNewField": {"kept": true},
        }))
    })
}

fn annotations() -> impl Strategy<Value = Value> {
    let known = [
        ("inject.istio.io/templates", "sidecar,mine"),
        ("inject.istio.io/templates", "gateway"),
        ("inject.istio.io/templates", "grpc-agent"),
        ("inject.istio.io/templates", "grpc-simple"),
        ("sidecar.istio.io/nativeSidecar", "false"),
        ("sidecar.istio.io/interceptionMode", "TPROXY"),
        ("sidecar.istio.io/interceptionMode", "NONE"),
        ("status.sidecar.istio.io/port", "123"),
        ("status.sidecar.istio.io/port", "0"),
        ("prometheus.io/port", "9090"),
        ("prometheus.io/scrape", "false"),
        ("prometheus.istio.io/scrape-targets", "1:/a,2"),
        (
            "proxy.istio.io/config",
            "{holdApplicationUntilProxyStarts: true, statusPort: 77, proxyMetadata: {A: b}}",
        ),
        ("sidecar.istio.io/proxyCPU", "10m"),
        ("sidecar.istio.io/userVolume", r#"{"u": {"emptyDir": {}}}"#),
        ("sidecar.istio.io/userVolumeMount", r#"{"u": {"mountPath": "/u"}}"#),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "1,2"),
        ("kubectl.kubernetes.io/default-container", "two"),
        ("mine", "x"),
    ];
    proptest::collection::vec(select(known.to_vec()), 0..6).prop_map(|pairs| {
        let pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), json!(value)));
        Value::Object(pairs.collect())
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let proxy = prop_oneof![3 => Just(Value::Null), 1 => container("istio-proxy")];
    let volumes = select(vec![
        json!([]),
        json!([{"name": "istio-data", "hostPath": {"path": "/x"}}, {"name": "v", "emptyDir": {}}]),
    ]);
    let labels = select(vec![
        json!({}),
        json!({"app": "a", "version": "v1"}),
        json!({"topology.istio.io/network": "n", "service.istio.io/canonical-name": "c"}),
    ]);
    let security = maybe(Just(
        json!({"sysctls": [{"name": "net.core.somaxconn", "value": "1"}], "fsGroup": 2}),
    ));
    let parts = (
        container("one"),
        container("two"),
        maybe(container("init")),
        proxy,
        volumes,
        labels,
        annotations(),
        security,
    );
    parts.prop_map(|(one, two, init, proxy, volumes, labels, annotations, security)| {
        let containers: Vec<Value> = [one, proxy, two].into_iter().filter(|value| !value.is_null()).collect();
        let init: Vec<Value> = [init].into_iter().filter(|value| !value.is_null()).collect();
        without_nulls(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": labels, "annotations": annotations},
            "spec": {
                "containers": containers, "initContainers": init, "volumes": volumes, "securityContext": security,
                "imagePullSecrets": [{"name": "own"}], "nodeName": "n", "someNewField": [1],
            },
        }))
    })
}

fn settings() -> impl Strategy<Value = InjectionSettings> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(native, cni, mine)| {
        let mut settings = InjectionSettings {
            native_sidecars: native,
            ..InjectionSettings::default()
        };
        settings.values = settings.values.with(&json!({
            "global": {"imagePullSecrets": ["ours", "own"], "network": if mine { "net" } else { "" }},
            "pilot": {"cni": {"enabled": cni, "provider": "multus"}},
        }));
        let overlay = json!({
            "metadata": {"labels": {"mine": "yes"}},
            "spec": {
                "containers": [
                    {"name": "*", "env": [{"name": "A", "value": "overlay"}, {"name": "M", "value": "m"}]},
                    {"name": "istio-proxy", "env": [{"name": "M", "value": "m"}]},
                    {"name": "added", "image": "helper"},
                ],
                "volumes": [{"name": "m", "emptyDir": {}}],
            },
        });
        settings
            .policy
            .overlays
            .insert("mine".to_owned(), Overlay::Patch(overlay));
        settings
    })
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        other => other,
    }
}

fn injected(pod: &Value, settings: &InjectionSettings) -> Value {
    let request = Request {
        pod,
        namespace: "ns",
        owner: None,
        environment: &BTreeMap::new(),
    };
    inject(request, settings).unwrap().pod
}

fn named<'a>(pod: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    let items = pod["spec"][list].as_array()?;
    items.iter().find(|item| item["name"] == name)
}

/// Everything that `before` says, `after` says too; objects and lists may have more.
fn says(after: &Value, before: &Value, path: &str) -> Result<(), String> {
    match (after, before) {
        (Value::Object(after), Value::Object(before)) => before
            .iter()
            .try_for_each(|(key, value)| says(after.get(key).unwrap_or(&Value::Null), value, &format!("{path}.{key}"))),
        (Value::Array(after), Value::Array(before)) => before.iter().enumerate().try_for_each(|(index, item)| {
            let found = after.iter().any(|other| says(other, item, path).is_ok());
            if found {
                Ok(())
            } else {
                Err(format!("{path}[{index}]: {item} is gone"))
            }
        }),
        (after, before) if after == before => Ok(()),
        _ => Err(format!("{path}: {after}, not {before}")),
    }
}

fn without(container: &Value, fields: &[&str]) -> Value {
    let map = container.as_object().unwrap().clone();
    let kept: Map<String, Value> = map
        .into_iter()
        .filter(|(key, _)| !fields.contains(&key.as_str()))
        .collect();
    Value::Object(kept)
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 256,
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn injecting_again_changes_nothing(pod in pod(), settings in settings()) {
        let once = injected(&pod, &settings);
        prop_assert_eq!(injected(&once, &settings), once);
    }

    #[test]
    fn what_the_user_wrote_stays(pod in pod(), settings in settings()) {
        let after = injected(&pod, &settings);
        for list in ["containers", "initContainers"] {
            for container in pod["spec"][list].as_array().into_iter().flatten() {
                let name = container["name"].as_str().unwrap();
                if name == "istio-proxy" {
                    continue;
                }
                let found = named(&after, list, name).unwrap();
                // Only probes and hooks are sent elsewhere.
                let rewritten = ["readinessProbe", "livenessProbe", "lifecycle"];
                if let Err(lost) = says(&without(found, &rewritten), &without(container, &rewritten), name) {
                    prop_assert!(false, "{}", lost);
                }
            }
        }
        let mut rest = pod.clone();
        for list in ["containers", "initContainers"] {
            rest["spec"].as_object_mut().unwrap().remove(list);
        }
        // Prometheus' annotations are told to the agent instead.
        if let Some(annotations) = rest["metadata"]["annotations"].as_object_mut() {
            annotations.retain(|key, _| !key.starts_with("prometheus"));
            // The plugin that redirects traffic reads the agent's own port from the same annotation.
            if let Some(ports) = annotations.remove(EXCLUDED_PORTS) {
                let said = after["metadata"]["annotations"][EXCLUDED_PORTS].as_str().unwrap();
                prop_assert!(said.starts_with(ports.as_str().unwrap()), "{} became {}", ports, said);
            }
        }
        if let Err(lost) = says(&after, &rest, "pod") {
            prop_assert!(false, "{}", lost);
        }
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        for volume in volumes {
            prop_assert_eq!(named(&after, "volumes", volume["name"].as_str().unwrap()), Some(volume));
        }
    }

    #[test]
    fn containers_without_overlay_are_the_users_but_for_probes(mut pod in pod(), settings in settings()) {
        pod["metadata"]["annotations"].as_object_mut().unwrap().remove("inject.istio.io/templates");
        let after = injected(&pod, &settings);
        let rewritten = ["readinessProbe", "livenessProbe", "lifecycle"];
        for container in pod["spec"]["containers"].as_array().unwrap() {
            if container["name"] != "istio-proxy" {
                let found = named(&after, "containers", container["name"].as_str().unwrap()).unwrap();
                prop_assert_eq!(without(found, &rewritten), without(container, &rewritten));
            }
        }
    }

    #[test]
    fn the_patch_leads_from_one_to_the_other(pod in pod(), settings in settings()) {
        let after = injected(&pod, &settings);
        let patch: json_patch::Patch = serde_json::from_value(patch(&pod, &after).unwrap()).unwrap();
        let mut patched = pod;
        json_patch::patch(&mut patched, &patch).unwrap();
        prop_assert_eq!(patched, after);
    }
}
