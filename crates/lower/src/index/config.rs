//! The tables of Istio's own kinds, and of what Gateway API and Ingress become.

use std::collections::{BTreeMap, BTreeSet};

use lateen_model::destination::DestinationRule;
use lateen_model::extension::Extension;
use lateen_model::gateway::Gateway;
use lateen_model::policy::{AuthorizationPolicy, EnvoyFilter, PeerAuthentication, RequestAuthentication, Telemetry};
use lateen_model::route::VirtualService;
use lateen_model::secret::Credential;
use lateen_model::sidecar::Sidecar;
use lateen_model::{Diagnostic, Shared, Snapshot, Table};
use lateen_names::ObjectKey;

use crate::context::{Context, Meta};
use crate::keys::Fetched;
use crate::kube::registry::{Env, Registry};
use crate::mesh::Settings;
use crate::object::{Kind, Object, Objects};
use crate::{gateway_api, istio};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Config {
    dirty: BTreeSet<(Kind, ObjectKey)>,
    gateway_api_dirty: bool,
    diagnostics: BTreeMap<(Kind, ObjectKey), Vec<Diagnostic>>,
    gateway_api_diagnostics: Vec<Diagnostic>,
    /// What Gateway API and Ingress became last.
    pub generated: gateway_api::Lowered,
    /// Whether that is since the index looked.
    pub gateway_api_relowered: bool,

    pub virtual_services: Table<ObjectKey, VirtualService>,
    pub destination_rules: Table<ObjectKey, DestinationRule>,
    pub gateways: Table<ObjectKey, Gateway>,
    pub sidecars: Table<ObjectKey, Sidecar>,
    pub peer_authentications: Table<ObjectKey, PeerAuthentication>,
    pub request_authentications: Table<ObjectKey, RequestAuthentication>,
    pub authorization_policies: Table<ObjectKey, AuthorizationPolicy>,
    pub telemetries: Table<ObjectKey, Telemetry>,
    pub envoy_filters: Table<ObjectKey, EnvoyFilter>,
    pub extensions: Table<ObjectKey, Extension>,
}

/// What the objects are lowered beside.
pub(super) struct Around<'a> {
    pub registry: &'a Registry,
    pub credentials: &'a Table<ObjectKey, Credential>,
    pub keys: &'a Fetched,
    pub parameters: &'a BTreeMap<ObjectKey, gateway_api::Parameters>,
    pub settings: &'a Settings,
}

impl Config {
    /// Marks an object that changed, and the VirtualServices that may have it as a delegate.
    pub(super) fn mark(&mut self, kind: Kind, key: ObjectKey, objects: &Objects) {
        if kind == Kind::VirtualService {
            let delegating = objects.of(kind).filter(|(_, object)| match object {
                Object::VirtualService(object) => object.spec.http.iter().any(|route| route.delegate.is_some()),
                _ => false,
            });
            self.dirty.extend(delegating.map(|(key, _)| (kind, key.clone())));
        }
        self.gateway_api_dirty |= gateway_api::KINDS.contains(&kind);
        self.dirty.insert((kind, key));
    }

    pub(super) fn mark_everything(&mut self, objects: &Objects) {
        self.gateway_api_dirty = true;
        let all = Kind::ALL
            .iter()
            .flat_map(|kind| objects.of(*kind).map(|(key, _)| (*kind, key.clone())));
        self.dirty.extend(all);
    }

    pub(super) fn mark_gateway_api(&mut self) {
        self.gateway_api_dirty = true;
    }

    pub(super) fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.values().flatten().chain(&self.gateway_api_diagnostics)
    }

    /// Whether the tables are those of the snapshot.
    pub(super) fn equals(&self, snapshot: &Snapshot) -> bool {
        self.virtual_services == snapshot.virtual_services
            && self.destination_rules == snapshot.destination_rules
            && self.gateways == snapshot.gateways
            && self.sidecars == snapshot.sidecars
            && self.peer_authentications == snapshot.peer_authentications
            && self.request_authentications == snapshot.request_authentications
            && self.authorization_policies == snapshot.authorization_policies
            && self.telemetries == snapshot.telemetries
            && self.envoy_filters == snapshot.envoy_filters
            && self.extensions == snapshot.extensions
    }

    /// Lowers what is marked.
    pub(super) fn refresh(&mut self, objects: &Objects, around: &Around<'_>, env: &Env<'_>, context: Context<'_>) {
        let (registry, local) = (around.registry, &around.settings.cluster);
        for (kind, key) in std::mem::take(&mut self.dirty) {
            let selected = key
                .namespace
                .as_ref()
                .is_none_or(|namespace| registry.selected(local, namespace, env));
            let object = objects.get(kind, &key).filter(|_| selected);
            let mut diagnostics = Vec::new();
            self.lower(
                kind,
                &key,
                object.map(|object| &**object),
                objects,
                (context, around.keys),
                &mut diagnostics,
            );
            match diagnostics.is_empty() {
                true => self.diagnostics.remove(&(kind, key)),
                false => self.diagnostics.insert((kind, key), diagnostics),
            };
        }
        if std::mem::take(&mut self.gateway_api_dirty) {
            let selected;
            let objects = match env.discovery.is_empty() {
                true => objects,
                false => {
                    selected = objects.filtered(|key| {
                        key.namespace
                            .as_ref()
                            .is_none_or(|namespace| registry.selected(local, namespace, env))
                    });
                    &selected
                }
            };
            self.refresh_gateway_api(objects, around, context);
        }
    }

    fn lower(
        &mut self,
        kind: Kind,
        key: &ObjectKey,
        object: Option<&Object>,
        objects: &Objects,
        (context, keys): (Context<'_>, &Fetched),
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let meta = object.and_then(|object| meta(object, key, &context));
        let object = meta.as_ref().and(object);
        // One line per kind: the table, the variant, the function.
        macro_rules! kinds {
            ($($kind:ident => $table:ident, $lower:expr;)*) => {
                match kind {
                    $(Kind::$kind => {
                        let lowered = match (object, &meta) {
                            (Some(Object::$kind(object)), Some(meta)) => $lower(object, meta, diagnostics),
                            _ => None,
                        };
                        put(&mut self.$table, key, lowered);
                    })*
                    _ => {}
                }
            };
        }
        let find = |key: &ObjectKey| match objects.get(Kind::VirtualService, key).map(|object| &**object) {
            Some(Object::VirtualService(object)) => Some(object),
            _ => None,
        };
        kinds! {
            VirtualService => virtual_services, |object, meta, d| istio::virtual_service::lower(object, meta, &context, &find, d);
            DestinationRule => destination_rules, |object, meta, d| istio::destination_rule::lower(object, meta, &context, d);
            Gateway => gateways, |object, meta, d| Some(istio::gateway::lower(object, meta, &context, d));
            Sidecar => sidecars, |object, meta, d| Some(istio::sidecar::lower(object, meta, &context, d));
            PeerAuthentication => peer_authentications, |object, meta, d| Some(istio::peer_authentication::lower(object, meta, &context, d));
            RequestAuthentication => request_authentications, |object, meta, d| Some(istio::request_authentication::lower(object, meta, keys, d));
            AuthorizationPolicy => authorization_policies, |object, meta, d| Some(istio::authorization_policy::lower(object, meta, &context, d));
            Telemetry => telemetries, |object, meta, d| Some(istio::telemetry::lower(object, meta, &context, d));
            EnvoyFilter => envoy_filters, |object, meta, d| Some(istio::envoy_filter::lower(object, meta, &context, d));
            TrafficExtension => extensions, |object, meta, d| istio::extension::lower(object, meta, &context, d);
        }
        if kind == Kind::WasmPlugin
            && let Ok(key) = istio::extension::plugin_key(key)
        {
            let lowered = match (object, &meta) {
                (Some(Object::WasmPlugin(object)), Some(meta)) => {
                    istio::extension::lower_plugin(object, meta, &context, diagnostics)
                }
                _ => None,
            };
            put(&mut self.extensions, &key, lowered);
        }
    }

    fn refresh_gateway_api(&mut self, objects: &Objects, around: &Around<'_>, context: Context<'_>) {
        let world = gateway_api::World {
            objects,
            namespaces: &around.registry.namespaces,
            services: &around.registry.services,
            credentials: around.credentials,
            parameters: around.parameters,
            system_namespace: &around.settings.system_namespace,
        };
        self.gateway_api_diagnostics.clear();
        let new = gateway_api::lower(&world, &context, &mut self.gateway_api_diagnostics);
        let old = &self.generated;
        swap(&mut self.gateways, &old.gateways, &new.gateways);
        swap(&mut self.virtual_services, &old.virtual_services, &new.virtual_services);
        swap(
            &mut self.destination_rules,
            &old.destination_rules,
            &new.destination_rules,
        );
        self.generated = new;
        self.gateway_api_relowered = true;
    }
}

fn meta(object: &Object, key: &ObjectKey, context: &Context<'_>) -> Option<Meta> {
    let mut meta = context.meta(object.kind(), object.metadata()).ok()?;
    // Objects that name no namespace have been given one.
    meta.origin.key = key.clone();
    meta.namespace = key.namespace.clone().unwrap_or(meta.namespace);
    Some(meta)
}

fn put<T: std::hash::Hash>(table: &mut Table<ObjectKey, T>, key: &ObjectKey, value: Option<T>) {
    match value {
        Some(value) => table.set(key.clone(), Shared::new(value)),
        None => table.remove(key),
    };
}

/// Replaces what was generated by what is generated now.
fn swap<T: std::hash::Hash + Clone + PartialEq>(
    table: &mut Table<ObjectKey, T>,
    old: &BTreeMap<ObjectKey, T>,
    new: &BTreeMap<ObjectKey, T>,
) {
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        table.remove(key);
    }
    for (key, value) in new.iter().filter(|(key, value)| old.get(key) != Some(value)) {
        table.set(key.clone(), Shared::new(value.clone()));
    }
}
