//! From nothing to traffic that is encrypted and routed.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::{Cluster, eventually};
use serde_json::Value;

use crate::installed::{PATIENCE, PORT, SHOP, configure, distributed, drive, install, open_shop, pod, strangers_are};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_helm_installs_and_kubectl_configures_encrypts_and_routes_the_shop() -> Result<()> {
    // A node of its own: Lateen is installed once in a cluster.
    let Some(cluster) = Cluster::start().await? else {
        return Ok(());
    };
    cluster.run("mesh", story).await
}

async fn story(cluster: &Cluster) -> Result<()> {
    let began = Instant::now();
    install(cluster).await?;
    open_shop(cluster).await?;
    println!(
        "the shop has its sidecars and is ready {:?} after the first command",
        began.elapsed()
    );
    let lines = eventually("every request is answered", PATIENCE, async || {
        drive(cluster, SECONDS)
            .await
            .ok()
            .filter(|lines| lines.iter().all(|line| line["ok"] == true))
    })
    .await?;
    println!(
        "every request is answered {:?} after the first command",
        began.elapsed()
    );
    for line in &lines {
        proved(&line["reply"])?;
    }
    on_the_wire(cluster).await?;

    strangers_are(cluster, true).await?;
    configure(cluster, "mutual-tls.yaml").await?;
    strangers_are(cluster, false).await?;
    none_failed(&drive(cluster, SECONDS).await?)?;

    weights(cluster).await?;
    a_job_ends(cluster).await?;
    the_control_plane_is_replaced(cluster).await
}

/// How long the driver asks, where nothing else is meant.
const SECONDS: u32 = 2;

/// Asked over TCP, so that no header says who asked; that its connections are TLS, the wire shows.
const OVER_TCP: &str = "stock";

/// Both ends of every connection below a hop proved who they are.
fn proved(hop: &Value) -> Result<()> {
    let service = hop["service"].as_str().context("a hop has a service")?;
    if service == OVER_TCP {
        return Ok(());
    }
    let server = format!("spiffe://cluster.local/ns/{SHOP}/sa/{service}");
    ensure!(hop["peer"]["server"] == server.as_str(), "{hop:#}");
    ensure!(
        hop["peer"]["client"]
            .as_str()
            .is_some_and(|name| name.starts_with("spiffe://")),
        "{hop:#}"
    );
    for call in hop["calls"].as_array().into_iter().flatten() {
        if !call["reply"].is_null() {
            proved(&call["reply"])?;
        }
    }
    Ok(())
}

/// What reaches the pod of details is TLS, and no request can be read.
async fn on_the_wire(cluster: &Cluster) -> Result<()> {
    let details = pod(cluster, "app=details").await?;
    let capture = cluster.capture(&format!("host {details} and tcp port {PORT}")).await?;
    none_failed(&drive(cluster, SECONDS).await?)?;
    let packets = capture
        .until("TLS passes the bridge", PATIENCE, |packet| packet.begins_tls_record())
        .await?;
    ensure!(
        !packets
            .iter()
            .any(|packet| packet.shows("HTTP/1.1") || packet.shows("\"service\"")),
        "a request or an answer can be read on the wire"
    );
    Ok(())
}

/// All readers see the version that the VirtualService names, from the moment on that it is distributed.
async fn weights(cluster: &Cluster) -> Result<()> {
    configure(cluster, "reviews-versions.yaml").await?;
    configure(cluster, "reviews-route.yaml").await?;
    for (v1, v3) in [(100, 0), (0, 100), (50, 50)] {
        let patch = format!(
            r#"[{{"op": "replace", "path": "/spec/http/1/route/0/weight", "value": {v1}}},
                {{"op": "replace", "path": "/spec/http/1/route/1/weight", "value": {v3}}}]"#
        );
        let object = "virtualservice/reviews";
        cluster
            .kubectl(["-n", SHOP, "patch", object, "--type=json", "-p", &patch])
            .await?;
        distributed(cluster, object).await?;
        let lines = drive(cluster, SECONDS).await?;
        none_failed(&lines)?;
        let seen = |version: &str| {
            let is = |line: &&Value| version_of_reviews(line) == Some(version);
            lines.iter().filter(is).count() * 100 / lines.len()
        };
        let (seen1, seen3) = (seen("v1"), seen("v3"));
        println!("{v1}/{v3}: {seen1} % saw v1, {seen3} % saw v3");
        let near = |seen: usize, wanted| match wanted {
            0 | 100 => seen == wanted,
            _ => seen.abs_diff(wanted) <= 20,
        };
        ensure!(
            near(seen1, v1) && near(seen3, v3),
            "{v1}/{v3}: {seen1} % saw v1, {seen3} % saw v3"
        );
    }
    Ok(())
}

/// A Job whose pod has a sidecar reaches the mesh, and ends when its own work is done.
async fn a_job_ends(cluster: &Cluster) -> Result<()> {
    let job = serde_json::json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": SHOP},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "serviceAccountName": "traffic", "restartPolicy": "Never",
            "containers": [{"name": "once", "image": Cluster::image("shop"),
                "args": ["load", "--rate", "5", "--seconds", "1"]}],
        }}},
    });
    cluster.apply(&job.to_string()).await?;
    let wait = [
        "-n",
        SHOP,
        "wait",
        "--for=condition=complete",
        "job/once",
        "--timeout=60s",
    ];
    cluster.kubectl(wait).await?;
    let printed = cluster.kubectl(["-n", SHOP, "logs", "job/once", "-c", "once"]).await?;
    let lines: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect::<Result<_>>()?;
    ensure!(!lines.is_empty(), "the job asked nothing");
    none_failed(&lines)
}

/// Two replicas of the control plane, each replaced while requests are made, and then the one that leads is deleted.
async fn the_control_plane_is_replaced(cluster: &Cluster) -> Result<()> {
    let istiod = ["-n", "istio-system"];
    let kubectl = async |arguments: &[&str]| cluster.kubectl(istiod.iter().chain(arguments)).await;
    let complete = ["rollout", "status", "deployment/istiod", "--timeout=120s"];
    kubectl(&["scale", "deployment/istiod", "--replicas=2"]).await?;
    kubectl(&complete).await?;
    let replaced = async {
        kubectl(&["rollout", "restart", "deployment/istiod"]).await?;
        kubectl(&complete).await?;
        let holder = ["get", "lease", "lateen-leader", "-o", "jsonpath={.spec.holderIdentity}"];
        let leader = eventually("somebody leads", PATIENCE, async || {
            let leader = kubectl(&holder).await.ok()?.trim().to_owned();
            (!leader.is_empty()).then_some(leader)
        })
        .await?;
        kubectl(&["delete", "pod", &leader, "--wait=false"]).await?;
        kubectl(&complete).await
    };
    let (lines, replaced) = tokio::join!(drive(cluster, 30), replaced);
    replaced?;
    let lines = lines?;
    none_failed(&lines)?;
    println!(
        "{} requests while the control plane was replaced, none failed",
        lines.len()
    );
    // And who leads now does its work.
    let patch = r#"[{"op": "replace", "path": "/spec/http/1/route/0/weight", "value": 51},
        {"op": "replace", "path": "/spec/http/1/route/1/weight", "value": 49}]"#;
    let object = "virtualservice/reviews";
    let patched = ["-n", SHOP, "patch", object, "--type=json", "-p", patch];
    cluster.kubectl(patched).await?;
    distributed(cluster, object).await
}

fn version_of_reviews(line: &Value) -> Option<&str> {
    let calls = line["reply"]["calls"].as_array()?;
    let reviews = calls.iter().find(|call| call["to"] == "reviews")?;
    reviews["reply"]["version"].as_str()
}

fn none_failed(lines: &[Value]) -> Result<()> {
    let failed: Vec<&Value> = lines.iter().filter(|line| line["ok"] != true).collect();
    ensure!(
        failed.is_empty(),
        "{} of {} requests failed: {failed:#?}",
        failed.len(),
        lines.len()
    );
    Ok(())
}
