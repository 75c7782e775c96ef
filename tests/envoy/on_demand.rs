//! Clusters that come to a sidecar when it first uses them: no first request fails, nothing else is there, and what was used
//! changes, goes, comes back and outlives the control plane like everything else.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use lateen_testkit::http::Answer;
use lateen_testkit::world::{mesh, service};
use lateen_testkit::{Envoy, Lateend, Load, Upstream, World, envoy, eventually, http, listens, ports};

use crate::scene::PATIENCE;

mod forgotten;

/// Services beside those that are named.
const SERVICES: u8 = 100;

/// How long Envoy waits for a cluster that it asked for: what is answered sooner did not wait in vain.
const ENVOYS_PATIENCE: Duration = Duration::from_secs(5);

fn namespace(labels: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {labels}}}\n")
}

const ON_DEMAND: &str = "{lateen.dev/discovery: on-demand}";

/// A route that takes some paths only.
const NARROW: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: s3, namespace: shop}
spec:
  hosts: [s3.shop.svc.cluster.local]
  http:
    - match: [{uri: {prefix: /only}}]
      route: [{destination: {host: s3.shop.svc.cluster.local}}]
";

/// Ports by what is spoken there.
struct Ports {
    http: u16,
    grpc: u16,
    tcp: u16,
}

struct Scene {
    world: World,
    lateend: Lateend,
    envoy: Envoy,
    one: Upstream,
    two: Upstream,
    ports: Ports,
}

impl Scene {
    fn door(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.http).into()
    }

    /// A request that is the first to a service, and must not fail.
    async fn get(&self, host: &str, path: &str) -> Result<Answer> {
        let answer = http::get(self.door(), host, path).await?;
        println!("GET {host}{path}: {}", answer.status);
        Ok(answer)
    }

    async fn answered(&self, host: &str, name: &str) -> Result<()> {
        eventually(&format!("{host} is answered by {name}"), PATIENCE, async || {
            let answer = http::get(self.door(), host, "/").await.ok()?;
            (answer.status == 200 && answer.body == name).then_some(())
        })
        .await
    }

    async fn clusters(&self) -> Result<BTreeSet<String>> {
        Ok(outbound(&self.envoy.admin("/clusters").await?))
    }

    async fn has(&self, name: &str, there: bool) -> Result<()> {
        let name = format!("{name}:{}", self.ports.http);
        eventually(&format!("{name} is there: {there}"), PATIENCE, async || {
            (self.clusters().await.ok()?.contains(&name) == there).then_some(())
        })
        .await
    }

    fn put(&self, name: &str, number: u8, upstream: &Upstream) -> Result<()> {
        self.world.write(
            &format!("{name}.yaml"),
            &[&service("shop", name, number, self.ports.http, &[upstream])],
        )?;
        Ok(())
    }
}

/// Those of Envoy's clusters that lead to services, of what its admin interface says of all: the host's first label, and
/// the port.
fn outbound(text: &str) -> BTreeSet<String> {
    let names = text
        .lines()
        .filter_map(|line| line.split("::").next()?.strip_prefix("outbound|"));
    let short = |name: &str| {
        let (port, host) = name.split_once("||")?;
        Some(format!("{}:{port}", host.split('.').next()?))
    };
    names.filter_map(short).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_come_when_they_are_first_used() -> Result<()> {
    let Some(binary) = envoy::binary() else {
        return Ok(());
    };
    let world = World::new()?;
    let one = Upstream::start("v1", Ipv4Addr::new(127, 0, 1, 1)).await?;
    let two = Upstream::start("v2", Ipv4Addr::new(127, 0, 1, 2)).await?;
    let ports = Ports {
        http: ports::free()?,
        grpc: ports::free()?,
        tcp: ports::free()?,
    };
    world.write("mesh.yaml", &[&mesh(), &namespace(ON_DEMAND), NARROW])?;
    for number in 0..SERVICES {
        let name = format!("s{number}");
        world.write(
            &format!("{name}.yaml"),
            &[&service("shop", &name, number + 1, ports.http, &[&one])],
        )?;
    }
    for (name, number, port) in [("grpc", 201, ports.grpc), ("tcp", 202, ports.tcp)] {
        let yaml = service("shop", name, number, port, &[&one]).replace("name: http", &format!("name: {name}"));
        world.write(&format!("{name}.yaml"), &[&yaml])?;
    }
    let lateend = Lateend::start(&world).await?;
    let envoy = Envoy::sidecar(&binary, lateend.plaintext(), world.directory()).await?;
    let mut scene = Scene {
        world,
        lateend,
        envoy,
        one,
        two,
        ports,
    };
    for port in [scene.ports.http, scene.ports.grpc, scene.ports.tcp] {
        listens((Ipv4Addr::LOCALHOST, port).into(), PATIENCE).await?;
    }
    let done = async {
        first_use(&scene).await?;
        changes(&mut scene).await
    };
    let done = done.await;
    done.with_context(|| format!("lateend:\n{}\n\nEnvoy:\n{}\n", scene.lateend.log(), scene.envoy.log()))
}

async fn first_use(scene: &Scene) -> Result<()> {
    let tcp = format!("tcp:{}", scene.ports.tcp);
    ensure!(
        scene.clusters().await? == BTreeSet::from([tcp.clone()]),
        "{:?}",
        scene.clusters().await?
    );
    let all = scene.envoy.admin("/clusters").await?;
    for name in ["PassthroughCluster", "BlackHoleCluster"] {
        ensure!(all.contains(name), "{name} is not there");
    }

    let got = scene.get("s1.shop", "/").await?;
    ensure!(got.status == 200 && got.body == "v1", "{got:?}");
    let body = Bytes::from(vec![b'x'; 100 << 10]);
    let posted = http::post(scene.door(), "s2.shop", "/", body.clone()).await?;
    ensure!(
        posted.status == 200 && posted.header("x-received") == Some("102400"),
        "{posted:?}"
    );
    let called = http::call(
        (Ipv4Addr::LOCALHOST, scene.ports.grpc).into(),
        "grpc.shop",
        "/a/b",
        body,
    )
    .await?;
    ensure!(
        called.status == 200 && called.header("x-received") == Some("102400"),
        "{called:?}"
    );
    let used = [
        format!("grpc:{}", scene.ports.grpc),
        format!("s1:{}", scene.ports.http),
        format!("s2:{}", scene.ports.http),
        tcp,
    ];
    ensure!(
        scene.clusters().await? == BTreeSet::from(used),
        "{:?}",
        scene.clusters().await?
    );

    // Neither a host that nobody knows nor a path that no route takes has anything to wait for.
    let since = Instant::now();
    let unknown = scene.get("nobody.example", "/").await?;
    // Without interception nobody knows where it was meant to go; a cluster that is missing says nothing at all.
    ensure!(
        unknown.status == 503 && unknown.body == "no healthy upstream",
        "{unknown:?} did not pass through"
    );
    let nowhere = scene.get("s3.shop", "/other").await?;
    ensure!(nowhere.status == 404, "{nowhere:?}");
    ensure!(since.elapsed() < ENVOYS_PATIENCE, "it took {:?}", since.elapsed());
    let narrow = scene.get("s3.shop", "/only").await?;
    ensure!(narrow.status == 200, "{narrow:?}");
    Ok(())
}

async fn changes(scene: &mut Scene) -> Result<()> {
    let load = Load::start(scene.door(), &["s1.shop"], 3);
    scene.put("s1", 2, &scene.two)?;
    scene.answered("s1.shop", "v2").await?;

    // What goes is gone, and what comes back comes unasked: Envoy does not ask for a name again.
    scene.world.remove("s2.yaml")?;
    scene.has("s2", false).await?;
    scene.put("s2", 3, &scene.two)?;
    scene.has("s2", true).await?;
    scene.answered("s2.shop", "v2").await?;
    ensure!(scene.get("s2.shop", "/").await?.status == 200);

    // What changes while nobody is there to say so.
    let before = scene.clusters().await?;
    scene.lateend.kill()?;
    scene.put("s1", 2, &scene.one)?;
    scene.world.remove("s2.yaml")?;
    load.more(100, PATIENCE).await?;
    scene.lateend.start_again().await?;
    scene.answered("s1.shop", "v1").await?;
    scene.has("s2", false).await?;
    let after = scene.clusters().await?;
    ensure!(after.is_subset(&before), "{after:?} after {before:?}");
    let late = scene.get("s4.shop", "/").await?;
    ensure!(late.status == 200, "{late:?}");

    // Whole, and on demand again: what is there stays, for listeners that would not ask.
    scene.world.write("mesh.yaml", &[&mesh(), &namespace("{}"), NARROW])?;
    scene.has("s50", true).await?;
    scene
        .world
        .write("mesh.yaml", &[&mesh(), &namespace(ON_DEMAND), NARROW])?;
    scene.put("latecomer", 210, &scene.one)?;
    scene.has("latecomer", true).await?;
    ensure!(scene.clusters().await?.contains(&format!("s50:{}", scene.ports.http)));

    load.more(100, PATIENCE).await?;
    let tally = load.stop().await?;
    println!("{} requests, the slowest took {:?}", tally.requests, tally.slowest);
    let status = scene.lateend.push_status().await?;
    let rejected = status["rejected"].as_array().context("no list of rejections")?;
    ensure!(rejected.is_empty(), "{rejected:?}");
    tally.none_failed()
}
