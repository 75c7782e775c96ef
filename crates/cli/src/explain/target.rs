//! What is asked for.

use std::str::FromStr;

use hyper::Uri;
use serde::Serialize;

/// How the caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scheme {
    /// HTTP in plain text, as far as the application is concerned.
    Http,
    /// HTTP in TLS of the application's own.
    Https,
    /// gRPC in plain text.
    Grpc,
    /// Bytes.
    Tcp,
    /// Bytes in TLS of the application's own.
    Tls,
}

/// A URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The text, as given.
    pub(super) text: String,
    pub(super) scheme: Scheme,
    pub(super) host: String,
    pub(super) port: u16,
    /// Host with the port that was written.
    pub(super) authority: String,
    /// Path with query.
    pub(super) path: String,
}

impl Target {
    /// Whether the application itself opens TLS.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Tls)
    }

    /// Whether HTTP is spoken, be it in TLS.
    pub(super) fn is_http(&self) -> bool {
        matches!(self.scheme, Scheme::Http | Scheme::Https | Scheme::Grpc)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let full = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let uri: Uri = full.parse().map_err(|error| format!("{error}"))?;
        let (scheme, default) = match uri.scheme_str() {
            Some("http") => (Scheme::Http, Some(80)),
            Some("https") => (Scheme::Https, Some(443)),
            Some("grpc") => (Scheme::Grpc, Some(80)),
            Some("tcp") => (Scheme::Tcp, None),
            Some("tls") => (Scheme::Tls, Some(443)),
            other => {
                let other = other.unwrap_or_default();
                return Err(format!("`{other}` is none of http, https, grpc, tcp, tls"));
            }
        };
        let authority = uri.authority().ok_or("it names no host")?;
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        if host.is_empty() {
            return Err("it names no host".to_owned());
        }
        let port = authority
            .port_u16()
            .or(default)
            .ok_or("it names no port, and the scheme has none of its own")?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            text: text.to_owned(),
            scheme,
            host,
            port,
            authority: authority.as_str().to_owned(),
            path: if path.is_empty() { "/" } else { path }.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let of = |text: &str| {
            let target: Target = text.parse().unwrap();
            (target.scheme, target.host, target.port, target.authority, target.path)
        };
        let wanted = |scheme, host: &str, port, authority: &str, path: &str| {
            (scheme, host.to_owned(), port, authority.to_owned(), path.to_owned())
        };
        assert_eq!(
            of("http://a:9080/x?y=1"),
            wanted(Scheme::Http, "a", 9080, "a:9080", "/x?y=1")
        );
        assert_eq!(of("Reviews"), wanted(Scheme::Http, "reviews", 80, "Reviews", "/"));
        assert_eq!(of("https://a.b"), wanted(Scheme::Https, "a.b", 443, "a.b", "/"));
        assert_eq!(
            of("tcp://[fd00::1]:5"),
            wanted(Scheme::Tcp, "fd00::1", 5, "[fd00::1]:5", "/")
        );
        for wrong in ["tcp://a", "ftp://a", "http://", "http://a b"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
