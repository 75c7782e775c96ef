//! The mesh's edges: TLS at the gateway, and what may leave.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lateen_testkit::world::tls_secret;
use lateen_testkit::{Upstream, eventually, http};
use serde_json::{Value, json};

use crate::mesh::{INGRESS, Mesh, PATIENCE};
use crate::shop::{Asking, SHOP, ask, with_status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_ends_at_the_ingress_gateway_and_leads_to_the_shop() -> Result<()> {
    const HOST: &str = "secure.shop.example";
    Mesh::run("ingress", async |mesh| {
        let credential = || tls_secret(INGRESS, CREDENTIAL, HOST);
        let (first, second) = (credential()?, credential()?);
        mesh.cluster.apply(&first.1).await?;
        let gateway = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": {"name": "secure", "namespace": SHOP},
            "spec": {"selector": {"istio": "ingress"}, "servers": [
                {"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": [HOST],
                 "tls": {"mode": "SIMPLE", "credentialName": CREDENTIAL}},
                {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": [HOST],
                 "tls": {"httpsRedirect": true}},
            ]},
        });
        mesh.cluster.apply(&gateway.to_string()).await?;
        mesh.distributed("gateway.networking.istio.io/secure").await?;
        let front = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "secure", "namespace": SHOP},
            "spec": {"hosts": [HOST], "gateways": ["secure"], "http": [{
                "route": [{"destination": {"host": "productpage", "port": {"number": 9080}}}],
            }]},
        });
        mesh.configure(&front).await?;

        let door = mesh.door(443).await?;
        let answer = eventually("the gateway ends TLS", PATIENCE, async || {
            http::get_over_tls(door, HOST, "/productpage", &first.0).await.ok()
        })
        .await?;
        ensure!(answer.status == 200, "{answer:?}");
        let page: Value = serde_json::from_str(&answer.body)?;
        let gateway = format!("spiffe://cluster.local/ns/{INGRESS}/sa/{INGRESS}");
        ensure!(page["peer"]["client"] == gateway.as_str(), "{page:#}");
        let plain = http::get(mesh.door(80).await?, HOST, "/productpage").await?;
        ensure!(plain.status == 301, "{plain:?}");
        ensure!(
            plain.header("location") == Some(&*format!("https://{HOST}/productpage")),
            "{plain:?}"
        );

        ensure!(
            http::get_over_tls(door, HOST, "/productpage", &second.0).await.is_err(),
            "a certificate that nobody gave it is shown"
        );
        mesh.cluster.apply(&second.1).await?;
        eventually("the renewed certificate is shown", PATIENCE, async || {
            http::get_over_tls(door, HOST, "/productpage", &second.0).await.ok()
        })
        .await?;

        mesh.kubectl(&["delete", "virtualservice/secure", "gateway.networking.istio.io/secure"])
            .await?;
        let delete = ["-n", INGRESS, "delete", "secret", CREDENTIAL];
        mesh.cluster.kubectl(delete).await.map(drop)
    })
    .await
}

/// The Secret that the Gateway names, in the namespace where the gateway runs.
const CREDENTIAL: &str = "shop-tls";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_registry_may_be_asked_when_the_mesh_says_so() -> Result<()> {
    Mesh::run("egress", async |mesh| {
        let server = Upstream::start("outside", mesh.cluster.host()).await?;
        let url = format!("http://{}/", server.address);
        let named = Asking {
            headers: &["host: let.through.example"],
            ..Asking::url(&url)
        };
        let unnamed = Asking {
            headers: &["host: kept.out.example"],
            ..Asking::url(&url)
        };
        for asking in [named, unnamed] {
            let lines = ask(mesh, asking).await?;
            ensure!(with_status(&lines, 200) == lines.len(), "{lines:#?}");
        }

        let narrow = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
            "metadata": {"name": "default", "namespace": SHOP},
            "spec": {"egress": [{"hosts": ["./*", "istio-system/*"]}], "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}},
        });
        mesh.configure(&narrow).await?;
        let hits = server.hits();
        for asking in [named, unnamed] {
            let lines = ask(mesh, asking).await?;
            ensure!(with_status(&lines, 200) == 0, "{lines:#?}");
        }
        ensure!(server.hits() == hits, "a request left the mesh");

        mesh.configure(&outside("let.through.example", server.address)).await?;
        let lines = ask(mesh, named).await?;
        ensure!(with_status(&lines, 200) == lines.len(), "{lines:#?}");
        let lines = ask(mesh, unnamed).await?;
        ensure!(with_status(&lines, 502) == lines.len(), "{lines:#?}");

        mesh.kubectl(&["delete", "serviceentry/outside", "sidecar/default"])
            .await?;
        eventually("everything may be asked again", PATIENCE, async || {
            let lines = ask(mesh, unnamed).await.ok()?;
            (with_status(&lines, 200) == lines.len()).then_some(())
        })
        .await
    })
    .await
}

/// A server outside the mesh, as a ServiceEntry of the shop lets it in.
pub(crate) fn outside(host: &str, address: SocketAddr) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "outside", "namespace": SHOP},
        "spec": {
            "hosts": [host], "location": "MESH_EXTERNAL", "resolution": "STATIC",
            "ports": [{"number": address.port(), "name": "http", "protocol": "HTTP"}],
            "endpoints": [{"address": address.ip()}],
        },
    })
}
