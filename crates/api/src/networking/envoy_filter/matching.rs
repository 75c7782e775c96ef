//! Which generated objects a patch applies to.

use crate::proto_enum::proto_enum;
use crate::schema::{one_of, rule};
use crate::serde_util::is_default;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which objects are patched; all conditions must hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["listener", "routeConfiguration", "cluster", "waypoint"]), "x-kubernetes-validations" = [rule("only support waypointMatch when context is WAYPOINT", r#"has(self.context) ? ((self.context == "WAYPOINT") ? has(self.waypoint) : !has(self.waypoint)) : !has(self.waypoint)"#)]))]
pub struct EnvoyConfigObjectMatch {
    /// The kind of proxy and the direction of traffic.
    #[serde(skip_serializing_if = "is_default")]
    pub context: PatchContext,
    /// The proxies.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy: Option<ProxyMatch>,
    /// Conditions on listeners and what is in them.
    #[serde(skip_serializing_if = "is_default")]
    pub listener: Option<ListenerMatch>,
    /// Conditions on route configurations and what is in them.
    #[serde(skip_serializing_if = "is_default")]
    pub route_configuration: Option<RouteConfigurationMatch>,
    /// Conditions on clusters.
    #[serde(skip_serializing_if = "is_default")]
    pub cluster: Option<ClusterMatch>,
    /// Conditions on waypoints.
    #[serde(skip_serializing_if = "is_default")]
    pub waypoint: Option<WaypointMatch>,
}

/// The conditions of an [`EnvoyConfigObjectMatch`] on the objects themselves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ObjectMatch<'a> {
    /// `EnvoyConfigObjectMatch::listener` is set.
    Listener(&'a ListenerMatch),
    /// `EnvoyConfigObjectMatch::route_configuration` is set.
    RouteConfiguration(&'a RouteConfigurationMatch),
    /// `EnvoyConfigObjectMatch::cluster` is set.
    Cluster(&'a ClusterMatch),
    /// `EnvoyConfigObjectMatch::waypoint` is set.
    Waypoint(&'a WaypointMatch),
}

impl EnvoyConfigObjectMatch {
    /// Which one of the exclusive fields is set; the first in the order of [`ObjectMatch`] if the CRD rule was bypassed.
    pub fn object_types(&self) -> Option<ObjectMatch<'_>> {
        self.listener
            .as_ref()
            .map(ObjectMatch::Listener)
            .or_else(|| self.route_configuration.as_ref().map(ObjectMatch::RouteConfiguration))
            .or_else(|| self.cluster.as_ref().map(ObjectMatch::Cluster))
            .or_else(|| self.waypoint.as_ref().map(ObjectMatch::Waypoint))
    }
}

proto_enum! {
    /// A kind of proxy and a direction of traffic.
    pub enum PatchContext {
        /// Sidecars and gateways, every direction.
        Any = (0, "ANY"),
        /// Sidecars, traffic to the workload.
        SidecarInbound = (1, "SIDECAR_INBOUND"),
        /// Sidecars, traffic from the workload.
        SidecarOutbound = (2, "SIDECAR_OUTBOUND"),
        /// Gateways.
        Gateway = (3, "GATEWAY"),
        /// Waypoints.
        Waypoint = (4, "WAYPOINT"),
    }
}

/// Which proxies.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyMatch {
    /// A regular expression for the version that the proxy reports.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy_version: String,
    /// Metadata that the proxy must report, exactly.
    #[serde(skip_serializing_if = "is_default")]
    pub metadata: BTreeMap<String, String>,
}

/// Conditions on listeners.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ListenerMatch {
    /// The port.
    #[serde(skip_serializing_if = "is_default")]
    pub port_number: u32,
    /// The name of the service's port. Accepted for compatibility; Istio does not use it.
    #[serde(skip_serializing_if = "is_default")]
    pub port_name: String,
    /// Conditions on a filter chain.
    #[serde(skip_serializing_if = "is_default")]
    pub filter_chain: Option<FilterChainMatch>,
    /// The name of a listener filter.
    #[serde(skip_serializing_if = "is_default")]
    pub listener_filter: String,
    /// The name of the listener.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
}

/// Conditions on a filter chain.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct FilterChainMatch {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// The server name that it is for.
    #[serde(skip_serializing_if = "is_default")]
    pub sni: String,
    /// `raw_buffer` or `tls`, if it is for just one.
    #[serde(skip_serializing_if = "is_default")]
    pub transport_protocol: String,
    /// The application protocols that it is for, with commas between.
    #[serde(skip_serializing_if = "is_default")]
    pub application_protocols: String,
    /// Conditions on a network filter in it.
    #[serde(skip_serializing_if = "is_default")]
    pub filter: Option<FilterMatch>,
    /// The destination port that it is for.
    #[serde(skip_serializing_if = "is_default")]
    pub destination_port: u32,
    /// The name of its transport socket.
    #[serde(skip_serializing_if = "is_default")]
    pub transport_socket: String,
}

/// Conditions on a network filter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct FilterMatch {
    /// Its name, such as `envoy.filters.network.http_connection_manager`.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Conditions on an HTTP filter in it.
    #[serde(skip_serializing_if = "is_default")]
    pub sub_filter: Option<SubFilterMatch>,
}

/// Conditions on an HTTP filter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct SubFilterMatch {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
}

/// Conditions on route configurations.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteConfigurationMatch {
    /// The port of the service or of the gateway's server.
    #[serde(skip_serializing_if = "is_default")]
    pub port_number: u32,
    /// The name of the gateway's port.
    #[serde(skip_serializing_if = "is_default")]
    pub port_name: String,
    /// The gateway that it was made for, as `namespace/name`.
    #[serde(skip_serializing_if = "is_default")]
    pub gateway: String,
    /// Conditions on a virtual host in it.
    #[serde(skip_serializing_if = "is_default")]
    pub vhost: Option<VirtualHostMatch>,
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
}

/// Conditions on a virtual host.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct VirtualHostMatch {
    /// Its name, `host:port` for those that are generated.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// A domain that it is for.
    #[serde(skip_serializing_if = "is_default")]
    pub domain_name: String,
    /// Conditions on a route in it.
    #[serde(skip_serializing_if = "is_default")]
    pub route: Option<RouteMatch>,
}

/// Conditions on a route.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteMatch {
    /// Its name, which comes from the VirtualService's.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// What the route does.
    #[serde(skip_serializing_if = "is_default")]
    pub action: RouteAction,
}

proto_enum! {
    /// What a route does.
    pub enum RouteAction {
        /// Anything.
        Any = (0, "ANY"),
        /// Forwards to a cluster.
        Route = (1, "ROUTE"),
        /// Redirects.
        Redirect = (2, "REDIRECT"),
        /// Answers by itself.
        DirectResponse = (3, "DIRECT_RESPONSE"),
    }
}

/// Conditions on clusters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterMatch {
    /// The port of the service.
    #[serde(skip_serializing_if = "is_default")]
    pub port_number: u32,
    /// The full name of the service.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// The name of the subset.
    #[serde(skip_serializing_if = "is_default")]
    pub subset: String,
    /// The name of the cluster; the other fields are not looked at then.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
}

/// Conditions on the configuration of a waypoint.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct WaypointMatch {
    /// The port of the service.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("port must be between 1-65535", "0 < self && self <= 65535")]))]
    pub port_number: u32,
    /// Conditions on a route.
    #[serde(skip_serializing_if = "is_default")]
    pub route: Option<WaypointRouteMatch>,
    /// Conditions on a filter.
    #[serde(skip_serializing_if = "is_default")]
    pub filter: Option<WaypointFilterMatch>,
}

/// Conditions on a waypoint's route.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct WaypointRouteMatch {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
}

/// Conditions on a waypoint's network filter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct WaypointFilterMatch {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Conditions on an HTTP filter in it.
    #[serde(skip_serializing_if = "is_default")]
    pub sub_filter: Option<WaypointSubFilterMatch>,
}

/// Conditions on a waypoint's HTTP filter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct WaypointSubFilterMatch {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
}
