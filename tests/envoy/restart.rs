//! The control plane dies; traffic does not notice, and its successor takes over.

use anyhow::{Result, ensure};
use lateen_testkit::Load;
use lateen_testkit::world::{destination_rule, virtual_service};

use crate::scene::{PATIENCE, scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lateend_killed_under_traffic() -> Result<()> {
    scene(async |scene| {
        let rule = destination_rule("shop", "echo-0", "", &[("v1", "v1"), ("v2", "v2")]);
        let to =
            |mark: &str, subset| virtual_service("shop", "echo", "echo.test", "echo-0", mark, &[(Some(subset), 100)]);
        scene.world.write("echo.yaml", &[&rule, &to("before", "v1")])?;
        scene.marked("echo.test", "before").await?;

        let load = Load::start(scene.door, &["echo.test"], 4);
        load.more(200, PATIENCE).await?;
        scene.lateend.kill()?;
        load.more(500, PATIENCE).await?;
        ensure!(!scene.lateend.ready().await, "lateend was to be dead");

        scene.lateend.start_again().await?;
        load.more(200, PATIENCE).await?;
        let written = scene.world.write("echo.yaml", &[&rule, &to("after", "v2")])?;
        let answer = scene.marked("echo.test", "after").await?;
        println!("{:?} after the write, the route was in force", written.elapsed());
        ensure!(answer.body == "v2", "{answer:?}");

        // A change that is made while nobody is there counts when somebody is.
        scene.lateend.kill()?;
        scene.world.write("echo.yaml", &[&rule, &to("meanwhile", "v1")])?;
        load.more(100, PATIENCE).await?;
        scene.lateend.start_again().await?;
        let answer = scene.marked("echo.test", "meanwhile").await?;
        ensure!(answer.body == "v1", "{answer:?}");

        load.more(200, PATIENCE).await?;
        let tally = load.stop().await?;
        println!("{} requests, the slowest took {:?}", tally.requests, tally.slowest);
        tally.none_failed()
    })
    .await
}
