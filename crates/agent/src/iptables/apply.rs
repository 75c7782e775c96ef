//! Getting rules into the kernel.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// How long to wait for another program that changes rules, in seconds.
const LOCK_WAIT: &str = "30";
const PREFIX: &str = "ISTIO_";

/// Whose rules.
#[derive(Debug, Clone, Copy)]
pub(super) enum Family {
    V4,
    V6,
}

/// Replaces what a former run has left by `rules`, both in one transaction.
///
/// # Errors
/// When iptables is missing or refuses; the message has its words.
pub(super) fn apply(family: Family, rules: &str, binary: Option<&str>) -> anyhow::Result<()> {
    let save = output(&command(family, "save", binary)?, &[])?;
    let text = with_cleanup(&cleanup(&save), rules);
    if text.is_empty() {
        return Ok(());
    }
    let restore = command(family, "restore", binary)?;
    tracing::info!(command = restore, "applying rules");
    let mut child = Command::new(&restore)
        .args(["--noflush", "-w", LOCK_WAIT])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| restore.clone())?;
    child
        .stdin
        .take()
        .context("no standard input")?
        .write_all(text.as_bytes())
        .with_context(|| restore.clone())?;
    let done = child.wait_with_output().with_context(|| restore.clone())?;
    if !done.status.success() {
        bail!(
            "{restore}: {}: {}\nthe rules were:\n{text}",
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(())
}

fn command(family: Family, action: &str, binary: Option<&str>) -> anyhow::Result<String> {
    let program = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    match binary.filter(|binary| !binary.is_empty()) {
        None => Ok(format!("{program}-{action}")),
        Some(kind @ ("legacy" | "nft")) => Ok(format!("{program}-{kind}-{action}")),
        Some(other) => bail!("--force-iptables-binary `{other}`: must be legacy or nft"),
    }
}

fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program}: install iptables, or use an image that has it"))?;
    if !done.status.success() {
        bail!(
            "{program}: {}: {}",
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// What takes a former run's chains out, by table: the rules that jump to them or lie in a chain that is not ours but
/// are ours, then the chains.
fn cleanup(saved: &str) -> BTreeMap<String, Vec<String>> {
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut table = String::new();
    let (mut jumps, mut chains): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for line in saved.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            name.trim().clone_into(&mut table);
        } else if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split_whitespace().next()) {
            if chain.starts_with(PREFIX) {
                chains.push(chain.to_owned());
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let own_chain = rule.starts_with(PREFIX);
            if !own_chain && rule.contains(&format!("-j {PREFIX}")) {
                jumps.push(format!("-D {rule}"));
            }
        } else if line == "COMMIT" && !chains.is_empty() {
            let flush = chains.iter().map(|chain| format!("-F {chain}"));
            let delete = chains.iter().map(|chain| format!("-X {chain}"));
            tables.insert(table.clone(), jumps.drain(..).chain(flush).chain(delete).collect());
            chains.clear();
        } else if line == "COMMIT" {
            jumps.clear();
        }
    }
    tables
}

/// One transaction a table: out with the old, in with the new.
fn with_cleanup(cleanup: &BTreeMap<String, Vec<String>>, rules: &str) -> String {
    let mut left = cleanup.clone();
    let mut out = String::new();
    for line in rules.lines() {
        out.push_str(line);
        out.push('\n');
        if let Some(commands) = line.strip_prefix("* ").and_then(|table| left.remove(table)) {
            for command in commands {
                out.push_str(&command);
                out.push('\n');
            }
        }
    }
    for (table, commands) in left {
        out.push_str(&format!("* {table}\n{}\nCOMMIT\n", commands.join("\n")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\n:ISTIO_INBOUND - [0:0]\n:ISTIO_IN_REDIRECT - [0:0]\n\
        -A PREROUTING -p tcp -j ISTIO_INBOUND\n-A PREROUTING -p tcp -j OTHER\n\
        -A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT\nCOMMIT\n*raw\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";

    #[test]
    fn a_former_run_is_replaced_in_the_same_transaction() {
        let text = with_cleanup(&cleanup(SAVED), "* nat\n-N ISTIO_INBOUND\nCOMMIT\n");
        assert_eq!(
            text,
            "* nat\n-D PREROUTING -p tcp -j ISTIO_INBOUND\n-F ISTIO_INBOUND\n-F ISTIO_IN_REDIRECT\n\
             -X ISTIO_INBOUND\n-X ISTIO_IN_REDIRECT\n-N ISTIO_INBOUND\nCOMMIT\n"
        );
    }

    #[test]
    fn cleaning_up_alone_leaves_others_rules() {
        let text = with_cleanup(&cleanup(SAVED), "");
        assert!(
            text.starts_with("* nat\n-D PREROUTING -p tcp -j ISTIO_INBOUND\n"),
            "{text}"
        );
        assert!(!text.contains("OTHER"));
        assert_eq!(with_cleanup(&cleanup("*nat\n:OUTPUT ACCEPT\nCOMMIT\n"), ""), "");
    }
}
