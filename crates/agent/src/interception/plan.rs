//! Which rules there should be. Chains and rules are Istio's, because other tools look for them.

mod dns;
mod transparent;

use std::net::IpAddr;

use anyhow::{Context as _, bail};

use super::rule::{
    DROP, Families, Family, IN_REDIRECT, INBOUND, LOCAL_OUTPUT, Match, OUTPUT, Owner, PREROUTING, REDIRECT, Rule,
    Table, Target,
};

const LOOPBACK: &str = "lo";
const LOOPBACK_V6: &str = "::1/128";
/// Envoy's connections to the application come from here.
const PASSTHROUGH: (&str, &str) = ("127.0.0.6/32", "::6/128");
const DNS_PORT: u16 = 53;

/// How inbound connections come to Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Their destination becomes Envoy's.
    Redirect,
    /// They keep source and destination; packets with this mark are routed to this machine.
    Transparent {
        /// The mark.
        mark: u32,
    },
}

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) mode: Mode,
    pub(crate) outbound_port: u16,
    pub(crate) inbound_port: u16,
    pub(crate) tunnel_port: u16,
    pub(crate) dns_port: u16,
    pub(crate) uids: Vec<String>,
    pub(crate) gids: Vec<String>,
    pub(crate) inbound_ports: Ports,
    pub(crate) inbound_ports_exclude: Vec<u16>,
    pub(crate) exclude_interfaces: Vec<String>,
    /// `*` for all.
    pub(crate) outbound_ranges: Vec<String>,
    pub(crate) outbound_ranges_exclude: Vec<String>,
    pub(crate) outbound_ports: Vec<u16>,
    pub(crate) outbound_ports_exclude: Vec<u16>,
    pub(crate) virtual_interfaces: Vec<String>,
    /// `*` for all.
    pub(crate) owner_groups: Vec<String>,
    pub(crate) owner_groups_exclude: Vec<String>,
    pub(crate) loopback_v4: String,
    pub(crate) redirect_dns: bool,
    pub(crate) capture_all_dns: bool,
    pub(crate) dns_servers_v4: Vec<String>,
    pub(crate) dns_servers_v6: Vec<String>,
    pub(crate) drop_invalid: bool,
    pub(crate) ipv6: bool,
}

/// Inbound ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ports {
    All,
    These(Vec<u16>),
}

/// The rules of both families, in the order in which they are added.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    rules: Vec<Rule>,
}

/// Ranges of one family.
#[derive(Debug, Default)]
struct Ranges {
    all: bool,
    cidrs: Vec<String>,
    has_loopback: bool,
}

// === impl Settings ===

impl Settings {
    /// The proxy's users and groups.
    fn owners(&self) -> Vec<Owner> {
        let users = self.uids.iter().cloned().map(Owner::User);
        users.chain(self.gids.iter().cloned().map(Owner::Group)).collect()
    }

    fn captures_dns(&self) -> bool {
        let servers = !self.dns_servers_v4.is_empty() || !self.dns_servers_v6.is_empty();
        self.redirect_dns && (self.capture_all_dns || servers)
    }

    /// The proxy's loopback range of a family.
    fn loopback(&self, family: Family) -> String {
        match family {
            Family::V4 => self.loopback_v4.clone(),
            Family::V6 => LOOPBACK_V6.to_owned(),
        }
    }
}

// === impl Plan ===

impl Plan {
    /// Makes the rules.
    ///
    /// # Errors
    /// When a range is no CIDR; the message names it.
    pub(crate) fn new(settings: &Settings) -> anyhow::Result<Self> {
        let (include_v4, include_v6) = ranges(&settings.outbound_ranges)?;
        let (exclude_v4, exclude_v6) = ranges(&settings.outbound_ranges_exclude)?;
        if exclude_v4.all {
            bail!("--istio-service-exclude-cidr: must be CIDRs, `*` would exclude everything");
        }
        if settings.redirect_dns && !settings.captures_dns() {
            tracing::warn!("DNS is not redirected: /etc/resolv.conf names no resolver");
        }
        let mut plan = Self::default();
        let loopback_included = include_v4.has_loopback || include_v6.has_loopback;
        plan.interfaces(settings);
        plan.inbound(settings);
        plan.owners(settings, loopback_included);
        for matches in groups(settings) {
            plan.both(Table::Nat, OUTPUT, matches, Target::Return);
        }
        if settings.captures_dns() {
            plan.dns(settings);
        }
        for family in [Family::V4, Family::V6] {
            let to = Match::To(settings.loopback(family));
            plan.one(family, Table::Nat, OUTPUT, vec![to], Target::Return);
        }
        for (family, exclude) in [(Family::V4, &exclude_v4), (Family::V6, &exclude_v6)] {
            for cidr in &exclude.cidrs {
                plan.one(
                    family,
                    Table::Nat,
                    OUTPUT,
                    vec![Match::To(cidr.clone())],
                    Target::Return,
                );
            }
        }
        for port in &settings.outbound_ports {
            let matches = vec![Match::Tcp, Match::Port(*port)];
            plan.both(Table::Nat, OUTPUT, matches, Target::Jump(REDIRECT));
        }
        plan.outbound(settings, Family::V4, &include_v4);
        plan.outbound(settings, Family::V6, &include_v6);
        Ok(plan)
    }

    /// All rules.
    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    fn add(
        &mut self,
        families: Families,
        (table, chain): (Table, &'static str),
        position: Option<usize>,
        matches: Vec<Match>,
        target: Target,
    ) {
        self.rules.push(Rule {
            families,
            table,
            chain,
            position,
            matches,
            target,
        });
    }

    fn one(&mut self, family: Family, table: Table, chain: &'static str, matches: Vec<Match>, target: Target) {
        self.add(Families::Only(family), (table, chain), None, matches, target);
    }

    fn both(&mut self, table: Table, chain: &'static str, matches: Vec<Match>, target: Target) {
        self.add(Families::Both, (table, chain), None, matches, target);
    }

    /// Interfaces that are left alone, and the chains that others jump to.
    fn interfaces(&mut self, settings: &Settings) {
        let mut tables = vec![Table::Nat];
        if settings.mode != Mode::Redirect {
            tables.push(Table::Mangle);
        }
        for interface in &settings.exclude_interfaces {
            for table in &tables {
                let from = Match::Incoming(interface.clone());
                self.both(*table, PREROUTING, vec![from], Target::Return);
                let to = Match::Outgoing(interface.clone());
                self.both(*table, LOCAL_OUTPUT, vec![to], Target::Return);
            }
        }
        for interface in &settings.virtual_interfaces {
            let from = Match::Incoming(interface.clone());
            self.add(
                Families::Both,
                (Table::Nat, PREROUTING),
                Some(1),
                vec![from],
                Target::Return,
            );
        }
        if settings.drop_invalid {
            self.both(Table::Mangle, PREROUTING, vec![Match::Invalid], Target::Jump(DROP));
            self.both(Table::Mangle, DROP, vec![], Target::Drop);
        }
        let tunnel = vec![Match::Tcp, Match::Port(settings.tunnel_port)];
        self.both(Table::Nat, INBOUND, tunnel, Target::Return);
        let outbound = Target::Redirect(settings.outbound_port);
        self.both(Table::Nat, REDIRECT, vec![Match::Tcp], outbound);
        let inbound = Target::Redirect(settings.inbound_port);
        self.both(Table::Nat, IN_REDIRECT, vec![Match::Tcp], inbound);
    }

    fn inbound(&mut self, settings: &Settings) {
        let wanted = settings.inbound_ports != Ports::These(Vec::new());
        match settings.mode {
            Mode::Redirect if wanted => self.redirected(settings),
            Mode::Transparent { mark } if wanted => self.transparent(settings, mark),
            _ => {}
        }
        self.both(Table::Nat, LOCAL_OUTPUT, vec![], Target::Jump(OUTPUT));
        for port in &settings.outbound_ports_exclude {
            for protocol in [Match::Tcp, Match::Udp] {
                self.both(Table::Nat, OUTPUT, vec![protocol, Match::Port(*port)], Target::Return);
            }
        }
        for (family, from) in [(Family::V4, PASSTHROUGH.0), (Family::V6, PASSTHROUGH.1)] {
            let matches = vec![Match::Outgoing(LOOPBACK.into()), Match::From(from.into())];
            self.one(family, Table::Nat, OUTPUT, matches, Target::Return);
        }
    }

    fn redirected(&mut self, settings: &Settings) {
        self.both(Table::Nat, PREROUTING, vec![Match::Tcp], Target::Jump(INBOUND));
        self.inbound_ports(settings, Table::Nat, |plan, matches| {
            plan.both(Table::Nat, INBOUND, matches, Target::Jump(IN_REDIRECT));
        });
    }

    /// Which ports are left alone, and what `take` does with those that are not.
    fn inbound_ports(&mut self, settings: &Settings, table: Table, take: fn(&mut Self, Vec<Match>)) {
        match &settings.inbound_ports {
            Ports::These(ports) => {
                for port in ports {
                    take(self, vec![Match::Tcp, Match::Port(*port)]);
                }
            }
            Ports::All => {
                for port in &settings.inbound_ports_exclude {
                    let matches = vec![Match::Tcp, Match::Port(*port)];
                    self.both(table, INBOUND, matches, Target::Return);
                }
                take(self, vec![Match::Tcp]);
            }
        }
    }

    /// What the proxy itself sends: to its own pod through inbound, everything else as it is. And what the application
    /// sends itself over loopback is left alone.
    fn owners(&mut self, settings: &Settings, loopback_included: bool) {
        let dns = settings.captures_dns();
        for owner in settings.owners() {
            // The agent's own queries over TCP must not come back through inbound.
            let ports = if dns && matches!(owner, Owner::User(_)) {
                Match::NotPorts(vec![DNS_PORT, settings.tunnel_port])
            } else {
                Match::NotPort(settings.tunnel_port)
            };
            for family in [Family::V4, Family::V6] {
                let matches = vec![
                    Match::Outgoing(LOOPBACK.into()),
                    Match::NotTo(settings.loopback(family)),
                    Match::Tcp,
                    ports.clone(),
                    Match::SentBy(owner.clone()),
                ];
                self.one(family, Table::Nat, OUTPUT, matches, Target::Jump(IN_REDIRECT));
            }
            if !loopback_included {
                let mut matches = vec![Match::Outgoing(LOOPBACK.into())];
                if dns {
                    // A resolver on loopback is captured too, so its port does not return here.
                    matches.extend([Match::Tcp, Match::NotPort(DNS_PORT)]);
                }
                matches.push(Match::NotSentBy(owner.clone()));
                self.both(Table::Nat, OUTPUT, matches, Target::Return);
            }
            self.both(Table::Nat, OUTPUT, vec![Match::SentBy(owner)], Target::Return);
        }
    }

    fn outbound(&mut self, settings: &Settings, family: Family, include: &Ranges) {
        let mut redirect = |to: Vec<Match>| {
            self.one(family, Table::Nat, OUTPUT, to.clone(), Target::Jump(REDIRECT));
            for interface in &settings.virtual_interfaces {
                let mut matches = vec![Match::Incoming(interface.clone())];
                matches.extend(to.clone());
                let target = Target::Jump(REDIRECT);
                self.add(
                    Families::Only(family),
                    (Table::Nat, PREROUTING),
                    Some(1),
                    matches,
                    target,
                );
            }
        };
        if include.all {
            return redirect(vec![]);
        }
        for cidr in &include.cidrs {
            redirect(vec![Match::To(cidr.clone())]);
        }
    }
}

/// What tells packets of applications whose group is left alone: one list of matches for each group of these, or one for
/// all groups but those that are included.
fn groups(settings: &Settings) -> Vec<Vec<Match>> {
    if settings.owner_groups.iter().any(|group| group == "*") {
        let excluded = settings.owner_groups_exclude.iter();
        return excluded
            .map(|group| vec![Match::SentBy(Owner::Group(group.clone()))])
            .collect();
    }
    let others = settings.owner_groups.iter();
    vec![
        others
            .map(|group| Match::NotSentBy(Owner::Group(group.clone())))
            .collect(),
    ]
}

/// CIDRs by family.
fn ranges(texts: &[String]) -> anyhow::Result<(Ranges, Ranges)> {
    let (mut v4, mut v6) = (Ranges::default(), Ranges::default());
    for text in texts {
        if text == "*" {
            (v4.all, v6.all) = (true, true);
            continue;
        }
        let bad = || format!("range `{text}`: must be a CIDR such as 10.0.0.0/8, or *");
        let (ip, bits) = text.split_once('/').with_context(bad)?;
        let (ip, bits): (IpAddr, u8) = (ip.parse().ok().with_context(bad)?, bits.parse().ok().with_context(bad)?);
        let (ranges, longest) = if ip.is_ipv4() { (&mut v4, 32) } else { (&mut v6, 128) };
        if bits > longest {
            bail!(bad());
        }
        ranges.has_loopback |= ip.is_loopback();
        ranges.cidrs.push(text.clone());
    }
    Ok((v4, v6))
}

#[cfg(test)]
mod tests;
