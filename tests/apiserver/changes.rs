//! What is written to the API server reaches proxies: objects, definitions, the mesh's settings.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lateen_testkit::ApiServer;
use lateen_xds::types::{LISTENER, ROUTE};

use crate::scene::{SERVICES, TABLE, lateend, mesh, route, scene, sidecar};

/// How many changes are timed.
const CHANGES: usize = 20;

#[tokio::test]
async fn a_change_reaches_a_proxy_and_a_deletion_takes_it_back() -> Result<()> {
    scene(async |server: &mut ApiServer| {
        server.install_crds().await?;
        server.apply(SERVICES).await?;
        server.apply(&route("0")).await?;
        let lateend = lateend(server, server.kubeconfig(), &[]).await?;
        let mut sidecar = sidecar(&lateend).await?;
        assert_eq!(
            sidecar.contains(ROUTE, TABLE, "x-mark"),
            Some(true),
            "it was there at the start"
        );

        let mut writer = server.writer().await?;
        writer.apply(&route("warm")).await?;
        sidecar.until_contains(ROUTE, TABLE, "warm", true).await?;
        let mut times: Vec<Duration> = Vec::new();
        for i in 0..CHANGES {
            let (mark, start) = (format!("change-{i}"), Instant::now());
            let yaml = route(&mark);
            let (written, seen) = tokio::join!(writer.apply(&yaml), sidecar.until_contains(ROUTE, TABLE, &mark, true));
            written?;
            seen?;
            times.push(start.elapsed());
        }
        times.sort();
        println!(
            "from the API server's write to the acknowledged push, {CHANGES} changes: median {:?}, slowest {:?}",
            times[CHANGES / 2],
            times[CHANGES - 1]
        );
        server.delete(&route("")).await?;
        sidecar.until_contains(ROUTE, TABLE, "x-mark", false).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn kinds_that_are_defined_late_are_read_then_and_vanish_with_their_definition() -> Result<()> {
    scene(async |server: &mut ApiServer| {
        server.apply(SERVICES).await?;
        // Ready without a single definition.
        let lateend = lateend(server, server.kubeconfig(), &[]).await?;
        let mut sidecar = sidecar(&lateend).await?;
        assert_eq!(sidecar.contains(ROUTE, TABLE, "a.one.svc.cluster.local"), Some(true));

        server.install_crds().await?;
        server.apply(&route("late")).await?;
        sidecar.until_contains(ROUTE, TABLE, "late", true).await?;

        server
            .delete(
                "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: virtualservices.networking.istio.io}
",
            )
            .await?;
        sidecar.until_contains(ROUTE, TABLE, "late", false).await?;
        assert_eq!(sidecar.contains(ROUTE, TABLE, "a.one.svc.cluster.local"), Some(true));

        server.install_crds().await?;
        server.apply(&route("again")).await?;
        sidecar.until_contains(ROUTE, TABLE, "again", true).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_older_version_is_read_where_the_newest_is_not_served() -> Result<()> {
    scene(async |server: &mut ApiServer| {
        server.apply(SERVICES).await?;
        let definition = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../crds/networking.istio.io_virtualservices.yaml"
        );
        let text = std::fs::read_to_string(definition)?;
        let mut definition: serde_yaml::Value = serde_yaml::from_str(&text)?;
        let versions = definition["spec"]["versions"]
            .as_sequence_mut()
            .context("no versions")?;
        for version in versions {
            let old = version["name"] == "v1beta1";
            version["served"] = old.into();
            version["storage"] = old.into();
        }
        server.apply(&serde_yaml::to_string(&definition)?).await?;
        server
            .apply(&route("old").replace("networking.istio.io/v1\n", "networking.istio.io/v1beta1\n"))
            .await?;
        let lateend = lateend(server, server.kubeconfig(), &[]).await?;
        let sidecar = sidecar(&lateend).await?;
        assert_eq!(sidecar.contains(ROUTE, TABLE, "old"), Some(true));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn settings_of_the_mesh_are_read_anew_when_their_config_map_changes() -> Result<()> {
    scene(async |server: &mut ApiServer| {
        server.apply(SERVICES).await?;
        server.apply(&mesh("istio-canary", "{}")).await?;
        let canary = lateend(server, server.kubeconfig(), &["--revision", "canary"]).await?;
        let stable = lateend(server, server.kubeconfig(), &[]).await?;
        let (mut one, mut two) = (sidecar(&canary).await?, sidecar(&stable).await?);
        for proxy in [&one, &two] {
            assert_eq!(
                proxy.contains(LISTENER, "virtualOutbound", "PassthroughCluster"),
                Some(true)
            );
        }
        let only = "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}";
        server.apply(&mesh("istio-canary", only)).await?;
        one.until_contains(LISTENER, "virtualOutbound", "PassthroughCluster", false)
            .await?;

        // What is no YAML leaves in force what was there; the other revision has settings of its own.
        server.apply(&mesh("istio-canary", "{outboundTrafficPolicy: ")).await?;
        server.apply(&mesh("istio", only)).await?;
        two.until_contains(LISTENER, "virtualOutbound", "PassthroughCluster", false)
            .await?;
        assert_eq!(
            one.contains(LISTENER, "virtualOutbound", "PassthroughCluster"),
            Some(false)
        );
        Ok(())
    })
    .await
}
