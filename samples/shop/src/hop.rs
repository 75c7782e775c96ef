//! What a service answers: who it is, who its proxy says is asking, and whom it asked in turn.

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};

/// One service's part in answering a request.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Hop {
    pub(crate) service: String,
    pub(crate) version: String,
    pub(crate) pod: String,
    /// Identities of the connection the request came over; absent when it was not mutual TLS.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) peer: Option<Peer>,
    /// The service's own content.
    pub(crate) body: serde_json::Value,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) calls: Vec<Call>,
}

/// Both ends of a mutual TLS connection, as `x-forwarded-client-cert` names them.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Peer {
    pub(crate) client: String,
    pub(crate) server: String,
}

/// A request made while answering another.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) to: String,
    /// HTTP status; 0 when there was no answer.
    pub(crate) status: u16,
    pub(crate) micros: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) reply: Option<Box<Hop>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) error: Option<String>,
}

impl Call {
    /// Answered, and by everyone behind it too.
    pub(crate) fn ok(&self) -> bool {
        self.status == 200 && self.reply.as_ref().is_some_and(|hop| hop.calls.iter().all(Self::ok))
    }
}

/// Reads the nearest peer from `x-forwarded-client-cert`, whose last element the own proxy wrote.
pub(crate) fn peer(headers: &HeaderMap) -> Option<Peer> {
    let value = headers
        .get_all("x-forwarded-client-cert")
        .iter()
        .next_back()?
        .to_str()
        .ok()?;
    let nearest = split_outside_quotes(value, ',').pop()?;
    let mut client = None;
    let mut server = None;
    for pair in split_outside_quotes(nearest, ';') {
        match pair.trim().split_once('=') {
            Some(("By", value)) => server = Some(value.trim_matches('"').to_owned()),
            Some(("URI", value)) => client = Some(value.trim_matches('"').to_owned()),
            _ => {}
        }
    }
    Some(Peer {
        client: client?,
        server: server?,
    })
}

fn split_outside_quotes(text: &str, at: char) -> Vec<&str> {
    let mut quoted = false;
    text.split(|c| {
        quoted ^= c == '"';
        c == at && !quoted
    })
    .collect()
}

/// Headers that a service must carry on for traces and user-based routes to work.
const CARRIED: &[&str] = &[
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-ot-span-context",
    "grpc-trace-bin",
    "end-user",
    "user-agent",
];

/// The part of `headers` to send along with calls made on its behalf.
pub(crate) fn carried(headers: &HeaderMap) -> HeaderMap {
    headers
        .iter()
        .filter(|(name, _)| CARRIED.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([("x-forwarded-client-cert".parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn the_nearest_peer_is_read() {
        let header = r#"By=spiffe://a/ns/x/sa/gw;Hash=1;URI=spiffe://a/ns/x/sa/far,By=spiffe://a/ns/x/sa/me;Hash=2;Subject="O=a, CN=\b;c";URI=spiffe://a/ns/x/sa/near"#;
        let peer = peer(&headers(header)).unwrap();
        assert_eq!(peer.client, "spiffe://a/ns/x/sa/near");
        assert_eq!(peer.server, "spiffe://a/ns/x/sa/me");
    }

    #[test]
    fn no_certificate_is_no_peer() {
        assert_eq!(peer(&HeaderMap::new()), None);
        assert_eq!(peer(&headers("Hash=2")), None);
    }

    #[test]
    fn only_headers_of_traces_and_users_are_carried() {
        let all: HeaderMap = [
            ("traceparent", "00-1"),
            ("end-user", "ana"),
            ("authorization", "secret"),
            ("host", "x"),
        ]
        .into_iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
        let carried = carried(&all);
        assert_eq!(carried.len(), 2);
        assert!(carried.contains_key("traceparent") && carried.contains_key("end-user"));
    }
}
