//! A new root takes the old one's place while requests are under way: the plugged-in authority's files are replaced in the
//! three steps that everybody must follow (trust both, sign with the new one, distrust the old one), the proxies' certificates
//! follow, and no request fails.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lateen_ca::pki::{Chain, PrivateKey, Serial, SigningCa, TrustBundle, Validity};
use lateen_testkit::agent::{GatewayAgent, Who, free_address};
use lateen_testkit::world::{mesh, service};
use lateen_testkit::{Lateend, Load, Upstream, World, envoy, eventually};
use serde_json::Value;

/// Certificates live for a few seconds here, and half of that before they are renewed.
const LIFETIME: &str = "16s";
const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 18085;
const MUTUAL: u16 = 18446;
const OUTER: Who<'_> = Who {
    name: "outer",
    namespace: "edge",
    label: "outer",
};
const INNER: Who<'_> = Who {
    name: "inner",
    namespace: "edge",
    label: "inner",
};

/// An authority as `cacerts` holds it.
struct Authority {
    certificate: String,
    key: String,
    serial: String,
}

impl Authority {
    fn new(number: u8) -> Result<Self> {
        let key = PrivateKey::generate()?;
        let pem = key.expose_pem().as_str().to_owned();
        let validity = Validity::starting(SystemTime::now(), Duration::from_secs(24 * 3600));
        let root = SigningCa::self_signed(&"cluster.local".parse()?, key, validity, Serial::new([number; 16]))?;
        Ok(Self {
            certificate: root.certificate().pem(),
            key: pem,
            serial: root.certificate().serial().to_owned(),
        })
    }
}

/// The files of an authority that trusts some roots; and the roots where proxies read them, as the ConfigMap
/// `istio-ca-root-cert` does it in a cluster.
fn plug(world: &World, step: usize, signs: &Authority, trusted: &[&Authority]) -> Result<()> {
    let roots: String = trusted.iter().map(|authority| &*authority.certificate).collect();
    let (directory, handed_out) = (world.directory().join("cacerts"), world.directory().join("data/ca"));
    std::fs::create_dir_all(&handed_out)?;
    replace(&handed_out.join("root-cert.pem"), &roots)?;
    // As the kubelet replaces a Secret's files: all at once.
    let next = world.directory().join("cacerts.next");
    std::fs::create_dir(&next)?;
    std::fs::write(next.join("root-cert.pem"), &roots)?;
    std::fs::write(next.join("ca-cert.pem"), &signs.certificate)?;
    std::fs::write(next.join("ca-key.pem"), &signs.key)?;
    std::fs::write(next.join("cert-chain.pem"), "")?;
    if directory.exists() {
        std::fs::rename(&directory, world.directory().join(format!("cacerts.until.{step}")))?;
    }
    Ok(std::fs::rename(next, directory)?)
}

fn replace(file: &Path, content: &str) -> Result<()> {
    let next = file.with_extension("next");
    std::fs::write(&next, content)?;
    Ok(std::fs::rename(next, file)?)
}

/// One gateway asks another over mutual TLS, which asks the service.
fn routes(outer: Ipv4Addr, inner: Ipv4Addr) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: outer, namespace: edge}}
spec:
  selector: {{istio: outer}}
  servers: [{{port: {{number: {PORT}, name: http, protocol: HTTP}}, bind: {outer}, hosts: [\"*/shop.test\"]}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: inner, namespace: edge}}
spec:
  selector: {{istio: inner}}
  servers:
    - port: {{number: {MUTUAL}, name: https, protocol: HTTPS}}
      bind: {inner}
      hosts: [\"*/shop.test\"]
      tls: {{mode: ISTIO_MUTUAL}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: inner, namespace: edge}}
spec:
  hosts: [inner.test]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: {inner}, ports: {{http: {MUTUAL}}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: inner, namespace: edge}}
spec:
  host: inner.test
  trafficPolicy:
    tls: {{mode: ISTIO_MUTUAL, sni: shop.test}}
    # A handshake for every request: a connection that lasts would outlive a root.
    connectionPool: {{http: {{maxRequestsPerConnection: 1}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: outer, namespace: edge}}
spec:
  hosts: [shop.test]
  gateways: [outer]
  http: [{{route: [{{destination: {{host: inner.test, port: {{number: 80}}}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: inner, namespace: edge}}
spec:
  hosts: [shop.test]
  gateways: [inner]
  http: [{{route: [{{destination: {{host: echo.shop.svc.cluster.local, port: {{number: 80}}}}}}]}}]
"
    )
}

/// How many certificates an Envoy trusts, and whether one of them has this serial number.
async fn trusts(proxy: &GatewayAgent, authority: &Authority) -> Option<(usize, bool)> {
    let certs: Value = serde_json::from_str(&proxy.admin("/certs").await.ok()?).ok()?;
    let lists = certs["certificates"].as_array()?;
    let roots: Vec<&str> = lists
        .iter()
        .flat_map(|one| one["ca_cert"].as_array().into_iter().flatten())
        .filter_map(|root| root["serial_number"].as_str())
        .collect();
    // Every context names its own.
    let mut distinct = roots.clone();
    distinct.sort_unstable();
    distinct.dedup();
    Some((distinct.len(), roots.iter().any(|root| same(root, &authority.serial))))
}

/// Serial numbers as hexadecimal digits, written in two ways.
fn same(one: &str, other: &str) -> bool {
    let plain = |text: &str| text.replace(':', "").trim_start_matches('0').to_ascii_lowercase();
    plain(one) == plain(other)
}

/// Whether the certificate that an Envoy shows is signed by this authority.
async fn shows(proxy: &GatewayAgent, authority: &Authority) -> Option<bool> {
    let path = "/config_dump?resource=dynamic_active_secrets";
    let dump: Value = serde_json::from_str(&proxy.admin(path).await.ok()?).ok()?;
    let secrets = dump["configs"].as_array()?.iter().map(|config| &config["secret"]);
    let chains = secrets.filter_map(|secret| secret["tls_certificate"]["certificate_chain"]["inline_bytes"].as_str());
    let trusted = TrustBundle::parse_pem(authority.certificate.as_bytes()).ok()?;
    let verified = chains.map(|chain| {
        let chain = Chain::parse_pem(&STANDARD.decode(chain).ok()?).ok()?;
        Some(trusted.verify(&chain, SystemTime::now()).is_ok())
    });
    let verified: Vec<bool> = verified.collect::<Option<_>>()?;
    Some(!verified.is_empty() && verified.iter().all(|by_it| *by_it))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_root_takes_over_without_a_failed_request() -> Result<()> {
    let Some(binary) = envoy::binary() else {
        return Ok(());
    };
    let world = World::new()?;
    let (old, new) = (Authority::new(1)?, Authority::new(2)?);
    plug(&world, 0, &old, &[&old])?;
    let upstream = Upstream::start("v1", Ipv4Addr::new(127, 0, 1, 4)).await?;
    let outer_at = free_address()?;
    world.write("mesh.yaml", &[&mesh()])?;
    world.write("echo.yaml", &[&service("shop", "echo", 1, 80, &[&upstream])])?;
    let lifetime = ["--workload-cert-ttl", LIFETIME, "--max-workload-cert-ttl", LIFETIME];
    let lateend = Lateend::start_with(&world, &lifetime).await?;
    let outer = GatewayAgent::start(&binary, &world, &lateend, OUTER, outer_at).await?;
    let inner_at = free_address()?;
    world.write("routes.yaml", &[&routes(outer_at, inner_at)])?;
    let inner = GatewayAgent::start(&binary, &world, &lateend, INNER, inner_at).await?;
    let door = SocketAddr::from((outer_at, PORT));
    let done = async {
        eventually("a request gets through both", PATIENCE, async || {
            let answer = lateen_testkit::http::get(door, "shop.test", "/").await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await?;
        let both = async |what: &str, wanted: (usize, bool), authority: &Authority| {
            eventually(what, PATIENCE, async || {
                let seen = [trusts(&outer, authority).await?, trusts(&inner, authority).await?];
                (seen == [wanted; 2]).then_some(())
            })
            .await
        };
        both("both trust the old root alone", (1, true), &old).await?;
        let load = Load::start(door, &["shop.test"], 3);
        load.more(100, PATIENCE).await?;

        plug(&world, 1, &old, &[&old, &new])?;
        both("both trust the new root, too", (2, true), &new).await?;
        load.more(100, PATIENCE).await?;

        plug(&world, 2, &new, &[&old, &new])?;
        eventually("both have certificates of the new root", PATIENCE, async || {
            (shows(&outer, &new).await? && shows(&inner, &new).await?).then_some(())
        })
        .await?;
        load.more(100, PATIENCE).await?;

        plug(&world, 3, &new, &[&new])?;
        both("nobody trusts the old root", (1, true), &new).await?;
        load.more(500, PATIENCE).await?;
        let tally = load.stop().await?;
        println!("{} requests, the slowest took {:?}", tally.requests, tally.slowest);
        ensure!(tally.requests > 500, "{} requests", tally.requests);
        tally.none_failed()
    }
    .await;
    done.with_context(|| {
        format!(
            "lateend:\n{}\n\nouter:\n{}\n\ninner:\n{}\n",
            lateend.log(),
            outer.log(),
            inner.log()
        )
    })
}
