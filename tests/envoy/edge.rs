//! The edge: TLS ends at a gateway with the certificate of a Secret, which reaches it from `lateend` alone, over its
//! mutually authenticated stream; a new certificate takes its place without a lost request; and who must not have it does
//! not get it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::agent::{GatewayAgent, Who, free_address};
use lateen_testkit::world::{mesh, service, tls_secret, virtual_service};
use lateen_testkit::{Lateend, Upstream, World, envoy, eventually, http};
use rustls::pki_types::CertificateDer;

use crate::scene::PATIENCE;

const HOST: &str = "shop.test";
const PORT: u16 = 18443;
const OWNER: Who<'_> = Who {
    name: "ingress",
    namespace: "edge",
    label: "edge",
};
/// It selects the same Gateway by its label, but runs in another namespace than the Secret lies in.
const STRANGER: Who<'_> = Who {
    name: "stranger",
    namespace: "elsewhere",
    label: "edge",
};

fn gateway(bind: Ipv4Addr) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: gateway, namespace: edge}}
spec:
  selector: {{istio: edge}}
  servers:
    - port: {{number: {PORT}, name: https, protocol: HTTPS}}
      bind: {bind}
      hosts: [\"*/{HOST}\"]
      tls: {{mode: SIMPLE, credentialName: shop-tls}}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_ends_at_the_gateway_that_may_have_the_certificate() -> Result<()> {
    let Some(binary) = envoy::binary() else {
        return Ok(());
    };
    let world = World::new()?;
    let upstream = Upstream::start("v1", Ipv4Addr::new(127, 0, 1, 3)).await?;
    let credential = || tls_secret(OWNER.namespace, "shop-tls", HOST);
    let ((first, first_secret), (second, second_secret)) = (credential()?, credential()?);
    let address = free_address()?;
    let route = virtual_service("shop", "shop", HOST, "echo", "here", &[(None, 100)]);
    world.write("mesh.yaml", &[&mesh()])?;
    world.write("gateway.yaml", &[&gateway(address)])?;
    world.write("shop.yaml", &[&service("shop", "echo", 1, 80, &[&upstream]), &route])?;
    world.write("secret.yaml", &[&first_secret])?;
    let lateend = Lateend::start(&world).await?;
    let ingress = GatewayAgent::start(&binary, &world, &lateend, OWNER, address).await?;
    let door = SocketAddr::from((address, PORT));
    let told = async || format!("lateend:\n{}\n\ngateway:\n{}", lateend.log(), ingress.log());

    let served = eventually("the gateway ends TLS", PATIENCE, async || get(door, &first).await.ok()).await;
    match served {
        Ok(answer) => ensure!(answer == (200, true), "{answer:?}"),
        Err(error) => return Err(error).context(told().await),
    }
    let unknown = get(door, &second).await;
    ensure!(unknown.is_err(), "a certificate that nobody has given it is shown");

    // Renewed under way: every request succeeds with the one certificate or the other, and then only with the new one.
    world.write("secret.yaml", &[&second_secret])?;
    let mut old = 0;
    eventually("the renewed certificate is shown", PATIENCE, async || {
        if get(door, &second).await.is_ok() {
            return Some(Ok(()));
        }
        old += 1;
        let (before, after) = (get(door, &first).await, get(door, &second).await);
        (before.is_err() && after.is_err()).then(|| before.map(drop).context("neither certificate is shown"))
    })
    .await??;
    println!("{old} requests were answered under the old certificate after the Secret was renewed");
    ensure!(get(door, &first).await.is_err(), "the old certificate is still shown");

    // The Secret is not for a gateway of another namespace, whatever its label.
    let other = free_address()?;
    let stranger = GatewayAgent::start(&binary, &world, &lateend, STRANGER, other).await?;
    let secrets = stranger.admin("/config_dump?resource=dynamic_active_secrets").await;
    ensure!(
        !secrets.unwrap_or_default().contains("shop-tls"),
        "a stranger holds the gateway's certificate"
    );
    Ok(())
}

/// Asks over TLS and trusts one certificate alone. Gives the status, and whether the route's mark came back.
async fn get(door: SocketAddr, trusted: &CertificateDer<'static>) -> Result<(u16, bool)> {
    let answer = http::get_over_tls(door, HOST, "/", trusted).await?;
    Ok((answer.status, answer.header("x-mark") == Some("here")))
}
