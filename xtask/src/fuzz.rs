//! `cargo xtask fuzz`: the functions of `crates/fuzz` under libFuzzer, one after the other, each for a while.
//!
//! What is found lies in `target/fuzz/`: inputs that reach something new in `corpus/`, inputs that broke something in
//! `artifacts/`. `--merge` puts those of the first that add to the committed corpus into `fuzz/corpus/`.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::progress::Step;
use crate::workspace::{Workspace, root};

/// How long one input may take.
const TIMEOUT_SECONDS: u32 = 20;
/// How many lines of a failed run are shown.
const SHOWN: usize = 60;

/// The options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct FuzzArgs {
    /// Targets to run, as fuzz/fuzz_targets/ has them; none means all
    targets: Vec<String>,
    /// How long each runs, e.g. 90s, 10m, 1h
    #[arg(long = "for", default_value = "10m", value_parser = duration, value_name = "TIME")]
    time: Duration,
    /// Put inputs that reach something new into the committed corpus
    #[arg(long)]
    merge: bool,
}

/// Runs them.
///
/// # Errors
/// When the tools are not there, or an input broke a target.
pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    let known = targets()?;
    if let Some(unknown) = args.targets.iter().find(|name| !known.contains(name)) {
        bail!("there is no target `{unknown}`; there are {}", known.join(", "));
    }
    tools()?;
    let output = Workspace::load()?.target_dir.join("fuzz");
    let wanted = if args.targets.is_empty() { &known } else { &args.targets };
    let mut broken = Vec::new();
    for target in wanted {
        if !fuzz(target, args.time, &output)? {
            broken.push(target.as_str());
        }
        if args.merge {
            merge(target, &output)?;
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!(
        "inputs in {} broke {}; mend it, and move them to fuzz/corpus/",
        output.join("artifacts").display(),
        broken.join(", ")
    )
}

fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("fuzz/fuzz_targets")).context("fuzz/fuzz_targets")? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Instrumentation wants a nightly compiler, and `cargo fuzz` knows its flags.
fn tools() -> Result<()> {
    let works = |command: &mut Command| {
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !works(Command::new("rustup").args(["run", "nightly", "rustc", "--version"])) {
        bail!("there is no nightly compiler: rustup toolchain install nightly --profile minimal");
    }
    if !works(cargo_fuzz().arg("--version")) {
        bail!("there is no cargo-fuzz: cargo install cargo-fuzz --locked");
    }
    Ok(())
}

fn cargo_fuzz() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz"]).current_dir(root());
    // Those are of the compiler that the repository pins.
    for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    command
}

/// A call of a target that reads the committed corpus and the one that earlier runs have found.
fn call(target: &str, output: &Path, first: &Path, second: &Path) -> Result<Command> {
    let artifacts = output.join("artifacts").join(target);
    for folder in [first, second, &artifacts] {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut command = cargo_fuzz();
    command
        .args(["run", "--fuzz-dir", "fuzz", "--target-dir"])
        .arg(output.join("build"));
    command.arg(target).arg(first).arg(second).arg("--");
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg(format!("-timeout={TIMEOUT_SECONDS}"));
    let words = root().join("fuzz/dictionaries").join(format!("{target}.dict"));
    if words.is_file() {
        command.arg(format!("-dict={}", words.display()));
    }
    Ok(command)
}

fn corpora(target: &str, output: &Path) -> (PathBuf, PathBuf) {
    (
        root().join("fuzz/corpus").join(target),
        output.join("corpus").join(target),
    )
}

/// Runs one; whether nothing broke.
fn fuzz(target: &str, time: Duration, output: &Path) -> Result<bool> {
    let step = Step::start(format!("fuzzing {target} for {} s", time.as_secs()));
    let (committed, found) = corpora(target, output);
    // New inputs go to the first folder.
    let mut command = call(target, output, &found, &committed)?;
    command.arg(format!("-max_total_time={}", time.as_secs().max(1)));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run cargo fuzz")?;
    let (mut last, mut tail) = (String::new(), Vec::new());
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = String::from_utf8_lossy(&line.context("cannot read what cargo fuzz prints")?).into_owned();
            if let Some(state) = state(&line) {
                step.at(&state);
                last = state;
            } else if !line.trim().is_empty() {
                step.at(line.trim());
                tail.push(line);
            }
        }
    }
    if child.wait().context("cannot wait for cargo fuzz")?.success() {
        step.done(&last);
        return Ok(true);
    }
    step.failed(&last);
    eprintln!("{}", tail[tail.len().saturating_sub(SHOWN)..].join("\n"));
    Ok(false)
}

fn merge(target: &str, output: &Path) -> Result<()> {
    let (committed, found) = corpora(target, output);
    let mut command = call(target, output, &committed, &found)?;
    crate::progress::quiet(&format!("merging what {target} found"), command.arg("-merge=1"))
}

/// What one of libFuzzer's lines says of its state: `#1234 NEW cov: 56 ft: 78 corp: 9/10Kb … exec/s: 11`.
fn state(line: &str) -> Option<String> {
    let rest = line.strip_prefix('#')?;
    let (runs, rest) = rest.split_once(char::is_whitespace)?;
    let word = |name: &str| {
        let (_, after) = rest.split_once(name)?;
        after.split_whitespace().next()
    };
    let (coverage, inputs, speed) = (word("cov:")?, word("corp:")?, word("exec/s:")?);
    Some(format!("{runs} runs, {speed}/s, coverage {coverage}, corpus {inputs}"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(char::is_alphabetic);
    let unit = match &text[number.len()..] {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write it as 90s, 10m or 1h".to_owned()),
    };
    let count: u64 = number.parse().map_err(|_| "write it as 90s, 10m or 1h".to_owned())?;
    Ok(Duration::from_secs(count.saturating_mul(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert!(duration("soon").is_err() && duration("1d").is_err() && duration("").is_err());
    }

    #[test]
    fn states_are_read_and_other_lines_are_not() {
        let line = "#8192\tpulse  cov: 512 ft: 1024 corp: 64/10Kb lim: 43 exec/s: 4096 rss: 63Mb";
        assert_eq!(
            state(line).as_deref(),
            Some("8192 runs, 4096/s, coverage 512, corpus 64/10Kb")
        );
        assert_eq!(state("INFO: Seed: 1"), None);
        assert_eq!(state("#2\tINITED"), None);
    }

    #[test]
    fn there_are_targets() -> Result<()> {
        assert!(targets()?.contains(&"jwt".to_owned()));
        Ok(())
    }
}
