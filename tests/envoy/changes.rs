//! Changes under load: nothing is lost, and what changed is in force.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::world::{destination_rule, virtual_service};
use lateen_testkit::{Load, eventually};
use serde_json::Value;

use crate::scene::{PATIENCE, Scene, scene};

/// Envoy waits this long for a warming cluster before it takes it anyway: what takes longer was never warmed.
const ENVOYS_PATIENCE: Duration = Duration::from_secs(15);

/// Rounds of [`worst_order_under_load`].
const ROUNDS: usize = 10;

/// Subsets come and go with the routes that name them, in every order that is right at each step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worst_order_under_load() -> Result<()> {
    scene(async |scene| {
        let plain = |i: usize, mark: &str| {
            virtual_service(
                "shop",
                &format!("echo-{i}"),
                &format!("{i}.test"),
                &format!("echo-{i}"),
                mark,
                &[(None, 100)],
            )
        };
        let chosen = |i: usize, mark: &str, subset: &str| {
            let (host, service) = (format!("{i}.test"), format!("echo-{i}"));
            virtual_service("shop", &service, &host, &service, mark, &[(Some(subset), 100)])
        };
        let rule = |i: usize, subset: &str, version: &str| {
            destination_rule("shop", &format!("echo-{i}"), "", &[(subset, version)])
        };
        scene.world.write("route-0.yaml", &[&plain(0, "begin")])?;
        scene.world.write("both-1.yaml", &[&plain(1, "begin")])?;
        scene.marked("0.test", "begin").await?;
        scene.marked("1.test", "begin").await?;

        let load = Load::start(scene.door, &["0.test", "1.test"], 3);
        load.more(100, PATIENCE).await?;
        for round in 0..ROUNDS {
            // Subsets that no earlier round had, so that their clusters are new.
            let (subset, version) = (format!("s{round}"), if round % 2 == 0 { "v1" } else { "v2" });
            let (there, back) = (format!("there-{round}"), format!("back-{round}"));
            // Two files, one right after the other: first what is named, then what names it.
            scene.world.write("rule-0.yaml", &[&rule(0, &subset, version)])?;
            scene.world.write("route-0.yaml", &[&chosen(0, &there, &subset)])?;
            // One file: both at once, in either order of documents.
            let mut both = [rule(1, &subset, version), chosen(1, &there, &subset)];
            if round % 2 == 1 {
                both.reverse();
            }
            scene.world.write("both-1.yaml", &[&both[0], &both[1]])?;
            for host in ["0.test", "1.test"] {
                let answer = scene.marked(host, &there).await?;
                ensure!(answer.body == version, "{host}: {answer:?} instead of {version}");
            }
            load.more(30, PATIENCE).await?;
            // And away: what names it first, and both at once.
            scene.world.write("route-0.yaml", &[&plain(0, &back)])?;
            scene.world.remove("rule-0.yaml")?;
            scene.world.write("both-1.yaml", &[&plain(1, &back)])?;
            for host in ["0.test", "1.test"] {
                scene.marked(host, &back).await?;
            }
            let gone = format!("outbound|80|{subset}|");
            eventually("the subset's clusters are gone", PATIENCE, async || {
                let clusters = scene.envoy.admin("/clusters").await.ok()?;
                (!clusters.contains(&gone)).then_some(())
            })
            .await?;
            load.more(30, PATIENCE).await?;
        }
        let tally = load.stop().await?;
        println!(
            "{ROUNDS} rounds, {} requests, the slowest took {:?}",
            tally.requests, tally.slowest
        );
        rejected_nothing(scene).await?;
        tally.none_failed()
    })
    .await
}

/// A changed DestinationRule changes clusters whose endpoints stay what they were; Envoy warms such a cluster until it
/// gets its endpoints again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destination_rule_change_takes_effect() -> Result<()> {
    scene(async |scene| {
        let route = virtual_service("shop", "echo", "echo.test", "echo-0", "on", &[(Some("v1"), 100)]);
        scene.world.write("route.yaml", &[&route])?;
        let rule = |policy: &str| destination_rule("shop", "echo-0", policy, &[("v1", "v1")]);
        scene
            .world
            .write("rule.yaml", &[&rule("{connectionPool: {tcp: {connectTimeout: 3s}}}")])?;
        scene.marked("echo.test", "on").await?;
        let load = Load::start(scene.door, &["echo.test"], 3);

        let policies: [(&str, &str, Value); 5] = [
            (
                "{connectionPool: {tcp: {connectTimeout: 7s}}}",
                "/connect_timeout",
                "7s".into(),
            ),
            (
                "{connectionPool: {tcp: {maxConnections: 77}}}",
                "/circuit_breakers/thresholds/0/max_connections",
                77.into(),
            ),
            (
                "{connectionPool: {http: {http1MaxPendingRequests: 555}}}",
                "/circuit_breakers/thresholds/0/max_pending_requests",
                555.into(),
            ),
            (
                "{outlierDetection: {consecutive5xxErrors: 9, interval: 30s}}",
                "/outlier_detection/consecutive_5xx",
                9.into(),
            ),
            ("{loadBalancer: {simple: RANDOM}}", "/lb_policy", "RANDOM".into()),
        ];
        for (policy, pointer, expected) in &policies {
            let written = scene.world.write("rule.yaml", &[&rule(policy)])?;
            for subset in ["", "v1"] {
                let name = format!("outbound|80|{subset}|echo-0.shop.svc.cluster.local");
                let what = format!("{name} is active with {pointer} = {expected}");
                eventually(&what, PATIENCE, async || {
                    let active = scene.envoy.dump("dynamic_active_clusters").await.ok()?;
                    let clusters = active.iter().map(|one| &one["cluster"]);
                    let found = clusters.into_iter().find(|cluster| cluster["name"] == *name)?;
                    (found.pointer(pointer) == Some(expected)).then_some(())
                })
                .await?;
            }
            let took = written.elapsed();
            println!("{pointer}: in force {took:?} after the write");
            ensure!(
                took < ENVOYS_PATIENCE,
                "{pointer} took {took:?}: Envoy tired of warming, it was not served"
            );
            let warming = scene.envoy.dump("dynamic_warming_clusters").await?;
            ensure!(warming.is_empty(), "still warming: {warming:?}");
            load.more(30, PATIENCE).await?;
        }
        let tally = load.stop().await?;
        rejected_nothing(scene).await?;
        tally.none_failed()
    })
    .await
}

/// Envoy took all that it was sent.
async fn rejected_nothing(scene: &Scene) -> Result<()> {
    for stat in [
        "cluster_manager.cds.update_rejected",
        "listener_manager.lds.update_rejected",
    ] {
        let count = scene.envoy.stat(stat).await?;
        ensure!(count == 0, "{stat}: {count}");
    }
    let status = scene.lateend.push_status().await?;
    let rejected = status["rejected"].as_array().context("no list of rejections")?;
    ensure!(rejected.is_empty(), "{rejected:?}");
    Ok(())
}
