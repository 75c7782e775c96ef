//! What is spoken on a port.

use lateen_model::service::Protocol;

/// Ports on which Istio never sniffs: SMTP, DNS, MySQL and MongoDB servers speak first.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

/// The protocol of a Kubernetes Service's port: `appProtocol` before the port name's prefix before well-known ports.
pub(crate) fn of_service_port(port: u16, name: &str, transport: &str, app_protocol: Option<&str>) -> Protocol {
    if transport.eq_ignore_ascii_case("UDP") {
        return Protocol::Udp;
    }
    // Names with a slash are Kubernetes's own and valid for `appProtocol` alone.
    match app_protocol {
        Some("kubernetes.io/h2c") => return Protocol::Http2,
        Some("kubernetes.io/ws") => return Protocol::Http,
        Some("kubernetes.io/wss") => return Protocol::Https,
        _ => {}
    }
    let text = app_protocol.unwrap_or(name);
    if text
        .get(.."grpc-web".len())
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case("grpc-web"))
    {
        return Protocol::GrpcWeb;
    }
    let prefix = text.split('-').next().unwrap_or_default();
    match parse(prefix) {
        Protocol::Unspecified if SERVER_FIRST.contains(&port) => Protocol::Tcp,
        protocol => protocol,
    }
}

/// A protocol by its name, in any case; what is not known is sniffed.
pub(crate) fn parse(text: &str) -> Protocol {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "grpc" => Protocol::Grpc,
        "grpc-web" => Protocol::GrpcWeb,
        "http" | "http_proxy" => Protocol::Http,
        "http2" => Protocol::Http2,
        "https" => Protocol::Https,
        "tls" => Protocol::Tls,
        "mongo" => Protocol::Mongo,
        "redis" => Protocol::Redis,
        "mysql" => Protocol::MySql,
        _ => Protocol::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocol_wins_over_the_name_and_the_name_over_the_port() {
        let of = |port, name, app| of_service_port(port, name, "TCP", app);
        assert_eq!(of(80, "http-web", None), Protocol::Http);
        assert_eq!(of(80, "http", Some("tcp")), Protocol::Tcp);
        assert_eq!(of(80, "grpc-web-x", None), Protocol::GrpcWeb);
        assert_eq!(of(80, "GRPC-Webby", None), Protocol::GrpcWeb);
        assert_eq!(of(80, "grpc-foo", None), Protocol::Grpc);
        assert_eq!(of(80, "web", Some("kubernetes.io/h2c")), Protocol::Http2);
        assert_eq!(of(3306, "db", None), Protocol::Tcp);
        assert_eq!(of(3306, "http-db", None), Protocol::Http);
        assert_eq!(of(80, "web", None), Protocol::Unspecified);
        assert_eq!(of_service_port(80, "http", "UDP", None), Protocol::Udp);
    }
}
