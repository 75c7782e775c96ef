//! `lateen explain` reads a cluster, where no files are named.

use std::time::Duration;

use anyhow::Result;
use lateen_cli::render::World;
use lateen_testkit::ApiServer;

use crate::scene::{SERVICES, mesh, route, scene};

#[tokio::test]
async fn a_cluster_is_read_at_once_with_the_fields_that_explaining_needs() -> Result<()> {
    scene(async |server: &mut ApiServer| {
        server.install_crds().await?;
        server
            .apply("{apiVersion: v1, kind: Namespace, metadata: {name: one}}")
            .await?;
        server.apply(&mesh("istio", "trustDomain: here")).await?;
        server.apply(SERVICES).await?;
        server.apply(&route("first")).await?;
        let world = World::of_cluster(Some(server.kubeconfig()), Duration::from_secs(30)).await?;
        assert_eq!(world.snapshot().mesh.trust_domain.to_string(), "here");
        assert_eq!(world.snapshot().virtual_services.values().count(), 1);
        assert_eq!(world.pod_at("10.1.0.1".parse()?).as_deref(), Some("a.one"));
        assert!(!world.has_proxy("a.one"));
        let proxy = world.proxy_of_pod("a.one")?;
        assert_eq!(proxy.addresses, ["10.1.0.1".parse::<std::net::IpAddr>()?]);
        Ok(())
    })
    .await
}
