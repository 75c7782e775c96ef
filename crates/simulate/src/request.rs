//! What arrives at a proxy.

use std::net::{IpAddr, SocketAddr};

/// How a connection comes to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Intercepted on the way out: the address that the application meant.
    Outbound(SocketAddr),
    /// Intercepted on the way in: the address that the client meant.
    Inbound(SocketAddr),
    /// To a port that the proxy itself listens on, as at a gateway.
    Direct(SocketAddr),
}

impl Entry {
    /// The address that the client meant.
    pub fn destination(self) -> SocketAddr {
        match self {
            Self::Outbound(address) | Self::Inbound(address) | Self::Direct(address) => address,
        }
    }
}

/// What a client says in the handshake of TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Server name.
    pub sni: Option<String>,
    /// Protocols offered, in order.
    pub alpn: Vec<String>,
    /// Names in the client's certificate (`spiffe://…`), of which there is none where it shows no certificate.
    pub peer: Vec<String>,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// How it comes.
    pub entry: Entry,
    /// The client's address, if it is known.
    pub source: Option<IpAddr>,
    /// TLS, where the client speaks it.
    pub tls: Option<Tls>,
}

/// Version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

/// An HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Method.
    pub method: String,
    /// Host and, where the client writes one, port.
    pub authority: String,
    /// Path with query.
    pub path: String,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
    /// Version.
    pub version: Version,
}

impl Http {
    /// `GET` of a path at a host.
    pub fn get(authority: &str, path: &str) -> Self {
        Self {
            method: "GET".to_owned(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            version: Version::Http11,
        }
    }
}

/// A connection and what comes over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The connection.
    pub connection: Connection,
    /// What is asked; `None` for bytes that are not HTTP.
    pub http: Option<Http>,
}
