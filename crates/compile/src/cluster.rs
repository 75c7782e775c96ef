//! Clusters: where connections go, and how.
//!
//! A cluster's input holds the policy in force (already merged of mesh, rule, port and subset), what the cluster shows
//! of its service, and the settings that all clusters of a class share. Endpoints are in it only where Envoy wants them
//! within the cluster (names that it resolves); those of all others come over EDS ([`crate::endpoint`]).

mod balance;
mod fixed;
mod http;
mod inbound;
mod lazy;
pub(crate) mod list;
mod metadata;
mod outbound;
pub(crate) mod policy;
mod pool;
pub(crate) mod settings;
mod stat;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
pub(crate) mod values;

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_model::proxy::ProxyKind;
use lateen_model::{Shared, Snapshot};
use lateen_names::Hostname;

use crate::Scope;
use crate::built::Built;
use crate::facts::{InboundFacts, OutboundFacts};
use fixed::{Fixed, Kind};
use lazy::Lazy;
use settings::Settings;

/// What one cluster is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input(What);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum What {
    Outbound(Box<outbound::Outbound>),
    Inbound(Box<inbound::Inbound>),
    Fixed(Fixed),
}

impl Input {
    /// The name of the cluster.
    pub fn name(&self) -> Arc<str> {
        match &self.0 {
            What::Outbound(cluster) => cluster.name().into(),
            What::Inbound(cluster) => cluster.name().into(),
            What::Fixed(cluster) => cluster.name().into(),
        }
    }

    /// Builds the resource.
    pub fn build(&self) -> Built {
        match &self.0 {
            What::Outbound(cluster) => cluster.build(),
            What::Inbound(cluster) => cluster.build(),
            What::Fixed(cluster) => cluster.build(),
        }
    }
}

fn fixed(settings: &Shared<Settings>, kinds: &[Kind]) -> Vec<Input> {
    let one = |kind: &Kind| {
        Input(What::Fixed(Fixed {
            kind: *kind,
            settings: settings.clone(),
        }))
    };
    kinds.iter().map(one).collect()
}

/// Lists the clusters that are called, but for those that come on demand.
pub fn outbound(snapshot: &Snapshot, scope: &Scope, facts: &OutboundFacts) -> Vec<Input> {
    let settings = outbound_settings(snapshot, facts);
    let mut all = called(snapshot, scope, facts, (&settings, None, false));
    // Gateways have no listeners that know where a connection was meant to go.
    all.extend(match facts.kind {
        ProxyKind::Sidecar => fixed(&settings, &[Kind::BlackHole, Kind::Passthrough]),
        ProxyKind::Router => fixed(&settings, &[Kind::BlackHole]),
        ProxyKind::Waypoint | ProxyKind::Ztunnel => Vec::new(),
    });
    if settings.credential_socket {
        all.extend(fixed(&settings, &[Kind::CredentialSocket]));
    }
    all
}

/// Lists the clusters that lead to some hosts, but for those that come on demand.
pub(crate) fn outbound_to(
    snapshot: &Snapshot,
    scope: &Scope,
    facts: &OutboundFacts,
    hosts: &BTreeSet<Hostname>,
) -> Vec<Input> {
    let settings = outbound_settings(snapshot, facts);
    called(snapshot, scope, facts, (&settings, Some(hosts), false))
}

/// Lists the clusters that come by name only, when they are first used: all of them, or those that lead to some hosts.
pub(crate) fn on_demand(
    snapshot: &Snapshot,
    scope: &Scope,
    facts: &OutboundFacts,
    hosts: Option<&BTreeSet<Hostname>>,
) -> Vec<Input> {
    if facts.on_demand.is_none() {
        return Vec::new();
    }
    let settings = outbound_settings(snapshot, facts);
    called(snapshot, scope, facts, (&settings, hosts, true))
}

fn outbound_settings(snapshot: &Snapshot, facts: &OutboundFacts) -> Shared<Settings> {
    Settings::new(snapshot, facts.kind, facts.families, &facts.options, &facts.config)
}

/// Clusters that lead to services, or to some hosts': those that come on demand, or the others.
fn called(
    snapshot: &Snapshot,
    scope: &Scope,
    facts: &OutboundFacts,
    (settings, hosts, on_demand): (&Shared<Settings>, Option<&BTreeSet<Hostname>>, bool),
) -> Vec<Input> {
    let lazy = Lazy::new(snapshot, scope, facts);
    let takes = |listed: &list::Listed<'_>| lazy.takes(listed) == on_demand;
    let clusters = outbound::select(snapshot, scope, facts, settings, hosts, takes);
    let one = |cluster| Input(What::Outbound(Box::new(cluster)));
    clusters.into_iter().map(one).collect()
}

/// Lists the clusters of the application itself.
pub fn inbound(snapshot: &Snapshot, scope: &Scope, facts: &InboundFacts) -> Vec<Input> {
    if facts.kind != ProxyKind::Sidecar {
        return Vec::new();
    }
    let settings = Settings::new(snapshot, facts.kind, facts.families, &facts.options, &facts.config);
    let mut all: Vec<Input> = inbound::select(snapshot, scope, facts, &settings)
        .into_iter()
        .map(|cluster| Input(What::Inbound(Box::new(cluster))))
        .collect();
    all.extend(fixed(&settings, &[Kind::InboundPassthrough]));
    all
}
