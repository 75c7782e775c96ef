//! Small but real Envoy resources.

use std::net::SocketAddr;

use lateen_proto::envoy::config::cluster::v3::Cluster;
use lateen_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_proto::envoy::config::listener::v3::Listener;
use lateen_proto::envoy::config::route::v3::RouteConfiguration;
use lateen_proto::from_json;
use lateen_xds::Resource;
use serde_json::{Value, json};

fn ads() -> Value {
    json!({"ads": {}, "resource_api_version": "V3"})
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// A cluster with endpoints from EDS; it differs by its connect timeout.
pub(crate) fn cluster(name: &str, timeout_seconds: u32) -> Resource {
    let cluster: Cluster = from_json(&json!({
        "name": name, "type": "EDS", "connect_timeout": format!("{timeout_seconds}s"),
        "eds_cluster_config": {"eds_config": ads()},
    }))
    .unwrap();
    Resource::encode(name, &cluster)
}

pub(crate) fn endpoints(name: &str, address: SocketAddr) -> Resource {
    let endpoints: ClusterLoadAssignment = from_json(&json!({
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(address)}}]}],
    }))
    .unwrap();
    Resource::encode(name, &endpoints)
}

/// A listener on any free port that takes its routes from RDS.
pub(crate) fn listener(name: &str, routes: &str) -> Resource {
    with_filters(
        name,
        &json!([{
            "name": "http",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": name,
                "rds": {"route_config_name": routes, "config_source": ads()},
                "http_filters": [{
                    "name": "router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }],
            },
        }]),
    )
}

/// A listener that Envoy refuses: a TCP proxy to nowhere.
pub(crate) fn bad_listener(name: &str) -> Resource {
    with_filters(
        name,
        &json!([{
            "name": "tcp",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "",
            },
        }]),
    )
}

fn with_filters(name: &str, filters: &Value) -> Resource {
    let listener: Listener = from_json(&json!({
        "name": name, "address": socket(SocketAddr::from(([127, 0, 0, 1], 0))), "filter_chains": [{"filters": filters}],
    }))
    .unwrap();
    Resource::encode(name, &listener)
}

/// A table that sends everything to one cluster.
pub(crate) fn routes(name: &str, cluster: &str) -> Resource {
    let routes: RouteConfiguration = from_json(&json!({
        "name": name,
        "virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
        }],
    }))
    .unwrap();
    Resource::encode(name, &routes)
}
