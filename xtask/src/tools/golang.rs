//! Builds with Go: one call for each module, so that packages which several programs share are compiled once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::catalog::{Tool, link_flags};
use crate::progress;
use crate::workspace;

/// What is said where Go is missing.
const NO_GO: &str = "Go is not installed; install Go 1.24 or newer, or name a folder that has them with \
    LATEEN_TOOLS_CACHE, or each by its variable (ETCD, KUBE_APISERVER, …)";

/// Why nothing can be built, if nothing can.
pub(super) fn obstacle() -> Option<&'static str> {
    let runs = Command::new("go")
        .arg("version")
        .output()
        .is_ok_and(|output| output.status.success());
    (!runs).then_some(NO_GO)
}

/// Builds `tools` into `dir`.
///
/// # Errors
/// When there is no Go, a build fails, or what was built is not the version it should be.
pub(super) fn build(tools: &[&Tool], dir: &Path) -> Result<()> {
    if let Some(why) = obstacle() {
        let names: Vec<_> = tools.iter().map(|tool| tool.name).collect();
        bail!("{} cannot be built: {why}", names.join(", "));
    }
    let mut modules: BTreeMap<&str, Vec<&Tool>> = BTreeMap::new();
    for tool in tools {
        modules.entry(tool.module).or_default().push(tool);
    }
    for (module, tools) in modules {
        build_module(module, &tools, dir)?;
    }
    Ok(())
}

fn build_module(module: &str, tools: &[&Tool], dir: &Path) -> Result<()> {
    // Beside its destination, so that the last step is one atomic rename.
    let work = tempfile::tempdir_in(dir).context("cannot make a temporary directory")?;
    let mut go = Command::new("go");
    go.current_dir(workspace::root().join("tests/cluster/build").join(module))
        .env("CGO_ENABLED", "0")
        .args(["build", "-v", "-buildvcs=false", "-ldflags", &link_flags(module), "-o"]);
    match tools {
        [tool] => go.arg(work.path().join(tool.name)),
        _ => go.arg(format!("{}/", work.path().display())),
    };
    go.args(tools.iter().map(|tool| tool.package));
    let names: Vec<_> = tools.iter().map(|tool| tool.name).collect();
    progress::quiet(
        &format!("building {} {} with Go", names.join(", "), tools[0].version),
        &mut go,
    )?;
    for tool in tools {
        let built = work.path().join(tool.name);
        if !tool.is_at(&built) {
            bail!("what was built as {} is not version {}", tool.name, tool.version);
        }
        let to = dir.join(tool.name);
        fs::rename(&built, &to).with_context(|| format!("cannot move {} to {}", tool.name, to.display()))?;
    }
    Ok(())
}
