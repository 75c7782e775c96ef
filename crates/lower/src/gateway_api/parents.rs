//! What a route attaches to, and for which hosts.

use std::collections::BTreeSet;

use lateen_api::gateway_api::{GROUP, ParentReference};
use lateen_model::Labels;
use lateen_model::route::GatewayRef;
use lateen_names::{Hostname, Name, Namespace, ObjectKey};

use super::Conversion;
use super::grants::core;
use super::listeners::Parent;
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
    /// The places that a route of this kind is attached to, in the order of Istio's names for them.
    pub(super) fn attachments<'p>(
        &mut self,
        parents: &'p [Parent],
        meta: &Meta,
        kind: Kind,
        references: &[ParentReference],
        hostnames: &[String],
    ) -> Vec<Attachment<'p>> {
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
        let mut attachments = Vec::new();
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
                    &mut attachments,
                ),
                (GROUP, "ListenerSet") => self.at_listeners(
                    parents,
                    (Kind::ListenerSet, key),
                    meta,
                    kind,
                    (reference, &field),
                    hostnames,
                    &mut attachments,
                ),
                ("", "Service") | ("networking.istio.io", "ServiceEntry") if self.foreign(&key, &reference.kind) => {}
                ("", "Service") => {
                    let hosts = self.service_host(&key).into_iter().collect();
                    self.in_mesh(&key, hosts, meta, (reference, &field), &mut attachments);
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
                    self.in_mesh(&key, hosts, meta, (reference, &field), &mut attachments);
                }
                // It may be another controller's.
                _ => {}
            }
        }
        // Stable: several for the mesh keep their order.
        attachments.sort_by_cached_key(|attachment| match &attachment.gateway {
            GatewayRef::Mesh => "mesh".to_owned(),
            GatewayRef::Gateway(key) => key.to_string(),
        });
        attachments
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
        let class = Name::new(&gateway.spec.gateway_class_name)
            .ok()
            .map(|name| ObjectKey { namespace: None, name });
        let class = class.and_then(|class| self.world.objects.get(Kind::GatewayClass, &class));
        match class.map(|object| &**object) {
            Some(Object::GatewayClass(class)) => {
                class.spec.controller_name != super::WAYPOINT && self.class(&gateway.spec.gateway_class_name).is_none()
            }
            _ => false,
        }
    }

    /// Host of a Service that exists.
    fn service_host(&self, key: &ObjectKey) -> Option<Hostname> {
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
        attachments: &mut Vec<Attachment<'_>>,
    ) {
        if hosts.is_empty() {
            self.report(meta)
                .missing(field, format!("there is no {} {key}", reference.kind));
            return;
        }
        attachments.push(Attachment {
            gateway: GatewayRef::Mesh,
            listener: None,
            mesh_hosts: hosts,
            port: reference.port.and_then(|port| u16::try_from(port).ok()),
            others: Vec::new(),
        });
    }

    fn at_listeners<'p>(
        &mut self,
        parents: &'p [Parent],
        owner: (Kind, ObjectKey),
        meta: &Meta,
        kind: Kind,
        (reference, field): (&ParentReference, &str),
        hostnames: &[String],
        attachments: &mut Vec<Attachment<'p>>,
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
        let before = attachments.len();
        let mut reasons = BTreeSet::new();
        for listener in &listeners {
            if let Err(reason) = admits(listener, kind, meta, reference, hostnames) {
                reasons.insert(reason);
                continue;
            }
            let beside = listeners.iter().filter(|other| {
                other.gateway != listener.gateway && other.port == listener.port && other.protocol == listener.protocol
            });
            let others: BTreeSet<String> = beside.map(|other| other.hostname.clone()).collect();
            attachments.push(Attachment {
                gateway: GatewayRef::Gateway(listener.gateway.clone()),
                listener: Some(listener),
                mesh_hosts: Vec::new(),
                port: None,
                others: others.into_iter().filter(|other| *other != listener.hostname).collect(),
            });
        }
        if attachments.len() == before {
            let reasons: Vec<&str> = reasons.into_iter().collect();
            let message = format!("no listener of {} takes the route: {}", owner.1, reasons.join("; "));
            self.report(meta).error(field, message);
        }
    }

    pub(super) fn report(&mut self, meta: &Meta) -> Report<'_> {
        Report::new(&meta.origin, Vec::new(), self.diags)
    }
}

/// Whether a route may attach to a listener.
fn admits(
    listener: &Parent,
    kind: Kind,
    meta: &Meta,
    reference: &ParentReference,
    hostnames: &[String],
) -> Result<(), &'static str> {
    if reference.port.is_some_and(|port| port != listener.port) {
        return Err("none has this port");
    }
    if reference
        .section_name
        .as_ref()
        .is_some_and(|section| !section.is_empty() && *section != listener.section)
    {
        return Err("none has this sectionName");
    }
    if let Ok(own) = Hostname::lower(&listener.hostname) {
        let fits = hostnames
            .iter()
            .any(|host| Hostname::lower(host).is_ok_and(|host| host.matches(&own)));
        if !hostnames.is_empty() && !fits {
            return Err("their hosts are others than the route's");
        }
    }
    if listener
        .namespaces
        .as_ref()
        .is_some_and(|namespaces| !namespaces.contains(&meta.namespace))
    {
        return Err("allowedRoutes leaves the route's namespace out");
    }
    if !listener.kinds.contains(&kind.name()) {
        return Err("routes of this kind are not allowed there");
    }
    Ok(())
}
