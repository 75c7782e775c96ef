//! `cargo xtask tools`: what tests and demo need beyond cargo, pinned by version and hash, below `target/tools`.
//!
//! Each tool is there once. One that the user has already is taken, if its version is the pinned one: named by an
//! environment variable (`ETCD`, `KUBE_APISERVER`, …, whatever its version), kept in the folder that
//! `LATEEN_TOOLS_CACHE` names, or in `PATH`. What is missing is installed, and kept in that folder too.

mod catalog;
mod envoy;
mod golang;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use catalog::Tool;
pub(crate) use envoy::{ENVOY_VERSION, envoy};

use crate::workspace::Workspace;

/// Named folder in which installed tools are kept, across checkouts and `cargo clean`.
const CACHE: &str = "LATEEN_TOOLS_CACHE";

/// What `cargo xtask tools` can be asked for: one tool, or all that a tier of tests needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Wanted {
    /// The pinned Envoy
    Envoy,
    /// etcd and kube-apiserver: what the tier `apiserver` needs
    Apiserver,
    /// All of a Kubernetes node, kubectl and helm: what the tier `cluster` needs
    Cluster,
    Etcd,
    KubeApiserver,
    KubeControllerManager,
    KubeScheduler,
    Kubelet,
    KubeProxy,
    Kubectl,
    Coredns,
    Helm,
}

/// Installs what is named, or Envoy when nothing is, and says where each lies.
///
/// # Errors
/// When a tool cannot be installed.
pub(crate) fn run(wanted: &[Wanted], chosen_envoy: Option<PathBuf>) -> Result<()> {
    let wanted = if wanted.is_empty() {
        &[Wanted::Envoy][..]
    } else {
        wanted
    };
    for one in wanted {
        match one {
            Wanted::Envoy => println!("envoy: {}", envoy(chosen_envoy.clone())?.display()),
            other => show(&group(*other)?, *other),
        }
    }
    Ok(())
}

fn show(dir: &Path, wanted: Wanted) {
    for tool in catalog::of(wanted) {
        println!("{}: {}", tool.name, dir.join(tool.name).display());
    }
}

/// The tools of a group, each by its name in the folder that is returned.
///
/// # Errors
/// When one cannot be built; what is missing is named.
pub(crate) fn group(wanted: Wanted) -> Result<PathBuf> {
    let dir = Workspace::load()?.target_dir.join("tools");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut missing = Vec::new();
    for tool in catalog::of(wanted) {
        if !there(tool, &dir)? {
            missing.push(tool);
        }
    }
    if !missing.is_empty() {
        golang::build(&missing, &dir)?;
        for tool in &missing {
            keep(&dir.join(tool.name), tool.name, tool.version);
        }
    }
    Ok(dir)
}

/// Why a group cannot be had on this machine, if it cannot: nothing is built or fetched to find out.
pub(crate) fn obstacle(wanted: Wanted) -> Result<Option<String>> {
    let dir = Workspace::load()?.target_dir.join("tools");
    let mut missing = Vec::new();
    for tool in catalog::of(wanted) {
        if !there(tool, &dir)? {
            missing.push(tool.name);
        }
    }
    Ok(match golang::obstacle() {
        Some(why) if !missing.is_empty() => Some(format!("{}: {why}", missing.join(", "))),
        _ => None,
    })
}

/// Why nothing can be built with Go on this machine, if nothing can.
pub(crate) fn no_go() -> Option<&'static str> {
    golang::obstacle()
}

/// Whether the tool lies in `dir`, taken from where the user has it if need be.
fn there(tool: &Tool, dir: &Path) -> Result<bool> {
    let to = dir.join(tool.name);
    if let Some(path) = std::env::var_os(tool.variable()).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let path =
            fs::canonicalize(&path).with_context(|| format!("{}={} leads nowhere", tool.variable(), path.display()))?;
        link(&path, &to)?;
        return Ok(true);
    }
    if verified(tool, &to) {
        return Ok(true);
    }
    let kept = kept(tool.name, tool.version).into_iter();
    for path in kept.chain(in_path(tool.name)) {
        if path != to && tool.is_at(&path) {
            link(&path, &to)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a file in the folder of tools is the tool. That it once said so counts as long as it is the same file:
/// asking all tools of a cluster takes seconds.
fn verified(tool: &Tool, path: &Path) -> bool {
    let Ok(meta) = fs::metadata(path) else { return false };
    let Ok(changed) = meta.modified() else {
        return tool.is_at(path);
    };
    let this = format!("{} {} {changed:?}", tool.version, meta.len());
    let note = path.with_file_name(format!(".{}.verified", tool.name));
    if fs::read_to_string(&note).is_ok_and(|text| text == this) {
        return true;
    }
    // A note that cannot be written costs time, no more.
    tool.is_at(path) && fs::write(&note, this).map_or(true, |()| true)
}

fn in_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .filter(|path| path.is_file())
        .collect()
}

/// Replaces `to` by a link to `from`, in one step.
fn link(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a tool lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let work = tempfile::tempdir_in(folder).context("cannot make a temporary directory")?;
    let fresh = work.path().join("link");
    std::os::unix::fs::symlink(from, &fresh).with_context(|| format!("cannot make a link to {}", from.display()))?;
    fs::rename(&fresh, to).with_context(|| format!("cannot make {}", to.display()))
}

/// Where the user's folder of tools has this one, if it is there.
fn kept(name: &str, version: &str) -> Option<PathBuf> {
    let path = cache()?.join(format!("{name}-{version}"));
    path.is_file().then_some(path)
}

/// Keeps an installed tool in the user's folder of tools. A folder that cannot be written costs no more than a line.
fn keep(path: &Path, name: &str, version: &str) {
    let Some(cache) = cache() else { return };
    let copy = || -> Result<()> {
        fs::create_dir_all(&cache)?;
        let work = tempfile::tempdir_in(&cache)?;
        let fresh = work.path().join(name);
        fs::copy(path, &fresh)?;
        fs::rename(&fresh, cache.join(format!("{name}-{version}")))?;
        Ok(())
    };
    if let Err(error) = copy() {
        eprintln!("  note: {name} is not kept in {}: {error:#}", cache.display());
    }
}

fn cache() -> Option<PathBuf> {
    std::env::var_os(CACHE).filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// What a program prints when asked for its version.
fn printed(path: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(path)
        .args(args)
        .output()
        .with_context(|| format!("cannot run {}", path.display()))?;
    if !output.status.success() {
        bail!("`{} {}` failed ({})", path.display(), args.join(" "), output.status);
    }
    Ok(format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}
