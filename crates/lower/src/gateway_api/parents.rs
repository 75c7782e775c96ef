//! What a route attaches to, and for which hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_api::gateway_api::{GROUP, ParentReference};
use lateen_model::Labels;
use lateen_model::route::GatewayRef;
use lateen_model::status::{ParentRef, ParentStatus, Status};
use lateen_names::{Hostname, Name, Namespace, ObjectKey};

use super::Conversion;
use super::classes::Class;
use super::grants::core;
use super::listeners::Parent;
use super::status::{Fault, parent_ref, unless};
use crate::context::{Meta, labels};
use crate::istio::report::Report;
use crate::object::{Kind, Object};

/// A place that a route is attached to.
pub(super) struct Attachment<'p> {
    /// What routes are bound to.
    pub(super) gateway: GatewayRef,
    /// The listener; `None` for the mesh.
    pub(super) listener: Option<&'p Parent>,
    /// Hosts, for the mesh: those of the service. Of a listener, those of the route count.
    pub(super) mesh_hosts: Vec<Hostname>,
    /// The port that the reference is limited to (of a listener it has been heeded).
    pub(super) port: Option<u16>,
    /// Hosts that belong to more specific listeners of the same port.
    others: Vec<String>,
}

/// What became of a route at its parents.
#[derive(Default)]
pub(super) struct Attached<'p> {
    /// The places that it is attached to, in the order of Istio's names for them.
    pub(super) places: Vec<Attachment<'p>>,
    /// What is to be told at each parent that is Lateen's.
    outcomes: BTreeMap<ParentRef, Outcome>,
}

/// What became of a route at one parent.
struct Outcome {
    /// Whether the parent is a service, and so concerns sidecars.
    mesh: bool,
    /// Why it is not attached.
    denied: Option<Fault>,
}

/// What was wrong with a route's references, for the mesh and for gateways: the rules differ.
#[derive(Default)]
pub(super) struct Unresolved {
    pub(super) mesh: Option<Fault>,
    pub(super) gateway: Option<Fault>,
}

impl Attached<'_> {
    /// Whether some parent is a gateway, or a service.
    pub(super) fn concerns(&self, gateway: bool) -> bool {
        self.outcomes.values().any(|outcome| outcome.mesh != gateway)
    }

    /// No parent takes such a route.
    pub(super) fn deny(&mut self, message: &str) {
        self.places.clear();
        for outcome in self.outcomes.values_mut() {
            outcome.denied.get_or_insert_with(|| Fault::new(NOT_ALLOWED, message));
        }
    }
}

impl Attachment<'_> {
    /// Whether the route is attached to a service, and so concerns sidecars.
    pub(super) fn is_mesh(&self) -> bool {
        self.listener.is_none()
    }

    /// Whether a host of the route belongs to this listener rather than to a more specific one beside it.
    pub(super) fn owns(&self, host: &Hostname) -> bool {
        let Some(listener) = self.listener else { return true };
        let own = Hostname::lower(&listener.hostname).ok();
        match &own {
            Some(own) if !own.is_wildcard() => return true,
            Some(own) if !host.matches(own) => return false,
            _ => {}
        }
        !self.others.iter().any(|other| {
            listener.hostname.len() <= other.len() && Hostname::lower(other).is_ok_and(|other| other.covers(host))
        })
    }
}

impl<'a> Conversion<'a> {
    /// What becomes of a route of this kind at its parents.
    pub(super) fn attachments<'p>(
        &mut self,
        parents: &'p [Parent],
        meta: &Meta,
        kind: Kind,
        references: &[ParentReference],
        hostnames: &[String],
    ) -> Attached<'p> {
        let mut sorted: Vec<(usize, &ParentReference)> = references.iter().enumerate().collect();
        sorted.sort_by_cached_key(|(_, reference)| {
            let (section, port) = (
                reference.section_name.as_deref().unwrap_or_default(),
                reference.port.unwrap_or_default(),
            );
            let namespace = reference.namespace.as_deref().unwrap_or(meta.namespace.as_str());
            format!(
                "{}/{}/{}/{section}/{port}.{namespace}",
                reference.group, reference.kind, reference.name
            )
        });
        let mut attached = Attached::default();
        for (at, reference) in sorted {
            let field = format!("spec.parentRefs[{at}]");
            let namespace = reference
                .namespace
                .as_deref()
                .map_or(Ok(meta.namespace.clone()), Namespace::new);
            let (Ok(namespace), Ok(name)) = (namespace, Name::new(&reference.name)) else {
                self.report(meta).error(
                    &field,
                    "names nothing; give `name`, and `namespace` if it is in another one",
                );
                continue;
            };
            let key = ObjectKey {
                namespace: Some(namespace),
                name,
            };
            match (core(&reference.group), reference.kind.as_str()) {
                (GROUP, "Gateway") => self.at_listeners(
                    parents,
                    (Kind::K8sGateway, key),
                    meta,
                    kind,
                    (reference, &field),
                    hostnames,
                    &mut attached,
                ),
                (GROUP, "ListenerSet") => self.at_listeners(
                    parents,
                    (Kind::ListenerSet, key),
                    meta,
                    kind,
                    (reference, &field),
                    hostnames,
                    &mut attached,
                ),
                ("", "Service") | ("networking.istio.io", "ServiceEntry") if self.foreign(&key, &reference.kind) => {}
                ("", "Service") => {
                    let hosts = self.service_host(&key).into_iter().collect();
                    self.in_mesh(&key, hosts, meta, (reference, &field), &mut attached);
                }
                ("networking.istio.io", "ServiceEntry") => {
                    let hosts = match self.world.objects.get(Kind::ServiceEntry, &key).map(|object| &**object) {
                        Some(Object::ServiceEntry(entry)) => entry
                            .spec
                            .hosts
                            .iter()
                            .filter_map(|host| Hostname::lower(host).ok())
                            .collect(),
                        _ => Vec::new(),
                    };
                    self.in_mesh(&key, hosts, meta, (reference, &field), &mut attached);
                }
                // It may be another controller's.
                _ => {}
            }
        }
        // Stable: several for the mesh keep their order.
        attached.places.sort_by_cached_key(|place| match &place.gateway {
            GatewayRef::Mesh => "mesh".to_owned(),
            GatewayRef::Gateway(key) => key.to_string(),
        });
        let listeners = attached.places.iter().filter_map(|place| place.listener);
        let listeners: BTreeSet<_> = listeners.map(|listener| (&listener.owner, &listener.section)).collect();
        for (owner, section) in listeners {
            let key = (owner.0, owner.1.clone(), section.clone());
            *self.attached.entry(key).or_default() += 1;
        }
        attached
    }

    /// Tells what became of a route.
    pub(super) fn route_status(
        &mut self,
        meta: &Meta,
        generation: i64,
        attached: Attached<'_>,
        unresolved: &Unresolved,
    ) {
        let controller: Arc<str> = self.controller().into();
        let parents = attached.outcomes.into_iter().map(|(parent, outcome)| {
            let resolved = match outcome.mesh {
                true => unresolved.mesh.as_ref(),
                false => unresolved.gateway.as_ref(),
            };
            ParentStatus {
                parent,
                controller: controller.clone(),
                conditions: vec![
                    unless(outcome.denied.as_ref(), "Accepted", "Accepted", ""),
                    unless(resolved, "ResolvedRefs", "ResolvedRefs", ""),
                ],
            }
        });
        let status = Status {
            generation,
            parents: Some(parents.collect()),
            ..Status::default()
        };
        self.out.statuses.insert(meta.origin.clone(), status);
    }

    /// Whether requests to that service go through a waypoint of another controller, which then heeds the route.
    fn foreign(&self, key: &ObjectKey, kind: &str) -> bool {
        let Some(namespace) = key.namespace.as_ref() else {
            return false;
        };
        let own = match self.world.objects.get(Kind::ServiceEntry, key).map(|object| &**object) {
            Some(Object::ServiceEntry(entry)) if kind == "ServiceEntry" => labels(entry.metadata.labels.as_ref()),
            _ => {
                let service = self.service_host(key).and_then(|host| {
                    self.services_named(&host)
                        .find(|service| service.namespace == *namespace)
                });
                service.map(|service| service.labels.clone()).unwrap_or_default()
            }
        };
        let of_namespace = self
            .world
            .namespaces
            .get(namespace)
            .map(|labels| Labels::clone(labels))
            .unwrap_or_default();
        let said = if own.contains_key("istio.io/use-waypoint") {
            own
        } else {
            of_namespace
        };
        let waypoint = said
            .get("istio.io/use-waypoint")
            .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("none"));
        let Some(name) = waypoint.and_then(|name| Name::new(name).ok()) else {
            return false;
        };
        let place = said
            .get("istio.io/use-waypoint-namespace")
            .and_then(|name| Namespace::new(name).ok());
        let waypoint = ObjectKey {
            namespace: Some(place.unwrap_or_else(|| namespace.clone())),
            name,
        };
        let Some(Object::K8sGateway(gateway)) = self
            .world
            .objects
            .get(Kind::K8sGateway, &waypoint)
            .map(|object| &**object)
        else {
            return false;
        };
        let ours = [Class::Ingress, Class::EastWest, Class::Waypoint];
        !self
            .class(&gateway.spec.gateway_class_name)
            .is_some_and(|class| ours.contains(&class))
            && self.is_class(&gateway.spec.gateway_class_name)
    }

    /// Host of a Service that exists.
    pub(super) fn service_host(&self, key: &ObjectKey) -> Option<Hostname> {
        let namespace = key.namespace.as_ref()?;
        let host = Hostname::lower(&format!("{}.{namespace}.svc.{}", key.name, self.ctx.domain())).ok()?;
        self.has_service(&host, namespace).then_some(host)
    }

    fn in_mesh(
        &mut self,
        key: &ObjectKey,
        hosts: Vec<Hostname>,
        meta: &Meta,
        (reference, field): (&ParentReference, &str),
        attached: &mut Attached<'_>,
    ) {
        let denied = hosts.is_empty().then(|| {
            let message = format!("there is no {} {key}", reference.kind);
            self.report(meta).missing(field, &message);
            Fault::new("NoMatchingParent", message)
        });
        if denied.is_none() {
            attached.places.push(Attachment {
                gateway: GatewayRef::Mesh,
                listener: None,
                mesh_hosts: hosts,
                port: reference.port.and_then(|port| u16::try_from(port).ok()),
                others: Vec::new(),
            });
        }
        let outcome = Outcome { mesh: true, denied };
        attached.outcomes.insert(parent_ref(reference), outcome);
    }

    fn at_listeners<'p>(
        &mut self,
        parents: &'p [Parent],
        owner: (Kind, ObjectKey),
        meta: &Meta,
        kind: Kind,
        (reference, field): (&ParentReference, &str),
        hostnames: &[String],
        attached: &mut Attached<'p>,
    ) {
        let listeners: Vec<&Parent> = parents.iter().filter(|parent| parent.owner == owner).collect();
        if listeners.is_empty() {
            // Maybe another controller's gateway; but if there is none at all, nobody will serve the route.
            if self.world.objects.get(owner.0, &owner.1).is_none() {
                self.report(meta)
                    .missing(field, format!("there is no {} {}", reference.kind, owner.1));
            }
            return;
        }
        let before = attached.places.len();
        let mut faults: Vec<Fault> = Vec::new();
        for listener in &listeners {
            if let Err(fault) = admits(listener, kind, meta, reference, hostnames) {
                faults.push(fault);
                continue;
            }
            let beside = listeners.iter().filter(|other| {
                other.gateway != listener.gateway && other.port == listener.port && other.protocol == listener.protocol
            });
            let others: BTreeSet<String> = beside.map(|other| other.hostname.clone()).collect();
            attached.places.push(Attachment {
                gateway: GatewayRef::Gateway(listener.gateway.clone()),
                listener: Some(listener),
                mesh_hosts: Vec::new(),
                port: None,
                others: others.into_iter().filter(|other| *other != listener.hostname).collect(),
            });
        }
        let denied = (attached.places.len() == before).then(|| {
            let reasons: BTreeSet<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
            let reasons = Vec::from_iter(reasons).join("; ");
            let message = format!("no listener of {} takes the route: {reasons}", owner.1);
            self.report(meta).error(field, &message);
            // The listener that came nearest to taking it says why.
            let nearest = faults
                .iter()
                .map(|fault| fault.reason)
                .max_by_key(|reason| nearness(reason));
            Fault::new(nearest.unwrap_or(NO_PARENT), message)
        });
        let outcome = Outcome { mesh: false, denied };
        attached.outcomes.insert(parent_ref(reference), outcome);
    }

    pub(super) fn report(&mut self, meta: &Meta) -> Report<'_> {
        Report::new(&meta.origin, Vec::new(), self.diags)
    }
}

/// There is no such listener.
const NO_PARENT: &str = "NoMatchingParent";
/// There is, but for other hosts.
const NO_HOSTNAME: &str = "NoMatchingListenerHostname";
/// It is for these hosts, but not for the route.
const NOT_ALLOWED: &str = "NotAllowedByListeners";

/// How far a route got with a listener that did not take it.
fn nearness(reason: &str) -> u8 {
    match reason {
        NOT_ALLOWED => 2,
        NO_HOSTNAME => 1,
        _ => 0,
    }
}

/// Whether a route may attach to a listener.
fn admits(
    listener: &Parent,
    kind: Kind,
    meta: &Meta,
    reference: &ParentReference,
    hostnames: &[String],
) -> Result<(), Fault> {
    if reference.port.is_some_and(|port| port != 0 && port != listener.port) {
        return Err(Fault::new(NO_PARENT, "none has this port"));
    }
    if reference
        .section_name
        .as_ref()
        .is_some_and(|section| !section.is_empty() && *section != listener.section)
    {
        return Err(Fault::new(NO_PARENT, "none has this sectionName"));
    }
    if let Ok(own) = Hostname::lower(&listener.hostname) {
        let fits = hostnames
            .iter()
            .any(|host| Hostname::lower(host).is_ok_and(|host| host.matches(&own)));
        if !hostnames.is_empty() && !fits {
            return Err(Fault::new(NO_HOSTNAME, "their hosts are others than the route's"));
        }
    }
    if listener
        .namespaces
        .as_ref()
        .is_some_and(|namespaces| !namespaces.contains(&meta.namespace))
    {
        return Err(Fault::new(
            NOT_ALLOWED,
            "allowedRoutes leaves the route's namespace out",
        ));
    }
    if !listener.kinds.contains(&kind.name()) {
        return Err(Fault::new(NOT_ALLOWED, "routes of this kind are not allowed there"));
    }
    Ok(())
}
