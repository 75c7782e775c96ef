//! Running the programs that change the kernel's tables.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Whether a program is on the path.
pub(super) fn exists(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}

/// What a program prints.
///
/// # Errors
/// When it is missing or fails; the message has its words.
pub(super) fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program}: install it, or use an image that has it"))?;
    if !done.status.success() {
        bail!(
            "{program} {}: {}: {}",
            arguments.join(" "),
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs a program that reads rules.
///
/// # Errors
/// When it is missing or refuses; the message has its words and the rules.
pub(super) fn feed(program: &str, arguments: &[&str], text: &str) -> anyhow::Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program}: install it, or use an image that has it"))?;
    let mut input = child.stdin.take().context("no standard input")?;
    // A program that refuses early closes its input: its own words say more.
    let written = input.write_all(text.as_bytes());
    drop(input);
    let done = child.wait_with_output().with_context(|| program.to_owned())?;
    if !done.status.success() {
        bail!(
            "{program}: {}: {}\nthe rules were:\n{text}",
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    written.with_context(|| program.to_owned())
}
