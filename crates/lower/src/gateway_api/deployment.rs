//! The proxies that Gateways ask for: what is to be deployed, as far as the objects say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use lateen_api::gateway_api::{self as api, Listener};
use lateen_model::Labels;
use lateen_model::deployment::{GatewayDeployment, GatewayPort};
use lateen_names::{Name, Namespace, ObjectKey};

use super::Conversion;
use super::classes::Class;
use super::listeners::port_of;
use super::serving::own_name;
use super::status::Fault;
use crate::context::created;
use crate::istio::report::Report;
use crate::object::Kind;

/// The entries of a ConfigMap that are strategic merge patches of what is made for a Gateway.
pub const OVERLAYS: &[&str] = &[
    "deployment",
    "service",
    "serviceAccount",
    "horizontalPodAutoscaler",
    "podDisruptionBudget",
];
/// Label of a ConfigMap in the control plane's namespace whose entries hold for all Gateways of a class.
const DEFAULTS: &str = "gateway.istio.io/defaults-for-class";
/// The port of proxies that tells whether they are ready.
const STATUS_PORT: i32 = 15021;
/// The longest name that a port can have.
const LONGEST: usize = 63;
/// What may not be copied: these labels and annotations are the deployment's own.
const OWN_PREFIX: &str = "gateway.networking.k8s.io/";
/// Annotations that speak to the control plane about the Gateway itself.
const ABOUT_GATEWAY: [&str; 4] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "gateway.istio.io/name-override",
    "gateway.istio.io/service-account",
    "gateway.istio.io/controller-version",
];

/// A ConfigMap that changes what is made for Gateways.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    created: i64,
    /// The class whose Gateways it is for.
    class: Option<Arc<str>>,
    overlays: BTreeMap<Arc<str>, Arc<str>>,
}

impl Parameters {
    /// What a ConfigMap says about them; `None` for ConfigMaps about something else.
    pub(crate) fn new(map: &ConfigMap) -> Option<Self> {
        let data = map.data.iter().flatten();
        let overlays: BTreeMap<Arc<str>, Arc<str>> = data
            .filter(|(name, _)| OVERLAYS.contains(&name.as_str()))
            .map(|(name, patch)| (name.as_str().into(), patch.as_str().into()))
            .collect();
        let labels = map.metadata.labels.as_ref();
        (!overlays.is_empty()).then(|| Self {
            created: created(&map.metadata),
            class: labels
                .and_then(|labels| labels.get(DEFAULTS))
                .map(|class| class.as_str().into()),
            overlays,
        })
    }
}

type Texts = BTreeMap<Arc<str>, Arc<str>>;

impl Conversion<'_> {
    /// What is wrong with the parameters that a Gateway refers to.
    pub(super) fn parameters_fault(&mut self, key: &ObjectKey, gateway: &api::Gateway) -> Option<Fault> {
        let reference = gateway.spec.infrastructure.as_ref()?.parameters_ref.as_ref()?;
        let message = if (reference.group.as_str(), reference.kind.as_str()) != ("", "ConfigMap") {
            format!(
                "{}/{} cannot hold parameters; refer to a ConfigMap",
                reference.group, reference.kind
            )
        } else {
            match self.parameters(key, gateway) {
                None => format!(
                    "there is no ConfigMap {} here with one of {}",
                    reference.name,
                    OVERLAYS.join(", ")
                ),
                Some(parameters) => {
                    let broken = parameters.overlays.iter().find_map(|(name, patch)| {
                        let error = crate::yaml::parse(patch).err()?;
                        Some(format!("ConfigMap {}, `{name}`: {error}", reference.name))
                    });
                    broken?
                }
            }
        };
        let object = Kind::K8sGateway.reference(key.clone());
        let field = "spec.infrastructure.parametersRef";
        Report::new(&object, Vec::new(), self.diags).error(field, &message);
        Some(Fault::new("InvalidParameters", message))
    }

    fn parameters(&self, key: &ObjectKey, gateway: &api::Gateway) -> Option<&Parameters> {
        let reference = gateway.spec.infrastructure.as_ref()?.parameters_ref.as_ref()?;
        let key = ObjectKey {
            namespace: key.namespace.clone(),
            name: Name::new(&reference.name).ok()?,
        };
        self.world.parameters.get(&key)
    }

    /// Plans the proxies of a Gateway that is not served by a service that is there already.
    pub(super) fn deploy<'l>(
        &mut self,
        key: &ObjectKey,
        gateway: &'l api::Gateway,
        class: Class,
        listeners: impl Iterator<Item = &'l Listener>,
    ) {
        if class != Class::Ingress || !self.is_managed(gateway) {
            return;
        }
        let (Some(uid), Some(namespace)) = (gateway.metadata.uid.as_deref(), key.namespace.as_ref()) else {
            return;
        };
        let annotations = gateway.metadata.annotations.as_ref();
        let annotation = |name: &str| {
            let value = annotations.and_then(|annotations| annotations.get(name));
            value.map(String::as_str).filter(|value| !value.is_empty())
        };
        let default = format!("{}-{}", key.name, gateway.spec.gateway_class_name);
        let service_type = annotation("networking.istio.io/service-type").unwrap_or("LoadBalancer");
        let asked = gateway
            .spec
            .addresses
            .first()
            .and_then(|address| address.value.as_deref());
        let (labels, own_annotations) = self.metadata(gateway);
        let class_name = gateway.spec.gateway_class_name.as_str();
        let of_class = self.defaults(class_name).into_iter();
        let overlays = of_class
            .chain(self.parameters(key, gateway))
            .map(|found| found.overlays.clone());
        let plan = GatewayDeployment {
            uid: uid.into(),
            class: class_name.into(),
            controller: self.controller().into(),
            revision: self.revision(gateway, namespace),
            controller_version: annotation("gateway.istio.io/controller-version").map(Arc::from),
            name: own_name(gateway, key, class).into(),
            account: annotation("gateway.istio.io/service-account")
                .unwrap_or(&default)
                .into(),
            labels,
            annotations: own_annotations,
            service_type: service_type.into(),
            load_balancer_ip: asked
                .filter(|value| service_type == "LoadBalancer" && !value.is_empty())
                .map(Arc::from),
            ports: ports(listeners),
            overlays: overlays.collect(),
        };
        self.out.deployments.insert(key.clone(), plan);
    }

    /// What holds for all Gateways of a class: the oldest ConfigMap that says so.
    fn defaults(&self, class: &str) -> Option<&Parameters> {
        let system = self.world.system_namespace;
        let found = self.world.parameters.iter().filter(|(key, parameters)| {
            key.namespace.as_ref() == Some(system) && parameters.class.as_deref() == Some(class)
        });
        let oldest = found.min_by_key(|(key, parameters)| (parameters.created, *key));
        oldest.map(|(_, parameters)| parameters)
    }

    /// The revision that a Gateway names, or else its namespace.
    fn revision(&self, gateway: &api::Gateway, namespace: &Namespace) -> Option<Arc<str>> {
        const REVISION: &str = "istio.io/rev";
        let own = gateway.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION));
        let of_namespace = || {
            let labels: Option<&Labels> = self.world.namespaces.get(namespace).map(|labels| &**labels);
            labels.and_then(|labels| labels.get(REVISION)).cloned()
        };
        own.map(|revision| revision.as_str().into()).or_else(of_namespace)
    }

    /// Labels and annotations of everything that is made: what `infrastructure` says, else the Gateway's own.
    fn metadata(&self, gateway: &api::Gateway) -> (Texts, Texts) {
        let copied = self
            .ctx
            .mesh
            .feature("PILOT_ENABLE_GATEWAY_API_COPY_LABELS_ANNOTATIONS", true);
        let infrastructure = gateway.spec.infrastructure.as_ref();
        let choose = |said: Option<&BTreeMap<String, String>>, own: Option<&BTreeMap<String, String>>| -> Texts {
            let said = said.filter(|said| !said.is_empty());
            let chosen = said.or(own.filter(|_| copied)).into_iter().flatten();
            chosen
                .filter(|(name, _)| !name.starts_with(OWN_PREFIX) && !ABOUT_GATEWAY.contains(&name.as_str()))
                .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                .collect()
        };
        let mut labels = choose(
            infrastructure.map(|infrastructure| &infrastructure.labels),
            gateway.metadata.labels.as_ref(),
        );
        // Gateways are no part of the mesh that tunnels are for, unless they say so.
        labels.entry("istio.io/dataplane-mode".into()).or_insert("none".into());
        let annotations = choose(
            infrastructure.map(|infrastructure| &infrastructure.annotations),
            gateway.metadata.annotations.as_ref(),
        );
        (labels, annotations)
    }
}

/// A port of the Service for each number that is listened on.
fn ports<'l>(listeners: impl Iterator<Item = &'l Listener>) -> Vec<GatewayPort> {
    let mut used = BTreeSet::from(["status-port".to_owned()]);
    let mut numbers = BTreeSet::from([STATUS_PORT]);
    let mut ports = Vec::new();
    for listener in listeners.filter(|listener| listener.protocol != "UDP") {
        let Some(number) = u16::try_from(port_of(listener)).ok().filter(|port| *port > 0) else {
            continue;
        };
        if !numbers.insert(i32::from(number)) {
            continue;
        }
        let name = port_name(&listener.name, number, &used);
        used.insert(name.clone());
        ports.push(GatewayPort {
            name: name.into(),
            number,
            protocol: listener.protocol.to_ascii_lowercase().into(),
        });
    }
    ports
}

/// A listener's name, made fit for a port: without dots, short enough, and other than the names before.
fn port_name(listener: &str, number: u16, used: &BTreeSet<String>) -> String {
    let plain = listener.replace('.', "-");
    let cut = |name: &str, room: usize| -> String { name.chars().take(LONGEST - room).collect() };
    let mut name = cut(&plain, 0);
    let mut suffix = format!("-{number}");
    while used.contains(&name) {
        name = cut(&plain, suffix.len()) + &suffix;
        suffix.push('x');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_names_of_their_own() {
        let listener = |name: &str, port, protocol: &str| Listener {
            name: name.to_owned(),
            port,
            protocol: protocol.to_owned(),
            ..Listener::default()
        };
        let long = "a".repeat(70);
        let all = [
            listener("a.b", 80, "HTTP"),
            listener("a-b", 81, "HTTP"),
            listener("again", 80, "HTTPS"),
            listener(&long, 82, "TLS"),
            listener(&format!("{long}b"), 83, "TCP"),
            listener("status-port", 15021, "HTTP"),
            listener("datagrams", 53, "UDP"),
        ];
        let ports = ports(all.iter());
        let found: Vec<(&str, u16)> = ports.iter().map(|port| (&*port.name, port.number)).collect();
        let (first, second) = ("a".repeat(63), format!("{}-83", "a".repeat(60)));
        let expected = [("a-b", 80), ("a-b-81", 81), (first.as_str(), 82), (second.as_str(), 83)];
        assert_eq!(found, expected);
    }
}
