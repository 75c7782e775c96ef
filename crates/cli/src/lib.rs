//! `lateen`, the command line.
//!
//! - [`render`]: what proxies would get, told offline, by the code that the server runs;
//! - `explain`: what happens to one request, and which object decides it;
//! - `inject`: workloads with their sidecars, as the webhook gives them;
//! - `proxy_status`, `proxy_config`: what a running control plane has sent, and what became of it;
//! - `token`: proofs of identity for workloads where there is no cluster that issues them.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 all is well; 1 it could not be done; 2
//! the command line is wrong; 3, of `explain` alone: nobody gets the request.

mod control_plane;
mod explain;
mod inject;
mod input;
mod print;
mod proxy_config;
mod proxy_status;
pub mod render;
mod token;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use lateen_runtime::logging;
use serde_json::json;

use crate::print::Output;

/// The command line of Lateen, a service mesh of stock Envoys.
#[derive(Debug, Parser)]
#[command(name = "lateen", version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write what proxies would get, with no server running
    Render(render::Args),
    /// Tell what happens to a request, step by step, and which object decides it
    #[command(after_help = explain::EXIT_CODES)]
    Explain(explain::Args),
    /// Write workloads with their sidecars, as the webhook gives them
    #[command(visible_alias = "kube-inject")]
    Inject(inject::Inject),
    /// Show which proxies are connected, and whether they took what was sent to them
    #[command(visible_alias = "ps")]
    ProxyStatus(proxy_status::ProxyStatus),
    /// Show what a proxy should hold
    #[command(visible_alias = "pc")]
    ProxyConfig(proxy_config::ProxyConfig),
    /// Proofs of identity for workloads
    #[command(subcommand)]
    Token(token::Token),
    /// Show the version
    Version {
        #[command(flatten)]
        output: Output,
    },
    /// Write completions for a shell, e.g. `source <(lateen completion bash)`
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lateen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    logging::init(logging::Format::Text, "warn")?;
    if let Command::Explain(args) = command {
        return args.run();
    }
    finished(command).map(|()| ExitCode::SUCCESS)
}

fn finished(command: Command) -> Result<()> {
    match command {
        Command::Explain(args) => args.run().map(|_| ()),
        Command::Render(args) => args.run(),
        Command::Inject(command) => command.run(),
        Command::ProxyStatus(command) => command.run(),
        Command::ProxyConfig(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Version { output } => {
            let version = env!("CARGO_PKG_VERSION");
            let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
            let value = json!({"name": "lateen", "version": version, "platform": platform});
            output.write(&value, || format!("lateen {version} ({platform})\n"))
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "lateen", &mut std::io::stdout());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn render_wants_files_proxies_and_a_directory() {
        let parse = |line: &str| {
            Cli::try_parse_from(line.split(' '))
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        assert!(parse("lateen render -f a.yaml --proxy a.b -o out").is_ok());
        assert!(
            parse("lateen render -f a.yaml -f b.yaml --proxy a.b --node n.json --remote-cluster r=c.yaml -o out")
                .is_ok()
        );
        assert!(parse("lateen render -f a.yaml -o out").unwrap_err().contains("--proxy"));
        assert!(
            parse("lateen render --proxy a.b -o out")
                .unwrap_err()
                .contains("--file")
        );
        assert!(
            parse("lateen render -f a.yaml --proxy a.b --remote-cluster c.yaml -o out")
                .unwrap_err()
                .contains("ID=FILE")
        );
    }

    #[test]
    fn proxy_config_wants_a_proxy_or_a_dump() {
        let parse = |line: &str| {
            Cli::try_parse_from(line.split(' '))
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        assert!(parse("lateen proxy-config cluster a.b").is_ok());
        assert!(parse("lateen pc routes -f dump.json -o json").is_ok());
        assert!(
            parse("lateen proxy-config cluster")
                .unwrap_err()
                .contains("POD.NAMESPACE")
        );
        assert!(parse("lateen proxy-config bogus a.b").unwrap_err().contains("endpoint"));
    }
}
