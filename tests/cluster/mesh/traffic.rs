//! Traffic is encrypted and routed as kubectl says.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lateen_testkit::{eventually, http};

use crate::mesh::{Mesh, PATIENCE};
use crate::shop::{PORT, SECONDS, drive, none_failed, version_of_reviews};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_the_wire_is_tls_and_strangers_are_cut_off_when_told_so() -> Result<()> {
    Mesh::run("wire", async |mesh| {
        on_the_wire(mesh).await?;
        strangers_are(mesh, true).await?;
        mesh.apply_sample("mutual-tls.yaml").await?;
        strangers_are(mesh, false).await?;
        none_failed(&drive(mesh, SECONDS).await?)?;
        mesh.delete_sample("mutual-tls.yaml").await?;
        strangers_are(mesh, true).await
    })
    .await
}

/// What reaches the pod of details is TLS, and no request can be read.
async fn on_the_wire(mesh: &Mesh) -> Result<()> {
    let details = mesh.pod("app=details").await?;
    let filter = format!("host {details} and tcp port {PORT}");
    let capture = mesh.cluster.capture(&filter).await?;
    none_failed(&drive(mesh, SECONDS).await?)?;
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

/// Waits until a server answers a stranger, or cuts it off.
async fn strangers_are(mesh: &Mesh, welcome: bool) -> Result<()> {
    let door: SocketAddr = (mesh.pod("app=details").await?, PORT).into();
    let what = if welcome {
        "plain text is answered"
    } else {
        "plain text is cut off"
    };
    eventually(what, PATIENCE, async || {
        (http::get(door, "details", "/details").await.is_ok() == welcome).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_the_versions_of_a_virtual_service_from_the_moment_that_it_is_distributed() -> Result<()> {
    Mesh::run("weights", async |mesh| {
        mesh.apply_sample("reviews-versions.yaml").await?;
        mesh.apply_sample("reviews-route.yaml").await?;
        for (v1, v3) in [(100, 0), (0, 100), (50, 50)] {
            weigh(mesh, v1, v3).await?;
        }
        mesh.delete_sample("reviews-route.yaml").await?;
        mesh.delete_sample("reviews-versions.yaml").await
    })
    .await
}

/// Gives two versions these shares in percent, and counts who sees which.
async fn weigh(mesh: &Mesh, v1: usize, v3: usize) -> Result<()> {
    let patch = format!(
        r#"[{{"op": "replace", "path": "/spec/http/1/route/0/weight", "value": {v1}}},
            {{"op": "replace", "path": "/spec/http/1/route/1/weight", "value": {v3}}}]"#
    );
    let object = "virtualservice/reviews";
    mesh.kubectl(&["patch", object, "--type=json", "-p", &patch]).await?;
    mesh.distributed(object).await?;
    let lines = drive(mesh, SECONDS).await?;
    none_failed(&lines)?;
    let seen = |version: &str| {
        let is = |line: &&serde_json::Value| version_of_reviews(line) == Some(version);
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
    Ok(())
}
