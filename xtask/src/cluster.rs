//! `cargo xtask cluster`: the node of `tests/cluster/node.sh`, with all that it needs built, fetched or installed.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::images;
use crate::progress;
use crate::tools::{self, Wanted};
use crate::workspace::{self, Workspace};

/// Flags of `cargo xtask cluster`.
#[derive(Args)]
pub(crate) struct ClusterArgs {
    /// Which of several nodes side by side
    #[arg(long, env = "LATEEN_CLUSTER_ID", default_value = "default", value_parser = id)]
    id: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start it and wait until it is ready
    Up,
    /// Stop it and remove everything it made
    Down,
    /// Say what runs
    Status,
    /// Call kubectl as its administrator
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run a command, else a shell, in the node's namespaces
    Sh {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Take image archives in; without any, those that `cargo xtask images` wrote
    Load { archives: Vec<PathBuf> },
    /// Copy the logs of daemons and pods to a folder
    Logs { to: PathBuf },
}

fn id(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if fits && text != "images" && text != "logs" {
        Ok(text.to_owned())
    } else {
        Err("letters, digits and dashes; not `images` or `logs`".to_owned())
    }
}

/// Does what is asked.
///
/// # Errors
/// When the node cannot run here, or the command fails.
pub(crate) fn run(args: &ClusterArgs) -> Result<()> {
    let target = Workspace::load()?.target_dir;
    let state = target.join("cluster").join(&args.id);
    let node = || {
        let mut command = script();
        command
            .env("STATE", &state)
            .env("BIN", target.join("tools"))
            .env("IMAGES", target.join("cluster/images"));
        command
    };
    match &args.verb {
        Verb::Up => {
            if let Some(why) = obstacle()? {
                bail!("a node cannot run here: {why}");
            }
            let tools = tools::group(Wanted::Cluster)?;
            images::of_node(&tools)?;
            progress::quiet("starting the node", node().arg("up"))?;
            println!("export KUBECONFIG={}", state.join("admin.kubeconfig").display());
            Ok(())
        }
        Verb::Down => progress::quiet("removing the node", node().arg("down")),
        Verb::Status => pass(node().arg("status")),
        Verb::Kubectl { args } => become_it(node().arg("kubectl").args(args)),
        Verb::Sh { args } => become_it(node().arg("sh").args(args)),
        Verb::Load { archives } => {
            let all = if archives.is_empty() {
                built(&target.join("images"))?
            } else {
                archives.clone()
            };
            pass(node().arg("load").args(all))
        }
        Verb::Logs { to } => pass(node().arg("logs").arg(to)),
    }
}

fn script() -> Command {
    Command::new(workspace::root().join("tests/cluster/node.sh"))
}

fn built(folder: &std::path::Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("{} is not there; run `cargo xtask images` first", folder.display()))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
        .collect();
    found.sort();
    Ok(found)
}

fn pass(command: &mut Command) -> Result<()> {
    let status = command.status().context("cannot run tests/cluster/node.sh")?;
    if !status.success() {
        bail!("tests/cluster/node.sh failed ({status})");
    }
    Ok(())
}

/// Hands this process over, so that terminals and exit codes are the command's own.
fn become_it(command: &mut Command) -> Result<()> {
    Err(command.exec()).context("cannot run tests/cluster/node.sh")
}

/// Why a node cannot run on this machine, if it cannot. Debian packages that are missing are installed where root may.
///
/// # Errors
/// When the machine cannot be looked at.
pub(crate) fn obstacle() -> Result<Option<String>> {
    if !cfg!(target_os = "linux") {
        return Ok(Some("it needs Linux".to_owned()));
    }
    let mut missing = missing()?;
    let packages: Vec<&str> = missing.iter().filter_map(|one| one.package.as_deref()).collect();
    if !packages.is_empty() && missing.iter().all(|one| one.package.is_some()) && apt() {
        install(&packages)?;
        missing = self::missing()?;
    }
    if missing.is_empty() {
        return tools::obstacle(Wanted::Cluster);
    }
    let list: Vec<String> = missing.iter().map(Missing::shown).collect();
    Ok(Some(format!("missing: {}", list.join(", "))))
}

struct Missing {
    what: String,
    /// The Debian package that brings it.
    package: Option<String>,
}

impl Missing {
    fn shown(&self) -> String {
        match &self.package {
            Some(package) => format!("{} (apt-get install {package})", self.what),
            None => self.what.clone(),
        }
    }

    fn read(line: &str) -> Self {
        let (what, package) = match line.split_once('\t') {
            Some((what, package)) => (what, Some(package.to_owned())),
            None => (line, None),
        };
        Self {
            what: what.to_owned(),
            package,
        }
    }
}

fn missing() -> Result<Vec<Missing>> {
    let output = script()
        .arg("check")
        .output()
        .context("cannot run tests/cluster/node.sh")?;
    if !output.status.success() {
        bail!(
            "tests/cluster/node.sh check failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(Missing::read)
        .collect())
}

fn apt() -> bool {
    let there = Command::new("apt-get").arg("--version").stdout(Stdio::null()).status();
    there.is_ok_and(|status| status.success())
}

fn install(packages: &[&str]) -> Result<()> {
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        command
    };
    progress::quiet("reading Debian's list of packages", &mut apt(&["update", "-qq"]))?;
    progress::quiet(
        &format!("installing {}", packages.join(", ")),
        apt(&["install", "-y", "-qq", "--no-install-recommends"]).args(packages),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_package_that_brings_it() {
        assert_eq!(Missing::read("runc\trunc").shown(), "runc (apt-get install runc)");
        assert_eq!(Missing::read("root").shown(), "root");
    }

    #[test]
    fn an_id_is_a_plain_word_and_no_folder_that_is_taken() {
        assert_eq!(id("blue-2").as_deref(), Ok("blue-2"));
        assert!(id("../x").is_err() && id("images").is_err() && id("").is_err());
    }
}
