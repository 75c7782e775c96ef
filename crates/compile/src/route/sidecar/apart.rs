//! Whether hosts share no name or address with others, so that their virtual hosts can be made by themselves.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use lateen_names::Hostname;

use super::{address_domain, alternatives, domains};
use crate::Scope;
use crate::facts::OutboundFacts;
use crate::listener::plan;

/// Whether no domain of these hosts' services is one of another service or route, for a class that no Sidecar narrows and
/// that sees at most one service of each of these hosts. Costs one look at each service and route.
pub(super) fn are_apart(scope: &Scope, facts: &OutboundFacts, only: &BTreeSet<Hostname>) -> bool {
    let mut own: HashMap<Arc<str>, &Hostname> = HashMap::new();
    for host in only {
        let Some(service) = scope.service(host) else { continue };
        for domain in domains(service, facts).0 {
            if own.insert(domain, host).is_some() {
                return false;
            }
        }
        if long_forms(host, facts).any(|long| scope.service(&long).is_some_and(|other| other.host != *host)) {
            return false;
        }
    }
    let known = |domain: &Arc<str>| {
        let host = Hostname::new(domain).ok();
        host.is_some_and(|host| !only.contains(&host) && scope.service(&host).is_some())
    };
    if own.keys().any(known) {
        return false;
    }
    // Other hosts' aliases and addresses, and hosts of routes that no service has.
    let others = scope.services.iter().filter(|service| !only.contains(&service.host));
    let mut meant = others.flat_map(|service| {
        let aliases = service.aliases.iter().flat_map(|alias| {
            let short = alternatives(&alias.host, &facts.dns_domain);
            std::iter::once(Arc::from(alias.host.as_str())).chain(short)
        });
        aliases.chain(plan::addresses(service, facts).map(address_domain))
    });
    if meant.any(|domain: Arc<str>| own.contains_key(&domain)) {
        return false;
    }
    let routes = scope.egress.iter().flat_map(|entry| &entry.virtual_services);
    let mut routed = routes
        .flat_map(|route| &route.hosts)
        .filter(|host| !only.contains(*host));
    !routed.any(|host| own.contains_key(host.as_str()))
}

/// The hosts whose short form, or whose pods' wildcard, a host may be.
fn long_forms(host: &Hostname, facts: &OutboundFacts) -> impl Iterator<Item = Hostname> {
    let host = host.as_str();
    let host = host.strip_prefix("*.").unwrap_or(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    let (namespace, suffix) = facts.dns_domain.split_once(".svc.").unwrap_or_default();
    let forms = [
        host.to_owned(),
        format!("{host}.{suffix}"),
        format!("{host}.svc.{suffix}"),
        format!("{host}.{namespace}.svc.{suffix}"),
    ];
    forms.into_iter().filter_map(|form| Hostname::new(&form).ok())
}
