//! Weights: traffic follows the file soon, and in the shares that it says.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lateen_testkit::http::Client;
use lateen_testkit::world::{destination_rule, virtual_service};
use lateen_testkit::{Load, World};

use crate::scene::{PATIENCE, Scene, scene};

/// The longest from the write to the first request that is answered by the new weights.
const IN_FORCE: Duration = Duration::from_secs(5);
/// How many requests shares are counted over.
const SAMPLE: u64 = 600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canary_weights() -> Result<()> {
    scene(async |scene| {
        let rule = destination_rule("shop", "echo-0", "", &[("v1", "v1"), ("v2", "v2")]);
        scene.world.write("rule.yaml", &[&rule])?;
        weigh(&scene.world, 100, 0)?;
        scene.marked("echo.test", "100-0").await?;
        let load = Load::start(scene.door, &["echo.test"], 2);
        shares(scene, 1.0).await?;

        for (one, two) in [(50, 50), (0, 100), (25, 75), (100, 0)] {
            let written = weigh(&scene.world, one, two)?;
            let took = turned(scene, written, &format!("{one}-{two}")).await?;
            println!("{one}/{two}: in force {took:?} after the write");
            ensure!(took < IN_FORCE, "{one}/{two} took {took:?}");
            shares(scene, f64::from(one) / 100.0).await?;
        }
        load.stop().await?.none_failed()
    })
    .await
}

fn weigh(world: &World, one: u32, two: u32) -> Result<Instant> {
    let routes = [(Some("v1"), one), (Some("v2"), two)];
    let yaml = virtual_service("shop", "echo", "echo.test", "echo-0", &format!("{one}-{two}"), &routes);
    world.write("route.yaml", &[&yaml])
}

/// How long after the write the first request was made that the new weights answered.
async fn turned(scene: &Scene, written: Instant, mark: &str) -> Result<Duration> {
    let mut client = Client::new(scene.door);
    while written.elapsed() < PATIENCE {
        let asked = written.elapsed();
        let answer = client.get("echo.test", "/").await?;
        ensure!(answer.status == 200, "{answer:?}");
        if answer.header("x-mark") == Some(mark) {
            return Ok(asked);
        }
    }
    anyhow::bail!("the weights {mark} never came into force")
}

/// The first version's share of requests is this, at the servers themselves.
async fn shares(scene: &Scene, expected: f64) -> Result<()> {
    let hits = || (scene.one.hits(), scene.two.hits());
    let mut client = Client::new(scene.door);
    // Requests of the load that were routed by the weights before are answered by now, or with the first few of these.
    for _ in 0..20 {
        client.get("echo.test", "/").await?;
    }
    let before = hits();
    for _ in 0..SAMPLE {
        let answer = client.get("echo.test", "/").await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    let after = hits();
    let (one, two) = (after.0 - before.0, after.1 - before.1);
    let share = one as f64 / (one + two) as f64;
    // Envoy draws at random: of 600 draws at one half, one in a million lies more than a tenth away.
    let exact = expected == 0.0 || expected == 1.0;
    let allowed = if exact { 0.0 } else { 0.1 };
    ensure!(
        (share - expected).abs() <= allowed,
        "{one} to the first and {two} to the second version, instead of a share of {expected}"
    );
    Ok(())
}
