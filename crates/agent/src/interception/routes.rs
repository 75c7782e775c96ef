//! Where packets with TPROXY's mark go: to this machine, whatever their destination.

use super::command;
use super::rule::Family;

const PROGRAM: &str = "ip";

fn version(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// Adds rule and route, or leaves them as they are.
///
/// # Errors
/// When ip is missing or refuses; the message has its words.
pub(super) fn add(family: Family, mark: u32, table: u32) -> anyhow::Result<()> {
    let (version, mark, table) = (version(family), mark.to_string(), table.to_string());
    let route = ["route", "replace", "local", "default", "dev", "lo", "table", &table];
    command::output(PROGRAM, &[&[version], &route[..]].concat())?;
    if !is_there(version, &table)? {
        let rule = ["rule", "add", "fwmark", &mark, "lookup", &table];
        command::output(PROGRAM, &[&[version], &rule[..]].concat())?;
    }
    Ok(())
}

/// Takes away what is there.
pub(super) fn remove(family: Family, mark: u32, table: u32) {
    let (version, mark, table) = (version(family), mark.to_string(), table.to_string());
    let rule = ["rule", "del", "fwmark", &mark, "lookup", &table];
    // Without TPROXY before there is nothing, and without ip there cannot have been.
    if command::exists(PROGRAM) && is_there(version, &table).unwrap_or(false) {
        let route = ["route", "flush", "table", &table];
        for command in [&rule[..], &route[..]] {
            if let Err(error) = command::output(PROGRAM, &[&[version], command].concat()) {
                tracing::warn!(error = format!("{error:#}"), "TPROXY's route");
            }
        }
    }
}

fn is_there(version: &str, table: &str) -> anyhow::Result<bool> {
    let rules = command::output(PROGRAM, &[version, "rule", "list"])?;
    let lookup = format!("lookup {table}");
    Ok(rules.lines().any(|rule| rule.trim_end().ends_with(&lookup)))
}
