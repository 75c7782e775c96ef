//! What a sidecar's Envoy keeps in memory, by the size of the mesh: with all clusters, with those that it uses, and when it
//! uses them no longer.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::agent::{GatewayAgent, Who, free_address};
use lateen_testkit::world::mesh;
use lateen_testkit::{Envoy, Lateend, Upstream, World, envoy, eventually, http, listens, ports};
use serde_json::Value;

/// The longest that a start may take: thousands of clusters, compiled by a debug build.
const PATIENCE: Duration = Duration::from_secs(300);

/// Sizes of the mesh, in services.
const SIZES: [usize; 3] = [50, 500, 5_000];

/// How many of them are called, whatever the size.
const USED: usize = 10;

/// The part of the memory that clusters on demand may need at most in the largest mesh: virtual hosts come all the same.
const MOST: f64 = 0.25;

/// Services that are all called and then forgotten.
const FORGOTTEN: usize = 500;

/// The part of what their use took that may be kept.
const KEPT: f64 = 0.25;

/// Bytes that Envoy's allocator has given out, and that it has of the system.
#[derive(Debug, Clone, Copy)]
struct Memory {
    allocated: f64,
    physical: f64,
}

fn services(count: usize, port: u16, upstream: &Upstream) -> String {
    let mut yaml = String::new();
    for number in 0..count {
        let address = format!(
            "10.{}.{}.{}",
            97 + number / 62_500,
            number / 250 % 250,
            number % 250 + 1
        );
        // Writing to a string cannot fail.
        let _ = write!(
            yaml,
            "---
apiVersion: v1
kind: Service
metadata: {{name: s{number}, namespace: shop}}
spec:
  clusterIP: {address}
  clusterIPs: [{address}]
  ports: [{{name: http, port: {port}, protocol: TCP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s{number}-x, namespace: shop, labels: {{kubernetes.io/service-name: s{number}}}}}
addressType: IPv4
ports: [{{name: http, port: {}, protocol: TCP}}]
endpoints: [{{addresses: [{}], conditions: {{ready: true, serving: true, terminating: false}}}}]
",
            upstream.address.port(),
            upstream.address.ip(),
        );
    }
    yaml
}

fn namespace(on_demand: bool) -> String {
    let labels = if on_demand {
        "{lateen.dev/discovery: on-demand}"
    } else {
        "{}"
    };
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {labels}}}\n")
}

async fn measure(binary: &std::path::Path, count: usize, on_demand: bool) -> Result<Memory> {
    let world = World::new()?;
    let upstream = Upstream::start("v1", Ipv4Addr::new(127, 0, 1, 1)).await?;
    let port = ports::free()?;
    world.write("mesh.yaml", &[&mesh(), &namespace(on_demand)])?;
    world.write("services.yaml", &[&services(count, port, &upstream)])?;
    let lateend = Lateend::start(&world).await?;
    let envoy = Envoy::sidecar(binary, lateend.plaintext(), world.directory()).await?;
    let door = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    listens(door, PATIENCE).await?;
    for number in 0..USED {
        let answer = http::get(door, &format!("s{number}.shop"), "/").await?;
        ensure!(answer.status == 200, "s{number}: {answer:?}\n{}", envoy.log());
    }
    eventually("no cluster waits", PATIENCE, async || {
        (envoy.stat("cluster_manager.warming_clusters").await.ok()? == 0).then_some(())
    })
    .await?;
    let there = outbound(&envoy.admin("/clusters?format=json").await?)?;
    let expected = if on_demand { USED } else { count };
    ensure!(there == expected, "{there} clusters, not {expected}");
    Memory::read(&envoy.admin("/memory").await?)
}

/// How many clusters of services Envoy has.
fn outbound(clusters: &str) -> Result<usize> {
    let clusters: Value = serde_json::from_str(clusters)?;
    let names = clusters["cluster_statuses"].as_array().into_iter().flatten();
    Ok(names
        .filter_map(|one| one["name"].as_str())
        .filter(|name| name.starts_with("outbound|"))
        .count())
}

impl Memory {
    fn read(text: &str) -> Result<Self> {
        let memory: Value = serde_json::from_str(text)?;
        let bytes = |field: &str| -> Result<f64> {
            let text = memory[field].as_str().context("no such field of /memory")?;
            Ok(text.parse()?)
        };
        Ok(Self {
            allocated: bytes("allocated")?,
            physical: bytes("total_physical_bytes")?,
        })
    }

    fn cell(self) -> String {
        let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
        format!("{:.1} ({:.1})", mebibytes(self.allocated), mebibytes(self.physical))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_follows_what_is_used() -> Result<()> {
    let Some(binary) = envoy::binary() else {
        return Ok(());
    };
    let mut table = String::from("| services | eager, MiB | on demand, MiB |\n|---|---|---|\n");
    let mut measured = Vec::new();
    for count in SIZES {
        let (eager, lazy) = (
            measure(&binary, count, false).await?,
            measure(&binary, count, true).await?,
        );
        let _ = writeln!(table, "| {count} | {} | {} |", eager.cell(), lazy.cell());
        measured.push((eager, lazy));
    }
    let (first, last) = (measured[0], measured[SIZES.len() - 1]);
    let ratio = |first: Memory, last: Memory| last.allocated / first.allocated;
    let (eager, lazy) = (ratio(first.0, last.0), ratio(first.1, last.1));
    let _ = writeln!(table, "| ratio {} : {} | {eager:.2} | {lazy:.2} |", SIZES[2], SIZES[0]);
    println!("Envoy's memory, allocated (of the system), with {USED} services used:\n\n{table}");
    let part = last.1.allocated / last.0.allocated;
    ensure!(
        part < MOST,
        "{:.0} % of the memory for {} services",
        part * 100.0,
        SIZES[2]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_gives_its_memory_back() -> Result<()> {
    let Some(binary) = envoy::binary() else {
        return Ok(());
    };
    let world = World::new()?;
    let upstream = Upstream::start("v1", Ipv4Addr::new(127, 0, 1, 1)).await?;
    let port = ports::free()?;
    world.write("mesh.yaml", &[&mesh(), &namespace(true)])?;
    world.write("services.yaml", &[&services(FORGOTTEN, port, &upstream)])?;
    let lateend = Lateend::start(&world).await?;
    let who = Who {
        name: "caller",
        namespace: "shop",
        label: "",
    };
    let variables = [
        ("ISTIO_META_INTERCEPTION_MODE", "NONE"),
        ("LATEEN_ON_DEMAND_IDLE", "10s"),
    ];
    let agent = GatewayAgent::start_with(&binary, &world, &lateend, who, free_address()?, &variables).await?;
    let door = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    listens(door, PATIENCE).await?;
    let memory = async || Memory::read(&agent.admin("/memory").await?);
    let clusters = async || outbound(&agent.admin("/clusters?format=json").await?);

    let before = memory().await?;
    for number in 0..FORGOTTEN {
        let answer = http::get(door, &format!("s{number}.shop"), "/").await?;
        ensure!(answer.status == 200, "s{number}: {answer:?}\n{}", agent.log());
    }
    let most = clusters().await?;
    let used = memory().await?;
    eventually("all is forgotten", PATIENCE, async || {
        (clusters().await.ok()? == 0).then_some(())
    })
    .await?;
    let after = memory().await?;
    println!(
        "Envoy's memory, MiB allocated (of the system), with {FORGOTTEN} services on demand:\n\n\
         | before the first request | after one to each ({most} clusters there) | all forgotten |\n|---|---|---|\n| {} | {} | {} |\n",
        before.cell(),
        used.cell(),
        after.cell()
    );
    let kept = (after.allocated - before.allocated) / (used.allocated - before.allocated);
    ensure!(kept < KEPT, "{:.0} % of what use took is kept", kept * 100.0);
    Ok(())
}
