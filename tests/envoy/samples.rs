//! The recorded sample applications, live: a real Envoy for each of their proxies takes over ADS what `lateend` gives it,
//! rejects nothing, and then holds the clusters, listeners and route tables that Istio's control plane would give it.
//!
//! Each Envoy has a network namespace of its own, since all of them want the same ports. It reaches `lateend` and its
//! secrets through sockets in the file system, which network namespaces do not divide.

mod sandbox;
mod secrets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use lateen_testkit::{Lateend, World, envoy, eventually};
use serde_json::{Value, json};

use sandbox::{Relay, Sandbox, Sandboxed};
use secrets::Secrets;

/// Envoy waits 15 s for a secret that nobody gives it, and the machine has other work.
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_are_taken_over_ads() -> Result<()> {
    let (Some(binary), Some(reference)) = (envoy::binary(), std::env::var_os("LATEEN_REFERENCE")) else {
        println!("skipped: live samples: LATEEN_REFERENCE is not set, or there is no Envoy");
        return Ok(());
    };
    let Some(sandbox) = Sandbox::find(binary) else {
        println!("skipped: live samples: this machine lets nobody make a network namespace");
        return Ok(());
    };
    let samples = samples(&Path::new(&reference).join("corpus"))?;
    ensure!(
        !samples.is_empty(),
        "there are no samples below {}",
        reference.display()
    );
    let (scenarios, sandbox) = (samples.len(), &sandbox);
    let counts: Vec<Taken> = futures::stream::iter(samples)
        .map(async |directory| {
            taken(&directory, sandbox)
                .await
                .with_context(|| directory.display().to_string())
        })
        .buffer_unordered(2)
        .try_collect()
        .await?;
    let sum = |count: fn(&Taken) -> usize| counts.iter().map(count).sum::<usize>();
    println!(
        "{} proxies of {scenarios} samples hold {} clusters, {} listeners and {} route tables; nothing was rejected",
        sum(|taken| taken.proxies),
        sum(|taken| taken.clusters),
        sum(|taken| taken.listeners),
        sum(|taken| taken.routes)
    );
    Ok(())
}

/// What the proxies of a sample took.
#[derive(Default)]
struct Taken {
    proxies: usize,
    clusters: usize,
    listeners: usize,
    routes: usize,
}

fn samples(corpus: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(corpus).with_context(|| corpus.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("samples-") {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

async fn taken(sample: &Path, sandbox: &Sandbox) -> Result<Taken> {
    let world = World::new()?;
    world.write("input.yaml", &[&fs::read_to_string(sample.join("input.yaml"))?])?;
    if let Ok(mesh) = fs::read_to_string(sample.join("mesh.yaml")) {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": mesh},
        });
        world.write("mesh.yaml", &[&map.to_string()])?;
    }
    let lateend = Lateend::start(&world).await?;
    let relay = Relay::start(&world.directory().join("ads"), lateend.plaintext())?;
    let secrets = Secrets::serve(&world.directory().join("sds"))?;
    let mut proxies = Vec::new();
    for (number, file) in nodes(sample)?.into_iter().enumerate() {
        let node: Value = serde_json::from_slice(&fs::read(&file)?)?;
        let directory = world.directory().join(format!("proxy-{number}"));
        // Both protocols, so that neither is forgotten.
        let api_type = if number % 2 == 0 { "DELTA_GRPC" } else { "GRPC" };
        let envoy = sandbox.start(&directory, &node, api_type, &relay, &secrets)?;
        let expected = file.to_string_lossy().replace(".node.json", "");
        proxies.push((envoy, expected));
    }
    let mut taken = Taken::default();
    for (mut envoy, expected) in proxies {
        let held = proxy(&mut envoy, &expected).await;
        let held =
            held.with_context(|| format!("{expected}\nlateend:\n{}\n\nEnvoy:\n{}", lateend.log(), envoy.log()))?;
        taken.proxies += 1;
        taken.clusters += held.clusters.len();
        taken.listeners += held.listeners.len();
        taken.routes += held.routes.len();
    }
    let metrics = lateend.http("/metrics").await?.body;
    let rejects: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("pilot_total_xds_rejects") && !line.ends_with(" 0"))
        .collect();
    ensure!(rejects.is_empty(), "lateend counts rejections: {rejects:?}");
    Ok(taken)
}

fn nodes(sample: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(sample.join("expected"))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".node.json") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Names of what a proxy holds, or should.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    clusters: BTreeSet<String>,
    listeners: BTreeSet<String>,
    routes: BTreeSet<String>,
}

/// Waits until an Envoy has all that is expected of it in use, and checks that it rejected nothing.
async fn proxy(envoy: &mut Sandboxed, expected: &str) -> Result<Names> {
    let names = |kind: &str| -> Result<BTreeSet<String>> {
        let Ok(text) = fs::read(format!("{expected}.{kind}.json")) else {
            return Ok(BTreeSet::new());
        };
        let resources: Vec<Value> = serde_json::from_slice(&text)?;
        Ok(resources
            .iter()
            .filter_map(|one| Some(one["name"].as_str()?.to_owned()))
            .collect())
    };
    let wanted = Names {
        clusters: names("clusters")?,
        listeners: names("listeners")?,
        routes: names("routes")?,
    };
    let mut last = None;
    let reached = eventually("Envoy holds what is expected", PATIENCE, async || {
        last = Some(in_use(envoy).await);
        matches!(&last, Some(Ok(held)) if *held == wanted).then_some(())
    })
    .await;
    if let Err(error) = reached {
        let held = last.context("Envoy was never asked")??;
        let gap = |wanted: &BTreeSet<String>, held: &BTreeSet<String>| {
            format!("{:?}", wanted.symmetric_difference(held).collect::<Vec<_>>())
        };
        return Err(error).with_context(|| {
            format!(
                "different: clusters {}, listeners {}, routes {}",
                gap(&wanted.clusters, &held.clusters),
                gap(&wanted.listeners, &held.listeners),
                gap(&wanted.routes, &held.routes)
            )
        });
    }
    let stats = envoy
        .admin("/stats?filter=update_rejected|update_success|create_failure")
        .await?;
    let rejected: Vec<&str> = stats
        .lines()
        .filter(|line| !line.contains("update_success") && !line.ends_with(": 0"))
        .collect();
    ensure!(rejected.is_empty(), "Envoy rejected something: {rejected:?}");
    for counted in [
        "cluster_manager.cds.update_success: ",
        "listener_manager.lds.update_success: ",
    ] {
        let line = stats.lines().find_map(|line| line.strip_prefix(counted));
        ensure!(
            line.is_some_and(|count| count != "0"),
            "Envoy says nothing of {counted}: {stats}"
        );
    }
    Ok(wanted)
}

/// What Envoy uses; what is still warming is not.
async fn in_use(envoy: &mut Sandboxed) -> Result<Names> {
    let set = async |resource: &str, name: &[&str]| -> Result<BTreeSet<String>> {
        let dump = envoy.dump(resource).await?;
        let name = |one: &Value| {
            name.iter()
                .fold(one, |value, key| &value[*key])
                .as_str()
                .map(str::to_owned)
        };
        Ok(dump.iter().filter_map(name).collect())
    };
    Ok(Names {
        clusters: set("dynamic_active_clusters", &["cluster", "name"]).await?,
        listeners: set("dynamic_listeners", &["active_state", "listener", "name"]).await?,
        routes: set("dynamic_route_configs", &["route_config", "name"]).await?,
    })
}
