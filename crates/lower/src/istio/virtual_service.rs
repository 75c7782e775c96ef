//! VirtualService: routes to the hosts of the mesh and of gateways.
//!
//! A VirtualService without hosts is a delegate: it is merged into the roots that name it and stands for nothing itself.

mod action;
mod delegation;
mod matching;

use lateen_api::networking::virtual_service as api;
use lateen_model::Diagnostic;
use lateen_model::route::{
    Destination, GatewayRef, HttpAction, HttpRoute, Semantics, TcpRoute, TlsRoute, VirtualService, WeightedDestination,
};
use lateen_names::{Name, Namespace, ObjectKey};
use lateen_validate::Subject;

use super::report::{Report, text, time};
use crate::Context;
use crate::context::Meta;

pub use action::lower_retries;
pub use delegation::delegates;

/// Lowers a VirtualService, with its delegates merged in. `delegates` finds other VirtualServices by their keys.
/// `None` for one that is a delegate itself.
pub fn lower<'a>(
    object: &api::VirtualService,
    meta: &Meta,
    ctx: &Context<'_>,
    delegates: &dyn Fn(&ObjectKey) -> Option<&'a api::VirtualService>,
    diags: &mut Vec<Diagnostic>,
) -> Option<VirtualService> {
    let spec = &object.spec;
    let findings = lateen_validate::virtual_service::check(spec, &Subject::new(&object.metadata));
    let mut lowering = Lowering {
        ctx,
        namespace: &meta.namespace,
        report: Report::new(&meta.origin, findings, diags),
    };
    if spec.hosts.is_empty() {
        return None;
    }
    let hosts = spec.hosts.iter().enumerate().filter_map(|(at, host)| {
        let field = format!("spec.hosts[{at}]");
        lowering.report.name(&field, ctx.host(host, &meta.namespace))
    });
    let hosts = hosts.collect();
    let gateways = if spec.gateways.is_empty() {
        vec![GatewayRef::Mesh]
    } else {
        lowering.gateways(&spec.gateways, "spec.gateways")
    };
    let mut http = Vec::new();
    for (at, route) in spec.http.iter().enumerate() {
        let field = format!("spec.http[{at}]");
        if route.delegate.is_some() {
            for (field, merged) in lowering.delegated(route, &field, delegates) {
                http.extend(lowering.http_route(&merged, &field));
            }
        } else {
            http.extend(lowering.http_route(route, &field));
        }
    }
    let tls = spec
        .tls
        .iter()
        .enumerate()
        .filter_map(|(at, route)| lowering.tls_route(route, &format!("spec.tls[{at}]")));
    let tls = tls.collect();
    let tcp = spec
        .tcp
        .iter()
        .enumerate()
        .filter_map(|(at, route)| lowering.tcp_route(route, &format!("spec.tcp[{at}]")));
    let tcp = tcp.collect();
    Some(VirtualService {
        origin: meta.origin.clone(),
        namespace: meta.namespace.clone(),
        created: meta.created,
        hosts,
        gateways,
        export_to: ctx.export_to(
            &spec.export_to,
            &meta.namespace,
            &ctx.mesh.default_virtual_service_export_to,
        ),
        http,
        tls,
        tcp,
        semantics: Semantics::Istio,
    })
}

/// What is needed on the way down a VirtualService.
struct Lowering<'a> {
    ctx: &'a Context<'a>,
    namespace: &'a Namespace,
    report: Report<'a>,
}

impl Lowering<'_> {
    /// A route; `None` where none of its alternatives can match.
    fn http_route(&mut self, route: &api::HttpRoute, field: &str) -> Option<HttpRoute> {
        let matches: Vec<_> = (route.r#match.iter().enumerate())
            .filter_map(|(at, alternative)| self.http_match(alternative, &format!("{field}.match[{at}]")))
            .collect();
        if matches.is_empty() && !route.r#match.is_empty() {
            return None;
        }
        let (headers, header_authority) = action::headers(route.headers.as_ref());
        let mut rewrite = action::rewrite(route.rewrite.as_ref());
        rewrite.authority = rewrite.authority.or(header_authority);
        Some(HttpRoute {
            grpc: false,
            name: text(&route.name),
            field: field.into(),
            matches,
            action: self.action(route, field),
            rewrite,
            headers,
            timeout: time(route.timeout),
            retries: route.retries.as_ref().map(action::lower_retries),
            fault: route.fault.as_ref().and_then(action::fault),
            mirrors: self.mirrors(route, field),
            cors: route.cors_policy.as_ref().map(action::cors),
        })
    }

    fn action(&mut self, route: &api::HttpRoute, field: &str) -> HttpAction {
        if let Some(redirect) = &route.redirect {
            return action::redirect(redirect);
        }
        if let Some(direct) = &route.direct_response {
            return action::direct_response(direct);
        }
        if route.route.is_empty() {
            self.report.error(field, "the route says neither where requests go nor how they are answered; give `route`, `redirect` or `directResponse`");
            return HttpAction::Invalid { status: 500 };
        }
        let only = route.route.len() == 1;
        let destinations = route.route.iter().enumerate().map(|(at, to)| {
            let (headers, authority) = action::headers(to.headers.as_ref());
            WeightedDestination {
                destination: self.destination(to.destination.as_ref(), &format!("{field}.route[{at}].destination")),
                weight: weight(to.weight, only),
                headers,
                authority,
            }
        });
        HttpAction::Forward(destinations.collect())
    }

    /// `None` where no host is meant; the share of that destination is answered with an error.
    fn destination(&mut self, destination: Option<&api::Destination>, field: &str) -> Option<Destination> {
        let Some(destination) = destination.filter(|destination| !destination.host.is_empty()) else {
            self.report.error(field, "the destination is missing; name a host");
            return None;
        };
        let host = self.report.name(
            &format!("{field}.host"),
            self.ctx.host(&destination.host, self.namespace),
        )?;
        let port = match &destination.port {
            None => None,
            Some(port) => Some(self.report.port(&format!("{field}.port.number"), port.number)?),
        };
        Some(Destination {
            host,
            subset: text(&destination.subset),
            port,
        })
    }

    /// References to gateways; what names none is left out.
    fn gateways(&mut self, names: &[String], field: &str) -> Vec<GatewayRef> {
        let references = names.iter().enumerate().filter_map(|(at, name)| {
            let field = format!("{field}[{at}]");
            if name == "mesh" {
                return Some(GatewayRef::Mesh);
            }
            let (namespace, name) = gateway_name(name, self.namespace);
            let namespace = self.report.name(&field, Namespace::new(namespace))?;
            let name = self.report.name(&field, Name::new(name))?;
            Some(GatewayRef::Gateway(ObjectKey {
                namespace: Some(namespace),
                name,
            }))
        });
        references.collect()
    }

    fn tls_route(&mut self, route: &api::TlsRoute, field: &str) -> Option<TlsRoute> {
        let matches: Vec<_> = (route.r#match.iter().enumerate())
            .filter_map(|(at, alternative)| self.tls_match(alternative, &format!("{field}.match[{at}]")))
            .collect();
        // Without a server name to look for, a route of TLS connections matches nothing.
        if matches.is_empty() {
            self.report
                .error(field, "the route matches nothing; give `match` with `sniHosts`");
            return None;
        }
        Some(TlsRoute {
            field: field.into(),
            matches,
            destinations: self.l4_destinations(&route.route, field),
        })
    }

    fn tcp_route(&mut self, route: &api::TcpRoute, field: &str) -> Option<TcpRoute> {
        let matches: Vec<_> = (route.r#match.iter().enumerate())
            .filter_map(|(at, alternative)| self.tcp_match(alternative, &format!("{field}.match[{at}]")))
            .collect();
        if matches.is_empty() && !route.r#match.is_empty() {
            return None;
        }
        Some(TcpRoute {
            field: field.into(),
            matches,
            destinations: self.l4_destinations(&route.route, field),
        })
    }

    fn l4_destinations(&mut self, route: &[api::RouteDestination], field: &str) -> Vec<WeightedDestination> {
        if route.is_empty() {
            self.report
                .error(field, "the route says nowhere where connections go; give `route`");
        }
        let only = route.len() == 1;
        let destinations = route.iter().enumerate().map(|(at, to)| WeightedDestination {
            destination: self.destination(to.destination.as_ref(), &format!("{field}.route[{at}].destination")),
            weight: weight(to.weight, only),
            headers: lateen_model::route::Headers::default(),
            authority: None,
        });
        destinations.collect()
    }
}

/// A share; the only destination of a route gets everything whatever is written.
fn weight(weight: i32, only: bool) -> u32 {
    match u32::try_from(weight) {
        Ok(weight) if weight > 0 => weight,
        _ => u32::from(only),
    }
}

/// Namespace and name of a gateway: `name`, `namespace/name`, `./name`, and the old `name.namespace[.…]`.
fn gateway_name<'n>(name: &'n str, own: &'n Namespace) -> (&'n str, &'n str) {
    if let Some((namespace, name)) = name.split_once('/') {
        return (if namespace == "." { own.as_str() } else { namespace }, name);
    }
    match name.split_once('.') {
        Some((name, rest)) => (rest.split('.').next().unwrap_or(rest), name),
        None => (own.as_str(), name),
    }
}
