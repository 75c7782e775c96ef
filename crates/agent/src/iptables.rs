//! Interception: the rules that send a network namespace's traffic through Envoy, and how they get into the kernel.
//!
//! The rules of one IP family are one `iptables-restore` transaction: chains of a former run are taken out and the new
//! ones put in at once, so that no connection passes in between, and running twice changes nothing.

mod apply;
mod plan;

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use clap::Args;

pub(crate) use plan::{Plan, Settings};

use crate::config::Environment;

/// `istio-iptables`' flags, by Istio's names; each has an environment variable of the same name in capitals.
#[derive(Debug, Args)]
pub(crate) struct IptablesArgs {
    /// Port of Envoy that takes outbound connections
    #[arg(long, short = 'p', env = "ENVOY_PORT", default_value = "15001")]
    envoy_port: u16,
    /// Port of Envoy that takes inbound connections
    #[arg(long, short = 'z', env = "INBOUND_CAPTURE_PORT", default_value = "15006")]
    inbound_capture_port: u16,
    /// Port of Envoy that takes tunnels, never redirected
    #[arg(long, short = 'e', env = "INBOUND_TUNNEL_PORT", default_value = "15008")]
    inbound_tunnel_port: u16,
    /// Users whose connections are not redirected, Envoy's above all
    #[arg(long, short = 'u', env = "PROXY_UID", default_value = "1337")]
    proxy_uid: String,
    /// Groups whose connections are not redirected [default: the users' numbers]
    #[arg(long, short = 'g', env = "PROXY_GID")]
    proxy_gid: Option<String>,
    /// REDIRECT, or NONE to do nothing; TPROXY is not supported yet
    #[arg(
        long = "istio-inbound-interception-mode",
        short = 'm',
        env = "ISTIO_INBOUND_INTERCEPTION_MODE",
        default_value = "REDIRECT"
    )]
    mode: String,
    /// Inbound ports to redirect, comma-separated; * for all, empty for none
    #[arg(
        long = "istio-inbound-ports",
        short = 'b',
        env = "ISTIO_INBOUND_PORTS",
        default_value = ""
    )]
    inbound_ports: String,
    /// Inbound ports not to redirect when all are
    #[arg(
        long = "istio-local-exclude-ports",
        short = 'd',
        env = "ISTIO_LOCAL_EXCLUDE_PORTS",
        default_value = ""
    )]
    inbound_ports_exclude: String,
    /// Interfaces whose traffic is left alone
    #[arg(
        long = "istio-exclude-interfaces",
        short = 'c',
        env = "ISTIO_EXCLUDE_INTERFACES",
        default_value = ""
    )]
    exclude_interfaces: String,
    /// Outbound ranges to redirect, comma-separated CIDRs; * for all, empty for none
    #[arg(
        long = "istio-service-cidr",
        short = 'i',
        env = "ISTIO_SERVICE_CIDR",
        default_value = ""
    )]
    service_cidr: String,
    /// Outbound ranges not to redirect
    #[arg(
        long = "istio-service-exclude-cidr",
        short = 'x',
        env = "ISTIO_SERVICE_EXCLUDE_CIDR",
        default_value = ""
    )]
    service_exclude_cidr: String,
    /// Outbound ports to redirect whatever the address
    #[arg(
        long = "istio-outbound-ports",
        short = 'q',
        env = "ISTIO_OUTBOUND_PORTS",
        default_value = ""
    )]
    outbound_ports: String,
    /// Outbound ports not to redirect
    #[arg(
        long = "istio-local-outbound-ports-exclude",
        short = 'o',
        env = "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
        default_value = ""
    )]
    outbound_ports_exclude: String,
    /// Virtual interfaces (of virtual machines) whose inbound traffic counts as outbound
    #[arg(long, short = 'k', env = "KUBE_VIRT_INTERFACES", default_value = "")]
    kube_virt_interfaces: String,
    /// Redirect DNS to the agent
    #[arg(long, env = "REDIRECT_DNS", num_args = 0..=1, default_missing_value = "true")]
    redirect_dns: Option<bool>,
    /// Redirect all DNS, not only that to the resolvers of /etc/resolv.conf
    #[arg(long, env = "CAPTURE_ALL_DNS", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    capture_all_dns: bool,
    /// Port of the agent's DNS proxy
    #[arg(long, env = "LATEEN_DNS_PORT", default_value_t = 15053)]
    dns_port: u16,
    /// Drop packets that conntrack finds invalid
    #[arg(long, env = "DROP_INVALID", num_args = 0..=1, default_missing_value = "true")]
    drop_invalid: Option<bool>,
    /// Rules for IPv6 too, also when the pod's own address is IPv4
    #[arg(long, env = "DUAL_STACK", num_args = 0..=1, default_missing_value = "true")]
    dual_stack: Option<bool>,
    /// Print the rules and change nothing
    #[arg(long, short = 'n', env = "DRY_RUN", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    dry_run: bool,
    /// Take the rules out and put none in
    #[arg(long, env = "CLEANUP_ONLY", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    cleanup_only: bool,
    /// legacy or nft, where the machine's default is not wanted
    #[arg(long, env = "FORCE_IPTABLES_BINARY")]
    force_iptables_binary: Option<String>,
    /// Taken for compatibility, without effect: a run always brings the rules to what they should be
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    reconcile: Option<bool>,
    /// Taken for compatibility, without effect
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    force_apply: Option<bool>,
    /// Do nothing
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    skip_rule_apply: Option<bool>,
    /// Not supported
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    run_validation: Option<bool>,
    /// Not supported
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    native_nftables: Option<bool>,
    /// Not supported
    #[arg(long, hide = true)]
    network_namespace: Option<String>,
    /// Not supported
    #[arg(long = "cni-mode", hide = true, num_args = 0..=1, default_missing_value = "true")]
    cni_mode: Option<bool>,
    /// Taken for compatibility, without effect: TPROXY's
    #[arg(long = "istio-inbound-tproxy-mark", short = 't', hide = true)]
    tproxy_mark: Option<String>,
    /// Taken for compatibility, without effect: TPROXY's
    #[arg(long = "istio-inbound-tproxy-route-table", short = 'r', hide = true)]
    tproxy_route_table: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// When a value cannot be read, something is asked for that is not supported, or iptables fails.
pub(crate) fn run(args: IptablesArgs, environment: &Environment) -> anyhow::Result<()> {
    for (wanted, flag) in [
        (args.run_validation == Some(true), "--run-validation"),
        (args.native_nftables == Some(true), "--native-nftables"),
        (args.network_namespace.is_some(), "--network-namespace"),
        (args.cni_mode == Some(true), "--cni-mode"),
    ] {
        if wanted {
            bail!("{flag} is not supported; run lateen-agent inside the network namespace, without it");
        }
    }
    match args.mode.as_str() {
        "" | "REDIRECT" => {}
        "NONE" => return Ok(()),
        "TPROXY" => bail!("--istio-inbound-interception-mode TPROXY is not supported yet: use REDIRECT"),
        other => bail!("--istio-inbound-interception-mode `{other}`: must be REDIRECT or NONE"),
    }
    if args.skip_rule_apply == Some(true) {
        return Ok(());
    }
    let settings = settings(&args, environment)?;
    let binary = args.force_iptables_binary.as_deref();
    let plan = Plan::new(&settings)?;
    if args.dry_run {
        print!("{}", plan.v4());
        if settings.ipv6 {
            print!("{}", plan.v6());
        }
        return Ok(());
    }
    let rules = |text: String| if args.cleanup_only { String::new() } else { text };
    apply::apply(apply::Family::V4, &rules(plan.v4()), binary)?;
    if settings.ipv6 {
        apply::apply(apply::Family::V6, &rules(plan.v6()), binary)?;
    }
    Ok(())
}

fn settings(args: &IptablesArgs, environment: &Environment) -> anyhow::Result<Settings> {
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
    Ok(Settings {
        outbound_port: args.envoy_port,
        inbound_port: args.inbound_capture_port,
        tunnel_port: args.inbound_tunnel_port,
        dns_port: args.dns_port,
        gids: list(args.proxy_gid.as_deref().filter(|gid| !gid.is_empty()).unwrap_or(&uid)),
        uids: list(&uid),
        inbound_ports: list(&args.inbound_ports),
        inbound_ports_exclude: list(&args.inbound_ports_exclude),
        exclude_interfaces: list(&args.exclude_interfaces),
        outbound_ranges: list(&args.service_cidr),
        outbound_ranges_exclude: list(&args.service_exclude_cidr),
        outbound_ports: list(&args.outbound_ports),
        outbound_ports_exclude: list(&args.outbound_ports_exclude),
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

/// The machine's resolvers, by family.
fn resolvers() -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let text = std::fs::read_to_string("/etc/resolv.conf").context("/etc/resolv.conf, for --redirect-dns")?;
    let servers = crate::dns::ResolvConf::parse(&text).servers;
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = servers.iter().map(std::net::SocketAddr::ip).partition(IpAddr::is_ipv4);
    let texts = |ips: Vec<IpAddr>| ips.iter().map(ToString::to_string).collect();
    Ok((texts(v4), texts(v6)))
}
