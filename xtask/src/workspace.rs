//! Where the workspace lies, what `cargo metadata` says of it, and how cargo is called.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The root of the repository: this package's parent.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// A call of the same cargo that started this process, in the repository's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The packages of the workspace.
pub(crate) struct Workspace {
    /// Build output, `CARGO_TARGET_DIR` respected.
    pub(crate) target_dir: PathBuf,
    /// One per member, as `cargo metadata` prints it.
    pub(crate) packages: Vec<Value>,
}

impl Workspace {
    /// Asks cargo. Resolves nothing, so it needs no network.
    pub(crate) fn load() -> Result<Self> {
        let output = cargo()
            .args(["metadata", "--format-version", "1", "--no-deps"])
            .output()
            .context("cannot run cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
        let target_dir = metadata["target_directory"]
            .as_str()
            .context("cargo metadata has no target_directory")?;
        Ok(Self {
            target_dir: PathBuf::from(target_dir),
            packages: metadata["packages"].as_array().cloned().unwrap_or_default(),
        })
    }

    /// The member called `name`.
    pub(crate) fn package(&self, name: &str) -> Option<&Value> {
        self.packages.iter().find(|package| package["name"] == name)
    }
}

/// The folder a package's manifest lies in.
pub(crate) fn package_dir(package: &Value) -> PathBuf {
    let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
    manifest.parent().unwrap_or(manifest).to_path_buf()
}
