//! `lateen-load`: how much a mesh asks of its control plane.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use lateen_load::{Access, Mesh, Plan, Progress, Writer};

/// Gives memory back when thousands of first configurations have passed through.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Fill a cluster with a synthetic mesh, play its sidecars, and measure the control plane
#[derive(Parser)]
#[command(name = "lateen-load", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Write the objects of a mesh to the API server
    Fill {
        #[command(flatten)]
        access: Access,
        #[command(flatten)]
        mesh: Mesh,
    },
    /// Play sidecars of the mesh that the cluster was filled with, change it, and report
    Run {
        #[command(flatten)]
        access: Access,
        #[command(flatten)]
        plan: Box<Plan>,
        /// Write the report here, as JSON
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Draw latencies and memory here, as SVG
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
    },
    /// Delete what `fill` has made
    Clear {
        #[command(flatten)]
        access: Access,
    },
}

fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    let done = tokio::runtime::Runtime::new()
        .context("cannot start")
        .and_then(|runtime| runtime.block_on(run(verb)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Fill { access, mesh } => lateen_load::fill(&Writer::new(&access).await?, &mesh, Progress::Shown).await,
        Verb::Clear { access } => lateen_load::clear(&Writer::new(&access).await?, Progress::Shown).await,
        Verb::Run {
            access,
            plan,
            output,
            plot,
        } => {
            let report = lateen_load::run(&Writer::new(&access).await?, &plan, Progress::Shown).await?;
            print!("{}", report.table());
            if let Some(path) = output {
                write(&path, &serde_json::to_string_pretty(&report)?)?;
            }
            if let Some(path) = plot {
                write(&path, &lateen_load::svg(&report)?)?;
            }
            Ok(())
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
