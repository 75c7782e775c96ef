//! `lateen-agent`, the companion of one Envoy: it makes Envoy's bootstrap, gets its certificates and serves them over
//! SDS, passes ADS through to the control plane, answers DNS from the mesh's name table, says when Envoy is ready,
//! merges metrics, and drains Envoy when the pod ends.
//!
//! It takes the place of Istio's `pilot-agent`: the same commands, environment, ports, files and sockets.

mod ads;
mod bootstrap;
mod certificates;
mod cli;
mod cni;
mod config;
mod dns;
mod envoy;
mod files;
mod grpc;
mod http_client;
mod interception;
mod metrics;
mod one_shot;
mod proxy;
mod sds;
mod status;
mod unverified;
mod wasm;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::config::Environment;

fn main() -> ExitCode {
    if std::env::args().next().is_some_and(|program| cni::is_plugin(&program)) {
        return cni::plugin(&Environment::from_process());
    }
    let arguments = cli::without_unknown_flags(std::env::args().collect());
    let cli = Cli::parse_from(arguments);
    if let Command::Cni(cni::CniCommand::Plugin) = cli.command {
        return cni::plugin(&Environment::from_process());
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lateen-agent: {error:#}");
            if error.is::<interception::NotRedirected>() {
                return ExitCode::from(interception::NotRedirected::EXIT_CODE);
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let environment = Environment::from_process();
    if let Command::Version { short } = cli.command {
        println!(
            "{}",
            if short {
                env!("CARGO_PKG_VERSION").to_owned()
            } else {
                cli::version()
            }
        );
        return Ok(());
    }
    cli::init_logging(&cli.logging)?;
    if let Command::IstioIptables(args) = cli.command {
        return interception::run(&args, &environment);
    }
    // One thread: an agent that waits should cost as little as it can, and nothing that it does needs two.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Proxy(args) => proxy::run(*args, environment, cli.logging.log_as_json).await,
            Command::Wait(args) => one_shot::wait(&args).await,
            Command::Request(args) => one_shot::request(&args).await,
            Command::Cni(cni::CniCommand::Install(args)) => cni::run(*args, environment).await,
            Command::Version { .. } | Command::IstioIptables(_) | Command::Cni(cni::CniCommand::Plugin) => Ok(()),
        }
    })
}
