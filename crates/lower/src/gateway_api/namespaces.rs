//! From which namespaces routes and ListenerSets are let in.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use lateen_api::gateway_api::{FromNamespaces, Gateway, Listener};
use lateen_names::Namespace;

use super::Conversion;
use crate::object::Kind;

impl Conversion<'_> {
    /// Whether a gateway lets ListenerSets of a namespace add listeners.
    pub(super) fn lets_in(&self, gateway: &Gateway, own: &Namespace, of: &Namespace) -> bool {
        let Some(allowed) = &gateway.spec.allowed_listeners else {
            return false;
        };
        match allowed.namespaces.from {
            FromNamespaces::All => true,
            FromNamespaces::Same => of == own,
            FromNamespaces::Selector => allowed
                .namespaces
                .selector
                .as_ref()
                .is_some_and(|selector| self.selected(selector, of)),
            FromNamespaces::None => false,
        }
    }

    /// Namespaces from which routes may attach to a listener; `None` for all.
    pub(super) fn allowed_namespaces(&self, listener: &Listener, own: &Namespace) -> Option<Vec<Namespace>> {
        let allowed = &listener.allowed_routes.namespaces;
        match (allowed.from, &allowed.selector) {
            (FromNamespaces::All, _) | (FromNamespaces::Selector, None) => None,
            (FromNamespaces::Same, _) => Some(vec![own.clone()]),
            (FromNamespaces::None, _) => Some(Vec::new()),
            (FromNamespaces::Selector, Some(selector)) => {
                // Of namespaces that are no objects here, those that have routes.
                let known = self.world.namespaces.iter().map(|(name, _)| name);
                let kinds = [Kind::HttpRoute, Kind::GrpcRoute, Kind::TlsRoute, Kind::TcpRoute];
                let routes = kinds.into_iter().flat_map(|kind| self.world.objects.of(kind));
                let all: BTreeSet<&Namespace> = known
                    .chain(routes.filter_map(|(key, _)| key.namespace.as_ref()))
                    .collect();
                Some(
                    all.into_iter()
                        .filter(|name| self.selected(selector, name))
                        .cloned()
                        .collect(),
                )
            }
        }
    }

    /// Whether a namespace carries the labels. Its name is one of them, whether or not the API server has set it.
    fn selected(&self, selector: &LabelSelector, namespace: &Namespace) -> bool {
        let labels = self.world.namespaces.get(namespace);
        let value = |key: &str| -> Option<&str> {
            let label = labels.and_then(|labels| labels.get(key)).map(|value| &**value);
            if key == "kubernetes.io/metadata.name" {
                label.or(Some(namespace.as_str()))
            } else {
                label
            }
        };
        let equal = selector
            .match_labels
            .iter()
            .flatten()
            .all(|(key, wanted)| value(key) == Some(wanted.as_str()));
        equal
            && selector.match_expressions.iter().flatten().all(|expression| {
                let found = value(&expression.key);
                let among =
                    || found.is_some_and(|found| expression.values.iter().flatten().any(|value| value == found));
                match expression.operator.as_str() {
                    "In" => among(),
                    "NotIn" => !among(),
                    "Exists" => found.is_some(),
                    "DoesNotExist" => found.is_none(),
                    _ => false,
                }
            })
    }
}
