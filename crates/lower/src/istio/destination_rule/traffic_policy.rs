//! Traffic policy, as DestinationRule, Sidecar and MeshConfig have it.
//!
//! Nothing here can fail: numbers that mean nothing (negative limits) are treated as absent, and validation has told.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::networking::destination_rule as api;
use lateen_model::destination::{
    ClientTls, ConnectionPool, H2Keepalive, H2Upgrade, HashAlgorithm, HashKey, HttpPool, Keepalive, LbPolicy,
    LoadBalancer, LocalityLb, OutlierDetection, RetryBudget, SimpleLb, TcpPool, TlsMode, TrafficPolicy, Tunnel, Warmup,
};

use crate::istio::report::{positive, text, texts, thousandths, time};

/// Istio's least number of entries in a hash ring, where no algorithm is named.
const DEFAULT_RING: u64 = 1024;
/// Istio's share of requests at the beginning of a warm-up, in thousandths of a per cent.
const DEFAULT_WARMUP: u64 = 10_000;

/// A traffic policy with its differences by port.
pub fn lower_traffic_policy(from: &api::TrafficPolicy) -> TrafficPolicy {
    let ports = from.port_level_settings.iter().filter_map(|settings| {
        let port = u16::try_from(settings.port.as_ref()?.number)
            .ok()
            .filter(|port| *port > 0)?;
        Some((
            port,
            TrafficPolicy {
                load_balancer: settings.load_balancer.as_ref().map(load_balancer),
                pool: settings.connection_pool.as_ref().map(lower_connection_pool),
                outlier: settings.outlier_detection.as_ref().map(outlier),
                tls: settings.tls.as_ref().map(lower_client_tls),
                ..TrafficPolicy::default()
            },
        ))
    });
    // Of several settings for a port the first holds.
    let mut by_port = BTreeMap::new();
    for (port, policy) in ports {
        by_port.entry(port).or_insert(policy);
    }
    TrafficPolicy {
        load_balancer: from.load_balancer.as_ref().map(load_balancer),
        pool: from.connection_pool.as_ref().map(lower_connection_pool),
        outlier: from.outlier_detection.as_ref().map(outlier),
        tls: from.tls.as_ref().map(lower_client_tls),
        ports: by_port,
        tunnel: from.tunnel.as_ref().and_then(tunnel),
        proxy_protocol: from.proxy_protocol.as_ref().map(|protocol| match protocol.version {
            api::ProxyProtocolVersion::V2 => 2,
            _ => 1,
        }),
        retry_budget: from.retry_budget.as_ref().map(|budget| RetryBudget {
            percent_milli: budget.percent.map(thousandths),
            min_concurrency: Some(budget.min_retry_concurrency).filter(|least| *least > 0),
            interval: time(budget.budget_interval),
        }),
    }
}

fn tunnel(from: &api::TunnelSettings) -> Option<Tunnel> {
    Some(Tunnel {
        protocol: text(&from.protocol).unwrap_or_else(|| "CONNECT".into()),
        target_host: text(&from.target_host)?,
        target_port: u16::try_from(from.target_port).ok().filter(|port| *port > 0)?,
    })
}

fn load_balancer(from: &api::LoadBalancerSettings) -> LoadBalancer {
    let policy = from.lb_policy().and_then(|policy| match policy {
        api::LbPolicy::Simple(simple) => Some(LbPolicy::Simple(match simple {
            api::SimpleLb::LeastConn | api::SimpleLb::LeastRequest => SimpleLb::LeastRequest,
            api::SimpleLb::Random => SimpleLb::Random,
            api::SimpleLb::Passthrough => SimpleLb::Passthrough,
            api::SimpleLb::RoundRobin => SimpleLb::RoundRobin,
            _ => SimpleLb::Unspecified,
        })),
        api::LbPolicy::ConsistentHash(hash) => Some(consistent_hash(hash)),
        api::LbPolicy::BackendUtilization(_) => None,
    });
    LoadBalancer {
        policy,
        locality: from.locality_lb_setting.as_ref().map(lower_locality),
        warmup: match &from.warmup {
            Some(warmup) => time(warmup.duration).map(|duration| Warmup {
                duration,
                minimum_percent_milli: Some(warmup.minimum_percent.map_or(DEFAULT_WARMUP, thousandths)),
                aggression_milli: warmup.aggression.map(thousandths),
            }),
            None => time(from.warmup_duration_secs).map(|duration| Warmup {
                duration,
                minimum_percent_milli: None,
                aggression_milli: None,
            }),
        },
    }
}

fn consistent_hash(from: &api::ConsistentHashLb) -> LbPolicy {
    let key = from.hash_key().and_then(|key| match key {
        api::HashKey::HttpHeaderName(name) => Some(HashKey::Header(name.into())),
        api::HashKey::HttpCookie(cookie) => Some(HashKey::Cookie {
            name: cookie.name.as_str().into(),
            path: text(&cookie.path),
            ttl: time(cookie.ttl),
            attributes: pairs(
                cookie
                    .attributes
                    .iter()
                    .map(|attribute| (&attribute.name, &attribute.value)),
            ),
        }),
        api::HashKey::UseSourceIp(yes) => yes.then_some(HashKey::SourceIp),
        api::HashKey::HttpQueryParameterName(name) => Some(HashKey::Query(name.into())),
    });
    let above_zero = |number: u64| Some(number).filter(|number| *number > 0);
    let algorithm = match from.hash_algorithm() {
        Some(api::HashAlgorithm::Maglev(maglev)) => HashAlgorithm::Maglev {
            table_size: above_zero(maglev.table_size),
        },
        Some(api::HashAlgorithm::RingHash(ring)) => HashAlgorithm::Ring {
            minimum_size: above_zero(ring.minimum_ring_size),
        },
        None => HashAlgorithm::Ring {
            minimum_size: above_zero(from.minimum_ring_size).or(Some(DEFAULT_RING)),
        },
    };
    LbPolicy::Hash { key, algorithm }
}

fn pairs<'a>(from: impl Iterator<Item = (&'a String, &'a String)>) -> Vec<(Arc<str>, Arc<str>)> {
    from.map(|(name, value)| (Arc::from(name.as_str()), Arc::from(value.as_str())))
        .collect()
}

/// Preference by place.
pub fn lower_locality(from: &api::LocalityLoadBalancerSetting) -> LocalityLb {
    let mut distribute: Vec<_> = (from.distribute.iter())
        .map(|rule| {
            let to = rule
                .to
                .iter()
                .map(|(place, share)| (Arc::from(place.as_str()), *share))
                .collect();
            (Arc::from(rule.from.as_str()), to)
        })
        .collect();
    distribute.sort_by(|one: &(Arc<str>, _), other| one.0.cmp(&other.0));
    LocalityLb {
        enabled: from.enabled,
        distribute,
        failover: pairs(from.failover.iter().map(|rule| (&rule.from, &rule.to))),
        failover_priority: texts(&from.failover_priority),
    }
}

/// Limits of connections and requests.
pub fn lower_connection_pool(from: &api::ConnectionPoolSettings) -> ConnectionPool {
    ConnectionPool {
        tcp: from.tcp.as_ref().map(|tcp| TcpPool {
            max_connections: positive(tcp.max_connections),
            connect_timeout: time(tcp.connect_timeout),
            keepalive: tcp.tcp_keepalive.as_ref().map(lower_keepalive),
            max_connection_duration: time(tcp.max_connection_duration),
            idle_timeout: time(tcp.idle_timeout),
        }),
        http: from.http.as_ref().map(|http| HttpPool {
            max_pending: positive(http.http1_max_pending_requests),
            max_requests: positive(http.http2_max_requests),
            max_requests_per_connection: positive(http.max_requests_per_connection),
            max_retries: positive(http.max_retries),
            idle_timeout: time(http.idle_timeout),
            h2_upgrade: match http.h2_upgrade_policy {
                api::H2UpgradePolicy::DoNotUpgrade => H2Upgrade::DoNotUpgrade,
                api::H2UpgradePolicy::Upgrade => H2Upgrade::Upgrade,
                _ => H2Upgrade::Default,
            },
            use_client_protocol: http.use_client_protocol,
            max_concurrent_streams: positive(http.max_concurrent_streams),
            h2_keepalive: http.http2_keep_alive.as_ref().map(|keepalive| H2Keepalive {
                interval: time(keepalive.interval),
                timeout: time(keepalive.timeout),
            }),
        }),
    }
}

/// TCP keep-alive.
pub fn lower_keepalive(from: &api::TcpKeepalive) -> Keepalive {
    Keepalive {
        probes: Some(from.probes).filter(|probes| *probes > 0),
        time: time(from.time),
        interval: time(from.interval),
    }
}

fn outlier(from: &api::OutlierDetection) -> OutlierDetection {
    OutlierDetection {
        // The old `consecutiveErrors` has no effect, as in Istio.
        consecutive_5xx: from.consecutive_5xx_errors,
        consecutive_gateway: from.consecutive_gateway_errors,
        consecutive_local_origin: from.consecutive_local_origin_failures,
        split_local_origin: from.split_external_local_origin_errors,
        interval: time(from.interval),
        base_ejection: time(from.base_ejection_time),
        max_ejection_percent: positive(from.max_ejection_percent),
        http_error_codes: (from.outlier_detection_http_error_codes.iter())
            .filter_map(|code| u16::try_from(*code).ok())
            .collect(),
        min_health_percent: positive(from.min_health_percent),
    }
}

/// TLS toward a destination.
pub fn lower_client_tls(from: &api::ClientTlsSettings) -> ClientTls {
    ClientTls {
        mode: match from.mode {
            api::ClientTlsMode::Simple => TlsMode::Simple,
            api::ClientTlsMode::Mutual => TlsMode::Mutual,
            api::ClientTlsMode::IstioMutual => TlsMode::IstioMutual,
            _ => TlsMode::Disable,
        },
        certificate: text(&from.client_certificate),
        private_key: text(&from.private_key),
        ca: text(&from.ca_certificates),
        crl: text(&from.ca_crl),
        credential: text(&from.credential_name),
        subject_alt_names: texts(&from.subject_alt_names),
        sni: text(&from.sni),
        insecure_skip_verify: from.insecure_skip_verify,
    }
}
