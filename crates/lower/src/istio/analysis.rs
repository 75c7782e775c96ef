//! What is wrong between objects that are each right by themselves: references that lead nowhere, and objects that
//! claim the same. Nothing here changes what is published; it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_model::destination::DestinationRule;
use lateen_model::gateway::Gateway;
use lateen_model::route::{Destination, GatewayRef, HttpAction, Semantics, VirtualService};
use lateen_model::service::of_host;
use lateen_model::{Diagnostic, ExportTo, Service, ServiceKey, Severity, Shared, Snapshot, Table};
use lateen_names::{Hostname, ObjectKey, ObjectRef};

use super::report::NOT_FOUND;

/// Two VirtualServices claim one host in the mesh.
const CONFLICTING_HOSTS: &str = "IST0109";
/// A host of a VirtualService is none of the gateway's.
const NOT_IN_GATEWAY: &str = "IST0132";
/// The host of a DestinationRule is none of the mesh's.
const UNKNOWN_RULE_HOST: &str = "IST0174";
/// A field that has no effect.
const LEFT_OUT: &str = "LTN0001";
/// Several Sidecars are about all workloads of a namespace.
const MANY_DEFAULT_SIDECARS: &str = "IST0111";

/// Looks at all objects of a snapshot. Costs in the order of their references, not of the services.
pub fn check(snapshot: &Snapshot) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    let world = World {
        services: &snapshot.services,
        gateways: &snapshot.gateways,
        subsets: subsets(&snapshot.destination_rules),
    };
    // Routes of the Gateway API and of Ingress have been looked at when they were lowered.
    let services = snapshot
        .virtual_services
        .values()
        .filter(|service| service.semantics == Semantics::Istio);
    let services: Vec<&Shared<VirtualService>> = services.collect();
    for service in &services {
        world.virtual_service(service, &mut findings);
    }
    conflicts(&services, &mut findings);
    for rule in snapshot.destination_rules.values() {
        if !rule.host.is_wildcard() && !world.known(&rule.host) {
            let message = format!(
                "no service has the host `{}`; correct it, or make a Service or ServiceEntry",
                rule.host
            );
            push(
                &mut findings,
                &rule.origin,
                "spec.host",
                Severity::Warning,
                UNKNOWN_RULE_HOST,
                message,
            );
        }
    }
    sidecars(snapshot, &mut findings);
    shadows(&snapshot.services, &mut findings);
    findings.sort();
    findings.dedup();
    findings
}

/// Objects that define a host once more, but otherwise than the object that it belongs to.
fn shadows(services: &Table<ServiceKey, Service>, findings: &mut Vec<Diagnostic>) {
    for service in services.values().filter(|service| !service.shadows.is_empty()) {
        for shadow in &service.shadows {
            let more = shadow.ports.iter().enumerate();
            for (at, port) in more.filter(|(_, port)| service.port(port.number).is_none()) {
                let message = format!(
                    "calls of {host}:{} fail: {} {} is older, and the service of {host} in namespace {}, with other settings or \
                     from another registry; add the port to that object, give both the same resolution, labels, selector and \
                     exportTo, or define the host in one of them alone",
                    port.number,
                    service.origin.kind,
                    service.origin.key,
                    service.namespace,
                    host = service.host,
                );
                let field = format!("spec.ports[{at}].number");
                push(findings, &shadow.origin, &field, Severity::Warning, LEFT_OUT, message);
            }
        }
    }
}

struct World<'a> {
    services: &'a Table<ServiceKey, Service>,
    gateways: &'a Table<ObjectKey, Gateway>,
    subsets: BTreeMap<&'a Hostname, BTreeSet<&'a str>>,
}

/// Names of subsets by host, of all DestinationRules.
fn subsets(rules: &Table<ObjectKey, DestinationRule>) -> BTreeMap<&Hostname, BTreeSet<&str>> {
    let mut subsets = BTreeMap::<_, BTreeSet<&str>>::new();
    for rule in rules.values() {
        let rule: &DestinationRule = rule;
        subsets
            .entry(&rule.host)
            .or_default()
            .extend(rule.subsets.iter().map(|subset| &*subset.name));
    }
    subsets
}

fn push(
    findings: &mut Vec<Diagnostic>,
    object: &ObjectRef,
    field: &str,
    severity: Severity,
    code: &'static str,
    message: String,
) {
    findings.push(Diagnostic {
        object: object.clone(),
        field: field.into(),
        severity,
        code,
        message: message.into(),
    });
}

impl World<'_> {
    /// Whether some service has the host, or a wildcard that covers it.
    fn known(&self, host: &Hostname) -> bool {
        wider(host).any(|host| self.has(&host))
    }

    fn has(&self, host: &Hostname) -> bool {
        of_host(self.services, host).next().is_some()
    }

    fn virtual_service(&self, service: &VirtualService, findings: &mut Vec<Diagnostic>) {
        for route in &service.http {
            if let HttpAction::Forward(to) = &route.action {
                for (at, to) in to.iter().enumerate() {
                    self.destination(
                        service,
                        to.destination.as_ref(),
                        &format!("{}.route[{at}].destination", route.field),
                        findings,
                    );
                }
            }
            for (at, mirror) in route.mirrors.iter().enumerate() {
                self.destination(
                    service,
                    Some(&mirror.destination),
                    &format!("{}.mirrors[{at}].destination", route.field),
                    findings,
                );
            }
        }
        let l4 = service.tls.iter().map(|route| (&route.field, &route.destinations));
        for (field, destinations) in l4.chain(service.tcp.iter().map(|route| (&route.field, &route.destinations))) {
            for (at, to) in destinations.iter().enumerate() {
                self.destination(
                    service,
                    to.destination.as_ref(),
                    &format!("{field}.route[{at}].destination"),
                    findings,
                );
            }
        }
        for (at, reference) in service.gateways.iter().enumerate() {
            let GatewayRef::Gateway(key) = reference else { continue };
            let field = format!("spec.gateways[{at}]");
            let Some(gateway) = self.gateways.get(key) else {
                let message = format!("there is no Gateway {key}; correct the name, or make it");
                push(findings, &service.origin, &field, Severity::Error, NOT_FOUND, message);
                continue;
            };
            let strangers: Vec<&str> = (service.hosts.iter())
                .filter(|host| {
                    !gateway
                        .servers
                        .iter()
                        .flat_map(|server| &server.hosts)
                        .any(|open| open.host.matches(host))
                })
                .map(Hostname::as_str)
                .collect();
            if !strangers.is_empty() {
                let message = format!("Gateway {key} does not serve {}; add it there", strangers.join(", "));
                push(
                    findings,
                    &service.origin,
                    &field,
                    Severity::Warning,
                    NOT_IN_GATEWAY,
                    message,
                );
            }
        }
    }

    fn destination(
        &self,
        service: &VirtualService,
        to: Option<&Destination>,
        field: &str,
        findings: &mut Vec<Diagnostic>,
    ) {
        let Some(to) = to else { return };
        if !self.known(&to.host) {
            let message = format!(
                "no service has the host `{}`; correct it, or make a Service or ServiceEntry",
                to.host
            );
            push(
                findings,
                &service.origin,
                &format!("{field}.host"),
                Severity::Error,
                NOT_FOUND,
                message,
            );
            return;
        }
        let Some(subset) = to.subset.as_deref() else { return };
        let defined = wider(&to.host).any(|host| self.subsets.get(&host).is_some_and(|names| names.contains(subset)));
        if !defined {
            let message = format!(
                "no DestinationRule for {} has the subset `{subset}`; such requests are answered with 503",
                to.host
            );
            push(
                findings,
                &service.origin,
                &format!("{field}.subset"),
                Severity::Error,
                NOT_FOUND,
                message,
            );
        }
    }
}

/// The host, and the wildcards that cover it, narrowest first.
fn wider(host: &Hostname) -> impl Iterator<Item = Hostname> {
    let text = host.as_str().to_owned();
    let dots: Vec<usize> = text.match_indices('.').map(|(at, _)| at).collect();
    let wildcards = dots
        .into_iter()
        .map(move |at| format!("*{}", &text[at..]))
        .chain(["*".to_owned()]);
    [host.clone()]
        .into_iter()
        .chain(wildcards.filter_map(|text| Hostname::new(&text).ok()))
}

/// In the mesh, of several VirtualServices for a host only one has an effect.
fn conflicts(services: &[&Shared<VirtualService>], findings: &mut Vec<Diagnostic>) {
    let mut by_host = BTreeMap::<&Hostname, Vec<&VirtualService>>::new();
    for service in services
        .iter()
        .filter(|service| service.gateways.contains(&GatewayRef::Mesh))
    {
        for host in &service.hosts {
            by_host.entry(host).or_default().push(service);
        }
    }
    for (host, mut claimants) in by_host.into_iter().filter(|(_, claimants)| claimants.len() > 1) {
        claimants.sort_by(|one, other| (one.created, &one.origin).cmp(&(other.created, &other.origin)));
        for (at, service) in claimants.iter().enumerate() {
            let others = claimants
                .iter()
                .enumerate()
                .filter(|(other, rival)| *other != at && overlap(&rival.export_to, &service.export_to));
            let others: Vec<(usize, String)> = others
                .map(|(other, rival)| (other, rival.origin.key.to_string()))
                .collect();
            if others.is_empty() {
                continue;
            }
            let fate = if others.iter().any(|(other, _)| *other < at) {
                "the older one counts, this one does not"
            } else {
                "this one counts"
            };
            let names: Vec<&str> = others.iter().map(|(_, name)| name.as_str()).collect();
            let message = format!(
                "host `{host}` is claimed by VirtualService {} too; {fate}; merge them",
                names.join(", ")
            );
            push(
                findings,
                &service.origin,
                "spec.hosts",
                Severity::Error,
                CONFLICTING_HOSTS,
                message,
            );
        }
    }
}

/// Whether some proxy may see both.
fn overlap(one: &ExportTo, other: &ExportTo) -> bool {
    match (one, other) {
        (ExportTo::Nobody, _) | (_, ExportTo::Nobody) => false,
        (ExportTo::All, _) | (_, ExportTo::All) => true,
        (ExportTo::Namespaces(one), ExportTo::Namespaces(other)) => {
            one.iter().any(|namespace| other.contains(namespace))
        }
    }
}

fn sidecars(snapshot: &Snapshot, findings: &mut Vec<Diagnostic>) {
    let mut defaults = BTreeMap::<_, Vec<&ObjectRef>>::new();
    for sidecar in snapshot.sidecars.values().filter(|sidecar| sidecar.selector.is_none()) {
        defaults.entry(&sidecar.namespace).or_default().push(&sidecar.origin);
    }
    for (namespace, origins) in defaults.into_iter().filter(|(_, origins)| origins.len() > 1) {
        let names: Vec<String> = origins.iter().map(|origin| origin.key.name.to_string()).collect();
        let message: Arc<str> = format!(
            "{} are all about the whole namespace {namespace}; keep one",
            names.join(", ")
        )
        .into();
        for origin in origins {
            push(
                findings,
                origin,
                "spec.workloadSelector",
                Severity::Error,
                MANY_DEFAULT_SIDECARS,
                message.to_string(),
            );
        }
    }
}
