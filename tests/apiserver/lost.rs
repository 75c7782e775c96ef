//! An API server that is gone for a while.

use anyhow::Result;
use lateen_testkit::{ApiServer, eventually};
use lateen_xds::types::{ROUTE, VIRTUAL_HOST};

use crate::proxy::PATIENCE;
use crate::scene::{SERVICES, TABLE, lateend, route, scene, sidecar};

#[tokio::test]
async fn a_lost_api_server_removes_nothing_and_listing_anew_pushes_nothing() -> Result<()> {
    scene(async |server: &mut ApiServer| {
        server.install_crds().await?;
        server.apply(SERVICES).await?;
        server.apply(&route("before")).await?;
        let flags = ["--log", "lateen_sources=debug,info"];
        let lateend = lateend(server, server.kubeconfig(), &flags).await?;
        let mut sidecar = sidecar(&lateend).await?;
        let before = sidecar.held();
        let listed = lateend.whole_log().matches("listed").count();

        server.stop()?;
        eventually("lateend has noticed", PATIENCE, async || {
            lateend
                .whole_log()
                .contains("cannot be read; what was read")
                .then_some(())
        })
        .await?;
        assert!(lateend.ready().await, "it goes on serving");
        // Who connects now is served from what was read before.
        let newcomer = crate::scene::sidecar(&lateend).await?;
        assert_eq!(newcomer.held(), before);

        server.start_again().await?;
        // The server's memory of changes has begun anew, so kinds whose objects changed last are listed again.
        server.apply(&route("after")).await?;
        let updates = sidecar.until_contains(ROUTE, TABLE, "after", true).await?;
        eventually("kinds are listed anew", PATIENCE, async || {
            (lateend.whole_log().matches("listed").count() > listed).then_some(())
        })
        .await?;
        for update in &updates {
            assert_eq!(
                (update.type_url.as_str(), update.changed.len()),
                (VIRTUAL_HOST, 1),
                "{update:?}"
            );
            assert!(update.removed.is_empty(), "{update:?}");
        }
        let after = sidecar.held();
        let different: Vec<_> = after
            .iter()
            .filter(|(name, body)| before.get(name) != Some(body))
            .collect();
        assert_eq!((after.len(), different.len()), (before.len(), 1));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_an_api_server_nothing_is_served_until_it_comes() -> Result<()> {
    scene(async |server: &mut ApiServer| {
        server.apply(SERVICES).await?;
        server.stop()?;
        // It ends when the server stays away for long, and is started again where it runs in a cluster.
        let directory = tempfile::tempdir()?;
        let lateend = lateen_testkit::Lateend::launch_in_cluster(server.kubeconfig(), directory.path(), &[])?;
        eventually("lateend says what is missing", PATIENCE, async || {
            lateend
                .whole_log()
                .contains("the API server does not answer yet")
                .then_some(())
        })
        .await?;
        assert!(!lateend.ready().await);
        server.start_again().await?;
        eventually("lateend is ready", PATIENCE, async || {
            lateend.ready().await.then_some(())
        })
        .await?;
        sidecar(&lateend).await?;
        Ok(())
    })
    .await
}
