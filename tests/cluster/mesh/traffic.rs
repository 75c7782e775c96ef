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
        drive(cluster)
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
    none_failed(&drive(cluster).await?)?;

    weights(cluster).await
}

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
    none_failed(&drive(cluster).await?)?;
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
        let lines = drive(cluster).await?;
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
