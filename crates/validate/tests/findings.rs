//! What is found in objects that are wrong in one way each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test is meant to say so"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lateen_api::networking::{DestinationRule, EnvoyFilter, Gateway, Sidecar, VirtualService};
use lateen_api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use lateen_api::telemetry::Telemetry;
use lateen_validate::{Finding, Level, Subject};
use serde_json::{Value, json};

/// Findings of an object of that kind with that spec.
fn check(kind: &str, spec: &str, annotations: Value) -> Vec<Finding> {
    let spec: Value = serde_yaml::from_str(spec).unwrap();
    let group = match kind {
        "PeerAuthentication" | "RequestAuthentication" | "AuthorizationPolicy" => "security.istio.io/v1",
        "Telemetry" => "telemetry.istio.io/v1",
        "EnvoyFilter" => "networking.istio.io/v1alpha3",
        _ => "networking.istio.io/v1",
    };
    let metadata = json!({"name": "x", "namespace": "shop", "annotations": annotations});
    let object = json!({"apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec});
    let meta: ObjectMeta = serde_json::from_value(object["metadata"].clone()).unwrap();
    let subject = Subject::new(&meta);
    macro_rules! of {
        ($type:ty, $module:ident) => {{
            let decoded = lateen_api::decode_object::<$type>(&object).unwrap();
            assert!(decoded.unknown.is_empty(), "{:?}", decoded.unknown);
            lateen_validate::$module::check(&decoded.value.spec, &subject)
        }};
    }
    match kind {
        "VirtualService" => of!(VirtualService, virtual_service),
        "DestinationRule" => of!(DestinationRule, destination_rule),
        "Gateway" => of!(Gateway, gateway),
        "Sidecar" => of!(Sidecar, sidecar),
        "EnvoyFilter" => of!(EnvoyFilter, envoy_filter),
        "PeerAuthentication" => of!(PeerAuthentication, peer_authentication),
        "RequestAuthentication" => of!(RequestAuthentication, request_authentication),
        "AuthorizationPolicy" => of!(AuthorizationPolicy, authorization_policy),
        "Telemetry" => of!(Telemetry, telemetry),
        other => panic!("{other}"),
    }
}

/// Each line: the part of the spec, then the field that an error must name; `ok` where there must be none.
fn table(kind: &str, frame: &str, lines: &[(&str, &str)]) {
    for (part, expected) in lines {
        let spec = frame.replace("PART", part);
        let errors: Vec<Finding> = check(kind, &spec, json!({}))
            .into_iter()
            .filter(|finding| finding.level == Level::Error)
            .collect();
        let fields: Vec<&str> = errors.iter().map(|finding| finding.field.as_str()).collect();
        if *expected == "ok" {
            assert!(fields.is_empty(), "{part}: {errors:?}");
        } else {
            assert!(fields.contains(expected), "{part}: {expected} is not among {fields:?}");
        }
    }
}

/// Each line: the part of the spec, and the code and field of the warning.
fn warnings(kind: &str, frame: &str, lines: &[(&str, &str, &str)]) {
    for (part, code, field) in lines {
        let findings = check(kind, &frame.replace("PART", part), json!({}));
        let found = findings
            .iter()
            .any(|finding| finding.level == Level::Warning && finding.code == *code && finding.field == *field);
        assert!(found, "{part}: {findings:?}");
    }
}

#[test]
fn virtual_services() {
    table(
        "VirtualService",
        "PART",
        &[
            ("{hosts: [a], http: [{route: [{destination: {host: a}}]}]}", "ok"),
            ("{hosts: [a]}", "spec"),
            ("{http: [{route: [{destination: {host: a}}]}]}", "ok"),
            (
                "{gateways: [g], http: [{route: [{destination: {host: a}}]}]}",
                "spec.gateways",
            ),
            (
                "{hosts: ['*'], http: [{route: [{destination: {host: a}}]}]}",
                "spec.hosts[0]",
            ),
            (
                "{hosts: ['*'], gateways: [g], http: [{route: [{destination: {host: a}}]}]}",
                "ok",
            ),
            (
                "{hosts: ['*.a.com', b.a.com], http: [{route: [{destination: {host: a}}]}]}",
                "spec.hosts[0]",
            ),
            (
                "{hosts: [a], gateways: [a/b/c], http: [{route: [{destination: {host: a}}]}]}",
                "spec.gateways[0]",
            ),
            (
                "{hosts: [a], exportTo: ['*', x], http: [{route: [{destination: {host: a}}]}]}",
                "spec.exportTo",
            ),
            (
                "{hosts: [a], exportTo: [., shop], http: [{route: [{destination: {host: a}}]}]}",
                "spec.exportTo[1]",
            ),
            (
                "{hosts: [a.com], tls: [{match: [{sniHosts: [b.com]}], route: [{destination: {host: a}}]}]}",
                "spec.tls[0].match[0].sniHosts[0]",
            ),
            (
                "{hosts: [a.com], tls: [{match: [{sniHosts: [a.com]}], route: [{destination: {host: a}}]}]}",
                "ok",
            ),
            (
                "{hosts: [a.com], tls: [{route: [{destination: {host: a}}]}]}",
                "spec.tls[0].match",
            ),
            (
                "{hosts: [a.com], tcp: [{match: [{destinationSubnets: [x]}], route: [{destination: {host: a}}]}]}",
                "spec.tcp[0].match[0].destinationSubnets[0]",
            ),
            ("{hosts: [a.com], tcp: [{}]}", "spec.tcp[0].route"),
        ],
    );
}

#[test]
fn http_routes() {
    table(
        "VirtualService",
        "{hosts: [a], http: [{PART}]}",
        &[
            ("", "spec.http[0]"),
            (
                "redirect: {uri: /a}, route: [{destination: {host: a}}]",
                "spec.http[0].route",
            ),
            (
                "redirect: {uri: /a}, directResponse: {status: 200}",
                "spec.http[0].directResponse",
            ),
            (
                "redirect: {uri: /a}, fault: {abort: {httpStatus: 500}}",
                "spec.http[0].fault",
            ),
            ("redirect: {}", "spec.http[0].redirect"),
            (
                "redirect: {uri: /a, redirectCode: 200}",
                "spec.http[0].redirect.redirectCode",
            ),
            (
                "match: [{uri: {exact: /x}}], redirect: {prefixRewrite: /a}",
                "spec.http[0].redirect.prefixRewrite",
            ),
            ("directResponse: {status: 199}", "spec.http[0].directResponse.status"),
            (
                "delegate: {name: x}, route: [{destination: {host: a}}]",
                "spec.http[0].route",
            ),
            (
                "route: [{destination: {host: a}}, {destination: {host: b}}]",
                "spec.http[0].route",
            ),
            (
                "route: [{destination: {host: a}, weight: -1}]",
                "spec.http[0].route[0].weight",
            ),
            ("route: [{}]", "spec.http[0].route[0].destination"),
            (
                "route: [{destination: {host: '*'}}]",
                "spec.http[0].route[0].destination.host",
            ),
            (
                "route: [{destination: {host: a, port: {number: 0}}}]",
                "spec.http[0].route[0].destination.port.number",
            ),
            (
                "route: [{destination: {host: a, subset: 'A b'}}]",
                "spec.http[0].route[0].destination.subset",
            ),
        ],
    );
    table(
        "VirtualService",
        "{hosts: [a], http: [{route: [{destination: {host: a}}], PART}]}",
        &[
            ("match: [{uri: {regex: '/a('}}]", "spec.http[0].match[0].uri.regex"),
            ("match: [{uri: {prefix: ''}}]", "ok"),
            (
                "match: [{headers: {x: {prefix: ''}}}]",
                "spec.http[0].match[0].headers[x].prefix",
            ),
            ("match: [{withoutHeaders: {x: {regex: '*'}}}]", "ok"),
            (
                "match: [{headers: {'@request.auth.claims.a': {exact: b}}}]",
                "spec.http[0]",
            ),
            (
                "match: [{sourceNamespace: 'A B'}]",
                "spec.http[0].match[0].sourceNamespace",
            ),
            ("match: [{port: 70000}]", "spec.http[0].match[0].port"),
            ("timeout: 0.5ms", "spec.http[0].timeout"),
            ("retries: {attempts: 0, retryOn: 5xx}", "spec.http[0].retries.attempts"),
            (
                "retries: {attempts: 1, retryOn: '5xx,nonsense'}",
                "spec.http[0].retries.retryOn",
            ),
            ("retries: {attempts: 1, retryOn: '5xx,503'}", "ok"),
            ("fault: {}", "spec.http[0].fault"),
            (
                "fault: {abort: {grpcStatus: NONSENSE}}",
                "spec.http[0].fault.abort.grpcStatus",
            ),
            (
                "fault: {delay: {exponentialDelay: 1s}}",
                "spec.http[0].fault.delay.exponentialDelay",
            ),
            (
                "fault: {delay: {fixedDelay: 1s, percentage: {value: 101}}}",
                "spec.http[0].fault.delay.percentage.value",
            ),
            (
                "mirror: {host: a}, mirrors: [{destination: {host: b}}]",
                "spec.http[0].mirror",
            ),
            ("mirrorPercentage: {value: 101}", "spec.http[0].mirrorPercentage.value"),
            ("rewrite: {}", "spec.http[0].rewrite"),
            (
                "rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}",
                "spec.http[0].rewrite",
            ),
            (
                "rewrite: {authority: a}, headers: {request: {set: {host: b}}}",
                "spec.http[0]",
            ),
            (
                "headers: {request: {set: {':path': b}}}",
                "spec.http[0].headers.request.set[:path]",
            ),
            (
                "headers: {response: {remove: [host]}}",
                "spec.http[0].headers.response.remove[0]",
            ),
            (
                "headers: {request: {add: {x: '%'}}}",
                "spec.http[0].headers.request.add[x]",
            ),
            (
                "corsPolicy: {allowOrigins: [{exact: ''}]}",
                "spec.http[0].corsPolicy.allowOrigins[0]",
            ),
            (
                "corsPolicy: {allowMethods: [FOO]}",
                "spec.http[0].corsPolicy.allowMethods[0]",
            ),
            ("corsPolicy: {maxAge: 1.5s}", "spec.http[0].corsPolicy.maxAge"),
        ],
    );
}

#[test]
fn routes_that_are_never_used() {
    let route = "route: [{destination: {host: a}}]";
    warnings(
        "VirtualService",
        &format!("{{hosts: [a], http: [PART, {{{route}}}]}}"),
        &[
            (&format!("{{{route}}}"), "IST0130", "spec.http[1]"),
            (
                &format!(
                    "{{match: [{{uri: {{prefix: /a}}}}], {route}}}, {{match: [{{uri: {{prefix: /a}}}}], {route}}}"
                ),
                "IST0131",
                "spec.http[1].match[0]",
            ),
            (
                &format!(
                    "{{match: [{{uri: {{prefix: /a}}}}], {route}}}, {{match: [{{uri: {{prefix: /a}}}}], {route}}}"
                ),
                "IST0130",
                "spec.http[1]",
            ),
            (
                &format!(
                    "{{match: [{{uri: {{prefix: /a}}}}], {route}}}, {{match: [{{uri: {{prefix: /ab}}}}], {route}}}"
                ),
                "IST0131",
                "spec.http[1].match[0]",
            ),
        ],
    );
    warnings(
        "VirtualService",
        "{hosts: [a], gateways: [PART], http: [{route: [{destination: {host: a}}]}]}",
        &[("old.ns.svc", "IST0133", "spec.gateways[0]")],
    );
}

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

#[test]
fn gateways_and_sidecars() {
    table(
        "Gateway",
        "{servers: [{port: {number: 443, name: p, protocol: HTTPS}, hosts: [a.com], tls: {PART}}]}",
        &[
            ("mode: SIMPLE, credentialName: c", "ok"),
            ("mode: SIMPLE", "spec.servers[0].tls.serverCertificate"),
            (
                "mode: MUTUAL, serverCertificate: c, privateKey: k",
                "spec.servers[0].tls.caCertificates",
            ),
            (
                "mode: ISTIO_MUTUAL, credentialName: c",
                "spec.servers[0].tls.credentialName",
            ),
            (
                "mode: SIMPLE, credentialName: c, serverCertificate: c, privateKey: k",
                "spec.servers[0].tls",
            ),
            (
                "mode: SIMPLE, serverCertificate: c, privateKey: k, caCrl: x",
                "spec.servers[0].tls.caCrl",
            ),
        ],
    );
    table(
        "Gateway",
        "{servers: [{PART}]}",
        &[
            ("hosts: [a]", "spec.servers[0].port"),
            ("port: {number: 80, name: p, protocol: HTTP}", "spec.servers[0].hosts"),
            (
                "port: {number: 80, name: p, protocol: HTTP}, hosts: ['a b']",
                "spec.servers[0].hosts[0]",
            ),
            (
                "port: {number: 80, name: p, protocol: HTTPS}, hosts: [a]",
                "spec.servers[0].tls",
            ),
            (
                "port: {number: 80, name: p, protocol: HTTP}, hosts: [a], tls: {mode: SIMPLE, credentialName: c}",
                "spec.servers[0].tls",
            ),
            (
                "port: {number: 80, name: p, protocol: HTTP}, hosts: [a], tls: {httpsRedirect: true}",
                "ok",
            ),
            (
                "port: {number: 0, name: p, protocol: HTTP}, hosts: [a]",
                "spec.servers[0].port.number",
            ),
            (
                "port: {number: 80, protocol: HTTP}, hosts: [a]",
                "spec.servers[0].port.name",
            ),
            (
                "port: {number: 80, name: p, protocol: X}, hosts: [a]",
                "spec.servers[0].port.protocol",
            ),
            (
                "port: {number: 80, name: p, protocol: HTTP}, hosts: [a], bind: x",
                "spec.servers[0].bind",
            ),
        ],
    );
    table(
        "Gateway",
        "{PART}",
        &[
            ("", "spec.servers"),
            (
                "servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: [a]}, {port: {number: 81, name: p, protocol: HTTP}, hosts: [a]}]",
                "spec.servers[1].port.name",
            ),
        ],
    );
    table(
        "Sidecar",
        "{PART}",
        &[
            ("", "spec"),
            ("egress: [{hosts: []}]", "spec.egress[0].hosts"),
            ("egress: [{hosts: [x]}]", "spec.egress[0].hosts[0]"),
            ("egress: [{hosts: ['*/*']}, {hosts: ['*/*']}]", "spec.egress[0].port"),
            (
                "egress: [{port: {number: 80, protocol: TCP}, hosts: [./*]}, {port: {number: 80, protocol: TCP}, hosts: [./*]}]",
                "spec.egress[1].port",
            ),
            ("egress: [{port: {protocol: TCP}, hosts: [./*]}]", "spec.egress[0].bind"),
            ("ingress: [{}]", "spec.ingress[0].port"),
            (
                "ingress: [{port: {number: 80, protocol: HTTP}, defaultEndpoint: '1.2.3.4:80'}]",
                "spec.ingress[0].defaultEndpoint",
            ),
            (
                "ingress: [{port: {number: 80, protocol: HTTP}, defaultEndpoint: ':80'}]",
                "ok",
            ),
            (
                "ingress: [{port: {number: 80, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: c}}]",
                "spec.ingress[0].tls.credentialName",
            ),
            (
                "outboundTrafficPolicy: {mode: REGISTRY_ONLY, egressProxy: {host: a, port: {number: 1}}}",
                "spec.outboundTrafficPolicy.egressProxy",
            ),
        ],
    );
}

#[test]
fn policies() {
    table(
        "AuthorizationPolicy",
        "{PART}",
        &[
            ("", "ok"),
            ("action: DENY", "spec.rules"),
            ("action: CUSTOM, rules: [{}]", "spec.provider.name"),
            (
                "action: CUSTOM, provider: {name: p}, rules: [{from: [{source: {namespaces: [a]}}]}]",
                "spec.rules[0].from[0].source.namespaces",
            ),
            ("provider: {name: p}", "spec.provider"),
            ("rules: [{from: [{source: {}}]}]", "spec.rules[0].from[0].source"),
            ("rules: [{to: [{}]}]", "spec.rules[0].to[0].operation"),
            (
                "rules: [{from: [{source: {ipBlocks: [x]}}]}]",
                "spec.rules[0].from[0].source.ipBlocks[0]",
            ),
            (
                "rules: [{from: [{source: {serviceAccounts: [a/b/c]}}]}]",
                "spec.rules[0].from[0].source.serviceAccounts[0]",
            ),
            (
                "rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]",
                "spec.rules[0].from[0].source",
            ),
            (
                "rules: [{to: [{operation: {ports: [x]}}]}]",
                "spec.rules[0].to[0].operation.ports[0]",
            ),
            (
                "rules: [{to: [{operation: {paths: ['/{**}/{*}']}}]}]",
                "spec.rules[0].to[0].operation.paths[0]",
            ),
            ("rules: [{to: [{operation: {paths: ['/a/{*}/b/{**}']}}]}]", "ok"),
            (
                "rules: [{when: [{key: nonsense, values: [a]}]}]",
                "spec.rules[0].when[0].key",
            ),
            ("rules: [{when: [{key: 'request.headers[x]', values: [a]}]}]", "ok"),
            ("rules: [{when: [{key: source.ip}]}]", "spec.rules[0].when[0]"),
            ("selector: {matchLabels: {a: 'b*'}}", "spec.selector.matchLabels"),
            (
                "selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: x}]",
                "spec",
            ),
            ("targetRefs: [{kind: Pod, name: x}]", "spec.targetRefs[0]"),
        ],
    );
    table(
        "PeerAuthentication",
        "{PART}",
        &[
            ("mtls: {mode: STRICT}", "ok"),
            ("portLevelMtls: {'80': {}}", "spec.portLevelMtls"),
            (
                "selector: {matchLabels: {a: b}}, portLevelMtls: {'0': {}}",
                "spec.portLevelMtls[0]",
            ),
        ],
    );
    table(
        "RequestAuthentication",
        "{jwtRules: [{PART}]}",
        &[
            ("issuer: i", "ok"),
            ("audiences: [a]", "spec.jwtRules[0].issuer"),
            ("issuer: i, jwksUri: ftp://x", "spec.jwtRules[0].jwksUri"),
            ("issuer: i, jwks: nonsense", "spec.jwtRules[0].jwks"),
            (
                "issuer: i, jwks: '{\"keys\":[{\"kty\":\"RSA\",\"n\":\"a\",\"e\":\"b\"}]}'",
                "ok",
            ),
            ("issuer: i, fromHeaders: [{}]", "spec.jwtRules[0].fromHeaders[0].name"),
            (
                "issuer: i, outputClaimToHeaders: [{header: 'a b', claim: c}]",
                "spec.jwtRules[0].outputClaimToHeaders[0].header",
            ),
            ("issuer: i, timeout: 0s", "spec.jwtRules[0].timeout"),
        ],
    );
    table(
        "Telemetry",
        "{PART}",
        &[
            (
                "tracing: [{randomSamplingPercentage: 101}]",
                "spec.tracing[0].randomSamplingPercentage",
            ),
            (
                "tracing: [{providers: [{name: ''}]}]",
                "spec.tracing[0].providers[0].name",
            ),
            (
                "tracing: [{customTags: {a: {literal: {value: ''}}}}]",
                "spec.tracing[0].customTags[a].literal.value",
            ),
            (
                "metrics: [{overrides: [{tagOverrides: {a: {operation: REMOVE, value: b}}}]}]",
                "spec.metrics[0].overrides[0].tagOverrides[a].value",
            ),
            (
                "metrics: [{overrides: [{tagOverrides: {a: {}}}]}]",
                "spec.metrics[0].overrides[0].tagOverrides[a].value",
            ),
            (
                "accessLogging: [{filter: {expression: 'response.code >= (400'}}]",
                "spec.accessLogging[0].filter.expression",
            ),
        ],
    );
    table(
        "EnvoyFilter",
        "{configPatches: [{PART}]}",
        &[
            ("", "spec.configPatches[0].applyTo"),
            ("applyTo: CLUSTER", "spec.configPatches[0].patch"),
            (
                "applyTo: CLUSTER, patch: {operation: MERGE}",
                "spec.configPatches[0].patch.value",
            ),
            (
                "applyTo: CLUSTER, match: {listener: {}}, patch: {operation: REMOVE}",
                "spec.configPatches[0].match",
            ),
            (
                "applyTo: CLUSTER, match: {proxy: {proxyVersion: '('}}, patch: {operation: REMOVE}",
                "spec.configPatches[0].match.proxy.proxyVersion",
            ),
            ("applyTo: CLUSTER, patch: {operation: MERGE, value: {}}", "ok"),
        ],
    );
}

#[test]
fn annotations_have_rules_too() {
    let errors = |kind: &str, spec: &str, annotations: Value| {
        check(kind, spec, annotations)
            .into_iter()
            .filter(|finding| finding.level == Level::Error)
            .count()
    };
    assert_eq!(
        errors("AuthorizationPolicy", "{}", json!({"istio.io/dry-run": "true"})),
        0
    );
    assert_eq!(
        errors("AuthorizationPolicy", "{}", json!({"istio.io/dry-run": "maybe"})),
        1
    );
    assert_eq!(
        errors(
            "AuthorizationPolicy",
            "{action: AUDIT}",
            json!({"istio.io/dry-run": "true"})
        ),
        1
    );
    assert_eq!(
        errors("PeerAuthentication", "{}", json!({"istio.io/dry-run": "true"})),
        1
    );
    assert_eq!(
        errors("PeerAuthentication", "{}", json!({"internal.istio.io/parents": "x"})),
        1
    );
}
