//! Interception: the rules that send a network namespace's traffic through Envoy, and how they get into the kernel.
//!
//! A former run's rules are taken out and the new ones put in at once, so that no connection passes in between, and
//! running twice changes nothing.

mod args;
mod command;
mod iptables;
mod nftables;
mod plan;
mod routes;
mod rule;
mod validation;

use anyhow::{Context as _, bail};

pub(crate) use args::IptablesArgs;
pub(crate) use validation::NotRedirected;

use crate::config::Environment;
use plan::{Mode, Plan, Settings};
use rule::Family;

/// Whose language the rules are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Iptables,
    Nftables,
}

/// Runs the command. The process must have one thread: it may move to another network namespace.
///
/// # Errors
/// When a value cannot be read, the kernel's tables cannot be changed, or connections are not redirected
/// ([`NotRedirected`]).
pub(crate) fn run(args: &IptablesArgs, environment: &Environment) -> anyhow::Result<()> {
    match args.mode.as_str() {
        "" | "REDIRECT" | "TPROXY" => {}
        "NONE" => return Ok(()),
        other => bail!("--istio-inbound-interception-mode `{other}`: must be REDIRECT, TPROXY or NONE"),
    }
    if let Some(path) = &args.network_namespace {
        enter(path).with_context(|| format!("--network-namespace {}", path.display()))?;
    }
    let settings = args::settings(args, environment)?;
    let plan = Plan::new(&settings)?;
    let binary = args.force_iptables_binary.as_deref();
    let backend = if args.native_nftables == Some(true) {
        Backend::Nftables
    } else if !iptables::is_installed(binary) && nftables::is_installed() {
        tracing::info!("no iptables here, using nftables");
        Backend::Nftables
    } else {
        Backend::Iptables
    };
    if args.dry_run {
        show(&plan, &settings, backend);
        return Ok(());
    }
    if args.is_applied {
        for family in families(&settings) {
            let applied = match backend {
                Backend::Iptables => iptables::is_applied(*family, binary)?,
                Backend::Nftables => nftables::is_applied()?,
            };
            if !applied {
                bail!("the rules are not there");
            }
        }
        return Ok(());
    }
    if args.skip_rule_apply != Some(true) {
        apply(args, &plan, &settings, backend)?;
    }
    if args.run_validation == Some(true) && !args.cleanup_only {
        let timeout = crate::config::parse_duration(&args.probe_timeout).context("--probe-timeout")?;
        validation::run(settings.inbound_port, args.probe_port, timeout, environment)?;
    }
    Ok(())
}

fn show(plan: &Plan, settings: &Settings, backend: Backend) {
    match backend {
        Backend::Nftables => print!("{}", nftables::render(plan.rules(), settings.ipv6)),
        Backend::Iptables => {
            for family in families(settings) {
                print!("{}", iptables::render(plan.rules(), *family));
            }
        }
    }
}

fn families(settings: &Settings) -> &'static [Family] {
    if settings.ipv6 {
        &[Family::V4, Family::V6]
    } else {
        &[Family::V4]
    }
}

fn apply(args: &IptablesArgs, plan: &Plan, settings: &Settings, backend: Backend) -> anyhow::Result<()> {
    let rules = |text: String| if args.cleanup_only { String::new() } else { text };
    let binary = args.force_iptables_binary.as_deref();
    for family in families(settings) {
        // Packets must find their way before they are marked.
        match settings.mode {
            Mode::Transparent { mark } if !args.cleanup_only => routes::add(*family, mark, args.tproxy_route_table)?,
            _ => routes::remove(*family, args.tproxy_mark, args.tproxy_route_table),
        }
        if backend == Backend::Iptables {
            iptables::apply(*family, &rules(iptables::render(plan.rules(), *family)), binary)?;
        }
    }
    if backend == Backend::Nftables {
        nftables::apply(&rules(nftables::render(plan.rules(), settings.ipv6)))?;
    }
    Ok(())
}

/// Moves this thread, and what it starts, to a network namespace.
fn enter(path: &std::path::Path) -> anyhow::Result<()> {
    use std::os::fd::AsFd as _;

    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let file = std::fs::File::open(path)?;
    Ok(move_into_link_name_space(
        file.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}
