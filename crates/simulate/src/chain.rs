//! Which filter chain of a listener takes a connection.
//!
//! Envoy asks for one property after the other and never goes back: of the chains that are left, those stay that name the
//! most specific value that fits; those that name none come last.

use std::net::IpAddr;

use lateen_proto::envoy::config::core::v3::CidrRange;
use lateen_proto::envoy::config::listener::v3::filter_chain_match::ConnectionSourceType;
use lateen_proto::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};

use crate::listener::Detected;
use crate::matching::network;
use crate::request::Connection;
use crate::trace::{Beaten, Kind, Step};

/// What a property says of a chain: it does not fit, or fits as well as the number tells.
type Rank = Option<usize>;

struct Property {
    name: &'static str,
    rank: fn(&FilterChainMatch, &Seen<'_>) -> Rank,
    told: fn(&FilterChainMatch, &Seen<'_>) -> String,
}

struct Seen<'a> {
    connection: &'a Connection,
    detected: &'a Detected,
}

const PROPERTIES: &[Property] = &[
    Property {
        name: "port",
        rank: |matched, seen| match matched.destination_port {
            None => Some(0),
            Some(port) if port == u32::from(seen.connection.entry.destination().port()) => Some(1),
            Some(_) => None,
        },
        told: |matched, seen| {
            format!(
                "it is for port {}, the connection goes to {}",
                matched.destination_port.unwrap_or_default(),
                seen.connection.entry.destination().port()
            )
        },
    },
    Property {
        name: "address",
        rank: |matched, seen| longest(&matched.prefix_ranges, Some(seen.connection.entry.destination().ip())),
        told: |matched, seen| {
            format!(
                "it is for {}, the connection goes to {}",
                ranges(&matched.prefix_ranges),
                seen.connection.entry.destination().ip()
            )
        },
    },
    Property {
        name: "server name",
        rank: |matched, seen| server_name(&matched.server_names, &seen.detected.sni),
        told: |matched, seen| {
            let is = if seen.detected.sni.is_empty() {
                "none is known".to_owned()
            } else {
                format!("the client names {}", seen.detected.sni)
            };
            format!("it is for server name {}, {is}", matched.server_names.join(", "))
        },
    },
    Property {
        name: "transport",
        rank: |matched, seen| match matched.transport_protocol.as_str() {
            "" => Some(0),
            wanted if wanted == seen.detected.transport => Some(1),
            _ => None,
        },
        told: |matched, seen| {
            let name = |transport: &str| {
                if transport == "tls" {
                    "TLS".to_owned()
                } else {
                    "plain text".to_owned()
                }
            };
            format!(
                "it is for {}, the connection is {}",
                name(&matched.transport_protocol),
                name(seen.detected.transport)
            )
        },
    },
    Property {
        name: "application protocol",
        rank: |matched, seen| {
            if matched.application_protocols.is_empty() {
                return Some(0);
            }
            let at = seen
                .detected
                .alpn
                .iter()
                .position(|alpn| matched.application_protocols.contains(alpn))?;
            Some(seen.detected.alpn.len() - at)
        },
        told: |matched, seen| {
            let is = if seen.detected.alpn.is_empty() {
                "none is known".to_owned()
            } else {
                format!("the connection speaks {}", seen.detected.alpn.join(", "))
            };
            format!("it is for protocols {}, {is}", matched.application_protocols.join(", "))
        },
    },
    Property {
        name: "direct source",
        rank: |matched, seen| longest(&matched.direct_source_prefix_ranges, seen.connection.source),
        told: |matched, _| format!("it is for clients in {}", ranges(&matched.direct_source_prefix_ranges)),
    },
    Property {
        name: "source type",
        rank: |matched, seen| {
            let to = seen.connection.entry.destination().ip();
            let local = seen
                .connection
                .source
                .is_some_and(|from| from == to || from.is_loopback());
            match matched.source_type() {
                ConnectionSourceType::Any => Some(0),
                ConnectionSourceType::SameIpOrLoopback => local.then_some(1),
                ConnectionSourceType::External => (!local).then_some(1),
            }
        },
        told: |_, _| "it is for clients elsewhere".to_owned(),
    },
    Property {
        name: "source",
        rank: |matched, seen| longest(&matched.source_prefix_ranges, seen.connection.source),
        told: |matched, _| format!("it is for clients in {}", ranges(&matched.source_prefix_ranges)),
    },
    Property {
        name: "source port",
        // The client's port is its own choice and not known.
        rank: |matched, _| matched.source_ports.is_empty().then_some(0),
        told: |_, _| "it is for source ports that are not known".to_owned(),
    },
];

fn ranges(ranges: &[CidrRange]) -> String {
    let all: Vec<String> = ranges.iter().filter_map(network).map(|net| net.to_string()).collect();
    all.join(", ")
}

/// Length of the longest range that contains an address, and one; without ranges 0, like all addresses.
fn longest(ranges: &[CidrRange], ip: Option<IpAddr>) -> Rank {
    if ranges.is_empty() {
        return Some(0);
    }
    let ip = ip?;
    ranges
        .iter()
        .filter_map(network)
        .filter(|net| net.contains(&ip))
        .map(|net| usize::from(net.prefix_len()))
        .max()
}

/// Exact names before wildcards, longer wildcards before shorter.
fn server_name(names: &[String], sni: &str) -> Rank {
    if names.is_empty() {
        return Some(0);
    }
    let rank = |name: &String| {
        let name = name.to_ascii_lowercase();
        if name == sni && !sni.is_empty() {
            return Some(usize::MAX);
        }
        let suffix = name.strip_prefix('*')?;
        (suffix.starts_with('.') && sni.len() > suffix.len() && sni.ends_with(suffix)).then_some(suffix.len())
    };
    names.iter().filter_map(rank).max()
}

fn label(chain: &FilterChain, index: usize) -> String {
    if chain.name.is_empty() {
        format!("chain {index}")
    } else {
        chain.name.clone()
    }
}

/// Chooses the chain; the error tells why there is none.
pub(crate) fn choose<'a>(
    listener: &'a Listener,
    connection: &Connection,
    detected: &Detected,
) -> Result<(&'a FilterChain, Step), (String, Vec<Beaten>)> {
    let seen = Seen { connection, detected };
    let empty = FilterChainMatch::default();
    let mut left: Vec<(usize, &FilterChain)> = listener.filter_chains.iter().enumerate().collect();
    let mut beaten = Vec::new();
    let mut decided: Vec<&str> = Vec::new();
    for property in PROPERTIES {
        let ranked: Vec<(usize, &FilterChain, Rank)> = left
            .iter()
            .map(|(index, chain)| {
                let matched = chain.filter_chain_match.as_ref().unwrap_or(&empty);
                (*index, *chain, (property.rank)(matched, &seen))
            })
            .collect();
        let best = ranked.iter().filter_map(|(_, _, rank)| *rank).max();
        let before = left.len();
        left.clear();
        for (index, chain, rank) in ranked {
            let matched = chain.filter_chain_match.as_ref().unwrap_or(&empty);
            if rank.is_some() && rank == best {
                left.push((index, chain));
            } else if rank.is_none() {
                beaten.push(Beaten::new(label(chain, index), (property.told)(matched, &seen)));
            } else {
                let reason = format!("another chain is more specific about the {}", property.name);
                beaten.push(Beaten::new(label(chain, index), reason));
            }
        }
        if left.len() < before {
            decided.push(property.name);
        }
    }
    // The closest rivals come first.
    beaten.reverse();
    if let Some((index, chain)) = left.first() {
        let why = match (decided.as_slice(), listener.filter_chains.len()) {
            (_, 1) => "it is the only one".to_owned(),
            ([], _) => "it fits".to_owned(),
            (decided, _) => format!("{} decided", decided.join(", ")),
        };
        let step = Step::new(Kind::FilterChain, label(chain, *index), why).with_beaten(beaten);
        return Ok((chain, step));
    }
    match &listener.default_filter_chain {
        Some(chain) => {
            let name = if chain.name.is_empty() { "default" } else { &chain.name };
            let step = Step::new(Kind::FilterChain, name, "no other chain fits").with_beaten(beaten);
            Ok((chain, step))
        }
        None => Err(("no filter chain fits the connection".to_owned(), beaten)),
    }
}
