//! What is known of all resources that lead to others: clusters to their endpoints, listeners to their route tables.
//!
//! Most sidecars of a mesh get equal bytes, so each content is read once and remembered by its hash.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use lateen_proto::envoy::config::cluster::v3::Cluster;
use lateen_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use lateen_proto::envoy::config::listener::v3::{Listener, filter::ConfigType};
use lateen_proto::envoy::config::route::v3::RouteConfiguration;
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use prost::{Message as _, Name as _};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Reads from a resource's content the names that it leads to.
pub(crate) type Reader = fn(&[u8]) -> Vec<String>;

/// What is known of the resources of one type.
pub(crate) struct Catalog {
    read: Reader,
    known: RwLock<Known>,
}

/// A resource that leads to others: a link is one name and what it leads to.
#[derive(Default)]
pub(crate) struct Known {
    /// The links of each name and content, `None` for one that leads nowhere.
    by_content: HashMap<u64, Option<u32>>,
    links: Vec<Link>,
    /// All links of a name: more than one where sidecars get different contents, or it has changed.
    of_name: HashMap<Arc<str>, Vec<u32>>,
    targets: Vec<Arc<str>>,
    target_numbers: HashMap<Arc<str>, u32>,
    /// The links that lead to a target.
    to_target: Vec<Vec<u32>>,
}

struct Link {
    targets: Box<[u32]>,
}

// === impl Catalog ===

impl Catalog {
    /// Knows nothing yet.
    pub(crate) fn new(read: Reader) -> Self {
        Self {
            read,
            known: RwLock::default(),
        }
    }

    /// The link of a resource, if it leads anywhere.
    pub(crate) fn link(&self, name: &str, body: &Bytes) -> Option<u32> {
        let content = xxh3_64_with_seed(body, xxh3_64(name.as_bytes()));
        if let Some(link) = self.known().by_content.get(&content) {
            return *link;
        }
        let targets = (self.read)(body);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let link = known.add(name, &targets);
        known.by_content.insert(content, link);
        link
    }

    /// For several questions in a row.
    pub(crate) fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Known ===

impl Known {
    /// All links that a name has ever had.
    pub(crate) fn links_of(&self, name: &str) -> &[u32] {
        self.of_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// Where a link leads.
    pub(crate) fn targets_of(&self, link: u32) -> &[u32] {
        self.links.get(link as usize).map_or(&[], |link| &link.targets)
    }

    /// Which links lead to a target.
    pub(crate) fn links_to(&self, target: u32) -> &[u32] {
        self.to_target.get(target as usize).map_or(&[], Vec::as_slice)
    }

    /// What a target is called.
    pub(crate) fn target(&self, target: u32) -> &str {
        self.targets.get(target as usize).map_or("", |name| name)
    }

    fn add(&mut self, name: &str, targets: &[String]) -> Option<u32> {
        if targets.is_empty() {
            return None;
        }
        let mut targets: Vec<u32> = targets.iter().map(|target| self.number(target)).collect();
        targets.sort_unstable();
        targets.dedup();
        let same = |link: &&u32| *self.targets_of(**link) == *targets;
        if let Some(known) = self.links_of(name).iter().find(same) {
            return Some(*known);
        }
        let link = u32::try_from(self.links.len()).unwrap_or(u32::MAX);
        for target in &targets {
            self.to_target[*target as usize].push(link);
        }
        self.links.push(Link {
            targets: targets.into(),
        });
        self.of_name.entry(name.into()).or_default().push(link);
        Some(link)
    }

    fn number(&mut self, target: &str) -> u32 {
        if let Some(number) = self.target_numbers.get(target) {
            return *number;
        }
        let name: Arc<str> = target.into();
        let number = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        self.targets.push(name.clone());
        self.to_target.push(Vec::new());
        self.target_numbers.insert(name, number);
        number
    }
}

/// The name under which a cluster's endpoints are asked for.
pub(crate) fn endpoints_of_cluster(body: &[u8]) -> Vec<String> {
    let Ok(cluster) = Cluster::decode(body) else {
        return Vec::new();
    };
    if cluster.cluster_discovery_type != Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)) {
        return Vec::new();
    }
    let named = cluster.eds_cluster_config.map(|config| config.service_name);
    vec![named.filter(|name| !name.is_empty()).unwrap_or(cluster.name)]
}

/// The route tables that a listener's connection managers ask for.
pub(crate) fn routes_of_listener(body: &[u8]) -> Vec<String> {
    let Ok(listener) = Listener::decode(body) else {
        return Vec::new();
    };
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    chains
        .flat_map(|chain| &chain.filters)
        .filter_map(|filter| match &filter.config_type {
            Some(ConfigType::TypedConfig(any)) if any.type_url == HttpConnectionManager::type_url() => Some(any),
            _ => None,
        })
        .filter_map(|any| HttpConnectionManager::decode(any.value.as_slice()).ok())
        .filter_map(|manager| match manager.route_specifier {
            Some(RouteSpecifier::Rds(rds)) => Some(rds.route_config_name),
            _ => None,
        })
        .collect()
}

/// Whether a route table has more virtual hosts than it holds: one name, or none.
pub(crate) fn more_of_table(body: &[u8]) -> Vec<String> {
    let table = RouteConfiguration::decode(body);
    let more = table.ok().filter(|table| table.vhds.is_some());
    more.map(|table| table.name).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use lateen_proto::any;
    use lateen_proto::envoy::config::cluster::v3::cluster::EdsClusterConfig;
    use lateen_proto::envoy::config::listener::v3::{Filter, FilterChain};
    use lateen_proto::envoy::config::route::v3::Vhds;
    use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::Rds;

    use super::*;

    #[test]
    fn endpoints_are_asked_for_by_the_name_that_the_cluster_gives() {
        let mut cluster = Cluster {
            name: "a".into(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
            ..Cluster::default()
        };
        assert_eq!(endpoints_of_cluster(&cluster.encode_to_vec()), ["a"]);
        cluster.eds_cluster_config = Some(EdsClusterConfig {
            service_name: "b".into(),
            ..EdsClusterConfig::default()
        });
        assert_eq!(endpoints_of_cluster(&cluster.encode_to_vec()), ["b"]);
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32));
        assert!(endpoints_of_cluster(&cluster.encode_to_vec()).is_empty());
    }

    #[test]
    fn route_tables_are_found_in_all_filter_chains() {
        let chain = |table: &str| FilterChain {
            filters: vec![Filter {
                config_type: Some(ConfigType::TypedConfig(any(&HttpConnectionManager {
                    route_specifier: Some(RouteSpecifier::Rds(Rds {
                        route_config_name: table.into(),
                        ..Rds::default()
                    })),
                    ..HttpConnectionManager::default()
                }))),
                ..Filter::default()
            }],
            ..FilterChain::default()
        };
        let listener = Listener {
            filter_chains: vec![chain("80"), FilterChain::default()],
            default_filter_chain: Some(chain("rest")),
            ..Listener::default()
        };
        assert_eq!(routes_of_listener(&listener.encode_to_vec()), ["80", "rest"]);
    }

    #[test]
    fn a_table_says_whether_there_are_more_virtual_hosts() {
        let mut table = RouteConfiguration {
            name: "80".into(),
            ..RouteConfiguration::default()
        };
        assert!(more_of_table(&table.encode_to_vec()).is_empty());
        table.vhds = Some(Vhds::default());
        assert_eq!(more_of_table(&table.encode_to_vec()), ["80"]);
    }

    #[test]
    fn another_content_that_leads_to_the_same_is_the_same_link() {
        let catalog = Catalog::new(|body| vec![String::from_utf8_lossy(&body[1..]).into_owned()]);
        let first = catalog.link("a", &Bytes::from_static(b"1x"));
        assert_eq!(catalog.link("a", &Bytes::from_static(b"2x")), first);
        assert_ne!(catalog.link("b", &Bytes::from_static(b"3x")), first);
        let changed = catalog.link("a", &Bytes::from_static(b"1y")).unwrap();
        let known = catalog.known();
        assert_eq!(known.links_of("a"), [first.unwrap(), changed]);
        assert_eq!(known.target(known.targets_of(changed)[0]), "y");
        assert_eq!(known.links_to(known.targets_of(first.unwrap())[0]).len(), 2);
    }
}
