//! Addresses: the proxy's own, and those of its DNS proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;

use super::{DnsConfig, Environment, Role, host_and_port, interface_ips};

/// The DNS proxy's settings, if it is wanted; `locals` are the addresses that `localhost` stands for.
pub(super) fn dns(
    role: Role,
    environment: &Environment,
    namespace: &str,
    domain: &str,
    locals: &[IpAddr],
) -> anyhow::Result<Option<DnsConfig>> {
    let capture = environment.flag("ISTIO_META_DNS_CAPTURE", false)?;
    let server = environment.flag("ISTIO_META_ENABLE_DNS_SERVER", false)?;
    if !(capture && role == Role::Sidecar || server) {
        return Ok(None);
    }
    let address = environment.get("DNS_PROXY_ADDR").unwrap_or("localhost:15053");
    let (host, port) = host_and_port(address).context("DNS_PROXY_ADDR")?;
    let ips = match host {
        "" | "localhost" => locals.to_vec(),
        host => {
            let ip = host.parse();
            vec![ip.with_context(|| format!("DNS_PROXY_ADDR `{address}`: must be IP:port"))?]
        }
    };
    Ok(Some(DnsConfig {
        listen: ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect(),
        namespace: namespace.to_owned(),
        domain: domain.to_owned(),
        parallel: environment.flag("DNS_FORWARD_PARALLEL", false)?,
        timeout: environment.duration("DNS_FORWARD_TIMEOUT", Duration::from_secs(5))?,
    }))
}

/// The loopback addresses of the IP versions that a proxy has: redirected queries come to them.
pub(super) fn loopbacks(ips: &[IpAddr]) -> Vec<IpAddr> {
    let v4 = ips
        .iter()
        .any(IpAddr::is_ipv4)
        .then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let v6 = ips
        .iter()
        .any(IpAddr::is_ipv6)
        .then_some(IpAddr::V6(Ipv6Addr::LOCALHOST));
    v4.into_iter().chain(v6).collect()
}

/// The pod's address first, then the machine's others.
pub(super) fn instance_ips(environment: &Environment) -> anyhow::Result<Vec<IpAddr>> {
    let mut ips = Vec::new();
    for text in environment
        .get("INSTANCE_IP")
        .unwrap_or_default()
        .split(',')
        .filter(|ip| !ip.is_empty())
    {
        ips.push(
            text.trim()
                .parse::<IpAddr>()
                .with_context(|| format!("INSTANCE_IP `{text}`: must be an IP address"))?,
        );
    }
    // A proxy on a loopback address shares the machine's other addresses with many.
    if !ips.iter().any(IpAddr::is_loopback) {
        for ip in interface_ips() {
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
    }
    if ips.is_empty() {
        ips.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    Ok(ips)
}
