//! The resources of one proxy.

use std::collections::BTreeMap;

use lateen_proto::envoy::config::cluster::v3::Cluster;
use lateen_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_proto::envoy::config::listener::v3::Listener;
use lateen_proto::envoy::config::route::v3::RouteConfiguration;
use lateen_proto::type_url;
use prost::{Message, Name};

/// A resource cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{type_url}: the bytes are no such message")]
pub struct DecodeError {
    /// The type that it claims.
    pub type_url: String,
    #[source]
    source: prost::DecodeError,
}

/// What an Envoy holds.
#[derive(Debug, Clone, Default)]
pub struct Proxy {
    /// Listeners in the order given; of several with one name the first counts.
    pub(crate) listeners: Vec<Listener>,
    pub(crate) tables: BTreeMap<String, RouteConfiguration>,
    pub(crate) clusters: BTreeMap<String, Cluster>,
    pub(crate) endpoints: BTreeMap<String, ClusterLoadAssignment>,
    /// By table and virtual host.
    origins: BTreeMap<(String, String), Vec<String>>,
}

impl Proxy {
    /// Reads resources by type URL; of equal names the first counts, as for the control plane. Types that decide nothing
    /// (secrets, names) are passed over.
    ///
    /// # Errors
    /// When the bytes of a resource are not of its type.
    pub fn decode<'a>(resources: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, DecodeError> {
        let mut proxy = Self::default();
        for (url, bytes) in resources {
            if url == type_url::<Listener>() {
                proxy.add_listener(read(url, bytes)?);
            } else if url == type_url::<RouteConfiguration>() {
                proxy.add_routes(read(url, bytes)?);
            } else if url == type_url::<Cluster>() {
                proxy.add_cluster(read(url, bytes)?);
            } else if url == type_url::<ClusterLoadAssignment>() {
                proxy.add_endpoints(read(url, bytes)?);
            }
        }
        Ok(proxy)
    }

    /// Adds a listener, if none of its name is there.
    pub fn add_listener(&mut self, listener: Listener) {
        if !self.listeners.iter().any(|known| known.name == listener.name) {
            self.listeners.push(listener);
        }
    }

    /// Adds a route table, if none of its name is there.
    pub fn add_routes(&mut self, table: RouteConfiguration) {
        self.tables.entry(table.name.clone()).or_insert(table);
    }

    /// Adds a cluster, if none of its name is there.
    pub fn add_cluster(&mut self, cluster: Cluster) {
        self.clusters.entry(cluster.name.clone()).or_insert(cluster);
    }

    /// Says what the routes of a virtual host are made of, in their order; traces repeat it.
    pub fn name_routes(&mut self, table: &str, host: &str, origins: Vec<String>) {
        self.origins.insert((table.to_owned(), host.to_owned()), origins);
    }

    /// What a route is made of, where it was said.
    pub(crate) fn origin(&self, table: &str, host: &str, index: usize) -> Option<String> {
        let of_host = self.origins.get(&(table.to_owned(), host.to_owned()))?;
        of_host.get(index).cloned()
    }

    /// Adds endpoints of a cluster, if none of its name are there.
    pub fn add_endpoints(&mut self, endpoints: ClusterLoadAssignment) {
        self.endpoints
            .entry(endpoints.cluster_name.clone())
            .or_insert(endpoints);
    }
}

fn read<M: Message + Name + Default>(url: &str, bytes: &[u8]) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|source| DecodeError {
        type_url: url.to_owned(),
        source,
    })
}
