//! A run: sidecars connect, the mesh is changed, and what comes of it is measured.

mod churn;
mod meter;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use tokio::time::{sleep, sleep_until};

use crate::fill::write;
use crate::fleet::Fleet;
use crate::identity::{self, MutualTls};
use crate::mesh::Mesh;
use crate::process::{Sampler, raise_open_files, usage};
use crate::progress::Progress;
use crate::report::{Phase, Report};
use crate::sidecar::connection::Connection;
use crate::sidecar::node::node;
use crate::writer::Writer;
use meter::Meter;

/// The names of the phases in a [`Report`].
pub mod phase {
    /// Sidecars connect, until each has its first configuration.
    pub const CONNECT: &str = "connect";
    /// Nothing is changed.
    pub const IDLE: &str = "idle";
    /// A VirtualService is changed.
    pub const ROUTE: &str = "route changed";
    /// An EndpointSlice gets an endpoint.
    pub const ENDPOINT: &str = "endpoint added";
    /// A Service is made.
    pub const SERVICE: &str = "service added";
    /// An EndpointSlice gets an annotation, which no proxy needs to know.
    pub const ANNOTATION: &str = "annotation changed";
    /// EndpointSlices are changed again and again.
    pub const CHURN: &str = "churn";
}

/// The longest wait for rest, between changes.
const REST: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// The control plane's ADS: port 15010 without TLS, 15012 with --mtls
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15010")]
    pub target: String,
    /// How many sidecars to play
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    pub sidecars: usize,
    /// Sidecars that connect each second; 0 is all at once, which a control plane may refuse to one address
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    pub ramp: u32,
    /// Sidecars that share a TCP connection; real ones share none
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub streams_per_connection: usize,
    /// The control plane's process on this machine, to measure its CPU and memory
    #[arg(long)]
    pub pid: Option<u32>,
    /// How often each change is made
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    pub rounds: usize,
    /// EndpointSlices that churn changes each second; 0 is no churn
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub churn: u32,
    /// How long churn lasts
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub churn_for: Duration,
    /// How long nothing is done in phase idle, and after an annotation was changed
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    pub idle: Duration,
    /// How long no response comes when a change is over
    #[arg(long, value_name = "TIME", default_value = "1500ms", value_parser = humantime::parse_duration)]
    pub quiet: Duration,
    /// The longest wait for all sidecars, in each phase
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    pub limit: Duration,
    /// How sidecars prove themselves
    #[command(flatten)]
    pub mtls: MutualTls,
}

/// What all phases of a run need.
struct Run<'a> {
    writer: &'a Writer,
    mesh: &'a Mesh,
    plan: &'a Plan,
    fleet: Fleet,
    progress: Progress,
    /// Tells the marks of this run from those of an earlier one.
    stamp: u32,
}

/// Plays sidecars and changes the mesh that `writer`'s cluster was filled with; afterwards the mesh is as before.
///
/// # Errors
/// When the cluster was not filled, certificates cannot be had, or a change cannot be written. Sidecars that fail, or do
/// not get what they should, are no error: the report counts them.
pub async fn run(writer: &Writer, plan: &Plan, progress: Progress) -> Result<Report> {
    let mesh = Mesh::read(writer).await?;
    check(plan)?;
    let before = plan.pid.map(usage).transpose()?;
    let sampler = plan.pid.map(Sampler::start);
    let mut run = Run {
        writer,
        mesh: &mesh,
        plan,
        fleet: Fleet::new(plan.sidecars),
        progress,
        stamp: stamp(),
    };
    run.restore().await?;
    let own = usage(std::process::id()).unwrap_or_default().resident;
    let mut phases = vec![run.connect().await?, run.idle().await?];
    let held = usage(std::process::id())
        .unwrap_or_default()
        .resident
        .saturating_sub(own);
    phases.push(run.routes().await?);
    phases.push(run.endpoints().await?);
    phases.push(run.services().await?);
    phases.push(run.annotations().await?);
    if plan.churn > 0 && !plan.churn_for.is_zero() {
        phases.push(run.churn().await?);
    }
    run.restore().await?;
    let (stream_failures, last_failure) = run.fleet.failures();
    Ok(Report {
        target: plan.target.clone(),
        mtls: plan.mtls.enabled,
        sidecars: plan.sidecars,
        resident_before: before.map(|usage| usage.resident),
        phases,
        stream_failures,
        last_failure,
        client_bytes_per_sidecar: held / plan.sidecars.max(1) as u64,
        memory: sampler.map(|sampler| sampler.samples()).unwrap_or_default(),
        mesh,
    })
}

fn check(plan: &Plan) -> Result<()> {
    if plan.sidecars == 0 || plan.streams_per_connection == 0 || plan.rounds == 0 {
        bail!("--sidecars, --streams-per-connection and --rounds must be at least 1");
    }
    if plan.rounds > ADDED {
        bail!("--rounds must be at most {ADDED}");
    }
    // Besides the sidecars' connections: the API server's, the CA's, and files.
    let (files, needed) = (
        raise_open_files()?,
        plan.sidecars.div_ceil(plan.streams_per_connection) as u64 + 64,
    );
    if files < needed {
        bail!("this process may open {files} files and needs {needed}: raise the hard limit, `ulimit -Hn {needed}`");
    }
    Ok(())
}

fn stamp() -> u32 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u32::try_from(since.as_secs() % 1_000_000).unwrap_or_default()
}

/// The most services that a run adds.
const ADDED: usize = 100;

/// The name of an added service; none begins as another does.
fn added(round: usize) -> String {
    format!("added-{round:03}")
}

/// The address that marks a change of endpoints. All are equally long, so that none begins as another does, and lie
/// outside of what instances and Services have.
fn marking_address(stamp: u32, number: usize) -> String {
    let (high, low) = (100 + number / 150 % 150, 100 + number % 150);
    format!("10.{}.{high}.{low}", 32 + stamp % 32)
}

// === impl Run ===

impl Run<'_> {
    async fn connect(&mut self) -> Result<Phase> {
        let (plan, mesh) = (self.plan, self.mesh);
        let targets = identity::targets(self.writer, mesh, &plan.target, &plan.mtls).await?;
        let step = self.progress.step("sidecars connect", Some(plan.sidecars));
        let meter = Meter::start(&self.fleet, plan.pid, phase::CONNECT)?;
        let began = tokio::time::Instant::now();
        let mut shared = std::collections::BTreeMap::new();
        for number in 0..plan.sidecars {
            if plan.ramp > 0 {
                sleep_until(began + Duration::from_secs(1) * u32::try_from(number)? / plan.ramp).await;
            }
            let instance = mesh.instance(number);
            let namespace = instance.namespace();
            let target = targets.get(&namespace).cloned();
            // Those that share a connection share its certificate.
            let (connection, uses) = shared
                .entry(namespace)
                .or_insert_with(|| (None::<Arc<Connection>>, plan.streams_per_connection));
            if *uses >= plan.streams_per_connection {
                *connection = target.map(|target| Arc::new(Connection::new(target)));
                *uses = 0;
            }
            *uses += 1;
            if let Some(connection) = connection.clone() {
                self.fleet.start(number, connection, node(&instance)?);
            }
            step.at(self.fleet.ready());
        }
        self.fleet.all_ready(plan.limit, |ready| step.at(ready)).await;
        let seconds = began.elapsed().as_secs_f64();
        self.fleet.quiet(plan.quiet, REST).await;
        let arrivals = self.fleet.ready_after();
        let mut phase = meter.stop(&self.fleet, 1, arrivals)?;
        // Waiting for rest is not connecting.
        phase.seconds = seconds;
        phase.missed = plan.sidecars - self.fleet.ready();
        step.done(&format!("{} of {}", self.fleet.ready(), plan.sidecars));
        Ok(phase)
    }

    async fn idle(&self) -> Result<Phase> {
        let step = self.progress.step(phase::IDLE, None);
        let meter = Meter::start(&self.fleet, self.plan.pid, phase::IDLE)?;
        sleep(self.plan.idle).await;
        step.done("");
        meter.stop(&self.fleet, 1, Vec::new())
    }

    async fn routes(&self) -> Result<Phase> {
        self.change(phase::ROUTE, |round| {
            let mark = format!("mark-{:06}-{round:03}", self.stamp);
            let object = self.mesh.route(round % self.mesh.routes, Some(&mark));
            (mark, async move { self.writer.apply(&object).await })
        })
        .await
    }

    async fn endpoints(&self) -> Result<Phase> {
        self.change(phase::ENDPOINT, |round| {
            let mark = marking_address(self.stamp, round);
            let object = self.mesh.endpoints(self.plain_service(round), Some(&mark));
            (mark, async move { self.writer.apply(&object).await })
        })
        .await
    }

    async fn services(&self) -> Result<Phase> {
        self.change(phase::SERVICE, |round| {
            let name = added(round);
            let object = self.mesh.added_service(0, &name);
            (name, async move { self.writer.apply(&object).await })
        })
        .await
    }

    /// Makes a change again and again, each time when the one before is over. The change says by which text it is known.
    async fn change<F>(&self, name: &str, change: impl Fn(usize) -> (String, F)) -> Result<Phase>
    where
        F: Future<Output = Result<()>>,
    {
        let step = self.progress.step(name, Some(self.plan.rounds));
        let meter = Meter::start(&self.fleet, self.plan.pid, name)?;
        let (mut arrivals, mut missed) = (Vec::new(), 0);
        for round in 0..self.plan.rounds {
            let (mark, write) = change(round);
            let watch = self.fleet.watch(&mark);
            write.await?;
            watch.all(self.plan.limit).await;
            self.fleet.quiet(self.plan.quiet, REST).await;
            self.fleet.unwatch(&watch);
            arrivals.extend(watch.millis());
            missed += watch.missing();
            step.advance();
        }
        let mut phase = meter.stop(&self.fleet, self.plan.rounds, arrivals)?;
        phase.missed = missed;
        step.done(
            &phase
                .latency
                .map_or_else(String::new, |found| format!("p99 {:.1} ms", found.p99)),
        );
        Ok(phase)
    }

    async fn annotations(&self) -> Result<Phase> {
        let step = self.progress.step(phase::ANNOTATION, Some(self.plan.rounds));
        let meter = Meter::start(&self.fleet, self.plan.pid, phase::ANNOTATION)?;
        for round in 0..self.plan.rounds {
            // With the endpoint that was added last, so that nothing else changes.
            let last = self.plan.rounds - 1;
            let mark = marking_address(self.stamp, last);
            let mut object = self.mesh.endpoints(self.plain_service(last), Some(&mark));
            object["metadata"]["annotations"] = serde_json::json!({"lateen.dev/touched": round.to_string()});
            self.writer.apply(&object).await?;
            sleep(self.plan.idle).await;
            step.advance();
        }
        let phase = meter.stop(&self.fleet, self.plan.rounds, Vec::new())?;
        step.done(&format!("{} responses", phase.responses));
        Ok(phase)
    }

    /// A service whose endpoints are sent as endpoints: those of headless ones are parts of listeners.
    fn plain_service(&self, number: usize) -> usize {
        let service = number % self.mesh.services;
        if self.mesh.is_headless(service) {
            service - 1
        } else {
            service
        }
    }

    /// Takes back what a run changes, this one or one that was ended.
    async fn restore(&self) -> Result<()> {
        let namespace = self.mesh.namespace_of(0);
        for round in 0..self.plan.rounds {
            self.writer.delete("Service", Some(&namespace), &added(round)).await?;
        }
        let churned = if self.plan.churn == 0 { 0 } else { self.changes() };
        let touched = self.mesh.services.min(churned.max(self.plan.rounds));
        let routes = (0..self.plan.rounds.min(self.mesh.routes)).map(|service| self.mesh.route(service, None));
        let endpoints = (0..touched).map(|service| self.mesh.endpoints(service, None));
        write(self.writer, routes.chain(endpoints), || ()).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_mark_begins_as_another_does() {
        let addresses: BTreeSet<String> = (0..22_500).map(|number| marking_address(7, number)).collect();
        assert_eq!(addresses.len(), 22_500);
        assert!(addresses.iter().all(|address| address.len() == "10.39.100.100".len()));
        assert_eq!(added(3).len(), added(ADDED - 1).len());
    }
}
