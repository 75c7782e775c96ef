//! Virtual hosts come one by one to a sidecar: they come, change and go, and its connection is lost, while requests go on.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::world::{mesh, service};
use lateen_testkit::{Envoy, Lateend, Load, Upstream, World, envoy, eventually, http, ports};

use crate::scene::PATIENCE;

/// Rounds in which a service comes and goes.
const ROUNDS: usize = 10;

/// Services that are there all the time, so that a table has more than what changes.
const MORE: u8 = 50;

fn routed(mark: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: steady, namespace: shop}}
spec:
  hosts: [steady.shop.svc.cluster.local]
  http:
    - headers: {{response: {{set: {{x-mark: \"{mark}\"}}}}}}
      route: [{{destination: {{host: steady.shop.svc.cluster.local}}}}]
"
    )
}

struct Caller {
    door: SocketAddr,
}

impl Caller {
    /// Waits until a service is answered with this mark, or at all.
    async fn answered(&self, host: &str, mark: Option<&str>) -> Result<()> {
        eventually(&format!("{host} is answered, {mark:?}"), PATIENCE, async || {
            let answer = http::get(self.door, host, "/").await.ok()?;
            (answer.status == 200 && (mark.is_none() || answer.header("x-mark") == mark)).then_some(())
        })
        .await
    }

    /// Waits until nobody answers for a service any more.
    async fn gone(&self, host: &str) -> Result<()> {
        eventually(&format!("{host} is gone"), PATIENCE, async || {
            let answer = http::get(self.door, host, "/").await.ok()?;
            (answer.status != 200).then_some(())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn virtual_hosts_come_and_go_under_load() -> Result<()> {
    let Some(binary) = envoy::binary() else {
        return Ok(());
    };
    let world = World::new()?;
    let upstream = Upstream::start("v1", Ipv4Addr::new(127, 0, 1, 1)).await?;
    let port = ports::free()?;
    let one = |name: &str, number: u8| service("shop", name, number, port, &[&upstream]);
    world.write("mesh.yaml", &[&mesh()])?;
    for number in 0..MORE {
        world.write(
            &format!("more-{number}.yaml"),
            &[&one(&format!("more-{number}"), number + 100)],
        )?;
    }
    world.write("steady.yaml", &[&one("steady", 1), &routed("begin")])?;
    world.write("leaving.yaml", &[&one("leaving", 2)])?;
    let mut lateend = Lateend::start(&world).await?;
    let envoy = Envoy::sidecar(&binary, lateend.plaintext(), world.directory()).await?;
    let caller = Caller {
        door: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
    };
    let done = changes(&caller, &world, &one, &mut lateend, &envoy).await;
    done.with_context(|| format!("lateend:\n{}\n\nEnvoy:\n{}\n", lateend.log(), envoy.log()))
}

async fn changes(
    caller: &Caller,
    world: &World,
    one: &impl Fn(&str, u8) -> String,
    lateend: &mut Lateend,
    envoy: &Envoy,
) -> Result<()> {
    caller.answered("steady.shop", Some("begin")).await?;
    caller.answered("leaving.shop", None).await?;
    let tables = envoy.dump("dynamic_route_configs").await?;
    let table = caller.door.port().to_string();
    let named = tables.iter().find(|one| one["route_config"]["name"] == *table);
    let config = &named.context("the table is not there")?["route_config"];
    ensure!(
        config["vhds"].is_object(),
        "virtual hosts came with their table: {config}"
    );
    let hosts = config["virtual_hosts"].as_array().map_or(0, Vec::len);
    ensure!(hosts >= usize::from(MORE) + 2, "{hosts} virtual hosts in {config}");

    let load = Load::start(caller.door, &["steady.shop.svc.cluster.local", "more-7.shop"], 3);
    for round in 0..ROUNDS {
        let (guest, mark) = (format!("guest-{round}"), format!("round-{round}"));
        world.write("guest.yaml", &[&one(&guest, 3)])?;
        world.write("steady.yaml", &[&one("steady", 1), &routed(&mark)])?;
        caller.answered(&format!("{guest}.shop"), None).await?;
        caller.answered("steady.shop", Some(&mark)).await?;
        world.remove("guest.yaml")?;
        caller.gone(&format!("{guest}.shop")).await?;
        load.more(20, PATIENCE).await?;
    }

    // What goes while nobody is there to say so is gone when somebody is.
    lateend.kill()?;
    world.remove("leaving.yaml")?;
    world.write("steady.yaml", &[&one("steady", 1), &routed("meanwhile")])?;
    load.more(100, PATIENCE).await?;
    caller.answered("leaving.shop", None).await?;
    lateend.start_again().await?;
    caller.answered("steady.shop", Some("meanwhile")).await?;
    caller.gone("leaving.shop").await?;
    world.write("guest.yaml", &[&one("latecomer", 4)])?;
    caller.answered("latecomer.shop", None).await?;

    load.more(100, PATIENCE).await?;
    let tally = load.stop().await?;
    println!("{} requests, the slowest took {:?}", tally.requests, tally.slowest);
    let status = lateend.push_status().await?;
    let rejected = status["rejected"].as_array().context("no list of rejections")?;
    ensure!(rejected.is_empty(), "{rejected:?}");
    tally.none_failed()
}
