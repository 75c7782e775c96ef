//! The charts on a real API server: what it admits, what it allows, what an upgrade keeps and an uninstall leaves.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "charts/server.rs"]
mod server;

use std::collections::BTreeSet;
use std::fs;

use base64::Engine as _;
use lateen_tests::helm::{Helm, chart, identity, root, text};
use serde_json::{Value, json};
use server::Server;

const KINDS: &str = "configmaps,services,serviceaccounts,deployments,daemonsets,horizontalpodautoscalers,\
    poddisruptionbudgets,networkpolicies,roles,rolebindings,clusterroles,clusterrolebindings,resourcequotas,\
    mutatingwebhookconfigurations,validatingwebhookconfigurations";

/// Releases, and what is installed by them: name, chart, namespace, arguments.
const RELEASES: &[(&str, &str, &str, &[&str])] = &[
    ("lateen-base", "base", "istio-system", &[]),
    (
        "lateen",
        "lateen",
        "istio-system",
        &[
            "--set=plaintext.enabled=true",
            "--set=global.networkPolicy.enabled=true",
        ],
    ),
    (
        "lateen-canary",
        "lateen",
        "istio-system",
        &[
            "--set=revision=canary",
            "--set=revisionTags={prod}",
            "--set=gatewayClasses.istio.deployment.spec.replicas=2",
        ],
    ),
    (
        "istio-ingress",
        "gateway",
        "istio-ingress",
        &[
            "--set=service.type=ClusterIP",
            "--set=global.networkPolicy.enabled=true",
        ],
    ),
    (
        "lateen-cni",
        "cni",
        "istio-system",
        &[
            "--set=resourceQuotas.enabled=true",
            "--set=global.networkPolicy.enabled=true",
        ],
    ),
];

fn helm(helm: &Helm, arguments: &[&str]) {
    let output = helm.run(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "helm {}: {said}", arguments.join(" "));
    // In a checkout the chart's definitions are a link, which Helm mentions; a packaged chart has them within.
    let warnings: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains("found symbolic link"))
        .collect();
    assert!(warnings.is_empty(), "helm {} warns: {warnings:#?}", arguments.join(" "));
}

fn install(program: &Helm) {
    for (release, name, namespace, arguments) in RELEASES {
        let path = chart(name);
        let first = [
            "install",
            release,
            &path,
            "--namespace",
            namespace,
            "--create-namespace",
        ];
        helm(program, &[&first[..], arguments].concat());
    }
}

/// Everything of the kinds that charts make.
fn names(server: &Server) -> BTreeSet<String> {
    server.objects(KINDS).unwrap().iter().map(identity).collect()
}

/// One server for all: starting it is most of the work.
#[tokio::test(flavor = "multi_thread")]
async fn charts_are_installed_upgraded_removed_and_taken_over_on_a_real_api_server() {
    let what = "the charts on an API server";
    let Some(program) = Helm::find(what) else { return };
    let Some(server) = Server::start(what).await.unwrap() else {
        return;
    };
    let program = program.of_cluster(server.kubeconfig());
    let before = names(&server);
    install(&program);
    samples_are_valid(&server);
    accounts_may_do_their_work_and_no_more(&server);
    upgrades_keep_what_the_control_plane_wrote(&server, &program);
    uninstalling_leaves_definitions_and_what_users_made(&server, &program, &before);
    restricted_admits_the_control_plane_and_gateways(&server, &program);
    what_others_installed_is_taken_over_by_name(&server, &program);
}

fn uninstalling_leaves_definitions_and_what_users_made(server: &Server, program: &Helm, before: &BTreeSet<String>) {
    for (release, _, namespace, _) in RELEASES.iter().rev() {
        helm(program, &["uninstall", release, "--namespace", namespace]);
    }
    let after = names(server);
    let left: Vec<&String> = after
        .difference(before)
        .filter(|name| !name.contains(" shop/"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let definitions = server.objects("customresourcedefinitions").unwrap().len();
    assert_eq!(definitions, fs::read_dir(root().join("crds")).unwrap().count());
    assert_eq!(
        server.objects("virtualservices").unwrap().len(),
        2,
        "resources of users stay"
    );
}

/// The shop and its Istio resources are what the definitions ask for, to the last field.
fn samples_are_valid(server: &Server) {
    for path in [
        "kubernetes/shop.yaml",
        "bookinfo/mutual-tls.yaml",
        "bookinfo/gateway.yaml",
        "bookinfo/reviews-versions.yaml",
        "bookinfo/reviews-route.yaml",
    ] {
        let path = root().join("samples").join(path);
        server
            .run(
                &["apply", "--validate=strict", "--filename", path.to_str().unwrap()],
                None,
            )
            .unwrap();
    }
}

fn accounts_may_do_their_work_and_no_more(server: &Server) {
    let may = |what: &str| {
        let words: Vec<&str> = what.split(' ').collect();
        server.may("istio-system:istiod", &words).unwrap()
    };
    for allowed in [
        "watch virtualservices.networking.istio.io --all-namespaces",
        "list secrets --all-namespaces",
        "list configmaps --all-namespaces",
        "patch configmaps/istio-ca-root-cert -n shop",
        "create configmaps -n shop",
        "patch virtualservices.networking.istio.io/reviews --subresource=status -n shop",
        "patch mutatingwebhookconfigurations/istio-sidecar-injector",
        "patch validatingwebhookconfigurations/istiod-default-validator",
        "patch validatingwebhookconfigurations/istio-validator-istio-system",
        "create tokenreviews.authentication.k8s.io",
        "create subjectaccessreviews.authorization.k8s.io",
        "update leases.coordination.k8s.io -n istio-system",
        "create secrets -n istio-system",
        "update secrets/istio-ca-secret -n istio-system",
        "create gateways.networking.istio.io -n istio-system",
        "create deployments.apps -n shop",
    ] {
        assert!(may(allowed), "istiod may not {allowed}");
    }
    for refused in [
        "patch virtualservices.networking.istio.io/reviews -n shop",
        "update configmaps/istio -n istio-system",
        "create secrets -n shop",
        "update secrets/cacerts -n istio-system",
        "delete secrets/istio-ca-secret -n istio-system",
        "patch mutatingwebhookconfigurations/istio-sidecar-injector-canary",
        "create mutatingwebhookconfigurations",
        "update leases.coordination.k8s.io -n kube-system",
        "create gateways.networking.istio.io -n shop",
        "create clusterrolebindings",
        "create pods -n shop",
        "create pods --subresource=exec -n shop",
        "create serviceaccounts --subresource=token -n shop",
        "patch nodes",
    ] {
        assert!(!may(refused), "istiod may {refused}");
    }
    let gateway = |what: &[&str]| server.may("istio-ingress:istio-ingress", what).unwrap();
    assert!(gateway(&["get", "secrets", "-n", "istio-ingress"]));
    assert!(!gateway(&["get", "secrets", "-n", "istio-system"]));
}

/// Authorities and failure policies, which the control plane writes into what Helm installed.
fn upgrades_keep_what_the_control_plane_wrote(server: &Server, program: &Helm) {
    let configurations = [
        (
            "mutatingwebhookconfiguration",
            "istio-sidecar-injector",
            "rev.namespace.sidecar-injector.istio.io",
            "Fail",
        ),
        (
            "validatingwebhookconfiguration",
            "istio-validator-istio-system",
            "rev.validation.istio.io",
            "Ignore",
        ),
        (
            "validatingwebhookconfiguration",
            "istiod-default-validator",
            "validation.istio.io",
            "Fail",
        ),
    ];
    // The one is not served yet, the other fails closed already; both stay as they are.
    let ca = certificate();
    for (kind, name, webhook, policy) in configurations {
        let written =
            json!({"webhooks": [{"name": webhook, "failurePolicy": policy, "clientConfig": {"caBundle": ca}}]});
        server
            .run(
                &["patch", kind, name, "--type=strategic", "--patch", &written.to_string()],
                None,
            )
            .unwrap();
    }
    for (release, name, namespace, arguments) in RELEASES {
        let path = chart(name);
        let first = ["upgrade", release, &path, "--namespace", namespace];
        helm(program, &[&first[..], arguments].concat());
    }
    for (kind, name, webhook, policy) in configurations {
        let found = server.objects(kind).unwrap();
        let object = found
            .iter()
            .find(|object| text(object, "/metadata/name") == name)
            .unwrap();
        let webhooks = object["webhooks"].as_array().unwrap();
        let kept = webhooks.iter().find(|one| one["name"] == webhook).unwrap();
        assert_eq!(kept["clientConfig"]["caBundle"], ca.as_str(), "{name}");
        assert_eq!(kept["failurePolicy"], policy, "{name}");
    }
}

/// A certificate, as webhook configurations hold it.
fn certificate() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    base64::engine::general_purpose::STANDARD.encode(certificate.pem())
}

fn restricted_admits_the_control_plane_and_gateways(server: &Server, program: &Helm) {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    });
    server
        .run(&["create", "--filename=-"], Some(&namespace.to_string()))
        .unwrap();
    for (name, admitted) in [("lateen", true), ("gateway", true), ("cni", false)] {
        let objects = program.objects(name, "strict", &[]);
        let template = objects
            .iter()
            .find_map(|object| object.pointer("/spec/template"))
            .unwrap();
        let mut pod = template.clone();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = name.into();
        pod["metadata"]["namespace"] = "strict".into();
        let created = server.run(
            &["create", "--dry-run=server", "--validate=strict", "--filename=-"],
            Some(&pod.to_string()),
        );
        match created {
            Ok(_) => assert!(admitted, "{name} is admitted"),
            Err(error) => assert!(
                !admitted && error.to_string().contains("violates PodSecurity"),
                "{error}"
            ),
        }
    }
}

/// The definitions are there without a release: an earlier one left them, or somebody applied them.
fn what_others_installed_is_taken_over_by_name(server: &Server, program: &Helm) {
    let path = chart("base");
    let first = ["install", "ours", &path, "--namespace=istio-system"];
    let refused = program.run(&first);
    assert!(
        !refused.status.success(),
        "what others installed is not overwritten silently"
    );
    assert!(String::from_utf8_lossy(&refused.stderr).contains("invalid ownership metadata"));
    helm(program, &[&first[..], &["--take-ownership"]].concat());
    for definition in server.objects("customresourcedefinitions").unwrap() {
        let owner = &definition["metadata"]["annotations"]["meta.helm.sh/release-name"];
        assert_eq!(*owner, Value::from("ours"), "{}", identity(&definition));
    }
}
