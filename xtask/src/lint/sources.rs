//! What no compiler checks of the sources: a header on every file, no file outside a module tree, one table of lints, and
//! no file system, socket, environment or clock in the pure set.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace::{Workspace, package_dir, root};

/// Paths that reach out of a pure crate.
const REACHES_OUT: &[&str] = &[
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::env",
    "std::process",
    "SystemTime::now",
    "Instant::now",
    "now_utc()",
];

/// Every breach, one line each.
///
/// # Errors
/// When a source cannot be read.
pub(super) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for package in &workspace.packages {
        let dir = package_dir(package);
        let manifest = read(&dir.join("Cargo.toml"))?;
        if !one_lint_table(&manifest) {
            problems.push(format!(
                "{}: `[lints] workspace = true` is missing",
                shown(&dir.join("Cargo.toml"))
            ));
        }
        let mut reached = BTreeSet::new();
        for target in package["targets"].as_array().into_iter().flatten() {
            if let Some(source) = target["src_path"].as_str() {
                walk(Path::new(source), true, &mut reached)?;
            }
        }
        for file in rust_files(&dir)? {
            let text = read(&file)?;
            if !has_header(&text) {
                problems.push(format!("{}: no `//!` header", shown(&file)));
            }
            if !reached.contains(&file) {
                problems.push(format!("{}: in no module tree, so it is never compiled", shown(&file)));
            }
            if package["metadata"]["layer"]["pure"] == true && file.starts_with(dir.join("src")) && !is_test_file(&file)
            {
                problems.extend(reaches_out(&text).map(|found| format!("{}: {found} in a pure crate", shown(&file))));
            }
        }
    }
    Ok(problems)
}

fn one_lint_table(manifest: &str) -> bool {
    let mut lines = manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "[lints]")
        .skip(1);
    lines
        .find(|line| !line.is_empty())
        .is_some_and(|line| line.replace(' ', "") == "workspace=true")
}

fn has_header(text: &str) -> bool {
    text.lines()
        .find(|line| !line.trim().is_empty())
        .is_some_and(|line| line.starts_with("//!"))
}

fn is_test_file(file: &Path) -> bool {
    file.iter().any(|part| part == "tests" || part == "tests.rs")
        || file
            .file_stem()
            .is_some_and(|stem| stem.to_string_lossy().ends_with("_tests"))
}

/// The forbidden paths in the part of `text` before its tests, comments left out.
fn reaches_out(text: &str) -> impl Iterator<Item = &'static str> {
    let code: String = text
        .lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    REACHES_OUT.iter().copied().filter(move |path| code.contains(path))
}

/// Adds `file` and what its `mod` items and `include!`s name to `reached`.
fn walk(file: &Path, is_root: bool, reached: &mut BTreeSet<PathBuf>) -> Result<()> {
    if !file.is_file() || !reached.insert(file.to_path_buf()) {
        return Ok(());
    }
    let here = file.parent().unwrap_or(file);
    let below = if is_root || file.file_name().is_some_and(|name| name == "mod.rs") {
        here.to_path_buf()
    } else {
        here.join(file.file_stem().unwrap_or_default())
    };
    for named in named_files(&read(file)?) {
        match named {
            Named::Path(path) => walk(&here.join(path), false, reached)?,
            Named::Module(name) => {
                walk(&below.join(format!("{name}.rs")), false, reached)?;
                walk(&below.join(&name).join("mod.rs"), false, reached)?;
            }
        }
    }
    Ok(())
}

#[derive(PartialEq, Eq, Debug)]
enum Named {
    /// From `#[path = "…"]` or `include!("…")`, relative to the file's folder.
    Path(String),
    Module(String),
}

fn named_files(text: &str) -> Vec<Named> {
    let mut found = Vec::new();
    let mut path = None;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("#[path = \"") {
            path = rest.split('"').next().map(str::to_owned);
        } else if let Some((_, rest)) = line.split_once("include!(\"") {
            found.extend(rest.split('"').next().map(|name| Named::Path(name.to_owned())));
        } else if let Some(name) = module_name(line) {
            found.push(path.take().map_or_else(|| Named::Module(name.to_owned()), Named::Path));
        }
    }
    found
}

/// The name in `mod name;`, whatever its visibility.
fn module_name(line: &str) -> Option<&str> {
    let line = line.split("//").next()?.trim_end();
    let (before, name) = line.strip_suffix(';')?.rsplit_once("mod ")?;
    let visible =
        before.is_empty() || (before.ends_with(' ') && (before.starts_with("pub") || before.starts_with("#[")));
    (visible && name.chars().all(|c| c.is_alphanumeric() || c == '_')).then_some(name)
}

fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            // A folder with a manifest of its own is another package.
            if name != "target" && !name.starts_with('.') && !path.join("Cargo.toml").is_file() {
                found.extend(rust_files(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn package(files: &[(&str, &str)]) -> (tempfile::TempDir, Value) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let package = json!({
            "name": "lateen-x",
            "manifest_path": dir.path().join("Cargo.toml"),
            "metadata": {"layer": {"pure": true}},
            "targets": [{"src_path": dir.path().join("src/lib.rs")}],
        });
        (dir, package)
    }

    fn problems(files: &[(&str, &str)]) -> Vec<String> {
        let (dir, package) = package(files);
        let found = check(&Workspace {
            target_dir: PathBuf::new(),
            packages: vec![package],
        })
        .unwrap();
        let prefix = format!("{}/", dir.path().display());
        found.into_iter().map(|line| line.replace(&prefix, "")).collect()
    }

    const MANIFEST: (&str, &str) = ("Cargo.toml", "[package]\n[lints]\nworkspace = true\n");

    #[test]
    fn a_clean_package_passes() {
        let lib = "//! Purpose.\nmod a;\npub(crate) mod b;\n#[path = \"odd/c.rs\"]\nmod c;\n";
        let files = [
            MANIFEST,
            ("src/lib.rs", lib),
            ("src/a.rs", "//! A.\nmod d;"),
            ("src/a/d.rs", "//! D."),
            ("src/b.rs", "//! B."),
            ("src/odd/c.rs", "//! C."),
        ];
        assert_eq!(problems(&files), Vec::<String>::new());
    }

    #[test]
    fn orphans_missing_headers_and_missing_lints_are_found() {
        let files = [
            ("Cargo.toml", "[package]\n"),
            ("src/lib.rs", "fn f() {}\n"),
            ("src/lost.rs", "//! Lost.\n"),
        ];
        assert_eq!(
            problems(&files),
            [
                "Cargo.toml: `[lints] workspace = true` is missing",
                "src/lib.rs: no `//!` header",
                "src/lost.rs: in no module tree, so it is never compiled",
            ]
        );
    }

    #[test]
    fn a_pure_crate_that_reaches_out_is_found_but_its_tests_may() {
        let files = [
            MANIFEST,
            (
                "src/lib.rs",
                "//! X.\nfn f() { std::env::var(\"A\"); } // std::fs\n#[cfg(test)]\nmod tests { fn g() { std::fs::read(\"a\"); } }\n",
            ),
        ];
        assert_eq!(problems(&files), ["src/lib.rs: std::env in a pure crate"]);
    }

    #[test]
    fn module_items_are_told_from_other_lines() {
        assert_eq!(module_name("mod a;"), Some("a"));
        assert_eq!(module_name("pub(crate) mod long_name; // why"), Some("long_name"));
        assert_eq!(module_name("#[cfg(test)] mod tests;"), Some("tests"));
        assert_eq!(module_name("// mod a;"), None);
        assert_eq!(module_name("mod a {"), None);
        assert_eq!(module_name("let x = \"some mod a\";"), None);
    }
}
