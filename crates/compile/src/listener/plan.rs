//! Which outbound listeners a sidecar opens: one per address and port, with the chains that share it.
//!
//! HTTP services share one listener per port and are told apart by virtual host. TCP services have a listener on their own
//! address where they have one. Where both want the same listener, the protocol is sniffed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use ipnet::IpNet;
use lateen_model::endpoint::{Address, Endpoints};
use lateen_model::proxy::Interception;
use lateen_model::service::{Port, Protocol, Registry, Resolution};
use lateen_model::sidecar::CaptureMode;
use lateen_model::{Service, Shared, Snapshot};

use crate::Scope;
use crate::facts::OutboundFacts;
use crate::scope::EgressScope;

/// How the connections of a listener are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// HTTP only.
    Http,
    /// Bytes only.
    Tcp,
    /// Sniffed.
    Auto,
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Bind {
    /// Addresses (or one Unix socket), the first names the listener.
    pub addresses: Vec<Arc<str>>,
    /// Whether a socket is really opened, rather than connections handed over by the virtual listener.
    pub to_port: bool,
    /// Whether the address is that of an endpoint of services without addresses, and nothing else asks for it.
    pub endpoint: bool,
}

/// A service that connects as bytes on a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TcpService {
    /// The service.
    pub service: Shared<Service>,
    /// Its port.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Ranges that tell it apart on a shared listener.
    pub ranges: Vec<IpNet>,
    /// Whether only the server name tells it apart.
    pub by_name: bool,
    /// Which egress entry it belongs to.
    pub egress: usize,
}

/// One outbound listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Where.
    pub bind: Bind,
    /// Port; 0 for a Unix socket.
    pub port: u16,
    /// How.
    pub kind: Kind,
    /// What the service speaks that asked for the listener first.
    pub http: Protocol,
    /// Name of the route table, if there is HTTP.
    pub routes: Option<Arc<str>>,
    /// Whether HTTP must be told from other bytes.
    pub sniff_http: bool,
    /// TCP services in order.
    pub tcp: Vec<TcpService>,
    /// Which egress entry its routes come from.
    pub egress: usize,
    /// Whether an earlier egress entry claimed it.
    locked: bool,
}

impl Planned {
    /// The address that names the listener, and the port: listeners are planned in this order.
    pub(crate) fn place(&self) -> (&str, u16) {
        let address = self.bind.addresses.first().map(|address| &**address);
        (address.unwrap_or_default(), self.port)
    }
}

/// The outbound listeners of a class, whichever address a proxy has.
pub(crate) fn of_class<'a>(snapshot: &Snapshot, scope: &'a Scope, facts: &OutboundFacts) -> &'a [Planned] {
    let planned = || plan(snapshot, &scope.egress, facts, None).into();
    scope.planned.get_or_init(planned)
}

/// Those of them that the proxy at an address does not have, because they lead to itself; `None` if something else wants to
/// listen there, too, so that the proxy's have to be planned by themselves.
pub(crate) fn toward_itself(planned: &[Planned], own: Option<IpAddr>) -> Option<Range<usize>> {
    let Some(own) = own.map(|own| own.to_string()) else {
        return Some(0..0);
    };
    let start = planned.partition_point(|planned| planned.place().0 < own.as_str());
    let here = planned[start..].iter().take_while(|planned| planned.place().0 == own);
    let mut count = 0;
    for planned in here {
        if !planned.bind.endpoint {
            return None;
        }
        count += 1;
    }
    Some(start..start + count)
}

/// Plans all outbound listeners of a class, in the order of their addresses and ports, for all proxies or for the one at an
/// address.
pub(super) fn plan(
    snapshot: &Snapshot,
    egress: &[EgressScope],
    facts: &OutboundFacts,
    own: Option<IpAddr>,
) -> Vec<Planned> {
    let mut plan = Plan {
        facts,
        listeners: BTreeMap::new(),
    };
    for (index, entry) in egress.iter().enumerate() {
        let (bind, port) = entry_bind(entry, facts);
        match port {
            Some((number, protocol)) => {
                for service in &entry.services {
                    plan.add(service, number, protocol, bind.clone(), Vec::new(), index);
                }
            }
            None => {
                for planned in plan.listeners.values_mut() {
                    planned.locked = true;
                }
                for (service, port) in entry.services.iter().flat_map(ports) {
                    plan.add_port(snapshot, service, port.number, port.protocol, bind.clone(), own, index);
                }
            }
        }
    }
    plan.listeners.into_values().collect()
}

/// The ports of a service, and those that only its shadows have.
pub(crate) fn ports(service: &Shared<Service>) -> impl Iterator<Item = (&Shared<Service>, &Port)> {
    let own = service.ports.iter().map(move |port| (service, port));
    let others = service.shadows.iter().flat_map(move |shadow| {
        let more = shadow.ports.iter().filter(|port| service.port(port.number).is_none());
        more.map(move |port| (shadow, port))
    });
    own.chain(others)
}

/// Where an egress entry binds, and its own port.
fn entry_bind(entry: &EgressScope, facts: &OutboundFacts) -> (Bind, Option<(u16, Protocol)>) {
    let none = facts.interception == Interception::None;
    let Some(egress) = &entry.egress else {
        let addresses = if none { localhosts(facts) } else { Vec::new() };
        return (
            Bind {
                addresses,
                to_port: none,
                endpoint: false,
            },
            None,
        );
    };
    let unix = egress.bind.as_ref().is_some_and(|bind| bind.starts_with("unix://"));
    let to_port = none || egress.capture == CaptureMode::None || unix;
    let addresses = match &egress.bind {
        Some(bind) => vec![Arc::clone(bind)],
        None if to_port => localhosts(facts),
        None => Vec::new(),
    };
    (
        Bind {
            addresses,
            to_port,
            endpoint: false,
        },
        egress.port.as_ref().map(|port| (port.number, port.protocol)),
    )
}

fn localhosts(facts: &OutboundFacts) -> Vec<Arc<str>> {
    let mut all = Vec::new();
    if facts.families.v4() {
        all.push("127.0.0.1".into());
    }
    if facts.families.v6() {
        all.push("::1".into());
    }
    all
}

pub(crate) fn wildcards(facts: &OutboundFacts) -> Vec<Arc<str>> {
    let (first, second) = facts.families.wildcards();
    std::iter::once(first).chain(second).map(Arc::from).collect()
}

/// How a protocol is carried; `None` where it is not proxied.
pub(crate) fn kind_of(protocol: Protocol) -> Option<Kind> {
    match protocol {
        Protocol::Udp => None,
        Protocol::Unspecified | Protocol::Unsupported => Some(Kind::Auto),
        http if http.is_http() => Some(Kind::Http),
        _ => Some(Kind::Tcp),
    }
}

/// Addresses of a service as a proxy of this class sees them: those of its families, allocated ones only with DNS capture.
pub(crate) fn addresses<'a>(service: &'a Service, facts: &'a OutboundFacts) -> impl Iterator<Item = &'a IpAddr> {
    let allocated_only = service.ranges.is_empty() && service.addresses.values().all(Vec::is_empty);
    let usable = !allocated_only || facts.options.dns_capture;
    let fits = |address: &&IpAddr| {
        if address.is_ipv4() {
            facts.families.v4()
        } else {
            facts.families.v6()
        }
    };
    let all = if usable {
        service.addresses_in(&facts.cluster)
    } else {
        &[]
    };
    // Where no address fits, the service's own first one is still its name on the wire.
    let only = if all.iter().any(|address| fits(&address)) {
        &[]
    } else {
        all.get(..1).unwrap_or_default()
    };
    all.iter().filter(fits).chain(only)
}

/// Whether a service has listeners of its own for its endpoints.
pub(crate) fn plans_by_endpoints(service: &Service) -> bool {
    let bytes = |protocol: Protocol| kind_of(protocol).is_some_and(|kind| kind != Kind::Http);
    service.resolution == Resolution::Passthrough && service.ports.iter().any(|port| bytes(port.protocol))
}

/// Server-first protocols live on these ports; nothing may be sniffed there.
fn is_well_known(port: u16) -> bool {
    matches!(port, 3306 | 27017)
}

struct Plan<'a> {
    facts: &'a OutboundFacts,
    listeners: BTreeMap<(Arc<str>, u16), Planned>,
}

impl Plan<'_> {
    /// A service's own port. A headless service of TCP has one listener per endpoint.
    fn add_port(
        &mut self,
        snapshot: &Snapshot,
        service: &Shared<Service>,
        port: u16,
        protocol: Protocol,
        bind: Bind,
        own: Option<IpAddr>,
        egress: usize,
    ) {
        let kind = kind_of(protocol);
        let addressless = addresses(service, self.facts).next().is_none() && service.ranges.is_empty();
        if bind.addresses.is_empty()
            && service.resolution == Resolution::Passthrough
            && addressless
            && matches!(kind, Some(Kind::Tcp | Kind::Auto))
        {
            let endpoints = snapshot.endpoints.get(&service.key());
            let listed = endpoints
                .map(|endpoints| endpoint_addresses(endpoints, port))
                .unwrap_or_default();
            let plain_entry = service.registry != Registry::Kubernetes && service.selector.is_none();
            if !(plain_entry && listed.is_empty()) {
                for address in listed.into_iter().filter(|address| own != Some(*address)) {
                    let bind = Bind {
                        addresses: vec![address.to_string().into()],
                        to_port: bind.to_port,
                        endpoint: true,
                    };
                    self.add(service, port, protocol, bind, Vec::new(), egress);
                }
                return;
            }
        }
        self.add(service, port, protocol, bind, Vec::new(), egress);
    }

    fn add(
        &mut self,
        service: &Shared<Service>,
        port: u16,
        protocol: Protocol,
        mut bind: Bind,
        mut ranges: Vec<IpNet>,
        egress: usize,
    ) {
        let Some(kind) = kind_of(protocol) else { return };
        if service.resolution == Resolution::Alias || !self.can_bind(&bind, port) {
            return;
        }
        let wildcards = wildcards(self.facts);
        if bind.addresses.is_empty() {
            let own: Vec<Arc<str>> = addresses(service, self.facts)
                .map(|ip| Arc::from(ip.to_string()))
                .collect();
            let dual = self.facts.families.v4() && self.facts.families.v6();
            bind.addresses = match (kind, own.is_empty()) {
                (Kind::Http, _) => wildcards.clone(),
                (_, false) if dual || service.registry == Registry::External => own,
                (_, false) => own.into_iter().take(1).collect(),
                (_, true) => wildcards.clone(),
            };
            if kind != Kind::Http && !service.ranges.is_empty() && bind.addresses == wildcards {
                ranges.clone_from(&service.ranges);
            }
        }
        let on_wildcard = bind.addresses.first() == wildcards.first();
        let key = (bind.addresses.first().cloned().unwrap_or_default(), port);
        let http_name = |auto: bool| -> Arc<str> {
            if port == 0 {
                Arc::clone(&key.0)
            } else if auto && !on_wildcard {
                format!("{}:{port}", service.host).into()
            } else {
                port.to_string().into()
            }
        };
        let addressless = addresses(service, self.facts).next().is_none() && service.ranges.is_empty();
        let by_name = protocol.is_tls()
            && (!ranges.is_empty()
                || (addressless && on_wildcard)
                || (service.host.is_wildcard() && service.resolution == Resolution::DynamicDns));
        let tcp = TcpService {
            service: service.clone(),
            port,
            protocol,
            ranges,
            by_name,
            egress,
        };
        let fresh = |kind: Kind| Planned {
            bind: bind.clone(),
            port,
            http: protocol,
            kind: if kind == Kind::Http && on_wildcard {
                Kind::Auto
            } else {
                kind
            },
            routes: (kind != Kind::Tcp).then(|| http_name(kind == Kind::Auto)),
            sniff_http: kind == Kind::Auto || (kind == Kind::Http && on_wildcard),
            tcp: if kind == Kind::Http {
                Vec::new()
            } else {
                vec![tcp.clone()]
            },
            egress,
            locked: false,
        };
        let Some(current) = self.listeners.get_mut(&key) else {
            let planned = fresh(kind);
            self.listeners.insert(key.clone(), planned);
            return;
        };
        current.bind.endpoint &= bind.endpoint;
        if current.locked {
            return;
        }
        let meets = is_well_known(port);
        match (kind, current.kind) {
            (Kind::Http, Kind::Http | Kind::Auto) if current.routes.is_some() => {}
            (Kind::Http, _) if meets => {}
            (Kind::Http, _) => {
                current.routes = Some(http_name(false));
                current.sniff_http = true;
                current.kind = Kind::Auto;
            }
            (Kind::Auto, Kind::Http) => {
                let endpoint = current.bind.endpoint;
                *current = fresh(kind);
                current.bind.endpoint = endpoint;
            }
            (Kind::Auto, Kind::Tcp) if !meets => {
                current.routes = Some(http_name(true));
                current.sniff_http = true;
                current.kind = Kind::Auto;
                current.tcp.push(tcp);
            }
            (Kind::Tcp, Kind::Http) if !meets => {
                current.sniff_http = true;
                current.kind = Kind::Auto;
                current.tcp.push(tcp);
            }
            (Kind::Tcp, Kind::Tcp | Kind::Auto) | (Kind::Auto, Kind::Auto) => current.tcp.push(tcp),
            _ => {}
        }
    }

    /// A port that is really bound must not be the proxy's own, nor a privileged one without privileges.
    fn can_bind(&self, bind: &Bind, port: u16) -> bool {
        if !bind.to_port || port == 0 {
            return true;
        }
        let own = matches!(port, 15000 | 15001 | 15006 | 15020 | 15021 | 15090);
        !(own || (self.facts.options.unprivileged && port < 1024))
    }
}

fn endpoint_addresses(endpoints: &Endpoints, port: u16) -> Vec<IpAddr> {
    let listed = endpoints.by_port.get(&port).map(Vec::as_slice).unwrap_or_default();
    let mut all: Vec<IpAddr> = listed
        .iter()
        .filter_map(|endpoint| match endpoint.address {
            Address::Ip(ip) => Some(ip),
            _ => None,
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Classes;
    use crate::testing::{service, sidecar, world};

    /// A database of two pods, each called at its own address.
    fn database() -> String {
        let pods = [("10.1.0.1", "eu-a", json!({})), ("10.1.0.2", "eu-b", json!({}))];
        service("db", &pods)
            .replace("\"10.96.0.1\"", "\"None\"")
            .replace("\"http\"", "\"tcp\"")
    }

    /// The places that are planned for all proxies; which of them the first pod has not, and what is planned for it alone.
    fn planned(objects: &str) -> (Vec<Planned>, Option<Range<usize>>, Vec<Planned>) {
        let snapshot = world(json!({}), objects, false);
        let proxy = sidecar("10.1.0.1", "");
        let classes = Classes::of(&snapshot, &proxy);
        let own = classes.listeners.own;
        assert_eq!(own, proxy.addresses.first().copied());
        let scope = Scope::new(&snapshot, &classes.outbound);
        let all = plan(&snapshot, &scope.egress, &classes.outbound, None);
        let alone = plan(&snapshot, &scope.egress, &classes.outbound, own);
        let left_out = toward_itself(&all, own);
        (all, left_out, alone)
    }

    #[test]
    fn a_proxy_has_no_listener_toward_itself() {
        let (mut all, left_out, alone) = planned(&database());
        assert_eq!(all.len(), 2);
        all.drain(left_out.unwrap());
        assert_eq!(all, alone);
        assert_eq!(alone[0].place(), ("10.1.0.2", 80));
    }

    #[test]
    fn what_else_listens_at_its_address_it_has() {
        let entry = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": "other", "namespace": "default"},
            "spec": {"hosts": ["other.example"], "addresses": ["10.1.0.1"], "resolution": "STATIC",
                     "ports": [{"number": 80, "name": "tcp", "protocol": "TCP"}]},
        });
        let (all, left_out, alone) = planned(&format!("{}---\n{entry}\n", database()));
        assert_eq!(left_out, None);
        let hosts = |planned: &[Planned]| -> Vec<usize> { planned.iter().map(|planned| planned.tcp.len()).collect() };
        assert_eq!((hosts(&all), hosts(&alone)), (vec![2, 1], vec![1, 1]));
    }

    #[test]
    fn whoever_speaks_http_shares_its_port() {
        let pods = [("10.1.0.1", "eu-a", json!({}))];
        let headless = service("web", &pods).replace("\"10.96.0.1\"", "\"None\"");
        let snapshot = world(json!({}), &headless, false);
        let classes = Classes::of(&snapshot, &sidecar("10.1.0.1", ""));
        assert_eq!(classes.listeners.own, None);
    }
}
