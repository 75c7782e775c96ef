//! A real `lateen-agent` with its Envoy, as a gateway of the mesh (or a sidecar without redirection) on a loopback address of
//! its own: with a certificate from `lateend` and over mutual TLS, so that it may have secrets.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::call::{Ask, Connection, Line, Reply};
use crate::fabric::Place;
use crate::lateend::program;
use crate::process::Process;
use crate::wait::eventually;
use crate::{Lateend, World, http};

/// How long it may take to be ready on a machine that builds at the same time.
const STARTING: Duration = Duration::from_secs(60);

/// Envoy's ports that must be free at its address.
const PORTS: [u16; 3] = [15000, 15020, 15021];

/// Who a gateway is.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// The pod's name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// The value of its label `istio`, which Gateways select; none makes it a sidecar.
    pub label: &'a str,
}

/// A running gateway. It and its Envoy are ended when it is dropped.
#[derive(Debug)]
pub struct GatewayAgent {
    process: Process,
    address: Ipv4Addr,
}

/// A loopback address at which nobody uses an agent's ports.
///
/// # Errors
/// When there is none among many.
pub fn free_address() -> Result<Ipv4Addr> {
    // Tests of one process that look at the same time must not find the same one.
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let seed = std::process::id();
    for _ in 0..1000 {
        let number = TRIED.fetch_add(1, Ordering::Relaxed);
        let mixed = (seed.wrapping_mul(2_654_435_761)).wrapping_add(number.wrapping_mul(40_503));
        let [_, a, b, c] = mixed.to_be_bytes();
        let address = Ipv4Addr::new(127, 20 + a % 200, b, 1 + c % 250);
        if PORTS.iter().all(|port| TcpListener::bind((address, *port)).is_ok()) {
            return Ok(address);
        }
    }
    anyhow::bail!("no loopback address is free")
}

impl GatewayAgent {
    /// Starts one at `address` and waits until it is ready.
    ///
    /// # Errors
    /// When a program does not build or it is not ready in time; with the end of its log.
    pub async fn start(
        envoy: &Path,
        world: &World,
        lateend: &Lateend,
        who: Who<'_>,
        address: Ipv4Addr,
    ) -> Result<Self> {
        Self::start_with(envoy, world, lateend, who, address, &[]).await
    }

    /// As [`Self::start`], with variables of its environment.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        envoy: &Path,
        world: &World,
        lateend: &Lateend,
        who: Who<'_>,
        address: Ipv4Addr,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let root = prepare(world, who)?;
        let mut command = Command::new(program("lateen-agent", "lateen-agent")?);
        let discovery = lateend.secure().to_string();
        configure(&mut command, (envoy, &root, world), who, address, &discovery);
        command.envs(variables.iter().copied());
        command.args(["--bind-address", &address.to_string()]);
        let process = Process::start(command, &root.join("log"))?;
        let mut agent = Self { process, address };
        agent.wait().await?;
        Ok(agent)
    }

    /// What Envoy's admin port says.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub async fn admin(&self, path: &str) -> Result<String> {
        let answer = http::get(SocketAddr::from((self.address, 15000)), "admin", path).await?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
        Ok(answer.body)
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        self.process.log(60)
    }

    async fn wait(&mut self) -> Result<()> {
        let port = SocketAddr::from((self.address, 15021));
        let waiting = eventually("the gateway is ready", STARTING, async || {
            if let Some(status) = self.process.ended() {
                return Some(Err(anyhow::anyhow!("the agent ended: {status}")));
            }
            let answer = http::get(port, "health", "/healthz/ready").await;
            answer.is_ok_and(|answer| answer.status == 200).then_some(Ok(()))
        });
        waiting.await.flatten().with_context(|| self.process.log(60))
    }
}

impl Drop for GatewayAgent {
    fn drop(&mut self) {
        // Its Envoy goes with it only when it is asked to end; the process is killed after that at the latest.
        self.process.terminate(Duration::from_secs(10));
    }
}

/// A directory for an agent, with a token of who it is.
fn prepare(world: &World, who: Who<'_>) -> Result<PathBuf> {
    let root = world.directory().join(format!("agent-{}", who.name));
    std::fs::create_dir(&root)?;
    let token = Command::new(program("lateen-cli", "lateen")?)
        .args([
            "token",
            "create",
            "--namespace",
            who.namespace,
            "--service-account",
            who.name,
        ])
        .arg("--data-dir")
        .arg(world.directory().join("data"))
        .output()
        .context("cannot run lateen token create")?;
    ensure!(
        token.status.success(),
        "no token: {}",
        String::from_utf8_lossy(&token.stderr)
    );
    std::fs::write(root.join("token"), token.stdout)?;
    Ok(root)
}

/// What an agent is told: of its pod, of its Envoy, and where the control plane is.
fn configure(
    command: &mut Command,
    (envoy, root, world): (&Path, &Path, &World),
    who: Who<'_>,
    address: Ipv4Addr,
    discovery: &str,
) {
    let (role, labels) = if who.label.is_empty() {
        ("sidecar", json!({"app": who.name, "version": "v1"}))
    } else {
        ("router", json!({"istio": who.label, "app": who.name}))
    };
    command
        .args(["proxy", role, "--token-path", "token", "--concurrency", "1"])
        .args(["--discovery-address", discovery])
        .arg("--envoy")
        .arg(envoy)
        .arg("--root-dir")
        .arg(root)
        .env("INSTANCE_IP", address.to_string())
        .env("LATEEN_TERMINATION_DRAIN_DURATION", "1s")
        .env("POD_NAME", who.name)
        .env("POD_NAMESPACE", who.namespace)
        .env("SERVICE_ACCOUNT", who.name)
        .env("XDS_ROOT_CA", world.directory().join("data/ca/root-cert.pem"))
        .env("ISTIO_METAJSON_LABELS", labels.to_string());
}

/// What the agent of a pod is told besides who it is.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// What names mean to Envoy's resolver, as in `/etc/hosts`.
    pub hosts: &'a str,
    /// Variables of its environment.
    pub variables: &'a [(&'a str, &'a str)],
}

/// A pod of a [`Fabric`](crate::fabric::Fabric): a real `lateen-agent` with its Envoy, to which the pod's connections are
/// really redirected if it is a sidecar. It is ended when dropped.
#[derive(Debug)]
pub struct PodAgent {
    process: Process,
    place: Place,
}

impl PodAgent {
    /// Starts one; readiness is waited for by [`Self::ready`]. `hosts` is what names mean to Envoy's resolver, as in
    /// `/etc/hosts`.
    ///
    /// # Errors
    /// When a program does not build or the system refuses.
    pub fn start(
        envoy: &Path,
        world: &World,
        place: &Place,
        discovery: SocketAddr,
        who: Who<'_>,
        address: Ipv4Addr,
        hosts: &str,
    ) -> Result<Self> {
        let setup = Setup { hosts, variables: &[] };
        Self::start_with(envoy, world, place, discovery, who, address, setup)
    }

    /// As [`Self::start`], with more than names to tell the agent.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        envoy: &Path,
        world: &World,
        place: &Place,
        discovery: SocketAddr,
        who: Who<'_>,
        address: Ipv4Addr,
        setup: Setup<'_>,
    ) -> Result<Self> {
        let root = prepare(world, who)?;
        let sidecar = who.label.is_empty();
        let agent = program("lateen-agent", "lateen-agent")?;
        if sidecar {
            let mut rules = Command::new(&agent);
            rules.arg("istio-iptables").arg("--network-namespace").arg(place.path());
            rules.args(["-b", "*", "-i", "*", "-d", "15090,15021,15020"]);
            let output = rules.env("LATEEN_LOG", "warn").output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "istio-iptables: {said}");
        }
        std::fs::write(root.join("hosts"), setup.hosts)?;
        std::fs::write(root.join("resolv.conf"), "")?;
        let mut command = place.command("sh");
        // The group is what exempts its connections from redirection.
        command.arg("-c").arg(
            "mount --bind \"$0/hosts\" /etc/hosts && mount --bind \"$0/resolv.conf\" /etc/resolv.conf \
             && exec setpriv --regid 1337 --clear-groups \"$@\"",
        );
        command.arg(&root).arg(agent);
        let discovery = format!("istiod.istio-system.svc:{}", discovery.port());
        configure(&mut command, (envoy, &root, world), who, address, &discovery);
        command.envs(setup.variables.iter().copied());
        let process = Process::start(command, &root.join("log"))?;
        Ok(Self {
            process,
            place: place.clone(),
        })
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time; with the end of its log.
    pub async fn ready(&mut self) -> Result<()> {
        let waiting = eventually("the proxy is ready", STARTING, async || {
            if let Some(status) = self.process.ended() {
                return Some(Err(anyhow::anyhow!("the agent ended: {status}")));
            }
            let answer = ask(&self.place, 15021, "/healthz/ready").await;
            answer.is_ok_and(|answer| answer.status == 200).then_some(Ok(()))
        });
        waiting.await.flatten().with_context(|| self.process.log(60))
    }

    /// What Envoy's admin port says.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub async fn admin(&self, path: &str) -> Result<String> {
        let answer = ask(&self.place, 15000, path).await?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
        Ok(answer.body)
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        self.process.log(60)
    }
}

impl Drop for PodAgent {
    fn drop(&mut self) {
        self.process.terminate(Duration::from_secs(10));
    }
}

async fn ask(place: &Place, port: u16, path: &str) -> Result<Reply> {
    let line = Line {
        from: place.clone(),
        to: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: None,
        two: false,
    };
    let ask = Ask {
        method: "GET".to_owned(),
        scheme: "http",
        authority: "admin".to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
    };
    Connection::open(&line).await?.ask(&ask).await
}
