//! DestinationRules.

use crate::{table, warnings};

#[test]
fn destination_rules() {
    table(
        "DestinationRule",
        "{host: a, trafficPolicy: {PART}}",
        &[
            ("", "spec.trafficPolicy"),
            (
                "tunnel: {targetHost: a.com, targetPort: 80}, proxyProtocol: {}",
                "spec.trafficPolicy",
            ),
            (
                "tunnel: {targetHost: a.com, targetPort: 0}",
                "spec.trafficPolicy.tunnel.targetPort",
            ),
            (
                "outlierDetection: {maxEjectionPercent: 101}",
                "spec.trafficPolicy.outlierDetection.maxEjectionPercent",
            ),
            (
                "outlierDetection: {consecutiveLocalOriginFailures: 1}",
                "spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures",
            ),
            ("connectionPool: {}", "spec.trafficPolicy.connectionPool"),
            (
                "connectionPool: {http: {http2MaxRequests: -1}}",
                "spec.trafficPolicy.connectionPool.http.http2MaxRequests",
            ),
            (
                "connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}",
                "spec.trafficPolicy.connectionPool.http.useClientProtocol",
            ),
            ("connectionPool: {tcp: {idleTimeout: 0s}}", "ok"),
            (
                "connectionPool: {tcp: {connectTimeout: 0s}}",
                "spec.trafficPolicy.connectionPool.tcp.connectTimeout",
            ),
            (
                "loadBalancer: {consistentHash: {httpCookie: {ttl: 1s}}}",
                "spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.name",
            ),
            (
                "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 4}}}",
                "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
            ),
            (
                "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 65537}}}",
                "ok",
            ),
            (
                "loadBalancer: {warmup: {}}",
                "spec.trafficPolicy.loadBalancer.warmup.duration",
            ),
            (
                "loadBalancer: {localityLbSetting: {distribute: [{from: a/*, to: {b: 50}}]}}",
                "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to",
            ),
            (
                "loadBalancer: {localityLbSetting: {distribute: [{from: a/*, to: {a: 100}}, {from: a/b, to: {a: 100}}]}}",
                "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute",
            ),
            (
                "loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}",
                "spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0]",
            ),
            ("tls: {mode: MUTUAL}", "spec.trafficPolicy.tls.clientCertificate"),
            (
                "tls: {mode: SIMPLE, credentialName: c, caCertificates: f}",
                "spec.trafficPolicy.tls.credentialName",
            ),
            (
                "tls: {mode: SIMPLE, insecureSkipVerify: true, caCertificates: f}",
                "spec.trafficPolicy.tls.insecureSkipVerify",
            ),
            (
                "tls: {mode: SIMPLE, credentialName: 'configmap://other/x'}",
                "spec.trafficPolicy.tls.credentialName",
            ),
            (
                "portLevelSettings: [{port: {number: 80}}]",
                "spec.trafficPolicy.portLevelSettings[0]",
            ),
        ],
    );
    table(
        "DestinationRule",
        "{PART}",
        &[
            ("host: 'a b'", "spec.host"),
            ("host: a, subsets: [{name: v}, {name: v}]", "spec.subsets[1].name"),
            (
                "host: a, subsets: [{name: v, labels: {'-': x}}]",
                "spec.subsets[0].labels[-]",
            ),
            (
                "host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: ['*']",
                "spec.exportTo",
            ),
            ("host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: [.]", "ok"),
        ],
    );
    warnings(
        "DestinationRule",
        "{host: a, trafficPolicy: {PART}}",
        &[
            (
                "outlierDetection: {consecutiveErrors: 1}",
                "IST0133",
                "spec.trafficPolicy.outlierDetection.consecutiveErrors",
            ),
            (
                "loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}",
                "IST0133",
                "spec.trafficPolicy.loadBalancer.localityLbSetting",
            ),
        ],
    );
}
