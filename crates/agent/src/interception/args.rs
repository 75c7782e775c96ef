//! `istio-iptables`' flags.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::plan::{Mode, Ports, Settings};
use crate::config::Environment;

/// `istio-iptables`' flags, by Istio's names; each has an environment variable of the same name in capitals.
#[derive(Debug, Args)]
pub(crate) struct IptablesArgs {
    /// Port of Envoy that takes outbound connections
    #[arg(long, short = 'p', env = "ENVOY_PORT", default_value = "15001")]
    pub(super) envoy_port: u16,
    /// Port of Envoy that takes inbound connections
    #[arg(long, short = 'z', env = "INBOUND_CAPTURE_PORT", default_value = "15006")]
    pub(super) inbound_capture_port: u16,
    /// Port of Envoy that takes tunnels, never redirected
    #[arg(long, short = 'e', env = "INBOUND_TUNNEL_PORT", default_value = "15008")]
    pub(super) inbound_tunnel_port: u16,
    /// Users whose connections are not redirected, Envoy's above all
    #[arg(long, short = 'u', env = "PROXY_UID", default_value = "1337")]
    pub(super) proxy_uid: String,
    /// Groups whose connections are not redirected [default: the users' numbers]
    #[arg(long, short = 'g', env = "PROXY_GID")]
    pub(super) proxy_gid: Option<String>,
    /// REDIRECT; TPROXY, which keeps clients' addresses; or NONE to do nothing
    #[arg(
        long = "istio-inbound-interception-mode",
        short = 'm',
        env = "ISTIO_INBOUND_INTERCEPTION_MODE",
        default_value = "REDIRECT"
    )]
    pub(super) mode: String,
    /// Inbound ports to redirect, comma-separated; * for all, empty for none
    #[arg(
        long = "istio-inbound-ports",
        short = 'b',
        env = "ISTIO_INBOUND_PORTS",
        default_value = ""
    )]
    pub(super) inbound_ports: String,
    /// Inbound ports not to redirect when all are
    #[arg(
        long = "istio-local-exclude-ports",
        short = 'd',
        env = "ISTIO_LOCAL_EXCLUDE_PORTS",
        default_value = ""
    )]
    pub(super) inbound_ports_exclude: String,
    /// Interfaces whose traffic is left alone
    #[arg(
        long = "istio-exclude-interfaces",
        short = 'c',
        env = "ISTIO_EXCLUDE_INTERFACES",
        default_value = ""
    )]
    pub(super) exclude_interfaces: String,
    /// Outbound ranges to redirect, comma-separated CIDRs; * for all, empty for none
    #[arg(
        long = "istio-service-cidr",
        short = 'i',
        env = "ISTIO_SERVICE_CIDR",
        default_value = ""
    )]
    pub(super) service_cidr: String,
    /// Outbound ranges not to redirect
    #[arg(
        long = "istio-service-exclude-cidr",
        short = 'x',
        env = "ISTIO_SERVICE_EXCLUDE_CIDR",
        default_value = ""
    )]
    pub(super) service_exclude_cidr: String,
    /// Outbound ports to redirect whatever the address
    #[arg(
        long = "istio-outbound-ports",
        short = 'q',
        env = "ISTIO_OUTBOUND_PORTS",
        default_value = ""
    )]
    pub(super) outbound_ports: String,
    /// Outbound ports not to redirect
    #[arg(
        long = "istio-local-outbound-ports-exclude",
        short = 'o',
        env = "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
        default_value = ""
    )]
    pub(super) outbound_ports_exclude: String,
    /// Virtual interfaces (of virtual machines) whose inbound traffic counts as outbound
    #[arg(long, short = 'k', env = "KUBE_VIRT_INTERFACES", default_value = "")]
    pub(super) kube_virt_interfaces: String,
    /// Redirect DNS to the agent
    #[arg(long, env = "REDIRECT_DNS", num_args = 0..=1, default_missing_value = "true")]
    pub(super) redirect_dns: Option<bool>,
    /// Redirect all DNS, not only that to the resolvers of /etc/resolv.conf
    #[arg(long, env = "CAPTURE_ALL_DNS", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(super) capture_all_dns: bool,
    /// Port of the agent's DNS proxy
    #[arg(long, env = "LATEEN_DNS_PORT", default_value_t = 15053)]
    pub(super) dns_port: u16,
    /// Drop packets that conntrack finds invalid
    #[arg(long, env = "DROP_INVALID", num_args = 0..=1, default_missing_value = "true")]
    pub(super) drop_invalid: Option<bool>,
    /// Rules for IPv6 too, also when the pod's own address is IPv4
    #[arg(long, env = "DUAL_STACK", num_args = 0..=1, default_missing_value = "true")]
    pub(super) dual_stack: Option<bool>,
    /// Print the rules and change nothing
    #[arg(long, short = 'n', env = "DRY_RUN", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(super) dry_run: bool,
    /// Take the rules out and put none in
    #[arg(long, env = "CLEANUP_ONLY", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(super) cleanup_only: bool,
    /// legacy or nft, where the machine's default is not wanted
    #[arg(long, env = "FORCE_IPTABLES_BINARY")]
    pub(super) force_iptables_binary: Option<String>,
    /// Rules of nftables instead of iptables; so it is by itself where only nft is installed
    #[arg(long, env = "NATIVE_NFTABLES", num_args = 0..=1, default_missing_value = "true")]
    pub(super) native_nftables: Option<bool>,
    /// Mark of packets that TPROXY routes to this machine
    #[arg(
        long = "istio-inbound-tproxy-mark",
        short = 't',
        env = "INBOUND_TPROXY_MARK",
        default_value_t = 1337
    )]
    pub(super) tproxy_mark: u32,
    /// Routing table for packets with that mark
    #[arg(
        long = "istio-inbound-tproxy-route-table",
        short = 'r',
        env = "INBOUND_TPROXY_ROUTE_TABLE",
        default_value_t = 133
    )]
    pub(super) tproxy_route_table: u32,
    /// The network namespace to work in, a path; this process's if not given
    #[arg(long, env = "NETWORK_NAMESPACE")]
    pub(super) network_namespace: Option<PathBuf>,
    /// Change nothing and fail if the rules are not there
    #[arg(long, hide = true)]
    pub(super) is_applied: bool,
    /// Change no rules
    #[arg(long, env = "SKIP_RULE_APPLY", num_args = 0..=1, default_missing_value = "true")]
    pub(super) skip_rule_apply: Option<bool>,
    /// Try out whether connections are redirected, as the proxy's user; exit with 126 if they are not
    #[arg(long, env = "RUN_VALIDATION", num_args = 0..=1, default_missing_value = "true")]
    pub(super) run_validation: Option<bool>,
    /// Port that is tried
    #[arg(long = "iptables-probe-port", env = "IPTABLES_PROBE_PORT", default_value_t = 15002)]
    pub(super) probe_port: u16,
    /// How long to try
    #[arg(long, env = "PROBE_TIMEOUT", default_value = "5s")]
    pub(super) probe_timeout: String,
    /// Taken for compatibility, without effect: a run always brings the rules to what they should be
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub(super) reconcile: Option<bool>,
    /// Taken for compatibility, without effect
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub(super) force_apply: Option<bool>,
    /// Taken for compatibility, without effect: what it changes is chosen by --network-namespace
    #[arg(long = "cni-mode", hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub(super) cni_mode: Option<bool>,
    /// Taken for compatibility, without effect
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub(super) iptables_trace_logging: Option<bool>,
}

/// What the flags and the environment say.
///
/// # Errors
/// When a value cannot be read; the message names it.
pub(super) fn settings(args: &IptablesArgs, environment: &Environment) -> anyhow::Result<Settings> {
    let redirect_dns = match args.redirect_dns {
        Some(wanted) => wanted,
        None => environment.flag("ISTIO_META_DNS_CAPTURE", false)?,
    };
    let (dns_servers_v4, dns_servers_v6) = if redirect_dns && !args.capture_all_dns {
        resolvers()?
    } else {
        Default::default()
    };
    let dual_stack = match args.dual_stack {
        Some(wanted) => wanted,
        None => environment.flag("ISTIO_DUAL_STACK", false)?,
    };
    let drop_invalid = match args.drop_invalid {
        Some(wanted) => wanted,
        None => environment.flag("INVALID_DROP", false)?,
    };
    let pod_is_v6 = environment
        .get("INSTANCE_IP")
        .and_then(|ip| ip.parse::<IpAddr>().ok())
        .map(|ip| ip.is_ipv6());
    let machine_has_v6 = || crate::config::interface_ips().iter().any(IpAddr::is_ipv6);
    let uid = or_default(&args.proxy_uid, "1337");
    let mode = match args.mode.as_str() {
        "TPROXY" => Mode::Transparent { mark: args.tproxy_mark },
        _ => Mode::Redirect,
    };
    Ok(Settings {
        mode,
        outbound_port: args.envoy_port,
        inbound_port: args.inbound_capture_port,
        tunnel_port: args.inbound_tunnel_port,
        dns_port: args.dns_port,
        gids: list(args.proxy_gid.as_deref().filter(|gid| !gid.is_empty()).unwrap_or(&uid)),
        uids: list(&uid),
        inbound_ports: if args.inbound_ports.split(',').any(|port| port.trim() == "*") {
            Ports::All
        } else {
            Ports::These(ports(&args.inbound_ports, "--istio-inbound-ports")?)
        },
        inbound_ports_exclude: ports(&args.inbound_ports_exclude, "--istio-local-exclude-ports")?,
        exclude_interfaces: list(&args.exclude_interfaces),
        outbound_ranges: list(&args.service_cidr),
        outbound_ranges_exclude: list(&args.service_exclude_cidr),
        outbound_ports: ports(&args.outbound_ports, "--istio-outbound-ports")?,
        outbound_ports_exclude: ports(&args.outbound_ports_exclude, "--istio-local-outbound-ports-exclude")?,
        virtual_interfaces: list(&args.kube_virt_interfaces),
        owner_groups: list(environment.get("ISTIO_OUTBOUND_OWNER_GROUPS").unwrap_or("*")),
        owner_groups_exclude: list(
            environment
                .get("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE")
                .unwrap_or_default(),
        ),
        loopback_v4: environment
            .get("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR")
            .unwrap_or("127.0.0.1/32")
            .to_owned(),
        redirect_dns,
        capture_all_dns: args.capture_all_dns,
        dns_servers_v4,
        dns_servers_v6,
        drop_invalid,
        ipv6: dual_stack || pod_is_v6.unwrap_or_else(machine_has_v6),
    })
}

fn or_default(text: &str, default: &str) -> String {
    if text.is_empty() {
        default.to_owned()
    } else {
        text.to_owned()
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

fn ports(text: &str, flag: &str) -> anyhow::Result<Vec<u16>> {
    let number = |port: String| {
        port.parse()
            .with_context(|| format!("{flag}: port `{port}`: must be a number from 0 to 65535"))
    };
    list(text).into_iter().map(number).collect()
}

/// The machine's resolvers, by family.
fn resolvers() -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let text = std::fs::read_to_string("/etc/resolv.conf").context("/etc/resolv.conf, for --redirect-dns")?;
    let servers = crate::dns::ResolvConf::parse(&text).servers;
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = servers.iter().map(std::net::SocketAddr::ip).partition(IpAddr::is_ipv4);
    let texts = |ips: Vec<IpAddr>| ips.iter().map(ToString::to_string).collect();
    Ok((texts(v4), texts(v6)))
}
