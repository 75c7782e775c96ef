//! DestinationRule, and traffic policy wherever else it stands.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::networking::destination_rule::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, ConsistentHashLb, DestinationRuleSpec, H2UpgradePolicy,
    HashAlgorithm, HttpSettings, LoadBalancerSettings, LocalityLoadBalancerSetting, OutlierDetection, TcpSettings,
    TrafficPolicy, TunnelSettings,
};

use crate::{Finding, Findings, Subject, policy, text};

/// Labels by which endpoints are placed; Envoy looks at them by itself.
const TOPOLOGY: [&str; 3] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
];

/// What is wrong with a DestinationRule.
pub fn check(spec: &DestinationRuleSpec, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.metadata(subject, false);
    if spec.host.parse::<std::net::IpAddr>().is_err() {
        findings.check("spec.host", text::wildcard_domain(&spec.host));
    }
    if let Some(policy) = &spec.traffic_policy {
        traffic_policy(policy, subject.namespace(), "spec.trafficPolicy", &mut findings);
    }
    let mut names = BTreeSet::new();
    for (at, subset) in spec.subsets.iter().enumerate() {
        let field = format!("spec.subsets[{at}]");
        findings.check(format!("{field}.name"), text::subset(&subset.name));
        if !names.insert(&subset.name) {
            findings.error(
                format!("{field}.name"),
                format!("there are two subsets `{}`; rename or remove one", subset.name),
            );
        }
        text::workload_labels(&subset.labels, &format!("{field}.labels"), &mut findings);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(
                policy,
                subject.namespace(),
                &format!("{field}.trafficPolicy"),
                &mut findings,
            );
        }
    }
    let selects = spec.workload_selector.as_ref();
    text::export_to(&spec.export_to, subject.namespace(), selects.is_some(), &mut findings);
    if let Some(selector) = selects {
        policy::labels(
            &selector.match_labels,
            "spec.workloadSelector.matchLabels",
            &mut findings,
        );
        if selector.match_labels.is_empty() {
            findings.warning(
                "spec.workloadSelector",
                "the selector has no labels, so it selects every workload",
            );
        }
    }
    findings.0
}

fn traffic_policy(policy: &TrafficPolicy, namespace: &str, field: &str, findings: &mut Findings) {
    let empty = policy.load_balancer.is_none()
        && policy.connection_pool.is_none()
        && policy.outlier_detection.is_none()
        && policy.tls.is_none()
        && policy.port_level_settings.is_empty()
        && policy.tunnel.is_none()
        && policy.proxy_protocol.is_none()
        && policy.retry_budget.is_none();
    if empty {
        return findings.error(field, "the policy is empty; give at least one field or remove it");
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        return findings.error(field, "set only one of `tunnel` and `proxyProtocol`");
    }
    let outlier = policy.outlier_detection.as_ref();
    parts(
        policy.load_balancer.as_ref(),
        policy.connection_pool.as_ref(),
        outlier,
        policy.tls.as_ref(),
        namespace,
        field,
        findings,
    );
    for (at, port) in policy.port_level_settings.iter().enumerate() {
        let field = format!("{field}.portLevelSettings[{at}]");
        if port.port.is_none() {
            findings.error(format!("{field}.port"), "the port is missing");
        }
        let (balancer, pool) = (port.load_balancer.as_ref(), port.connection_pool.as_ref());
        let (outlier, tls) = (port.outlier_detection.as_ref(), port.tls.as_ref());
        if balancer.is_none() && pool.is_none() && outlier.is_none() && tls.is_none() {
            findings.error(&field, "the policy is empty; give at least one field or remove it");
        }
        parts(balancer, pool, outlier, tls, namespace, &field, findings);
    }
    if let Some(settings) = &policy.tunnel {
        tunnel(settings, &format!("{field}.tunnel"), findings);
    }
}

fn parts(
    balancer: Option<&LoadBalancerSettings>,
    pool: Option<&ConnectionPoolSettings>,
    outlier: Option<&OutlierDetection>,
    tls: Option<&ClientTlsSettings>,
    namespace: &str,
    field: &str,
    findings: &mut Findings,
) {
    if let Some(detection) = outlier {
        outlier_detection(detection, &format!("{field}.outlierDetection"), findings);
    }
    if let Some(settings) = pool {
        connection_pool(settings, &format!("{field}.connectionPool"), findings);
    }
    if let Some(settings) = balancer {
        load_balancer(settings, outlier.is_some(), &format!("{field}.loadBalancer"), findings);
    }
    if let Some(settings) = tls {
        client_tls(settings, namespace, &format!("{field}.tls"), findings);
    }
}

fn tunnel(tunnel: &TunnelSettings, field: &str, findings: &mut Findings) {
    if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
        findings.error(
            format!("{field}.protocol"),
            format!("`{}` is neither CONNECT nor POST", tunnel.protocol),
        );
    }
    if tunnel.target_host.parse::<std::net::IpAddr>().is_err() {
        findings.check(format!("{field}.targetHost"), text::fqdn(&tunnel.target_host));
    }
    findings.check(format!("{field}.targetPort"), text::port(tunnel.target_port.into()));
}

fn outlier_detection(outlier: &OutlierDetection, field: &str, findings: &mut Findings) {
    for (name, time) in [
        ("baseEjectionTime", outlier.base_ejection_time),
        ("interval", outlier.interval),
    ] {
        if let Some(time) = time {
            findings.check(format!("{field}.{name}"), text::duration(time));
        }
    }
    if outlier.consecutive_errors != 0 {
        let message = "no longer has an effect; use `consecutiveGatewayErrors` or `consecutive5xxErrors`";
        findings.warning(format!("{field}.consecutiveErrors"), message);
    }
    let local = outlier.consecutive_local_origin_failures.unwrap_or(0) > 0;
    if local && !outlier.split_external_local_origin_errors {
        findings.error(
            format!("{field}.consecutiveLocalOriginFailures"),
            "needs `splitExternalLocalOriginErrors: true`",
        );
    }
    findings.check(
        format!("{field}.maxEjectionPercent"),
        text::percent(outlier.max_ejection_percent),
    );
    findings.check(
        format!("{field}.minHealthPercent"),
        text::percent(outlier.min_health_percent),
    );
}

/// Limits of connections and requests.
pub(crate) fn connection_pool(pool: &ConnectionPoolSettings, field: &str, findings: &mut Findings) {
    if pool.http.is_none() && pool.tcp.is_none() {
        findings.error(field, "is empty; give `tcp` or `http`");
    }
    if let Some(settings) = &pool.http {
        http_pool(settings, &format!("{field}.http"), findings);
    }
    if let Some(settings) = &pool.tcp {
        tcp_pool(settings, &format!("{field}.tcp"), findings);
    }
}

fn http_pool(http: &HttpSettings, field: &str, findings: &mut Findings) {
    let limits = [
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ];
    for (name, _) in limits.iter().filter(|(_, limit)| *limit < 0) {
        findings.error(format!("{field}.{name}"), "cannot be negative");
    }
    if let Some(time) = http.idle_timeout {
        findings.check(format!("{field}.idleTimeout"), text::duration(time));
    }
    if http.h2_upgrade_policy == H2UpgradePolicy::Upgrade && http.use_client_protocol {
        findings.error(
            format!("{field}.useClientProtocol"),
            "cannot stand beside `h2UpgradePolicy: UPGRADE`",
        );
    }
    if let Some(keepalive) = &http.http2_keep_alive {
        for (name, time) in [("interval", keepalive.interval), ("timeout", keepalive.timeout)] {
            let field = format!("{field}.http2KeepAlive.{name}");
            match time {
                Some(time) => findings.check(field, text::duration(time)),
                None => findings.error(field, "is missing"),
            }
        }
    }
}

fn tcp_pool(tcp: &TcpSettings, field: &str, findings: &mut Findings) {
    if tcp.max_connections < 0 {
        findings.error(format!("{field}.maxConnections"), "cannot be negative");
    }
    // 0 turns the idle time-out off.
    let idle = tcp.idle_timeout.filter(|time| time.as_nanos() / 1_000_000 != 0);
    let keepalive = tcp.tcp_keepalive.as_ref();
    let times = [
        ("connectTimeout", tcp.connect_timeout),
        ("maxConnectionDuration", tcp.max_connection_duration),
        ("idleTimeout", idle),
        ("tcpKeepalive.time", keepalive.and_then(|keepalive| keepalive.time)),
        (
            "tcpKeepalive.interval",
            keepalive.and_then(|keepalive| keepalive.interval),
        ),
    ];
    for (name, time) in times {
        if let Some(time) = time {
            findings.check(format!("{field}.{name}"), text::duration(time));
        }
    }
}

fn load_balancer(balancer: &LoadBalancerSettings, outlier: bool, field: &str, findings: &mut Findings) {
    if let Some(hash) = &balancer.consistent_hash {
        consistent_hash(hash, &format!("{field}.consistentHash"), findings);
    }
    if balancer.locality_lb_setting.is_some() && balancer.zone_aware_lb_setting.is_some() {
        findings.error(field, "set only one of `localityLbSetting` and `zoneAwareLbSetting`");
    }
    if let Some(setting) = &balancer.locality_lb_setting {
        locality(setting, outlier, &format!("{field}.localityLbSetting"), findings);
    }
    if let Some(setting) = &balancer.zone_aware_lb_setting {
        let field = format!("{field}.zoneAwareLbSetting");
        if setting
            .failover_priority
            .iter()
            .any(|label| TOPOLOGY.contains(&label.as_str()))
        {
            findings.error(
                format!("{field}.failoverPriority"),
                "places are looked at anyway; leave their labels out",
            );
        }
        let regions = setting
            .failover
            .iter()
            .map(|rule| (rule.from.as_str(), rule.to.as_str()));
        failover(
            regions,
            !setting.failover_priority.is_empty(),
            outlier,
            &field,
            findings,
        );
    }
    if let Some(warmup) = &balancer.warmup {
        let field = format!("{field}.warmup");
        match warmup.duration {
            Some(time) => findings.check(format!("{field}.duration"), text::duration(time)),
            None => findings.error(format!("{field}.duration"), "is missing"),
        }
        if warmup.minimum_percent.is_some_and(|share| share > 100.0) {
            findings.error(format!("{field}.minimumPercent"), "the share must be 0 to 100");
        }
        if warmup.aggression.is_some_and(|aggression| aggression <= 0.0) {
            findings.error(format!("{field}.aggression"), "must be greater than 0");
        }
    }
}

fn consistent_hash(hash: &ConsistentHashLb, field: &str, findings: &mut Findings) {
    if let Some(cookie) = &hash.http_cookie {
        let field = format!("{field}.httpCookie");
        if cookie.name.is_empty() {
            findings.error(format!("{field}.name"), "the name of the cookie is missing");
        }
        let mut names = BTreeSet::new();
        for (at, attribute) in cookie.attributes.iter().enumerate() {
            let field = format!("{field}.attributes[{at}].name");
            if attribute.name.is_empty() {
                findings.error(field, "the name of the attribute is missing");
            } else if !names.insert(&attribute.name) {
                findings.error(field, format!("the attribute `{}` is there twice", attribute.name));
            }
        }
    }
    if hash.minimum_ring_size != 0 {
        findings.warning(
            format!("{field}.minimumRingSize"),
            "is deprecated; use `ringHash.minimumRingSize`",
        );
        if hash.hash_algorithm().is_some() {
            findings.error(
                format!("{field}.minimumRingSize"),
                "cannot stand beside `ringHash` or `maglev`",
            );
        }
    }
    if let Some(HashAlgorithm::Maglev(maglev)) = hash.hash_algorithm() {
        let field = format!("{field}.maglev.tableSize");
        if maglev.table_size >= 5_000_011 {
            findings.error(field, "must be less than 5000011");
        } else if !is_prime(maglev.table_size) {
            findings.error(
                field,
                format!("{} is not prime; Maglev's tables must be", maglev.table_size),
            );
        }
    }
}

fn is_prime(number: u64) -> bool {
    number > 1
        && (2..)
            .take_while(|factor| factor * factor <= number)
            .all(|factor| !number.is_multiple_of(factor))
}

fn locality(setting: &LocalityLoadBalancerSetting, outlier: bool, field: &str, findings: &mut Findings) {
    if !setting.distribute.is_empty() && !setting.failover.is_empty() {
        return findings.error(field, "set only one of `distribute` and `failover`");
    }
    if !setting.failover.is_empty()
        && setting
            .failover_priority
            .iter()
            .any(|label| TOPOLOGY.contains(&label.as_str()))
    {
        return findings.error(
            format!("{field}.failoverPriority"),
            "cannot name places beside `failover`",
        );
    }
    for (at, rule) in setting.distribute.iter().enumerate() {
        let field = format!("{field}.distribute[{at}]");
        if rule.to.values().any(|share| !(1..=100).contains(share)) {
            findings.error(format!("{field}.to"), "shares must be 1 to 100");
        } else if rule.to.values().map(|share| u64::from(*share)).sum::<u64>() != 100 {
            findings.error(format!("{field}.to"), "shares must add up to 100");
        }
        findings.check(format!("{field}.to"), places(rule.to.keys()));
    }
    findings.check(
        format!("{field}.distribute"),
        places(setting.distribute.iter().map(|rule| &rule.from)),
    );
    let regions = setting
        .failover
        .iter()
        .map(|rule| (rule.from.as_str(), rule.to.as_str()));
    failover(regions, !setting.failover_priority.is_empty(), outlier, field, findings);
}

fn failover<'a>(
    regions: impl Iterator<Item = (&'a str, &'a str)>,
    by_label: bool,
    outlier: bool,
    field: &str,
    findings: &mut Findings,
) {
    let mut any = by_label;
    for (at, (from, to)) in regions.enumerate() {
        any = true;
        let field = format!("{field}.failover[{at}]");
        if from == to {
            findings.error(&field, format!("`{from}` cannot take over from itself"));
        }
        if from.contains(['/', '*']) || to.contains(['/', '*']) {
            findings.error(field, "only regions can be named, without zone or wildcard");
        }
    }
    if any && !outlier {
        findings.warning(
            field,
            "without `outlierDetection` nobody notices that a place has failed",
        );
    }
}

/// Places must not overlap: neither be equal, nor one of them contain another.
fn places<'a>(places: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut seen: BTreeMap<Vec<&str>, &str> = BTreeMap::new();
    for place in places {
        if place.matches('*').count() > 1 || (place.contains('*') && !place.ends_with('*')) {
            return Err(format!("`{place}`: one wildcard may stand at the end"));
        }
        let parts: Vec<&str> = place.split('/').collect();
        if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) {
            return Err(format!("`{place}` must be region, region/zone or region/zone/subzone"));
        }
        let parts: Vec<&str> = parts.into_iter().take_while(|part| *part != "*").collect();
        if let Some((_, other)) = seen
            .iter()
            .find(|(known, _)| known.starts_with(&parts) || parts.starts_with(known))
        {
            return Err(format!("`{place}` overlaps with `{other}`"));
        }
        seen.insert(parts, place);
    }
    Ok(())
}

fn client_tls(tls: &ClientTlsSettings, namespace: &str, field: &str, findings: &mut Findings) {
    if let Some(reference) = tls.credential_name.strip_prefix("configmap://") {
        let own = reference.split_once('/').is_none_or(|(named, _)| named == namespace);
        if !own || namespace.is_empty() {
            findings.error(
                format!("{field}.credentialName"),
                format!("the ConfigMap must be in namespace {namespace}"),
            );
        }
    }
    let named = !tls.credential_name.is_empty();
    if tls.insecure_skip_verify == Some(true) {
        let checks = !tls.ca_certificates.is_empty() || !tls.subject_alt_names.is_empty();
        let simple = tls.mode == ClientTlsMode::Simple && (checks || named);
        if simple || (tls.mode == ClientTlsMode::Mutual && checks) {
            findings.error(
                format!("{field}.insecureSkipVerify"),
                "with it nothing is verified; leave caCertificates, credentialName and subjectAltNames out",
            );
        }
    }
    let with_files = [
        &tls.client_certificate,
        &tls.ca_certificates,
        &tls.private_key,
        &tls.ca_crl,
    ];
    if matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual) && named {
        if with_files.iter().any(|file| !file.is_empty()) {
            findings.error(
                format!("{field}.credentialName"),
                "cannot stand beside files of certificates",
            );
        }
        return;
    }
    if tls.mode == ClientTlsMode::Mutual {
        for (name, file) in [
            ("clientCertificate", &tls.client_certificate),
            ("privateKey", &tls.private_key),
        ] {
            if file.is_empty() {
                findings.error(format!("{field}.{name}"), "MUTUAL needs it, or `credentialName`");
            }
        }
    }
}
