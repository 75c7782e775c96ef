//! Policies.

use std::collections::BTreeMap;
use std::time::Duration;

use lateen_model::Severity;
use lateen_model::patch::{PatchContext, PatchMatch, PatchOperation, PatchTarget};
use lateen_model::policy::*;

use crate::world::{findings, key, world};

#[test]
fn peer_authentication() {
    let snapshot = world(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: p, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  mtls: {mode: STRICT}
  portLevelMtls: {'8080': {mode: DISABLE}, '9090': {}}",
    );
    let made = snapshot.peer_authentications.get(&key("shop", "p")).unwrap();
    assert_eq!(made.mode, MtlsMode::Strict);
    assert_eq!(
        made.ports,
        BTreeMap::from([(8080, MtlsMode::Disable), (9090, MtlsMode::Unset)])
    );
    assert_eq!(made.scope.selector.labels.len(), 1);
}

#[test]
fn request_authentication() {
    let snapshot = world(
        "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: r, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}]
  jwtRules:
  - issuer: i
    audiences: [a]
    jwksUri: https://keys
    fromHeaders: [{name: h, prefix: 'p '}]
    fromParams: [q]
    fromCookies: [c]
    outputPayloadToHeader: o
    outputClaimToHeaders: [{header: x, claim: y}]
    forwardOriginalToken: true
    timeout: 3s
    presence: REQUIRED
  - issuer: j
    jwks: '{\"keys\":[]}'",
    );
    let made = snapshot.request_authentications.get(&key("shop", "r")).unwrap();
    assert_eq!(&*made.scope.targets[0].kind, "Gateway");
    let rule = &made.rules[0];
    assert_eq!(
        (&*rule.issuer, rule.jwks_uri.as_deref(), rule.forward),
        ("i", Some("https://keys"), true)
    );
    assert_eq!(
        rule.from_headers,
        [JwtHeader {
            name: "h".into(),
            prefix: "p ".into()
        }]
    );
    assert_eq!((rule.timeout, rule.required), (Some(Duration::from_secs(3)), true));
    assert_eq!(rule.output_claims, [("x".into(), "y".into())]);
    assert!(!made.rules[1].required);
}

#[test]
fn authorization_policy() {
    let snapshot = world(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: shop, annotations: {istio.io/dry-run: 'true'}}
spec:
  action: DENY
  rules:
  - from: [{source: {principals: ['*/sa/x'], notNamespaces: [n]}}]
    to: [{operation: {paths: [/admin*], ports: ['80']}}]
    when: [{key: 'request.headers[x]', values: [v], notValues: [w]}]
  - {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: c, namespace: shop}
spec: {action: CUSTOM, provider: {name: ext}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: none, namespace: shop}
spec: {}",
    );
    let made = snapshot.authorization_policies.get(&key("shop", "a")).unwrap();
    assert_eq!((&made.action, made.dry_run), (&AuthzAction::Deny, true));
    let rule = &made.rules[0];
    assert_eq!(rule.from[0].principals.any, ["*/sa/x".into()]);
    assert_eq!(rule.from[0].namespaces.none, ["n".into()]);
    assert_eq!(rule.to[0].paths.any, ["/admin*".into()]);
    assert_eq!(&*rule.when[0].key, "request.headers[x]");
    assert_eq!(made.rules[1], AuthzRule::default(), "the empty rule matches everything");
    let custom = snapshot.authorization_policies.get(&key("shop", "c")).unwrap();
    assert_eq!(custom.action, AuthzAction::Custom("ext".into()));
    let none = snapshot.authorization_policies.get(&key("shop", "none")).unwrap();
    assert_eq!(
        (&none.action, none.rules.len()),
        (&AuthzAction::Allow, 0),
        "lets nothing pass"
    );
}

#[test]
fn telemetry() {
    let snapshot = world(
        "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: t, namespace: istio-system}
spec:
  tracing:
  - match: {mode: CLIENT}
    providers: [{name: zipkin}]
    randomSamplingPercentage: 12.5
    customTags: {a: {literal: {value: x}}, b: {header: {name: h, defaultValue: d}}, c: {environment: {name: E}}}
    disableSpanReporting: false
  accessLogging:
  - providers: [{name: envoy}]
    disabled: true
    filter: {expression: response.code >= 400}
  metrics:
  - overrides:
    - match: {metric: REQUEST_COUNT, mode: SERVER}
      tagOverrides: {gone: {operation: REMOVE}, kept: {value: request.host}}
    - disabled: true
    reportingInterval: 5s",
    );
    let made = snapshot.telemetries.get(&key("istio-system", "t")).unwrap();
    let tracing = &made.tracing[0];
    assert_eq!(
        (tracing.mode, tracing.sampling, tracing.disabled),
        (TelemetryMode::Client, Some(125_000), Some(false))
    );
    assert_eq!(tracing.tags.get("b"), Some(&TagSource::Header("h".into(), "d".into())));
    assert_eq!(made.logging[0].filter.as_deref(), Some("response.code >= 400"));
    let overrides = &made.metrics[0].overrides;
    assert_eq!(
        (&*overrides[0].metric, overrides[0].mode),
        ("REQUEST_COUNT", TelemetryMode::Server)
    );
    assert_eq!(overrides[0].tags.get("gone"), Some(&None));
    assert_eq!(overrides[0].tags.get("kept"), Some(&Some("request.host".into())));
    assert_eq!(
        (&*overrides[1].metric, overrides[1].disabled),
        ("ALL_METRICS", Some(true))
    );
    assert_eq!(made.metrics[0].reporting_interval, Some(Duration::from_secs(5)));
}

#[test]
fn patches_are_canonical() {
    let patch = |order: &str| {
        let text = format!(
            "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: e, namespace: shop}}
spec:
  priority: -5
  workloadSelector: {{labels: {{app: web}}}}
  configPatches:
  - applyTo: CLUSTER
    match: {{context: SIDECAR_OUTBOUND, cluster: {{service: a}}}}
    patch: {{operation: MERGE, value: {order}}}"
        );
        let snapshot = world(&text);
        let made = snapshot.envoy_filters.get(&key("shop", "e")).unwrap();
        assert_eq!((made.priority, made.scope.selector.labels.len()), (-5, 1));
        assert!(
            findings(&snapshot, "e")
                .iter()
                .all(|(_, severity, _)| *severity == Severity::Warning)
        );
        made.patches[0].clone()
    };
    let one = patch("{connect_timeout: 1s, metadata: {filter_metadata: {x: {a: 1, b: 2}}}}");
    let other = patch("{metadata: {filter_metadata: {x: {b: 2, a: 1}}}, connectTimeout: 1s}");
    assert_eq!(one, other);
    assert_eq!(
        (one.target, one.context, one.operation),
        (
            PatchTarget::Cluster,
            PatchContext::SidecarOutbound,
            PatchOperation::Merge
        )
    );
    let PatchMatch::Cluster(matched) = &one.matched else {
        panic!("{one:?}")
    };
    assert_eq!(&*matched.service, "a");
}

/// Rules that name where keys are, and rules that do not.
const TOKENS: &str = "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec:
  jwtRules:
    - {issuer: a, jwksUri: https://keys.example/jwks}
    - {issuer: https://issuer.example}
    - {issuer: c, jwks: '{\"keys\":[]}', jwksUri: https://keys.example/jwks}
    - {issuer: nobody}
";

#[test]
fn fetched_keys_are_inlined_whatever_comes_first() {
    use lateen_lower::{Change, Event, FetchedKeys, Index, KeySource, KeysEvent, Settings};
    use std::sync::Arc;

    let objects = || -> Vec<Event> {
        crate::world::objects(TOKENS)
            .into_iter()
            .map(|object| Event {
                cluster: lateen_names::ClusterId::new("Kubernetes").unwrap(),
                change: Change::Apply(Arc::new(object)),
            })
            .collect()
    };
    let told = |source: KeySource, keys: Option<&str>, problem: Option<&str>| KeysEvent {
        source,
        fetched: Some(FetchedKeys {
            keys: keys.map(Arc::from),
            problem: problem.map(Arc::from),
        }),
    };
    let uri = || KeySource::Uri("https://keys.example/jwks".into());
    let issuer = || KeySource::Issuer("https://issuer.example".into());
    let last = || vec![told(uri(), Some("keys"), None), told(issuer(), None, Some("gone"))];
    let index = || Index::new(Settings::new("").unwrap());

    let mut after = index();
    after.apply(objects());
    let before_any = after.publish();
    assert!(!after.knows_keys(&uri()));
    after.apply_keys(vec![
        told(uri(), Some("older"), None),
        told(issuer(), Some("old"), None),
    ]);
    after.publish();
    after.apply_keys(last());
    let after = after.publish();
    let mut first = index();
    first.apply_keys(last());
    first.apply(objects());
    let first = first.publish();
    assert!(after.request_authentications == first.request_authentications);
    assert_eq!(after.diagnostics, first.diagnostics);

    let (_, policy) = first.request_authentications.iter().next().unwrap();
    let fetched: Vec<Option<&str>> = policy.rules.iter().map(|rule| rule.fetched.as_deref()).collect();
    assert_eq!(fetched, [Some("keys"), None, None, None]);
    let findings = |snapshot: &lateen_model::Snapshot| -> Vec<String> {
        let all = snapshot.diagnostics.iter().filter(|finding| finding.code == "LTN0103");
        all.map(|finding| finding.field.to_string()).collect()
    };
    assert_eq!(findings(&first), ["spec.jwtRules[1].issuer", "spec.jwtRules[3].issuer"]);
    // Before anything was tried, nothing has failed.
    assert_eq!(findings(&before_any), ["spec.jwtRules[3].issuer"]);

    // Nobody asks for them any more.
    let mut forgotten = index();
    forgotten.apply(objects());
    forgotten.apply_keys(last());
    let gone = |source| KeysEvent { source, fetched: None };
    forgotten.apply_keys(vec![gone(uri()), gone(issuer())]);
    let forgotten = forgotten.publish();
    assert!(forgotten.request_authentications == before_any.request_authentications);
}
