//! Clusters that are called: one for every port of every service, and for every subset of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy::cluster as parts;
use lateen_model::destination::{TlsMode, TrafficPolicy};
use lateen_model::service::{Port, Protocol, Registry, Resolution, TrafficDistribution};
use lateen_model::{Service, Shared, Snapshot};
use lateen_names::{Hostname, Locality, Namespace, ObjectKey, ObjectRef};
use lateen_proto::any;
use lateen_proto::envoy::config::cluster::v3 as envoy;
use lateen_proto::envoy::config::core::v3 as core;
use lateen_proto::envoy::extensions::clusters::dynamic_forward_proxy::v3 as forward;
use lateen_proto::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use lateen_proto::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use lateen_proto::envoy::r#type::v3::Percent;
use parts::common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig};
use parts::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, LbPolicy};

use super::http::{self, HttpOptions};
use super::list::{self, Discovery, Listed};
use super::settings::{self, Settings};
use super::tls::{self, Question};
use super::{balance, metadata, pool, stat, values};
use crate::built::{Built, Resource};
use crate::endpoint::destination_rule;
use crate::endpoint::members::{Members, Viewer, has_sessions};
use crate::endpoint::order::Setting;
use crate::endpoint::peer::AllPeers;
use crate::facts::OutboundFacts;
use crate::{Scope, alpn, names, source};

/// What one cluster is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Outbound {
    settings: Shared<Settings>,
    service: Shared<Target>,
    port: Port,
    subset: Option<Arc<str>>,
    sni_dnat: bool,
    discovery: Discovery,
    policy: Shared<TrafficPolicy>,
    rule: Option<Arc<[ObjectKey]>>,
    /// Whether the rule is for selected workloads only.
    selected: bool,
    /// Whether mutual TLS may be used without a rule.
    auto: bool,
    passthrough_port: Option<u16>,
    /// Endpoints, of clusters whose endpoints are names.
    inline: Option<Members>,
}

/// What clusters show of the service that they lead to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) host: Hostname,
    pub(crate) namespace: Namespace,
    pub(crate) name: Arc<str>,
    pub(crate) registry: Registry,
    external: bool,
    distribution: TrafficDistribution,
    first_connect: bool,
    sessions: bool,
    identities: Vec<Arc<str>>,
    origin: ObjectRef,
}

impl Target {
    fn new(service: &Service, snapshot: &Snapshot) -> Self {
        Self {
            host: service.host.clone(),
            namespace: service.namespace.clone(),
            name: Arc::clone(&service.name),
            registry: service.registry,
            external: service.external,
            distribution: service.traffic_distribution,
            first_connect: service.dns_first_connect,
            sessions: has_sessions(service),
            identities: identities(service, snapshot),
            origin: service.origin.clone(),
        }
    }
}

/// Names that a service's servers may present, sorted: their identities, each under every alias of the trust domain,
/// and what a ServiceEntry says.
fn identities(service: &Service, snapshot: &Snapshot) -> Vec<Arc<str>> {
    let given = service.accounts.iter().chain(&service.subject_alt_names);
    let mut all: Vec<Arc<str>> = given.clone().cloned().collect();
    for name in given {
        let path = name.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
        if let Some((_, path)) = path {
            let aliases = snapshot.mesh.trust_domain_aliases.iter();
            all.extend(aliases.map(|alias| Arc::from(format!("spiffe://{alias}/{path}"))));
        }
    }
    all.sort();
    all.dedup();
    all
}

/// Lists those clusters of a class, or of those that lead to some hosts, that it takes, in order.
pub(crate) fn select(
    snapshot: &Snapshot,
    scope: &Scope,
    facts: &OutboundFacts,
    settings: &Shared<Settings>,
    hosts: Option<&BTreeSet<Hostname>>,
    takes: impl Fn(&Listed<'_>) -> bool,
) -> Vec<Outbound> {
    let peers = AllPeers::new(snapshot);
    let nowhere = (Locality::default(), lateen_model::Labels::new());
    let (locality, labels) = facts
        .place
        .as_ref()
        .map_or((&nowhere.0, &nowhere.1), |place| (&place.locality, &place.labels));
    let viewer = Viewer::new(snapshot, facts, (locality, labels, None), &peers);
    let mut target: Option<Shared<Target>> = None;
    list::outbound(snapshot, scope, facts, hosts)
        .filter(takes)
        .map(|listed| {
            let known = target
                .take()
                .filter(|target| target.host == listed.service.host && target.namespace == listed.service.namespace);
            let service = known.unwrap_or_else(|| Shared::new(Target::new(listed.service, snapshot)));
            target = Some(service.clone());
            one(snapshot, facts, (settings, service), &viewer, &listed)
        })
        .filter(|cluster| cluster.inline.as_ref().is_none_or(|members| !members.is_empty()))
        .collect()
}

fn one(
    snapshot: &Snapshot,
    facts: &OutboundFacts,
    (settings, service): (&Shared<Settings>, Shared<Target>),
    viewer: &Viewer<'_>,
    listed: &Listed<'_>,
) -> Outbound {
    let rule = listed.rule.map(|rule| &**rule);
    let number = listed.port.number;
    let inline = matches!(listed.discovery, Discovery::StrictDns | Discovery::LogicalDns).then(|| {
        Members::new(
            snapshot,
            viewer,
            listed.service,
            number,
            (rule, listed.subset),
            (true, listed.sni_dnat),
        )
    });
    Outbound {
        settings: settings.clone(),
        port: listed.port.clone(),
        subset: listed.subset.map(|subset| Arc::clone(&subset.name)),
        sni_dnat: listed.sni_dnat,
        discovery: listed.discovery,
        rule: rule.map(|rule| Arc::from(&rule.from[..])),
        selected: rule.is_some_and(|rule| rule.from.iter().any(|key| facts.rules.contains(key))),
        auto: auto_mtls(snapshot, viewer.peers, listed),
        passthrough_port: listed.service.passthrough_ports.get(&number).copied(),
        inline,
        policy: Shared::new(listed.policy.clone()),
        service,
    }
}

/// Whether mutual TLS may be used toward a service without a rule. Where connections go to whatever address the
/// application meant, Envoy cannot tell endpoints apart: then all of them have to take it.
fn auto_mtls(snapshot: &Snapshot, peers: &AllPeers, listed: &Listed<'_>) -> bool {
    let service = listed.service;
    if service.external || listed.sni_dnat {
        return false;
    }
    let level = match (listed.subset, listed.rule) {
        (Some(subset), _) => Some(&subset.policy),
        (None, Some(rule)) => Some(&rule.policy),
        (None, None) => None,
    };
    if service.resolution == Resolution::Passthrough || level.is_some_and(list::is_passthrough) {
        let endpoints = snapshot.endpoints.get(&service.key());
        let of_port = endpoints.and_then(|endpoints| endpoints.by_port.get(&listed.port.number));
        let all = of_port.is_some_and(|list| !list.is_empty() && list.iter().all(|endpoint| endpoint.workload.mtls));
        if !all {
            return false;
        }
    }
    !peers.namespace_disabled(&service.namespace)
}

impl Outbound {
    pub(crate) fn name(&self) -> String {
        let subset = self.subset.as_deref().unwrap_or_default();
        let (port, host) = (self.port.number, &self.service.host);
        if self.sni_dnat {
            names::sni_dnat(port, subset, host)
        } else {
            names::outbound(port, subset, host)
        }
    }

    pub(crate) fn build(&self) -> Built {
        let name = self.name();
        let cluster = self.cluster(&name);
        let rules = self.rule.iter().flat_map(|keys| keys.iter()).map(destination_rule);
        Built::new(
            Resource::encode(name, &cluster),
            rules.chain([self.service.origin.clone()]).collect::<Vec<_>>(),
        )
    }

    fn cluster(&self, name: &str) -> envoy::Cluster {
        let settings = &*self.settings;
        let policy = &*self.policy;
        let mut cluster = envoy::Cluster {
            name: name.to_owned(),
            alt_stat_name: self.stat_name(name),
            metadata: Some(self.metadata()),
            ..envoy::Cluster::default()
        };
        if self.discovery == Discovery::DynamicForward {
            cluster.lb_policy = LbPolicy::ClusterProvided.into();
        } else {
            cluster.common_lb_config = Some(parts::CommonLbConfig::default());
        }
        self.discover(&mut cluster, name);
        let mut http = HttpOptions::of_port(self.port.protocol, settings);
        let pool = policy.pool.clone().unwrap_or_default();
        http.upgrade(pool.http.as_ref(), self.port.protocol, settings);
        pool::limit(&mut cluster, &pool, policy.retry_budget.as_ref(), settings);
        http.limit(&pool);
        self.detect_outliers(&mut cluster, &mut http);
        if self.discovery != Discovery::DynamicForward {
            self.balance(&mut cluster);
        }
        if !self.sni_dnat {
            self.secure(&mut cluster, &mut http);
        }
        if self.discovery == Discovery::Eds {
            cluster.eds_cluster_config = Some(parts::EdsClusterConfig {
                eds_config: Some(source::awaited(source::ads())),
                service_name: name.to_owned(),
            });
        }
        if let Some(options) = http.pack() {
            cluster
                .typed_extension_protocol_options
                .insert(http::KEY.to_owned(), options);
        }
        cluster
    }

    fn stat_name(&self, name: &str) -> String {
        let subset = self.subset.as_deref().unwrap_or_default();
        let pattern = &self.settings.outbound_stat_name;
        let service = stat::Of {
            host: self.service.host.as_str(),
            name: &self.service.name,
            namespace: self.service.namespace.as_str(),
            kubernetes: self.service.registry == Registry::Kubernetes,
        };
        stat::name(pattern, name, &service, subset, (&self.port, 0))
    }

    fn metadata(&self) -> core::Metadata {
        let mut istio = metadata::Istio::default();
        istio.services([(
            &*self.service.host.to_string(),
            &*self.service.name,
            self.service.namespace.as_str(),
        )]);
        if self.service.external && self.subset.is_none() {
            istio.flag("external");
        }
        if let Some(first) = self.rule.as_ref().and_then(|keys| keys.first()) {
            istio.rule(first);
            if let Some(subset) = &self.subset {
                istio.text("subset", subset);
            }
            let mode = self.policy.tls.as_ref().map(|tls| tls.mode);
            if matches!(mode, Some(TlsMode::Simple | TlsMode::Mutual)) {
                istio.text("alpn_override", "false");
            }
        }
        istio.into_metadata()
    }

    fn discover(&self, cluster: &mut envoy::Cluster, name: &str) {
        let kind = match self.discovery {
            Discovery::Eds => DiscoveryType::Eds,
            Discovery::StrictDns => DiscoveryType::StrictDns,
            Discovery::LogicalDns => DiscoveryType::LogicalDns,
            Discovery::OriginalDst => {
                cluster.lb_config = self.passthrough_port.map(|port| {
                    parts::LbConfig::OriginalDstLbConfig(parts::OriginalDstLbConfig {
                        upstream_port_override: Some(port.into()),
                        ..parts::OriginalDstLbConfig::default()
                    })
                });
                DiscoveryType::OriginalDst
            }
            Discovery::DynamicForward => {
                cluster.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(self.forward_proxy(false)));
                return;
            }
        };
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind.into()));
        if let Some(members) = &self.inline {
            self.resolve(cluster);
            cluster.load_assignment = Some(members.assignment(name));
        }
    }

    #[allow(deprecated)]
    fn resolve(&self, cluster: &mut envoy::Cluster) {
        cluster.dns_lookup_family = if self.service.first_connect {
            DnsLookupFamily::All
        } else {
            self.lookup_family()
        }
        .into();
        cluster.dns_jitter = Some(prost_types::Duration {
            seconds: 0,
            nanos: 100_000_000,
        });
        cluster.dns_refresh_rate = Some(values::duration(self.settings.dns_refresh));
        cluster.respect_dns_ttl = true;
        cluster.typed_dns_resolver_config = Some(core::TypedExtensionConfig {
            name: "envoy.network.dns_resolver.cares".to_owned(),
            typed_config: Some(any(&CaresDnsResolverConfig {
                udp_max_queries: Some(100),
                ..CaresDnsResolverConfig::default()
            })),
        });
    }

    fn lookup_family(&self) -> DnsLookupFamily {
        settings::lookup_family(self.settings.families, self.settings.dual_stack)
    }

    fn forward_proxy(&self, insecure: bool) -> parts::CustomClusterType {
        let cache = DnsCacheConfig {
            name: names::dns_cache(&self.service.host),
            dns_lookup_family: self.lookup_family().into(),
            ..DnsCacheConfig::default()
        };
        parts::CustomClusterType {
            name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
            typed_config: Some(any(&forward::ClusterConfig {
                allow_insecure_cluster_options: insecure,
                cluster_implementation_specifier: Some(
                    forward::cluster_config::ClusterImplementationSpecifier::DnsCacheConfig(cache),
                ),
                ..forward::ClusterConfig::default()
            })),
        }
    }

    fn distributes(&self) -> bool {
        self.service.distribution != TrafficDistribution::Any
    }

    fn detect_outliers(&self, cluster: &mut envoy::Cluster, http: &mut HttpOptions) {
        if let Some(outlier) = &self.policy.outlier {
            pool::detect(cluster, outlier, self.distributes());
            http.count_errors(&outlier.http_error_codes);
        }
    }

    fn balance(&self, cluster: &mut envoy::Cluster) {
        let settings = &*self.settings;
        let outlier = cluster.outlier_detection.is_some();
        let common = cluster.common_lb_config.get_or_insert_default();
        // Unready endpoints are known but not meant to be used, not even when few others are left.
        if common.healthy_panic_threshold.is_none() && (settings.unhealthy || self.distributes()) {
            common.healthy_panic_threshold = Some(Percent { value: 0.0 });
        }
        let balancer = self.policy.load_balancer.as_ref();
        let setting = Setting::in_force(balancer, self.service.distribution, &settings.locality);
        if settings.always_weigh || setting.is_some_and(|setting| setting.weighs(outlier)) {
            common.locality_config_specifier = Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
                LocalityWeightedLbConfig {},
            ));
        }
        if self.service.sessions && self.subset.is_none() && !self.sni_dnat {
            common.override_host_status = Some(core::HealthStatusSet {
                statuses: [
                    core::HealthStatus::Healthy,
                    core::HealthStatus::Draining,
                    core::HealthStatus::Unknown,
                    core::HealthStatus::Degraded,
                ]
                .map(i32::from)
                .to_vec(),
            });
        }
        if self.discovery == Discovery::OriginalDst {
            cluster.lb_policy = LbPolicy::ClusterProvided.into();
        } else if settings.redis && self.port.protocol == Protocol::Redis {
            cluster.lb_policy = LbPolicy::Maglev.into();
        } else {
            balance::choose(cluster, balancer);
        }
    }

    fn secure(&self, cluster: &mut envoy::Cluster, http: &mut HttpOptions) {
        let dynamic = self.discovery == Discovery::DynamicForward;
        let subset = self.subset.as_deref().unwrap_or_default();
        let sni = if dynamic {
            String::new()
        } else {
            names::sni_dnat(self.port.number, subset, &self.service.host)
        };
        let decided = tls::decide(&Question {
            rule: self.policy.tls.as_ref(),
            selected: self.selected,
            settings: &self.settings,
            auto: self.auto,
            external: self.service.external,
            identities: &self.service.identities,
            identities_for_all: self.service.registry == Registry::External,
            sni: &sni,
            dynamic,
            http2: http.is_http2(),
        });
        if decided.mesh
            && let Some(alpn) = alpn::metadata(self.port.protocol, http.spoken())
        {
            let metadata = cluster.metadata.get_or_insert_default();
            metadata.filter_metadata.insert(alpn::NAME.to_owned(), alpn);
        }
        let (by_host, by_certificate) = decided.follow_host;
        http.follow_host(by_host, by_certificate);
        let verifies = by_host && by_certificate;
        if dynamic && decided.context.is_some() && !verifies {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(self.forward_proxy(true)));
        }
        if let Some(context) = &decided.context {
            let socket = tls::socket(context);
            if decided.where_taken && self.discovery != Discovery::OriginalDst {
                cluster.transport_socket_matches = tls::by_endpoint(socket);
            } else {
                cluster.transport_socket = Some(socket);
            }
        }
        if let Some(version) = self.policy.proxy_protocol {
            announce(cluster, version);
        }
    }
}

/// Puts a PROXY protocol header before everything that a cluster sends.
fn announce(cluster: &mut envoy::Cluster, version: u8) {
    if cluster.transport_socket.is_none() && cluster.transport_socket_matches.is_empty() {
        cluster.transport_socket = Some(tls::raw());
    }
    if let Some(socket) = cluster.transport_socket.take() {
        cluster.transport_socket = Some(tls::with_proxy_protocol(socket, version));
    }
    for choice in &mut cluster.transport_socket_matches {
        if let Some(socket) = choice.transport_socket.take() {
            choice.transport_socket = Some(tls::with_proxy_protocol(socket, version));
        }
    }
}
