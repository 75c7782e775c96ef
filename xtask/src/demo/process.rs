//! Child processes that cannot outlive the demo: each leads a process group that is killed when its owner is dropped.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, waitpid,
};

use super::net::Place;
use crate::progress::tail;

/// A running child and the file that holds what it prints.
pub(super) struct Process {
    pub(super) name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` at `place`, with its output in `<logs>/<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(name: &str, command: &mut Command, logs: &Path, place: &Place) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command
            .stdout(output.try_clone().context("cannot share a log")?)
            .stderr(output);
        Self::spawn(name, command, log, place)
    }

    /// As `start`, but what it prints to standard output is for the caller.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start_piped(
        name: &str,
        command: &mut Command,
        logs: &Path,
        place: &Place,
    ) -> Result<(Self, ChildStdout)> {
        let log = logs.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdout(Stdio::piped()).stderr(output);
        let mut process = Self::spawn(name, command, log, place)?;
        let stdout = process.child.stdout.take().context("no standard output")?;
        Ok((process, stdout))
    }

    fn spawn(name: &str, command: &mut Command, log: PathBuf, place: &Place) -> Result<Self> {
        command.stdin(Stdio::null()).process_group(0);
        let child = place
            .within(|| command.spawn())?
            .with_context(|| format!("cannot start {name} ({})", command.get_program().display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            ended: None,
        })
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// When it is gone already.
    pub(super) fn terminate(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Resident memory in bytes, without its children's.
    pub(super) fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kib| kib * 1024)
    }

    /// The end of what it printed.
    pub(super) fn last_words(&self) -> String {
        tail(&std::fs::read_to_string(&self.log).unwrap_or_default(), 15)
    }
}

/// Makes this process the parent of whatever its children leave behind, such as the Envoy of a killed agent.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn adopt_orphans() -> Result<()> {
    set_child_subreaper(Some(getpid())).context("cannot adopt orphans")
}

/// Ends every child of this process, known or adopted, and those that they leave in turn.
pub(super) fn end_children() {
    while let Some(children) = Some(children()).filter(|children| !children.is_empty()) {
        for child in children {
            let _ = kill_process(child, Signal::KILL);
            let _ = waitpid(Some(child), WaitOptions::empty());
        }
    }
}

fn children() -> Vec<Pid> {
    let me = getpid().as_raw_nonzero().get();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name before it may hold anything, also parentheses.
            let parent: i32 = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            (parent == me).then(|| Pid::from_raw(pid)).flatten()
        })
        .collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}
