//! `cargo xtask lint`: every gate of the repository, the same here and in CI. All gates run, whatever the others say.

mod layers;
mod sources;

use anyhow::{Result, bail};

use crate::crds;
use crate::progress::{Step, quiet, tail};
use crate::workspace::{self, Workspace};

/// Code written by a generator, whose comments are not ours to mend.
const GENERATED: &[&str] = &["lateen-proto"];

/// Runs every gate.
///
/// # Errors
/// When one of them fails; what each of them says is printed.
pub(crate) fn run() -> Result<()> {
    let workspace = Workspace::load()?;
    let mut failures = Vec::new();
    let mut gate = |name: &'static str, result: Result<()>| {
        if let Err(error) = result {
            eprintln!("{}", tail(&format!("{error:#}"), 200));
            failures.push(name);
        }
    };

    gate("layers", found("layers of the crates", layers::check(&workspace)));
    gate(
        "sources",
        found(
            "sources: headers, module trees, pure crates",
            sources::check(&workspace)?,
        ),
    );
    gate(
        "format",
        quiet(
            "cargo fmt --check",
            workspace::cargo().args(["fmt", "--all", "--check"]),
        ),
    );
    gate(
        "clippy",
        quiet(
            "cargo clippy -D warnings",
            workspace::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        ),
    );
    gate("doc", quiet("cargo doc -D warnings", &mut doc()));
    gate("crds", crds::check());
    gate("deny", deny());

    if failures.is_empty() {
        return Ok(());
    }
    bail!("failing gates: {}", failures.join(", "));
}

fn doc() -> std::process::Command {
    let mut command = workspace::cargo();
    command
        .args(["doc", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    for name in GENERATED {
        command.args(["--exclude", name]);
    }
    command
}

fn deny() -> Result<()> {
    let there = workspace::cargo()
        .args(["deny", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("  – cargo deny is not installed: licences and advisories are not checked");
        return Ok(());
    }
    quiet(
        "cargo deny check",
        workspace::cargo().args(["deny", "--all-features", "check"]),
    )
}

fn found(name: &str, problems: Vec<String>) -> Result<()> {
    let step = Step::start(name);
    if problems.is_empty() {
        step.done("");
        return Ok(());
    }
    step.failed("");
    bail!("{}", problems.join("\n"))
}
