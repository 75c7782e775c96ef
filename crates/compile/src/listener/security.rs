//! Who may pass: authentication of requests and authorization.
//!
//! Filters stand in the order of Istio's precedence: external authorizers, then tokens, then what is noted, refused and
//! allowed. Whatever cannot be expressed closes the door: an ALLOW rule that cannot be built allows nothing, a part of a
//! DENY rule that cannot be built is left out, so that it refuses more.

mod authorizer;
mod filters;
mod identity;
pub(crate) mod matchers;
mod rules;
#[cfg(test)]
mod tests;
mod tokens;

pub(crate) use tokens::host_of;

pub use tokens::key_sources;

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_model::mesh::Mesh;
use lateen_model::policy::{AuthorizationPolicy, AuthzAction, RequestAuthentication};
use lateen_model::proxy::ProxyKind;
use lateen_model::service::of_host;
use lateen_model::{Shared, Snapshot};
use lateen_names::Hostname;
use lateen_proto::envoy::config::listener::v3::Filter;
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use super::Common;
use super::hcm::http_filter;
use crate::facts::Policies;
use crate::names;

/// Policies in force, and where the services are that they name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct PolicyInput {
    request: Vec<Shared<RequestAuthentication>>,
    authorization: Vec<Shared<AuthorizationPolicy>>,
    /// Services of external authorizers, by name of the provider; none where the mesh has no such service.
    authorizers: BTreeMap<Arc<str>, Upstream>,
    /// Services that publish keys, by URI; none where the mesh has no such service.
    keys: BTreeMap<Arc<str>, Upstream>,
}

/// A service of the mesh as a filter calls it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Upstream {
    host: Hostname,
    cluster: Arc<str>,
}

impl PolicyInput {
    pub(super) fn select(snapshot: &Snapshot, policies: &Policies) -> Self {
        let request: Vec<_> = policies
            .request
            .iter()
            .filter_map(|key| snapshot.request_authentications.get(key))
            .cloned()
            .collect();
        let authorization: Vec<_> = policies
            .authorization
            .iter()
            .filter_map(|key| snapshot.authorization_policies.get(key))
            .cloned()
            .collect();
        let mut authorizers = BTreeMap::new();
        for policy in &authorization {
            let AuthzAction::Custom(name) = &policy.action else {
                continue;
            };
            let Some((service, port)) = authorizer::service(&snapshot.mesh, name) else {
                continue;
            };
            if let Some(found) = Upstream::find(snapshot, &service, port) {
                authorizers.insert(Arc::clone(name), found);
            }
        }
        let mut keys = BTreeMap::new();
        if tokens::fetch_mode(&snapshot.mesh) != tokens::FetchMode::ControlPlane {
            for uri in request
                .iter()
                .flat_map(|policy| &policy.rules)
                .filter_map(|rule| rule.jwks_uri.as_ref())
            {
                let Some((host, port)) = tokens::host_of(uri) else {
                    continue;
                };
                if let Some(found) = Upstream::find(snapshot, host, port) {
                    keys.insert(Arc::clone(uri), found);
                }
            }
        }
        Self {
            request,
            authorization,
            authorizers,
            keys,
        }
    }

    /// HTTP filters by stage, in Istio's order: external authorizers, tokens, rules.
    pub(super) fn http(&self, common: &Common) -> [Vec<HttpFilter>; 3] {
        self.http_stages(&common.mesh, common.proxy)
    }

    /// Network filters of chains that pass bytes, by stage: external authorizers, rules.
    pub(super) fn tcp(&self, common: &Common) -> [Vec<Filter>; 2] {
        self.tcp_stages(&common.mesh)
    }

    fn http_stages(&self, mesh: &Mesh, proxy: ProxyKind) -> [Vec<HttpFilter>; 3] {
        let tokens = tokens::filter(self, mesh, proxy != ProxyKind::Sidecar);
        let tokens = tokens.map(|config| http_filter("envoy.filters.http.jwt_authn", &config));
        [
            filters::custom_http(self, mesh),
            tokens.into_iter().collect(),
            filters::local_http(self, mesh),
        ]
    }

    fn tcp_stages(&self, mesh: &Mesh) -> [Vec<Filter>; 2] {
        [filters::custom_tcp(self, mesh), filters::local_tcp(self, mesh)]
    }
}

/// The hosts of services that policies may send requests to: external authorizers, and issuers whose keys proxies fetch.
pub(crate) fn upstream_hosts(snapshot: &Snapshot) -> impl Iterator<Item = Hostname> {
    let custom = |policy: &Shared<AuthorizationPolicy>| match &policy.action {
        AuthzAction::Custom(name) => authorizer::service(&snapshot.mesh, name),
        _ => None,
    };
    let authorizers = snapshot.authorization_policies.values().filter_map(custom);
    let authorizers = authorizers.filter_map(|(service, _)| {
        let host = service.split_once('/').map_or(&*service, |(_, host)| host);
        Hostname::new(host).ok()
    });
    let rules = snapshot
        .request_authentications
        .values()
        .flat_map(|policy| &policy.rules);
    let uris = rules.filter_map(|rule| rule.jwks_uri.as_ref());
    let issuers = uris.filter_map(|uri| Hostname::new(tokens::host_of(uri)?.0).ok());
    authorizers.chain(issuers)
}

impl Upstream {
    /// A service by `host` or `namespace/host`. Without namespace it must be the only one of its name: whose it is would
    /// be a guess otherwise.
    pub(super) fn find(snapshot: &Snapshot, service: &str, port: u16) -> Option<Self> {
        let (namespace, host) = match service.split_once('/') {
            Some((namespace, host)) => (Some(namespace), host),
            None => (None, service),
        };
        let host = Hostname::new(host).ok()?;
        let mut found = of_host(&snapshot.services, &host)
            .map(|(key, _)| key)
            .filter(|key| namespace.is_none_or(|namespace| key.namespace.as_str() == namespace));
        let first = found.next()?;
        if found.next().is_some() {
            return None;
        }
        Some(Self {
            host: first.host.clone(),
            cluster: names::outbound(port, "", &first.host).into(),
        })
    }

    pub(super) fn host(&self) -> &str {
        self.host.as_str()
    }

    pub(super) fn cluster(&self) -> &str {
        &self.cluster
    }
}
