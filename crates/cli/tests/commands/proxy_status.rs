//! `lateen proxy-status`, and how a control plane is asked.

use std::fs;

use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::dumps::dumps;
use crate::support::{against, json_of, stderr, stdout};

fn syncz() -> Router {
    let answer = json!([{
        "cluster_id": "Kubernetes",
        "proxy": "ratings-1.shop",
        "proxy_type": "sidecar",
        "istio_version": "1.32.0",
        "istiod": "istiod-1",
        "settled": 3,
        "resources": {
            "type.googleapis.com/envoy.config.cluster.v3.Cluster": {"sent": "a", "acked": "a"},
            "type.googleapis.com/envoy.config.listener.v3.Listener": {"sent": "b", "lastError": "no such filter"},
        },
    }]);
    Router::new().route("/debug/syncz", get(move || async move { Json(answer) }))
}

#[tokio::test]
async fn proxy_status_in_every_format() {
    let text = stdout(&against(syncz(), &["proxy-status"]).await);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("NAME"), "{text}");
    let cells: Vec<&str> = lines[1]
        .split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect();
    assert_eq!(
        cells,
        [
            "ratings-1.shop",
            "Kubernetes",
            "SYNCED",
            "ERROR",
            "IGNORED",
            "IGNORED",
            "IGNORED",
            "istiod-1",
            "1.32.0"
        ]
    );
    assert!(text.contains("rejected LDS: no such filter"), "{text}");

    let rows = json_of(&against(syncz(), &["ps", "ratings-1.shop", "-o", "json"]).await);
    assert_eq!(rows[0]["status"]["cds"], "SYNCED");
    assert_eq!(rows[0]["errors"]["LDS"], "no such filter");
    assert_eq!(rows[0]["settled"], 3);
    let rows: Value = serde_yaml::from_str(&stdout(&against(syncz(), &["ps", "-o", "yaml"]).await)).unwrap();
    assert_eq!(rows[0]["proxy"], "ratings-1.shop");
}

#[tokio::test]
async fn a_proxy_that_is_not_connected_is_an_error() {
    let output = against(syncz(), &["proxy-status", "reviews-1.shop"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no proxy `reviews-1.shop` is connected"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn proxy_status_of_one_proxy_compares_what_envoy_holds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("envoy.json");
    let [wanted, held] = dumps();
    let held = held
        .to_string()
        .replace("\"connect_timeout\":\"5s\"", "\"connect_timeout\":\"6s\"");
    fs::write(&path, held).unwrap();
    let router = syncz().route("/debug/config_dump", get(move || async move { Json(wanted) }));
    let output = against(router, &["ps", "ratings-1.shop", "--file", path.to_str().unwrap()]).await;
    let text = stdout(&output);
    assert!(
        text.contains("Clusters Don't Match\n  outbound|9080|v1|ratings.shop.svc.cluster.local differs\n"),
        "{text}"
    );
}

#[tokio::test]
async fn something_else_than_a_control_plane_is_recognised() {
    let router = Router::new().route("/debug/syncz", get(|| async { "hello" }));
    let output = against(router, &["proxy-status"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("is not JSON; is --address that of a lateend?"),
        "{}",
        stderr(&output)
    );
    let output = against(Router::new(), &["proxy-status"]).await;
    assert!(stderr(&output).contains("404"), "{}", stderr(&output));
}

#[tokio::test]
async fn a_token_is_presented_where_one_is_wanted() {
    let answer = |headers: HeaderMap| async move {
        match headers.get("authorization").map(|value| value.as_bytes()) {
            Some(b"Bearer a.b.c") => Ok(Json(json!([]))),
            _ => Err((StatusCode::UNAUTHORIZED, "no proof of identity\n")),
        }
    };
    let router = Router::new().route("/debug/syncz", get(answer));
    let output = against(router.clone(), &["proxy-status"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no proof of identity"), "{}", stderr(&output));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "a.b.c\n").unwrap();
    let output = against(router, &["proxy-status", "--token-file", file.to_str().unwrap()]).await;
    assert_eq!(stdout(&output), "no proxy is connected\n");
}
