//! The programs that go into images: static ones on musl where that target can be had, else dynamic ones on glibc with
//! the libraries that they name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::progress;
use crate::workspace::{self, Workspace};

/// The C library that programs stand on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Libc {
    /// Static programs
    Musl,
    /// Dynamic programs, with the libraries of this machine
    Gnu,
}

/// Builds programs for images.
pub(super) struct Programs {
    folder: PathBuf,
    stripped: tempfile::TempDir,
    /// The triple that was built for.
    pub(super) target: String,
}

/// The packages that have the programs.
pub(super) const PACKAGES: &[&str] = &["lateen-daemon", "lateen-agent", "lateen-shop"];

impl Programs {
    /// Those in a folder, dynamic ones of this machine.
    ///
    /// # Errors
    /// When there is no temporary directory.
    pub(super) fn built(folder: PathBuf) -> Result<Self> {
        Ok(Self {
            folder,
            stripped: tempfile::tempdir().context("cannot make a temporary directory")?,
            target: triple(Libc::Gnu),
        })
    }

    /// Builds all of them with `profile`.
    ///
    /// # Errors
    /// When they do not build, or musl is asked for and cannot be had.
    pub(super) fn build(profile: &str, libc: Option<Libc>) -> Result<Self> {
        let workspace = Workspace::load()?;
        let libc = match libc {
            Some(Libc::Gnu) => Libc::Gnu,
            Some(Libc::Musl) => {
                musl()?;
                Libc::Musl
            }
            None => match musl() {
                Ok(()) => Libc::Musl,
                Err(error) => {
                    eprintln!("  note: programs are dynamic, on this machine's glibc: {error:#}");
                    Libc::Gnu
                }
            },
        };
        let target = triple(libc);
        let mut folder = workspace.target_dir;
        let mut cargo = workspace::cargo();
        cargo.args(["build", "--profile", profile]);
        if libc == Libc::Musl {
            cargo.args(["--target", &target]);
            folder.push(&target);
        }
        folder.push(if profile == "dev" { "debug" } else { profile });
        for package in PACKAGES {
            cargo.args(["-p", package]);
        }
        progress::quiet(
            &format!("building lateend, lateen-agent and the shop ({profile}, {target})"),
            &mut cargo,
        )?;
        Ok(Self {
            folder,
            stripped: tempfile::tempdir().context("cannot make a temporary directory")?,
            target,
        })
    }

    /// A program without its symbols, which nobody reads in an image.
    ///
    /// # Errors
    /// When it was not built.
    pub(super) fn get(&self, name: &str) -> Result<PathBuf> {
        let built = self.folder.join(name);
        if !built.is_file() {
            bail!("{} was not built", built.display());
        }
        let to = self.stripped.path().join(name);
        let stripped = Command::new("strip").arg("-o").args([&to, &built]).output();
        if stripped.is_ok_and(|output| output.status.success()) {
            return Ok(to);
        }
        fs::copy(&built, &to).with_context(|| format!("cannot copy {}", built.display()))?;
        Ok(to)
    }
}

fn triple(libc: Libc) -> String {
    let environment = match libc {
        Libc::Musl => "musl",
        Libc::Gnu => "gnu",
    };
    format!("{}-unknown-linux-{environment}", std::env::consts::ARCH)
}

/// Makes sure that programs can be built on musl: the target's standard library, and a C compiler for it.
fn musl() -> Result<()> {
    let target = triple(Libc::Musl);
    if !has_target(&target)? {
        let mut rustup = Command::new("rustup");
        rustup.current_dir(workspace::root()).args(["target", "add", &target]);
        progress::quiet(&format!("installing Rust's target {target}"), &mut rustup)?;
    }
    let compiler = Command::new("musl-gcc").arg("--version").output();
    if !compiler.is_ok_and(|output| output.status.success()) {
        bail!("musl-gcc is missing (Debian's package musl-tools)");
    }
    Ok(())
}

fn has_target(target: &str) -> Result<bool> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .current_dir(workspace::root())
        .args(["--print", "target-libdir", "--target", target])
        .output()
        .context("cannot run rustc")?;
    Ok(output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}
