//! `cargo xtask crds`: the committed CRDs are written from the Rust types, and lint proves that they still agree. They lie
//! in `crds/`, to be applied as they are, and once more inside the chart that installs them, for Helm reads only its own.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::progress;
use crate::workspace;

/// Folders with the definitions, from the root.
const FOLDERS: &[&str] = &["crds", "charts/base/files/crds"];

/// Writes the definitions to every folder that holds them.
///
/// # Errors
/// When the generator does not build or cannot write.
pub(crate) fn write() -> Result<()> {
    FOLDERS
        .iter()
        .try_for_each(|folder| generate(&workspace::root().join(folder)))
}

/// Fails when a folder does not hold what the types give.
///
/// # Errors
/// Names each file that is missing, stale or left over.
pub(crate) fn check() -> Result<()> {
    let fresh = tempfile::tempdir().context("cannot make a temporary directory")?;
    generate(fresh.path())?;
    let wanted = contents(fresh.path())?;
    let mut wrong = Vec::new();
    for folder in FOLDERS {
        let committed = contents(&workspace::root().join(folder))?;
        for (name, text) in &wanted {
            match committed.get(name) {
                None => wrong.push(format!("{folder}/{name} is missing")),
                Some(old) if old != text => wrong.push(format!("{folder}/{name} is stale")),
                Some(_) => {}
            }
        }
        wrong.extend(
            committed
                .keys()
                .filter(|name| !wanted.contains_key(*name))
                .map(|name| format!("{folder}/{name} is no longer generated")),
        );
    }
    if wanted.is_empty() {
        wrong.push("the generator wrote no file".to_owned());
    }
    if !wrong.is_empty() {
        bail!("{}\nrun `cargo xtask crds` and commit the result", wrong.join("\n"));
    }
    Ok(())
}

fn generate(to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    progress::quiet(
        "generating CRDs from crates/api",
        workspace::cargo()
            .args(["run", "--quiet", "-p", "lateen-api", "--example", "crds", "--"])
            .arg(to),
    )
}

fn contents(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    if !dir.is_dir() {
        return Ok(files);
    }
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(
                name,
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?,
            );
        }
    }
    Ok(files)
}
