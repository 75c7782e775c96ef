//! Which listener takes a connection, and what its filters find out about it.

use std::net::{IpAddr, SocketAddr};

use lateen_proto::envoy::config::core::v3::address::Address as AddressKind;
use lateen_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use lateen_proto::envoy::config::core::v3::{Address, TrafficDirection};
use lateen_proto::envoy::config::listener::v3::listener_filter_chain_match_predicate::Rule;
use lateen_proto::envoy::config::listener::v3::{Listener, ListenerFilter, ListenerFilterChainMatchPredicate};

use crate::proxy::Proxy;
use crate::request::{Entry, Request, Version};
use crate::trace::{Kind, Step};

/// What the filters of a listener find out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Detected {
    /// `tls` or `raw_buffer`.
    pub transport: &'static str,
    /// Server name; empty if there is none or nobody looked.
    pub sni: String,
    /// Protocols, as the inspectors tell.
    pub alpn: Vec<String>,
}

pub(crate) fn socket(address: &Option<Address>) -> Option<SocketAddr> {
    match address.as_ref()?.address.as_ref()? {
        AddressKind::SocketAddress(address) => {
            let ip: IpAddr = address.address.parse().ok()?;
            match address.port_specifier {
                Some(PortSpecifier::PortValue(port)) => Some(SocketAddr::new(ip, u16::try_from(port).ok()?)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn addresses(listener: &Listener) -> impl Iterator<Item = SocketAddr> {
    std::iter::once(&listener.address)
        .chain(listener.additional_addresses.iter().map(|more| &more.address))
        .filter_map(socket)
}

/// How a listener is bound to an address: exactly (2) or to all addresses of its family (1).
fn fit(listener: &Listener, wanted: SocketAddr) -> u8 {
    addresses(listener)
        .map(|bound| {
            if bound == wanted {
                2
            } else if bound.port() == wanted.port()
                && bound.ip().is_unspecified()
                && bound.is_ipv4() == wanted.is_ipv4()
            {
                1
            } else {
                0
            }
        })
        .max()
        .unwrap_or_default()
}

fn best<'a>(listeners: impl Iterator<Item = &'a Listener>, wanted: SocketAddr) -> Option<(&'a Listener, u8)> {
    let mut best: Option<(&Listener, u8)> = None;
    for listener in listeners {
        let fit = fit(listener, wanted);
        if fit > best.map_or(0, |(_, best)| best) {
            best = Some((listener, fit));
        }
    }
    best
}

fn hands_off(listener: &Listener) -> bool {
    listener.use_original_dst == Some(true)
}

/// Chooses the listener, and tells why.
pub(crate) fn choose(proxy: &Proxy, entry: Entry) -> Result<(&Listener, Step), String> {
    let wanted = entry.destination();
    let all = || proxy.listeners.iter();
    let step = |listener: &Listener, why: String| Step::new(Kind::Listener, &listener.name, why);
    match entry {
        Entry::Outbound(_) => {
            let catching = all()
                .find(|listener| hands_off(listener))
                .ok_or("no listener takes intercepted connections (interception is off for this proxy)")?;
            let others = all().filter(|one| {
                !hands_off(one) && one.traffic_direction() != TrafficDirection::Inbound && one.name != catching.name
            });
            let Some((found, fit)) = best(others, wanted) else {
                let why = format!(
                    "no listener is for {wanted} or for any address at port {}",
                    wanted.port()
                );
                return Ok((catching, step(catching, why)));
            };
            if fit == 2 {
                return Ok((found, step(found, format!("it is for exactly {wanted}"))));
            }
            let why = format!(
                "none is for {} alone, and it is for every address at port {}",
                wanted.ip(),
                wanted.port()
            );
            Ok((found, step(found, why)))
        }
        Entry::Inbound(_) => {
            let inbound = || all().filter(|one| one.traffic_direction() == TrafficDirection::Inbound);
            let own = inbound().filter(|one| one.name != "virtualInbound");
            if let Some((found, _)) = best(own, wanted) {
                return Ok((found, step(found, format!("it listens at {wanted} itself"))));
            }
            let found = inbound()
                .find(|one| one.name == "virtualInbound")
                .ok_or("no listener takes intercepted connections to this workload")?;
            Ok((
                found,
                step(found, "it takes all intercepted inbound connections".to_owned()),
            ))
        }
        Entry::Direct(_) => {
            let bound = all().filter(|one| one.bind_to_port != Some(false));
            let (found, _) = best(bound, wanted).ok_or_else(|| format!("no listener is open at {wanted}"))?;
            Ok((found, step(found, format!("it is open at port {}", wanted.port()))))
        }
    }
}

/// Whether a predicate holds for a connection.
fn holds(predicate: &ListenerFilterChainMatchPredicate, port: u16) -> bool {
    match &predicate.rule {
        Some(Rule::OrMatch(set)) => set.rules.iter().any(|rule| holds(rule, port)),
        Some(Rule::AndMatch(set)) => set.rules.iter().all(|rule| holds(rule, port)),
        Some(Rule::NotMatch(rule)) => !holds(rule, port),
        Some(Rule::AnyMatch(any)) => *any,
        Some(Rule::DestinationPortRange(range)) => (range.start..range.end).contains(&i32::from(port)),
        None => false,
    }
}

/// Runs the inspectors of a listener.
pub(crate) fn inspect(listener: &Listener, request: &Request) -> Detected {
    let port = request.connection.entry.destination().port();
    let runs = |end: &str| {
        let on = |filter: &ListenerFilter| !filter.filter_disabled.as_ref().is_some_and(|rule| holds(rule, port));
        listener
            .listener_filters
            .iter()
            .any(|filter| filter.name.ends_with(end) && on(filter))
    };
    let mut detected = Detected {
        transport: "raw_buffer",
        ..Detected::default()
    };
    if let (true, Some(tls)) = (runs("tls_inspector"), &request.connection.tls) {
        detected.transport = "tls";
        detected.sni = tls.sni.clone().unwrap_or_default().to_ascii_lowercase();
        detected.alpn.clone_from(&tls.alpn);
    }
    if let (true, None, Some(http)) = (runs("http_inspector"), &request.connection.tls, &request.http) {
        let name = match http.version {
            Version::Http10 => "http/1.0",
            Version::Http11 => "http/1.1",
            Version::Http2 => "h2c",
        };
        detected.alpn = vec![name.to_owned()];
    }
    detected
}
