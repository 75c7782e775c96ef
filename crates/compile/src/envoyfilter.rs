//! EnvoyFilter: patches of what was generated.
//!
//! A resource that a patch may concern is wrapped: it is built as ever, then patched. So a patch is part of the cache key
//! of the resources that it may concern, and of no other. What a patch cannot do is left undone, with a finding; the
//! patches after it are applied.

mod cluster;
mod edit;
mod http;
mod listener;
mod route;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_model::patch::{Patch, PatchContext, PatchMatch, PatchOperation, PatchTarget};
use lateen_model::proxy::ProxyKind;
use lateen_model::{Diagnostic, Severity, Shared, Snapshot};
use lateen_names::ObjectRef;
use lateen_proto::{Any, JsonError, Lists};
use prost::{Message, Name};

use crate::Input;
use crate::built::{Built, Resource};
use crate::facts::{Classes, Family, FilterInForce, OutboundFacts};

/// The messages that can be added whole.
const ADDED: [PatchTarget; 3] = [
    PatchTarget::Cluster,
    PatchTarget::Listener,
    PatchTarget::ExtensionConfig,
];

/// A patch, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Applied {
    origin: ObjectRef,
    pub(crate) patch: Shared<Patch>,
}

impl Applied {
    /// The patch has no effect, or not all of it.
    fn refused(&self, field: &str, message: impl AsRef<str>) -> Diagnostic {
        Diagnostic {
            object: self.origin.clone(),
            field: format!("spec.configPatches[{}].{field}", self.patch.index).into(),
            severity: Severity::Error,
            code: "LTN0002",
            message: message.as_ref().into(),
        }
    }

    /// The value as what is patched.
    fn value<M: Message + Default>(&self) -> M {
        // It was encoded from that very type when the object was read.
        M::decode(&*self.patch.value).unwrap_or_default()
    }

    /// How lists are merged; `None` when it does not merge.
    fn merges(&self) -> Option<Lists> {
        match self.patch.operation {
            PatchOperation::Merge => Some(Lists::Append),
            PatchOperation::MergeAndReplaceList => Some(Lists::Replace),
            _ => None,
        }
    }

    fn merge_into<M: Message + Name + Default>(&self, message: &mut M, lists: Lists, found: &mut Vec<Diagnostic>) {
        let merged = lateen_proto::merge(&M::full_name(), &message.encode_to_vec(), &self.patch.value, lists);
        match merged.map(|bytes| M::decode(bytes.as_slice())) {
            Ok(Ok(merged)) => *message = merged,
            Ok(Err(error)) => found.push(self.refused("patch.value", error.to_string())),
            Err(error) => found.push(self.refused("patch.value", error.to_string())),
        }
    }

    /// Merges packed configurations, which must be of one type.
    fn merge_any(&self, base: &mut Any, patch: &Any, found: &mut Vec<Diagnostic>) {
        match lateen_proto::merge_any(base, patch, Lists::Append) {
            Ok(merged) => *base = merged,
            Err(error @ JsonError::OtherType { .. }) => found.push(self.refused(
                "patch.value",
                format!("the configuration to merge {error}; patch it with that type, or use REPLACE"),
            )),
            Err(error) => found.push(self.refused("patch.value", error.to_string())),
        }
    }
}

/// The patches of one kind of resource on one side of a proxy, in order of application.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Patches {
    pub(crate) context: PatchContext,
    all: Arc<[Applied]>,
    /// The service ports behind each port of a gateway's listeners.
    gateway_ports: BTreeMap<u16, BTreeSet<u16>>,
}

impl Patches {
    fn of(snapshot: &Snapshot, filters: &[FilterInForce], context: PatchContext, targets: &[PatchTarget]) -> Self {
        let here = |applied: &Applied| {
            let patch = &applied.patch;
            (patch.context == PatchContext::Any || patch.context == context) && targets.contains(&patch.target)
        };
        Self {
            context,
            all: in_force(snapshot, filters).filter(here).collect(),
            gateway_ports: BTreeMap::new(),
        }
    }

    /// Those of a target.
    fn targeting(&self, target: PatchTarget) -> impl Iterator<Item = &Applied> {
        self.all.iter().filter(move |applied| applied.patch.target == target)
    }

    /// Those that may concern a resource of this name; nothing where there are none.
    fn concerning(&self, input: &Input) -> Option<Self> {
        // Listeners are named as they are built.
        let name = match input {
            Input::Cluster(cluster) => cluster.name(),
            Input::Routes(routes) => Arc::clone(&routes.name),
            Input::Listener(_) => Arc::from(""),
            _ => return None,
        };
        let concerns = |applied: &&Applied| {
            let patch = &applied.patch;
            let whole = ADDED.contains(&patch.target) && patch.operation == PatchOperation::Add;
            !whole
                && match &patch.matched {
                    PatchMatch::All => true,
                    PatchMatch::Cluster(matched) => cluster::may_match(matched, &name),
                    PatchMatch::Listener(_) => true,
                    PatchMatch::Routes(matched) => {
                        matches!(input, Input::Listener(_)) || matched.name.is_empty() || matched.name == name
                    }
                }
        };
        let all: Arc<[Applied]> = self.all.iter().filter(concerns).cloned().collect();
        (!all.is_empty()).then(|| Self {
            context: self.context,
            all,
            gateway_ports: self.gateway_ports.clone(),
        })
    }
}

/// A resource, and the patches that it gets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Patched {
    inner: Input,
    patches: Patches,
}

impl Patched {
    /// What is patched.
    pub fn inner(&self) -> &Input {
        &self.inner
    }

    /// Builds the resource and patches it.
    pub fn build(&self) -> Built {
        let mut built = self.inner.build();
        let Some(resource) = &built.resource else { return built };
        let found = &mut built.diagnostics;
        built.resource = match &self.inner {
            Input::Cluster(_) => patched(resource, |cluster| cluster::apply(&self.patches, cluster, found)),
            Input::Listener(_) => patched(resource, |listener| listener::apply(&self.patches, listener, found)),
            Input::Routes(_) => patched(resource, |table| {
                route::apply(&self.patches, table, found);
                true
            }),
            _ => Some(resource.clone()),
        };
        let filters = self.patches.all.iter().map(|applied| &applied.origin);
        let filters: BTreeSet<&ObjectRef> = filters.filter(|filter| !built.origins.contains(filter)).collect();
        built.origins = built.origins.iter().chain(filters).cloned().collect();
        built
    }
}

/// The resource after a change; `None` when nothing is to be left of it.
fn patched<M: Message + Default>(resource: &Resource, change: impl FnOnce(&mut M) -> bool) -> Option<Resource> {
    // Our own bytes, so they decode.
    let mut message = M::decode(resource.bytes.clone()).ok()?;
    change(&mut message).then(|| Resource::encode(Arc::clone(&resource.name), &message))
}

/// A resource that a patch adds as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Added(Applied);

impl Added {
    /// The xDS type of the resource.
    pub fn type_url(&self) -> &'static str {
        match self.0.patch.target {
            PatchTarget::Cluster => Family::OutboundClusters.type_url(),
            PatchTarget::Listener => Family::OutboundListeners.type_url(),
            _ => Family::Extensions.type_url(),
        }
    }

    /// Builds the resource; what has no name becomes a finding and nothing else.
    pub fn build(&self) -> Built {
        use lateen_proto::envoy::config::{cluster, core, listener};
        let name = match self.0.patch.target {
            PatchTarget::Cluster => self.0.value::<cluster::v3::Cluster>().name,
            PatchTarget::Listener => self.0.value::<listener::v3::Listener>().name,
            _ => self.0.value::<core::v3::TypedExtensionConfig>().name,
        };
        let origins = [self.0.origin.clone()];
        if name.is_empty() {
            return Built {
                resource: None,
                diagnostics: vec![
                    self.0
                        .refused("patch.value.name", "what is added needs a name; give it one"),
                ],
                origins: origins.into(),
            };
        }
        Built::new(Resource::of(name, self.0.patch.value.to_vec()), origins)
    }
}

/// Gives the resources of a family their patches, and adds those that patches add.
pub(crate) fn patch(family: Family, snapshot: &Snapshot, classes: &Classes, inputs: Vec<Input>) -> Vec<Input> {
    use PatchTarget as T;
    let targets: &[T] = match family {
        Family::OutboundClusters | Family::OnDemandClusters | Family::InboundClusters => &[T::Cluster],
        Family::OutboundListeners => &[
            T::Listener,
            T::ListenerFilter,
            T::FilterChain,
            T::NetworkFilter,
            T::HttpFilter,
        ],
        Family::InboundListeners => &[
            T::Listener,
            T::ListenerFilter,
            T::FilterChain,
            T::NetworkFilter,
            T::HttpFilter,
            T::RouteConfiguration,
            T::VirtualHost,
            T::HttpRoute,
        ],
        Family::Routes => &[T::RouteConfiguration, T::VirtualHost, T::HttpRoute],
        Family::Endpoints | Family::VirtualHosts | Family::Secrets | Family::NameTable | Family::Extensions => {
            return inputs;
        }
    };
    let inbound = matches!(family, Family::InboundClusters | Family::InboundListeners);
    let filters = if inbound {
        &classes.inbound.envoy_filters
    } else {
        &classes.outbound.envoy_filters
    };
    if filters.is_empty() {
        return inputs;
    }
    let context = match (classes.outbound.kind, inbound) {
        (ProxyKind::Router, _) => PatchContext::Gateway,
        (ProxyKind::Waypoint, _) => PatchContext::Waypoint,
        (_, true) => PatchContext::SidecarInbound,
        (_, false) => PatchContext::SidecarOutbound,
    };
    let mut patches = Patches::of(snapshot, filters, context, targets);
    if patches.all.is_empty() {
        return inputs;
    }
    if family == Family::Routes && context == PatchContext::Gateway {
        patches.gateway_ports = gateway_ports(&classes.outbound);
    }
    let wrap = |input: Input| match patches.concerning(&input) {
        Some(patches) => Input::Patched(Box::new(Patched { inner: input, patches })),
        None => input,
    };
    let mut all: Vec<Input> = inputs.into_iter().map(wrap).collect();
    // What says nothing of a side is added once, among what is called.
    let added = patches.all.iter().filter(|applied| {
        let patch = &applied.patch;
        let named = patch.context != PatchContext::Any || !inbound;
        named && ADDED.contains(&patch.target) && patch.operation == PatchOperation::Add
    });
    all.extend(added.cloned().map(|applied| Input::Added(Added(applied))));
    all
}

/// The extension configurations that patches add; filters ask for them by name.
pub(crate) fn extensions(snapshot: &Snapshot, filters: &[FilterInForce]) -> Vec<Input> {
    // Whatever side they name: a filter on that side asks for them or does not.
    in_force(snapshot, filters)
        .filter(|applied| {
            let patch = &applied.patch;
            patch.target == PatchTarget::ExtensionConfig && patch.operation == PatchOperation::Add
        })
        .map(|applied| Input::Added(Added(applied)))
        .collect()
}

/// Whether patches may change the route tables of a sidecar's calls.
pub(crate) fn change_routes(snapshot: &Snapshot, filters: &[FilterInForce]) -> bool {
    in_force(snapshot, filters).any(|applied| {
        let patch = &applied.patch;
        let routes = [
            PatchTarget::RouteConfiguration,
            PatchTarget::VirtualHost,
            PatchTarget::HttpRoute,
        ];
        routes.contains(&patch.target) && matches!(patch.context, PatchContext::Any | PatchContext::SidecarOutbound)
    })
}

/// All patches that are for a proxy, in order of application.
fn in_force<'a>(snapshot: &'a Snapshot, filters: &'a [FilterInForce]) -> impl Iterator<Item = Applied> + 'a {
    filters
        .iter()
        .filter_map(|one| Some((one, snapshot.envoy_filters.get(&one.key)?)))
        .flat_map(|(one, filter)| {
            let patches = filter
                .patches
                .iter()
                .filter(|patch| !one.left_out.contains(&patch.index));
            patches.map(|patch| Applied {
                origin: filter.scope.origin.clone(),
                patch: patch.clone(),
            })
        })
}

fn gateway_ports(facts: &OutboundFacts) -> BTreeMap<u16, BTreeSet<u16>> {
    let mut ports: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
    for instance in &facts.gateway_ports {
        ports.entry(instance.target_port).or_default().insert(instance.port);
    }
    ports
}
