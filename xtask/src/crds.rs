//! `cargo xtask crds`: the committed CRDs are written from the Rust types, and lint proves that they still agree.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::progress;
use crate::workspace;

/// Writes `crds/`.
///
/// # Errors
/// When the generator does not build or cannot write.
pub(crate) fn write() -> Result<()> {
    generate(&workspace::root().join("crds"))
}

/// Fails when `crds/` is not what the types give.
///
/// # Errors
/// Names each file that is missing, stale or left over.
pub(crate) fn check() -> Result<()> {
    let fresh = tempfile::tempdir().context("cannot make a temporary directory")?;
    generate(fresh.path())?;
    let wanted = contents(fresh.path())?;
    let committed = contents(&workspace::root().join("crds"))?;
    let mut wrong = Vec::new();
    for (name, text) in &wanted {
        match committed.get(name) {
            None => wrong.push(format!("crds/{name} is missing")),
            Some(old) if old != text => wrong.push(format!("crds/{name} is stale")),
            Some(_) => {}
        }
    }
    wrong.extend(
        committed
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .map(|name| format!("crds/{name} is no longer generated")),
    );
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
