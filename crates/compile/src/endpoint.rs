//! Endpoints of the clusters that are called: one ClusterLoadAssignment each, for clusters that get theirs over EDS.
//!
//! The input of one holds the service's endpoints and what of the caller's place, network and rules decides over them;
//! where no rule orders by place it does not say where the caller is, so that callers in all zones share one resource.

pub(crate) mod group;
pub(crate) mod members;
mod network;
pub(crate) mod order;
pub(crate) mod peer;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_model::Snapshot;
use lateen_names::{Hostname, ObjectKey, ObjectRef};

use crate::Scope;
use crate::built::{Built, Resource};
use crate::cluster::list::{self, Discovery};
use crate::facts::EndpointFacts;
use members::{Members, Viewer};

/// What one assignment is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    name: Arc<str>,
    members: Members,
    origin: ObjectRef,
    rules: Vec<ObjectKey>,
}

impl Input {
    /// The name of the resource: the cluster's.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Builds the resource.
    pub fn build(&self) -> Built {
        let assignment = self.members.assignment(&self.name);
        let rules = self.rules.iter().map(destination_rule);
        Built::new(
            Resource::encode(Arc::clone(&self.name), &assignment),
            rules.chain([self.origin.clone()]).collect::<Vec<_>>(),
        )
    }
}

/// A DestinationRule among the objects that a resource was made from.
pub(crate) fn destination_rule(key: &ObjectKey) -> ObjectRef {
    ObjectRef {
        kind: "DestinationRule".into(),
        group: "networking.istio.io".into(),
        key: key.clone(),
    }
}

/// Lists the endpoints of every cluster of a class that gets them over EDS (or of those that lead to some hosts), in the
/// order of the clusters.
pub fn select(
    snapshot: &Snapshot,
    scope: &Scope,
    facts: &EndpointFacts,
    hosts: Option<&BTreeSet<Hostname>>,
) -> Vec<Input> {
    let peers = peer::AllPeers::new(snapshot);
    let place = (&facts.locality, &facts.labels, facts.node.as_ref());
    let viewer = Viewer::new(snapshot, &facts.outbound, place, &peers);
    list::outbound(snapshot, scope, &facts.outbound, hosts)
        .filter(|listed| listed.discovery == Discovery::Eds)
        .map(|listed| {
            let rule = listed.rule.map(|rule| &**rule);
            Input {
                name: listed.name().into(),
                members: Members::new(
                    snapshot,
                    &viewer,
                    listed.service,
                    listed.port.number,
                    (rule, listed.subset),
                    (false, listed.sni_dnat),
                ),
                origin: listed.service.origin.clone(),
                rules: rule.map(|rule| rule.from.clone()).unwrap_or_default(),
            }
        })
        .collect()
}
