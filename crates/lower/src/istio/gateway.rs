//! Gateway: ports that some proxies open to the outside.

mod server_tls;

use std::net::IpAddr;
use std::sync::Arc;

use lateen_api::networking::gateway as api;
use lateen_model::gateway::{Gateway, GatewaySelector, Server, ServerHost, ServerProtocol};
use lateen_model::route::Semantics;
use lateen_model::{Diagnostic, Selector};
use lateen_names::{Hostname, Namespace};
use lateen_validate::Subject;

use super::report::{Report, text};
use crate::Context;
use crate::context::{Meta, labels};

pub use server_tls::{lower_server_tls, valid_cipher_suites};

/// Lowers a Gateway. A server that cannot be is left out, the others stay.
pub fn lower(object: &api::Gateway, meta: &Meta, _ctx: &Context<'_>, diags: &mut Vec<Diagnostic>) -> Gateway {
    let findings = lateen_validate::gateway::check(&object.spec, &Subject::new(&object.metadata));
    let mut report = Report::new(&meta.origin, findings, diags);
    let servers = object
        .spec
        .servers
        .iter()
        .enumerate()
        .filter_map(|(at, from)| server(from, &meta.namespace, &format!("spec.servers[{at}]"), &mut report));
    let servers = servers.collect();
    Gateway {
        origin: meta.origin.clone(),
        key: meta.origin.key.clone(),
        namespace: meta.namespace.clone(),
        created: meta.created,
        selects: GatewaySelector::Labels(Selector {
            labels: labels(Some(&object.spec.selector)),
        }),
        servers,
        semantics: Semantics::Istio,
    }
}

fn server(from: &api::Server, own: &Namespace, field: &str, report: &mut Report<'_>) -> Option<Server> {
    let Some(port) = &from.port else {
        report.error(
            &format!("{field}.port"),
            "the port is missing; give number, name and protocol",
        );
        return None;
    };
    let number = report.port(&format!("{field}.port.number"), port.number)?;
    let Some(protocol) = protocol(&port.protocol) else {
        let message = format!(
            "`{}` is no protocol of gateways; use HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, MONGO, MYSQL, REDIS, TCP or TLS",
            port.protocol
        );
        report.error(&format!("{field}.port.protocol"), message);
        return None;
    };
    let bind = match from.bind.as_str() {
        "" => None,
        text => match text.parse::<IpAddr>() {
            Ok(address) => Some(address),
            Err(_) => {
                let message = format!("`{text}` is no IP address; gateways bind addresses only");
                report.error(&format!("{field}.bind"), message);
                return None;
            }
        },
    };
    let hosts = from.hosts.iter().enumerate();
    let hosts = hosts
        .filter_map(|(at, host)| server_host(host, own, &format!("{field}.hosts[{at}]"), report))
        .collect();
    Some(Server {
        name: text(&from.name),
        port: number,
        port_name: Arc::from(port.name.as_str()),
        protocol,
        hosts,
        bind,
        tls: from.tls.as_ref().map(lower_server_tls),
    })
}

/// `host`, `namespace/host`, `./host` or `*/host`. `~/host` is open to no namespace, which is to say left out.
fn server_host(from: &str, own: &Namespace, field: &str, report: &mut Report<'_>) -> Option<ServerHost> {
    let (namespace, host) = match from.split_once('/') {
        None => (None, from),
        Some(("*", host)) => (None, host),
        Some((".", host)) => (Some(own.clone()), host),
        Some(("~", _)) => return None,
        Some((namespace, host)) => (Some(report.name(field, Namespace::new(namespace))?), host),
    };
    Some(ServerHost {
        namespace,
        host: report.name(field, Hostname::lower(host))?,
    })
}

/// A protocol by its name in any case.
fn protocol(name: &str) -> Option<ServerProtocol> {
    Some(match name.to_ascii_lowercase().as_str() {
        "http" => ServerProtocol::Http,
        "http2" => ServerProtocol::Http2,
        "grpc" => ServerProtocol::Grpc,
        "grpc-web" => ServerProtocol::GrpcWeb,
        "https" => ServerProtocol::Https,
        "tls" => ServerProtocol::Tls,
        "tcp" => ServerProtocol::Tcp,
        "mongo" => ServerProtocol::Mongo,
        "mysql" => ServerProtocol::MySql,
        "redis" => ServerProtocol::Redis,
        "hbone" => ServerProtocol::Hbone,
        _ => return None,
    })
}
