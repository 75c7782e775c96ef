//! Which clusters come on demand: those that nothing leads to but routes of HTTP.
//!
//! Envoy asks for a cluster by name when a route sends a request to it ([`crate::listener`] puts the filter in), and only
//! then. A chain that passes bytes, a mirror, a tracer or a policy finds its cluster there or fails.

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_model::Snapshot;
use lateen_model::sidecar::OutboundPolicy;
use lateen_names::Hostname;

use super::list::{Discovery, Listed};
use crate::Scope;
use crate::facts::OutboundFacts;
use crate::listener::plan::{self, Kind};
use crate::route::outbound_policy;

/// See the module.
pub(super) struct Lazy<'a> {
    /// Hosts whose clusters are there all the time; `None` where all are.
    reached: Option<&'a BTreeSet<Hostname>>,
    /// Hosts that a Sidecar's own listener passes bytes to.
    bytes: BTreeSet<&'a Hostname>,
    /// Where unknown connections go.
    proxy: Option<&'a Arc<str>>,
}

impl<'a> Lazy<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, scope: &'a Scope, facts: &'a OutboundFacts) -> Self {
        let passes = |entry: &&crate::scope::EgressScope| {
            let port = entry.egress.as_ref().and_then(|egress| egress.port.as_ref());
            port.is_some_and(|port| plan::kind_of(port.protocol) != Some(Kind::Http))
        };
        let reached = facts.on_demand.as_deref();
        let bytes = scope.egress.iter().filter(|_| reached.is_some()).filter(passes);
        Self {
            reached,
            bytes: bytes
                .flat_map(|entry| entry.services.iter().map(|service| &service.host))
                .collect(),
            proxy: match outbound_policy(snapshot, scope) {
                OutboundPolicy::EgressProxy(cluster) => Some(cluster),
                OutboundPolicy::AllowAny | OutboundPolicy::RegistryOnly => None,
            },
        }
    }

    /// Whether a cluster comes on demand.
    pub(super) fn takes(&self, listed: &Listed<'_>) -> bool {
        let Some(reached) = self.reached else { return false };
        let host = &listed.service.host;
        // What resolves names as they are asked for shares its cache with a filter, which wants the cluster to be there.
        plan::kind_of(listed.port.protocol) == Some(Kind::Http)
            && listed.discovery != Discovery::DynamicForward
            && !reached.contains(host)
            && !self.bytes.contains(host)
            && self.proxy.is_none_or(|proxy| **proxy != *listed.name())
    }
}
