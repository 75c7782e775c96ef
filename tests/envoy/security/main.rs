//! Security on real Envoys that a real `lateend` steers, in networks of their own and with real redirection: who may call
//! whom, what comes of attacks, and how fast a denial takes hold.
//!
//! `LATEEN_ROWS` limits the rows to files whose names contain that text.

mod attacks;
mod authorizer;
mod callers;
mod change;
mod control_plane;
mod rows;
mod scene;
mod tokens;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::Mutex;

use rows::File;
use scene::Scene;

/// There are as many requests, at least.
const REQUESTS: usize = 300;

/// Each test has proxies of its own; two cores are enough for those of one.
static ONE: Mutex<()> = Mutex::const_new(());

#[test]
fn there_are_more_than_300_requests() -> Result<()> {
    let files = File::all()?;
    let groups = files.iter().flat_map(|(_, file)| &file.groups);
    let requests: usize = groups
        .flat_map(|group| &group.rows)
        .map(|row| row.requests().len())
        .sum();
    ensure!(requests >= REQUESTS, "{requests} requests");
    Ok(())
}

/// `SECURITY.md` names tests as `path::name`.
#[test]
fn the_threat_model_cites_only_tests_that_exist() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("SECURITY.md"))?;
    let mut cited = 0;
    for (path, name) in text.split('`').filter_map(|code| code.split_once(".rs::")) {
        let path = root.join(format!("{path}.rs"));
        let source = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let there = source.contains(&format!("fn {name}("));
        ensure!(there, "{} has no test `{name}`", path.display());
        cited += 1;
    }
    ensure!(cited >= 40, "only {cited} tests are cited");
    let files = File::all()?;
    for file in text.split('`').filter_map(|code| code.strip_suffix(".yaml")) {
        ensure!(
            files.iter().any(|(name, _)| name == file),
            "there are no rows `{file}.yaml`"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_meets_its_verdict() -> Result<()> {
    let _alone = ONE.lock().await;
    let Some(mut scene) = Scene::start().await? else {
        return Ok(());
    };
    let only = std::env::var("LATEEN_ROWS").unwrap_or_default();
    let (mut requests, mut groups, mut again, mut failures) = (0, 0, 0, Vec::new());
    for (name, file) in File::all()?.iter().filter(|(name, _)| name.contains(&only)) {
        let begun = Instant::now();
        let mut here = 0;
        for group in &file.groups {
            match rows::group(&mut scene, name, group, &mut failures).await {
                Ok((asked, late)) => {
                    here += asked;
                    again += late;
                }
                Err(error) => failures.push(format!("{name}: {}: {error:#}", group.name)),
            }
            groups += 1;
        }
        println!(
            "{name}: {} groups, {here} requests, {:?}",
            file.groups.len(),
            begun.elapsed()
        );
        requests += here;
    }
    println!(
        "{requests} requests in {groups} groups, {} failed; {again} were asked again, within a second of the acknowledgement",
        failures.len()
    );
    if !failures.is_empty() && std::env::var_os("LATEEN_LOGS").is_some() {
        println!("{}", scene.logs());
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    ensure!(!only.is_empty() || requests >= REQUESTS, "only {requests} requests");
    Ok(())
}
