//! The webhooks, asked as the API server asks.

use axum::body::Body;
use axum::http::Request as HttpRequest;
use base64::Engine as _;
use tower::ServiceExt as _;

use super::*;

/// The routes, and the metrics that they count in.
fn service() -> (Router, Metrics) {
    let (_, settings) = watch::channel(Arc::new(InjectionSettings::default()));
    let metrics = Metrics::new();
    (router(settings, &metrics).unwrap(), metrics)
}

async fn send(router: &Router, path: &str, content_type: &str, body: String) -> (StatusCode, String) {
    let request = HttpRequest::post(path)
        .header(header::CONTENT_TYPE, content_type)
        .body(Body::from(body))
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), BODY_LIMIT).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn review(router: &Router, path: &str, version: &str, request: Value) -> Value {
    let body = json!({ "apiVersion": version, "kind": "AdmissionReview", "request": request });
    let (status, body) = send(router, path, "application/json; charset=utf-8", body.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (answer["apiVersion"].as_str(), answer["kind"].as_str()),
        (Some(version), Some("AdmissionReview"))
    );
    assert_eq!(answer["response"]["uid"], request["uid"]);
    answer["response"].clone()
}

fn pod(metadata: Value) -> Value {
    let kind = json!({ "group": "", "version": "v1", "kind": "Pod" });
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": { "containers": [{ "name": "app", "image": "app:1" }] },
    });
    json!({ "uid": "u-1", "kind": kind, "namespace": "shop", "operation": "CREATE", "object": object })
}

fn count(metrics: &Metrics, line: &str) -> bool {
    metrics.encode().unwrap().lines().any(|known| known == line)
}

#[tokio::test]
async fn a_pod_gets_its_sidecar_as_a_patch_and_is_counted() {
    let (router, metrics) = service();
    let asked = pod(json!({ "generateName": "web-" }));
    for version in ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"] {
        let path = "/inject/cluster/c--slash--1/net/n";
        let response = review(&router, path, version, asked.clone()).await;
        assert_eq!(
            (response["allowed"].as_bool(), response["patchType"].as_str()),
            (Some(true), Some("JSONPatch"))
        );
        let patch = response["patch"].as_str().unwrap();
        let patch = base64::engine::general_purpose::STANDARD.decode(patch).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        let mut patched = asked["object"].clone();
        json_patch::patch(&mut patched, &patch).unwrap();
        let proxy = &patched["spec"]["initContainers"][1];
        assert_eq!(proxy["name"], "istio-proxy");
        let env = proxy["env"].as_array().unwrap();
        let cluster = env
            .iter()
            .find(|variable| variable["name"] == "ISTIO_META_CLUSTER_ID")
            .unwrap();
        assert_eq!(cluster["value"], "c/1");
        assert_eq!(patched["metadata"]["labels"]["topology.istio.io/network"], "n");
    }
    let response = review(
        &router,
        "/inject",
        "admission.k8s.io/v1",
        pod(json!({ "name": "p", "labels": { "sidecar.istio.io/inject": "false" } })),
    )
    .await;
    assert_eq!(response, json!({ "uid": "u-1", "allowed": true }));
    let annotations = json!({ "traffic.sidecar.istio.io/excludeInboundPorts": "many" });
    let wrong = pod(json!({ "name": "p", "annotations": annotations }));
    let response = review(&router, "/inject", "admission.k8s.io/v1", wrong).await;
    assert_eq!(
        (response["allowed"].as_bool(), response["status"]["code"].as_u64()),
        (Some(false), Some(422))
    );
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.contains("metadata.annotations[traffic.sidecar.istio.io/excludeInboundPorts]"),
        "{message}"
    );
    for line in [
        "sidecar_injection_requests_total 4",
        "sidecar_injection_success_total 2",
        "sidecar_injection_skip_total 1",
        "sidecar_injection_failure_total 1",
        "sidecar_injection_time_seconds_count 4",
    ] {
        assert!(count(&metrics, line), "{line}\n{}", metrics.encode().unwrap());
    }
}

fn virtual_service(operation: &str, metadata: Value, spec: Value) -> Value {
    let kind = json!({ "group": "networking.istio.io", "version": "v1", "kind": "VirtualService" });
    let object = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata, "spec": spec,
    });
    json!({ "uid": "u-2", "kind": kind, "namespace": "shop", "operation": operation, "object": object })
}

#[tokio::test]
async fn configuration_is_let_in_or_refused_with_the_field() {
    let (router, metrics) = service();
    let named = || json!({ "name": "reviews", "namespace": "shop" });
    let route = |weight: i64| {
        json!({ "hosts": ["reviews"], "http": [{ "route": [
            { "destination": { "host": "reviews" }, "weight": weight },
        ] }] })
    };
    let ask = async |request: Value| review(&router, "/validate", "admission.k8s.io/v1", request).await;
    let good = ask(virtual_service("CREATE", named(), route(100))).await;
    assert_eq!(good["allowed"], true, "{good}");

    let negative = ask(virtual_service("UPDATE", named(), route(-1))).await;
    assert_eq!(negative["allowed"], false);
    assert_eq!(
        (
            negative["status"]["code"].as_u64(),
            negative["status"]["reason"].as_str()
        ),
        (Some(422), Some("Invalid"))
    );
    let field = negative["status"]["details"]["causes"][0]["field"].as_str().unwrap();
    assert!(field.starts_with("spec.http[0].route[0].weight"), "{negative}");

    let unknown = ask(virtual_service(
        "CREATE",
        named(),
        json!({ "hosts": ["a"], "htpp": [] }),
    ))
    .await;
    assert!(
        unknown["status"]["message"].as_str().unwrap().contains("spec.htpp"),
        "{unknown}"
    );

    let wrong_type = ask(virtual_service("CREATE", named(), json!({ "hosts": "a" }))).await;
    assert!(
        wrong_type["status"]["message"].as_str().unwrap().contains("spec.hosts"),
        "{wrong_type}"
    );

    let marked = json!({ "name": "x", "annotations": { "internal.istio.io/webhook-always-reject": "true" } });
    assert_eq!(
        ask(virtual_service("CREATE", marked, route(100))).await["allowed"],
        false
    );
    assert_eq!(
        ask(virtual_service("DELETE", json!({}), json!({}))).await["allowed"],
        true
    );

    let mut other = virtual_service("CREATE", named(), json!({}));
    other["kind"]["kind"] = "Nonsense".into();
    let other = ask(other).await;
    assert!(
        other["status"]["message"].as_str().unwrap().contains("Nonsense"),
        "{other}"
    );

    let labels = r#"group="networking.istio.io",resource="VirtualService",version="v1""#;
    assert!(
        count(&metrics, &format!("galley_validation_passed{{{labels}}} 2")),
        "{}",
        metrics.encode().unwrap()
    );
    let labels = r#"group="networking.istio.io",reason="invalid_resource",resource="VirtualService",version="v1""#;
    assert!(
        count(&metrics, &format!("galley_validation_failed{{{labels}}} 3")),
        "{}",
        metrics.encode().unwrap()
    );
}

#[tokio::test]
async fn what_is_no_review_is_an_error_of_http() {
    let (router, metrics) = service();
    for path in ["/inject", "/validate"] {
        let (status, _) = send(&router, path, "text/plain", "{}".to_owned()).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        for body in ["", "{}", r#"{"apiVersion": "admission.k8s.io/v7", "request": {}}"#] {
            let (status, text) = send(&router, path, "application/json", body.to_owned()).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
        }
    }
    assert!(count(&metrics, r#"galley_validation_http_error{status="400"} 3"#));
    assert!(count(&metrics, "sidecar_injection_failure_total 4"));
}
