//! The names that Istio gives to Envoy's resources, which users see in statistics, logs and tools.

use std::fmt::Display;

/// `outbound|<port>|<subset>|<host>`: a cluster that is called.
pub fn outbound(port: u16, subset: &str, host: impl Display) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// `outbound_.<port>_.<subset>_.<host>`: the same as server name of mutual TLS, and as cluster of an AUTO_PASSTHROUGH gateway.
pub fn sni_dnat(port: u16, subset: &str, host: impl Display) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

/// `inbound|<port>||`: the application itself.
pub fn inbound(port: u16) -> String {
    format!("inbound|{port}||")
}

/// Where connections to nobody known go on to, as the application meant them.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// Where connections end that must not go on.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// Inbound connections to ports that no service has, IPv4.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// The listener that iptables sends outbound connections to.
pub const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// The listener that iptables sends inbound connections to.
pub const VIRTUAL_INBOUND: &str = "virtualInbound";

/// The SDS name of a credential: `kubernetes://<secret>`, unless it says already where it comes from.
pub fn credential(name: &str) -> String {
    if name.contains("://") {
        name.to_owned()
    } else {
        format!("kubernetes://{name}")
    }
}

/// `<host>_dfp_dns_cache`: the cache of names that a dynamic forward proxy and its cluster share.
pub fn dns_cache(host: impl Display) -> String {
    format!("{host}_dfp_dns_cache")
}
