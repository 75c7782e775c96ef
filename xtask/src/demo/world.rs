//! The running mesh: the control plane, and for each workload a network namespace with its agent, Envoy and service.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::control;
use super::forward;
use super::ground::{Ground, asks_at};
use super::http::{self, Answer};
use super::net::{self, Place};
use super::plan::{Part, Workload, cast};
use super::process::{self, Process};

/// Envoy's admin port inside each namespace.
const ADMIN: u16 = 15000;
/// The agent's readiness inside each namespace.
const READY: u16 = 15021;

/// Everything that runs. Dropping it ends all of it.
pub(super) struct World {
    dir: PathBuf,
    ground: Ground,
    lateend: Option<Process>,
    pub(super) workloads: Vec<Running>,
}

/// One workload.
pub(super) struct Running {
    pub(super) workload: Workload,
    pub(super) place: Place,
    /// Where its own ports are, as seen from there.
    local: Ipv4Addr,
    /// Absent once it was let go.
    pub(super) agent: Option<Process>,
    pub(super) app: Option<Process>,
}

impl World {
    /// Nothing yet.
    pub(super) fn empty(dir: PathBuf, ground: Ground) -> Self {
        Self {
            dir,
            ground,
            lateend: None,
            workloads: Vec::new(),
        }
    }

    /// How workloads are set apart, to end a sentence with.
    pub(super) fn apart(&self) -> &'static str {
        match self.ground {
            Ground::Loopback(_) => "on a loopback address of its own",
            Ground::Namespaces | Ground::OneUser => "in a network namespace of its own",
        }
    }

    /// A file of the running configuration.
    pub(super) fn config(&self, name: &str) -> PathBuf {
        self.dir.join("config").join(name)
    }

    fn logs(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Starts the control plane; it is not ready yet.
    ///
    /// # Errors
    /// When the network cannot be prepared or the program cannot be started.
    pub(super) fn start_control_plane(&mut self) -> Result<()> {
        if !matches!(self.ground, Ground::Loopback(_)) {
            net::prepare()?;
            net::resolve_as("shop", &self.dir.join("resolv.conf"))?;
        }
        self.lateend = Some(Process::start(
            "lateend",
            &mut control::lateend(&self.dir, self.ground),
            &self.logs(),
            &Place::Here,
        )?);
        Ok(())
    }

    /// Whether the control plane says it is ready.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn control_plane_ready(&self) -> Result<()> {
        let answer = http::get(control::http_address(self.ground), "lateend", "/ready")?;
        if answer.status != 200 {
            bail!("lateend's /ready answers {}", answer.status);
        }
        Ok(())
    }

    /// Asks one of the control plane's pages.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub(super) fn ask_control_plane(&self, path: &str) -> Result<String> {
        let answer = http::get(control::http_address(self.ground), "lateend", path)?;
        if answer.status != 200 {
            bail!("lateend's {path} answers {}", answer.status);
        }
        Ok(answer.body)
    }

    /// Makes every workload's namespace and starts its agent, which starts its Envoy.
    ///
    /// # Errors
    /// When any of it fails.
    pub(super) fn start_proxies(&mut self, short_lived: &str) -> Result<()> {
        control::hand_out_root(&self.dir)?;
        for (index, workload) in cast(&self.config("pods.yaml"))?.into_iter().enumerate() {
            let pod = workload.pod.clone();
            let ttl = (workload.app() == short_lived).then_some("60s");
            let running = self
                .start_proxy(index, workload, ttl)
                .with_context(|| format!("cannot start the proxy of {pod}"))?;
            self.workloads.push(running);
        }
        Ok(())
    }

    fn start_proxy(&self, index: usize, workload: Workload, ttl: Option<&str>) -> Result<Running> {
        let place = match self.ground {
            Ground::Loopback(_) => Place::Here,
            Ground::Namespaces | Ground::OneUser => net::add(&workload.pod, index, workload.ip)?,
        };
        if workload.part != Part::Gateway {
            for mut command in control::interception(&self.dir, self.ground) {
                run(&mut command, &place).context("cannot redirect its traffic")?;
            }
        }
        // A short name: the paths of sockets below it must not pass 107 bytes.
        let root = self.dir.join("pod").join(index.to_string());
        fs::create_dir(&root).with_context(|| format!("cannot make {}", root.display()))?;
        fs::write(root.join("token"), control::token(&self.dir, &workload)?).context("cannot write its token")?;
        for path in [&root, &root.join("token")] {
            self.ground.give_to_proxy(path)?;
        }
        let name = format!("agent-{}", workload.pod);
        let agent = Process::start(
            &name,
            &mut control::agent(&self.dir, &workload, &root, self.ground, ttl),
            &self.logs(),
            &place,
        )?;
        Ok(Running {
            local: self.ground.local(workload.ip),
            workload,
            place,
            agent: Some(agent),
            app: None,
        })
    }

    /// Whether every proxy is ready for traffic.
    ///
    /// # Errors
    /// Names the first that is not.
    pub(super) fn proxies_ready(&self) -> Result<()> {
        for running in &self.workloads {
            running
                .ready()
                .with_context(|| format!("{} is not ready", running.workload.pod))?;
        }
        Ok(())
    }

    /// Starts the services behind their proxies.
    ///
    /// # Errors
    /// When one cannot be started.
    pub(super) fn start_services(&mut self) -> Result<()> {
        let logs = self.logs();
        for running in &mut self.workloads {
            let Part::Service { args, .. } = &running.workload.part else {
                continue;
            };
            let mut command = shop(&self.dir, &running.workload, args, self.ground);
            let name = format!("shop-{}", running.workload.pod);
            running.app = Some(Process::start(&name, &mut command, &logs, &running.place)?);
        }
        Ok(())
    }

    /// Whether every service accepts connections.
    ///
    /// # Errors
    /// Names the first that does not.
    pub(super) fn services_ready(&self) -> Result<()> {
        for running in &self.workloads {
            let Part::Service { port, .. } = running.workload.part else {
                continue;
            };
            let address = SocketAddr::from((running.local, self.ground.service_port(port)));
            let connected = running.place.within(|| std::net::TcpStream::connect(address))?;
            connected.with_context(|| format!("{} does not listen on {port}", running.workload.pod))?;
        }
        Ok(())
    }

    /// Starts the driver; its lines come out of the pipe returned.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start_driver(&mut self, rate: u32) -> Result<ChildStdout> {
        let logs = self.logs();
        for running in &mut self.workloads {
            let Part::Driver { args } = &running.workload.part else {
                continue;
            };
            let mut command = shop(&self.dir, &running.workload, args, self.ground);
            command.args(["--rate", &rate.to_string()]);
            let (process, lines) = Process::start_piped("shop-traffic", &mut command, &logs, &running.place)?;
            running.app = Some(process);
            return Ok(lines);
        }
        bail!("the sample has no Pod that drives load")
    }

    /// The workload of the service `app`; the last one where there are several.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn find(&self, app: &str) -> Result<&Running> {
        self.workloads
            .iter()
            .rev()
            .find(|running| running.workload.app() == app)
            .with_context(|| format!("the sample has no {app}"))
    }

    /// As `find`, to change it.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn find_mut(&mut self, app: &str) -> Result<&mut Running> {
        let found = self
            .workloads
            .iter_mut()
            .rev()
            .find(|running| running.workload.app() == app);
        found.with_context(|| format!("the sample has no {app}"))
    }

    /// Whether all that was started still runs.
    ///
    /// # Errors
    /// Names what has ended, with its last words.
    pub(super) fn all_alive(&mut self) -> Result<()> {
        let running = self
            .workloads
            .iter_mut()
            .flat_map(|running| [&mut running.agent, &mut running.app]);
        for process in running.flatten().chain(&mut self.lateend) {
            if let Some(status) = process.ended() {
                bail!("{} has ended ({status})\n{}", process.name, process.last_words());
            }
        }
        Ok(())
    }

    /// Resident memory of the control plane and, in the middle, of an agent, in bytes.
    pub(super) fn memory(&self) -> (u64, u64) {
        let lateend = self.lateend.as_ref().and_then(Process::resident).unwrap_or(0);
        let mut agents: Vec<u64> = self
            .workloads
            .iter()
            .filter_map(|running| running.agent.as_ref())
            .filter_map(Process::resident)
            .collect();
        agents.sort_unstable();
        (lateend, agents.get(agents.len() / 2).copied().unwrap_or(0))
    }

    /// Opens the inner end of a forwarded port; not for a proxy that has gone.
    ///
    /// # Errors
    /// When the name means nothing here, or the socket cannot be made.
    pub(super) fn forward(&self, name: &str) -> Result<bool> {
        let control = forward::CONTROL.iter().find(|(known, _)| *known == name);
        let (place, address) = if let Some((_, port)) = control {
            (&Place::Here, (self.ground.control_plane(), *port).into())
        } else if name == "gateway" {
            let gateway = self
                .workloads
                .iter()
                .find(|running| running.workload.part == Part::Gateway);
            (&Place::Here, (gateway.context("no gateway")?.workload.ip, 8080).into())
        } else {
            let running = self.workloads.iter().find(|running| running.workload.pod == name);
            let running = running.with_context(|| format!("no {name}"))?;
            if running.agent.is_none() {
                return Ok(false);
            }
            (&running.place, (running.local, ADMIN).into())
        };
        forward::serve_inside(&self.dir, name, place, address)?;
        Ok(true)
    }

    /// Copies the logs to where they outlive the demo, and says where.
    pub(super) fn keep_logs(&self) {
        let to = std::env::temp_dir().join(format!("lateen-demo-logs-{}", super::traffic::now()));
        let copied = fs::create_dir(&to).and_then(|()| {
            for entry in fs::read_dir(self.logs())? {
                let path = entry?.path();
                fs::copy(&path, to.join(path.file_name().unwrap_or_default()))?;
            }
            Ok(())
        });
        match copied {
            Ok(()) => println!("logs: {}", to.display()),
            Err(error) => println!("the logs could not be kept: {error}"),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.workloads.clear();
        self.lateend = None;
        process::end_children();
    }
}

impl Running {
    fn ready(&self) -> Result<()> {
        let answer = self.ask(READY, "/healthz/ready")?;
        if answer.status != 200 {
            bail!("readiness answers {}: {}", answer.status, answer.body.trim());
        }
        Ok(())
    }

    /// Asks a port of the namespace's loopback.
    ///
    /// # Errors
    /// When nobody answers.
    pub(super) fn ask(&self, port: u16, path: &str) -> Result<Answer> {
        self.place
            .within(|| http::get((self.local, port).into(), "localhost", path))?
    }

    /// Serial number of the certificate that Envoy uses for the workload's identity.
    ///
    /// # Errors
    /// When Envoy does not tell, or has no such certificate.
    pub(super) fn serial(&self) -> Result<String> {
        let certs: Value =
            serde_json::from_str(&self.ask(ADMIN, "/certs")?.body).context("Envoy's /certs is no JSON")?;
        let identity = self.workload.identity();
        let chains = certs["certificates"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|entry| entry["cert_chain"].as_array().into_iter().flatten());
        let own = |cert: &&Value| {
            cert["subject_alt_names"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|name| name["uri"] == identity)
        };
        let found = chains
            .into_iter()
            .find(own)
            .and_then(|cert| cert["serial_number"].as_str());
        found
            .map(str::to_owned)
            .with_context(|| format!("Envoy has no certificate for {identity}"))
    }

    /// The sum of Envoy's counters whose names pass `keep`.
    ///
    /// # Errors
    /// When Envoy does not tell.
    pub(super) fn counters(&self, keep: impl Fn(&str) -> bool) -> Result<u64> {
        let answer = self.ask(ADMIN, "/stats")?;
        let lines = answer.body.lines().filter_map(|line| line.rsplit_once(": "));
        Ok(lines
            .filter(|(name, _)| keep(name))
            .filter_map(|(_, value)| value.parse::<u64>().ok())
            .sum())
    }
}

fn shop(dir: &Path, workload: &Workload, args: &[String], ground: Ground) -> Command {
    let mut command = Command::new(dir.join("bin/shop"));
    command
        .args(args)
        .env("POD_NAME", &workload.pod)
        .env("APP_VERSION", workload.version());
    if let Ground::Loopback(_) = ground {
        command.env("RESOLVE_TO", asks_at(workload.ip).to_string());
        if let Part::Service { port, .. } = workload.part {
            command.args([
                "--listen",
                &SocketAddr::from((workload.ip, ground.service_port(port))).to_string(),
            ]);
        }
    }
    ground.as_service(&mut command);
    command
}

fn run(command: &mut Command, place: &Place) -> Result<()> {
    let output = place
        .within(|| command.output())?
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{} failed: {}",
            command.get_program().display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
