//! What every test here needs: two versions of a service behind a gateway.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use lateen_testkit::http::{self, Answer};
use lateen_testkit::world::{gateway, mesh, service};
use lateen_testkit::{Envoy, Lateend, Upstream, World, envoy, eventually, ports};

/// The longest that anything may take which does take place. Far more than it needs: others use the machine, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How many services [`Scene`] has: `echo-0`, `echo-1`, …
pub(crate) const SERVICES: usize = 2;

/// A control plane, a gateway, and services of two versions, `v1` and `v2`, in the namespace `shop`.
pub(crate) struct Scene {
    pub(crate) envoy: Envoy,
    pub(crate) lateend: Lateend,
    pub(crate) one: Upstream,
    pub(crate) two: Upstream,
    /// Where the gateway listens.
    pub(crate) door: SocketAddr,
    pub(crate) world: World,
}

/// Runs a test, unless there is no Envoy. What went wrong comes with the end of both logs.
pub(crate) async fn scene(test: impl AsyncFnOnce(&mut Scene) -> Result<()>) -> Result<()> {
    let Some(binary) = envoy::binary() else {
        return Ok(());
    };
    let world = World::new()?;
    let one = Upstream::start("v1", Ipv4Addr::new(127, 0, 1, 1)).await?;
    let two = Upstream::start("v2", Ipv4Addr::new(127, 0, 1, 2)).await?;
    let door = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?));
    world.write("gateway.yaml", &[&mesh(), &gateway(door.port())])?;
    for i in 0..SERVICES {
        let number = u8::try_from(i + 1)?;
        let yaml = service("shop", &format!("echo-{i}"), number, 80, &[&one, &two]);
        world.write(&format!("echo-{i}.yaml"), &[&yaml])?;
    }
    let lateend = Lateend::start(&world).await?;
    let envoy = Envoy::gateway(&binary, lateend.plaintext(), world.directory()).await?;
    let mut scene = Scene {
        envoy,
        lateend,
        one,
        two,
        door,
        world,
    };
    let done = test(&mut scene).await;
    done.with_context(|| format!("lateend:\n{}\n\nEnvoy:\n{}\n", scene.lateend.log(), scene.envoy.log()))
}

impl Scene {
    /// One request.
    pub(crate) async fn get(&self, host: &str) -> Result<Answer> {
        http::get(self.door, host, "/").await
    }

    /// Waits until a host is answered 200 with this mark; by then that version of its VirtualService is in force.
    pub(crate) async fn marked(&self, host: &str, mark: &str) -> Result<Answer> {
        eventually(
            &format!("{host} is answered with the mark {mark}"),
            PATIENCE,
            async || {
                let answer = self.get(host).await.ok()?;
                (answer.status == 200 && answer.header("x-mark") == Some(mark)).then_some(answer)
            },
        )
        .await
    }
}
