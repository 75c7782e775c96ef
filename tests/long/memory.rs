//! What an agent keeps resident, in an optimized build: debug builds are larger and prove nothing.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The test asserts the limit in builds without debug assertions.
#[test]
fn an_agent_with_its_envoy_stays_small() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let output = Command::new(cargo)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["test", "--profile", "quick", "-p", "lateen-agent", "--test", "proxy"])
        .args(["a_proxy_from_its_start_to_its_drain", "--", "--nocapture"])
        .output()
        .context("cannot run cargo test")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let measured: Vec<&str> = said.lines().filter(|line| line.contains("resident memory")).collect();
    println!("{}", measured.join("\n"));
    ensure!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(!measured.is_empty(), "nothing was measured; is there an Envoy?\n{said}");
    Ok(())
}
