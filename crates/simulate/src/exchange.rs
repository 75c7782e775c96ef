//! A request on its way through the filters of a connection manager.

use lateen_proto::Struct;
use lateen_proto::envoy::config::core::v3::Metadata as ConfigMetadata;
use lateen_proto::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use lateen_proto::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use lateen_proto::value::Kind as ValueKind;
use prost::{Message, Name};

use crate::headers::{HeaderChange, Headers, changes};
use crate::matching::Metadata;
use crate::proxy::Proxy;
use crate::request::{Connection, Version};
use crate::trace::{Answer, Delay, Outcome, Step, Verdict};

/// Where a request is routed to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Chosen<'a> {
    /// A route of a virtual host.
    Route(&'a VirtualHost, &'a Route),
    /// The virtual host wants TLS.
    Tls(&'a VirtualHost),
    /// Nowhere.
    Nothing,
}

impl<'a> Chosen<'a> {
    pub(crate) fn route(self) -> Option<(&'a VirtualHost, &'a Route)> {
        match self {
            Self::Route(host, route) => Some((host, route)),
            _ => None,
        }
    }
}

/// The state of a request; cloned where chance decides.
#[derive(Debug, Clone)]
pub(crate) struct Exchange<'a> {
    pub proxy: &'a Proxy,
    pub connection: &'a Connection,
    pub manager: &'a HttpConnectionManager,
    /// The route table, if the proxy has it.
    pub table: Option<&'a RouteConfiguration>,
    /// The client's version of HTTP.
    pub version: Version,
    /// Headers, with those of HTTP/2 that begin with a colon.
    pub headers: Headers,
    /// What filters left behind.
    pub metadata: Metadata,
    /// What filters do to the answer.
    pub response: Vec<HeaderChange>,
    pub delay: Option<Delay>,
    pub steps: Vec<Step>,
    pub share: f64,
}

impl<'a> Exchange<'a> {
    pub(crate) fn path(&self) -> String {
        self.headers.get(":path").unwrap_or_default()
    }

    pub(crate) fn authority(&self) -> String {
        self.headers.get(":authority").unwrap_or_default()
    }

    pub(crate) fn method(&self) -> String {
        self.headers.get(":method").unwrap_or_default()
    }

    pub(crate) fn is_grpc(&self) -> bool {
        self.headers
            .get("content-type")
            .is_some_and(|kind| kind == "application/grpc" || kind.starts_with("application/grpc+"))
    }

    /// Configuration of a filter for a route: the route's, else the virtual host's, else the table's.
    pub(crate) fn filter_config<M: Message + Name + Default>(&self, filter: &str, chosen: Chosen<'a>) -> Option<M> {
        let (host, route) = chosen.route()?;
        [
            Some(&route.typed_per_filter_config),
            Some(&host.typed_per_filter_config),
            self.table.map(|table| &table.typed_per_filter_config),
        ]
        .into_iter()
        .flatten()
        .find_map(|configs| configs.get(filter)?.to_msg().ok())
    }

    /// What configuration does to the headers of answers on a route, in Envoy's order.
    pub(crate) fn response_changes(&self, chosen: Chosen<'a>, weighted: Option<&ClusterWeight>) -> Vec<HeaderChange> {
        let Some((host, route)) = chosen.route() else {
            return Vec::new();
        };
        let mut sets: Vec<Vec<HeaderChange>> = Vec::new();
        if let Some(one) = weighted {
            sets.push(changes(
                &one.response_headers_to_add,
                &one.response_headers_to_remove,
                &self.headers,
            ));
        }
        sets.push(changes(
            &route.response_headers_to_add,
            &route.response_headers_to_remove,
            &self.headers,
        ));
        sets.push(changes(
            &host.response_headers_to_add,
            &host.response_headers_to_remove,
            &self.headers,
        ));
        if let Some(table) = self.table {
            sets.push(changes(
                &table.response_headers_to_add,
                &table.response_headers_to_remove,
                &self.headers,
            ));
            if table.most_specific_header_mutations_wins {
                sets.reverse();
            }
        }
        sets.concat()
    }

    /// Ends with an answer of the proxy itself. Callers of gRPC get 200 and the status in a header.
    pub(crate) fn answered(
        mut self,
        status: u16,
        headers: Vec<(String, String)>,
        body: Option<String>,
        changes: &[HeaderChange],
        by: impl Into<String>,
    ) -> Outcome {
        let mut all = Headers::new(headers);
        let (mut status, mut body) = (status, body);
        if self.is_grpc() {
            if all.get("grpc-status").is_none() {
                all.set("grpc-status", &grpc_status(status).to_string());
            }
            if let Some(text) = body.take_if(|text| !text.is_empty()) {
                all.set("grpc-message", &text);
            }
            status = 200;
        }
        all.apply(changes);
        all.apply(&self.response);
        Outcome {
            share: self.share,
            steps: std::mem::take(&mut self.steps),
            verdict: Verdict::Answered(Answer {
                status,
                headers: all.plain(),
                body,
                by: by.into(),
            }),
        }
    }
}

/// The status of gRPC that stands for one of HTTP.
fn grpc_status(status: u16) -> u16 {
    match status {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// The object that a resource is made of, by API path.
pub(crate) fn object_of(metadata: Option<&ConfigMetadata>) -> Option<String> {
    text_of(metadata?.filter_metadata.get("istio")?, "config")
}

pub(crate) fn text_of(of: &Struct, key: &str) -> Option<String> {
    match of.fields.get(key)?.kind.as_ref()? {
        ValueKind::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

/// Milliseconds of a duration.
pub(crate) fn millis(duration: &prost_types::Duration) -> u64 {
    let seconds = u64::try_from(duration.seconds).unwrap_or_default();
    seconds * 1000 + u64::try_from(duration.nanos).unwrap_or_default() / 1_000_000
}
