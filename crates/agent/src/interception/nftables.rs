//! Rules as nftables has them: tables of our own, replaced in one transaction, so that nobody else's rules are touched.

use super::command;
use super::rule::{Families, Family, LOCAL_OUTPUT, Match, Owner, PREROUTING, Rule, Table, Target};

const PROGRAM: &str = "nft";
/// Tables by Istio's names; the kind of rules follows.
const TABLE: &str = "istio-proxy-";
/// Families of tables: IPv4 alone, or both versions.
const FAMILIES: [&str; 2] = ["ip", "inet"];

/// Whether the program is there.
pub(super) fn is_installed() -> bool {
    command::exists(PROGRAM)
}

/// Whether a former run's tables are there.
///
/// # Errors
/// When nft is missing or fails.
pub(super) fn is_applied() -> anyhow::Result<bool> {
    let tables = command::output(PROGRAM, &["list", "tables"])?;
    let name = format!("{TABLE}{}", Table::Nat.name());
    Ok(tables.lines().any(|line| line.trim_end().ends_with(&name)))
}

/// Replaces what a former run has left by these tables, all in one transaction.
///
/// # Errors
/// When nft is missing or refuses; the message has its words.
pub(super) fn apply(tables: &str) -> anyhow::Result<()> {
    tracing::info!(command = PROGRAM, "applying rules");
    command::feed(PROGRAM, &["-f", "-"], &format!("{}{tables}", removal()))
}

/// Takes away the tables of both families. Only what is there can be deleted, so it is declared before.
fn removal() -> String {
    let mut out = String::new();
    for family in FAMILIES {
        for table in Table::ALL {
            let name = format!("{family} {TABLE}{}", table.name());
            out.push_str(&format!("table {name}\ndelete table {name}\n"));
        }
    }
    out
}

/// The tables as `nft -f` reads them.
pub(super) fn render(rules: &[Rule], ipv6: bool) -> String {
    let family = if ipv6 { "inet" } else { "ip" };
    let mut out = String::new();
    for table in Table::ALL {
        let here = |rule: &&Rule| rule.table == table && (ipv6 || rule.is_for(Family::V4));
        let of_table: Vec<&Rule> = rules.iter().filter(here).collect();
        if of_table.is_empty() {
            continue;
        }
        out.push_str(&format!("table {family} {TABLE}{} {{\n", table.name()));
        // A chain must be there before a rule that jumps to it.
        let chains = chains(&of_table);
        for (chain, _) in &chains {
            out.push_str(&format!("\tchain {chain} {{ {}}}\n", hook(table, chain)));
        }
        out.push_str("}\n");
        for (chain, rules) in chains {
            for rule in rules {
                let text = text(rule, ipv6);
                out.push_str(&format!("add rule {family} {TABLE}{} {chain} {text}\n", table.name()));
            }
        }
    }
    out
}

/// Chains in the order of their first rule, each with its rules in the order in which packets meet them.
fn chains<'a>(rules: &[&'a Rule]) -> Vec<(&'static str, Vec<&'a Rule>)> {
    let mut chains: Vec<(&'static str, Vec<&'a Rule>)> = Vec::new();
    for rule in rules {
        let found = chains.iter().position(|(name, _)| *name == rule.chain);
        let index = found.unwrap_or_else(|| {
            chains.push((rule.chain, Vec::new()));
            chains.len() - 1
        });
        let inside = &mut chains[index].1;
        match rule.position {
            // Rules of the other IP version may be in between: they concern other packets, but count here.
            Some(position) => inside.insert((position - 1).min(inside.len()), rule),
            None => inside.push(rule),
        }
    }
    chains
}

fn hook(table: Table, chain: &str) -> String {
    let (kind, priority) = match (table, chain) {
        (Table::Nat, PREROUTING) => ("nat", "dstnat"),
        (Table::Nat, LOCAL_OUTPUT) => ("nat", "-100"),
        // A mark that changes here changes the route.
        (Table::Mangle, LOCAL_OUTPUT) => ("route", "mangle"),
        (Table::Mangle, PREROUTING) => ("filter", "mangle"),
        (Table::Raw, PREROUTING | LOCAL_OUTPUT) => ("filter", "raw"),
        _ => return String::new(),
    };
    let hook = chain.to_ascii_lowercase();
    format!("type {kind} hook {hook} priority {priority}; policy accept; ")
}

fn text(rule: &Rule, ipv6: bool) -> String {
    let family = match rule.families {
        Families::Both => None,
        Families::Only(family) => Some(family),
    };
    let has_address = rule
        .matches
        .iter()
        .any(|one| matches!(one, Match::From(_) | Match::To(_) | Match::NotTo(_)));
    let mut words: Vec<String> = Vec::new();
    if let (Some(family), true, false) = (family, ipv6, has_address) {
        let version = if family == Family::V4 { "ipv4" } else { "ipv6" };
        words.push(format!("meta nfproto {version}"));
    }
    let address = if family == Some(Family::V6) { "ip6" } else { "ip" };
    let protocol = if rule.matches.contains(&Match::Udp) {
        "udp"
    } else {
        "tcp"
    };
    words.extend(rule.matches.iter().map(|one| matched(one, address, protocol)));
    words.push(target(&rule.target, ipv6.then_some(address)));
    words.join(" ")
}

fn matched(one: &Match, address: &str, protocol: &str) -> String {
    match one {
        Match::Incoming(interface) => format!("iifname {}", name(interface)),
        Match::Outgoing(interface) => format!("oifname {}", name(interface)),
        Match::From(range) => format!("{address} saddr {range}"),
        Match::To(range) => format!("{address} daddr {range}"),
        Match::NotTo(range) => format!("{address} daddr != {range}"),
        Match::Tcp => "meta l4proto tcp".to_owned(),
        Match::Udp => "meta l4proto udp".to_owned(),
        Match::Port(port) => format!("{protocol} dport {port}"),
        Match::NotPort(port) => format!("{protocol} dport != {port}"),
        Match::NotPorts(ports) => {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            format!("{protocol} dport != {{ {} }}", ports.join(", "))
        }
        Match::SourcePort(port) => format!("{protocol} sport {port}"),
        Match::SentBy(owner) => owned(owner, ""),
        Match::NotSentBy(owner) => owned(owner, "!= "),
        Match::Mark(mark) => format!("meta mark {mark}"),
        Match::NotMark(mark) => format!("meta mark != {mark}"),
        Match::ConnectionMark(mark) => format!("ct mark {mark}"),
        Match::Invalid => "ct state invalid".to_owned(),
        Match::Established => "ct state related,established".to_owned(),
    }
}

fn owned(owner: &Owner, not: &str) -> String {
    match owner {
        Owner::User(user) => format!("meta skuid {not}{user}"),
        Owner::Group(group) => format!("meta skgid {not}{group}"),
    }
}

/// An interface's name; iptables' sign for any rest is a `+`.
fn name(interface: &str) -> String {
    match interface.strip_suffix('+') {
        Some(beginning) => format!("\"{beginning}*\""),
        None => format!("\"{interface}\""),
    }
}

/// `address` says which IP version, where the table is for both.
fn target(target: &Target, address: Option<&str>) -> String {
    match target {
        Target::Return => "return".to_owned(),
        Target::Accept => "accept".to_owned(),
        Target::Drop => "drop".to_owned(),
        Target::Jump(chain) => format!("jump {chain}"),
        Target::Redirect(port) => format!("redirect to :{port}"),
        Target::Transparent { port, mark } => {
            let address = address.map(|address| format!("{address} ")).unwrap_or_default();
            format!("tproxy {address}to :{port} meta mark set {mark} accept")
        }
        Target::SetMark(mark) => format!("meta mark set {mark}"),
        Target::SaveMark => "ct mark set meta mark".to_owned(),
        Target::RestoreMark => "meta mark set ct mark".to_owned(),
        Target::Zone(zone) => format!("ct zone set {zone}"),
    }
}
