//! The shop's manifests for Kubernetes say the same as those that the demo reads.

use std::collections::BTreeSet;
use std::fs;

use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::pods::breaches;
use lateen_tests::helm::{labels, root, selects, text};

fn objects(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(root().join("samples").join(path)).unwrap();
    serde_yaml::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects
        .iter()
        .filter(move |object| object["kind"] == kind && object["metadata"]["namespace"] == "shop")
}

fn names<'a>(objects: &'a [Value], kind: &'a str) -> BTreeSet<&'a str> {
    of_kind(objects, kind)
        .map(|object| text(object, "/metadata/name"))
        .collect()
}

#[test]
fn the_shop_has_the_services_and_accounts_of_the_demo() {
    let shop = objects("kubernetes/shop.yaml");
    assert_eq!(
        names(&shop, "ServiceAccount"),
        names(&objects("bookinfo/accounts.yaml"), "ServiceAccount")
    );
    let services = objects("bookinfo/services.yaml");
    assert_eq!(names(&shop, "Service"), names(&services, "Service"));
    let ports = |objects: &[Value]| -> BTreeSet<String> {
        of_kind(objects, "Service")
            .map(|service| format!("{} {}", text(service, "/metadata/name"), service["spec"]["ports"]))
            .collect()
    };
    assert_eq!(ports(&shop), ports(&services));
    let namespace = shop.iter().find(|object| object["kind"] == "Namespace").unwrap();
    assert_eq!(namespace["metadata"]["labels"], json!({"istio-injection": "enabled"}));
}

#[test]
fn the_shops_pods_are_those_that_the_demo_runs_and_need_no_privileges() {
    let shop = objects("kubernetes/shop.yaml");
    let of_pod = |pod: &Value, metadata: &Value| {
        let container = &pod["containers"][0];
        let version = container["env"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|entry| entry["name"] == "APP_VERSION");
        let label = |name: &str| text(metadata, &format!("/labels/{name}")).to_owned();
        let part = container["args"][0].as_str().unwrap().to_owned();
        (
            label("app"),
            label("version"),
            part,
            version,
            text(pod, "/serviceAccountName").to_owned(),
        )
    };
    let deployed: BTreeSet<_> = of_kind(&shop, "Deployment")
        .map(|object| {
            of_pod(
                &object["spec"]["template"]["spec"],
                &object["spec"]["template"]["metadata"],
            )
        })
        .filter(|(app, ..)| app != "traffic")
        .collect();
    let demo = objects("bookinfo/pods.yaml");
    let running: BTreeSet<_> = of_kind(&demo, "Pod")
        .map(|object| of_pod(&object["spec"], &object["metadata"]))
        .filter(|(app, ..)| app != "traffic")
        .collect();
    assert_eq!(deployed, running);
    for deployment in of_kind(&shop, "Deployment") {
        let name = text(deployment, "/metadata/name");
        let template = &deployment["spec"]["template"];
        assert_eq!(breaches(&template["spec"]), [""; 0], "{name}");
        assert!(
            selects(&deployment["spec"]["selector"], &labels(&template["metadata"])),
            "{name}"
        );
        let image = format!("localhost/lateen/shop:{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(text(template, "/spec/containers/0/image"), image, "{name}");
    }
}

#[test]
fn every_version_that_a_rule_names_is_deployed() {
    let shop = objects("kubernetes/shop.yaml");
    for rule in objects("bookinfo/reviews-versions.yaml") {
        for subset in rule["spec"]["subsets"].as_array().unwrap() {
            let mut selector = json!({"matchLabels": {"app": "reviews"}});
            for (key, value) in subset["labels"].as_object().unwrap() {
                selector["matchLabels"][key] = value.clone();
            }
            let found = of_kind(&shop, "Deployment")
                .filter(|object| selects(&selector, &labels(&object["spec"]["template"]["metadata"])))
                .count();
            assert_eq!(found, 1, "{subset}");
        }
    }
    let gateway = objects("bookinfo/gateway.yaml");
    let selector = &gateway.iter().find(|object| object["kind"] == "Gateway").unwrap()["spec"]["selector"];
    // The label that the chart gives to the release istio-ingress of the quick start.
    assert_eq!(*selector, json!({"istio": "ingress"}));
}
