//! Rules as iptables has them. The rules of one IP version are one `iptables-restore` transaction a table, in one run.

use std::collections::BTreeMap;

use anyhow::bail;

use super::command;
use super::rule::{Family, Match, OUTPUT, Owner, PREFIX, Rule, Table, Target};

/// How long to wait for another program that changes rules, in seconds.
const LOCK_WAIT: &str = "30";
/// Marks our rules in chains of the kernel that do not jump to a chain of ours, so that a later run finds them.
pub(super) const COMMENT: &str = "-m comment --comment lateen";

/// Whether the programs are there.
pub(super) fn is_installed(binary: Option<&str>) -> bool {
    program(Family::V4, "save", binary).is_ok_and(|program| command::exists(&program))
}

/// Whether a former run's rules are there.
///
/// # Errors
/// When iptables is missing or fails.
pub(super) fn is_applied(family: Family, binary: Option<&str>) -> anyhow::Result<bool> {
    let saved = command::output(&program(family, "save", binary)?, &[])?;
    Ok(saved.lines().any(|line| line.starts_with(&format!(":{OUTPUT} "))))
}

/// Replaces what a former run has left by `rules`, both in one transaction.
///
/// # Errors
/// When iptables is missing or refuses; the message has its words.
pub(super) fn apply(family: Family, rules: &str, binary: Option<&str>) -> anyhow::Result<()> {
    let saved = command::output(&program(family, "save", binary)?, &[])?;
    let text = with_cleanup(&cleanup(&saved), rules);
    if text.is_empty() {
        return Ok(());
    }
    let restore = program(family, "restore", binary)?;
    tracing::info!(command = restore, "applying rules");
    command::feed(&restore, &["--noflush", "-w", LOCK_WAIT], &text)
}

fn program(family: Family, action: &str, binary: Option<&str>) -> anyhow::Result<String> {
    let name = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    match binary.filter(|binary| !binary.is_empty()) {
        None => Ok(format!("{name}-{action}")),
        Some(kind @ ("legacy" | "nft")) => Ok(format!("{name}-{kind}-{action}")),
        Some(other) => bail!("--force-iptables-binary `{other}`: must be legacy or nft"),
    }
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
            let ours = rule.contains(&format!("-j {PREFIX}")) || rule.contains(COMMENT);
            if !own_chain && ours {
                jumps.push(format!("-D {rule}"));
            }
        } else if line == "COMMIT" && !(chains.is_empty() && jumps.is_empty()) {
            let flush = chains.iter().map(|chain| format!("-F {chain}"));
            let delete = chains.iter().map(|chain| format!("-X {chain}"));
            tables.insert(table.clone(), jumps.drain(..).chain(flush).chain(delete).collect());
            chains.clear();
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

/// The rules of one IP version as `iptables-restore` reads them: tables in their order, in each first its own chains, in
/// the order of their first rule.
pub(super) fn render(rules: &[Rule], family: Family) -> String {
    let mut out = String::new();
    for table in Table::ALL {
        let here = |rule: &&Rule| rule.table == table && rule.is_for(family);
        let of_table: Vec<&Rule> = rules.iter().filter(here).collect();
        if of_table.is_empty() {
            continue;
        }
        out.push_str(&format!("* {}\n", table.name()));
        let mut chains: Vec<&str> = Vec::new();
        for rule in &of_table {
            if rule.chain.starts_with(PREFIX) && !chains.contains(&rule.chain) {
                chains.push(rule.chain);
                out.push_str(&format!("-N {}\n", rule.chain));
            }
        }
        for rule in of_table {
            let place = match rule.position {
                None => format!("-A {}", rule.chain),
                Some(position) => format!("-I {} {position}", rule.chain),
            };
            let matches: String = rule.matches.iter().map(|one| format!(" {}", matched(one))).collect();
            let jumps = matches!(rule.target, Target::Jump(_));
            let comment = if rule.chain.starts_with(PREFIX) || jumps {
                String::new()
            } else {
                format!(" {COMMENT}")
            };
            out.push_str(&format!("{place}{matches}{comment} {}\n", target(&rule.target)));
        }
        out.push_str("COMMIT\n");
    }
    out
}

fn matched(one: &Match) -> String {
    match one {
        Match::Incoming(interface) => format!("-i {interface}"),
        Match::Outgoing(interface) => format!("-o {interface}"),
        Match::From(range) => format!("-s {range}"),
        Match::To(range) => format!("-d {range}"),
        Match::NotTo(range) => format!("! -d {range}"),
        Match::Tcp => "-p tcp".to_owned(),
        Match::Udp => "-p udp".to_owned(),
        Match::Port(port) => format!("--dport {port}"),
        Match::NotPort(port) => format!("! --dport {port}"),
        Match::NotPorts(ports) => {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            format!("-m multiport ! --dports {}", ports.join(","))
        }
        Match::SourcePort(port) => format!("--sport {port}"),
        Match::SentBy(owner) => format!("-m owner {}", owned(owner)),
        Match::NotSentBy(owner) => format!("-m owner ! {}", owned(owner)),
        Match::Mark(mark) => format!("-m mark --mark {mark}"),
        Match::NotMark(mark) => format!("-m mark ! --mark {mark}"),
        Match::ConnectionMark(mark) => format!("-m connmark --mark {mark}"),
        Match::Invalid => "-m conntrack --ctstate INVALID".to_owned(),
        Match::Established => "-m conntrack --ctstate RELATED,ESTABLISHED".to_owned(),
    }
}

fn owned(owner: &Owner) -> String {
    match owner {
        Owner::User(user) => format!("--uid-owner {user}"),
        Owner::Group(group) => format!("--gid-owner {group}"),
    }
}

fn target(target: &Target) -> String {
    match target {
        Target::Return => "-j RETURN".to_owned(),
        Target::Accept => "-j ACCEPT".to_owned(),
        Target::Drop => "-j DROP".to_owned(),
        Target::Jump(chain) => format!("-j {chain}"),
        Target::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Target::Transparent { port, mark } => {
            format!("-j TPROXY --tproxy-mark {mark}/0xffffffff --on-port {port}")
        }
        Target::SetMark(mark) => format!("-j MARK --set-mark {mark}"),
        Target::SaveMark => "-j CONNMARK --save-mark".to_owned(),
        Target::RestoreMark => "-j CONNMARK --restore-mark".to_owned(),
        Target::Zone(zone) => format!("-j CT --zone {zone}"),
    }
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
        let marked = format!("*mangle\n-A OUTPUT {COMMENT} -j RETURN\nCOMMIT\n");
        assert_eq!(
            with_cleanup(&cleanup(&marked), ""),
            format!("* mangle\n-D OUTPUT {COMMENT} -j RETURN\nCOMMIT\n")
        );
        assert_eq!(with_cleanup(&cleanup("*nat\n:OUTPUT ACCEPT\nCOMMIT\n"), ""), "");
    }
}
