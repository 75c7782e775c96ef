//! Policies, and annotations that have rules, too.

use lateen_validate::Level;
use serde_json::{Value, json};

use crate::{check, table};

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
