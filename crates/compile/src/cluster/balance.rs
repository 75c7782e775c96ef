//! How an endpoint is chosen.

use lateen_model::destination::{HashAlgorithm, LbPolicy, LoadBalancer, SimpleLb, Warmup};
use lateen_proto::envoy::config::cluster::v3::cluster as parts;
use lateen_proto::envoy::config::cluster::v3::{self as envoy};
use lateen_proto::envoy::config::core::v3::RuntimeDouble;
use parts::{DiscoveryType, LbConfig, LbPolicy as EnvoyLb};

use super::values;

/// Sets the algorithm; `PASSTHROUGH` also takes the endpoints away, for each connection brings its own.
pub(crate) fn choose(cluster: &mut envoy::Cluster, balancer: Option<&LoadBalancer>) {
    let warmup = balancer.and_then(|balancer| balancer.warmup.as_ref()).map(slow_start);
    let policy = balancer.and_then(|balancer| balancer.policy.as_ref());
    let (policy, config) = match policy.unwrap_or(&LbPolicy::Simple(SimpleLb::Unspecified)) {
        LbPolicy::Simple(SimpleLb::Unspecified | SimpleLb::LeastRequest) => (
            EnvoyLb::LeastRequest,
            warmup.map(|slow| {
                LbConfig::LeastRequestLbConfig(parts::LeastRequestLbConfig {
                    slow_start_config: Some(slow),
                    ..parts::LeastRequestLbConfig::default()
                })
            }),
        ),
        LbPolicy::Simple(SimpleLb::RoundRobin) => (
            EnvoyLb::RoundRobin,
            warmup.map(|slow| {
                LbConfig::RoundRobinLbConfig(parts::RoundRobinLbConfig {
                    slow_start_config: Some(slow),
                })
            }),
        ),
        LbPolicy::Simple(SimpleLb::Random) => (EnvoyLb::Random, None),
        LbPolicy::Simple(SimpleLb::Passthrough) => {
            cluster.cluster_discovery_type = Some(parts::ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
            cluster.load_assignment = None;
            (EnvoyLb::ClusterProvided, cluster.lb_config.take())
        }
        LbPolicy::Hash {
            algorithm: HashAlgorithm::Maglev { table_size },
            ..
        } => (
            EnvoyLb::Maglev,
            table_size
                .filter(|size| *size > 0)
                .map(|size| LbConfig::MaglevLbConfig(parts::MaglevLbConfig { table_size: Some(size) })),
        ),
        LbPolicy::Hash {
            algorithm: HashAlgorithm::Ring { minimum_size },
            ..
        } => (
            EnvoyLb::RingHash,
            minimum_size.filter(|size| *size > 0).map(|size| {
                LbConfig::RingHashLbConfig(parts::RingHashLbConfig {
                    minimum_ring_size: Some(size),
                    ..parts::RingHashLbConfig::default()
                })
            }),
        ),
    };
    cluster.lb_policy = policy.into();
    cluster.lb_config = config;
}

fn slow_start(warmup: &Warmup) -> parts::SlowStartConfig {
    // Where the share is said outright, so is the curve: a straight line by default.
    let aggression = warmup
        .aggression_milli
        .or_else(|| warmup.minimum_percent_milli.map(|_| 1000));
    parts::SlowStartConfig {
        slow_start_window: Some(values::duration(warmup.duration)),
        aggression: aggression.map(|milli| RuntimeDouble {
            default_value: values::percent_milli(milli).value,
            // Envoy demands a key; this is none that anybody sets.
            runtime_key: "(".to_owned(),
        }),
        min_weight_percent: warmup.minimum_percent_milli.map(values::percent_milli),
    }
}
