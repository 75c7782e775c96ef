//! Chains that pass bytes.

use std::sync::Arc;
use std::time::Duration;

use lateen_model::destination::{HashKey, LbPolicy};
use lateen_model::route::WeightedDestination;
use lateen_model::service::Protocol;
use lateen_proto::envoy::config::accesslog::v3::AccessLog;
use lateen_proto::envoy::config::listener::v3 as pb;
use lateen_proto::envoy::extensions::filters::network::mongo_proxy::v3::MongoProxy;
use lateen_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use lateen_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::weighted_cluster::ClusterWeight;
use lateen_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, TunnelingConfig, WeightedCluster,
};
use lateen_proto::envoy::r#type::v3::HashPolicy;
use lateen_proto::envoy::r#type::v3::hash_policy::{PolicySpecifier, SourceIp};

use super::Common;
use super::chain::filter;
use super::forward::Forward;
use super::telemetry::Side;
use crate::route::Resolved;
use crate::scope::MergedRule;

/// Where the bytes of a chain go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// Name of the statistics.
    pub stat_prefix: Arc<str>,
    /// Clusters with their shares.
    pub clusters: Vec<(Arc<str>, u32)>,
    /// Idle time after which a connection is closed.
    pub idle_timeout: Option<Duration>,
    /// Longest life of a connection.
    pub max_duration: Option<Duration>,
    /// Whether the client's address chooses the endpoint.
    pub hash_source_ip: bool,
    /// A tunnel: protocol, host and port.
    pub tunnel: Option<(Arc<str>, Arc<str>)>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Where the server that is asked for by name is looked up first.
    pub forward: Option<Forward>,
}

impl Target {
    /// One cluster.
    pub(super) fn single(cluster: &str, protocol: Protocol) -> Self {
        Self {
            stat_prefix: cluster.into(),
            clusters: vec![(cluster.into(), 1)],
            idle_timeout: None,
            max_duration: None,
            hash_source_ip: false,
            tunnel: None,
            protocol,
            forward: None,
        }
    }

    /// The shares of a route of a VirtualService; `None` if no destination has any.
    pub(super) fn weighted(
        name: &str,
        destinations: &[WeightedDestination],
        protocol: Protocol,
        resolve: impl Fn(&lateen_model::route::Destination) -> Resolved,
    ) -> Option<Self> {
        let clusters: Vec<(Arc<str>, u32)> = match destinations {
            [only] => only.destination.iter().map(|to| (resolve(to).cluster, 1)).collect(),
            many => many
                .iter()
                .filter(|one| one.weight > 0)
                .filter_map(|one| one.destination.as_ref().map(|to| (resolve(to).cluster, one.weight)))
                .collect(),
        };
        let first = clusters.first()?;
        let stat_prefix = if clusters.len() == 1 {
            Arc::clone(&first.0)
        } else {
            name.into()
        };
        Some(Self {
            stat_prefix,
            clusters,
            ..Self::single("", protocol)
        })
    }

    /// Takes over what the destination's rule says of TCP.
    pub(super) fn with_rule(mut self, rule: Option<&MergedRule>, subset: Option<&str>) -> Self {
        let Some(rule) = rule else { return self };
        let subset = subset.and_then(|name| rule.subsets.iter().find(|subset| &*subset.name == name));
        if let Some(tcp) = rule.policy.pool.as_ref().and_then(|pool| pool.tcp.as_ref()) {
            self.idle_timeout = tcp.idle_timeout;
            self.max_duration = tcp.max_connection_duration;
        }
        let balancer = subset
            .and_then(|subset| subset.policy.load_balancer.as_ref())
            .or(rule.policy.load_balancer.as_ref())
            .and_then(|balancer| balancer.policy.as_ref());
        self.hash_source_ip = matches!(
            balancer,
            Some(LbPolicy::Hash {
                key: Some(HashKey::SourceIp),
                ..
            })
        );
        let tunnel = subset
            .and_then(|subset| subset.policy.tunnel.as_ref())
            .or(rule.policy.tunnel.as_ref());
        self.tunnel = tunnel.map(|tunnel| {
            (
                Arc::clone(&tunnel.protocol),
                format!("{}:{}", tunnel.target_host, tunnel.target_port).into(),
            )
        });
        self
    }

    /// The filters of the chain.
    pub(super) fn filters(&self, common: &Common, side: Side) -> Vec<pb::Filter> {
        let mut filters = Vec::new();
        if self.protocol == Protocol::Mongo {
            let config = MongoProxy {
                stat_prefix: self.stat_prefix.to_string(),
                ..Default::default()
            };
            filters.push(filter("envoy.filters.network.mongo_proxy", &config));
        }
        if let Some(forward) = &self.forward {
            filters.push(forward.network_filter(common));
        }
        let idle = common.options.idle_timeout_ms.map(Duration::from_millis);
        filters.push(self.tcp_proxy(idle, common.telemetry.access_logs(common, side, true)));
        filters
    }

    /// The filter alone, which logs nothing: for connections that nobody meant to make.
    pub(super) fn silent(&self) -> Vec<pb::Filter> {
        vec![self.tcp_proxy(None, Vec::new())]
    }

    fn tcp_proxy(&self, default_idle: Option<Duration>, access_log: Vec<AccessLog>) -> pb::Filter {
        let idle = self.idle_timeout.or(default_idle);
        let specifier = match self.clusters.as_slice() {
            [(only, _)] => ClusterSpecifier::Cluster(only.to_string()),
            many => ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: many
                    .iter()
                    .map(|(name, weight)| ClusterWeight {
                        name: name.to_string(),
                        weight: *weight,
                        ..Default::default()
                    })
                    .collect(),
            }),
        };
        let tunnel = self.tunnel.as_ref().map(|(protocol, target)| TunnelingConfig {
            hostname: target.to_string(),
            use_post: protocol.eq_ignore_ascii_case("POST"),
            ..Default::default()
        });
        let proxy = TcpProxy {
            stat_prefix: self.stat_prefix.to_string(),
            cluster_specifier: Some(specifier),
            idle_timeout: idle.map(duration),
            max_downstream_connection_duration: self.max_duration.map(duration),
            tunneling_config: tunnel,
            hash_policy: if self.hash_source_ip {
                vec![HashPolicy {
                    policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})),
                }]
            } else {
                Vec::new()
            },
            access_log,
            ..Default::default()
        };
        filter("envoy.filters.network.tcp_proxy", &proxy)
    }
}

pub(super) fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
    }
}
