//! The property tests of all crates, with cases that no run has tried before. A failure prints its seed, with which
//! `PROPTEST_RNG_SEED=<seed> cargo test …` shows it again.

use std::ffi::OsString;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

/// Packages whose property tests have a number of cases of their own, so that more come from more seeds.
const BY_SEED: &[&str] = &["lateen-lower", "lateen-distribute", "lateen-pki", "lateen-api"];

/// How many seeds those are run with, unless `LATEEN_LONG_SEEDS` says otherwise.
const SEEDS: u64 = 25;

/// Histories of a session, for each dialect of the protocol.
const HISTORIES: &str = "200000";

#[test]
fn sessions_end_where_they_should_in_long_histories() -> Result<()> {
    let seed = seed()?;
    tried(&["-p", "lateen-xds", "--lib", "histories"], seed, Some(HISTORIES))
}

#[test]
fn properties_hold_for_other_seeds() -> Result<()> {
    let seeds = std::env::var("LATEEN_LONG_SEEDS").map_or(Ok(SEEDS), |text| text.parse())?;
    let first = seed()?;
    let mut packages = Vec::new();
    for package in BY_SEED {
        packages.extend(["-p", package]);
    }
    packages.push("--tests");
    for number in 0..seeds {
        println!("seed {} ({} of {seeds})", first + number, number + 1);
        tried(&packages, first + number, None)?;
    }
    Ok(())
}

/// One that changes from run to run.
fn seed() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

fn tried(arguments: &[&str], seed: u64, cases: Option<&str>) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.args(["test", "--quiet"]).args(arguments);
    command.env("PROPTEST_RNG_SEED", seed.to_string());
    if let Some(cases) = cases {
        command.env("PROPTEST_CASES", cases);
    }
    let output = command.output().context("cannot run cargo test")?;
    ensure!(
        output.status.success(),
        "PROPTEST_RNG_SEED={seed} cargo test {}\n{}\n{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
