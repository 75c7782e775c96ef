//! What ends and comes back while requests are made through the gateway: not one fails.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lateen_testkit::{Load, eventually};
use serde_json::json;

use crate::mesh::{Mesh, PATIENCE};
use crate::shop::SHOP;

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_services_are_updated() -> Result<()> {
    Mesh::run("updates", async |mesh| {
        under_load(mesh, "every service behind the front page was updated", async |_| {
            for deployment in ["ratings-v1", "details-v1", "reviews-v2", "productpage-v1"] {
                let deployment = format!("deployment/{deployment}");
                mesh.kubectl(&["rollout", "restart", &deployment]).await?;
                mesh.kubectl(&["rollout", "status", &deployment, "--timeout=120s"])
                    .await?;
            }
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_control_plane_is_replaced() -> Result<()> {
    Mesh::run("control-plane", async |mesh| {
        let kubectl = async |arguments: &[&str]| {
            let head = ["-n", "istio-system"];
            mesh.cluster.kubectl(head.iter().chain(arguments)).await
        };
        let complete = ["rollout", "status", "deployment/istiod", "--timeout=120s"];
        kubectl(&["scale", "deployment/istiod", "--replicas=2"]).await?;
        kubectl(&complete).await?;
        under_load(mesh, "two replicas of Lateen were replaced", async |_| {
            kubectl(&["rollout", "restart", "deployment/istiod"]).await?;
            kubectl(&complete).await.map(drop)
        })
        .await?;
        under_load(mesh, "the replica that leads was deleted", async |_| {
            let holder = ["get", "lease", "lateen-leader", "-o", "jsonpath={.spec.holderIdentity}"];
            let leads = eventually("somebody leads", PATIENCE, async || {
                let leads = kubectl(&holder).await.ok()?.trim().to_owned();
                (!leads.is_empty()).then_some(leads)
            })
            .await?;
            kubectl(&["delete", "pod", &leads, "--wait=false"]).await?;
            eventually("another leads", PATIENCE, async || {
                let now = kubectl(&holder).await.ok()?.trim().to_owned();
                (!now.is_empty() && now != leads).then_some(())
            })
            .await?;
            kubectl(&complete).await?;
            at_work(mesh, "after-the-leader").await
        })
        .await?;
        kubectl(&["scale", "deployment/istiod", "--replicas=1"]).await?;
        kubectl(&complete).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_api_server_is_away_or_the_kubelet_restarts() -> Result<()> {
    Mesh::run("api-server", async |mesh| {
        let cluster = &mesh.cluster;
        under_load(mesh, "the API server was away for a minute", async |load| {
            cluster.take_api_server_away().await?;
            let since = Instant::now();
            while since.elapsed() < AWAY {
                load.more(50, PATIENCE).await?;
            }
            cluster.let_api_server_back().await?;
            at_work(mesh, "after-the-api-server").await
        })
        .await?;
        under_load(mesh, "the kubelet was killed", async |_| {
            cluster.restart("kubelet").await?;
            // A pod that it starts proves that it is at work again.
            mesh.kubectl(&["rollout", "restart", "deployment/reviews-v3"]).await?;
            mesh.kubectl(&["rollout", "status", "deployment/reviews-v3", "--timeout=120s"])
                .await?;
            mesh.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s"])
                .await
                .map(drop)
        })
        .await
    })
    .await
}

/// Makes requests through the gateway while something happens; says how many, and that none failed.
async fn under_load(mesh: &Mesh, what: &str, happens: impl AsyncFnOnce(&Load) -> Result<()>) -> Result<()> {
    mesh.apply_sample("gateway.yaml").await?;
    mesh.distributed("gateway.networking.istio.io/shop").await?;
    mesh.distributed("virtualservice/front").await?;
    let load = Load::asking(mesh.door(80).await?, &["shop.example"], "/productpage", 2);
    load.more(50, PATIENCE).await?;
    let happened = happens(&load).await;
    if happened.is_ok() {
        load.more(50, PATIENCE).await?;
    }
    let tally = load.stop().await?;
    happened?;
    mesh.delete_sample("gateway.yaml").await?;
    tally.none_failed()?;
    println!(
        "{what}: 0 of {} requests failed, the slowest took {:?}",
        tally.requests, tally.slowest
    );
    Ok(())
}

/// What is configured now reaches every proxy.
async fn at_work(mesh: &Mesh, name: &str) -> Result<()> {
    let object = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {"hosts": [format!("{name}.example")], "http": [{"directResponse": {"status": 299}}]},
    });
    // The API server answers before the control plane has found it again, and may have to learn who may write.
    eventually("what is configured reaches every proxy", PATIENCE, async || {
        mesh.configure(&object).await.ok()
    })
    .await?;
    let deleted = mesh.kubectl(&["delete", "virtualservice", name]).await?;
    ensure!(deleted.contains(name), "{deleted}");
    Ok(())
}
