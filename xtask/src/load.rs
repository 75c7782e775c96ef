//! `cargo xtask load`: builds `lateen-load`, the load tool of `crates/load`, and runs it. Figures want an optimized build.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::progress::quiet;
use crate::workspace::{self, Workspace};

const PACKAGE: &str = "lateen-load";

/// What `cargo xtask load` takes.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct LoadArgs {
    /// Cargo profile to build with: before the verb
    #[arg(long, default_value = "release")]
    profile: String,
    /// What lateen-load is told: `fill`, `run` or `clear` and their flags; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Builds it and runs it; ends with its exit code when that is not 0.
///
/// # Errors
/// When it does not build, or cannot be run.
pub(crate) fn run(args: &LoadArgs) -> Result<()> {
    let workspace = Workspace::load()?;
    quiet(
        &format!("building {PACKAGE} ({})", args.profile),
        workspace::cargo().args(["build", "--package", PACKAGE, "--profile", &args.profile]),
    )?;
    // The profile `dev` is built into `debug`, as cargo has it.
    let folder = if args.profile == "dev" { "debug" } else { &args.profile };
    let program = workspace.target_dir.join(folder).join(PACKAGE);
    // Files in its arguments are relative to where the user is.
    let status = Command::new(&program).args(&args.args).status();
    let status = status.with_context(|| format!("cannot run {}", program.display()))?;
    if !status.success() {
        // It has said why.
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}
