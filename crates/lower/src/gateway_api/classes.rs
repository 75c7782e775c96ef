//! Classes of gateways.

use std::collections::BTreeSet;

use lateen_model::mesh::Mesh;
use lateen_model::status::{Condition, Status};
use lateen_names::{Name, ObjectKey};

use super::Conversion;
use super::listeners::statuses::generation;
use crate::object::{Kind, Object};

/// Controller of classes whose gateways are ingress gateways, unless `PILOT_GATEWAY_API_CONTROLLER_NAME` names another.
const INGRESS: &str = "istio.io/gateway-controller";
/// Controller of classes whose gateways stand between networks.
const EAST_WEST: &str = "istio.io/eastwest-controller";
/// Controller of classes whose gateways are waypoints; policies toward services are told of in its name.
pub(super) const WAYPOINT: &str = "istio.io/mesh-controller";
/// Controller of classes whose gateways are in other clusters.
const REMOTE: &str = "istio.io/unmanaged-gateway";

/// What of the Gateway API ingress gateways can do, by the names of its conformance suite, in their order.
const FEATURES: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayInfrastructure",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
];

/// The controllers of the Gateway API that Lateen is: of gateways and routes, and of policies toward services.
pub fn controllers(mesh: &Mesh) -> BTreeSet<String> {
    [ingress_controller(mesh), WAYPOINT].map(str::to_owned).into()
}

fn ingress_controller(mesh: &Mesh) -> &str {
    mesh.environment
        .get("PILOT_GATEWAY_API_CONTROLLER_NAME")
        .map_or(INGRESS, |name| &**name)
}

/// What a class of gateways is to Lateen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Where requests enter the mesh.
    Ingress,
    /// Between networks.
    EastWest,
    /// Waypoints, which Lateen does not serve.
    Waypoint,
    /// Of another cluster: known by its address only.
    Remote,
}

impl Class {
    /// Whether ListenerSets may add to its gateways.
    pub(super) fn takes_listener_sets(self) -> bool {
        self == Self::Ingress
    }

    /// Whether what is made for a gateway has the class in its name.
    pub(super) fn is_in_names(self) -> bool {
        self == Self::Ingress
    }
}

impl Conversion<'_> {
    /// Tells of each class of Lateen's that it is looked after.
    pub(super) fn class_statuses(&mut self) {
        for (key, object) in self.world.objects.of(Kind::GatewayClass) {
            let Object::GatewayClass(class) = object else { continue };
            let ours = self.class_of(&class.spec.controller_name);
            let Some(ours) = ours.filter(|class| *class != Class::Waypoint) else {
                continue;
            };
            let status = Status {
                generation: generation(&class.metadata),
                conditions: vec![Condition::holds("Accepted", "Accepted", "")],
                features: if ours == Class::Ingress { FEATURES } else { &[] },
                ..Status::default()
            };
            self.out
                .statuses
                .insert(Kind::GatewayClass.reference(key.clone()), status);
        }
    }

    /// Name of the controller that ingress gateways and their routes have.
    pub(super) fn controller(&self) -> &str {
        ingress_controller(self.ctx.mesh)
    }

    /// What a class of gateways is to Lateen; `None` for those of other controllers. Istio's own classes are there
    /// without object.
    pub(super) fn class(&self, name: &str) -> Option<Class> {
        let default = self
            .ctx
            .mesh
            .environment
            .get("PILOT_GATEWAY_API_DEFAULT_GATEWAYCLASS_NAME")
            .map_or("istio", |name| &**name);
        let key = ObjectKey {
            namespace: None,
            name: Name::new(name).ok()?,
        };
        match self.world.objects.get(Kind::GatewayClass, &key).map(|object| &**object) {
            Some(Object::GatewayClass(class)) => self.class_of(&class.spec.controller_name),
            _ if name == default => Some(Class::Ingress),
            _ => match name {
                "istio-east-west" => Some(Class::EastWest),
                "istio-remote" => Some(Class::Remote),
                "istio-waypoint" => Some(Class::Waypoint),
                _ => None,
            },
        }
    }

    /// Whether there is an object for the class.
    pub(super) fn is_class(&self, name: &str) -> bool {
        let key = Name::new(name).ok().map(|name| ObjectKey { namespace: None, name });
        key.is_some_and(|key| self.world.objects.get(Kind::GatewayClass, &key).is_some())
    }

    /// What the classes of a controller are to Lateen.
    pub(super) fn class_of(&self, controller: &str) -> Option<Class> {
        match controller {
            controller if controller == self.controller() => Some(Class::Ingress),
            EAST_WEST => Some(Class::EastWest),
            WAYPOINT => Some(Class::Waypoint),
            REMOTE => Some(Class::Remote),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_in_order_as_the_api_demands_and_none_is_of_the_mesh() {
        assert!(FEATURES.is_sorted_by(|one, two| one < two));
        assert!(FEATURES.len() <= 64, "a class holds no more");
        assert!(!FEATURES.iter().any(|feature| feature.starts_with("Mesh")));
    }
}
