//! Whatever an object names is there: selectors select, ports exist, roles and accounts are defined. And what two
//! revisions install is never the same object.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use lateen_tests::helm::{Helm, identity, labels, selects, text};

/// Installs that are looked at: chart, namespace, arguments.
const INSTALLS: &[(&str, &str, &[&str])] = &[
    (
        "lateen",
        "istio-system",
        &[
            "--set=global.networkPolicy.enabled=true",
            "--set=plaintext.enabled=true",
        ],
    ),
    (
        "lateen",
        "istio-system",
        &["--set=revision=canary", "--set=revisionTags={prod}"],
    ),
    (
        "lateen",
        "mesh",
        &[
            "--set=global.istioNamespace=mesh",
            "--set=autoscaleEnabled=false",
            "--set=pdb.minAvailable=null",
            "--set=pdb.maxUnavailable=1",
        ],
    ),
    (
        "gateway",
        "istio-ingress",
        &[
            "--set=global.networkPolicy.enabled=true",
            "--set=autoscaling.minReplicas=2",
            "--set=podDisruptionBudget.minAvailable=1",
        ],
    ),
    (
        "gateway",
        "istio-ingress",
        &["--set=networkGateway=west", "--set=labels.istio=west"],
    ),
    ("cni", "istio-system", &["--set=global.networkPolicy.enabled=true"]),
];

/// The one workload of a chart: its kind and name, and its pods' labels and spec.
fn workload(objects: &[Value]) -> &Value {
    let mut found = objects
        .iter()
        .filter(|object| matches!(text(object, "/kind"), "Deployment" | "DaemonSet"));
    let workload = found.next().unwrap();
    assert!(found.next().is_none(), "one workload a chart");
    workload
}

/// The selectors by which other objects choose pods: what they are, and the selector.
fn selectors(objects: &[Value]) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for object in objects {
        let name = identity(object);
        match text(object, "/kind") {
            "Service" => found.push((name, json!({"matchLabels": object["spec"]["selector"]}))),
            "PodDisruptionBudget" => found.push((name, object["spec"]["selector"].clone())),
            "NetworkPolicy" => found.push((name, object["spec"]["podSelector"].clone())),
            "Deployment" | "DaemonSet" => {
                found.push((name.clone(), object["spec"]["selector"].clone()));
                let pod = &object["spec"]["template"]["spec"];
                for spread in pod["topologySpreadConstraints"].as_array().into_iter().flatten() {
                    found.push((format!("{name}: spread"), spread["labelSelector"].clone()));
                }
                let terms = pod.pointer("/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution");
                for term in terms.and_then(Value::as_array).into_iter().flatten() {
                    found.push((
                        format!("{name}: anti-affinity"),
                        term["podAffinityTerm"]["labelSelector"].clone(),
                    ));
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn every_selector_selects_the_charts_own_pods() {
    let Some(helm) = Helm::find("selectors") else { return };
    for (chart, namespace, arguments) in INSTALLS {
        let objects = helm.objects(chart, namespace, arguments);
        let of_pods = labels(&workload(&objects)["spec"]["template"]["metadata"]);
        let selectors = selectors(&objects);
        assert!(!selectors.is_empty());
        for (name, selector) in selectors {
            let empty = selector["matchLabels"]
                .as_object()
                .is_none_or(serde_json::Map::is_empty);
            assert!(!empty, "{chart} {arguments:?}: {name} selects everything");
            assert!(
                selects(&selector, &of_pods),
                "{chart} {arguments:?}: {name}: {selector} against {of_pods:?}"
            );
        }
    }
}

#[test]
fn revisions_choose_only_their_own_pods() {
    let Some(helm) = Helm::find("the selectors of revisions") else {
        return;
    };
    let all: Vec<Vec<Value>> = [&[][..], &["--set=revision=canary"], &["--set=revision=stable"]]
        .iter()
        .map(|arguments| helm.objects("lateen", "istio-system", arguments))
        .collect();
    for (index, one) in all.iter().enumerate() {
        for (other_index, other) in all.iter().enumerate() {
            let of_pods = labels(&workload(other)["spec"]["template"]["metadata"]);
            for (name, selector) in selectors(one) {
                assert_eq!(
                    selects(&selector, &of_pods),
                    index == other_index,
                    "{name}: {selector}: {of_pods:?}"
                );
            }
        }
    }
}

#[test]
fn selectors_are_those_of_istios_charts_which_can_never_change() {
    let Some(helm) = Helm::find("taking over Deployments") else {
        return;
    };
    let selector = |chart: &str, arguments: &[&str]| {
        let objects = helm.objects(chart, "istio-system", arguments);
        workload(&objects)["spec"]["selector"]["matchLabels"].clone()
    };
    assert_eq!(selector("lateen", &[]), json!({"istio": "pilot"}));
    assert_eq!(
        selector("lateen", &["--set=revision=canary"]),
        json!({"app": "istiod", "istio.io/rev": "canary"})
    );
    assert_eq!(
        selector("gateway", &["--set=name=istio-ingressgateway"]),
        json!({"app": "istio-ingressgateway", "istio": "ingressgateway"})
    );
    assert_eq!(selector("cni", &[]), json!({"k8s-app": "istio-cni-node"}));
}

#[test]
fn what_objects_refer_to_is_there() {
    let Some(helm) = Helm::find("references") else { return };
    for (chart, namespace, arguments) in INSTALLS {
        let objects = helm.objects(chart, namespace, arguments);
        let there: BTreeSet<String> = objects.iter().map(identity).collect();
        let context = format!("{chart} {arguments:?}");
        let pod = &workload(&objects)["spec"]["template"]["spec"];
        let account = format!("ServiceAccount {namespace}/{}", text(pod, "/serviceAccountName"));
        assert!(there.contains(&account), "{context}: {account}");
        for object in &objects {
            let name = identity(object);
            let refers: Vec<String> = match text(object, "/kind") {
                "HorizontalPodAutoscaler" => vec![format!(
                    "{} {namespace}/{}",
                    text(object, "/spec/scaleTargetRef/kind"),
                    text(object, "/spec/scaleTargetRef/name")
                )],
                "RoleBinding" => vec![format!("Role {namespace}/{}", text(object, "/roleRef/name"))],
                "ClusterRoleBinding" => vec![format!("ClusterRole /{}", text(object, "/roleRef/name"))],
                "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => object["webhooks"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|webhook| {
                        let service = &webhook["clientConfig"]["service"];
                        assert_eq!(service["port"], 443, "{name}");
                        format!("Service {}/{}", text(service, "/namespace"), text(service, "/name"))
                    })
                    .collect(),
                _ => Vec::new(),
            };
            for reference in refers {
                assert!(there.contains(&reference), "{context}: {name} refers to {reference}");
            }
        }
        ports_lead_somewhere(&context, chart, &objects, pod);
        volumes_are_mounted(&context, pod);
    }
}

/// A Service's ports are its pods', the control plane's as users of istiod know them; probes go to ports by name.
fn ports_lead_somewhere(context: &str, chart: &str, objects: &[Value], pod: &Value) {
    let container = &pod["containers"][0];
    let ports = container["ports"].as_array().unwrap();
    let numbers: BTreeSet<u64> = ports.iter().filter_map(|port| port["containerPort"].as_u64()).collect();
    for probe in ["readinessProbe", "livenessProbe"] {
        if let Some(name) = container
            .pointer(&format!("/{probe}/httpGet/port"))
            .and_then(Value::as_str)
        {
            assert!(ports.iter().any(|port| port["name"] == name), "{context}: {probe}");
        }
    }
    if chart != "lateen" {
        return;
    }
    let service = objects.iter().find(|object| object["kind"] == "Service").unwrap();
    let led: BTreeSet<(u64, u64)> = service["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| (port["port"].as_u64().unwrap(), port["targetPort"].as_u64().unwrap()))
        .collect();
    let plaintext = context.contains("plaintext.enabled=true").then_some((15010, 15010));
    let known = [(15012, 15012), (443, 15017), (15014, 15014), (8080, 8080)];
    assert_eq!(led, known.into_iter().chain(plaintext).collect(), "{context}");
    assert_eq!(numbers, led.iter().map(|(_, target)| *target).collect(), "{context}");
    if let Some(policy) = objects.iter().find(|object| object["kind"] == "NetworkPolicy") {
        let open: BTreeSet<u64> = policy["spec"]["ingress"][0]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|port| port["port"].as_u64())
            .collect();
        assert_eq!(open, numbers, "{context}: what the NetworkPolicy lets in");
    }
}

fn volumes_are_mounted(context: &str, pod: &Value) {
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array()
            .into_iter()
            .flatten()
            .map(|one| text(one, "/name").to_owned())
            .collect()
    };
    assert_eq!(
        names(&pod["volumes"]),
        names(&pod["containers"][0]["volumeMounts"]),
        "{context}"
    );
}

#[test]
fn revisions_share_no_object_and_no_environment_name_is_given_twice() {
    let Some(helm) = Helm::find("the names of revisions") else {
        return;
    };
    let installs: &[(&str, &[&str])] = &[
        ("istio-system", &[]),
        ("istio-system", &["--set=revision=canary"]),
        (
            "istio-system",
            &["--set=revision=stable", "--set=revisionTags={default,prod}"],
        ),
        (
            "mesh",
            &["--set=global.istioNamespace=mesh", "--set=global.enableReaderRBAC=true"],
        ),
        (
            "mesh",
            &[
                "--set=global.istioNamespace=mesh",
                "--set=revision=canary",
                "--set=revisionTags={prod}",
            ],
        ),
    ];
    let mut taken = BTreeSet::new();
    for (namespace, arguments) in installs {
        for object in helm.objects("lateen", namespace, arguments) {
            let name = identity(&object);
            assert!(
                taken.insert(name.clone()),
                "{name} is installed twice: {namespace} {arguments:?}"
            );
        }
    }
    let objects = helm.objects(
        "lateen",
        "istio-system",
        &[
            "--set-string=env.REVISION=mine",
            "--set=env.LATEEN_GRACE=9s",
            "--set=plaintext.enabled=true",
        ],
    );
    let entries = workload(&objects)["spec"]["template"]["spec"]["containers"][0]["env"].clone();
    let names: Vec<&str> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| text(entry, "/name"))
        .collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    let value = |name: &str| {
        entries
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["name"] == name)
            .unwrap()["value"]
            .clone()
    };
    assert_eq!((value("REVISION"), value("LATEEN_GRACE")), (json!("mine"), json!("9s")));
}
