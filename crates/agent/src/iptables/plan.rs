//! Which rules there should be. Chains and rules are Istio's, because other tools look for them.

use std::net::IpAddr;

use anyhow::{Context as _, bail};

const INBOUND: &str = "ISTIO_INBOUND";
const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";
const REDIRECT: &str = "ISTIO_REDIRECT";
const OUTPUT: &str = "ISTIO_OUTPUT";
const OUTPUT_DNS: &str = "ISTIO_OUTPUT_DNS";
const DROP: &str = "ISTIO_DROP";
const LOOPBACK_V6: &str = "::1/128";
/// Envoy's connections to the application come from here.
const PASSTHROUGH: (&str, &str) = ("127.0.0.6/32", "::6/128");

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) outbound_port: u16,
    pub(crate) inbound_port: u16,
    pub(crate) tunnel_port: u16,
    pub(crate) dns_port: u16,
    pub(crate) uids: Vec<String>,
    pub(crate) gids: Vec<String>,
    /// `*` for all.
    pub(crate) inbound_ports: Vec<String>,
    pub(crate) inbound_ports_exclude: Vec<String>,
    pub(crate) exclude_interfaces: Vec<String>,
    /// `*` for all.
    pub(crate) outbound_ranges: Vec<String>,
    pub(crate) outbound_ranges_exclude: Vec<String>,
    pub(crate) outbound_ports: Vec<String>,
    pub(crate) outbound_ports_exclude: Vec<String>,
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

/// The rules of both families.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    v4: Vec<Rule>,
    v6: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    Mangle,
    Nat,
    Raw,
}

#[derive(Debug, Clone)]
struct Rule {
    table: Table,
    chain: &'static str,
    /// Where it goes in its chain; none for the end.
    position: Option<usize>,
    text: String,
}

/// Ranges of one family.
#[derive(Debug, Default)]
struct Ranges {
    all: bool,
    cidrs: Vec<String>,
    has_loopback: bool,
}

// === impl Plan ===

impl Plan {
    /// Makes the rules.
    ///
    /// # Errors
    /// When a range is no CIDR or a port no number; the message names it.
    pub(crate) fn new(settings: &Settings) -> anyhow::Result<Self> {
        for port in [
            &settings.inbound_ports,
            &settings.inbound_ports_exclude,
            &settings.outbound_ports,
            &settings.outbound_ports_exclude,
        ]
        .into_iter()
        .flatten()
        .filter(|port| *port != "*")
        {
            port.parse::<u16>()
                .with_context(|| format!("port `{port}`: must be a number from 0 to 65535"))?;
        }
        let (include_v4, include_v6) = ranges(&settings.outbound_ranges)?;
        let (exclude_v4, exclude_v6) = ranges(&settings.outbound_ranges_exclude)?;
        if exclude_v4.all {
            bail!("--istio-service-exclude-cidr: must be CIDRs, `*` would exclude everything");
        }
        let dns = settings.redirect_dns
            && (settings.capture_all_dns || !settings.dns_servers_v4.is_empty() || !settings.dns_servers_v6.is_empty());
        if settings.redirect_dns && !dns {
            tracing::warn!("DNS is not redirected: /etc/resolv.conf names no resolver");
        }
        let mut plan = Self::default();
        let loopback_included = include_v4.has_loopback || include_v6.has_loopback;
        plan.interfaces(settings);
        plan.inbound(settings);
        plan.owners(settings, dns, loopback_included);
        plan.groups(settings);
        if dns {
            plan.dns(settings);
        }
        plan.versioned(
            Table::Nat,
            OUTPUT,
            |loopback| format!("-d {loopback} -j RETURN"),
            (&settings.loopback_v4, LOOPBACK_V6),
        );
        for (v6, exclude) in [(false, &exclude_v4), (true, &exclude_v6)] {
            for cidr in &exclude.cidrs {
                plan.one(v6, Table::Nat, OUTPUT, None, format!("-d {cidr} -j RETURN"));
            }
        }
        for port in &settings.outbound_ports {
            plan.both(Table::Nat, OUTPUT, format!("-p tcp --dport {port} -j {REDIRECT}"));
        }
        plan.outbound(settings, false, &include_v4);
        plan.outbound(settings, true, &include_v6);
        Ok(plan)
    }

    /// The IPv4 rules as `iptables-restore` reads them.
    pub(crate) fn v4(&self) -> String {
        restore(&self.v4)
    }

    /// The IPv6 rules as `ip6tables-restore` reads them.
    pub(crate) fn v6(&self) -> String {
        restore(&self.v6)
    }

    fn one(&mut self, v6: bool, table: Table, chain: &'static str, position: Option<usize>, text: String) {
        let rules = if v6 { &mut self.v6 } else { &mut self.v4 };
        rules.push(Rule {
            table,
            chain,
            position,
            text,
        });
    }

    fn both(&mut self, table: Table, chain: &'static str, text: String) {
        self.one(false, table, chain, None, text.clone());
        self.one(true, table, chain, None, text);
    }

    fn versioned(&mut self, table: Table, chain: &'static str, text: impl Fn(&str) -> String, (v4, v6): (&str, &str)) {
        self.one(false, table, chain, None, text(v4));
        self.one(true, table, chain, None, text(v6));
    }

    /// Interfaces that are left alone, and the chains that others jump to.
    fn interfaces(&mut self, settings: &Settings) {
        for interface in &settings.exclude_interfaces {
            self.both(Table::Nat, "PREROUTING", format!("-i {interface} -j RETURN"));
            self.both(Table::Nat, "OUTPUT", format!("-o {interface} -j RETURN"));
        }
        for interface in &settings.virtual_interfaces {
            for v6 in [false, true] {
                self.one(
                    v6,
                    Table::Nat,
                    "PREROUTING",
                    Some(1),
                    format!("-i {interface} -j RETURN"),
                );
            }
        }
        if settings.drop_invalid {
            self.both(
                Table::Mangle,
                "PREROUTING",
                format!("-m conntrack --ctstate INVALID -j {DROP}"),
            );
            self.both(Table::Mangle, DROP, "-j DROP".into());
        }
        self.both(
            Table::Nat,
            INBOUND,
            format!("-p tcp --dport {} -j RETURN", settings.tunnel_port),
        );
        self.both(
            Table::Nat,
            REDIRECT,
            format!("-p tcp -j REDIRECT --to-ports {}", settings.outbound_port),
        );
        self.both(
            Table::Nat,
            IN_REDIRECT,
            format!("-p tcp -j REDIRECT --to-ports {}", settings.inbound_port),
        );
    }

    fn inbound(&mut self, settings: &Settings) {
        if !settings.inbound_ports.is_empty() {
            self.both(Table::Nat, "PREROUTING", format!("-p tcp -j {INBOUND}"));
            if settings.inbound_ports == ["*"] {
                for port in &settings.inbound_ports_exclude {
                    self.both(Table::Nat, INBOUND, format!("-p tcp --dport {port} -j RETURN"));
                }
                self.both(Table::Nat, INBOUND, format!("-p tcp -j {IN_REDIRECT}"));
            } else {
                for port in &settings.inbound_ports {
                    self.both(Table::Nat, INBOUND, format!("-p tcp --dport {port} -j {IN_REDIRECT}"));
                }
            }
        }
        self.both(Table::Nat, "OUTPUT", format!("-j {OUTPUT}"));
        for port in &settings.outbound_ports_exclude {
            self.both(Table::Nat, OUTPUT, format!("-p tcp --dport {port} -j RETURN"));
            self.both(Table::Nat, OUTPUT, format!("-p udp --dport {port} -j RETURN"));
        }
        self.versioned(
            Table::Nat,
            OUTPUT,
            |from| format!("-o lo -s {from} -j RETURN"),
            PASSTHROUGH,
        );
    }

    /// What the proxy itself sends: to its own pod through inbound, everything else as it is. And what the application
    /// sends itself over loopback is left alone.
    fn owners(&mut self, settings: &Settings, dns: bool, loopback_included: bool) {
        let tunnel = settings.tunnel_port;
        let owners = settings
            .uids
            .iter()
            .map(|uid| ("uid", uid))
            .chain(settings.gids.iter().map(|gid| ("gid", gid)));
        for (kind, owner) in owners {
            // The agent's own queries over TCP must not come back through inbound.
            let ports = if dns && kind == "uid" {
                format!("-m multiport ! --dports 53,{tunnel}")
            } else {
                format!("! --dport {tunnel}")
            };
            let to_self = |loopback: &str| {
                format!("-o lo ! -d {loopback} -p tcp {ports} -m owner --{kind}-owner {owner} -j {IN_REDIRECT}")
            };
            self.versioned(Table::Nat, OUTPUT, to_self, (&settings.loopback_v4, LOOPBACK_V6));
            if !loopback_included {
                // A resolver on loopback is captured too, so its port does not return here.
                let except = if dns { "-p tcp ! --dport 53 " } else { "" };
                self.both(
                    Table::Nat,
                    OUTPUT,
                    format!("-o lo {except}-m owner ! --{kind}-owner {owner} -j RETURN"),
                );
            }
            self.both(Table::Nat, OUTPUT, format!("-m owner --{kind}-owner {owner} -j RETURN"));
        }
    }

    /// Groups of applications whose connections are, or are not, redirected.
    fn groups(&mut self, settings: &Settings) {
        let all = settings.owner_groups.iter().any(|group| group == "*");
        if all {
            for group in &settings.owner_groups_exclude {
                self.both(Table::Nat, OUTPUT, format!("-m owner --gid-owner {group} -j RETURN"));
            }
        } else {
            let none_of: Vec<String> = settings
                .owner_groups
                .iter()
                .map(|group| format!("-m owner ! --gid-owner {group} "))
                .collect();
            self.both(Table::Nat, OUTPUT, format!("{}-j RETURN", none_of.concat()));
        }
    }

    fn outbound(&mut self, settings: &Settings, v6: bool, include: &Ranges) {
        if include.all {
            self.one(v6, Table::Nat, OUTPUT, None, format!("-j {REDIRECT}"));
            for interface in &settings.virtual_interfaces {
                self.one(
                    v6,
                    Table::Nat,
                    "PREROUTING",
                    Some(1),
                    format!("-i {interface} -j {REDIRECT}"),
                );
            }
            return;
        }
        for cidr in &include.cidrs {
            for interface in &settings.virtual_interfaces {
                self.one(
                    v6,
                    Table::Nat,
                    "PREROUTING",
                    Some(1),
                    format!("-i {interface} -d {cidr} -j {REDIRECT}"),
                );
            }
            self.one(v6, Table::Nat, OUTPUT, None, format!("-d {cidr} -j {REDIRECT}"));
        }
    }

    /// Queries of the application go to the agent. Application, agent and resolver use the same addresses and ports, so
    /// conntrack keeps the application's side and the agent's in zones of their own, or their answers would be mixed up.
    fn dns(&mut self, settings: &Settings) {
        let port = settings.dns_port;
        self.both(Table::Raw, "OUTPUT", format!("-j {OUTPUT_DNS}"));
        let servers = [
            (false, &settings.dns_servers_v4, 32),
            (true, &settings.dns_servers_v6, 128),
        ];
        for (v6, list, _) in servers {
            if settings.capture_all_dns || !list.is_empty() {
                self.one(v6, Table::Nat, OUTPUT, None, format!("-j {OUTPUT_DNS}"));
            }
        }
        let owners = settings
            .uids
            .iter()
            .map(|uid| ("uid", uid))
            .chain(settings.gids.iter().map(|gid| ("gid", gid)));
        let owners: Vec<_> = owners.collect();
        if settings.owner_groups.iter().any(|group| group == "*") {
            for group in &settings.owner_groups_exclude {
                self.both(
                    Table::Nat,
                    OUTPUT_DNS,
                    format!("-p udp --dport 53 -m owner --gid-owner {group} -j RETURN"),
                );
            }
        } else {
            let none_of: Vec<String> = settings
                .owner_groups
                .iter()
                .map(|group| format!("-m owner ! --gid-owner {group} "))
                .collect();
            self.both(
                Table::Nat,
                OUTPUT_DNS,
                format!("-p udp --dport 53 {}-j RETURN", none_of.concat()),
            );
        }
        if settings.capture_all_dns {
            self.both(
                Table::Nat,
                OUTPUT_DNS,
                format!("-p tcp --dport 53 -j REDIRECT --to-ports {port}"),
            );
            self.both(
                Table::Nat,
                OUTPUT_DNS,
                format!("-p udp --dport 53 -j REDIRECT --to-port {port}"),
            );
        } else {
            for (v6, list, bits) in servers {
                for server in list {
                    self.one(
                        v6,
                        Table::Nat,
                        OUTPUT_DNS,
                        None,
                        format!("-p tcp --dport 53 -d {server}/{bits} -j REDIRECT --to-ports {port}"),
                    );
                }
            }
            for (v6, list, bits) in servers {
                for server in list {
                    self.one(
                        v6,
                        Table::Nat,
                        OUTPUT_DNS,
                        None,
                        format!("-p udp --dport 53 -d {server}/{bits} -j REDIRECT --to-port {port}"),
                    );
                }
            }
        }
        for (kind, owner) in owners {
            self.both(
                Table::Raw,
                OUTPUT_DNS,
                format!("-p udp --dport 53 -m owner --{kind}-owner {owner} -j CT --zone 1"),
            );
            self.both(
                Table::Raw,
                OUTPUT_DNS,
                format!("-p udp --sport {port} -m owner --{kind}-owner {owner} -j CT --zone 2"),
            );
        }
        if settings.capture_all_dns {
            self.both(Table::Raw, "PREROUTING", format!("-j {INBOUND}"));
            self.both(Table::Raw, OUTPUT_DNS, "-p udp --dport 53 -j CT --zone 2".into());
            self.both(Table::Raw, INBOUND, "-p udp --sport 53 -j CT --zone 1".into());
            return;
        }
        for (v6, list, bits) in servers {
            if !list.is_empty() {
                self.one(v6, Table::Raw, "PREROUTING", None, format!("-j {INBOUND}"));
            }
            for server in list {
                self.one(
                    v6,
                    Table::Raw,
                    OUTPUT_DNS,
                    None,
                    format!("-p udp --dport 53 -d {server}/{bits} -j CT --zone 2"),
                );
                self.one(
                    v6,
                    Table::Raw,
                    INBOUND,
                    None,
                    format!("-p udp --sport 53 -s {server}/{bits} -j CT --zone 1"),
                );
            }
        }
    }
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

/// Tables in their order, in each first its own chains, in the order of their first rule.
fn restore(rules: &[Rule]) -> String {
    let mut out = String::new();
    for (table, name) in [(Table::Mangle, "mangle"), (Table::Nat, "nat"), (Table::Raw, "raw")] {
        let of_table: Vec<&Rule> = rules.iter().filter(|rule| rule.table == table).collect();
        if of_table.is_empty() {
            continue;
        }
        out.push_str(&format!("* {name}\n"));
        let mut chains: Vec<&str> = Vec::new();
        for rule in &of_table {
            if rule.chain.starts_with("ISTIO_") && !chains.contains(&rule.chain) {
                chains.push(rule.chain);
                out.push_str(&format!("-N {}\n", rule.chain));
            }
        }
        for rule in of_table {
            match rule.position {
                None => out.push_str(&format!("-A {} {}\n", rule.chain, rule.text)),
                Some(position) => out.push_str(&format!("-I {} {position} {}\n", rule.chain, rule.text)),
            }
        }
        out.push_str("COMMIT\n");
    }
    out
}

#[cfg(test)]
mod tests;
