//! `lateen explain`: what happens to a request, from the caller's proxy to the application, and which object decides it.
//!
//! The proxies' configuration is compiled as the server does it, and a simulator of Envoy follows the request through it.
//! Nothing is sent anywhere: files are enough, or a cluster that may be read.

mod held;
mod journey;
mod names;
mod target;
mod text;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lateen_sources::file::Severity;

use crate::print::Output;
use crate::render::{Inputs, World};
use journey::Question;
use target::Target;

/// What the exit codes mean.
pub(crate) const EXIT_CODES: &str = "Exit codes: 0 the request reaches an application, or leaves the mesh; 1 it cannot \
    be told (no such pod, files that cannot be read); 2 the command line is wrong; 3 nobody gets the request: it is refused, \
    or a proxy answers it with an error.";

/// How long a cluster may take to tell what it holds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The options of `lateen explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The caller: a pod with a sidecar; or a gateway's pod, to which the request then comes from outside
    #[arg(long, value_name = "POD.NAMESPACE")]
    from: String,

    /// What is asked for: http, https, grpc, tcp or tls, e.g. http://reviews:9080/reviews/1
    #[arg(long, value_name = "URL")]
    to: Target,

    /// A header of the request; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,

    /// The request's method
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: String,

    /// The address that the host has, where DNS outside of the mesh would tell
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,

    /// The client's address, of a request that comes to a gateway
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,

    /// File or directory of YAML with the cluster's objects; repeatable. Without any, the cluster is read
    #[arg(short, long = "file", value_name = "FILE")]
    file: Vec<PathBuf>,

    /// File with MeshConfig, in place of what the ConfigMap `istio` says
    #[arg(long, value_name = "FILE", requires = "file")]
    mesh_config: Option<PathBuf>,

    /// Kubeconfig of the cluster that is read; kubectl's own where none is named
    #[arg(long, value_name = "FILE", env = "KUBECONFIG", conflicts_with = "file")]
    kubeconfig: Option<PathBuf>,

    #[command(flatten)]
    output: Output,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or("write it as NAME=VALUE, e.g. end-user=jason")?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(format!("`{name}` is no name of a header"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

impl Args {
    /// Reads, simulates, tells.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let world = self.world()?;
        let journey = journey::follow(
            &world,
            &Question {
                from: self.from,
                target: self.to,
                method: self.method,
                headers: self.header,
                address: self.address,
                client: self.client,
            },
        )?;
        let value = serde_json::to_value(&journey)?;
        self.output.write(&value, || text::of(&journey))?;
        Ok(if journey.arrives() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(3)
        })
    }

    fn world(&self) -> Result<World> {
        if self.file.is_empty() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let usual = || {
                std::env::home_dir()
                    .map(|home| home.join(".kube/config"))
                    .filter(|path| path.exists())
            };
            let kubeconfig = self.kubeconfig.clone().or_else(usual);
            let read = World::of_cluster(kubeconfig.as_deref(), PATIENCE);
            return runtime
                .block_on(read)
                .context("cannot read the cluster; name files with -f to do without");
        }
        let world = World::load(&Inputs {
            files: self.file.clone(),
            mesh_config: self.mesh_config.clone(),
            ..Inputs::default()
        })?;
        for problem in world.problems().iter().filter(|one| one.severity == Severity::Error) {
            eprintln!("error: {problem}");
        }
        // An object that is refused is not in the cluster; a file that cannot be read leaves open what is.
        if world
            .problems()
            .iter()
            .any(|problem| problem.severity == Severity::Error && problem.object.is_none())
        {
            bail!("not everything could be read; correct the files named above");
        }
        Ok(world)
    }
}
