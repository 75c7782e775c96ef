//! Which control plane injects a pod: the webhooks' selectors, evaluated as the API server does.

use std::collections::BTreeSet;

use serde_json::Value;

use lateen_tests::helm::{Helm, identity, selects, text};

/// A label's value, or none.
type Label = Option<&'static str>;

/// Labels of a namespace and of a pod in it.
#[derive(Clone, Copy, Debug)]
struct Case {
    injection: Label,
    namespace_revision: Label,
    inject: Label,
    pod_revision: Label,
}

const fn case(injection: Label, namespace_revision: Label, inject: Label, pod_revision: Label) -> Case {
    Case {
        injection,
        namespace_revision,
        inject,
        pod_revision,
    }
}

/// What users know, by labels `istio-injection` and `istio.io/rev` of the namespace, `sidecar.istio.io/inject` and
/// `istio.io/rev` of the pod, and the control plane's Service that is asked. There are the default revision, and the revision
/// `canary` with the tag `prod`.
const KNOWN: &[(Case, Label)] = &[
    // Nothing said: nobody.
    (case(None, None, None, None), None),
    // The namespace asks for the default revision; the pod can refuse, but not choose another.
    (case(Some("enabled"), None, None, None), Some("istiod")),
    (case(Some("enabled"), None, Some("true"), None), Some("istiod")),
    (case(Some("enabled"), None, Some("false"), None), None),
    (case(Some("enabled"), None, None, Some("canary")), Some("istiod")),
    // The older label wins over the newer.
    (case(Some("enabled"), Some("canary"), None, None), Some("istiod")),
    // The namespace refuses; the pod cannot insist.
    (case(Some("disabled"), None, None, None), None),
    (case(Some("disabled"), None, Some("true"), None), None),
    (case(Some("disabled"), None, None, Some("canary")), None),
    (case(Some("disabled"), Some("canary"), None, None), None),
    // The namespace asks for a revision, by its name or by a tag.
    (case(None, Some("default"), None, None), Some("istiod")),
    (case(None, Some("canary"), None, None), Some("istiod-canary")),
    (case(None, Some("prod"), None, None), Some("istiod-canary")),
    (case(None, Some("gone"), None, None), None),
    (case(None, Some("canary"), Some("false"), None), None),
    (
        case(None, Some("canary"), Some("true"), Some("default")),
        Some("istiod-canary"),
    ),
    // The namespace says nothing: the pod may ask.
    (case(None, None, Some("true"), None), Some("istiod")),
    (case(None, None, Some("false"), None), None),
    (case(None, None, None, Some("canary")), Some("istiod-canary")),
    (case(None, None, None, Some("prod")), Some("istiod-canary")),
    (case(None, None, Some("true"), Some("prod")), Some("istiod-canary")),
    (case(None, None, Some("true"), Some("default")), Some("istiod")),
    (case(None, None, Some("false"), Some("canary")), None),
    (case(None, None, Some("true"), Some("gone")), None),
];

/// Every combination of the values that matter.
fn all_cases() -> Vec<Case> {
    let revisions = [
        None,
        Some("default"),
        Some("canary"),
        Some("stable"),
        Some("prod"),
        Some("gone"),
    ];
    let mut cases = Vec::new();
    for injection in [None, Some("enabled"), Some("disabled")] {
        for namespace_revision in revisions {
            for inject in [None, Some("true"), Some("false")] {
                for pod_revision in revisions {
                    cases.push(case(injection, namespace_revision, inject, pod_revision));
                }
            }
        }
    }
    cases
}

fn pairs<'a>(given: &[(&'a str, Label)]) -> Vec<(&'a str, &'static str)> {
    given
        .iter()
        .filter_map(|(key, value)| value.map(|value| (*key, value)))
        .collect()
}

/// The webhooks that are asked about a pod, and the Service each leads to.
fn asked<'a>(configurations: &'a [Value], namespace: &'static str, case: Case) -> Vec<(&'a str, &'a str)> {
    let of_namespace = pairs(&[
        ("kubernetes.io/metadata.name", Some(namespace)),
        ("istio-injection", case.injection),
        ("istio.io/rev", case.namespace_revision),
    ]);
    let of_pod = pairs(&[
        ("sidecar.istio.io/inject", case.inject),
        ("istio.io/rev", case.pod_revision),
    ]);
    configurations
        .iter()
        .flat_map(|configuration| configuration["webhooks"].as_array().unwrap())
        .filter(|webhook| selects(&webhook["namespaceSelector"], &of_namespace))
        .filter(|webhook| selects(&webhook["objectSelector"], &of_pod))
        .map(|webhook| (text(webhook, "/name"), text(webhook, "/clientConfig/service/name")))
        .collect()
}

fn webhooks(helm: &Helm, installs: &[&[&str]]) -> Vec<Value> {
    installs
        .iter()
        .flat_map(|arguments| helm.objects("lateen", "istio-system", arguments))
        .filter(|object| object["kind"] == "MutatingWebhookConfiguration")
        .collect()
}

#[test]
fn pods_are_injected_by_whom_their_labels_name() {
    let Some(helm) = Helm::find("who injects a pod") else {
        return;
    };
    let configurations = webhooks(&helm, &[&[], &["--set=revision=canary", "--set=revisionTags={prod}"]]);
    assert_eq!(configurations.len(), 3);
    for (case, expected) in KNOWN {
        let found = asked(&configurations, "shop", *case);
        let services: Vec<&str> = found.iter().map(|(_, service)| *service).collect();
        let expected: Vec<&str> = expected.iter().copied().collect();
        assert_eq!(services, expected, "{case:?}: {found:?}");
    }
}

#[test]
fn a_tag_named_default_stands_in_for_the_default_revision() {
    let Some(helm) = Helm::find("who injects a pod by a tag") else {
        return;
    };
    let configurations = webhooks(
        &helm,
        &[&["--set=revision=canary", "--set=revisionTags={prod,default}"]],
    );
    for (case, expected) in KNOWN {
        let services: Vec<&str> = asked(&configurations, "shop", *case)
            .iter()
            .map(|(_, service)| *service)
            .collect();
        let expected: Vec<&str> = expected.iter().map(|_| "istiod-canary").collect();
        assert_eq!(services, expected, "{case:?}");
    }
}

#[test]
fn no_pod_is_injected_twice() {
    let Some(helm) = Helm::find("that no pod is injected twice") else {
        return;
    };
    let auto = "--set=sidecarInjectorWebhook.enableNamespacesByDefault=true";
    let worlds: [&[&[&str]]; 3] = [
        &[&[auto], &["--set=revision=canary", "--set=revisionTags={prod}", auto]],
        &[
            &["--set=revision=stable", "--set=revisionTags={default}", auto],
            &["--set=revision=canary", "--set=revisionTags={prod}", auto],
        ],
        &[&[]],
    ];
    for world in worlds {
        let configurations = webhooks(&helm, world);
        for case in all_cases() {
            let found = asked(&configurations, "shop", case);
            assert!(found.len() <= 1, "{world:?} {case:?}: {found:?}");
        }
    }
}

#[test]
fn namespaces_without_labels_are_injected_only_when_asked_for_and_never_kubernetes_own() {
    let Some(helm) = Helm::find("injection of namespaces by default") else {
        return;
    };
    let auto = webhooks(
        &helm,
        &[&["--set=sidecarInjectorWebhook.enableNamespacesByDefault=true"]],
    );
    let plain = webhooks(&helm, &[&[]]);
    let unlabelled = case(None, None, None, None);
    assert_eq!(asked(&plain, "shop", unlabelled), []);
    assert_eq!(
        asked(&auto, "shop", unlabelled),
        [("auto.sidecar-injector.istio.io", "istiod")]
    );
    for namespace in ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"] {
        assert_eq!(asked(&auto, namespace, unlabelled), [], "{namespace}");
    }
}

#[test]
fn lateen_has_istios_names_and_asks_for_pods_alone() {
    let Some(helm) = Helm::find("the webhooks' names") else {
        return;
    };
    let names = |namespace: &str, arguments: &[&str]| -> BTreeSet<String> {
        let objects = helm.objects("lateen", namespace, arguments).into_iter();
        let mutating: Vec<Value> = objects
            .filter(|object| object["kind"] == "MutatingWebhookConfiguration")
            .collect();
        for webhook in mutating.iter().flat_map(|one| one["webhooks"].as_array().unwrap()) {
            let rules = serde_json::json!([
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
            ]);
            assert_eq!(webhook["rules"], rules);
            assert_eq!(text(webhook, "/clientConfig/service/namespace"), namespace);
            assert_eq!(text(webhook, "/clientConfig/service/path"), "/inject");
            assert_eq!(webhook["failurePolicy"], "Fail");
        }
        mutating
            .iter()
            .map(|object| identity(object).rsplit('/').next().unwrap().to_owned())
            .collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let canary = ["--set=revision=canary", "--set=revisionTags={prod}"];
    assert_eq!(names("istio-system", &[]), set(&["istio-sidecar-injector"]));
    assert_eq!(
        names("istio-system", &canary),
        set(&["istio-sidecar-injector-canary", "istio-revision-tag-prod"])
    );
    assert_eq!(
        names("mesh", &canary),
        set(&["istio-sidecar-injector-canary-mesh", "istio-revision-tag-prod-mesh"])
    );
}
