//! Route tables: virtual hosts and their routes.

mod action;
mod gateway;
mod http;
mod matching;
mod select;
mod sidecar;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use lateen_model::mesh::Mesh;
use lateen_model::proxy::ProxyKind;
use lateen_model::{Shared, Snapshot};
use lateen_names::{Hostname, ObjectRef};
use lateen_proto::envoy::config::route::v3 as pb;

use crate::Scope;
use crate::built::{Built, Resource};
use crate::facts::OutboundFacts;
use crate::scope::Sight;

pub(crate) use gateway::{common_hosts, exported_routes};
pub(crate) use http::inbound_route;
pub use http::{RouteOrigin, Routes, VirtualHost};
pub use select::{Resolved, RouteSource};
pub(crate) use select::{resolve, source_applies};
pub(crate) use sidecar::{Replaced, Tables, outbound_policy};

/// Istio raises Envoy's limit for bodies of direct responses to one mebibyte.
const MAX_DIRECT_BODY: u32 = 1024 * 1024;

/// What a route table is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    /// Name of the table: `80`, `host:80`, `http.80`, `https.443.https.gateway.namespace`.
    pub name: Arc<str>,
    /// Virtual hosts in order.
    pub hosts: Vec<Arc<VirtualHost>>,
    /// Whether ports in `:authority` are ignored.
    pub ignore_port: bool,
    /// Whether there are more virtual hosts, which come one by one.
    pub more: bool,
    /// Mesh-wide settings.
    pub mesh: Shared<Mesh>,
}

/// What a virtual host is made of that comes by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostInput {
    /// Name of its table.
    pub table: Arc<str>,
    /// The virtual host.
    pub host: Arc<VirtualHost>,
    /// Mesh-wide settings.
    pub mesh: Shared<Mesh>,
}

impl HostInput {
    /// The name of the resource: that of the table, a slash, that of the virtual host within the table.
    pub fn name(&self) -> String {
        format!("{}/{}", self.table, self.host.name)
    }

    /// Builds the virtual host. It bears the resource's name: Envoy ignores the removal of others.
    pub fn build(&self) -> Built {
        let name = self.name();
        let host = pb::VirtualHost {
            name: name.clone(),
            ..self.host.build(&self.mesh)
        };
        let origins: Arc<[ObjectRef]> = self.host.origins().cloned().collect();
        Built::new(Resource::encode(name, &host), origins)
    }
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
            vhds: self.more.then(from_ads),
            ..Default::default()
        };
        Built {
            resource: Some(Resource::encode(Arc::clone(&self.name), &table)),
            diagnostics: Vec::new(),
            origins: self.origins(),
        }
    }

    fn origins(&self) -> Arc<[ObjectRef]> {
        self.hosts.iter().flat_map(|host| host.origins()).cloned().collect()
    }
}

/// Virtual hosts of a table come over the same stream.
fn from_ads() -> pb::Vhds {
    pb::Vhds {
        config_source: Some(crate::source::ads()),
    }
}

/// Lists the virtual hosts of a class that come one by one.
pub(crate) fn split_hosts(snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Vec<HostInput> {
    if sidecar::is_split(facts) {
        sidecar::split_hosts(snapshot, scope, facts)
    } else {
        Vec::new()
    }
}

/// What of a class's tables, and of the virtual hosts that come one by one, is replaced where only these hosts differ, found
/// once for both; `None` where hosts may not be looked at by themselves.
pub(crate) fn replaced(
    before: Sight<'_>,
    now: Sight<'_>,
    facts: &OutboundFacts,
    hosts: &BTreeSet<Hostname>,
) -> Option<Arc<Replaced>> {
    let find = || sidecar::replaced(before, now, facts, hosts).map(Arc::new);
    // What a panic left is nothing.
    let mut known = now.scope.replaced.lock().unwrap_or_else(PoisonError::into_inner);
    known
        .get_or_insert_with(|| sidecar::is_split(facts).then(find).flatten())
        .clone()
}

/// Lists the route tables of a class.
pub fn select(snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Vec<Input> {
    match facts.kind {
        ProxyKind::Sidecar => sidecar::select(snapshot, scope, facts),
        ProxyKind::Router => gateway::select(snapshot, scope, facts),
        ProxyKind::Waypoint | ProxyKind::Ztunnel => Vec::new(),
    }
}
