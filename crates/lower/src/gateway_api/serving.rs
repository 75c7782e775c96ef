//! The services whose proxies open a gateway's ports, and whether they can: `Programmed`, and where the gateway is reached.
//!
//! This depends on endpoints, which come and go much more often than the objects of the Gateway API change. So it is
//! looked at apart, and costs a lookup for each service and port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lateen_api::gateway_api as api;
use lateen_model::endpoint::{Endpoints, Health};
use lateen_model::status::{Address, Condition, Statuses};
use lateen_model::{Service, ServiceKey, Table};
use lateen_names::{Hostname, Namespace, ObjectKey, ObjectRef};

use super::Conversion;
use super::classes::Class;
use super::status::{Fault, unless};
use crate::istio::report::Report;
use crate::object::Kind;

/// Label of what is made for a Gateway: the controller that made it.
const MANAGED: &str = "gateway.istio.io/managed";

/// What is behind an object with listeners.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Serving {
    /// The Gateway or ListenerSet.
    pub(super) object: ObjectRef,
    /// The Gateway's namespace, in which the services have to be.
    pub(super) namespace: Namespace,
    pub(super) services: Vec<Hostname>,
    pub(super) ports: BTreeSet<u16>,
    /// Whether the addresses inside the cluster and the names of the services are told where nothing leads in from
    /// outside; `None` where no addresses are told of.
    pub(super) addresses: Option<(bool, bool)>,
    /// Why nothing could be served whatever is there.
    pub(super) invalid: Option<Fault>,
}

/// The services that a gateway asks for.
pub(super) struct Requested {
    pub(super) services: Vec<Hostname>,
    /// An address that cannot be had.
    pub(super) fault: Option<Fault>,
}

impl Conversion<'_> {
    /// Whether Deployment and Service are made for a gateway: unless its addresses name a service that is there.
    pub(super) fn is_managed(&self, gateway: &api::Gateway) -> bool {
        !self.ctx.mesh.feature("ENABLE_GATEWAY_API_MANUAL_DEPLOYMENT", true)
            || match gateway.spec.addresses.as_slice() {
                [] => true,
                [only] => only.r#type == "IPAddress",
                _ => false,
            }
    }

    /// The services whose proxies open the gateway's ports: those that its addresses name, or the one that is made for it.
    pub(super) fn services_of(
        &mut self,
        gateway: &api::Gateway,
        key: &ObjectKey,
        namespace: &Namespace,
        class: Class,
    ) -> Requested {
        let mut hosts = BTreeSet::new();
        let mut others = Vec::new();
        if self.is_managed(gateway) {
            let name = own_name(gateway, key, class);
            let domain = self.ctx.domain();
            hosts.extend(Hostname::lower(&format!("{name}.{namespace}.svc.{domain}")));
        } else {
            for address in &gateway.spec.addresses {
                let value = address.value.as_deref().unwrap_or_default();
                match address.r#type.as_str() {
                    "Hostname" => hosts.extend(self.ctx.host(value, namespace)),
                    _ => others.push(value),
                }
            }
        }
        let fault = if !others.is_empty() {
            Some(format!(
                "only addresses of type Hostname name a service; {} cannot be had",
                others.join(", ")
            ))
        } else if hosts.is_empty() {
            Some("names no service; give one address of type Hostname, or none to have one made".to_owned())
        } else {
            None
        };
        let fault = fault.map(|message| {
            let origin = Kind::K8sGateway.reference(key.clone());
            Report::new(&origin, Vec::new(), self.diags).error("spec.addresses", &message);
            Fault::new("UnsupportedAddress", message)
        });
        Requested {
            services: hosts.into_iter().collect(),
            fault,
        }
    }
}

/// Name of the Deployment and the Service that are made for a gateway.
pub(super) fn own_name(gateway: &api::Gateway, key: &ObjectKey, class: Class) -> String {
    let annotations = gateway.metadata.annotations.as_ref();
    match annotations.and_then(|annotations| annotations.get("gateway.istio.io/name-override")) {
        Some(name) if !name.is_empty() => name.clone(),
        _ if class.is_in_names() => format!("{}-{}", key.name, gateway.spec.gateway_class_name),
        _ => key.name.to_string(),
    }
}

/// How an object's listeners are served.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Served {
    object: ObjectRef,
    programmed: Condition,
    addresses: Vec<Address>,
}

impl Serving {
    /// How it is served while these are the services and their endpoints.
    pub(super) fn served(
        &self,
        services: &Table<ServiceKey, Service>,
        endpoints: &Table<ServiceKey, Endpoints>,
    ) -> Served {
        let reach = Reach::new(self, services, endpoints);
        let fault = reach.fault(self);
        let message = match reach.assigned.is_empty() {
            true => String::new(),
            false => format!("served by {}", reach.assigned.join(", ")),
        };
        Served {
            object: self.object.clone(),
            programmed: unless(fault.as_ref(), "Programmed", "Programmed", &message),
            addresses: match self.addresses {
                Some((ips, names)) => reach.addresses(ips, names),
                None => Vec::new(),
            },
        }
    }
}

impl Served {
    /// Completes the object's status.
    pub(super) fn add_to(&self, statuses: &mut Statuses) {
        if let Some(status) = statuses.get_mut(&self.object) {
            status.conditions.push(self.programmed.clone());
            status.conditions.sort_by_key(|condition| condition.kind);
            status.addresses.clone_from(&self.addresses);
        }
    }
}

/// Where an object's listeners are served.
#[derive(Default)]
struct Reach {
    /// Service and port.
    assigned: Vec<String>,
    /// Addresses from outside.
    external: BTreeSet<Arc<str>>,
    /// Addresses of services in this cluster, and their names unless an address from outside is to come.
    internal: BTreeSet<IpAddr>,
    names: BTreeSet<Arc<str>>,
    warnings: BTreeSet<String>,
    /// Whether something would have to be changed; else it is a matter of time.
    unusable: bool,
}

impl Reach {
    fn new(serving: &Serving, services: &Table<ServiceKey, Service>, endpoints: &Table<ServiceKey, Endpoints>) -> Self {
        let mut reach = Self::default();
        for host in &serving.services {
            let key = ServiceKey {
                host: host.clone(),
                namespace: serving.namespace.clone(),
            };
            match services.get(&key) {
                Some(service) => {
                    let endpoints = endpoints.get(&key).map(|endpoints| &endpoints.by_port);
                    reach.look_at(service, endpoints, &serving.ports);
                }
                None => {
                    let message = format!("there is no service {host} in namespace {}", serving.namespace);
                    reach.warnings.insert(message);
                    reach.unusable = true;
                }
            }
        }
        reach
    }

    fn look_at(
        &mut self,
        service: &Service,
        endpoints: Option<&BTreeMap<u16, Vec<lateen_model::endpoint::Endpoint>>>,
        ports: &BTreeSet<u16>,
    ) {
        let host = &service.host;
        let serves = |port: &u16| {
            let of_port = endpoints.and_then(|endpoints| endpoints.get(port));
            of_port.is_some_and(|endpoints| endpoints.iter().any(|endpoint| endpoint.health != Health::Unhealthy))
        };
        let anything = service.ports.iter().any(|port| serves(&port.number));
        for port in ports {
            if serves(port) {
                self.assigned.push(format!("{host}:{port}"));
                let addresses = service.addresses.values().flatten();
                self.internal
                    .extend(addresses.filter(|address| !address.is_unspecified()));
                let external: Vec<_> = service.external_addresses.values().flatten().cloned().collect();
                if external.is_empty() && service.awaits_address {
                    self.warnings.insert(format!("{host} has no address from outside yet"));
                } else {
                    self.names.insert(host.as_str().into());
                }
                self.external.extend(external);
            } else if !anything {
                self.warnings.insert(format!("{host} has no endpoints that are ready"));
            } else if !service.labels.contains_key(MANAGED) || service.port(*port).is_none() {
                self.warnings.insert(format!("{host} does not serve port {port}"));
                self.unusable = true;
            }
        }
    }

    fn fault(&self, serving: &Serving) -> Option<Fault> {
        if serving.invalid.is_some() {
            return serving.invalid.clone();
        }
        if serving.services.is_empty() {
            return Some(Fault::new("UnsupportedAddress", "none of the addresses can be had"));
        }
        if self.warnings.is_empty() {
            return None;
        }
        let reason = match self.unusable {
            true => "AddressNotUsable",
            false => "AddressNotAssigned",
        };
        let mut message = Vec::from_iter(self.warnings.iter().map(String::as_str)).join("; ");
        if !self.assigned.is_empty() {
            message = format!("served by {}, but {message}", self.assigned.join(", "));
        }
        Some(Fault::new(reason, message))
    }

    fn addresses(&self, ips: bool, names: bool) -> Vec<Address> {
        let address = |text: &Arc<str>| match text.parse::<IpAddr>() {
            Ok(_) => Address::Ip(text.clone()),
            Err(_) => Address::Host(text.clone()),
        };
        if !self.external.is_empty() {
            return self.external.iter().map(address).collect();
        }
        let internal = self.internal.iter().filter(|_| ips);
        let internal = internal.map(|address| Address::Ip(address.to_string().into()));
        let names = self.names.iter().filter(|_| names);
        internal.chain(names.map(|name| Address::Host(name.clone()))).collect()
    }
}
