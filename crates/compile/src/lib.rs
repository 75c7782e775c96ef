//! Compiles views of a snapshot to Envoy resources.
//!
//! The work is cut in two. *Select* reads a snapshot through the facts that one class of proxies shares ([`Classes`]) and
//! lists [`Input`]s; *build* makes one resource of one input and sees nothing else. So an input is a perfect cache key,
//! a class is a perfect cache key for a list of inputs, and neither is ever written by hand: both are derived.
//!
//! Failure policy: a broken input builds to a fixed result (a 500, a refused connection) with a [`Diagnostic`](lateen_model::Diagnostic); nothing
//! that a user writes makes compilation fail or panic.

pub mod alpn;
pub mod built;
mod changes;
pub mod cluster;
pub mod endpoint;
pub mod envoyfilter;
pub mod extension;
pub mod facts;
pub mod listener;
pub mod mtls;
pub mod names;
pub mod nametable;
pub mod route;
pub mod scope;
pub mod secret;
mod source;
mod survey;
#[cfg(test)]
mod testing;

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_model::{Proxy, Snapshot};
use lateen_names::Hostname;

pub use built::{Built, Resource};
pub use changes::{Anew, Changes};
pub use facts::{Classes, Family};
pub use listener::security::key_sources;
pub use scope::{Scope, Sight};
pub use survey::Survey;

/// What one resource is made of. Two equal inputs build equal bytes, in any process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// A cluster.
    Cluster(cluster::Input),
    /// A resource that an EnvoyFilter adds.
    Added(envoyfilter::Added),
    /// A resource that EnvoyFilters change.
    Patched(Box<envoyfilter::Patched>),
    /// The endpoints of a cluster.
    Endpoints(endpoint::Input),
    /// The configuration of a filter.
    Extension(extension::Input),
    /// A listener.
    Listener(listener::Input),
    /// A route table.
    Routes(route::Input),
    /// A virtual host that comes by itself.
    VirtualHost(route::HostInput),
    /// The table of names that the agent's DNS proxy answers from.
    NameTable(nametable::Input),
    /// Key material of a gateway.
    Secret(secret::Input),
}

impl Input {
    /// Builds the resource.
    pub fn build(&self) -> Built {
        match self {
            Self::Cluster(input) => input.build(),
            Self::Added(input) => input.build(),
            Self::Patched(input) => input.build(),
            Self::Endpoints(input) => input.build(),
            Self::Extension(input) => input.build(),
            Self::Listener(input) => input.build(),
            Self::Routes(input) => input.build(),
            Self::VirtualHost(input) => input.build(),
            Self::NameTable(input) => input.build(),
            Self::Secret(input) => input.build(),
        }
    }
}

/// Lists what the proxies of a class hold of one family, in the order in which Envoy gets it. A later input whose
/// resource has the name of an earlier one is left out by the caller: the earlier wins.
pub fn select(family: Family, snapshot: &Snapshot, scope: &Scope, classes: &Classes) -> Vec<Input> {
    let inputs = match family {
        Family::OutboundClusters => wrap(cluster::outbound(snapshot, scope, &classes.outbound), Input::Cluster),
        Family::OnDemandClusters => wrap(
            cluster::on_demand(snapshot, scope, &classes.outbound, None),
            Input::Cluster,
        ),
        Family::InboundClusters => wrap(cluster::inbound(snapshot, scope, &classes.inbound), Input::Cluster),
        Family::Endpoints => wrap(
            endpoint::select(snapshot, scope, &classes.endpoints, None),
            Input::Endpoints,
        ),
        Family::OutboundListeners => wrap(listener::outbound(snapshot, scope, &classes.listeners), Input::Listener),
        Family::InboundListeners => wrap(listener::inbound(snapshot, &classes.inbound), Input::Listener),
        Family::Routes => wrap(route::select(snapshot, scope, &classes.outbound), Input::Routes),
        Family::VirtualHosts => wrap(
            route::split_hosts(snapshot, scope, &classes.outbound),
            Input::VirtualHost,
        ),
        Family::NameTable => wrap(nametable::select(snapshot, scope, &classes.outbound), Input::NameTable),
        Family::Secrets => wrap(secret::select(snapshot, &classes.outbound), Input::Secret),
        Family::Extensions => {
            let mut all = envoyfilter::extensions(snapshot, &classes.extensions.envoy_filters);
            all.extend(wrap(extension::select(snapshot, &classes.extensions), Input::Extension));
            all
        }
    };
    envoyfilter::patch(family, snapshot, classes, inputs)
}

/// What of a family is to be replaced.
#[derive(Debug, Default)]
pub struct Replaced {
    /// The names that resources may have had; those that are made again stay.
    pub gone: BTreeSet<String>,
    /// What there is to build in their place.
    pub inputs: Vec<Input>,
}

/// What of a family is replaced where only what belongs to some hosts differs from what a class saw before; `None` where hosts
/// cannot be looked at by themselves. Patches do not come into it: who has any selects all.
pub fn replaced(
    family: Family,
    before: Sight<'_>,
    now: Sight<'_>,
    classes: &Classes,
    hosts: &BTreeSet<Hostname>,
) -> Option<Replaced> {
    let out = &classes.outbound;
    let (gone, inputs) = match family {
        Family::OutboundClusters | Family::OnDemandClusters | Family::Endpoints => {
            let listed = cluster::list::outbound(before.snapshot, before.scope, out, Some(hosts));
            let gone = listed.map(|listed| listed.name()).collect();
            let Sight { snapshot, scope } = now;
            let inputs = match family {
                Family::OutboundClusters => wrap(cluster::outbound_to(snapshot, scope, out, hosts), Input::Cluster),
                Family::OnDemandClusters => wrap(cluster::on_demand(snapshot, scope, out, Some(hosts)), Input::Cluster),
                _ => wrap(
                    endpoint::select(snapshot, scope, &classes.endpoints, Some(hosts)),
                    Input::Endpoints,
                ),
            };
            (gone, inputs)
        }
        Family::Routes => {
            let found = route::replaced(before, now, out, hosts)?;
            let gone = found.gone.tables.iter().map(|table| table.name.to_string()).collect();
            (gone, wrap(found.made.tables.clone(), Input::Routes))
        }
        Family::VirtualHosts => {
            let found = route::replaced(before, now, out, hosts)?;
            let gone = found.gone.hosts.iter().map(route::HostInput::name).collect();
            (gone, wrap(found.made.hosts.clone(), Input::VirtualHost))
        }
        Family::OutboundListeners => {
            let (gone, inputs) = listener::replaced(before, now, &classes.listeners, hosts)?;
            (gone, wrap(inputs, Input::Listener))
        }
        _ => return None,
    };
    Some(Replaced { gone, inputs })
}

fn wrap<T>(inputs: Vec<T>, variant: fn(T) -> Input) -> Vec<Input> {
    inputs.into_iter().map(variant).collect()
}

/// Everything one proxy would hold, compiled without any cache: what `lateen render` prints and what caches are tested
/// against.
pub fn compile_alone(snapshot: &Snapshot, proxy: &Proxy) -> Vec<(Family, Arc<Built>)> {
    let classes = Classes::of(snapshot, proxy);
    let scope = Scope::new(snapshot, &classes.outbound);
    Family::ALL
        .into_iter()
        .flat_map(|family| {
            select(family, snapshot, &scope, &classes)
                .into_iter()
                .map(move |input| (family, input))
        })
        .map(|(family, input)| (family, Arc::new(input.build())))
        .collect()
}
