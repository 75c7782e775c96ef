//! What the Gateway API's conformance suite runs: its test program, and the images that its manifests name. They cannot be
//! pulled everywhere, so they are built from the module that the suite has them in, but for `echo-advanced`, which is not in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::archive::Start;
use super::layer::Layer;
use super::{newer, single, write};
use crate::progress;
use crate::workspace::{self, Workspace};

/// The module that pins the suite.
const OWN: &str = "tests/conformance";
const ECHO_BASIC: &str = "sigs.k8s.io/gateway-api-conformance-images/echo-basic";
/// The tags of it that the suite's manifests name.
const ECHO_BASIC_TAGS: [&str; 2] = ["v0.1.0", "v0.2.0"];
const ECHO_ADVANCED: &str = "registry.k8s.io/gateway-api/conformance/echo-advanced:v0.1.0";
const COREDNS: &str = "registry.k8s.io/coredns/coredns:v1.12.2";

/// Builds all of it and returns its folder: the program `suite`, the archives in `images`, and the API's definitions in
/// `crds.yaml`.
///
/// # Errors
/// When something does not build or cannot be written.
pub(crate) fn of_conformance() -> Result<PathBuf> {
    let folder = Workspace::load()?.target_dir.join("conformance");
    let images = folder.join("images");
    fs::create_dir_all(&images).with_context(|| format!("cannot make {}", images.display()))?;
    let built = |name: &str| folder.join(name);
    go(OWN, "the conformance suite", |go| {
        go.args(["test", "-c", "-o"]).arg(built("suite")).arg(".")
    })?;
    go("tests/cluster/build/coredns", "coredns", |go| {
        go.args(["build", "-ldflags", "-s -w", "-o"])
            .arg(built("coredns"))
            .arg(".")
    })?;
    go(OWN, "echo-basic", |go| {
        go.args(["build", "-ldflags", "-s -w", "-o"])
            .arg(built("echo-basic"))
            .arg(ECHO_BASIC)
    })?;
    go(OWN, "echo-advanced", |go| {
        go.args(["build", "-ldflags", "-s -w", "-o"])
            .arg(built("echo-advanced"))
            .arg("./echo")
    })?;
    definitions(&folder.join("crds.yaml"))?;
    let program = built("echo-basic");
    for tag in ECHO_BASIC_TAGS {
        let archive = images.join(format!("echo-basic-{tag}.tar"));
        if !newer(&archive, &program) {
            let reference = format!("registry.k8s.io/gateway-api/conformance/echo-basic:{tag}");
            single(&archive, &reference, &program)?;
        }
    }
    let archive = images.join("echo-advanced.tar");
    let program = built("echo-advanced");
    if !newer(&archive, &program) {
        advanced(&archive, &program)?;
    }
    let archive = images.join("coredns.tar");
    let program = built("coredns");
    if !newer(&archive, &program) {
        single(&archive, COREDNS, &program)?;
    }
    Ok(folder)
}

/// The suite calls the client by its name.
fn advanced(to: &Path, program: &Path) -> Result<()> {
    let mut layer = Layer::default();
    layer.file("usr/local/bin/echo", program)?;
    layer.link("usr/local/bin/client", "echo");
    let start = Start {
        entrypoint: vec!["/usr/local/bin/echo".to_owned()],
        ..Start::default()
    };
    write(to, ECHO_ADVANCED, &[layer], &start).map(|_| ())
}

fn go(module: &str, what: &str, with: impl FnOnce(&mut Command) -> &mut Command) -> Result<()> {
    let mut go = Command::new("go");
    go.current_dir(workspace::root().join(module))
        .env("CGO_ENABLED", "0")
        // The suite asks for a newer Go than many have; a Go that is older fetches it.
        .env("GOTOOLCHAIN", "auto");
    progress::quiet(&format!("building {what} with Go"), with(&mut go))
}

/// Writes the definitions of the API in one file, from the version of it that the suite is for.
fn definitions(to: &Path) -> Result<()> {
    let output = Command::new("go")
        .current_dir(workspace::root().join(OWN))
        .env("GOTOOLCHAIN", "auto")
        .args(["list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api"])
        .output()
        .context("cannot run go")?;
    if !output.status.success() {
        bail!("go list failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let module = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let folder = module.join("config/crd/experimental");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("gateway.networking.")
        })
        .collect();
    files.sort();
    let mut all = String::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        all.push_str("---\n");
        all.push_str(&text);
        all.push('\n');
    }
    fs::write(to, all).with_context(|| format!("cannot write {}", to.display()))
}
