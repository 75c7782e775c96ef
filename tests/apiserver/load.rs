//! The load tool on a small mesh: it fills the cluster, and its figures are what they must be.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lateen_load::{Access, Mesh, MutualTls, Plan, Progress, Report, Shape, Writer, phase};
use lateen_testkit::{ApiServer, Lateend, eventually};

use crate::proxy::PATIENCE;
use crate::scene::{lateend, scene};

const ROUNDS: usize = 2;

fn mesh() -> Mesh {
    Mesh {
        services: 20,
        namespaces: 3,
        endpoints: 2,
        routes: 5,
        shape: Shape::Real,
        pods: true,
    }
}

fn plan(target: String, sidecars: usize, mtls: MutualTls) -> Plan {
    Plan {
        target,
        sidecars,
        ramp: 0,
        streams_per_connection: 1,
        pid: None,
        rounds: ROUNDS,
        churn: 20,
        churn_for: Duration::from_secs(2),
        idle: Duration::from_secs(1),
        quiet: Duration::from_millis(500),
        limit: PATIENCE,
        mtls,
    }
}

/// What holds for every run on a mesh of this size.
fn check(report: &Report, sidecars: usize) -> Result<()> {
    ensure!(report.stream_failures == 0, "{:?}", report.last_failure);
    for name in [
        phase::CONNECT,
        phase::ROUTE,
        phase::ENDPOINT,
        phase::SERVICE,
        phase::CHURN,
    ] {
        let found = report.phase(name).context(name)?;
        ensure!(found.missed == 0, "{name}: {} missed", found.missed);
        let latency = found.latency.context("nothing arrived").context(name)?;
        ensure!(latency.count >= sidecars && latency.p50 <= latency.p99 && latency.p99 <= latency.max);
        ensure!(found.responses > 0 && found.bytes > 0, "{name}");
    }
    for name in [phase::ROUTE, phase::ENDPOINT, phase::SERVICE] {
        let count = report
            .phase(name)
            .and_then(|phase| phase.latency)
            .map(|latency| latency.count);
        ensure!(count == Some(sidecars * ROUNDS), "{name} was seen {count:?} times");
    }
    for name in [phase::IDLE, phase::ANNOTATION] {
        let found = report.phase(name).context(name)?;
        ensure!(found.responses == 0, "{name}: {} responses", found.responses);
    }
    // A changed route is sent alone, not with its table and all the others.
    let bytes = |name| report.phase(name).map_or(0, |phase| phase.bytes / phase.times as u64);
    ensure!(bytes(phase::ROUTE) * 10 < bytes(phase::CONNECT));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_mesh_is_measured_in_plaintext_and_with_mutual_tls() -> Result<()> {
    scene(async |server: &mut ApiServer| {
        server.install_crds().await?;
        let access = Access {
            kubeconfig: Some(server.kubeconfig().to_owned()),
            context: None,
        };
        let writer = Writer::new(&access).await?;
        lateen_load::fill(&writer, &mesh(), Progress::Hidden).await?;
        let lateend = lateend(server, server.kubeconfig(), &[]).await?;
        let measured = measure(server, &lateend, &writer).await;
        measured.with_context(|| lateend.log())?;

        lateen_load::clear(&writer, Progress::Hidden).await?;
        let left = lateen_load::run(&writer, &plan(String::new(), 1, MutualTls::default()), Progress::Hidden).await;
        ensure!(left.is_err_and(|error| error.to_string().contains("fill the cluster")));
        Ok(())
    })
    .await
}

async fn measure(server: &ApiServer, lateend: &Lateend, writer: &Writer) -> Result<()> {
    let plain = plan(lateend.plaintext().to_string(), 10, MutualTls::default());
    let report = lateen_load::run(writer, &plain, Progress::Hidden).await?;
    print!("{}", report.table());
    check(&report, 10)?;
    ensure!(lateen_load::svg(&report)?.contains(phase::CHURN));

    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
        kube::Api::namespaced(server.client().await?, "load-0");
    eventually("the namespace has the mesh's roots", PATIENCE, async || {
        maps.get_opt("istio-ca-root-cert").await.ok().flatten()
    })
    .await?;
    let mtls = MutualTls {
        enabled: true,
        ..MutualTls::default()
    };
    let secure = plan(lateend.secure().to_string(), 2, mtls);
    let report = lateen_load::run(writer, &secure, Progress::Hidden).await?;
    ensure!(report.mtls);
    check(&report, 2)
}
