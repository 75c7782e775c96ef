//! What /etc/resolv.conf says.

use std::net::{IpAddr, SocketAddr};

const DNS_PORT: u16 = 53;

/// Resolvers and the first search domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    pub(crate) servers: Vec<SocketAddr>,
    /// Without a trailing dot.
    pub(crate) search: Vec<String>,
}

impl ResolvConf {
    /// Reads the text of a resolv.conf; what it does not know it passes over, as resolvers do.
    pub(crate) fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A zone (`fe80::1%eth0`) names an interface, which only link-local resolvers need.
                    let address = words.next().map(|word| word.split('%').next().unwrap_or(word));
                    let address = address.and_then(|word| word.parse::<IpAddr>().ok());
                    read.servers.extend(address.map(|ip| SocketAddr::new(ip, DNS_PORT)));
                }
                Some("search" | "domain") => {
                    read.search = words
                        .map(|word| word.trim_end_matches('.').to_ascii_lowercase())
                        .collect();
                }
                _ => {}
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_search_domains() {
        let read = ResolvConf::parse(
            "# a comment\nsearch shop.svc.cluster.local svc.cluster.local.\nnameserver 10.96.0.10 ; first\n\
             nameserver fe80::1%eth0\nnameserver nonsense\noptions ndots:5\n",
        );
        assert_eq!(read.search, ["shop.svc.cluster.local", "svc.cluster.local"]);
        assert_eq!(
            read.servers,
            ["10.96.0.10:53".parse().unwrap(), "[fe80::1]:53".parse().unwrap()]
        );
    }
}
