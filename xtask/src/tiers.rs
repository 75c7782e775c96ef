//! `cargo xtask test`: the tiers of tests, from the cheapest up, and a count of what ran.
//!
//! The tier of a test target of the package `lateen-tests` is the folder its source lies in; everything in the other
//! packages is the tier `unit`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::cluster;
use crate::images::{self, ImagesArgs};
use crate::tools::{self, Wanted};
use crate::workspace::{self, Workspace, package_dir};

/// The convention that tests follow, shown by `cargo xtask test --help`.
pub(crate) const HELP: &str = "\
Tiers, from the cheapest up:
  unit        every test inside crates/, samples/ and xtask/; needs nothing
  golden      tests/golden/: what proxies would get, compared with expected configuration
  simulation  tests/simulation/: what happens to a request at a proxy, without Envoy
  envoy       tests/envoy/: real Envoys and the real binaries on loopback
  apiserver   tests/apiserver/: a real Kubernetes API server
  cluster     tests/cluster/: a real cluster
  long        tests/long/: what takes hours, the Gateway API's conformance suite too; runs only when named

A test joins a tier by where it lies: tests/Cargo.toml names it, as in
  [[test]]
  name = \"golden_corpus\"
  path = \"golden/corpus.rs\"
The name starts with the tier's. Tests find in the environment:
  ENVOY             path of the Envoy to run
  LATEEN_BIN        folder with lateend, lateen-agent, lateen and shop (all tiers but unit)
  LATEEN_TOOLS      folder with etcd and kube-apiserver (tier apiserver), and with all that a node of
                    tests/cluster/node.sh needs, kubectl and helm (tier cluster)
  LATEEN_IMAGES     folder with the archives of Lateen's images (tiers cluster and long)
  LATEEN_REFERENCE  reference data, when the caller sets it; a test that needs it and finds
                    it unset says what it skips";

const TESTS_PACKAGE: &str = "lateen-tests";

/// A tier of tests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Debug)]
pub(crate) enum Tier {
    Unit,
    Golden,
    Simulation,
    Envoy,
    Apiserver,
    Cluster,
    Long,
}

impl Tier {
    const ALL: [Self; 7] = [
        Self::Unit,
        Self::Golden,
        Self::Simulation,
        Self::Envoy,
        Self::Apiserver,
        Self::Cluster,
        Self::Long,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Golden => "golden",
            Self::Simulation => "simulation",
            Self::Envoy => "envoy",
            Self::Apiserver => "apiserver",
            Self::Cluster => "cluster",
            Self::Long => "long",
        }
    }
}

/// What test binaries reported.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs `tiers`, or all but `long` when empty, and prints how many tests ran.
///
/// # Errors
/// When a test failed, a test did not build, or no test ran.
pub(crate) fn run(tiers: &[Tier], envoy: Option<PathBuf>, filter: Option<&str>) -> Result<()> {
    let mut wanted = if tiers.is_empty() {
        Tier::ALL.into_iter().filter(|tier| *tier != Tier::Long).collect()
    } else {
        tiers.to_vec()
    };
    wanted.sort_unstable();
    wanted.dedup();

    let workspace = Workspace::load()?;
    let targets = test_targets(
        workspace
            .package(TESTS_PACKAGE)
            .context("the workspace has no package lateen-tests")?,
    );
    let envoy = match tools::envoy(envoy) {
        Ok(path) => Some(path),
        Err(error)
            if wanted
                .iter()
                .any(|tier| *tier >= Tier::Envoy && targets.contains_key(tier)) =>
        {
            return Err(error);
        }
        Err(error) => {
            println!("without Envoy, tests that need it are skipped: {error:#}");
            None
        }
    };
    if std::env::var_os("LATEEN_REFERENCE").is_none() {
        println!("LATEEN_REFERENCE is unset: comparisons with reference data are skipped");
    }

    let tools = equip(&wanted)?;
    let programs = workspace.target_dir.join("debug");
    if wanted.iter().any(|tier| *tier != Tier::Unit) && !build()? {
        bail!("the programs or the tests do not build");
    }

    let mut total = Count::default();
    let mut lines = Vec::new();
    let mut broken = Vec::new();
    for tier in wanted {
        if tier != Tier::Unit && !targets.contains_key(&tier) {
            lines.push(format!("{:<11}no tests in this tier yet", tier.name()));
            continue;
        }
        println!("── {} ──", tier.name());
        let ground = match prepare(tier, envoy.as_deref(), &programs) {
            Ok(Ground::Ready(mut variables)) => {
                variables.push(("LATEEN_TOOLS", tools.clone()));
                variables
            }
            Ok(Ground::Lacking(why)) => {
                lines.push(format!("{:<11}skipped: {why}", tier.name()));
                continue;
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                lines.push(format!("{:<11}not run: what it needs could not be made", tier.name()));
                broken.push(tier.name());
                continue;
            }
        };
        let (count, ended_well) = run_tier(tier, targets.get(&tier), &workspace, envoy.as_deref(), &ground, filter)?;
        total.passed += count.passed;
        total.failed += count.failed;
        total.skipped += count.skipped;
        lines.push(format!(
            "{:<11}{} ran, {} of them failed; {} ignored",
            tier.name(),
            count.passed + count.failed,
            count.failed,
            count.skipped
        ));
        if !ended_well {
            broken.push(tier.name());
        }
    }
    println!("──");
    for line in &lines {
        println!("{line}");
    }
    println!(
        "{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    );
    if !broken.is_empty() {
        bail!("failing tiers: {}", broken.join(", "));
    }
    if total.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

/// Whether this machine has what a tier stands on.
enum Ground {
    /// Environment variables that lead tests to it.
    Ready(Vec<(&'static str, PathBuf)>),
    /// What is missing.
    Lacking(String),
}

/// Installs the tools of all tiers at once, as far as this machine can, and returns their folder: tests of cheaper tiers
/// use what there is of them, too.
fn equip(tiers: &[Tier]) -> Result<PathBuf> {
    let needed = |tier: &Tier| match tier {
        Tier::Golden => Some(Wanted::Helm),
        Tier::Apiserver => Some(Wanted::Apiserver),
        Tier::Cluster | Tier::Long => Some(Wanted::Cluster),
        _ => None,
    };
    for wanted in tiers.iter().filter_map(needed) {
        match tools::obstacle(wanted)? {
            Some(why) => println!("without what is not here, tests that need it are skipped: {why}"),
            None => drop(tools::group(wanted)?),
        }
    }
    Ok(Workspace::load()?.target_dir.join("tools"))
}

/// Makes what a tier stands on besides tools.
fn prepare(tier: Tier, envoy: Option<&Path>, programs: &Path) -> Result<Ground> {
    let lacking = match tier {
        Tier::Apiserver => tools::obstacle(Wanted::Apiserver)?,
        Tier::Cluster => cluster::obstacle()?,
        Tier::Long => {
            // Only some of its tests want a node, and say what they skip.
            if let Some(why) = cluster::obstacle()?.or_else(|| tools::no_go().map(str::to_owned)) {
                println!("without a node, or the suite to run on it, tests that need it are skipped: {why}");
                return Ok(Ground::Ready(Vec::new()));
            }
            None
        }
        _ => return Ok(Ground::Ready(Vec::new())),
    };
    if let Some(why) = lacking {
        return Ok(Ground::Lacking(why));
    }
    if tier == Tier::Apiserver {
        return Ok(Ground::Ready(Vec::new()));
    }
    let tools = tools::group(Wanted::Cluster)?;
    images::of_node(&tools)?;
    // The programs that the other tiers start, so that nothing is built twice.
    let images = images::run(&ImagesArgs {
        hub: "localhost/lateen".to_owned(),
        tag: "test".to_owned(),
        profile: "dev".to_owned(),
        libc: None,
        programs: Some(programs.to_owned()),
        conformance: tier == Tier::Long,
        envoy: envoy.map(Path::to_path_buf),
        to: "images-test".to_owned(),
    })?;
    Ok(Ground::Ready(vec![("LATEEN_IMAGES", images)]))
}

/// The test targets of the tests package by tier, that is by the first folder of their path. One that needs a feature is
/// of no tier: it runs when it is asked for with that feature.
fn test_targets(package: &Value) -> BTreeMap<Tier, Vec<String>> {
    let dir = package_dir(package);
    let mut found: BTreeMap<Tier, Vec<String>> = BTreeMap::new();
    for target in package["targets"].as_array().into_iter().flatten() {
        if target["kind"] != serde_json::json!(["test"]) || target.get("required-features").is_some() {
            continue;
        }
        let (Some(name), Some(source)) = (target["name"].as_str(), target["src_path"].as_str()) else {
            continue;
        };
        let folder = Path::new(source)
            .strip_prefix(&dir)
            .ok()
            .and_then(|path| path.iter().next());
        if let Some(tier) = Tier::ALL
            .into_iter()
            .find(|tier| folder.is_some_and(|folder| folder == tier.name()))
        {
            found.entry(tier).or_default().push(name.to_owned());
        }
    }
    found
}

fn run_tier(
    tier: Tier,
    targets: Option<&Vec<String>>,
    workspace: &Workspace,
    envoy: Option<&Path>,
    ground: &[(&str, PathBuf)],
    filter: Option<&str>,
) -> Result<(Count, bool)> {
    let mut command = workspace::cargo();
    command.args(["test", "--no-fail-fast"]);
    command.envs(ground.iter().map(|(name, value)| (name, value)));
    if let Some(targets) = targets {
        command.env("LATEEN_BIN", workspace.target_dir.join("debug"));
        // All packages are selected, so that everything has the features that it was built with.
        command.arg("--workspace");
        for target in targets {
            command.args(["--test", target]);
        }
    } else {
        command.args(["--workspace", "--exclude", TESTS_PACKAGE]);
    }
    if let Some(envoy) = envoy {
        command.env("ENVOY", envoy);
    }
    command.arg("--").args(filter);
    if tier != Tier::Unit {
        // Scores and notes on what was skipped are printed by tests that pass.
        command.arg("--show-output");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
    let mut count = Count::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot read what cargo test prints")?;
            println!("{line}");
            if let Some(more) = parse_result(&line) {
                count.passed += more.passed;
                count.failed += more.failed;
                count.skipped += more.skipped;
            }
        }
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    Ok((count, status.success()))
}

/// Builds the programs that the upper tiers start, and all tests; whether that went well.
fn build() -> Result<bool> {
    let status = workspace::cargo()
        .args(["build", "--workspace", "--all-targets"])
        .status()
        .context("cannot run cargo build")?;
    Ok(status.success())
}

/// Reads libtest's `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; …`.
fn parse_result(line: &str) -> Option<Count> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let part = counts.split("; ").find(|part| part.ends_with(word))?;
        part.split(' ').next()?.parse().ok()
    };
    Some(Count {
        passed: number(" passed")?,
        failed: number(" failed")?,
        skipped: number(" ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn result_lines_are_counted_and_other_lines_are_not() {
        let line = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(
            parse_result(line),
            Some(Count {
                passed: 12,
                failed: 2,
                skipped: 1
            })
        );
        assert_eq!(parse_result("test tests::x ... ok"), None);
        assert_eq!(parse_result("test result: soon"), None);
    }

    #[test]
    fn the_folder_of_a_target_is_its_tier() {
        let package = json!({
            "manifest_path": "/w/tests/Cargo.toml",
            "targets": [
                {"kind": ["lib"], "name": "lateen_tests", "src_path": "/w/tests/src/lib.rs"},
                {"kind": ["test"], "name": "golden_corpus", "src_path": "/w/tests/golden/corpus.rs"},
                {"kind": ["test"], "name": "envoy_ads", "src_path": "/w/tests/envoy/ads.rs"},
                {"kind": ["test"], "name": "golden_render", "src_path": "/w/tests/golden/render.rs"},
                {"kind": ["test"], "name": "envoy_new", "src_path": "/w/tests/envoy/new.rs", "required-features": ["new"]},
            ],
        });
        let found = test_targets(&package);
        assert_eq!(found[&Tier::Golden], ["golden_corpus", "golden_render"]);
        assert_eq!(found[&Tier::Envoy], ["envoy_ads"]);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn every_tier_is_explained() {
        for tier in Tier::ALL {
            assert!(
                HELP.contains(&format!("\n  {}  ", tier.name())) || HELP.contains(&format!("\n  {} ", tier.name()))
            );
        }
    }
}
