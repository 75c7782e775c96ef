//! `cargo xtask images`: Lateen's images as OCI archives, made without Docker and without pulling anything.
//!
//! Equal input makes equal bytes: files are sorted, times are fixed, nothing names the machine. What the proxy's image
//! takes from the machine that builds it is glibc and iptables, and its list of contents says which.

mod archive;
mod conformance;
mod layer;
mod machine;
mod programs;
mod recipe;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use indicatif::HumanBytes;

use archive::Start;
pub(crate) use conformance::of_conformance;
use layer::Layer;
use programs::{Libc, Programs};
use recipe::Image;

use crate::progress::{self, Step};
use crate::tools;
use crate::workspace::{self, Workspace};

/// Flags of `cargo xtask images`.
#[derive(clap::Args)]
pub(crate) struct ImagesArgs {
    /// What stands before the name of each image
    #[arg(long, default_value = "localhost/lateen")]
    pub(crate) hub: String,
    /// What stands behind it
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    pub(crate) tag: String,
    /// Cargo profile to build with
    #[arg(long, default_value = "release")]
    pub(crate) profile: String,
    /// C library of the programs; by default musl where it can be had
    #[arg(long, value_enum)]
    pub(crate) libc: Option<Libc>,
    /// Folder of programs that are built already, instead of building them
    #[arg(long, value_name = "DIR", conflicts_with_all = ["profile", "libc"])]
    pub(crate) programs: Option<PathBuf>,
    /// Envoy to put in, instead of the pinned one
    #[arg(long, env = "ENVOY", value_name = "PATH")]
    pub(crate) envoy: Option<PathBuf>,
    /// Also write to target/conformance what the Gateway API's conformance suite runs
    #[arg(long)]
    pub(crate) conformance: bool,
    /// Folder below target/ to write to
    #[arg(long, default_value = "images", value_name = "NAME")]
    pub(crate) to: String,
}

/// Writes all images, with a list of contents beside each, and returns their folder.
///
/// # Errors
/// When something does not build or cannot be written.
pub(crate) fn run(args: &ImagesArgs) -> Result<PathBuf> {
    if args.conformance {
        of_conformance()?;
    }
    let folder = Workspace::load()?.target_dir.join(&args.to);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let envoy = tools::envoy(args.envoy.clone())?;
    let envoy = fs::canonicalize(&envoy).with_context(|| format!("cannot resolve {}", envoy.display()))?;
    let programs = match &args.programs {
        Some(folder) => Programs::built(folder.clone())?,
        None => Programs::build(&args.profile, args.libc)?,
    };
    for image in [
        recipe::lateend(&programs)?,
        recipe::proxy(&programs, &envoy)?,
        recipe::shop(&programs)?,
    ] {
        let reference = format!("{}/{}:{}", args.hub, image.name, args.tag);
        pack(image, &reference, &programs.target, &folder)?;
    }
    Ok(folder)
}

fn pack(mut image: Image, reference: &str, target: &str, folder: &Path) -> Result<()> {
    let step = Step::start(format!("packing {reference}"));
    let mut components = sbom::crates(image.package, target)?;
    components.append(&mut image.components);
    let document = sbom::document(image.name, env!("CARGO_PKG_VERSION"), &components);
    let beside = folder.join(format!("{}.spdx.json", image.name));
    fs::write(&beside, &document).with_context(|| format!("cannot write {}", beside.display()))?;
    let mut contents = Layer::default();
    contents.bytes(&format!("usr/share/sbom/{}.spdx.json", image.name), document);
    image.layers.push(contents);
    let to = folder.join(format!("{}.tar", image.name));
    let digest = write(&to, reference, &image.layers, &image.start)?;
    let size = fs::metadata(&to).map_or(0, |meta| meta.len());
    step.done(&format!("{}, {}, {digest}", to.display(), HumanBytes(size)));
    Ok(())
}

fn write(to: &Path, reference: &str, layers: &[Layer], start: &Start) -> Result<String> {
    let folder = to.parent().context("an archive lies in a folder")?;
    let work = tempfile::tempdir_in(folder).context("cannot make a temporary directory")?;
    let blobs = layers
        .iter()
        .map(|layer| layer.write(work.path()))
        .collect::<Result<Vec<_>>>()?;
    archive::write(to, reference, &blobs, start)
}

/// Writes the images that a node of `tests/cluster` itself runs, where they are not there yet, and returns their folder.
///
/// # Errors
/// When the sandbox's program does not compile, or an archive cannot be written.
pub(crate) fn of_node(tools: &Path) -> Result<PathBuf> {
    let folder = Workspace::load()?.target_dir.join("cluster/images");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let source = workspace::root().join("tests/cluster/pause.c");
    let pause = folder.join("pause.tar");
    if !newer(&pause, &source) {
        let work = tempfile::tempdir().context("cannot make a temporary directory")?;
        let program = work.path().join("pause");
        let mut cc = Command::new("cc");
        cc.args(["-Os", "-static", "-s", "-o"]).args([&program, &source]);
        progress::quiet("compiling the sandbox's program", &mut cc)?;
        single(&pause, "localhost/pause:1", &program)?;
    }
    let coredns = folder.join("coredns.tar");
    let program = fs::canonicalize(tools.join("coredns")).context("coredns is missing")?;
    if !newer(&coredns, &program) {
        single(&coredns, "localhost/coredns:1", &program)?;
    }
    Ok(folder)
}

/// An image of one static program.
fn single(to: &Path, reference: &str, program: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?.to_string_lossy();
    let mut layer = Layer::default();
    layer.file(&name, program)?;
    let start = Start {
        entrypoint: vec![format!("/{name}")],
        ..Start::default()
    };
    write(to, reference, &[layer], &start).map(|_| ())
}

fn newer(one: &Path, than: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    matches!((changed(one), changed(than)), (Some(one), Some(than)) if one > than)
}
