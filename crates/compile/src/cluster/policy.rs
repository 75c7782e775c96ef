//! Which traffic policy holds for one port of one host or subset.

use lateen_model::destination::{Subset, TlsMode, TrafficPolicy};

/// A policy as it holds for one port: the port's own settings replace pool, outlier detection, balancer and TLS of the
/// level that they stand in, also where they say nothing about them (the API's "port-level settings do not inherit").
/// Returns whether the port has its own.
fn at_port(policy: &TrafficPolicy, port: u16) -> (TrafficPolicy, bool) {
    match policy.ports.get(&port) {
        Some(own) => (
            TrafficPolicy {
                load_balancer: own.load_balancer.clone(),
                pool: own.pool.clone(),
                outlier: own.outlier.clone(),
                tls: own.tls.clone(),
                ..TrafficPolicy::default()
            },
            true,
        ),
        None => (
            TrafficPolicy {
                ports: std::collections::BTreeMap::new(),
                ..policy.clone()
            },
            false,
        ),
    }
}

/// The policy toward a port of a whole host, over the mesh's.
pub(crate) fn of_host(policy: &TrafficPolicy, port: u16, mesh: &TrafficPolicy) -> TrafficPolicy {
    let (mut policy, _) = at_port(policy, port);
    policy.pool = policy.pool.or_else(|| mesh.pool.clone());
    policy.outlier = policy.outlier.or_else(|| mesh.outlier.clone());
    policy
}

/// The policy toward a port of a subset: what the subset says, over the host's policy for that port.
pub(crate) fn of_subset(host: TrafficPolicy, subset: &Subset, port: u16) -> TrafficPolicy {
    let (own, has_port) = at_port(&subset.policy, port);
    TrafficPolicy {
        load_balancer: pick(own.load_balancer, host.load_balancer, has_port),
        pool: pick(own.pool, host.pool, has_port),
        outlier: pick(own.outlier, host.outlier, has_port),
        tls: pick(own.tls, host.tls, has_port),
        tunnel: own.tunnel.or(host.tunnel),
        proxy_protocol: own.proxy_protocol.or(host.proxy_protocol),
        retry_budget: own.retry_budget.or(host.retry_budget),
        ports: std::collections::BTreeMap::new(),
    }
}

fn pick<T>(own: Option<T>, wider: Option<T>, replace: bool) -> Option<T> {
    if replace { own } else { own.or(wider) }
}

/// The TLS mode that a rule asks for toward a port of a host or subset, which decides whether its endpoints count as
/// taking mutual TLS. Unlike in [`of_host`], a port without TLS settings keeps those of its level.
pub(crate) fn tls_mode(host: &TrafficPolicy, subset: Option<&Subset>, port: u16) -> Option<TlsMode> {
    let at = |policy: &TrafficPolicy| {
        let own = policy.ports.get(&port).and_then(|own| own.tls.as_ref());
        own.or(policy.tls.as_ref()).map(|tls| tls.mode)
    };
    subset.and_then(|subset| at(&subset.policy)).or_else(|| at(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_model::destination::{ClientTls, ConnectionPool, OutlierDetection, RetryBudget, TcpPool};

    fn pool(max_connections: u32) -> Option<ConnectionPool> {
        Some(ConnectionPool {
            tcp: Some(TcpPool {
                max_connections: Some(max_connections),
                ..TcpPool::default()
            }),
            http: None,
        })
    }

    fn tls(mode: TlsMode) -> Option<ClientTls> {
        Some(ClientTls {
            mode,
            ..ClientTls::default()
        })
    }

    #[test]
    fn a_ports_settings_replace_its_levels_and_the_mesh_fills_what_is_left() {
        let mesh = TrafficPolicy {
            pool: pool(9),
            outlier: Some(OutlierDetection::default()),
            ..TrafficPolicy::default()
        };
        let host = TrafficPolicy {
            pool: pool(1),
            tls: tls(TlsMode::Simple),
            proxy_protocol: Some(1),
            ports: [(
                80,
                TrafficPolicy {
                    tls: tls(TlsMode::Mutual),
                    ..TrafficPolicy::default()
                },
            )]
            .into(),
            ..TrafficPolicy::default()
        };
        let at_80 = of_host(&host, 80, &mesh);
        assert_eq!(at_80.pool, pool(9));
        assert_eq!(at_80.tls, tls(TlsMode::Mutual));
        assert_eq!(at_80.proxy_protocol, None);
        let at_81 = of_host(&host, 81, &mesh);
        assert_eq!((at_81.pool, at_81.tls), (pool(1), tls(TlsMode::Simple)));
        assert!(at_81.outlier.is_some());
    }

    #[test]
    fn a_subset_overrides_part_by_part_and_its_ports_altogether() {
        let host = TrafficPolicy {
            pool: pool(1),
            tls: tls(TlsMode::Simple),
            retry_budget: Some(RetryBudget {
                percent_milli: None,
                min_concurrency: None,
                interval: None,
            }),
            ..TrafficPolicy::default()
        };
        let subset = Subset {
            name: "v1".into(),
            labels: Default::default(),
            policy: TrafficPolicy {
                pool: pool(2),
                ports: [(
                    80,
                    TrafficPolicy {
                        outlier: Some(OutlierDetection::default()),
                        ..TrafficPolicy::default()
                    },
                )]
                .into(),
                ..TrafficPolicy::default()
            },
        };
        let at_81 = of_subset(host.clone(), &subset, 81);
        assert_eq!((at_81.pool, at_81.tls), (pool(2), tls(TlsMode::Simple)));
        let at_80 = of_subset(host.clone(), &subset, 80);
        assert_eq!((at_80.pool, at_80.tls), (None, None));
        assert!(at_80.outlier.is_some() && at_80.retry_budget.is_some());
        assert_eq!(tls_mode(&host, Some(&subset), 80), Some(TlsMode::Simple));
    }
}
