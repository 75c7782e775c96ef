//! Behind an agent, what came on demand is forgotten when it was not used for a while, and comes back when it is used again.
//! No request fails, the control plane being there or not.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use lateen_testkit::agent::{GatewayAgent, Who, free_address};
use lateen_testkit::world::{mesh, service};
use lateen_testkit::{Lateend, Load, Upstream, World, envoy, eventually, http, listens, ports};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{ON_DEMAND, SERVICES, namespace, outbound};
use crate::scene::PATIENCE;

const CALLER: Who<'_> = Who {
    name: "caller",
    namespace: "shop",
    label: "",
};
/// More requests than are made while a cluster that is not used is forgotten.
const LONG: u64 = 1_000;
/// Less than a request waits for a cluster of which nothing is known.
const AT_ONCE: Duration = Duration::from_secs(3);
/// Who goes round all services.
const CLIENTS: u8 = 4;
/// How often.
const ROUNDS: usize = 5;

/// A route to a port.
fn route(port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: s3, namespace: shop}}
spec:
  hosts: [s3.shop.svc.cluster.local]
  http:
    - route: [{{destination: {{host: s3.shop.svc.cluster.local, port: {{number: {port}}}}}}}]
"
    )
}

/// A server that answers its only request when it is told to.
struct Held {
    address: SocketAddr,
    came: Arc<Notify>,
    answer: Arc<Notify>,
    _task: JoinSet<Result<()>>,
}

impl Held {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (came, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut task = JoinSet::new();
        let (seen, released) = (Arc::clone(&came), Arc::clone(&answer));
        task.spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            seen.notify_one();
            released.notified().await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nheld")
                .await?;
            Ok(())
        });
        Ok(Self {
            address,
            came,
            answer,
            _task: task,
        })
    }
}

struct Scene {
    world: World,
    lateend: Lateend,
    agent: GatewayAgent,
    one: Upstream,
    held: Held,
    http: u16,
    grpc: u16,
    /// A port that no service has at first.
    lost: u16,
}

impl Scene {
    async fn start(binary: &std::path::Path, idle: &str) -> Result<Self> {
        let world = World::new()?;
        let one = Upstream::start("v1", Ipv4Addr::new(127, 0, 1, 1)).await?;
        let held = Held::start().await?;
        let (http, grpc, lost) = (ports::free()?, ports::free()?, ports::free()?);
        world.write("mesh.yaml", &[&mesh(), &namespace(ON_DEMAND), &route(lost)])?;
        for number in 0..SERVICES {
            let yaml = service("shop", &format!("s{number}"), number + 1, http, &[&one]);
            world.write(&format!("s{number}.yaml"), &[&yaml])?;
        }
        let slow = service("shop", "slow", 201, http, &[&one]);
        let [from, to] = [one.address.port(), held.address.port()].map(|port| format!("port: {port},"));
        let [old, new] = [one.address.ip(), held.address.ip()].map(|ip| ip.to_string());
        world.write("slow.yaml", &[&slow.replace(&from, &to).replace(&old, &new)])?;
        let calls = service("shop", "grpc", 202, grpc, &[&one]).replace("name: http", "name: grpc");
        world.write("grpc.yaml", &[&calls])?;
        let lateend = Lateend::start(&world).await?;
        let variables = [
            ("ISTIO_META_INTERCEPTION_MODE", "NONE"),
            ("LATEEN_ON_DEMAND_IDLE", idle),
        ];
        let agent = GatewayAgent::start_with(binary, &world, &lateend, CALLER, free_address()?, &variables).await?;
        for port in [http, grpc] {
            listens((Ipv4Addr::LOCALHOST, port).into(), PATIENCE).await?;
        }
        Ok(Self {
            world,
            lateend,
            agent,
            one,
            held,
            http,
            grpc,
            lost,
        })
    }

    fn door(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.http).into()
    }

    async fn clusters(&self) -> Result<BTreeSet<String>> {
        Ok(outbound(&self.agent.admin("/clusters").await?))
    }

    fn on_http(&self, name: &str) -> String {
        format!("{name}:{}", self.http)
    }

    async fn get(&self, name: &str) -> Result<()> {
        let since = Instant::now();
        let answer = http::get(self.door(), &format!("{name}.shop"), "/").await?;
        ensure!(answer.status == 200, "{name}: {answer:?} after {:?}", since.elapsed());
        Ok(())
    }

    async fn forgotten(&self, cluster: &str) -> Result<()> {
        eventually(&format!("{cluster} is forgotten"), PATIENCE, async || {
            (!self.clusters().await.ok()?.contains(cluster)).then_some(())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_used_is_forgotten_and_comes_back() -> Result<()> {
    let Some(binary) = envoy::binary() else {
        return Ok(());
    };
    let mut scene = Scene::start(&binary, "1s").await?;
    let done = async {
        scene.get("s1").await?;
        let load = Load::start(scene.door(), &["s1.shop"], 1);
        while_it_is_used(&scene).await?;
        what_there_is_not(&scene).await?;
        without_control_plane(&mut scene, &load).await?;
        let tally = load.stop().await?;
        println!("{} requests, the slowest took {:?}", tally.requests, tally.slowest);
        let status = scene.lateend.push_status().await?;
        let rejected = status["rejected"].as_array().context("no list of rejections")?;
        ensure!(rejected.is_empty(), "{rejected:?}");
        tally.none_failed()
    };
    let done = done.await;
    done.with_context(|| format!("lateend:\n{}\n\nagent:\n{}\n", scene.lateend.log(), scene.agent.log()))
}

/// Again and again, over each of the listeners and whatever the method, but never while a request is under way.
async fn while_it_is_used(scene: &Scene) -> Result<()> {
    let (used, idle, slow) = (scene.on_http("s1"), scene.on_http("s2"), scene.on_http("slow"));
    for _ in 0..3 {
        scene.get("s2").await?;
        scene.forgotten(&idle).await?;
    }
    let body = Bytes::from(vec![b'x'; 100 << 10]);
    let posted = http::post(scene.door(), "s2.shop", "/", body.clone()).await?;
    ensure!(
        posted.status == 200 && posted.header("x-received") == Some("102400"),
        "{posted:?}"
    );
    for _ in 0..2 {
        let called = http::call(
            (Ipv4Addr::LOCALHOST, scene.grpc).into(),
            "grpc.shop",
            "/a/b",
            body.clone(),
        )
        .await?;
        ensure!(called.status == 200, "{called:?}");
        scene.forgotten(&format!("grpc:{}", scene.grpc)).await?;
    }

    let door = scene.door();
    let waiting = async {
        let answer = http::get(door, "slow.shop", "/").await?;
        ensure!(answer.status == 200 && answer.body == "held", "{answer:?}");
        anyhow::Ok(())
    };
    let meanwhile = async {
        scene.held.came.notified().await;
        for _ in 0..2 {
            scene.get("s2").await?;
            scene.forgotten(&idle).await?;
            ensure!(scene.clusters().await?.contains(&slow), "forgotten though in use");
        }
        scene.held.answer.notify_one();
        anyhow::Ok(())
    };
    tokio::try_join!(waiting, meanwhile)?;
    scene.forgotten(&slow).await?;
    let left = scene.clusters().await?;
    ensure!(left == BTreeSet::from([used]), "{left:?}");
    Ok(())
}

/// Who asks for what there is not is refused, and gets it as soon as it is there.
async fn what_there_is_not(scene: &Scene) -> Result<()> {
    for _ in 0..2 {
        let since = Instant::now();
        let answer = http::get(scene.door(), "s3.shop", "/").await?;
        let took = since.elapsed();
        ensure!(answer.status == 503 && took < AT_ONCE, "{answer:?} after {took:?}");
    }
    let mut both = service("shop", "s3", 4, scene.http, &[&scene.one]);
    for (own, more) in [
        (scene.http, scene.lost),
        (scene.one.address.port(), scene.one.address.port()),
    ] {
        let one = format!("port: {own}, protocol: TCP}}");
        both = both.replace(
            &one,
            &format!("{one}, {{name: http-lost, port: {more}, protocol: TCP}}"),
        );
    }
    scene.world.write("s3.yaml", &[&both])?;
    eventually("there is such a port", PATIENCE, async || scene.get("s3").await.ok()).await?;
    scene.forgotten(&format!("s3:{}", scene.lost)).await?;
    scene.get("s3").await
}

/// While nobody can be asked everything stays; who comes back later knows what Envoy has, and it is forgotten then.
async fn without_control_plane(scene: &mut Scene, load: &Load) -> Result<()> {
    let (used, idle) = (scene.on_http("s1"), scene.on_http("s2"));
    for name in ["s2", "s4"] {
        scene.get(name).await?;
    }
    scene.lateend.kill()?;
    load.more(LONG, PATIENCE).await?;
    ensure!(
        scene
            .clusters()
            .await?
            .is_superset(&BTreeSet::from([used.clone(), idle.clone()]))
    );
    scene.get("s2").await?;
    scene.world.remove("s4.yaml")?;
    scene.lateend.start_again().await?;
    for name in [&idle, &scene.on_http("s4")] {
        scene.forgotten(name).await?;
    }
    scene.get("s2").await?;
    scene.get("s5").await?;
    for name in [&idle, &scene.on_http("s5")] {
        scene.forgotten(name).await?;
    }
    let left = scene.clusters().await?;
    ensure!(left.contains(&used) && left.len() <= 2, "{left:?}");
    Ok(())
}

/// Each is used about as often as it is forgotten, by several clients that go round; then by all at once, when it is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_fails_that_is_used_while_it_is_forgotten() -> Result<()> {
    let Some(binary) = envoy::binary() else {
        return Ok(());
    };
    let scene = Scene::start(&binary, "200ms").await?;
    let done = async {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let first = usize::from(client * (SERVICES / CLIENTS));
            let round = services().cycle().skip(first).take(ROUNDS * usize::from(SERVICES));
            clients.spawn(ask_each(scene.door(), round));
        }
        let slowest: Result<Vec<_>> = clients.join_all().await.into_iter().collect();
        println!("going round, the slowest request took {:?}", slowest?.iter().max());

        let mut slowest = Duration::ZERO;
        for number in std::iter::repeat_n(services(), ROUNDS).flatten() {
            let together = (0..CLIENTS).map(|_| ask_each(scene.door(), std::iter::once(number)));
            let took = futures::future::try_join_all(together).await?;
            slowest = slowest.max(took.into_iter().max().unwrap_or_default());
        }
        println!("together, the slowest request took {slowest:?}");
        let forgotten = scene.agent.log().matches("forgets what was not used").count();
        ensure!(forgotten > ROUNDS, "forgotten {forgotten} times");
        Ok(())
    };
    let done: Result<()> = done.await;
    done.with_context(|| format!("lateend:\n{}\n\nagent:\n{}\n", scene.lateend.log(), scene.agent.log()))
}

/// Those that their own ports serve.
fn services() -> impl Iterator<Item = u8> + Clone {
    (0..SERVICES).filter(|number| *number != 3)
}

/// One after the other. Returns how long the slowest took.
async fn ask_each(door: SocketAddr, services: impl Iterator<Item = u8>) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    for number in services {
        let since = Instant::now();
        let answer = http::get(door, &format!("s{number}.shop"), "/").await?;
        let took = since.elapsed();
        ensure!(answer.status == 200, "s{number}: {answer:?} after {took:?}");
        slowest = slowest.max(took);
    }
    Ok(slowest)
}
