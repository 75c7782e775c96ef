//! Virtual hosts, and the routes within.

use std::sync::Arc;

use lateen_model::mesh::Mesh;
use lateen_model::route::{HttpMatch, HttpRoute, Semantics};
use lateen_names::ObjectRef;
use lateen_proto::envoy::config::core::v3::Metadata;
use lateen_proto::envoy::config::route::v3 as pb;
use lateen_proto::{Struct, Value, value};

use super::action;
use super::matching;
use super::select::{HashKeyOf, RouteSource};
use crate::names;

/// Where the routes of a virtual host come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Routes {
    /// A service that no VirtualService speaks of.
    Service {
        /// Its cluster.
        cluster: Arc<str>,
        /// What its consistent hash is made of.
        hash: Option<HashKeyOf>,
        /// Host and port, for traces.
        operation: Arc<str>,
    },
    /// VirtualServices, in order of precedence.
    VirtualServices(Vec<RouteSource>),
    /// Unknown hosts go on to where the application meant them to go (or to the egress proxy of a Sidecar).
    PassTo(Arc<str>),
    /// Unknown hosts are refused with 502.
    BlockAll,
    /// Nothing: Envoy answers 404.
    None,
}

/// A virtual host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VirtualHost {
    /// Name: `host:port`.
    pub name: Arc<str>,
    /// Domains, in order.
    pub domains: Vec<Arc<str>>,
    /// Routes.
    pub routes: Routes,
    /// Whether plain HTTP is redirected to HTTPS.
    pub require_tls: bool,
    /// Whether `x-envoy-attempt-count` is sent.
    pub attempt_count: bool,
    /// Whether requests that no route takes are answered 404 by a last one. Envoy does so without, but the filter that
    /// asks for clusters on demand, where virtual hosts come one by one, asks for the virtual host again first: such a request
    /// hangs (Envoy 1.40).
    pub closed: bool,
}

impl VirtualHost {
    pub(super) fn build(&self, mesh: &Mesh) -> pb::VirtualHost {
        use pb::virtual_host::TlsRequirementType;
        pb::VirtualHost {
            name: self.name.to_string(),
            domains: self.domains.iter().map(ToString::to_string).collect(),
            routes: self.all_routes(mesh),
            require_tls: if self.require_tls {
                TlsRequirementType::All
            } else {
                TlsRequirementType::None
            }
            .into(),
            include_request_attempt_count: self.attempt_count,
            ..Default::default()
        }
    }

    pub(super) fn origins(&self) -> impl Iterator<Item = &ObjectRef> {
        let sources = match &self.routes {
            Routes::VirtualServices(sources) => sources.as_slice(),
            _ => &[],
        };
        sources.iter().map(|source| &source.service.origin)
    }

    /// Where the routes come from that are built, in their order; empty where no object speaks of them.
    pub fn route_origins(&self) -> Vec<RouteOrigin> {
        let Routes::VirtualServices(sources) = &self.routes else {
            return Vec::new();
        };
        let origin = |planned: &Planned<'_>| RouteOrigin {
            object: planned.source.service.origin.clone(),
            field: Arc::clone(&planned.route.field),
            alternative: planned.alternative,
        };
        merged(sources).iter().map(origin).collect()
    }

    fn all_routes(&self, mesh: &Mesh) -> Vec<pb::Route> {
        let mut routes = self.routes(mesh);
        let everything = |route: &pb::Route| route.r#match.as_ref() == Some(&matching::everything());
        if self.closed && !routes.iter().any(everything) {
            routes.push(pb::Route {
                name: "not_found".to_owned(),
                r#match: Some(matching::everything()),
                action: Some(pb::route::Action::DirectResponse(pb::DirectResponseAction {
                    status: 404,
                    ..Default::default()
                })),
                ..Default::default()
            });
        }
        routes
    }

    fn routes(&self, mesh: &Mesh) -> Vec<pb::Route> {
        match &self.routes {
            Routes::Service {
                cluster,
                hash,
                operation,
            } => vec![pb::Route {
                name: "default".to_owned(),
                r#match: Some(matching::everything()),
                decorator: Some(decorator(format!("{operation}/*"))),
                action: Some(pb::route::Action::Route(action::to_cluster(
                    cluster,
                    hash.as_ref(),
                    mesh,
                ))),
                ..Default::default()
            }],
            Routes::VirtualServices(sources) => merged(sources)
                .iter()
                .map(|planned| one(planned.route, planned.condition(), planned.source, mesh))
                .collect(),
            Routes::PassTo(cluster) => vec![pb::Route {
                name: "allow_any".to_owned(),
                r#match: Some(matching::everything()),
                action: Some(pb::route::Action::Route(pb::RouteAction {
                    cluster_specifier: Some(pb::route_action::ClusterSpecifier::Cluster(cluster.to_string())),
                    ..action::without_timeout(None)
                })),
                ..Default::default()
            }],
            Routes::BlockAll => vec![pb::Route {
                name: "block_all".to_owned(),
                r#match: Some(matching::everything()),
                action: Some(pb::route::Action::DirectResponse(pb::DirectResponseAction {
                    status: 502,
                    ..Default::default()
                })),
                ..Default::default()
            }],
            Routes::None => Vec::new(),
        }
    }
}

/// Where a route of a virtual host comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteOrigin {
    /// The object.
    pub object: ObjectRef,
    /// The route's path within it, e.g. `spec.http[1]`.
    pub field: Arc<str>,
    /// Which of the route's alternatives (`match`) it stands for, if there are any.
    pub alternative: Option<usize>,
}

/// A route that is to be built.
struct Planned<'a> {
    source: &'a RouteSource,
    route: &'a HttpRoute,
    alternative: Option<usize>,
    catch_all: bool,
}

impl Planned<'_> {
    fn condition(&self) -> Option<&HttpMatch> {
        self.alternative.map(|index| &self.route.matches[index])
    }
}

/// Routes of several VirtualServices for one host: in order, but what matches everything goes last.
fn merged(sources: &[RouteSource]) -> Vec<Planned<'_>> {
    let (general, mut specific): (Vec<_>, Vec<_>) = sources
        .iter()
        .flat_map(routes_of)
        .partition(|planned| planned.catch_all);
    specific.extend(general);
    specific
}

/// Routes of one VirtualService. Nothing after a route that matches everything can be reached, so nothing is made of it.
fn routes_of(source: &RouteSource) -> Vec<Planned<'_>> {
    let mut routes = Vec::new();
    for (index, alternatives) in &source.applicable {
        let route = &source.service.http[*index];
        let planned = |alternative: Option<usize>, catch_all| Planned {
            source,
            route,
            alternative,
            catch_all,
        };
        if route.matches.is_empty() {
            routes.push(planned(None, true));
            return routes;
        }
        for alternative in alternatives {
            let catch_all = matching::is_catch_all(&route.matches[*alternative]);
            routes.push(planned(Some(*alternative), catch_all));
            if catch_all && source.service.semantics == Semantics::Istio {
                return routes;
            }
        }
    }
    routes
}

fn one(route: &HttpRoute, condition: Option<&HttpMatch>, source: &RouteSource, mesh: &Mesh) -> pb::Route {
    let name = match (&route.name, condition.and_then(|condition| condition.name.as_ref())) {
        (Some(route), Some(condition)) => format!("{route}.{condition}"),
        (Some(route), None) => route.to_string(),
        (None, Some(condition)) => format!(".{condition}"),
        (None, None) => String::new(),
    };
    let mut out = pb::Route {
        name,
        r#match: Some(condition.map_or_else(matching::everything, matching::route_match)),
        metadata: Some(config_metadata(&source.service.origin)),
        stat_prefix: condition
            .and_then(|condition| condition.stat_prefix.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default(),
        ..Default::default()
    };
    action::apply(route, source, mesh, &mut out);
    out.decorator = Some(decorator(format!(
        "{}:{}/*",
        source.service.origin.key.name, source.port
    )));
    out
}

fn decorator(operation: String) -> pb::Decorator {
    pb::Decorator {
        operation,
        ..Default::default()
    }
}

/// Istio's metadata that says which object made a route: `istioctl` reads it.
fn config_metadata(origin: &ObjectRef) -> Metadata {
    let kind = kebab(&origin.kind);
    let namespace = origin
        .key
        .namespace
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let path = format!(
        "/apis/networking.istio.io/v1/namespaces/{namespace}/{kind}/{}",
        origin.key.name
    );
    let field = Value {
        kind: Some(value::Kind::StringValue(path)),
    };
    let istio = Struct {
        fields: [("config".to_owned(), field)].into(),
    };
    Metadata {
        filter_metadata: [("istio".to_owned(), istio)].into(),
        ..Default::default()
    }
}

fn kebab(kind: &str) -> String {
    let mut out = String::with_capacity(kind.len() + 4);
    for (index, letter) in kind.chars().enumerate() {
        if letter.is_ascii_uppercase() && index > 0 {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// The route table of an inbound chain: everything to the application.
pub(crate) fn inbound_route(
    table: &str,
    port: u16,
    cluster: &str,
    operation: &str,
    retry: bool,
) -> pb::RouteConfiguration {
    let zero = prost_types::Duration::default();
    pb::RouteConfiguration {
        name: table.to_owned(),
        validate_clusters: Some(false),
        virtual_hosts: vec![pb::VirtualHost {
            name: format!("inbound|http|{port}"),
            domains: vec!["*".to_owned()],
            routes: vec![pb::Route {
                name: "default".to_owned(),
                r#match: Some(matching::everything()),
                decorator: Some(decorator(format!("{operation}/*"))),
                action: Some(pb::route::Action::Route(pb::RouteAction {
                    cluster_specifier: Some(pb::route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
                    timeout: Some(zero),
                    max_stream_duration: Some(pb::route_action::MaxStreamDuration {
                        max_stream_duration: Some(zero),
                        grpc_timeout_header_max: Some(zero),
                        ..Default::default()
                    }),
                    retry_policy: retry.then(|| pb::RetryPolicy {
                        retry_on: "reset-before-request".to_owned(),
                        num_retries: Some(2),
                        ..Default::default()
                    }),
                    ..Default::default()
                })),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The catch-all of a sidecar's table.
pub(super) fn fallback(policy: &lateen_model::sidecar::OutboundPolicy, attempt_count: bool) -> VirtualHost {
    use lateen_model::sidecar::OutboundPolicy;
    let (name, routes) = match policy {
        OutboundPolicy::AllowAny => ("allow_any", Routes::PassTo(names::PASSTHROUGH.into())),
        OutboundPolicy::EgressProxy(cluster) => ("allow_any", Routes::PassTo(Arc::clone(cluster))),
        OutboundPolicy::RegistryOnly => ("block_all", Routes::BlockAll),
    };
    VirtualHost {
        name: name.into(),
        domains: vec!["*".into()],
        routes,
        require_tls: false,
        attempt_count,
        closed: false,
    }
}
