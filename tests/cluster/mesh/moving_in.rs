//! A sidecar of Istio's own, with its agent, whose control plane Lateen has become.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::{Cluster, eventually};
use serde_json::{Value, json};

use crate::mesh::{Mesh, PATIENCE};
use crate::shop::{Asking, SHOP, ask, lines, none_failed, proved};

/// Where the pod finds what `ISTIO_AGENT` names.
const MOUNTED: &str = "/istio";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_with_istios_agent_is_part_of_the_mesh() -> Result<()> {
    let Some(folder) = std::env::var("ISTIO_AGENT").ok().filter(|folder| !folder.is_empty()) else {
        println!(
            "skipped: ISTIO_AGENT is unset; it names a folder with Istio's pilot-agent and its envoy_bootstrap.json"
        );
        return Ok(());
    };
    for file in ["pilot-agent", "envoy_bootstrap.json"] {
        ensure!(
            Path::new(&folder).join(file).exists(),
            "ISTIO_AGENT={folder} has no {file}"
        );
    }
    Mesh::run("moving-in", async |mesh| {
        mesh.cluster.apply(&pod(&folder).to_string()).await?;
        mesh.kubectl(&["wait", "--for=condition=Ready", "pod/foreign", "--timeout=60s"])
            .await?;
        // It is what Istio's agent makes of the same Envoy, and both of its sides prove who they are.
        let log = mesh.kubectl(&["logs", "foreign", "-c", "istio-proxy"]).await?;
        ensure!(
            log.contains("connected to delta upstream XDS server")
                && log.contains("generated new workload certificate"),
            "{log}"
        );
        let reached = eventually("the mesh asks it", PATIENCE, async || {
            let lines = ask(mesh, Asking::url("http://ratings:9080/ratings")).await.ok()?;
            none_failed(&lines).ok()?;
            lines.into_iter().find(|line| line["reply"]["version"] == "foreign")
        })
        .await?;
        proved(&reached["reply"])?;
        let load = ["/usr/local/bin/shop", "load", "--url", "http://reviews:9080/reviews"];
        let exec = ["exec", "foreign", "-c", "app", "--"];
        let tail = ["--rate", "10", "--seconds", "2"];
        let asked = lines(&mesh.kubectl(&[&exec[..], &load, &tail].concat()).await?)?;
        none_failed(&asked)?;
        for line in &asked {
            proved(&line["reply"])?;
            let client = line["reply"]["peer"]["client"].as_str().context("nobody asks")?;
            ensure!(client.ends_with("/sa/ratings"), "{line:#}");
        }
        mesh.kubectl(&["delete", "pod", "foreign", "--wait=false"])
            .await
            .map(drop)
    })
    .await
}

/// One more replica of ratings, whose proxy's container runs Istio's agent.
fn pod(folder: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "foreign", "namespace": SHOP, "labels": {"app": "ratings", "version": "foreign"}},
        "spec": {
            "serviceAccountName": "ratings", "terminationGracePeriodSeconds": 1,
            "containers": [
                {"name": "istio-proxy", "image": "auto", "command": [format!("{MOUNTED}/pilot-agent")],
                 "env": [{"name": "ISTIO_BOOTSTRAP", "value": format!("{MOUNTED}/envoy_bootstrap.json")}],
                 "volumeMounts": [{"name": "istio", "mountPath": MOUNTED}]},
                {"name": "app", "image": Cluster::image("shop"), "args": ["ratings"],
                 "env": [{"name": "APP_VERSION", "value": "foreign"}]},
            ],
            "volumes": [{"name": "istio", "hostPath": {"path": folder}}],
        },
    })
}
