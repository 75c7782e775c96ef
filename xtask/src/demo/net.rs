//! Network namespaces: one for each workload, joined by a bridge. All of them live inside the mount and network namespaces
//! of the demo itself, so they vanish with its last process, and two demos never see each other.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The bridge's address: how workloads reach the control plane.
pub(super) const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const PREFIX: u8 = 16;

/// Where a process or a connection is: in a workload's network namespace, or where the demo itself is.
#[derive(Clone)]
pub(super) enum Place {
    Here,
    Namespace(Arc<File>),
}

impl Place {
    /// Runs `act` with this place's network: on a thread of its own, for namespaces are a property of threads.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub(super) fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T> {
        let Self::Namespace(file) = self else { return Ok(act()) };
        let entered = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("cannot enter a network namespace")?;
                Ok::<T, anyhow::Error>(act())
            });
            thread.join()
        });
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Prepares the demo's own network namespace: loopback, the bridge, a place to keep namespaces.
///
/// # Errors
/// When a command of iproute2 or mount fails.
pub(super) fn prepare() -> Result<()> {
    // A private /run, so that `ip netns` needs no right on the machine's own.
    command("mount", &["-t", "tmpfs", "tmpfs", "/run"])?;
    ip("link set lo up")?;
    ip("link add mesh0 type bridge")?;
    ip(&format!("address add {BRIDGE}/{PREFIX} dev mesh0"))?;
    ip("link set mesh0 up")
}

/// Makes the namespace `name` with `address`, reachable over the bridge; `index` names its cable.
///
/// # Errors
/// When a command of iproute2 fails.
pub(super) fn add(name: &str, index: usize, address: Ipv4Addr) -> Result<Place> {
    let (outer, inner) = (format!("mesh-{index}"), format!("peer-{index}"));
    ip(&format!("netns add {name}"))?;
    ip(&format!("link add {outer} type veth peer name {inner}"))?;
    ip(&format!("link set {outer} master mesh0 up"))?;
    ip(&format!("link set {inner} netns {name} name eth0"))?;
    ip(&format!("-n {name} link set lo up"))?;
    ip(&format!("-n {name} address add {address}/{PREFIX} dev eth0"))?;
    ip(&format!("-n {name} link set eth0 up"))?;
    ip(&format!("-n {name} route add default via {BRIDGE}"))?;
    let file = File::open(format!("/run/netns/{name}")).with_context(|| format!("namespace {name} is not there"))?;
    Ok(Place::Namespace(Arc::new(file)))
}

/// Lets every process of the demo resolve names as a pod in `namespace` does.
///
/// # Errors
/// When `/etc/resolv.conf` cannot be covered.
pub(super) fn resolve_as(namespace: &str, file: &std::path::Path) -> Result<()> {
    // Nobody listens at this address: the proxies' DNS capture answers in its place.
    let text = format!(
        "nameserver 10.96.0.10\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
    );
    std::fs::write(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    if let Ok(link) = std::fs::read_link("/etc/resolv.conf") {
        let target = std::path::Path::new("/etc").join(link);
        if !target.exists() {
            // It pointed into /run, which is ours now.
            if let Some(folder) = target.parent() {
                std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            }
            return std::fs::write(&target, text).with_context(|| format!("cannot write {}", target.display()));
        }
    }
    command("mount", &["--bind", &file.display().to_string(), "/etc/resolv.conf"])
}

fn ip(args: &str) -> Result<()> {
    command("ip", &args.split(' ').collect::<Vec<_>>())
}

fn command(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!(
            "`{program} {}` failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
