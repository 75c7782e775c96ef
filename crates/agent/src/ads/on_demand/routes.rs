//! Where requests go: what the routes that Envoy has send to, by virtual host.

use std::collections::{BTreeMap, BTreeSet};

use lateen_proto::Any;
use lateen_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use lateen_proto::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost, route};
use lateen_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::Message as _;

const TABLE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const VIRTUAL_HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// By type and name of the resource.
    resources: BTreeMap<(Kind, String), Box<[Host]>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Table,
    VirtualHost,
}

/// A virtual host.
#[derive(Debug)]
struct Host {
    name: Box<str>,
    routes: Box<[Target]>,
}

/// What the routes of one name send to.
#[derive(Debug)]
struct Target {
    route: Box<str>,
    clusters: Box<[Box<str>]>,
}

/// Whether responses of this type say where requests go.
pub(super) fn carries(kind: &[u8]) -> bool {
    Kind::of(kind).is_some()
}

// === impl Kind ===

impl Kind {
    fn of(type_url: &[u8]) -> Option<Self> {
        [(TABLE, Self::Table), (VIRTUAL_HOST, Self::VirtualHost)]
            .into_iter()
            .find_map(|(url, kind)| (url.as_bytes() == type_url).then_some(kind))
    }

    fn hosts(self, resource: &Any) -> Option<Box<[Host]>> {
        let value = &*resource.value;
        Some(match self {
            Self::Table => RouteConfiguration::decode(value)
                .ok()?
                .virtual_hosts
                .iter()
                .map(Host::of)
                .collect(),
            Self::VirtualHost => Box::new([Host::of(&VirtualHost::decode(value).ok()?)]),
        })
    }
}

// === impl Routes ===

impl Routes {
    pub(super) fn on_response(&mut self, response: DeltaDiscoveryResponse) {
        let Some(kind) = Kind::of(response.type_url.as_bytes()) else {
            return;
        };
        for name in response.removed_resources {
            self.resources.remove(&(kind, name));
        }
        for resource in response.resources {
            match resource.resource.as_ref().and_then(|any| kind.hosts(any)) {
                Some(hosts) => self.resources.insert((kind, resource.name), hosts),
                None => self.resources.remove(&(kind, resource.name)),
            };
        }
    }

    /// All that requests of this virtual host may be sent to by routes of this name. Several tables may have one of that name.
    pub(super) fn clusters(&self, virtual_host: &str, route: &str) -> BTreeSet<String> {
        let hosts = self.resources.values().flatten();
        hosts
            .filter(|host| &*host.name == virtual_host)
            .flat_map(|host| &host.routes)
            .filter(|target| &*target.route == route)
            .flat_map(|target| target.clusters.iter().map(|name| String::from(&**name)))
            .collect()
    }
}

// === impl Host ===

impl Host {
    fn of(host: &VirtualHost) -> Self {
        let mut routes = BTreeMap::<&str, BTreeSet<&str>>::new();
        for one in &host.routes {
            routes.entry(&one.name).or_default().extend(clusters(one));
        }
        let target = |(route, clusters): (&str, BTreeSet<&str>)| Target {
            route: route.into(),
            clusters: clusters.into_iter().map(Box::from).collect(),
        };
        Self {
            name: host.name.as_str().into(),
            routes: routes.into_iter().map(target).collect(),
        }
    }
}

fn clusters(route: &Route) -> Vec<&str> {
    let Some(route::Action::Route(action)) = &route.action else {
        return Vec::new();
    };
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![name],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted.clusters.iter().map(|cluster| &*cluster.name).collect()
        }
        _ => Vec::new(),
    }
}
