//! One control plane, its proxies and the servers: all tables share them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lateen_testkit::agent::{PodAgent, Who};
use lateen_testkit::echo::Echo;
use lateen_testkit::fabric::{Fabric, at};
use lateen_testkit::pki::{Authority, Credential};
use lateen_testkit::settle::{Change, warm};
use lateen_testkit::table::Table;
use lateen_testkit::{Lateend, World};
use serde::Deserialize as _;
use serde_json::Value;

use crate::base;

/// What a table's text may name: certificates, each with the hosts it is for.
const CREDENTIALS: [(&str, &[&str]); 3] = [
    ("shop", &["shop.test", "*.shop.test"]),
    ("bank", &["bank.test"]),
    ("someone", &["someone.test"]),
];

pub(crate) struct Scene {
    pub(crate) agents: BTreeMap<&'static str, PodAgent>,
    pub(crate) lateend: Lateend,
    pub(crate) echo: Echo,
    pub(crate) authority: Arc<Authority>,
    pub(crate) client: Credential,
    /// Where names lead to from the proxies' pods.
    pub(crate) names: BTreeMap<String, Ipv4Addr>,
    pub(crate) world: World,
    pub(crate) fabric: Fabric,
    credentials: BTreeMap<&'static str, Credential>,
}

impl Scene {
    pub(crate) async fn start(binary: &Path) -> Result<Self> {
        let world = World::new()?;
        let authority = Arc::new(Authority::new()?);
        let mut credentials = BTreeMap::new();
        for (name, hosts) in CREDENTIALS {
            credentials.insert(name, authority.issue(hosts)?);
        }
        world.write("base.yaml", &[&base::world()])?;
        world.write("table.yaml", &[&mesh("start", "")])?;
        std::fs::write(world.directory().join("ca.pem"), authority.pem())?;
        let lateend = Lateend::start(&world).await?;
        let mut fabric = Fabric::new()?;
        let discovery = fabric.relay(15012, lateend.secure())?;
        let server = authority.issue(&["outside.test", "*.outside.test", "echo.shop.svc.cluster.local"])?;
        let mut echo = Echo::new(serving(&authority, &server)?);
        let mut hosts = format!("127.0.0.1 localhost\n{} istiod.istio-system.svc\n", discovery.ip());
        for server in base::SERVERS {
            fabric.address(server.address)?;
            for port in base::PORTS {
                echo.serve(fabric.center(), server.name, at(server.address, port))?;
            }
            hosts.push_str(&format!("{} {}.dns.test\n", server.address, server.name));
        }
        let mut agents = BTreeMap::new();
        for &(name, namespace, address, _, label) in base::PODS {
            let place = fabric.pod(address)?;
            if name == "inside" {
                for port in [8080, 9090, 7777] {
                    echo.serve(&place, name, at(Ipv4Addr::UNSPECIFIED, port))?;
                }
            }
            let who = Who { name, namespace, label };
            let agent = PodAgent::start(binary, &world, &place, discovery, who, address, &hosts)?;
            agents.insert(name, agent);
        }
        for agent in agents.values_mut() {
            agent.ready().await.with_context(|| lateend.log())?;
        }
        let client = authority.issue(&["client.test"])?;
        Ok(Self {
            agents,
            lateend,
            echo,
            authority,
            client,
            names: BTreeMap::new(),
            world,
            fabric,
            credentials,
        })
    }

    /// Puts a table's objects in place of those of the one before, and waits until all proxies have them.
    pub(crate) async fn set(&mut self, table: &Table) -> Result<()> {
        let change = Change::begin(&self.lateend).await?;
        let objects = self.filled(&table.objects);
        self.names = names(&format!("{}\n---\n{objects}", base::world()))?;
        self.world.write("table.yaml", &[&mesh(&table.name(), &objects)])?;
        let marker = format!("{}.marker", table.name());
        change.acknowledged(&self.lateend, &marker, self.agents.len()).await?;
        for (name, agent) in &self.agents {
            warm(name, agent).await?;
        }
        if std::env::var_os("LATEEN_TABLE").is_some() {
            let status = self.lateend.push_status().await?;
            println!("findings: {}\nfiles: {}", status["findings"], status["files"]);
        }
        Ok(())
    }

    /// The end of all logs.
    pub(crate) fn logs(&self) -> String {
        let mut all = format!("lateend:\n{}\n", self.lateend.log());
        for (name, agent) in &self.agents {
            all.push_str(&format!("\n{name}:\n{}\n", agent.log()));
        }
        all
    }

    /// A table's text with what it names put in.
    fn filled(&self, text: &str) -> String {
        let ca = self.world.directory().join("ca.pem");
        let mut text = text
            .replace("${ca-file}", &ca.to_string_lossy())
            .replace("${ca}", &STANDARD.encode(self.authority.pem()));
        for (name, credential) in &self.credentials {
            text = text
                .replace(&format!("${{cert-{name}}}"), &STANDARD.encode(&credential.certificate))
                .replace(&format!("${{key-{name}}}"), &STANDARD.encode(&credential.key));
        }
        text
    }
}

/// The table's objects, with the mesh's configuration unless they have their own, and something by which to know them.
fn mesh(name: &str, objects: &str) -> String {
    let marker = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: marker, namespace: istio-system}}
spec:
  hosts: [{name}.marker]
  exportTo: [\".\"]
  location: MESH_EXTERNAL
  resolution: NONE
  ports: [{{number: 65000, name: tcp, protocol: TCP}}]
"
    );
    if objects.contains("kind: ConfigMap\nmetadata: {name: istio,") {
        return format!("{marker}---\n{objects}");
    }
    let config = "apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    outboundTrafficPolicy: {mode: ALLOW_ANY}
";
    format!("{marker}---\n{config}---\n{objects}")
}

/// Which address each name of a Service and ServiceEntry has.
fn names(text: &str) -> Result<BTreeMap<String, Ipv4Addr>> {
    let mut names = BTreeMap::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let object = Value::deserialize(document)?;
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        match text("/kind") {
            "Service" => {
                if let Ok(ip) = text("/spec/clusterIP").parse::<Ipv4Addr>() {
                    let (name, namespace) = (text("/metadata/name"), text("/metadata/namespace"));
                    for suffix in ["", ".svc", ".svc.cluster.local"] {
                        names.insert(format!("{name}.{namespace}{suffix}"), ip);
                    }
                    names.entry(name.to_owned()).or_insert(ip);
                }
            }
            "ServiceEntry" => {
                let ip = text("/spec/addresses/0").split('/').next().unwrap_or_default().parse();
                for host in object
                    .pointer("/spec/hosts")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                {
                    if let (Some(host), Ok(ip)) = (host.as_str(), &ip) {
                        names.insert(host.to_owned(), *ip);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(names)
}

/// TLS as the servers serve it: clients may show a certificate.
fn serving(authority: &Authority, credential: &Credential) -> Result<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(authority.roots()?, Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
    let (chain, key) = credential.der()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// An address in text, or of a name, as a row has it.
pub(crate) fn address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("`{text}` is no address"))
}
