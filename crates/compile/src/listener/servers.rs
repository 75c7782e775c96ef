//! Where the servers of all Gateways of a proxy are opened, and which of them must give way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_model::Snapshot;
use lateen_model::endpoint::Instance;
use lateen_model::gateway::{Gateway, GatewaySelector, Server, ServerProtocol, ServerTlsMode};
use lateen_names::ObjectKey;

use crate::facts::OutboundFacts;

/// A server with its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PlacedServer {
    /// The Gateway that it belongs to.
    pub gateway: ObjectKey,
    /// The server.
    pub server: Server,
    /// The port that is opened: the target port of the gateway's Service.
    pub port: u16,
    /// Name of its route table, if it speaks HTTP.
    pub routes: Option<Arc<str>>,
}

impl PlacedServer {
    /// Whether its connections are HTTP once TLS is taken off.
    pub(crate) fn is_http(&self) -> bool {
        let passed_on = self.server.tls.as_ref().is_some_and(|tls| {
            matches!(tls.mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough) && !tls.https_redirect
        });
        self.server.protocol.is_plain_http() || (self.server.protocol == ServerProtocol::Https && !passed_on)
    }

    /// Whether its connections are TLS.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self.server.protocol, ServerProtocol::Https | ServerProtocol::Tls)
            || (self.server.tls.as_ref().is_some_and(|tls| !tls.https_redirect)
                && !self.server.protocol.is_plain_http())
    }
}

/// All servers of the class's Gateways that find room, in order of precedence: older Gateways first. On a port, plain HTTP
/// shares with plain HTTP of the same address, TLS with TLS of other hosts, and nothing else with anything.
pub(crate) fn placed(snapshot: &Snapshot, facts: &OutboundFacts) -> Vec<PlacedServer> {
    let mut room = Room::default();
    for (key, gateway) in facts
        .gateways
        .iter()
        .filter_map(|key| Some((key, snapshot.gateways.get(key)?)))
    {
        for server in &gateway.servers {
            for port in ports(gateway, server.port, &facts.gateway_ports) {
                room.place(key, gateway, server, port);
            }
        }
    }
    room.placed
}

/// The ports to open for a server's port: the target port of the gateway's Service. With a label selector, the port itself
/// where no service has it.
fn ports(gateway: &Gateway, port: u16, instances: &[Instance]) -> BTreeSet<u16> {
    match &gateway.selects {
        GatewaySelector::Labels(_) => {
            let found = instances.iter().find(|instance| instance.port == port);
            [found.map_or(port, |instance| instance.target_port)].into()
        }
        GatewaySelector::Services(hosts) => instances
            .iter()
            .filter(|instance| instance.port == port && hosts.contains(&instance.service.host))
            .map(|instance| instance.target_port)
            .collect(),
    }
}

#[derive(Default)]
struct Room {
    placed: Vec<PlacedServer>,
    /// By port and address: whether it is plain, and whether it is HTTP.
    taken: BTreeMap<(u16, String), (bool, bool)>,
    tls_hosts: BTreeSet<(u16, String, String)>,
    tables: BTreeSet<Arc<str>>,
}

impl Room {
    fn place(&mut self, key: &ObjectKey, gateway: &Gateway, server: &Server, port: u16) {
        let mut one = PlacedServer {
            gateway: key.clone(),
            server: server.clone(),
            port,
            routes: None,
        };
        let bind = server.bind.map(|ip| ip.to_string()).unwrap_or_default();
        let plain = !one.is_tls();
        let http = one.is_http();
        match self.taken.get(&(port, bind.clone())) {
            Some((true, true)) if plain && http => {}
            Some((false, _)) if !plain => {}
            Some(_) => return,
            None => {}
        }
        if !plain {
            let hosts: Vec<(u16, String, String)> = server
                .hosts
                .iter()
                .map(|host| (port, bind.clone(), host.host.to_string()))
                .collect();
            if hosts.iter().any(|host| self.tls_hosts.contains(host)) {
                return;
            }
            self.tls_hosts.extend(hosts);
        }
        if http {
            let name = table_name(server, port, gateway, plain);
            if !plain && !self.tables.insert(Arc::clone(&name)) {
                return;
            }
            one.routes = Some(name);
        }
        self.taken.entry((port, bind)).or_insert((plain, http));
        self.placed.push(one);
    }
}

/// `http.<port>` is shared by all plain servers of a port; every HTTPS server has a table of its own.
fn table_name(server: &Server, port: u16, gateway: &Gateway, plain: bool) -> Arc<str> {
    let bind = server.bind.map(|ip| format!(".{ip}")).unwrap_or_default();
    if plain {
        return format!("http.{port}{bind}").into();
    }
    format!(
        "https.{}.{}.{}.{}{bind}",
        server.port, server.port_name, gateway.key.name, gateway.namespace
    )
    .into()
}
