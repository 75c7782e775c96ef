//! The outer half of the demo: what must exist before the mesh can run, and the process that holds it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::DemoArgs;
use super::forward;
use super::ground::Ground;
use super::loopback::{self, free_network};
use super::plan;
use crate::progress::{self, Step};
use crate::tools;
use crate::workspace::{Workspace, cargo, root};

/// The programs that the demo runs, besides Envoy.
const PROGRAMS: &[&str] = &["lateend", "lateen-agent", "lateen", "shop"];

/// Runs the demo.
///
/// # Errors
/// When it cannot be set up, or a step of the story was not observed.
pub(crate) fn run(args: DemoArgs) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot handle signals")?;
    }
    let isolation = isolation(args.loopback)?;
    let envoy = tools::envoy(args.envoy.clone())?;
    let programs = match &args.programs {
        Some(folder) => PROGRAMS.iter().map(|name| folder.join(name)).collect(),
        None => build(&args.profile)?,
    };
    if stop.load(Ordering::Relaxed) {
        bail!("interrupted");
    }

    let folder = Folder::make(&isolation.unshare)?;
    let dir = folder.path();
    prepare(dir, &programs, &envoy).with_context(|| format!("cannot prepare {}", dir.display()))?;
    if let Ground::Loopback(network) = isolation.ground {
        loopback::lay_out(&dir.join("config"), network)?;
    }
    let forwards = if args.keep {
        forward::open_all(&plan::cast(&dir.join("config/pods.yaml"))?)?
    } else {
        Vec::new()
    };
    for forward in &forwards {
        forward.serve(dir)?;
    }

    let me = std::env::current_exe().context("cannot find this program")?;
    let mut command = if isolation.unshare.is_empty() {
        Command::new(me)
    } else {
        let mut command = Command::new("unshare");
        command.args(&isolation.unshare).arg("--").arg(me);
        command
    };
    command
        .arg("demo-world")
        .args(["--ground", &isolation.ground.to_string()]);
    command.arg("--dir").arg(dir).args(["--rate", &args.rate.to_string()]);
    command
        .args(args.once.then_some("--once"))
        .args(args.keep.then_some("--keep"));
    for forward in &forwards {
        command.args(["--forward", &format!("{}={}", forward.name, forward.port)]);
    }
    // In a process group of its own, so that Ctrl-C reaches the inner process once and in order: through us.
    let mut inner = command
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("cannot start the demo's world")?;
    let status = wait(&mut inner, &stop)?;
    if stop.load(Ordering::Relaxed) {
        if args.once {
            bail!("interrupted");
        }
        println!("ended; nothing is left behind");
        return Ok(());
    }
    if !status.success() {
        bail!("the demo did not observe everything it should have");
    }
    Ok(())
}

/// Waits for the inner process; asks it to end, by closing its standard input, when `stop` is set.
fn wait(inner: &mut Child, stop: &AtomicBool) -> Result<std::process::ExitStatus> {
    let (_open, tick) = mpsc::channel::<()>();
    let mut asked: Option<Instant> = None;
    loop {
        if let Some(status) = inner.try_wait().context("cannot wait for the demo's world")? {
            return Ok(status);
        }
        if stop.load(Ordering::Relaxed) && asked.is_none() {
            drop(inner.stdin.take());
            asked = Some(Instant::now());
        }
        if asked.is_some_and(|since| since.elapsed() > Duration::from_secs(15)) {
            // unshare takes its child with it (--kill-child), and the process namespace all others.
            inner.kill().context("cannot end the demo's world")?;
        }
        let _ = tick.recv_timeout(Duration::from_millis(50));
    }
}

/// How the demo's world is set apart from the machine.
struct Isolation {
    ground: Ground,
    /// Arguments of `unshare`; none means no namespaces.
    unshare: Vec<&'static str>,
}

/// The best way that works here: everything the world will do is tried once.
fn isolation(loopback: bool) -> Result<Isolation> {
    const NAMESPACES: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    const REDIRECTION: &str = "mount -t tmpfs tmpfs /run && ip link add name trial0 type bridge && ip netns add trial \
        && ip netns exec trial iptables -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001";
    const USERS: &str = " && touch /run/x && chown 1337 /run/x \
        && ip netns exec trial iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner 1337 -j RETURN";
    let ways: [(&str, Ground, &[&str]); 3] = [
        ("as root", Ground::Namespaces, &[]),
        (
            "in a user namespace",
            Ground::Namespaces,
            &["--user", "--map-root-user", "--map-auto"],
        ),
        (
            "in a user namespace with one user",
            Ground::OneUser,
            &["--user", "--map-root-user"],
        ),
    ];
    if loopback {
        return Ok(Isolation {
            ground: free_network()?,
            unshare: Vec::new(),
        });
    }
    let step = Step::start("trying network namespaces");
    let mut why = String::new();
    for (what, ground, user) in ways {
        let unshare: Vec<&str> = user.iter().chain(&NAMESPACES).copied().collect();
        let script = format!("{REDIRECTION}{}", if ground == Ground::OneUser { "" } else { USERS });
        let trial = Command::new("unshare")
            .args(&unshare)
            .args(["--", "sh", "-c", &script])
            .stdin(Stdio::null())
            .output();
        match trial {
            Ok(output) if output.status.success() => {
                step.done(what);
                return Ok(Isolation { ground, unshare });
            }
            Ok(output) => why = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => why = format!("unshare: {error}"),
        }
    }
    step.failed("");
    eprintln!("  no network namespaces here ({why}): the mesh runs on loopback addresses, without interception");
    Ok(Isolation {
        ground: free_network()?,
        unshare: Vec::new(),
    })
}

fn build(profile: &str) -> Result<Vec<PathBuf>> {
    progress::quiet(
        "building lateend, lateen-agent, lateen and the shop",
        cargo().args([
            "build",
            "--profile",
            profile,
            "-p",
            "lateen-daemon",
            "-p",
            "lateen-agent",
            "-p",
            "lateen-cli",
            "-p",
            "lateen-shop",
        ]),
    )?;
    let dir = Workspace::load()?
        .target_dir
        .join(if profile == "dev" { "debug" } else { profile });
    Ok(PROGRAMS.iter().map(|name| dir.join(name)).collect())
}

/// Fills the demo's folder: programs where every user inside can run them, and a copy of the sample to edit.
fn prepare(dir: &Path, programs: &[PathBuf], envoy: &Path) -> Result<()> {
    for name in ["bin", "config", "log", "pod", "port", "lateend"] {
        fs::create_dir(dir.join(name)).with_context(|| format!("cannot make {name}"))?;
    }
    for program in programs.iter().map(PathBuf::as_path).chain([envoy]) {
        let name = program
            .file_name()
            .with_context(|| format!("{} names no file", program.display()))?;
        let name = if program == envoy { "envoy".as_ref() } else { name };
        let to = dir.join("bin").join(name);
        // A link costs nothing; across file systems it takes a copy.
        if fs::hard_link(program, &to).is_err() {
            fs::copy(program, &to).with_context(|| format!("cannot copy {}", program.display()))?;
        }
    }
    let samples = root().join("samples/bookinfo");
    for entry in fs::read_dir(&samples).with_context(|| format!("cannot list {}", samples.display()))? {
        let path = entry.context("cannot list the sample")?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = path.file_name().context("a file without a name")?;
            fs::copy(&path, dir.join("config").join(name))
                .with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// The demo's folder, removed when dropped, with the rights that made what is in it.
struct Folder {
    dir: tempfile::TempDir,
    unshare: Vec<&'static str>,
}

impl Folder {
    fn make(unshare: &[&'static str]) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("lateen-demo-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        // The users inside the namespaces must be able to reach what is in it.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))
            .context("cannot open the temporary folder")?;
        Ok(Self {
            dir,
            unshare: unshare.to_vec(),
        })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Files of users that only the user namespace knows can only be removed from there.
        if self.unshare.contains(&"--map-auto") {
            let _ = Command::new("unshare")
                .args([
                    "--user",
                    "--map-root-user",
                    "--map-auto",
                    "--",
                    "sh",
                    "-c",
                    "rm -rf \"$1\"/*",
                    "sh",
                ])
                .arg(self.dir.path())
                .status();
        }
    }
}
