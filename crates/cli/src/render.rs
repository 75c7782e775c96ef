//! `lateen render`: what proxies would get, with no server running.
//!
//! The path is the server's: files are read by `lateen-sources`, lowered by `lateen-lower`, and compiled by
//! `lateen-compile`. What comes out is what a proxy asks for: the endpoints of its EDS clusters, the route tables that its
//! listeners name, the secrets' names (never their content).

mod output;
mod world;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ArgGroup;
use lateen_model::Proxy;
use lateen_names::ClusterId;
use lateen_sources::file::Severity;

pub use output::{Rendered, render, write_json};
pub use world::{Inputs, World};

/// The options of `lateen render`.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("proxies").args(["proxy", "node"]).required(true).multiple(true))]
pub struct Args {
    /// File or directory of YAML with the cluster's objects; repeatable, a later one counts before an earlier one
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    file: Vec<PathBuf>,

    /// File with MeshConfig, in place of what the ConfigMap `istio` says
    #[arg(long, value_name = "FILE")]
    mesh_config: Option<PathBuf>,

    /// File with MeshNetworks, in place of what the ConfigMap `istio` says
    #[arg(long, value_name = "FILE")]
    mesh_networks: Option<PathBuf>,

    /// File or directory with the objects of another cluster; repeatable
    #[arg(long, value_name = "ID=FILE", value_parser = remote_cluster)]
    remote_cluster: Vec<(ClusterId, PathBuf)>,

    /// File with environment variables of the control plane, `NAME: "value"`
    #[arg(long, value_name = "FILE")]
    env: Option<PathBuf>,

    /// Keep objects that admission would refuse
    #[arg(long)]
    keep_rejected: bool,

    /// The proxy of a pod among the objects; repeatable
    #[arg(long, value_name = "POD.NAMESPACE")]
    proxy: Vec<String>,

    /// File with the Node that a proxy sends, as JSON; repeatable
    #[arg(long, value_name = "FILE")]
    node: Vec<PathBuf>,

    /// Directory to write to; made if it is not there
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

fn remote_cluster(text: &str) -> Result<(ClusterId, PathBuf), String> {
    let (id, file) = text
        .split_once('=')
        .ok_or("write it as ID=FILE, e.g. remote1=remote1.yaml")?;
    let id = ClusterId::new(id).map_err(|error| error.to_string())?;
    Ok((id, PathBuf::from(file)))
}

impl Args {
    /// Reads, compiles, writes.
    pub(crate) fn run(self) -> Result<()> {
        let world = World::load(&Inputs {
            files: self.file,
            mesh_config: self.mesh_config,
            mesh_networks: self.mesh_networks,
            remote_clusters: self.remote_cluster,
            environment: self.env,
            keep_rejected: self.keep_rejected,
        })?;
        for problem in world.problems() {
            let severity = match problem.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Notice => "note",
            };
            eprintln!("{severity}: {problem}");
        }
        // An object that is refused is not in the cluster; a file that cannot be read leaves open what is.
        if world
            .problems()
            .iter()
            .any(|problem| problem.severity == Severity::Error && problem.object.is_none())
        {
            bail!("not everything could be read; correct the files named above");
        }
        for diagnostic in world.snapshot().diagnostics.iter() {
            eprintln!("{diagnostic}");
        }
        let mut proxies: Vec<Proxy> = Vec::new();
        for name in &self.proxy {
            proxies.push(world.proxy_of_pod(name)?);
        }
        for path in &self.node {
            proxies.push(world.proxy_of_node_file(path)?);
        }
        std::fs::create_dir_all(&self.output)
            .with_context(|| format!("cannot make the directory {}", self.output.display()))?;
        let snapshot = world.snapshot();
        let rendered: Vec<Result<Rendered>> = std::thread::scope(|scope| {
            let workers: Vec<_> = proxies
                .iter()
                .map(|proxy| scope.spawn(move || render(snapshot, proxy)))
                .collect();
            let lost = || Err(anyhow::anyhow!("compiling ended in a panic; this is a bug of Lateen"));
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|_| lost()))
                .collect()
        });
        for one in rendered {
            let one = one?;
            for diagnostic in &one.diagnostics {
                eprintln!("{}: {diagnostic}", one.proxy);
            }
            one.write(&self.output)?;
        }
        write_json(&self.output.join("validation.json"), world.validation())
    }
}
