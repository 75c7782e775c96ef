//! Which addresses keys may be fetched from.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// Metadata services of clouds that lie outside the link-local ranges: they give the machine's credentials to whoever asks.
const METADATA: [IpAddr; 4] = [
    // Amazon, by IPv6.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    // Alibaba, Azure, Oracle.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Ranges of addresses that may or must not be dialled. Private addresses may: issuers run inside clusters too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Refused besides what always is (`BLOCKED_CIDRS_IN_JWKS_URIS`).
    pub blocked: Vec<IpNet>,
    /// Dialled although they are refused otherwise, unless they are blocked or the API server's: for an issuer on the
    /// machine itself.
    pub permitted: Vec<IpNet>,
}

/// An address must not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is the machine itself.
    #[error("loopback")]
    Loopback,
    /// It is of the link, where clouds have their metadata services.
    #[error("link-local")]
    LinkLocal,
    /// It is a cloud's metadata service.
    #[error("a metadata service")]
    Metadata,
    /// It is no single host's.
    #[error("no host's address")]
    NoHost,
    /// It is the API server.
    #[error("the API server")]
    ApiServer,
    /// A range says so.
    #[error("in a blocked range")]
    Blocked,
}

impl Policy {
    /// Judges an address; an IPv6 address that stands for an IPv4 one is judged as both.
    ///
    /// # Errors
    /// When it must not be dialled.
    pub fn judge(&self, address: SocketAddr, api_server: &BTreeSet<SocketAddr>) -> Result<(), Refused> {
        let outer = address.ip();
        let inner = embedded(outer);
        for ip in [Some(outer), inner].into_iter().flatten() {
            if api_server
                .iter()
                .any(|server| canonical(server.ip()) == canonical(ip) && server.port() == address.port())
            {
                return Err(Refused::ApiServer);
            }
            if self.blocked.iter().any(|range| range.contains(&ip)) {
                return Err(Refused::Blocked);
            }
            if let Some(refused) = always(ip)
                && !self
                    .permitted
                    .iter()
                    .any(|range| range.contains(&ip) || range.contains(&canonical(ip)))
            {
                return Err(refused);
            }
        }
        Ok(())
    }
}

fn always(ip: IpAddr) -> Option<Refused> {
    if METADATA.contains(&ip) {
        return Some(Refused::Metadata);
    }
    match ip {
        // All of 0.0.0.0/8 is this machine for some systems.
        IpAddr::V4(ip) if ip.is_loopback() || ip.octets()[0] == 0 => Some(Refused::Loopback),
        IpAddr::V4(ip) if ip.is_link_local() => Some(Refused::LinkLocal),
        // 240.0.0.0/4 is reserved, with the broadcast address at its end.
        IpAddr::V4(ip) if ip.is_multicast() || ip.octets()[0] >= 240 => Some(Refused::NoHost),
        IpAddr::V6(ip) if ip.is_loopback() || ip.is_unspecified() => Some(Refused::Loopback),
        // fec0::/10 was link-local's neighbour and is out of use.
        IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.segments()[0] & 0xffc0 == 0xfec0 => Some(Refused::LinkLocal),
        IpAddr::V6(ip) if ip.is_multicast() => Some(Refused::NoHost),
        _ => None,
    }
}

fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// The IPv4 address that an IPv6 address leads to: mapped, compatible (RFC 4291 §2.5.5), translated (RFC 6052, RFC 8215),
/// 6to4 (RFC 3056) and Teredo (RFC 4380).
fn embedded(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(ip) = ip else { return None };
    let segments = ip.segments();
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
    };
    match segments {
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) > (0, 1) => of(high, low),
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => of(high, low),
        [0x64, 0xff9b, .., high, low] => of(high, low),
        [0x2002, high, low, ..] => of(high, low),
        [0x2001, 0, .., high, low] => of(!high, !low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(policy: &Policy, ip: &str) -> Result<(), Refused> {
        policy.judge(SocketAddr::new(ip.parse().unwrap(), 443), &BTreeSet::new())
    }

    #[test]
    fn what_only_the_control_plane_can_reach_is_refused_in_every_spelling() {
        let policy = Policy::default();
        for (ip, refused) in [
            ("127.0.0.1", Refused::Loopback),
            ("127.1.2.3", Refused::Loopback),
            ("0.0.0.0", Refused::Loopback),
            ("0.1.2.3", Refused::Loopback),
            ("::1", Refused::Loopback),
            ("::", Refused::Loopback),
            ("::ffff:127.0.0.1", Refused::Loopback),
            ("::127.0.0.1", Refused::Loopback),
            ("::ffff:0:127.0.0.1", Refused::Loopback),
            ("64:ff9b::7f00:1", Refused::Loopback),
            ("64:ff9b:1::7f00:1", Refused::Loopback),
            ("2002:7f00:1::1", Refused::Loopback),
            ("2001:0:1:2:3:4:80ff:fffe", Refused::Loopback),
            ("169.254.169.254", Refused::LinkLocal),
            ("::ffff:169.254.169.254", Refused::LinkLocal),
            ("64:ff9b::a9fe:a9fe", Refused::LinkLocal),
            ("fe80::1", Refused::LinkLocal),
            ("febf::1", Refused::LinkLocal),
            ("fec0::1", Refused::LinkLocal),
            ("fd00:ec2::254", Refused::Metadata),
            ("100.100.100.200", Refused::Metadata),
            ("::ffff:168.63.129.16", Refused::Metadata),
            ("224.0.0.1", Refused::NoHost),
            ("255.255.255.255", Refused::NoHost),
            ("ff02::1", Refused::NoHost),
        ] {
            assert_eq!(judged(&policy, ip), Err(refused), "{ip}");
        }
        for ip in [
            "10.96.0.10",
            "192.168.1.1",
            "172.16.0.1",
            "100.64.0.1",
            "8.8.8.8",
            "fd00::1",
            "2001:db8::1",
        ] {
            assert_eq!(judged(&policy, ip), Ok(()), "{ip}");
        }
    }

    #[test]
    fn lists_narrow_and_widen_it_but_never_open_the_api_server() {
        let ranges = |ranges: &[&str]| ranges.iter().map(|range| range.parse().unwrap()).collect();
        let policy = Policy {
            blocked: ranges(&["10.0.0.0/8", "fd00::/8", "127.0.0.2/32"]),
            permitted: ranges(&["127.0.0.0/8"]),
        };
        assert_eq!(judged(&policy, "10.1.2.3"), Err(Refused::Blocked));
        assert_eq!(judged(&policy, "::ffff:10.1.2.3"), Err(Refused::Blocked));
        assert_eq!(judged(&policy, "fd00::7"), Err(Refused::Blocked));
        assert_eq!(judged(&policy, "127.0.0.2"), Err(Refused::Blocked));
        assert_eq!(judged(&policy, "127.0.0.1"), Ok(()));
        assert_eq!(judged(&policy, "::ffff:127.0.0.1"), Ok(()));
        assert_eq!(judged(&policy, "::1"), Err(Refused::Loopback));
        let api_server = BTreeSet::from(["127.0.0.1:6443".parse().unwrap()]);
        for (address, refused) in [
            ("127.0.0.1:6443", true),
            ("[::ffff:127.0.0.1]:6443", true),
            ("127.0.0.1:443", false),
        ] {
            let judged = policy.judge(address.parse().unwrap(), &api_server);
            assert_eq!(judged == Err(Refused::ApiServer), refused, "{address}");
        }
    }
}
