//! `cargo xtask demo`: the mesh runs, on this machine, with real Envoys; the story it tells checks itself.
//!
//! The command that a user starts builds and fetches what is needed, and prepares a folder (`host`). Then it starts itself
//! anew inside fresh mount, network and process namespaces (`world`), where root of the namespace suffices: nothing there
//! can touch the machine's own network, several demos run side by side, and when the inner process ends, however it ends,
//! the kernel ends and removes everything it made. Where namespaces cannot be made, the mesh runs on loopback addresses.

mod control;
mod edit;
mod forward;
mod ground;
mod host;
mod http;
mod loopback;
mod net;
mod plan;
mod process;
mod screen;
mod stage;
mod story;
mod traffic;
mod world;

use std::path::PathBuf;

use ground::Ground;
pub(crate) use host::run;
pub(crate) use stage::run_world;

/// Flags of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct DemoArgs {
    /// Run the story, then exit: 0 only if every step was observed
    #[arg(long)]
    once: bool,
    /// After the story stay up, with Envoy's admin pages, metrics and debug pages reachable on 127.0.0.1
    #[arg(long, conflicts_with = "once")]
    keep: bool,
    /// Requests per second that the driver makes
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(20..=5000))]
    rate: u32,
    /// Envoy to run, instead of the pinned one
    #[arg(long, env = "ENVOY", value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// Use loopback addresses, even where network namespaces could be made
    #[arg(long)]
    loopback: bool,
    /// Cargo profile to build with
    #[arg(long, default_value = "quick")]
    profile: String,
    /// Folder of programs that are built already, instead of building them
    #[arg(long, value_name = "DIR", conflicts_with = "profile")]
    programs: Option<PathBuf>,
}

/// What the outer process tells the inner one.
#[derive(clap::Args)]
pub(crate) struct WorldArgs {
    /// The demo's folder
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    rate: u32,
    #[arg(long)]
    once: bool,
    #[arg(long)]
    keep: bool,
    /// What the mesh stands on
    #[arg(long)]
    ground: Ground,
    /// `name=port`: the port on the machine's loopback that leads to the inner address `name`
    #[arg(long = "forward", value_name = "NAME=PORT")]
    forwards: Vec<String>,
}
