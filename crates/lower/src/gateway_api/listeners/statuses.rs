//! What is told of Gateways and ListenerSets.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lateen_api::gateway_api::{self as api, FrontendValidationMode};
use lateen_model::status::{Address, Condition, Status};
use lateen_names::{Hostname, Namespace, ObjectKey};

use super::{Draft, Host, Outcome, Owner, Sets, tls};
use crate::gateway_api::Conversion;
use crate::gateway_api::classes::Class;
use crate::gateway_api::serving::Serving;
use crate::gateway_api::status::{Fault, by_listeners, unless};
use crate::istio::report::Report;
use crate::object::Kind;

impl<'a> Conversion<'a> {
    /// The statuses of all objects with listeners, now that routes have attached.
    pub(in crate::gateway_api) fn listener_statuses(&mut self) {
        for draft in std::mem::take(&mut self.drafts) {
            let Draft {
                object,
                owner,
                mut status,
                verdicts,
            } = draft;
            let listeners = verdicts.iter().map(|(name, verdict)| {
                let attached = self.attached.get(&(owner.0, owner.1.clone(), name.clone()));
                verdict.status(name, attached.copied().unwrap_or_default())
            });
            status.listeners = Some(listeners.collect());
            self.out.statuses.insert(object, status);
        }
    }

    /// The ListenerSets that may add to a gateway; of the others is told that they may not.
    pub(super) fn admitted(
        &mut self,
        class: Class,
        gateway: &api::Gateway,
        namespace: &Namespace,
        sets: Sets<'a>,
    ) -> Sets<'a> {
        let mut admitted = Vec::new();
        for (key, set) in sets {
            let Some(own) = key.namespace.as_ref() else { continue };
            let message = if !class.takes_listener_sets() {
                format!(
                    "gateways of class {} take no ListenerSets",
                    gateway.spec.gateway_class_name
                )
            } else if self.lets_in(gateway, namespace, own) {
                admitted.push((key, set));
                continue;
            } else {
                "the gateway does not let this namespace add listeners; see its `spec.allowedListeners`".to_owned()
            };
            let object = Kind::ListenerSet.reference(key.clone());
            Report::new(&object, Vec::new(), self.diags).error("spec.parentRef", &message);
            let conditions = ["Accepted", "Programmed"];
            let conditions = conditions.map(|kind| Condition::fails(kind, "NotAllowed", message.as_str()));
            let status = Status {
                generation: generation(&set.metadata),
                conditions: conditions.into(),
                listeners: Some(Vec::new()),
                ..Status::default()
            };
            self.out.statuses.insert(object, status);
        }
        admitted
    }

    /// A gateway of another cluster is where it says it is.
    pub(super) fn remote(&mut self, key: &ObjectKey, gateway: &api::Gateway) {
        let addresses = gateway.spec.addresses.iter().filter_map(|address| {
            let value = address.value.as_deref().filter(|value| !value.is_empty())?.into();
            Some(match address.r#type.as_str() {
                "IPAddress" => Address::Ip(value),
                _ => Address::Host(value),
            })
        });
        let remote = "the gateway is of another cluster, which looks after it";
        let status = Status {
            generation: generation(&gateway.metadata),
            conditions: vec![
                Condition::holds("Accepted", "Accepted", ""),
                Condition::holds("Programmed", "Programmed", remote),
            ],
            addresses: addresses.collect(),
            ..Status::default()
        };
        self.out
            .statuses
            .insert(Kind::K8sGateway.reference(key.clone()), status);
    }

    pub(super) fn listener_set_status(
        &mut self,
        set: &Owner<'_>,
        outcome: Outcome,
        parent: &Namespace,
        services: &[Hostname],
        fault: Option<&Fault>,
    ) {
        let object = Kind::ListenerSet.reference(set.key.clone());
        // Where the gateway has no address at all, its listeners were not even looked at.
        let invalid = (outcome.valid == 0 && !services.is_empty())
            .then(|| Fault::new("ListenersNotValid", "none of the listeners is valid"));
        let fault =
            fault.map(|fault| Fault::new(fault.reason, format!("the gateway is not accepted: {}", fault.message)));
        let accepted = unless(fault.as_ref().or(invalid.as_ref()), "Accepted", "Accepted", "");
        let status = Status {
            generation: generation(set.metadata),
            conditions: vec![accepted],
            ..Status::default()
        };
        self.out.serving.push(Serving {
            object: object.clone(),
            namespace: parent.clone(),
            services: services.to_vec(),
            ports: outcome.ports,
            addresses: None,
            invalid,
        });
        self.drafts.push(Draft {
            object,
            owner: (set.kind, set.key.clone()),
            status,
            verdicts: outcome.verdicts,
        });
    }

    pub(super) fn gateway_status(
        &mut self,
        own: &Owner<'_>,
        outcome: Outcome,
        host: &Host<'a, '_>,
        listener_sets: usize,
        fault: Option<Fault>,
    ) {
        let object = Kind::K8sGateway.reference(own.key.clone());
        let accepted = match (fault, by_listeners(outcome.valid, own.listeners.len())) {
            (Some(fault), _) | (None, Err(fault)) => Condition::fails("Accepted", fault.reason, fault.message),
            (None, Ok("Accepted")) => Condition::holds("Accepted", "Accepted", ""),
            (None, Ok(reason)) => Condition::holds("Accepted", reason, "some of the listeners are not valid"),
        };
        let source = tls::Source {
            kind: own.kind,
            namespace: own.namespace,
            labels: own.metadata.labels.as_ref(),
            gateway: host.gateway,
            world: self.world,
            grants: &self.grants,
        };
        let mut report = Report::new(&object, Vec::new(), self.diags);
        let unresolved = source.client_certificate(&mut report);
        let mut conditions = vec![
            accepted,
            unless(unresolved.as_ref(), "ResolvedRefs", "ResolvedRefs", ""),
        ];
        if is_insecure(host.gateway) {
            conditions.push(Condition::holds(
                "InsecureFrontendValidationMode",
                "ConfigurationChanged",
                "clients without a valid certificate are let in (AllowInsecureFallback)",
            ));
        }
        let annotations = own.metadata.annotations.as_ref();
        let wanted = annotations.and_then(|all| all.get("networking.istio.io/address-type"));
        let wanted = wanted.map(String::as_str).or(match host.class {
            Class::Ingress => Some("Hostname"),
            _ => None,
        });
        self.out.serving.push(Serving {
            object: object.clone(),
            namespace: own.namespace.clone(),
            services: host.services.to_vec(),
            ports: outcome.ports,
            addresses: Some((wanted != Some("Hostname"), wanted != Some("IPAddress"))),
            invalid: None,
        });
        self.drafts.push(Draft {
            object,
            owner: (own.kind, own.key.clone()),
            status: Status {
                generation: generation(own.metadata),
                conditions,
                listener_sets,
                ..Status::default()
            },
            verdicts: outcome.verdicts,
        });
    }
}

/// The generation that an object is of; 0 where it does not say.
pub(in crate::gateway_api) fn generation(metadata: &ObjectMeta) -> i64 {
    metadata.generation.unwrap_or_default()
}

/// Whether clients are let in without a valid certificate though one is asked for.
fn is_insecure(gateway: &api::Gateway) -> bool {
    let frontend = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let configs = frontend
        .into_iter()
        .flat_map(|frontend| std::iter::once(&frontend.default).chain(frontend.per_port.iter().map(|port| &port.tls)));
    configs
        .filter_map(|config| config.validation.as_ref())
        .any(|validation| validation.mode == FrontendValidationMode::AllowInsecureFallback)
}
