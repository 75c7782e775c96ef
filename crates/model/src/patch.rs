//! Patches of generated configuration, as EnvoyFilters have them.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use regex::Regex;

/// One entry of `spec.configPatches`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Patch {
    /// Its place in the list, by which findings name it.
    pub index: usize,
    /// What is patched.
    pub target: PatchTarget,
    /// On which side of a proxy.
    pub context: PatchContext,
    /// What the version of the proxy's agent must match somewhere.
    pub proxy_version: Option<Pattern>,
    /// Metadata that the proxy must have.
    pub proxy_metadata: BTreeMap<Arc<str>, Arc<str>>,
    /// Which objects.
    pub matched: PatchMatch,
    /// What is done.
    pub operation: PatchOperation,
    /// The value, encoded as the message of [`target`](Self::target); empty for removals.
    pub value: Arc<[u8]>,
}

/// A regular expression (RE2), made once. It is as its text is.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Reads an expression.
    ///
    /// # Errors
    /// When it is none; in the words of the reader.
    pub fn new(text: &str) -> Result<Self, String> {
        Regex::new(text).map(Self).map_err(|error| error.to_string())
    }

    /// Whether a text has something in it that matches.
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

/// What is patched (`applyTo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PatchTarget {
    /// `LISTENER`
    Listener,
    /// `LISTENER_FILTER`
    ListenerFilter,
    /// `FILTER_CHAIN`
    FilterChain,
    /// `NETWORK_FILTER`
    NetworkFilter,
    /// `HTTP_FILTER`
    HttpFilter,
    /// `ROUTE_CONFIGURATION`
    RouteConfiguration,
    /// `VIRTUAL_HOST`
    VirtualHost,
    /// `HTTP_ROUTE`
    HttpRoute,
    /// `CLUSTER`
    Cluster,
    /// `EXTENSION_CONFIG`
    ExtensionConfig,
}

impl PatchTarget {
    /// Full name of the message that is patched.
    pub fn message(self) -> &'static str {
        match self {
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::ListenerFilter => "envoy.config.listener.v3.ListenerFilter",
            Self::FilterChain => "envoy.config.listener.v3.FilterChain",
            Self::NetworkFilter => "envoy.config.listener.v3.Filter",
            Self::HttpFilter => "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
            Self::RouteConfiguration => "envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "envoy.config.route.v3.VirtualHost",
            Self::HttpRoute => "envoy.config.route.v3.Route",
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::ExtensionConfig => "envoy.config.core.v3.TypedExtensionConfig",
        }
    }
}

/// On which side of a proxy something lies (`match.context`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum PatchContext {
    /// On any.
    #[default]
    Any,
    /// Calls to a sidecar's application.
    SidecarInbound,
    /// Calls by a sidecar's application.
    SidecarOutbound,
    /// Gateways.
    Gateway,
    /// Waypoints.
    Waypoint,
}

/// What is done (`patch.operation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PatchOperation {
    /// The value is merged in; its lists are added at the end.
    Merge,
    /// The value is merged in; its lists take the place of those that are there.
    MergeAndReplaceList,
    /// The value is one more.
    Add,
    /// What matches goes.
    Remove,
    /// The value goes before the first that matches, or to the front.
    InsertBefore,
    /// The value goes behind the first that matches, or to the end.
    InsertAfter,
    /// The value goes to the front.
    InsertFirst,
    /// The value takes the place of the first that matches.
    Replace,
}

/// Which objects a patch concerns (`match`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum PatchMatch {
    /// All of the target's type.
    #[default]
    All,
    /// By cluster.
    Cluster(ClusterMatch),
    /// By listener, and what is in it.
    Listener(Box<ListenerMatch>),
    /// By route table, and what is in it.
    Routes(RoutesMatch),
}

/// `match.cluster`; empty and absent fields match all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ClusterMatch {
    /// Exact name; with it nothing else counts.
    pub name: Arc<str>,
    /// Host of the service.
    pub service: Arc<str>,
    /// Subset.
    pub subset: Arc<str>,
    /// Port of the service.
    pub port: Option<u32>,
}

/// `match.listener`; empty and absent fields match all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ListenerMatch {
    /// Exact name.
    pub name: Arc<str>,
    /// Its port; in the listeners that take everything, the port of a filter chain.
    pub port: Option<u32>,
    /// Name of a listener filter.
    pub listener_filter: Arc<str>,
    /// Name of a filter chain.
    pub chain: Arc<str>,
    /// One of a chain's server names.
    pub sni: Arc<str>,
    /// A chain's transport protocol.
    pub transport_protocol: Arc<str>,
    /// Application protocols, all of which a chain must have.
    pub application_protocols: Vec<Arc<str>>,
    /// Name of a chain's transport socket.
    pub transport_socket: Arc<str>,
    /// A chain's destination port.
    pub destination_port: Option<u32>,
    /// Name of a network filter.
    pub filter: Option<Arc<str>>,
    /// Name of an HTTP filter.
    pub sub_filter: Option<Arc<str>>,
}

/// `match.routeConfiguration`; empty and absent fields match all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct RoutesMatch {
    /// Exact name of the table.
    pub name: Arc<str>,
    /// Port of the service, or of a gateway's server.
    pub port: Option<u32>,
    /// Name of a gateway's server.
    pub port_name: Arc<str>,
    /// `namespace/name` of a gateway.
    pub gateway: Arc<str>,
    /// Name of a virtual host.
    pub host: Arc<str>,
    /// A domain of a virtual host.
    pub domain: Arc<str>,
    /// A route.
    pub route: Option<RouteMatch>,
}

/// `match.routeConfiguration.vhost.route`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct RouteMatch {
    /// Its name.
    pub name: Arc<str>,
    /// What it does.
    pub action: Option<RouteAction>,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteAction {
    /// It forwards.
    Route,
    /// It redirects.
    Redirect,
    /// It answers.
    DirectResponse,
}
