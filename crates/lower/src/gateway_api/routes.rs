//! Routes become VirtualServices: HTTP ones merged by listener and host, the others (see `l4`) one by one.

use std::collections::BTreeMap;

use lateen_model::Shared;
use lateen_model::route::{GatewayRef, HttpMatch, HttpRoute, Semantics, VirtualService};
use lateen_names::{Hostname, Name, Namespace, ObjectKey};

use super::backends::Referrer;
use super::listeners::Parent;
use super::listeners::statuses::generation;
use super::parents::{Attached, Attachment, Unresolved};
use super::{Conversion, http};
use crate::context::Meta;
use crate::object::{Kind, Object};

/// Longest name of an object.
const LONGEST: usize = 253;

/// Routes of one object for one gateway and host.
struct Part {
    created: i64,
    namespace: Namespace,
    /// What the part would be called by itself: breaks ties.
    name: String,
    gateway: GatewayRef,
    host: Hostname,
    routes: Vec<HttpRoute>,
}

/// A route as the mesh and as gateways have it.
pub(super) struct Both<R> {
    pub(super) mesh: Vec<R>,
    pub(super) gateway: Vec<R>,
    pub(super) unresolved: Unresolved,
}

impl Conversion<'_> {
    /// Lowers all routes.
    pub(super) fn routes(&mut self, parents: &[Parent]) {
        let objects = self.world.objects;
        let mut parts: BTreeMap<String, Vec<Part>> = BTreeMap::new();
        for (_, object) in objects.of(Kind::HttpRoute) {
            let Object::HttpRoute(route) = object else { continue };
            let Ok(meta) = self.ctx.meta(Kind::HttpRoute, &route.metadata) else {
                continue;
            };
            let spec = &route.spec;
            let attached = self.attachments(parents, &meta, Kind::HttpRoute, &spec.parent_refs, &spec.hostnames);
            let both = self.both(&meta, Kind::HttpRoute, &attached, |this, from| {
                this.http_routes(from, spec)
            });
            self.http_parts(&meta, &attached.places, &spec.hostnames, &both, &mut parts);
            self.route_status(&meta, generation(&route.metadata), attached, &both.unresolved);
        }
        for (_, object) in objects.of(Kind::GrpcRoute) {
            let Object::GrpcRoute(route) = object else { continue };
            let Ok(meta) = self.ctx.meta(Kind::GrpcRoute, &route.metadata) else {
                continue;
            };
            let spec = &route.spec;
            let attached = self.attachments(parents, &meta, Kind::GrpcRoute, &spec.parent_refs, &spec.hostnames);
            let both = self.both(&meta, Kind::GrpcRoute, &attached, |this, from| {
                this.grpc_routes(from, spec)
            });
            self.http_parts(&meta, &attached.places, &spec.hostnames, &both, &mut parts);
            self.route_status(&meta, generation(&route.metadata), attached, &both.unresolved);
        }
        for (key, parts) in parts {
            self.merge(&key, parts);
        }
        for (_, object) in objects.of(Kind::TlsRoute) {
            if let Object::TlsRoute(route) = object {
                self.tls_route(parents, route);
            }
        }
        for (_, object) in objects.of(Kind::TcpRoute) {
            if let Object::TcpRoute(route) = object {
                self.tcp_route(parents, route);
            }
        }
        for (_, object) in objects.of(Kind::UdpRoute) {
            if let Object::UdpRoute(route) = object {
                self.udp_route(parents, route);
            }
        }
    }

    /// Lowers a route for the mesh and for gateways, as far as it names such parents: the rules for references differ.
    pub(super) fn both<R>(
        &mut self,
        meta: &Meta,
        kind: Kind,
        attached: &Attached<'_>,
        mut lower: impl FnMut(&mut Self, Referrer<'_>) -> Vec<R>,
    ) -> Both<R> {
        let mut side = |at_gateway: bool| {
            if !attached.concerns(at_gateway) {
                return (Vec::new(), None);
            }
            self.unresolved = None;
            let routes = lower(self, Referrer { meta, kind, at_gateway });
            (routes, self.unresolved.take())
        };
        let ((mesh, of_mesh), (gateway, of_gateway)) = (side(false), side(true));
        Both {
            mesh,
            gateway,
            unresolved: Unresolved {
                mesh: of_mesh,
                gateway: of_gateway,
            },
        }
    }

    fn http_parts(
        &mut self,
        meta: &Meta,
        attachments: &[Attachment<'_>],
        hostnames: &[String],
        both: &Both<HttpRoute>,
        parts: &mut BTreeMap<String, Vec<Part>>,
    ) {
        let own_hosts = self.hosts(meta, hostnames);
        let mut count = 0;
        for attachment in attachments {
            let (routes, hosts) = if attachment.is_mesh() {
                (&both.mesh, &attachment.mesh_hosts)
            } else {
                (&both.gateway, &own_hosts)
            };
            if routes.is_empty() {
                continue;
            }
            let base = match (&attachment.gateway, attachment.port) {
                (GatewayRef::Gateway(key), _) => key.to_string(),
                // Producers' and consumers' routes stay apart: they come from different namespaces.
                (GatewayRef::Mesh, None) => meta.namespace.to_string(),
                (GatewayRef::Mesh, Some(port)) => format!("{}/{port}", meta.namespace),
            };
            for host in hosts.iter().filter(|host| attachment.owns(host)) {
                let mut routes = routes.clone();
                if let Some(port) = attachment.port {
                    routes
                        .iter_mut()
                        .for_each(|route| limit_to_port(&mut route.matches, port));
                }
                parts.entry(format!("{base}/{host}")).or_default().push(Part {
                    created: meta.created,
                    namespace: meta.namespace.clone(),
                    name: format!("{}~{count}~istio-autogenerated-k8s-gateway", meta.origin.key.name),
                    gateway: attachment.gateway.clone(),
                    host: host.clone(),
                    routes,
                });
                count += 1;
            }
        }
    }

    /// One VirtualService of all routes for a gateway and host; older objects first where they are equal.
    fn merge(&mut self, key: &str, mut parts: Vec<Part>) {
        parts.sort_by(|one, other| {
            (one.created, &one.namespace, &one.name).cmp(&(other.created, &other.namespace, &other.name))
        });
        for part in &mut parts {
            http::sort(&mut part.routes);
        }
        let mut parts = parts.into_iter();
        let Some(mut first) = parts.next() else { return };
        first.routes.extend(parts.flat_map(|part| part.routes));
        http::sort(&mut first.routes);
        let made = self.virtual_service(
            &key.replace('/', "~"),
            first.namespace,
            first.created,
            first.host,
            first.gateway,
        );
        let Some(made) = made else { return };
        let made = VirtualService {
            http: first.routes,
            ..made
        };
        self.out.virtual_services.insert(made.origin.key.clone(), made);
    }

    pub(super) fn virtual_service(
        &self,
        name: &str,
        namespace: Namespace,
        created: i64,
        host: Hostname,
        gateway: GatewayRef,
    ) -> Option<VirtualService> {
        let name = if name.len() <= LONGEST {
            Name::new(name).ok()?
        } else {
            // Names of gateways and hosts may be long together; what is cut off still counts.
            let cut = (0..=200).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
            Name::new(&format!(
                "{}~{:032x}",
                &name[..cut],
                Shared::new(name.to_owned()).content_hash()
            ))
            .ok()?
        };
        let key = ObjectKey {
            namespace: Some(namespace.clone()),
            name,
        };
        Some(VirtualService {
            origin: Kind::VirtualService.reference(key),
            export_to: self
                .ctx
                .export_to::<&str>(&[], &namespace, &self.ctx.mesh.default_virtual_service_export_to),
            namespace,
            created,
            hosts: vec![host],
            gateways: vec![gateway],
            http: Vec::new(),
            tls: Vec::new(),
            tcp: Vec::new(),
            semantics: Semantics::GatewayApi,
        })
    }

    /// Hosts of a route; any without.
    pub(super) fn hosts(&mut self, meta: &Meta, hostnames: &[String]) -> Vec<Hostname> {
        let any = ["*".to_owned()];
        let names = if hostnames.is_empty() {
            any.as_slice()
        } else {
            hostnames
        };
        let mut report = self.report(meta);
        let hosts = names
            .iter()
            .enumerate()
            .filter_map(|(at, host)| report.name(&format!("spec.hostnames[{at}]"), Hostname::lower(host)));
        hosts.collect()
    }
}

fn limit_to_port(matches: &mut Vec<HttpMatch>, port: u16) {
    if matches.is_empty() {
        matches.push(HttpMatch::default());
    }
    for matched in matches {
        matched.port = Some(port);
    }
}
