//! What differs between types of resources, as data: their order, and the rules of their protocol.

/// Clusters (CDS).
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Endpoints (EDS).
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Listeners (LDS).
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Route tables (RDS).
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// Scoped route tables (SRDS).
pub const SCOPED_ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";
/// Virtual hosts (VHDS).
pub const VIRTUAL_HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
/// Certificates and keys (SDS).
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Filters' configuration (ECDS).
pub const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
/// The agent's DNS table (NDS).
pub const NAME_TABLE: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";
/// The agent's proxy configuration (PCDS).
pub const PROXY_CONFIG: &str = "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig";

/// Types that begin so are questions about the control plane itself, which `istioctl` asks.
pub const QUESTIONS: &str = "istio.io/debug";

/// The rules of one type of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The type's URL, empty for one that is not in the table.
    url: &'static str,
    /// What istiod's metrics and istioctl call it.
    pub(crate) short: &'static str,
    /// A first request without names means all of them. For the others Envoy, when it reconnects after it lost interest,
    /// sends such a request and means none.
    pub(crate) wildcard: bool,
    /// In the state of the world, a response without a resource removes it.
    pub(crate) full: bool,
    /// Waits for new clusters to be usable: Envoy does not warm routes.
    pub(crate) waits: bool,
    /// Its removals wait until nothing that `waits` is under way.
    pub(crate) removed_last: bool,
}

const fn kind(url: &'static str, short: &'static str) -> Kind {
    Kind {
        url,
        short,
        wildcard: true,
        full: true,
        waits: false,
        removed_last: false,
    }
}

/// In the order of pushes: make before break.
const KINDS: [Kind; 10] = [
    Kind {
        removed_last: true,
        ..kind(CLUSTER, "cds")
    },
    Kind {
        wildcard: false,
        full: false,
        removed_last: true,
        ..kind(ENDPOINTS, "eds")
    },
    Kind {
        waits: true,
        ..kind(LISTENER, "lds")
    },
    Kind {
        waits: true,
        ..kind(SCOPED_ROUTE, "srds")
    },
    Kind {
        wildcard: false,
        full: false,
        waits: true,
        ..kind(ROUTE, "rds")
    },
    Kind {
        waits: true,
        ..kind(VIRTUAL_HOST, "vhds")
    },
    Kind {
        wildcard: false,
        full: false,
        ..kind(SECRET, "sds")
    },
    Kind {
        wildcard: false,
        full: false,
        ..kind(EXTENSION, "ecds")
    },
    kind(NAME_TABLE, "nds"),
    kind(PROXY_CONFIG, "pcds"),
];

const OTHER: Kind = kind("", "other");

/// The rules of a type, and its place in the order of pushes.
pub(crate) fn kind_of(url: &str) -> (usize, Kind) {
    KINDS
        .iter()
        .position(|kind| kind.url == url)
        .map_or((KINDS.len(), OTHER), |at| (at, KINDS[at]))
}

/// What istiod's metrics and istioctl call a type: `cds`, `eds`, `lds`, `rds`, `sds`, `ecds`, `nds`, …; a type that is
/// not known is `other`.
pub fn short_name(url: &str) -> &'static str {
    kind_of(url).1.short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_of_the_messages() {
        use lateen_proto::envoy;
        use prost::Name;
        assert_eq!(CLUSTER, envoy::config::cluster::v3::Cluster::type_url());
        assert_eq!(
            ENDPOINTS,
            envoy::config::endpoint::v3::ClusterLoadAssignment::type_url()
        );
        assert_eq!(LISTENER, envoy::config::listener::v3::Listener::type_url());
        assert_eq!(ROUTE, envoy::config::route::v3::RouteConfiguration::type_url());
        assert_eq!(
            SCOPED_ROUTE,
            envoy::config::route::v3::ScopedRouteConfiguration::type_url()
        );
        assert_eq!(VIRTUAL_HOST, envoy::config::route::v3::VirtualHost::type_url());
        assert_eq!(
            SECRET,
            envoy::extensions::transport_sockets::tls::v3::Secret::type_url()
        );
        assert_eq!(EXTENSION, envoy::config::core::v3::TypedExtensionConfig::type_url());
        assert_eq!(
            NAME_TABLE,
            lateen_proto::istio::networking::nds::v1::NameTable::type_url()
        );
    }
}
