//! One leader at a time, and always one soon.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use lateen_controllers::{Election, Elector, Leadership};
use lateen_runtime::Shutdown;
use lateen_testkit::{ApiServer, eventually};
use serde_json::json;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::SOON;

const LEASE: &str = "lateen-leader";
const DURATION: Duration = Duration::from_secs(4);

struct Candidate {
    leadership: Leadership,
    task: AbortHandle,
    shutdown: Shutdown,
}

async fn candidate(server: &ApiServer, identity: &str, tasks: &mut JoinSet<()>) -> Result<Candidate> {
    let election = Election {
        duration: DURATION,
        renew_within: Duration::from_secs(3),
        interval: Duration::from_millis(300),
        ..Election::new("istio-system", LEASE, identity)
    };
    let shutdown = Shutdown::new();
    let (elector, leadership) = Elector::new(server.client().await?, election);
    let task = tasks.spawn(elector.run(shutdown.drain()));
    Ok(Candidate {
        leadership,
        task,
        shutdown,
    })
}

/// Waits for one leader; at no time may there be two.
async fn leader(candidates: &[Candidate]) -> Result<usize> {
    let looking = eventually("somebody leads", SOON, async || {
        let leading: Vec<usize> = (0..candidates.len())
            .filter(|at| candidates[*at].leadership.is_held())
            .collect();
        assert!(leading.len() <= 1, "{leading:?} lead at once");
        leading.first().copied()
    });
    looking.await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_takes_over_when_the_leader_is_killed_ends_or_loses_its_lease() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    server
        .apply("{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}")
        .await?;
    let leases: Api<Lease> = Api::namespaced(server.client().await?, "istio-system");
    let mut tasks = JoinSet::new();
    let mut candidates = Vec::new();
    for name in ["a", "b", "c", "d"] {
        candidates.push(candidate(&server, name, &mut tasks).await?);
    }
    let first = leader(&candidates).await?;

    // Killed: it gives nothing back.
    let killed = Instant::now();
    candidates[first].task.abort();
    let lost = candidates.remove(first);
    lost.leadership.lost().await;
    assert!(!lost.leadership.is_held());
    let second = leader(&candidates).await?;
    let took = killed.elapsed();
    println!("a killed leader was followed after {took:?}; its lease lasts {DURATION:?}");
    assert!(took < DURATION + Duration::from_secs(6), "{took:?}");

    // Ended: it gives the Lease back.
    let ended = Instant::now();
    candidates[second].shutdown.begin();
    let given = candidates.remove(second);
    given.leadership.lost().await;
    leader(&candidates).await?;
    println!("a leader that ended was followed after {:?}", ended.elapsed());
    let spec = leases.get(LEASE).await?.spec.context("a lease without a spec")?;
    assert!(spec.lease_transitions >= Some(2), "{spec:?}");

    // Its Lease deleted: whoever is first makes it anew, and one leads.
    leases.delete(LEASE, &DeleteParams::default()).await?;
    eventually("the lease is there again", SOON, async || {
        leases.get_opt(LEASE).await.ok().flatten()
    })
    .await?;
    let at = eventually("one leads, and the others know", SOON, async || {
        let leading: Vec<usize> = (0..candidates.len())
            .filter(|at| candidates[*at].leadership.is_held())
            .collect();
        let holder = leases.get(LEASE).await.ok()?.spec?.holder_identity?;
        (leading.len() == 1 && !holder.is_empty()).then(|| leading[0])
    })
    .await?;

    // Its Lease taken away: it notices.
    let patch = json!({"spec": {"holderIdentity": "a stranger"}});
    leases
        .patch(LEASE, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    tokio::time::timeout(SOON, candidates[at].leadership.lost()).await?;
    Ok(())
}
