//! What a mesh costs its control plane, in optimized builds, held to limits: memory, CPU, and the time from a change until
//! every sidecar has it. The API server, `lateend` and the load tool share this machine, which should do nothing else.
//!
//! Leaves a table, `report.md`, and how figures grow with the mesh, `growth.svg`, in `target/scale`. Those of the last run
//! that counted lie in `tests/long/scale`. `LATEEN_SCALE` names one case to run alone, without a report.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lateen_load::{Growth, Phase, Report, growth, phase};
use lateen_testkit::{ApiServer, Lateend};
use tokio::process::Command;

const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// Where `lateend` keeps what is its own.
const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}";

/// Endpoints of each service, whatever the number of sidecars: those beyond call and are not called.
const ENDPOINTS: usize = 2;

/// A mesh, and what it may cost.
struct Case {
    name: &'static str,
    services: usize,
    sidecars: usize,
    shape: &'static str,
    limits: Option<Limits>,
}

/// The most that things may cost.
#[derive(Clone, Copy)]
struct Limits {
    connect_cpu_seconds: f64,
    peak_mebibytes: f64,
    route_millis: f64,
    route_bytes: f64,
    endpoint_millis: f64,
    service_millis: f64,
    churn_millis: f64,
    /// Share of a core.
    churn_cpu: f64,
}

/// Of a thousand sidecars.
const THOUSAND: Limits = Limits {
    connect_cpu_seconds: 14.0,
    peak_mebibytes: 200.0,
    route_millis: 150.0,
    route_bytes: 4096.0,
    endpoint_millis: 150.0,
    service_millis: 250.0,
    churn_millis: 500.0,
    churn_cpu: 0.2,
};

/// Of twelve thousand.
const TWELVE_THOUSAND: Limits = Limits {
    connect_cpu_seconds: 170.0,
    peak_mebibytes: 1.2 * 1024.0,
    route_millis: 1500.0,
    route_bytes: 4096.0,
    endpoint_millis: 1500.0,
    service_millis: 2500.0,
    churn_millis: 2000.0,
    churn_cpu: f64::INFINITY,
};

/// Whatever there is to find out about a mesh like one of production may cost so much more.
const REAL: f64 = 1.5;

const CASES: &[Case] = &[
    plain("100 services", 100, 1_000, None),
    plain("1,000 sidecars", 1_000, 1_000, Some(THOUSAND)),
    plain("5,000 services", 5_000, 1_000, None),
    plain("4,000 sidecars", 1_000, 4_000, None),
    plain("12,000 sidecars", 1_000, 12_000, Some(TWELVE_THOUSAND)),
    real("1,000 sidecars, real", 1_000, THOUSAND),
    real("12,000 sidecars, real", 12_000, TWELVE_THOUSAND),
];

const fn plain(name: &'static str, services: usize, sidecars: usize, limits: Option<Limits>) -> Case {
    Case {
        name,
        services,
        sidecars,
        shape: "plain",
        limits,
    }
}

const fn real(name: &'static str, sidecars: usize, limits: Limits) -> Case {
    Case {
        name,
        services: 1_000,
        sidecars,
        shape: "real",
        limits: Some(limits),
    }
}

/// The programs that are measured, and that measure.
struct Programs {
    lateend: PathBuf,
    load: PathBuf,
}

/// A case that was run.
struct Done {
    case: &'static Case,
    report: Report,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_costs_no_more_than_its_limits() -> Result<()> {
    let only = std::env::var("LATEEN_SCALE").ok();
    let programs = build().await?;
    let (mut done, mut misses) = (Vec::new(), Vec::new());
    for case in CASES
        .iter()
        .filter(|case| only.as_ref().is_none_or(|only| only == case.name))
    {
        let Some(report) = measure(&programs, case).await.context(case.name)? else {
            return Ok(());
        };
        let one = Done { case, report };
        misses.extend(one.misses()?);
        done.push(one);
    }
    let cold = match &only {
        None => cold_start(&programs).await?,
        Some(_) => None,
    };
    if let Some(cold) = &cold {
        misses.extend(cold.misses());
        write(&done, cold)?;
    }
    ensure!(only.is_none() || !done.is_empty(), "no such case: {only:?}");
    ensure!(misses.is_empty(), "beyond the limits:\n{}", misses.join("\n"));
    Ok(())
}

/// Each by itself, as users build it: together they would share the features of what they depend on.
async fn build() -> Result<Programs> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for (package, program) in [("lateen-daemon", "lateend"), ("lateen-load", "lateen-load")] {
        let arguments = ["build", "--release", "--package", package, "--bin", program];
        let built = Command::new(&cargo).current_dir(root).args(arguments).status().await?;
        ensure!(built.success(), "{package} does not build");
    }
    // The test lies in `<target>/<profile>/deps/`.
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("the test lies nowhere")?;
    Ok(Programs {
        lateend: target.join("release/lateend"),
        load: target.join("release/lateen-load"),
    })
}

impl Programs {
    /// Runs the load tool; it shows how far it is.
    async fn load(&self, server: &ApiServer, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.load);
        command.arg(arguments[0]).arg("--kubeconfig").arg(server.kubeconfig());
        let status = command.args(&arguments[1..]).stdin(Stdio::null()).status().await?;
        ensure!(status.success(), "lateen-load {}: {status}", arguments.join(" "));
        Ok(())
    }

    async fn fill(&self, server: &ApiServer, services: usize, endpoints: usize, shape: &str) -> Result<()> {
        server.install_crds().await?;
        server.apply(NAMESPACE).await?;
        let routes = services / 10;
        let [services, endpoints, routes] = [services, endpoints, routes].map(|number| number.to_string());
        let mesh = [
            "fill",
            "--pods",
            "--services",
            &services,
            "--endpoints",
            &endpoints,
            "--routes",
            &routes,
            "--shape",
            shape,
        ];
        self.load(server, &mesh).await
    }

    async fn run(&self, server: &ApiServer, lateend: &Lateend, more: &[&str]) -> Result<Report> {
        let output = server.directory().join("report.json");
        let (target, pid) = (lateend.plaintext().to_string(), lateend.id().to_string());
        let place = output.display().to_string();
        let run = ["run", "--target", &target, "--pid", &pid, "--output", &place];
        self.load(server, &[&run, more].concat())
            .await
            .with_context(|| lateend.log())?;
        Ok(serde_json::from_slice(&std::fs::read(&output)?)?)
    }
}

async fn measure(programs: &Programs, case: &Case) -> Result<Option<Report>> {
    println!("── {} ──", case.name);
    let Some(server) = ApiServer::start().await? else {
        return Ok(None);
    };
    programs.fill(&server, case.services, ENDPOINTS, case.shape).await?;
    let lateend = Lateend::start_build(&programs.lateend, server.kubeconfig(), server.directory()).await?;
    let sidecars = case.sidecars.to_string();
    let run = ["--sidecars", &sidecars, "--churn-for", "60s"];
    programs.run(&server, &lateend, &run).await.map(Some)
}

// === impl Done ===

impl Done {
    fn phase(&self, name: &str) -> Result<&Phase> {
        self.report
            .phase(name)
            .with_context(|| format!("{}: no {name}", self.case.name))
    }

    fn p99(&self, name: &str) -> Result<f64> {
        let latency = self.phase(name)?.latency;
        Ok(latency
            .with_context(|| format!("{}: nothing of {name} arrived", self.case.name))?
            .p99)
    }

    /// Seconds of the server's CPU, for each time that it was done.
    fn cpu(&self, name: &str) -> Result<f64> {
        let phase = self.phase(name)?;
        let server = phase.server.context("the server was not measured")?;
        Ok(server.cpu_seconds / phase.times.max(1) as f64)
    }

    fn peak(&self) -> Result<f64> {
        let last = self.report.phases.last().and_then(|phase| phase.server);
        Ok(last.context("the server was not measured")?.peak as f64 / MEBIBYTE)
    }

    /// Bytes that one change sends to each sidecar.
    fn bytes(&self, name: &str) -> Result<f64> {
        let phase = self.phase(name)?;
        Ok(phase.bytes as f64 / phase.times.max(1) as f64 / self.case.sidecars as f64)
    }

    fn churn_cpu(&self) -> Result<f64> {
        let phase = self.phase(phase::CHURN)?;
        Ok(phase.server.context("the server was not measured")?.cpu_seconds / phase.seconds)
    }

    fn misses(&self) -> Result<Vec<String>> {
        let mut misses = Vec::new();
        let mut at_most = |what: &str, found: f64, limit: f64| {
            if found > limit {
                misses.push(format!("{}: {what} is {found:.1}, not {limit:.1}", self.case.name));
            }
        };
        // Whatever the size: nothing is lost, and what no proxy needs is not sent.
        at_most("streams that failed", self.report.stream_failures as f64, 0.0);
        at_most(
            "responses to an annotation",
            self.phase(phase::ANNOTATION)?.responses as f64,
            0.0,
        );
        for phase in &self.report.phases {
            at_most(&format!("what was missed of {}", phase.name), phase.missed as f64, 0.0);
        }
        if let Some(limits) = self.case.limits {
            let more = if self.case.shape == "real" { REAL } else { 1.0 };
            for (what, found, limit) in [
                (
                    "CPU to connect, seconds,",
                    self.cpu(phase::CONNECT)?,
                    limits.connect_cpu_seconds,
                ),
                ("peak of memory, MiB,", self.peak()?, limits.peak_mebibytes),
                ("p99 of a route, ms,", self.p99(phase::ROUTE)?, limits.route_millis),
                ("bytes of a route", self.bytes(phase::ROUTE)?, limits.route_bytes),
                (
                    "p99 of an endpoint, ms,",
                    self.p99(phase::ENDPOINT)?,
                    limits.endpoint_millis,
                ),
                (
                    "p99 of a service, ms,",
                    self.p99(phase::SERVICE)?,
                    limits.service_millis,
                ),
                ("p99 of churn, ms,", self.p99(phase::CHURN)?, limits.churn_millis),
                ("CPU of churn, cores,", self.churn_cpu()?, limits.churn_cpu),
            ] {
                at_most(what, found, limit * more);
            }
        }
        Ok(misses)
    }

    fn row(&self) -> Result<String> {
        let resident = self.report.resident_before.unwrap_or_default() as f64 / MEBIBYTE;
        let connect = self.phase(phase::CONNECT)?;
        let backlog = self.phase(phase::CHURN)?.backlog.unwrap_or_default();
        Ok(format!(
            "| {} | {:.0} s, {:.1} s | {resident:.0}, {:.0} MiB | {:.0} ms, {:.2} s, {:.1} KiB | {:.0} ms | {:.0} ms | {:.0} ms, {:.0} ms, {:.0} % | {} |",
            self.case.name,
            connect.seconds,
            self.cpu(phase::CONNECT)?,
            self.peak()?,
            self.p99(phase::ROUTE)?,
            self.cpu(phase::ROUTE)?,
            self.bytes(phase::ROUTE)? / 1024.0,
            self.p99(phase::ENDPOINT)?,
            self.p99(phase::SERVICE)?,
            self.p99(phase::CHURN)?,
            backlog,
            self.churn_cpu()? * 100.0,
            self.report.stream_failures,
        ))
    }
}

/// A start with a large mesh already there.
struct Cold {
    /// Until it serves.
    ready: Duration,
    /// From then until a sidecar has its first configuration.
    first: Duration,
    peak_mebibytes: f64,
}

const COLD_SERVICES: usize = 2_000;
const COLD_PODS: usize = 20_000;
const COLD_LIMIT: Duration = Duration::from_secs(10);
const COLD_MEBIBYTES: f64 = 400.0;

async fn cold_start(programs: &Programs) -> Result<Option<Cold>> {
    println!("── cold start ──");
    let Some(server) = ApiServer::start().await? else {
        return Ok(None);
    };
    programs
        .fill(&server, COLD_SERVICES, COLD_PODS / COLD_SERVICES, "plain")
        .await?;
    let began = Instant::now();
    let lateend = Lateend::start_build(&programs.lateend, server.kubeconfig(), server.directory()).await?;
    let ready = began.elapsed();
    let one = ["--sidecars", "1", "--rounds", "1", "--churn", "0"];
    let report = programs.run(&server, &lateend, &one).await?;
    let connect = report.phase(phase::CONNECT).context("it did not connect")?;
    let first = connect.latency.context("it got nothing")?.max;
    let server = connect.server.context("the server was not measured")?;
    Ok(Some(Cold {
        ready,
        first: Duration::from_secs_f64(first / 1e3),
        peak_mebibytes: server.peak as f64 / MEBIBYTE,
    }))
}

impl Cold {
    fn misses(&self) -> Vec<String> {
        let mut misses = Vec::new();
        let took = self.ready + self.first;
        if took > COLD_LIMIT {
            misses.push(format!("a cold start took {took:?}, not {COLD_LIMIT:?}"));
        }
        if self.peak_mebibytes > COLD_MEBIBYTES {
            misses.push(format!(
                "a cold start took {:.0} MiB, not {COLD_MEBIBYTES}",
                self.peak_mebibytes
            ));
        }
        misses
    }
}

fn write(done: &[Done], cold: &Cold) -> Result<()> {
    let mut text = String::from(
        "| | connect: wall, CPU | resident: before, peak | route: p99, CPU, sent to each | endpoint: p99 | service: p99 | churn: p99, backlog, CPU | failed |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for one in done {
        text += &one.row()?;
        text.push('\n');
    }
    writeln!(
        text,
        "\nCold start with {COLD_PODS} pods and {COLD_SERVICES} services: ready after {:.1} s, the first sidecar has its configuration {:.2} s later, peak {:.0} MiB.",
        cold.ready.as_secs_f64(),
        cold.first.as_secs_f64(),
        cold.peak_mebibytes,
    )?;
    print!("{text}");
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("the test lies nowhere")?;
    let folder = target.join("scale");
    std::fs::create_dir_all(&folder)?;
    save(&folder, "report.md", &text)?;
    save(&folder, "growth.svg", &growth(&measures(done)?)?)
}

fn save(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// How memory, and the CPU of a changed route, grow with sidecars and with services.
fn measures(done: &[Done]) -> Result<Vec<Growth>> {
    type Size = fn(&Case) -> usize;
    let sizes: [(&str, Size, Size); 2] = [
        ("sidecars", |case| case.sidecars, |case| case.services),
        ("services", |case| case.services, |case| case.sidecars),
    ];
    let mut measures = Vec::new();
    for (size, of, other) in sizes {
        let mut same: Vec<&Done> = done.iter().collect();
        same.retain(|one| one.case.shape == "plain" && other(one.case) == 1_000);
        same.sort_by_key(|one| of(one.case));
        let mut measure = |name: &str, value: &dyn Fn(&Done) -> Result<f64>| -> Result<()> {
            let points = same.iter().map(|one| Ok((of(one.case) as f64, value(one)?)));
            measures.push(Growth {
                measure: name.to_owned(),
                size: size.to_owned(),
                points: points.collect::<Result<_>>()?,
            });
            Ok(())
        };
        measure("peak of resident memory, MiB", &Done::peak)?;
        measure("CPU to push a changed route, ms", &|one| {
            Ok(one.cpu(phase::ROUTE)? * 1e3)
        })?;
    }
    Ok(measures)
}
