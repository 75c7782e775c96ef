//! What is left of a node that was removed: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::Cluster;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_run_side_by_side_and_one_that_is_removed_leaves_nothing_behind() -> Result<()> {
    let settings = Settings::read()?;
    let Some(stays) = Cluster::shared().await? else {
        return Ok(());
    };
    let Some(goes) = Cluster::start().await? else {
        return Ok(());
    };
    ensure!(stays.name() != goes.name(), "both are {}", goes.name());
    goes.kubectl(["get", "node", &goes.name()]).await?;
    let (name, state) = (goes.name(), goes.state().to_owned());
    ensure!(
        !traces(&name, &state).await?.is_empty(),
        "a node that runs leaves traces"
    );

    drop(goes);
    let left = traces(&name, &state).await?;
    ensure!(left.is_empty(), "{left:#?}");
    ensure!(settings == Settings::read()?, "the machine's settings changed");
    stays.kubectl(["get", "node", &stays.name()]).await?;
    Ok(())
}

/// What of a node can be seen from outside.
async fn traces(name: &str, state: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let links = Command::new("ip").args(["-o", "link"]).output().await?;
    let routes = Command::new("ip").args(["-o", "route"]).output().await?;
    for text in [links.stdout, routes.stdout] {
        let text = String::from_utf8_lossy(&text).into_owned();
        found.extend(
            text.lines()
                .filter(|line| line.contains(&format!("{name}-h")))
                .map(str::to_owned),
        );
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup")?.flatten() {
        let group = hierarchy.path().join(name);
        if group.exists() {
            found.insert(group.display().to_string());
        }
    }
    if state.exists() {
        found.insert(state.display().to_string());
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let shown = state.display().to_string();
    found.extend(mounts.lines().filter(|line| line.contains(&shown)).map(str::to_owned));
    for process in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&shown) {
            found.insert(line);
        }
    }
    Ok(found)
}

/// Settings of the whole machine that a kubelet would change.
#[derive(PartialEq, Eq, Debug)]
struct Settings(Vec<String>);

impl Settings {
    fn read() -> Result<Self> {
        let read = |path: &&str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let all = [
            "/proc/sys/vm/overcommit_memory",
            "/proc/sys/kernel/panic",
            "/proc/sys/kernel/panic_on_oops",
            "/proc/sys/net/ipv4/ip_forward",
        ];
        all.iter().map(read).collect::<Result<_>>().map(Self)
    }
}
