//! Listeners: for calls, for being called, for gateways.

mod chain;
mod forward;
mod gateway;
mod hcm;
mod inbound;
mod on_demand;
mod outbound;
pub(crate) mod plan;
pub(crate) mod security;
pub(crate) mod servers;
mod tcp;
mod telemetry;
mod tls;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_model::mesh::{Mesh, ProxyConfig};
use lateen_model::proxy::{Capabilities, Interception, IpFamilies, Options, ProxyKind};
use lateen_model::{Shared, Snapshot};
use lateen_names::{Hostname, ObjectRef};
use lateen_proto::envoy::config::listener::v3 as pb;

use crate::Scope;
use crate::built::{Built, Resource};
use crate::extension::Extensions;
use crate::facts::{InboundFacts, ListenerFacts, OutboundFacts, TelemetryFacts};
use crate::scope::Sight;

pub(crate) use hcm::http_filter;
use plan::Planned;
pub(crate) use telemetry::Side;
pub use telemetry::TelemetryInput;

/// What a listener is made of. Both parts are shared and hashed once: listeners of a thousand workloads differ in the
/// first alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    common: Shared<Common>,
    kind: Shared<Kind>,
}

/// What the listeners of a class have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Common {
    pub(crate) mesh: Shared<Mesh>,
    pub(crate) config: Shared<ProxyConfig>,
    pub(crate) proxy: ProxyKind,
    pub(crate) interception: Interception,
    pub(crate) families: IpFamilies,
    pub(crate) options: Options,
    pub(crate) capabilities: Capabilities,
    pub(crate) names: TelemetryFacts,
    pub(crate) telemetry: TelemetryInput,
    pub(crate) extensions: Extensions,
    /// Whether requests wait for clusters that are not there yet.
    pub(crate) on_demand: bool,
}

/// What the listeners of a class hold, whoever's they are.
#[derive(Debug, Clone)]
pub(crate) struct Listed(Arc<[Shared<Kind>]>);

/// What of these differs from what was before.
#[derive(Debug)]
pub(crate) struct Changed {
    /// Names of those that are there no longer.
    gone: BTreeSet<String>,
    /// Places of those that are new or differ.
    made: Vec<usize>,
}

/// What a listener is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    Outbound(outbound::Outbound),
    VirtualOutbound(outbound::Catchall),
    HttpProxy(outbound::HttpProxy),
    Inbound(inbound::Inbound),
    Gateway(gateway::Gateway),
}

impl Input {
    /// Builds the listener.
    pub fn build(&self) -> Built {
        let (listener, origins): (pb::Listener, Vec<ObjectRef>) = match &*self.kind {
            Kind::Outbound(input) => (input.build(&self.common), input.origins()),
            Kind::VirtualOutbound(input) => (input.build(&self.common), Vec::new()),
            Kind::HttpProxy(input) => (input.build(&self.common), Vec::new()),
            Kind::Inbound(input) => (input.build(&self.common), Vec::new()),
            Kind::Gateway(input) => (input.build(&self.common), input.origins()),
        };
        Built::new(
            Resource::encode(Arc::<str>::from(listener.name.as_str()), &listener),
            origins,
        )
    }
}

/// Lists the listeners for calls of a sidecar, or all listeners of a gateway.
pub fn outbound(snapshot: &Snapshot, scope: &Scope, facts: &ListenerFacts) -> Vec<Input> {
    inputs(snapshot, facts, &kinds(snapshot, scope, facts))
}

/// The names of the listeners for calls that a sidecar has no longer, and those that differ, where only what belongs to these
/// hosts differs; `None` where they cannot be looked at by themselves.
pub(crate) fn replaced(
    before: Sight<'_>,
    now: Sight<'_>,
    facts: &ListenerFacts,
    hosts: &BTreeSet<Hostname>,
) -> Option<(BTreeSet<String>, Vec<Input>)> {
    let out = &facts.outbound;
    // The listener of the proxy protocol may have the address of one that is planned.
    if out.kind != ProxyKind::Sidecar || out.options.http_proxy_port.is_some() {
        return None;
    }
    let changed = now.scope.changed_listeners.get_or_init(|| {
        let (changed, listed) = changed(before, now, out, hosts)?;
        let _ = now.scope.listeners.set(Listed(listed.into()));
        Some(changed)
    });
    let Changed { gone, made } = changed.as_ref()?;
    let Listed(listed) = now.scope.listeners.get()?;
    // Whoever was or is planned alone has other listeners than its class.
    plan::toward_itself(before.scope.planned.get()?, facts.own)?;
    let own = plan::toward_itself(now.scope.planned.get()?, facts.own)?;
    let others = made.iter().filter(|at| !own.contains(at));
    let kinds: Vec<_> = others.map(|&at| listed[at].clone()).collect();
    let inputs = match kinds.as_slice() {
        [] => Vec::new(),
        kinds => inputs(now.snapshot, facts, kinds),
    };
    Some((gone.clone(), inputs))
}

/// What differs of a class's listeners, and all of them.
fn changed(
    before: Sight<'_>,
    now: Sight<'_>,
    facts: &OutboundFacts,
    hosts: &BTreeSet<Hostname>,
) -> Option<(Changed, Vec<Shared<Kind>>)> {
    let narrowed = |sight: Sight<'_>| sight.scope.egress.iter().any(|entry| entry.egress.is_some());
    // Hosts that are resolved as they are asked for concern all listeners of their port.
    let resolved = |sight: Sight<'_>| {
        let mut services = hosts.iter().filter_map(|host| sight.scope.service(host));
        services.any(|service| service.is_resolved_on_demand())
    };
    if [before, now]
        .into_iter()
        .any(|sight| narrowed(sight) || resolved(sight))
    {
        return None;
    }
    let (planned, Listed(kinds)) = (before.scope.planned.get()?, before.scope.listeners.get()?);
    let mut old = planned.iter().zip(kinds.iter()).peekable();
    let concerns = |planned: &Planned| {
        planned
            .tcp
            .iter()
            .any(|tcp| hosts.iter().any(|host| host.matches(&tcp.service.host)))
    };
    let (mut gone, mut made, mut listed) = (BTreeSet::new(), Vec::new(), Vec::new());
    for planned in plan::of_class(now.snapshot, now.scope, facts) {
        while let Some((left, _)) = old.next_if(|(old, _)| old.place() < planned.place()) {
            gone.insert(outbound::name_of(left));
        }
        let same = old.next_if(|(old, _)| old.place() == planned.place());
        let kind = match same {
            Some((old, kind)) if old == planned && !concerns(planned) => kind.clone(),
            _ => {
                made.push(listed.len());
                Shared::new(Kind::Outbound(outbound::of(planned, now, facts)))
            }
        };
        listed.push(kind);
    }
    gone.extend(old.map(|(left, _)| outbound::name_of(left)));
    // What follows does not depend on services.
    listed.extend(kinds.iter().skip(planned.len()).cloned());
    Some((Changed { gone, made }, listed))
}

fn inputs(snapshot: &Snapshot, facts: &ListenerFacts, kinds: &[Shared<Kind>]) -> Vec<Input> {
    let out = &facts.outbound;
    let common = Common {
        mesh: snapshot.mesh.clone(),
        config: out.config.clone(),
        proxy: out.kind,
        interception: out.interception,
        families: out.families,
        options: out.options.clone(),
        capabilities: out.capabilities,
        names: facts.telemetry.clone(),
        telemetry: TelemetryInput::select(snapshot, &out.telemetries, &facts.telemetry),
        extensions: Extensions::select(snapshot, &facts.extensions),
        on_demand: out.on_demand.is_some(),
    };
    // Who calls is told by tags of traced requests only: what passes bytes alone is the same for all workloads.
    let nameless = Shared::new(Common {
        names: TelemetryFacts::nameless(&common.names),
        ..common.clone()
    });
    let common = Shared::new(common);
    kinds
        .iter()
        .map(|kind| Input {
            common: if kind.is_traced() { &common } else { &nameless }.clone(),
            kind: kind.clone(),
        })
        .collect()
}

/// Sidecars of a class share one list, less what would lead to themselves.
fn kinds<'a>(snapshot: &Snapshot, scope: &'a Scope, facts: &ListenerFacts) -> Cow<'a, [Shared<Kind>]> {
    let out = &facts.outbound;
    match out.kind {
        ProxyKind::Sidecar => {
            let planned = plan::of_class(snapshot, scope, out);
            let listed = || Listed(of_sidecar(planned, Sight { snapshot, scope }, out).into());
            let Listed(listed) = scope.listeners.get_or_init(listed);
            match plan::toward_itself(planned, facts.own) {
                Some(own) if own.is_empty() => Cow::Borrowed(listed),
                Some(own) => [&listed[..own.start], &listed[own.end..]].concat().into(),
                None => {
                    let planned = plan::plan(snapshot, &scope.egress, out, facts.own);
                    of_sidecar(&planned, Sight { snapshot, scope }, out).into()
                }
            }
        }
        ProxyKind::Router => {
            let gateways = gateway::select(snapshot, scope, out).into_iter();
            gateways.map(|gateway| Shared::new(Kind::Gateway(gateway))).collect()
        }
        ProxyKind::Waypoint | ProxyKind::Ztunnel => Cow::default(),
    }
}

/// The listeners that are planned, in their order, and those that a sidecar has whatever there is to call.
fn of_sidecar(planned: &[Planned], sight: Sight<'_>, facts: &OutboundFacts) -> Vec<Shared<Kind>> {
    let planned = planned.iter();
    let planned = planned.map(|planned| Kind::Outbound(outbound::of(planned, sight, facts)));
    let catchall = outbound::catchall(sight.snapshot, sight.scope, facts)
        .into_iter()
        .map(Kind::VirtualOutbound);
    let proxy = outbound::http_proxy(facts).into_iter().map(Kind::HttpProxy);
    planned.chain(catchall).chain(proxy).map(Shared::new).collect()
}

impl Kind {
    /// Whether requests pass through it that may be traced.
    fn is_traced(&self) -> bool {
        match self {
            Self::Outbound(listener) => listener.is_http(),
            Self::VirtualOutbound(_) => false,
            Self::HttpProxy(_) | Self::Inbound(_) | Self::Gateway(_) => true,
        }
    }
}

/// Lists the listeners for being called of a sidecar.
pub fn inbound(snapshot: &Snapshot, facts: &InboundFacts) -> Vec<Input> {
    if facts.kind != ProxyKind::Sidecar {
        return Vec::new();
    }
    let common = Common {
        mesh: snapshot.mesh.clone(),
        config: facts.config.clone(),
        proxy: facts.kind,
        interception: facts.interception,
        families: facts.families,
        options: facts.options.clone(),
        capabilities: facts.capabilities,
        names: facts.telemetry.clone(),
        telemetry: TelemetryInput::select(snapshot, &facts.telemetries, &facts.telemetry),
        extensions: Extensions::select(snapshot, &facts.extensions),
        on_demand: false,
    };
    let common = Shared::new(common);
    inbound::select(snapshot, facts)
        .into_iter()
        .map(|input| Input {
            common: common.clone(),
            kind: Shared::new(Kind::Inbound(input)),
        })
        .collect()
}
