//! What a sidecar asks for and answers, without I/O: clusters, their endpoints, then listeners and their route tables, and
//! virtual hosts where a table has them one by one. Everything is accepted.

use lateen_proto::envoy::config::core::v3::Node;
use lateen_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use lateen_xds::types::{CLUSTER, ENDPOINTS, LISTENER, ROUTE, VIRTUAL_HOST};

use super::catalog::{Catalog, endpoints_of_cluster, more_of_table, routes_of_listener};
use super::follow::{Following, Wish};
use super::wire::{Resource, Response};

/// What all sidecars know together.
pub(crate) struct Catalogs {
    clusters: Catalog,
    listeners: Catalog,
    tables: Catalog,
}

/// One sidecar's stream.
#[derive(Debug, Default)]
pub(crate) struct Session {
    clusters: Following,
    listeners: Following,
    /// A table has more virtual hosts than it holds.
    wants_virtual_hosts: bool,
    asked_for_virtual_hosts: bool,
    /// Which types have come.
    came: [bool; 5],
}

// === impl Catalogs ===

impl Catalogs {
    /// Knows nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            clusters: Catalog::new(endpoints_of_cluster),
            listeners: Catalog::new(routes_of_listener),
            tables: Catalog::new(more_of_table),
        }
    }
}

// === impl Session ===

impl Session {
    /// The first request of a stream: who it is, and that it wants all clusters.
    pub(crate) fn open(node: Node) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: Some(node),
            ..all(CLUSTER)
        }
    }

    /// Takes a resource of the response that is arriving.
    pub(crate) fn take(&mut self, catalogs: &Catalogs, resource: &Resource) {
        match resource.type_url() {
            CLUSTER => self.clusters.take(&catalogs.clusters, resource),
            LISTENER => self.listeners.take(&catalogs.listeners, resource),
            ROUTE if !self.wants_virtual_hosts => {
                let more = catalogs.tables.link(&resource.name, resource.body());
                self.wants_virtual_hosts = more.is_some();
            }
            _ => {}
        }
    }

    /// What to send when a response has arrived: that it is accepted, and what it makes the sidecar ask for.
    pub(crate) fn answer(&mut self, catalogs: &Catalogs, response: &Response) -> Vec<DeltaDiscoveryRequest> {
        let url = response.type_url.as_str();
        let mut requests = vec![DeltaDiscoveryRequest {
            response_nonce: response.nonce.clone(),
            ..all(url)
        }];
        let knew_endpoints = self.knows_endpoints();
        if let Some(at) = place(url) {
            self.came[at] = true;
        }
        match url {
            CLUSTER => {
                let wish = self.clusters.finish(&catalogs.clusters, &response.removed);
                requests.extend(asking(ENDPOINTS, wish));
            }
            LISTENER => {
                let wish = self.listeners.finish(&catalogs.listeners, &response.removed);
                requests.extend(asking(ROUTE, wish));
            }
            ROUTE if self.wants_virtual_hosts && !self.asked_for_virtual_hosts => {
                self.asked_for_virtual_hosts = true;
                requests.push(all(VIRTUAL_HOST));
            }
            _ => {}
        }
        // As Envoy, which wants its clusters to be usable first.
        if !knew_endpoints && self.knows_endpoints() {
            requests.push(all(LISTENER));
        }
        requests
    }

    /// Whether it has everything that it needs to serve: each type that it asks for has come.
    pub(crate) fn is_ready(&self) -> bool {
        self.knows_endpoints()
            && self.has(LISTENER)
            && (self.listeners.is_empty() || self.has(ROUTE))
            && (!self.wants_virtual_hosts || self.has(VIRTUAL_HOST))
    }

    fn knows_endpoints(&self) -> bool {
        self.has(CLUSTER) && (self.clusters.is_empty() || self.has(ENDPOINTS))
    }

    fn has(&self, url: &str) -> bool {
        place(url).is_some_and(|at| self.came[at])
    }
}

fn place(url: &str) -> Option<usize> {
    [CLUSTER, ENDPOINTS, LISTENER, ROUTE, VIRTUAL_HOST]
        .iter()
        .position(|known| *known == url)
}

/// Envoy's wildcard: the first request for a type names nothing.
fn all(url: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: url.to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn asking(url: &str, wish: Wish) -> Option<DeltaDiscoveryRequest> {
    (wish != Wish::default()).then(|| DeltaDiscoveryRequest {
        resource_names_subscribe: wish.more,
        resource_names_unsubscribe: wish.less,
        ..all(url)
    })
}

#[cfg(test)]
mod tests {
    use lateen_proto::envoy::config::cluster::v3::Cluster;
    use lateen_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
    use lateen_proto::envoy::config::route::v3::{RouteConfiguration, Vhds};
    use prost::Message as _;

    use super::*;

    /// Takes a response whole; what is sent then.
    fn take(
        session: &mut Session,
        catalogs: &Catalogs,
        url: &str,
        resources: &[Resource],
    ) -> Vec<DeltaDiscoveryRequest> {
        resources.iter().for_each(|resource| session.take(catalogs, resource));
        let response = Response {
            type_url: url.into(),
            nonce: "7".into(),
            removed: Vec::new(),
        };
        session.answer(catalogs, &response)
    }

    fn cluster(name: &str) -> Resource {
        let cluster = Cluster {
            name: name.into(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
            ..Cluster::default()
        };
        Resource::new(CLUSTER, name, cluster.encode_to_vec())
    }

    fn table(vhds: Option<Vhds>) -> Resource {
        let table = RouteConfiguration {
            name: "80".into(),
            vhds,
            ..RouteConfiguration::default()
        };
        Resource::new(ROUTE, "80", table.encode_to_vec())
    }

    fn urls(requests: &[DeltaDiscoveryRequest]) -> Vec<&str> {
        requests.iter().map(|request| request.type_url.as_str()).collect()
    }

    #[test]
    fn listeners_are_asked_for_when_the_endpoints_of_the_first_clusters_are_known() {
        let (catalogs, mut session) = (Catalogs::new(), Session::default());
        let requests = take(&mut session, &catalogs, CLUSTER, &[cluster("a")]);
        assert_eq!(urls(&requests), [CLUSTER, ENDPOINTS]);
        assert_eq!(requests[0].response_nonce, "7");
        assert_eq!(requests[1].resource_names_subscribe, ["a"]);
        let requests = take(&mut session, &catalogs, ENDPOINTS, &[]);
        assert_eq!(urls(&requests), [ENDPOINTS, LISTENER]);
        assert!(!session.is_ready());
        let requests = take(&mut session, &catalogs, ENDPOINTS, &[]);
        assert_eq!(urls(&requests), [ENDPOINTS]);
        take(&mut session, &catalogs, LISTENER, &[]);
        assert!(session.is_ready());
    }

    #[test]
    fn without_clusters_that_have_endpoints_listeners_are_asked_for_at_once() {
        let (catalogs, mut session) = (Catalogs::new(), Session::default());
        let requests = take(&mut session, &catalogs, CLUSTER, &[]);
        assert_eq!(urls(&requests), [CLUSTER, LISTENER]);
    }

    #[test]
    fn virtual_hosts_are_asked_for_once_and_only_where_a_table_has_more() {
        let (catalogs, mut session) = (Catalogs::new(), Session::default());
        let mut take = |url, resources: &[Resource]| {
            let requests = take(&mut session, &catalogs, url, resources);
            let urls: Vec<String> = urls(&requests).into_iter().map(str::to_owned).collect();
            (urls, session.is_ready())
        };
        take(CLUSTER, &[]);
        take(LISTENER, &[]);
        assert_eq!(take(ROUTE, &[table(None)]).0, [ROUTE]);
        let more = [table(Some(Vhds::default())), table(None)];
        assert_eq!(
            take(ROUTE, &more),
            (vec![ROUTE.to_owned(), VIRTUAL_HOST.to_owned()], false)
        );
        assert_eq!(take(ROUTE, &more).0, [ROUTE]);
        assert!(take(VIRTUAL_HOST, &[]).1);
    }
}
