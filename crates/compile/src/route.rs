//! Route tables: virtual hosts and their routes.

mod action;
mod gateway;
mod http;
mod matching;
mod select;
mod sidecar;

use std::sync::Arc;

use lateen_model::mesh::Mesh;
use lateen_model::proxy::ProxyKind;
use lateen_model::{Shared, Snapshot};
use lateen_names::ObjectRef;
use lateen_proto::envoy::config::route::v3 as pb;

use crate::Scope;
use crate::built::{Built, Resource};
use crate::facts::OutboundFacts;

pub(crate) use gateway::{common_hosts, exported_routes};
pub(crate) use http::inbound_route;
pub use http::{RouteOrigin, Routes, VirtualHost};
pub use select::{Resolved, RouteSource};
pub(crate) use select::{resolve, source_applies};
pub(crate) use sidecar::outbound_policy;

/// Istio raises Envoy's limit for bodies of direct responses to one mebibyte.
const MAX_DIRECT_BODY: u32 = 1024 * 1024;

/// What a route table is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    /// Name of the table: `80`, `host:80`, `http.80`, `https.443.https.gateway.namespace`.
    pub name: Arc<str>,
    /// Virtual hosts in order.
    pub hosts: Vec<VirtualHost>,
    /// Whether ports in `:authority` are ignored.
    pub ignore_port: bool,
    /// Mesh-wide settings.
    pub mesh: Shared<Mesh>,
}

impl Input {
    /// Builds the route table.
    pub fn build(&self) -> Built {
        let table = pb::RouteConfiguration {
            name: self.name.to_string(),
            virtual_hosts: self.hosts.iter().map(|host| host.build(&self.mesh)).collect(),
            validate_clusters: Some(false),
            max_direct_response_body_size_bytes: Some(MAX_DIRECT_BODY),
            ignore_port_in_host_matching: self.ignore_port,
            ..Default::default()
        };
        Built {
            resource: Some(Resource::encode(Arc::clone(&self.name), &table)),
            diagnostics: Vec::new(),
            origins: self.origins(),
        }
    }

    fn origins(&self) -> Arc<[ObjectRef]> {
        self.hosts.iter().flat_map(VirtualHost::origins).cloned().collect()
    }
}

/// Lists the route tables of a class.
pub fn select(snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Vec<Input> {
    match facts.kind {
        ProxyKind::Sidecar => sidecar::select(snapshot, scope, facts),
        ProxyKind::Router => gateway::select(snapshot, scope, facts),
        ProxyKind::Waypoint | ProxyKind::Ztunnel => Vec::new(),
    }
}
