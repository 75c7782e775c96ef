//! `cargo xtask`: the one entry point of development. It depends on no crate of the product, so that it builds in seconds
//! and works while the product does not compile.

mod cluster;
mod crds;
mod demo;
mod fuzz;
mod images;
mod lint;
mod load;
mod progress;
mod tiers;
mod tools;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::demo::DemoArgs;
use crate::tiers::Tier;

/// Lateen's development tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the mesh on samples/bookinfo with real Envoys and show it live
    Demo(DemoArgs),
    /// Run every test this machine can run, or those of the tiers named
    #[command(after_help = tiers::HELP)]
    Test {
        /// Tiers to run; none means all but `long`
        #[arg(value_enum)]
        tiers: Vec<Tier>,
        /// Envoy to test with, instead of the pinned one
        #[arg(long, env = "ENVOY", value_name = "PATH")]
        envoy: Option<PathBuf>,
        /// Only tests whose name contains this
        #[arg(long, value_name = "TEXT")]
        filter: Option<String>,
    },
    /// Fuzz the parsers that face the network or users, with libFuzzer
    Fuzz(fuzz::FuzzArgs),
    /// Fill a cluster with a synthetic mesh, play its sidecars, and measure the control plane
    Load(load::LoadArgs),
    /// Check formatting, lints, docs, the layers of crates, CRDs and licences
    Lint,
    /// Write crds/ from the types of crates/api
    Crds,
    /// Write Lateen's images as OCI archives to target/images, without Docker
    Images(images::ImagesArgs),
    /// Run a real Kubernetes node on this machine, without Docker
    Cluster(cluster::ClusterArgs),
    /// Install the tools that tests and demo need into target/tools
    Tools {
        /// What to install; none means Envoy
        #[arg(value_enum)]
        names: Vec<tools::Wanted>,
        /// Envoy to use, instead of installing the pinned one
        #[arg(long, env = "ENVOY", value_name = "PATH")]
        envoy: Option<PathBuf>,
    },
    /// The part of the demo that runs inside its own namespaces
    #[command(hide = true)]
    DemoWorld(demo::WorldArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Demo(args) => demo::run(args),
        Task::DemoWorld(args) => demo::run_world(args),
        Task::Test { tiers, envoy, filter } => tiers::run(&tiers, envoy, filter.as_deref()),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Load(args) => load::run(&args),
        Task::Lint => lint::run(),
        Task::Crds => crds::write(),
        Task::Images(args) => images::run(&args).map(|_| ()),
        Task::Cluster(args) => cluster::run(&args),
        Task::Tools { names, envoy } => tools::run(&names, envoy),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
