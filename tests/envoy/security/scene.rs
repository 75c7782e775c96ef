//! One control plane, its proxies, the servers behind them, and what may be changed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use lateen_testkit::agent::{PodAgent, Setup, Who};
use lateen_testkit::echo::Echo;
use lateen_testkit::fabric::{Fabric, SWITCH, at};
use lateen_testkit::pki::{Authority, Credential};
use lateen_testkit::settle::{Change, warm};
use lateen_testkit::{Lateend, World, envoy, fabric};

use crate::authorizer::Authorizer;
use crate::callers::Callers;
use crate::tokens::Tokens;

const BASE: &str = include_str!("base.yaml");
/// What the mesh is told of itself, besides what a group says.
const MESH: &str = include_str!("mesh.yaml");
/// A pod with a proxy: name, which is its service account too, namespace, address, and the label of a gateway.
type Pod = (&'static str, &'static str, Ipv4Addr, &'static str);
const PODS: [Pod; 5] = [
    ("web", "shop", Ipv4Addr::new(10, 77, 2, 1), ""),
    ("vault", "bank", Ipv4Addr::new(10, 77, 2, 2), ""),
    ("client", "shop", Ipv4Addr::new(10, 77, 2, 3), ""),
    ("ingress", "edge", Ipv4Addr::new(10, 77, 2, 11), "ingress"),
    ("behind", "edge", Ipv4Addr::new(10, 77, 2, 12), "behind"),
];
/// What the gateway is told that has one more proxy before it.
const BEHIND: &[(&str, &str)] = &[("PROXY_CONFIG", "gatewayTopology: {numTrustedProxies: 1}")];
/// Where the application of each sidecar listens.
const PORTS: [u16; 5] = [7777, 8080, 8081, 8443, 9090];
const AUTHORIZER: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// Whence callers come that say so.
pub(crate) const ELSEWHERE: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(203, 0, 113, 9)];

pub(crate) struct Scene {
    pub(crate) agents: BTreeMap<&'static str, PodAgent>,
    pub(crate) lateend: Lateend,
    pub(crate) echo: Echo,
    _authorizer: Authorizer,
    pub(crate) callers: Callers,
    pub(crate) tokens: Tokens,
    pub(crate) world: World,
    pub(crate) fabric: Fabric,
    credentials: BTreeMap<&'static str, Credential>,
    groups: usize,
}

impl Scene {
    /// Starts all of it; `None`, and a word why, where this machine cannot.
    pub(crate) async fn start() -> Result<Option<Self>> {
        let Some(binary) = envoy::binary() else {
            return Ok(None);
        };
        if !fabric::is_possible() {
            return Ok(None);
        }
        Self::with(&binary).await.map(Some)
    }

    async fn with(binary: &Path) -> Result<Self> {
        let world = World::new()?;
        let authority = Authority::new()?;
        let mut credentials = BTreeMap::new();
        for (name, host) in [("shop", "shop.test"), ("bank", "bank.test")] {
            credentials.insert(name, authority.issue(&[host])?);
        }
        world.write("base.yaml", &[BASE])?;
        world.write("group.yaml", &[&mesh("start", "")])?;
        let lateend = Lateend::start(&world).await?;
        let callers = Callers::new(&world.directory().join("data"))?;
        let mut fabric = Fabric::new()?;
        let discovery = fabric.relay(15012, lateend.secure())?;
        let mut echo = Echo::new(serving(&authority.issue(&["web.test"])?)?);
        let mut authorizer = Authorizer::new();
        fabric.address(AUTHORIZER)?;
        for port in [8000, 9001] {
            authorizer.serve(fabric.center(), at(AUTHORIZER, port))?;
        }
        for address in ELSEWHERE {
            fabric.address(address)?;
        }
        let hosts = format!("127.0.0.1 localhost\n{SWITCH} istiod.istio-system.svc\n");
        let mut agents = BTreeMap::new();
        for (name, namespace, address, label) in PODS {
            let place = fabric.pod(address)?;
            if label.is_empty() {
                for port in PORTS {
                    echo.serve(&place, name, at(Ipv4Addr::UNSPECIFIED, port))?;
                }
            }
            let who = Who { name, namespace, label };
            let variables = if name == "behind" { BEHIND } else { &[] };
            let setup = Setup {
                hosts: &hosts,
                variables,
            };
            let agent = PodAgent::start_with(binary, &world, &place, discovery, who, address, setup)?;
            agents.insert(name, agent);
        }
        for agent in agents.values_mut() {
            agent.ready().await.with_context(|| lateend.log())?;
        }
        Ok(Self {
            agents,
            lateend,
            echo,
            _authorizer: authorizer,
            callers,
            tokens: Tokens::new()?,
            world,
            fabric,
            credentials,
            groups: 0,
        })
    }

    /// Puts objects in place of those of the group before, and waits until all proxies have acknowledged them. Says when
    /// they were written and when the last acknowledgement was seen.
    pub(crate) async fn set(&mut self, extra: &str, objects: &str) -> Result<(Instant, Instant)> {
        let change = Change::begin(&self.lateend).await?;
        let objects = self.filled(objects)?;
        self.groups += 1;
        let name = format!("group-{}", self.groups);
        let text = format!("{}---\n{objects}", mesh(&name, extra));
        let written = self.world.write("group.yaml", &[&text])?;
        let marker = format!("{name}.marker");
        let acknowledged = change.acknowledged(&self.lateend, &marker, self.agents.len()).await?;
        Ok((written, acknowledged))
    }

    /// Waits until nothing is warming any more: a listener that waits for a secret is acknowledged before it is in force.
    pub(crate) async fn warm(&self) -> Result<()> {
        for (name, agent) in &self.agents {
            warm(name, agent).await?;
        }
        Ok(())
    }

    /// Where a pod is.
    pub(crate) fn address(name: &str) -> Result<Ipv4Addr> {
        let pod = PODS.iter().find(|pod| pod.0 == name);
        Ok(pod.with_context(|| format!("no pod is called `{name}`"))?.2)
    }

    /// The end of all logs.
    pub(crate) fn logs(&self) -> String {
        let mut all = format!("lateend:\n{}\n", self.lateend.log());
        for (name, agent) in &self.agents {
            all.push_str(&format!("\n{name}:\n{}\n", agent.log()));
        }
        all
    }

    fn filled(&self, text: &str) -> Result<String> {
        let mut text = self.tokens.filled(text)?;
        for (name, credential) in &self.credentials {
            let lines = |pem: &str| serde_json::to_string(pem);
            text = text
                .replace(&format!("${{cert-{name}}}"), &lines(&credential.certificate)?)
                .replace(&format!("${{key-{name}}}"), &lines(&credential.key)?);
        }
        Ok(text)
    }
}

/// The mesh's configuration with a group's own lines, and something by which to know it.
fn mesh(name: &str, extra: &str) -> String {
    let mut config = MESH.to_owned();
    for line in extra.lines() {
        config.push_str(&format!("    {line}\n"));
    }
    format!(
        "{config}---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: marker, namespace: istio-system}}
spec:
  hosts: [{name}.marker]
  location: MESH_EXTERNAL
  resolution: NONE
  ports: [{{number: 65000, name: tcp, protocol: TCP}}]
"
    )
}

/// TLS as applications end it themselves.
fn serving(credential: &Credential) -> Result<rustls::ServerConfig> {
    let (chain, key) = credential.der()?;
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
