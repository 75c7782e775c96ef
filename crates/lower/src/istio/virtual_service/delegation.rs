//! Routes that another VirtualService lays out.
//!
//! What the root says holds where the delegate says nothing, and a request must satisfy both their conditions. Where
//! that is impossible, the delegate's route is left out, and the user told.

use std::collections::BTreeMap;

use lateen_api::networking::virtual_service::{
    HttpMatchRequest, HttpRoute, StringMatch, StringMatchType, VirtualService,
};
use lateen_names::{Name, Namespace, ObjectKey};

use super::{Lowering, gateway_name};
use crate::Context;
use crate::context::Meta;

/// The VirtualServices that lowering this one asks for.
pub fn delegates(object: &VirtualService, meta: &Meta) -> Vec<ObjectKey> {
    object
        .spec
        .http
        .iter()
        .filter_map(|route| delegate_key(route, &meta.namespace))
        .collect()
}

fn delegate_key(route: &HttpRoute, own: &Namespace) -> Option<ObjectKey> {
    let delegate = route.delegate.as_ref()?;
    let namespace = match delegate.namespace.as_str() {
        "" => own.clone(),
        name => Namespace::new(name).ok()?,
    };
    Some(ObjectKey {
        namespace: Some(namespace),
        name: Name::new(&delegate.name).ok()?,
    })
}

impl Lowering<'_> {
    /// The routes of the delegate as parts of the root, with the field that each stands for.
    pub(super) fn delegated<'d>(
        &mut self,
        root: &HttpRoute,
        field: &str,
        find: &dyn Fn(&ObjectKey) -> Option<&'d VirtualService>,
    ) -> Vec<(String, HttpRoute)> {
        let at = format!("{field}.delegate");
        let Some(key) = delegate_key(root, self.namespace) else {
            self.report.error(
                &at,
                "names no VirtualService; give `name`, and `namespace` if it is in another one",
            );
            return Vec::new();
        };
        // A VirtualService with hosts is a root, whatever name it is called by.
        let Some(delegate) = find(&key).filter(|found| found.spec.hosts.is_empty()) else {
            self.report.missing(
                &at,
                format!("there is no VirtualService {key} without hosts; the route has no effect"),
            );
            return Vec::new();
        };
        let Some(namespace) = key.namespace.clone() else {
            return Vec::new();
        };
        let default = &self.ctx.mesh.default_virtual_service_export_to;
        if !self
            .ctx
            .export_to(&delegate.spec.export_to, &namespace, default)
            .visible_in(self.namespace)
        {
            let message = format!(
                "VirtualService {key} is not exported to {}; widen its exportTo",
                self.namespace
            );
            self.report.error(&at, message);
            return Vec::new();
        }
        let mut routes = Vec::with_capacity(delegate.spec.http.len());
        for (index, leaf) in delegate.spec.http.iter().enumerate() {
            let place = format!("{field} of VirtualService {key} spec.http[{index}]");
            if leaf.delegate.is_some() {
                self.report.error(
                    &at,
                    format!(
                        "VirtualService {key} delegates further, which is not possible; its route {index} has no effect"
                    ),
                );
                continue;
            }
            let mut leaf = leaf.clone();
            qualify(&mut leaf, &namespace, self.ctx);
            match merge(root, leaf) {
                Some(merged) => routes.push((place, merged)),
                None => self.report.error(
                    &at,
                    format!("the conditions of route {index} of VirtualService {key} contradict those here; it has no effect"),
                ),
            }
        }
        routes
    }
}

/// Makes names independent of the namespace that they were written in.
fn qualify(route: &mut HttpRoute, namespace: &Namespace, ctx: &Context<'_>) {
    let host = |host: &mut String| {
        if let Ok(full) = ctx.host(host, namespace) {
            *host = full.as_str().to_owned();
        }
    };
    let destinations = route.route.iter_mut().filter_map(|to| to.destination.as_mut());
    let mirrors = route
        .mirrors
        .iter_mut()
        .filter_map(|mirror| mirror.destination.as_mut());
    for destination in destinations.chain(mirrors).chain(route.mirror.as_mut()) {
        host(&mut destination.host);
    }
    for gateway in route
        .r#match
        .iter_mut()
        .flat_map(|alternative| &mut alternative.gateways)
    {
        if gateway != "mesh" {
            let (namespace, name) = gateway_name(gateway, namespace);
            *gateway = format!("{namespace}/{name}");
        }
    }
}

/// `None` where no request can satisfy both.
fn merge(root: &HttpRoute, mut leaf: HttpRoute) -> Option<HttpRoute> {
    leaf.r#match = merge_matches(&root.r#match, std::mem::take(&mut leaf.r#match))?;
    leaf.name = join(&root.name, &leaf.name);
    let otherwise = root.clone();
    leaf.rewrite = leaf.rewrite.or(otherwise.rewrite);
    leaf.direct_response = leaf.direct_response.or(otherwise.direct_response);
    leaf.timeout = leaf.timeout.or(otherwise.timeout);
    leaf.retries = leaf.retries.or(otherwise.retries);
    leaf.fault = leaf.fault.or(otherwise.fault);
    leaf.mirror = leaf.mirror.or(otherwise.mirror);
    leaf.mirror_percent = leaf.mirror_percent.or(otherwise.mirror_percent);
    leaf.mirror_percentage = leaf.mirror_percentage.or(otherwise.mirror_percentage);
    leaf.cors_policy = leaf.cors_policy.or(otherwise.cors_policy);
    leaf.headers = leaf.headers.or(otherwise.headers);
    if leaf.mirrors.is_empty() {
        leaf.mirrors = otherwise.mirrors;
    }
    Some(leaf)
}

fn join(root: &str, leaf: &str) -> String {
    match (root, leaf) {
        ("", name) | (name, "") => name.to_owned(),
        (root, leaf) => format!("{root}-{leaf}"),
    }
}

/// Every alternative of the delegate together with every one of the root that it fits; each must fit one.
fn merge_matches(root: &[HttpMatchRequest], leaf: Vec<HttpMatchRequest>) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() {
        return Some(leaf);
    }
    if leaf.is_empty() {
        return Some(root.to_vec());
    }
    let mut merged = Vec::new();
    for leaf in leaf {
        let before = merged.len();
        merged.extend(
            root.iter()
                .filter(|root| !contradict(root, &leaf))
                .map(|root| merge_match(root, &leaf)),
        );
        if merged.len() == before {
            return None;
        }
    }
    Some(merged)
}

fn merge_match(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> HttpMatchRequest {
    let either = |leaf: &str, root: &str| {
        if leaf.is_empty() {
            root.to_owned()
        } else {
            leaf.to_owned()
        }
    };
    HttpMatchRequest {
        name: join(&root.name, &leaf.name),
        uri: leaf.uri.clone().or_else(|| root.uri.clone()),
        scheme: leaf.scheme.clone().or_else(|| root.scheme.clone()),
        method: leaf.method.clone().or_else(|| root.method.clone()),
        authority: leaf.authority.clone().or_else(|| root.authority.clone()),
        headers: overlay(&root.headers, &leaf.headers),
        without_headers: overlay(&root.without_headers, &leaf.without_headers),
        query_params: overlay(&root.query_params, &leaf.query_params),
        source_labels: overlay(&root.source_labels, &leaf.source_labels),
        port: if leaf.port == 0 { root.port } else { leaf.port },
        gateways: if leaf.gateways.is_empty() {
            root.gateways.clone()
        } else {
            leaf.gateways.clone()
        },
        source_namespace: either(&leaf.source_namespace, &root.source_namespace),
        stat_prefix: either(&leaf.stat_prefix, &root.stat_prefix),
        ignore_uri_case: leaf.ignore_uri_case,
    }
}

fn overlay<V: Clone>(root: &BTreeMap<String, V>, leaf: &BTreeMap<String, V>) -> BTreeMap<String, V> {
    root.iter()
        .chain(leaf)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Whether the delegate's conditions are not within the root's.
fn contradict(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> bool {
    let texts = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    texts
        .into_iter()
        .any(|(root, leaf)| outside(root.as_ref(), leaf.as_ref()))
        || maps
            .into_iter()
            .any(|(root, leaf)| leaf.iter().any(|(key, leaf)| outside(root.get(key), Some(leaf))))
        || root.ignore_uri_case != leaf.ignore_uri_case
        || (root.port != 0 && leaf.port != 0 && root.port != leaf.port)
        || (!root.source_namespace.is_empty() && root.source_namespace != leaf.source_namespace)
        || leaf
            .source_labels
            .iter()
            .any(|(key, leaf)| root.source_labels.get(key).is_some_and(|root| root != leaf))
        || (!root.gateways.is_empty() && leaf.gateways.iter().any(|gateway| !root.gateways.contains(gateway)))
}

/// Whether the delegate's condition on a text is not within the root's. Expressions are never compared.
fn outside(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    let (Some(root), Some(leaf)) = (root, leaf) else {
        return false;
    };
    match (root.match_type(), leaf.match_type()) {
        (Some(StringMatchType::Exact(root)), Some(StringMatchType::Exact(leaf))) => root != leaf,
        (Some(StringMatchType::Prefix(root)), Some(StringMatchType::Exact(leaf) | StringMatchType::Prefix(leaf))) => {
            !leaf.starts_with(root)
        }
        _ => true,
    }
}
