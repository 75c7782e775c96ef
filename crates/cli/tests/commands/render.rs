//! `lateen render`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{lateen, stderr, stdout};

const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: shop}
spec: {clusterIP: 10.96.0.9, selector: {app: ratings}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ratings-1, namespace: shop, labels: {app: ratings, security.istio.io/tlsMode: istio}}
spec: {serviceAccountName: ratings, containers: [{name: app, ports: [{containerPort: 9080}]}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ratings-a, namespace: shop, labels: {kubernetes.io/service-name: ratings}}
addressType: IPv4
ports: [{name: http, port: 9080, protocol: TCP}]
endpoints:
- {addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: ratings-1, namespace: shop}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings, namespace: shop}
spec: {host: ratings, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: wrong, namespace: shop}
spec: {hots: ratings}
"#;

fn names(path: &Path) -> Vec<String> {
    let resources: Vec<Value> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    resources
        .iter()
        .map(|one| one["name"].as_str().or(one["clusterName"].as_str()).unwrap().to_owned())
        .collect()
}

#[test]
fn render_writes_what_a_pod_would_get() {
    let directory = tempfile::tempdir().unwrap();
    let (input, out) = (directory.path().join("shop.yaml"), directory.path().join("a/b"));
    fs::write(&input, SHOP).unwrap();
    let (input, output) = (input.to_str().unwrap(), out.to_str().unwrap());
    let ran = lateen(&["render", "-f", input, "--proxy", "ratings-1.shop", "-o", output]);
    assert!(stdout(&ran).is_empty());
    // The object that is refused is named with its place.
    assert!(
        stderr(&ran).contains("shop.yaml:") && stderr(&ran).contains("wrong"),
        "{}",
        stderr(&ran)
    );

    let file = |kind: &str| out.join(format!("ratings-1.shop.{kind}.json"));
    let clusters = names(&file("clusters"));
    for name in [
        "outbound|9080||ratings.shop.svc.cluster.local",
        "outbound|9080|v1|ratings.shop.svc.cluster.local",
        "inbound|9080||",
        "BlackHoleCluster",
    ] {
        assert!(
            clusters.iter().any(|cluster| cluster == name),
            "{name} is not in {clusters:?}"
        );
    }
    assert!(clusters.is_sorted(), "{clusters:?}");
    assert!(names(&file("listeners")).contains(&"virtualInbound".to_owned()));
    assert_eq!(names(&file("routes")), ["9080"]);
    assert!(names(&file("endpoints")).contains(&"outbound|9080||ratings.shop.svc.cluster.local".to_owned()));
    assert_eq!(names(&file("secrets-names")), ["ROOTCA", "default"]);
    assert!(!file("nametable").exists() && !file("extensions").exists());
    let text = fs::read_to_string(file("clusters")).unwrap();
    assert!(
        text.starts_with("[\n {\n  \"@type\": \"type.googleapis.com/envoy.config.cluster.v3.Cluster\""),
        "{}",
        &text[..200]
    );

    let verdicts: Value = serde_json::from_slice(&fs::read(out.join("validation.json")).unwrap()).unwrap();
    let accepted: Vec<_> = verdicts
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["accepted"].as_bool().unwrap()))
        .collect();
    assert_eq!(accepted, [("ratings", true), ("wrong", false)]);
}

#[test]
fn render_takes_the_node_that_a_proxy_sends_and_the_mesh_settings() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let input = write("shop.yaml", SHOP);
    let mesh = write("mesh.yaml", "accessLogFile: /dev/fd/1\n");
    let node = json!({
        "id": "sidecar~10.0.0.1~ratings-1.shop~shop.svc.cluster.local",
        "metadata": {"NAMESPACE": "shop", "NAME": "ratings-1", "CLUSTER_ID": "Kubernetes", "DNS_CAPTURE": "true"},
    });
    let node = write("node.json", &node.to_string());
    let out = directory.path().join("out");
    stdout(&lateen(&[
        "render",
        "-f",
        &input,
        "--mesh-config",
        &mesh,
        "--node",
        &node,
        "-o",
        out.to_str().unwrap(),
    ]));
    let listeners = fs::read_to_string(out.join("ratings-1.shop.listeners.json")).unwrap();
    assert!(listeners.contains("/dev/fd/1"), "{listeners}");
    let table = fs::read_to_string(out.join("ratings-1.shop.nametable.json")).unwrap();
    assert!(table.contains("ratings.shop.svc.cluster.local"), "{table}");
}

#[test]
fn render_says_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let (input, out) = (directory.path().join("shop.yaml"), directory.path().join("out"));
    fs::write(&input, SHOP).unwrap();
    let fails = |arguments: &[&str]| {
        let output = lateen(&[&["render", "-o", out.to_str().unwrap()], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        stderr(&output)
    };
    let input = input.to_str().unwrap();
    let said = fails(&["-f", input, "--proxy", "nobody.shop"]);
    assert!(
        said.contains("no Pod shop/nobody") && said.contains("ratings-1.shop"),
        "{said}"
    );
    let said = fails(&["-f", "/does/not/exist.yaml", "--proxy", "ratings-1.shop"]);
    assert!(said.contains("/does/not/exist.yaml"), "{said}");
    let broken = directory.path().join("broken.yaml");
    fs::write(&broken, "a: [\n").unwrap();
    let broken = broken.to_str().unwrap();
    let said = fails(&["-f", input, "-f", broken, "--proxy", "ratings-1.shop"]);
    assert!(said.contains("broken.yaml:"), "{said}");
    let said = fails(&["-f", input, "--mesh-config", broken, "--proxy", "ratings-1.shop"]);
    assert!(said.contains("broken.yaml"), "{said}");
    let said = fails(&["-f", input, "--node", input]);
    assert!(said.contains("is not JSON"), "{said}");
    assert!(!out.exists(), "something was written");
}

#[test]
fn render_keeps_rejected_objects_when_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("shop.yaml");
    // It can be read, but no share is larger than 100.
    let rejected = "---\n{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: late, namespace: shop}, spec: \
        {host: ratings, subsets: [{name: v2, labels: {version: v2}}], trafficPolicy: {outlierDetection: {maxEjectionPercent: 200}}}}\n";
    fs::write(&input, SHOP.to_owned() + rejected).unwrap();
    let rendered = |more: &[&str], out: &str| {
        let out = directory.path().join(out);
        let arguments = [
            "render",
            "-f",
            input.to_str().unwrap(),
            "--proxy",
            "ratings-1.shop",
            "-o",
            out.to_str().unwrap(),
        ];
        stdout(&lateen(&[&arguments[..], more].concat()));
        names(&out.join("ratings-1.shop.clusters.json"))
    };
    let v2 = "outbound|9080|v2|ratings.shop.svc.cluster.local".to_owned();
    assert!(!rendered(&[], "left-out").contains(&v2));
    assert!(rendered(&["--keep-rejected"], "kept").contains(&v2));
}
