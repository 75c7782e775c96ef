//! What tests do to the node: daemons that die, and an API server that is away.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::cluster::Namespace;
use lateen_testkit::{Cluster, Load, http};

use crate::shop;

const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_answers_while_the_kubelet_restarts_and_the_api_server_is_away() -> Result<()> {
    // A node of its own: other tests would notice.
    let Some(cluster) = Cluster::start().await? else {
        return Ok(());
    };
    let test = async |cluster: &Cluster| {
        let namespace = cluster.namespace("daemons", &[]).await?;
        namespace.apply(&shop::deployment("ratings", "v1")).await?;
        namespace.ready("ratings-v1").await?;
        let before = namespace.pod("app=ratings").await?;
        let load = Load::asking((before.ip, shop::PORT).into(), &["ratings"], "/ratings", 2);
        load.more(50, PATIENCE).await?;

        cluster.restart("kubelet").await?;
        // A pod that it starts proves that it is at work again.
        namespace.apply(&shop::deployment("details", "v1")).await?;
        namespace.ready("details-v1").await?;

        cluster.take_api_server_away().await?;
        load.more(100, PATIENCE).await?;
        cluster.let_api_server_back().await?;
        let door = http::get(
            (namespace.pod("app=details").await?.ip, shop::PORT).into(),
            "details",
            "/details",
        )
        .await?;
        ensure!(door.status == 200, "{door:?}");

        let tally = load.stop().await?;
        println!("{} requests, the slowest took {:?}", tally.requests, tally.slowest);
        tally.none_failed()?;
        same_container(&namespace, &before.object).await
    };
    cluster.run("daemons", test).await
}

async fn same_container(namespace: &Namespace, before: &serde_json::Value) -> Result<()> {
    let status = |object: &serde_json::Value| {
        let status = &object["status"]["containerStatuses"][0];
        let container = status["containerID"].as_str().map(str::to_owned);
        container.zip(status["restartCount"].as_u64()).context("no container")
    };
    let (before, after) = (status(before)?, status(&namespace.pod("app=ratings").await?.object)?);
    ensure!(before == after, "the container changed: {before:?}, {after:?}");
    Ok(())
}
