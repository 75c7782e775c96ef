//! The life of pods with a sidecar: who starts first, who is probed, who ends.

use anyhow::{Result, ensure};
use lateen_testkit::{Cluster, eventually};
use serde_json::{Value, json};

use crate::mesh::{Mesh, PATIENCE};
use crate::shop::{SHOP, lines, none_failed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_with_a_sidecar_reaches_the_mesh_and_ends() -> Result<()> {
    Mesh::run("job", async |mesh| {
        let object = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": SHOP},
            "spec": {"backoffLimit": 0, "template": {"spec": {
                "serviceAccountName": "traffic", "restartPolicy": "Never",
                "containers": [{"name": "once", "image": Cluster::image("shop"),
                    "args": ["load", "--rate", "5", "--seconds", "1"]}],
            }}},
        });
        mesh.cluster.apply(&object.to_string()).await?;
        mesh.kubectl(&["wait", "--for=condition=complete", "job/once", "--timeout=60s"])
            .await?;
        // Its sidecar is there before it.
        none_failed(&lines(&mesh.kubectl(&["logs", "job/once", "-c", "once"]).await?)?)?;
        mesh.kubectl(&["delete", "job", "once", "--wait=false"]).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_starts_before_its_sidecar_reaches_the_mesh() -> Result<()> {
    Mesh::run("order", async |mesh| {
        // Beside the application, and told to nobody: what it asks before its proxy is there may fail, and only that.
        let beside = json!({"sidecar.istio.io/nativeSidecar": "false"});
        let lines = beside_its_proxy(mesh, "first", &beside).await?;
        let failed = lines.iter().filter(|line| line["ok"] != true).count();
        println!("{failed} of the first {} requests came before the proxy", lines.len());
        let last = lines
            .iter()
            .rposition(|line| line["ok"] != true)
            .map_or(0, |last| last + 1);
        ensure!(
            last == failed && failed < lines.len(),
            "requests failed after the first was answered: {lines:#?}"
        );
        // Held until its proxy is ready: nothing fails.
        let held = json!({
            "sidecar.istio.io/nativeSidecar": "false",
            "proxy.istio.io/config": r#"{"holdApplicationUntilProxyStarts": true}"#,
        });
        none_failed(&beside_its_proxy(mesh, "held", &held).await?)
    })
    .await
}

/// What the driver printed until some of its requests were answered, in a pod whose sidecar is an ordinary container.
async fn beside_its_proxy(mesh: &Mesh, name: &str, annotations: &Value) -> Result<Vec<Value>> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": SHOP, "annotations": annotations},
        "spec": {"serviceAccountName": "traffic", "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "driver", "image": Cluster::image("shop"), "args": ["load", "--rate", "10"],
        }]},
    });
    mesh.cluster.apply(&pod.to_string()).await?;
    let seen = eventually("requests are answered", PATIENCE, async || {
        let printed = mesh.kubectl(&["logs", name, "-c", "driver"]).await.ok()?;
        let lines = lines(&printed).ok()?;
        (lines.iter().filter(|line| line["ok"] == true).count() >= 20).then_some(lines)
    })
    .await?;
    mesh.kubectl(&["delete", "pod", name, "--wait=false"]).await?;
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_reach_the_application_itself_where_nothing_but_mutual_tls_is_taken() -> Result<()> {
    Mesh::run("probes", async |mesh| {
        mesh.apply_sample("mutual-tls.yaml").await?;
        mesh.distributed("peerauthentication/default").await?;
        let every = |probe: Value| {
            let mut probe = probe;
            probe["periodSeconds"] = json!(1);
            probe
        };
        let pod = |name: &str, readiness: Value| {
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": SHOP, "labels": {"probed": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                    "name": "app", "image": Cluster::image("shop"), "args": ["ratings"],
                    "ports": [{"name": "http", "containerPort": 9080}],
                    "startupProbe": every(json!({"httpGet": {"path": "/health", "port": 9080}})),
                    "livenessProbe": every(json!({"tcpSocket": {"port": 9080}})),
                    "readinessProbe": every(readiness),
                }]},
            })
        };
        let pods = [
            pod("over-http", json!({"httpGet": {"path": "/health", "port": "http"}})),
            pod("over-tcp", json!({"tcpSocket": {"port": "http"}})),
            // Nothing listens there: that the proxy takes every connection must not count.
            pod("elsewhere", json!({"tcpSocket": {"port": 9999}})),
            pod("not-found", json!({"httpGet": {"path": "/nowhere", "port": "http"}})),
        ];
        for pod in &pods {
            mesh.cluster.apply(&pod.to_string()).await?;
        }
        for name in ["over-http", "over-tcp"] {
            let pod = format!("pod/{name}");
            mesh.kubectl(&["wait", "--for=condition=Ready", &pod, "--timeout=60s"])
                .await?;
        }
        for name in ["elsewhere", "not-found"] {
            let status = eventually("its application has started", PATIENCE, async || {
                let text = mesh.kubectl(&["get", "pod", name, "-o", "json"]).await.ok()?;
                let pod: Value = serde_json::from_str(&text).ok()?;
                let status = pod["status"]["containerStatuses"].as_array()?;
                let app = status.iter().find(|status| status["name"] == "app")?.clone();
                (app["started"] == true).then_some(app)
            })
            .await?;
            ensure!(status["ready"] == false, "{name} is ready: {status:#}");
            let failing = ["get", "events", "--field-selector", "reason=Unhealthy", "-o", "json"];
            eventually("its readiness probe fails", PATIENCE, async || {
                let events: Value = serde_json::from_str(&mesh.kubectl(&failing).await.ok()?).ok()?;
                let mut events = events["items"].as_array()?.iter();
                events
                    .any(|event| {
                        event["involvedObject"]["name"] == name
                            && event["message"]
                                .as_str()
                                .is_some_and(|text| text.contains("Readiness probe failed"))
                    })
                    .then_some(())
            })
            .await?;
        }
        let restarts = [
            "get",
            "pods",
            "-l",
            "probed",
            "-o",
            "jsonpath={.items[*].status.containerStatuses[*].restartCount}",
        ];
        let restarts = mesh.kubectl(&restarts).await?;
        ensure!(
            restarts.split_whitespace().all(|count| count == "0"),
            "a liveness probe failed: {restarts}"
        );
        mesh.kubectl(&["delete", "pod", "-l", "probed", "--wait=false"]).await?;
        mesh.delete_sample("mutual-tls.yaml").await
    })
    .await
}
