//! Addresses, matches and filters in Envoy's form.

use ipnet::IpNet;
use lateen_proto::envoy::config::core::v3::address::Address as AddressKind;
use lateen_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use lateen_proto::envoy::config::core::v3::{Address, CidrRange, Pipe, SocketAddress};
use lateen_proto::envoy::config::listener::v3 as pb;
use lateen_proto::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use lateen_proto::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use lateen_proto::envoy::extensions::filters::listener::original_src::v3::OriginalSrc;
use lateen_proto::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use lateen_proto::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use lateen_proto::{Any, any};
use prost::{Message, Name};

/// What the HTTP inspector calls plain HTTP.
pub(super) const PLAIN_HTTP: [&str; 2] = ["http/1.1", "h2c"];
/// ALPN of HTTP between Istio's sidecars.
pub(super) const MESH_HTTP: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// ALPN of TCP between Istio's sidecars.
pub(super) const MESH_TCP: [&str; 2] = ["istio-peer-exchange", "istio"];
/// ALPN of anything between Istio's sidecars.
pub(super) const MESH_ANY: [&str; 5] = [
    "istio",
    "istio-peer-exchange",
    "istio-http/1.0",
    "istio-http/1.1",
    "istio-h2",
];
/// What the TLS inspector calls plain bytes.
pub(super) const RAW: &str = "raw_buffer";
/// What the TLS inspector calls TLS.
pub(super) const TLS: &str = "tls";
/// How much of a connection the TLS inspector reads at first.
const INITIAL_READ: u32 = 512;

/// A socket address; a Unix socket where the text says so.
pub(super) fn address(host: &str, port: u16) -> Address {
    let kind = match host.strip_prefix("unix://") {
        Some(path) => AddressKind::Pipe(Pipe {
            path: path.to_owned(),
            ..Default::default()
        }),
        None => AddressKind::SocketAddress(SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        }),
    };
    Address { address: Some(kind) }
}

pub(super) fn additional(hosts: &[impl AsRef<str>], port: u16) -> Vec<pb::AdditionalAddress> {
    let one = |host: &str| pb::AdditionalAddress {
        address: Some(address(host, port)),
        ..Default::default()
    };
    hosts.iter().map(|host| one(host.as_ref())).collect()
}

pub(super) fn range(net: &IpNet) -> CidrRange {
    CidrRange {
        address_prefix: net.addr().to_string(),
        prefix_len: Some(u32::from(net.prefix_len())),
    }
}

pub(super) fn texts<T: AsRef<str>>(values: &[T]) -> Vec<String> {
    values.iter().map(|value| value.as_ref().to_owned()).collect()
}

/// A network filter.
pub(super) fn filter<M: Message + Name>(name: &str, config: &M) -> pb::Filter {
    packed_filter(name, any(config))
}

pub(super) fn packed_filter(name: &str, config: Any) -> pb::Filter {
    pb::Filter {
        name: name.to_owned(),
        config_type: Some(pb::filter::ConfigType::TypedConfig(config)),
    }
}

fn listener_filter<M: Message + Name>(name: &str, config: &M) -> pb::ListenerFilter {
    pb::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(pb::listener_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}

pub(super) fn tls_inspector() -> pb::ListenerFilter {
    let config = TlsInspector {
        initial_read_buffer_size: Some(INITIAL_READ),
        ..Default::default()
    };
    listener_filter("envoy.filters.listener.tls_inspector", &config)
}

pub(super) fn http_inspector() -> pb::ListenerFilter {
    listener_filter("envoy.filters.listener.http_inspector", &HttpInspector::default())
}

pub(super) fn original_dst() -> pb::ListenerFilter {
    listener_filter("envoy.filters.listener.original_dst", &OriginalDst::default())
}

/// Keeps the client's address toward the application (TPROXY); the mark lets iptables know the connection again.
pub(super) fn original_src() -> pb::ListenerFilter {
    listener_filter(
        "envoy.filters.listener.original_src",
        &OriginalSrc {
            mark: 1337,
            ..Default::default()
        },
    )
}

pub(super) fn proxy_protocol() -> pb::ListenerFilter {
    listener_filter("envoy.filters.listener.proxy_protocol", &ProxyProtocol::default())
}

/// A time-out of zero: none.
pub(super) fn never() -> prost_types::Duration {
    prost_types::Duration::default()
}

/// How long a TLS handshake of a client may take; against clients that hold connections half-open.
pub(super) fn handshake_timeout() -> prost_types::Duration {
    prost_types::Duration { seconds: 15, nanos: 0 }
}
