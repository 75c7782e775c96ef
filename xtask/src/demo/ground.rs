//! What the mesh stands on: network namespaces with interception, or, where the machine allows none, loopback addresses.

use std::net::Ipv4Addr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};

use super::net::BRIDGE;

/// The user of Envoy and its agent, whose traffic interception lets pass.
pub(super) const PROXY_USER: u32 = 1337;
/// The user of services: any but the proxy's.
const APP_USER: u32 = 1000;

/// How workloads are set apart from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// A network namespace each, proxies and services as different users, as in a pod.
    Namespaces,
    /// A network namespace each, but only one user: interception goes by address.
    OneUser,
    /// Addresses `127.<n>.0.x` of one network; services ask their proxies explicitly, at `127.<n>.1.x`.
    Loopback(u8),
}

impl Ground {
    /// The control plane's address.
    pub(super) fn control_plane(self) -> Ipv4Addr {
        match self {
            Self::Loopback(network) => Ipv4Addr::new(127, network, 0, 1),
            Self::Namespaces | Self::OneUser => BRIDGE,
        }
    }

    /// Where a workload's own ports are, as seen from its place.
    pub(super) fn local(self, workload: Ipv4Addr) -> Ipv4Addr {
        match self {
            Self::Loopback(_) => workload,
            Self::Namespaces | Self::OneUser => Ipv4Addr::LOCALHOST,
        }
    }

    /// Where a service listens whose Pod names `port`: without interception that port is its proxy's.
    pub(super) fn service_port(self, port: u16) -> u16 {
        match self {
            Self::Loopback(_) => port.saturating_add(1),
            Self::Namespaces | Self::OneUser => port,
        }
    }

    /// Makes `command` run as the user of proxies.
    pub(super) fn as_proxy(self, command: &mut Command) {
        if self == Self::Namespaces {
            command.uid(PROXY_USER).gid(PROXY_USER);
        }
    }

    /// Makes `command` run as the user of services.
    pub(super) fn as_service(self, command: &mut Command) {
        if self == Self::Namespaces {
            command.uid(APP_USER).gid(APP_USER);
        }
    }

    /// Gives a file to the user of proxies.
    ///
    /// # Errors
    /// When that is not allowed.
    pub(super) fn give_to_proxy(self, path: &Path) -> Result<()> {
        if self != Self::Namespaces {
            return Ok(());
        }
        chown(path, Some(PROXY_USER), Some(PROXY_USER)).with_context(|| format!("cannot give away {}", path.display()))
    }
}

/// Where a service on loopback asks its proxy: beside the workload's own address.
pub(super) fn asks_at(workload: Ipv4Addr) -> Ipv4Addr {
    let [a, b, _, d] = workload.octets();
    Ipv4Addr::new(a, b, 1, d)
}

impl std::fmt::Display for Ground {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Namespaces => f.write_str("namespaces"),
            Self::OneUser => f.write_str("one-user"),
            Self::Loopback(network) => write!(f, "loopback:{network}"),
        }
    }
}

impl FromStr for Ground {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "namespaces" => Ok(Self::Namespaces),
            "one-user" => Ok(Self::OneUser),
            other => {
                let network = other.strip_prefix("loopback:").and_then(|network| network.parse().ok());
                network
                    .map(Self::Loopback)
                    .ok_or_else(|| anyhow!("{other:?} is no ground"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grounds_survive_the_command_line() {
        for ground in [Ground::Namespaces, Ground::OneUser, Ground::Loopback(7)] {
            assert_eq!(ground.to_string().parse::<Ground>().unwrap(), ground);
        }
        assert!("loopback:700".parse::<Ground>().is_err());
    }

    #[test]
    fn on_loopback_nothing_shares_an_address() {
        let workload = Ipv4Addr::new(127, 3, 0, 12);
        let ground = Ground::Loopback(3);
        assert_eq!(ground.local(workload), workload);
        assert_eq!(ground.service_port(9080), 9081);
        assert_eq!(asks_at(workload), Ipv4Addr::new(127, 3, 1, 12));
        assert_eq!(ground.control_plane(), Ipv4Addr::new(127, 3, 0, 1));
    }
}
