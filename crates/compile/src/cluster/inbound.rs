//! Clusters of the application itself: one for every port that is served.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use envoy::cluster as parts;
use lateen_model::destination::{ConnectionPool, RetryBudget};
use lateen_model::endpoint::Instance;
use lateen_model::proxy::Interception;
use lateen_model::service::{Port, Protocol, Registry};
use lateen_model::sidecar::{Ingress, Sidecar};
use lateen_model::{Service, Shared, Snapshot};
use lateen_names::{ObjectKey, ObjectRef};
use lateen_proto::envoy::config::cluster::v3 as envoy;
use lateen_proto::envoy::config::core::v3 as core;
use lateen_proto::envoy::config::endpoint::v3 as endpoint;
use parts::{ClusterDiscoveryType, DiscoveryType, LbPolicy};

use super::http::{self, HttpOptions};
use super::settings::Settings;
use super::{metadata, policy, pool, stat, values};
use crate::built::{Built, Resource};
use crate::endpoint::destination_rule;
use crate::facts::InboundFacts;
use crate::scope::Rules;
use crate::{Scope, names};

/// What one cluster is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Inbound {
    settings: Shared<Settings>,
    /// The port that it is named by: the workload's, or that of a Sidecar's listener.
    number: u16,
    /// Where connections go on to; `None`: where they were meant to.
    target: Option<Target>,
    protocol: Protocol,
    /// The services that are served here: host, name, namespace; that of the first one's port only.
    services: Vec<Served>,
    stat_name: String,
    pool: ConnectionPool,
    budget: Option<RetryBudget>,
    rule: Option<Arc<[ObjectKey]>>,
    origins: Vec<ObjectRef>,
}

/// A service as telemetry names it: host, name, namespace.
type Served = (Arc<str>, Arc<str>, Arc<str>);

/// Where an application listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Target {
    Tcp(IpAddr, u16),
    Unix(Arc<str>),
}

/// Lists them: without a Sidecar's listeners one for every port that some service has here; else those listeners'.
pub(crate) fn select(
    snapshot: &Snapshot,
    scope: &Scope,
    facts: &InboundFacts,
    settings: &Shared<Settings>,
) -> Vec<Inbound> {
    let sidecar = facts.sidecar.as_ref().and_then(|key| snapshot.sidecars.get(key));
    let listeners = sidecar.map(|sidecar| &sidecar.ingress[..]).unwrap_or_default();
    let world = World {
        snapshot,
        facts,
        settings,
        sidecar: sidecar.map(|sidecar| &**sidecar),
        rules: &scope.common_rules,
    };
    if listeners.is_empty() {
        // Without interception the application holds these ports itself.
        if facts.interception == Interception::None {
            return Vec::new();
        }
        return world.of_services(&[]);
    }
    let merged = snapshot
        .mesh
        .feature("PILOT_ALLOW_SIDECAR_SERVICE_INBOUND_LISTENER_MERGE", false);
    let mut all = if merged {
        world.of_services(listeners)
    } else {
        Vec::new()
    };
    all.extend(listeners.iter().filter_map(|listener| world.of_listener(listener)));
    all
}

struct World<'a> {
    snapshot: &'a Snapshot,
    facts: &'a InboundFacts,
    settings: &'a Shared<Settings>,
    sidecar: Option<&'a Sidecar>,
    rules: &'a Rules,
}

impl World<'_> {
    fn of_services(&self, taken: &[Ingress]) -> Vec<Inbound> {
        let mut by_port: BTreeMap<u16, Vec<&Instance>> = BTreeMap::new();
        for instance in &self.facts.instances {
            by_port.entry(instance.target_port).or_default().push(instance);
        }
        by_port
            .into_iter()
            .filter(|(number, _)| !taken.iter().any(|listener| listener.port.number == *number))
            .filter_map(|(number, instances)| {
                let served: Vec<(&Shared<Service>, &Port)> = instances
                    .iter()
                    .filter_map(|instance| {
                        let service = self.snapshot.services.get(&instance.service)?;
                        Some((service, service.port(instance.port)?))
                    })
                    .collect();
                let (_, port) = served.first()?;
                let target = (!self.snapshot.mesh.inbound_passthrough)
                    .then(|| self.loopback(false))
                    .flatten()
                    .map(|ip| Target::Tcp(ip, number));
                Some(self.one(number, target, port, &served))
            })
            .collect()
    }

    fn of_listener(&self, listener: &Ingress) -> Option<Inbound> {
        let number = listener.port.number;
        let target = match listener.default_endpoint.as_deref().unwrap_or_default() {
            "" => None,
            unix if unix.starts_with("unix://") => Some(Target::Unix(unix.into())),
            text => {
                let (host, port) = text.rsplit_once(':')?;
                let port: u16 = port.parse().ok()?;
                let host = host.trim_start_matches('[').trim_end_matches(']');
                self.address(host).map(|ip| Target::Tcp(ip, port))
            }
        };
        let instance = self
            .facts
            .instances
            .iter()
            .find(|instance| instance.target_port == number);
        let service = instance.and_then(|instance| self.snapshot.services.get(&instance.service));
        let port = Port {
            number,
            name: Arc::clone(&listener.port.name),
            protocol: listener.port.protocol,
        };
        let served: Vec<_> = service.map(|service| (service, &port)).into_iter().collect();
        Some(self.one(number, target, &port, &served))
    }

    /// The own address of the family where a listener says "the pod", or a loopback address; others cannot be reached
    /// by the proxy alone and leave the connection's own target.
    fn address(&self, host: &str) -> Option<IpAddr> {
        let own = |v4: bool| self.facts.addresses.iter().copied().find(|ip| ip.is_ipv4() == v4);
        match host {
            "0.0.0.0" => own(true).or_else(|| "127.0.0.1".parse().ok()),
            "::" => own(false).or_else(|| "::1".parse().ok()),
            "127.0.0.1" => self.loopback(false),
            "::1" => self.loopback(true),
            _ => None,
        }
    }

    fn loopback(&self, v6_first: bool) -> Option<IpAddr> {
        let all = self.settings.loopbacks();
        let text = if v6_first { all.last() } else { all.first() };
        text.and_then(|text| text.parse().ok())
    }

    fn one(&self, number: u16, target: Option<Target>, port: &Port, served: &[(&Shared<Service>, &Port)]) -> Inbound {
        let first = served.first().map(|(service, _)| *service);
        let rule = first.and_then(|service| self.rules.of(&service.host, Some(&service.namespace)));
        let nothing = lateen_model::destination::TrafficPolicy::default();
        let own = rule.map_or(&nothing, |rule| &rule.policy);
        let effective = policy::of_host(own, port.number, &self.settings.default_policy);
        let listener = self.sidecar.and_then(|sidecar| {
            let of_listener = sidecar.ingress.iter().find(|listener| listener.port.number == number);
            of_listener
                .and_then(|listener| listener.pool.as_ref())
                .or(sidecar.inbound_pool.as_ref())
        });
        let visible = first.is_some_and(|service| !service.external);
        let mut services: Vec<Served> = Vec::new();
        for (service, other) in served.iter().filter(|_| visible) {
            let host: Arc<str> = service.host.as_str().into();
            if other.number == port.number && !services.iter().any(|(known, _, _)| *known == host) {
                services.push((host, Arc::clone(&service.name), service.namespace.as_str().into()));
            }
        }
        let name = names::inbound(number);
        let pattern = &self.settings.inbound_stat_name;
        Inbound {
            settings: self.settings.clone(),
            stat_name: match first {
                Some(service) => stat::name(pattern, &name, &of(service), "", (port, number)),
                None => stat::name("", &name, &nobody(), "", (port, number)),
            },
            number,
            target,
            protocol: port.protocol,
            services,
            pool: listener.cloned().or(effective.pool).unwrap_or_default(),
            budget: effective.retry_budget,
            rule: rule
                .filter(|rule| rule.policy != nothing)
                .map(|rule| Arc::from(&rule.from[..])),
            origins: served.iter().map(|(service, _)| service.origin.clone()).collect(),
        }
    }
}

fn of(service: &Service) -> stat::Of<'_> {
    stat::Of {
        host: service.host.as_str(),
        name: &service.name,
        namespace: service.namespace.as_str(),
        kubernetes: service.registry == Registry::Kubernetes,
    }
}

fn nobody() -> stat::Of<'static> {
    stat::Of {
        host: "",
        name: "",
        namespace: "",
        kubernetes: false,
    }
}

impl Inbound {
    pub(crate) fn name(&self) -> String {
        names::inbound(self.number)
    }

    pub(crate) fn build(&self) -> Built {
        let name = self.name();
        let mut cluster = envoy::Cluster {
            name: name.clone(),
            alt_stat_name: self.stat_name.clone(),
            common_lb_config: Some(parts::CommonLbConfig::default()),
            metadata: self.metadata(),
            ..envoy::Cluster::default()
        };
        self.lead_to(&mut cluster, &name);
        let mut options = HttpOptions::of_port(self.protocol, &self.settings);
        pool::limit(&mut cluster, &self.pool, self.budget.as_ref(), &self.settings);
        options.limit(&self.pool);
        if let Some(options) = options.pack() {
            cluster
                .typed_extension_protocol_options
                .insert(http::KEY.to_owned(), options);
        }
        let rules = self.rule.iter().flat_map(|keys| keys.iter()).map(destination_rule);
        Built::new(
            Resource::encode(name, &cluster),
            rules.chain(self.origins.iter().cloned()).collect::<Vec<_>>(),
        )
    }

    fn metadata(&self) -> Option<core::Metadata> {
        if self.services.is_empty() {
            return None;
        }
        let mut istio = metadata::Istio::default();
        istio.services(
            self.services
                .iter()
                .map(|(host, name, namespace)| (&**host, &**name, &**namespace)),
        );
        if let Some(first) = self.rule.as_ref().and_then(|keys| keys.first()) {
            istio.rule(first);
        }
        Some(istio.into_metadata())
    }

    fn lead_to(&self, cluster: &mut envoy::Cluster, name: &str) {
        let address = match &self.target {
            None => None,
            Some(Target::Unix(path)) => Some(values::pipe(path)),
            Some(Target::Tcp(ip, port)) => Some(core::Address {
                address: Some(core::address::Address::SocketAddress(values::socket(
                    &ip.to_string(),
                    *port,
                ))),
            }),
        };
        let kind = if address.is_some() {
            DiscoveryType::Static
        } else {
            // Each address of the pod is a host of its own; none of them is ever forgotten.
            cluster.cleanup_interval = Some(prost_types::Duration {
                seconds: 9_223_372_035,
                nanos: 0,
            });
            cluster.lb_policy = LbPolicy::ClusterProvided.into();
            DiscoveryType::OriginalDst
        };
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind.into()));
        cluster.load_assignment = address.map(|address| endpoint::ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![endpoint::LocalityLbEndpoints {
                lb_endpoints: vec![endpoint::LbEndpoint {
                    host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
                        address: Some(address),
                        ..endpoint::Endpoint::default()
                    })),
                    ..endpoint::LbEndpoint::default()
                }],
                ..endpoint::LocalityLbEndpoints::default()
            }],
            ..endpoint::ClusterLoadAssignment::default()
        });
        let loopback = matches!(&self.target, Some(Target::Tcp(ip, _)) if ip.is_loopback());
        if !loopback {
            cluster.upstream_bind_config = Some(bind(&self.settings, self.settings.dual_stack));
        }
    }
}

/// The source address by which interception knows connections of the proxy to its application, so that they are not
/// led back to the proxy; with `all`, those of all families.
pub(crate) fn bind(settings: &Settings, all: bool) -> core::BindConfig {
    let addresses = settings.bind_addresses();
    let further = if all {
        addresses.get(1..).unwrap_or_default()
    } else {
        &[]
    };
    core::BindConfig {
        source_address: addresses.first().map(|address| values::socket(address, 0)),
        extra_source_addresses: further
            .iter()
            .map(|address| core::ExtraSourceAddress {
                address: Some(values::socket(address, 0)),
                ..core::ExtraSourceAddress::default()
            })
            .collect(),
        ..core::BindConfig::default()
    }
}
