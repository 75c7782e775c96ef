//! Filters of requests.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::testing::{answered, ask, end, forwarded, get, http_filter, router};
use crate::{Http, Kind, Proxy, Trace, Verdict};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.http";

fn with(filters: Vec<Value>, per_route: Value, more: Value) -> Proxy {
    let mut route = json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}, "typedPerFilterConfig": per_route});
    route
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().cloned().unwrap());
    let table = json!({"virtualHosts": [{"name": "v", "domains": ["*"], "routes": [route]}]});
    router(table, filters, json!({}))
}

fn shares(trace: &Trace) -> Vec<(String, f64)> {
    let end = |verdict: &Verdict| match verdict {
        Verdict::Answered(answer) => answer.status.to_string(),
        Verdict::Forwarded(forward) => forward.cluster.clone(),
        Verdict::Refused { reason } => reason.clone(),
    };
    trace
        .outcomes
        .iter()
        .map(|one| (end(&one.verdict), one.share))
        .collect()
}

fn fault(config: Value) -> Proxy {
    let mut config = config;
    config["@type"] = format!("{FILTERS}.fault.v3.HTTPFault").into();
    let filter = http_filter("fault", "fault.v3.HTTPFault", json!({}));
    with(
        vec![filter],
        json!({"fault": config}),
        json!({"responseHeadersToAdd": [{"header": {"key": "x", "value": "1"}}]}),
    )
}

#[test]
fn faults_take_their_share() {
    let proxy = fault(json!({"abort": {"httpStatus": 503, "percentage": {"numerator": 20}}}));
    let trace = ask(&proxy, get("/", &[]));
    assert_eq!(shares(&trace), [("503".to_owned(), 0.2), ("a".to_owned(), 0.8)]);
    let Verdict::Answered(answer) = &trace.outcomes[0].verdict else {
        panic!("not answered")
    };
    assert_eq!(answer.headers, [("x".to_owned(), "1".to_owned())]);
    let proxy = fault(json!({"abort": {"httpStatus": 503, "percentage": {"numerator": 100}}}));
    assert_eq!(shares(&ask(&proxy, get("/", &[]))), [("503".to_owned(), 1.0)]);
    let proxy =
        fault(json!({"delay": {"fixedDelay": "1.5s", "percentage": {"numerator": 500_000, "denominator": "MILLION"}}}));
    let trace = ask(&proxy, get("/", &[]));
    let delay = forwarded(&trace).delay.clone().unwrap();
    assert_eq!((delay.milliseconds, delay.share), (1500, 0.5));
}

#[test]
fn faults_may_be_for_some_headers_and_speak_grpc() {
    let proxy = fault(json!({
        "abort": {"grpcStatus": 14, "percentage": {"numerator": 100}},
        "headers": [{"name": "test", "presentMatch": true}],
    }));
    assert_eq!(end(&ask(&proxy, get("/", &[]))), "a");
    assert_eq!(end(&ask(&proxy, get("/", &[("test", "")]))), "200");
    let trace = ask(&proxy, get("/", &[("test", ""), ("content-type", "application/grpc")]));
    let answer = answered(&trace);
    assert_eq!(answer.status, 200);
    assert!(answer.headers.contains(&("grpc-status".to_owned(), "14".to_owned())));
}

#[test]
fn cross_origin_requests_are_answered_or_marked() {
    let policy = |more: Value| {
        let mut policy = json!({
            "@type": format!("{FILTERS}.cors.v3.CorsPolicy"),
            "allowOriginStringMatch": [{"exact": "https://shop"}], "allowMethods": "GET,POST", "exposeHeaders": "x-a",
            "maxAge": "60", "filterEnabled": {"defaultValue": {"numerator": 100}},
        });
        policy
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().cloned().unwrap());
        with(
            vec![http_filter("cors", "cors.v3.Cors", json!({}))],
            json!({"cors": policy}),
            json!({}),
        )
    };
    let preflight = |origin: &str| Http {
        method: "OPTIONS".to_owned(),
        ..get("/", &[("origin", origin), ("access-control-request-method", "POST")])
    };
    let trace = ask(&policy(json!({})), preflight("https://shop"));
    let answer = answered(&trace);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.headers,
        [
            pair("access-control-allow-origin", "https://shop"),
            pair("access-control-allow-methods", "GET,POST"),
            pair("access-control-max-age", "60"),
            pair("access-control-expose-headers", "x-a")
        ]
    );
    assert_eq!(end(&ask(&policy(json!({})), preflight("https://evil"))), "a");
    let strict = policy(json!({"forwardNotMatchingPreflights": false}));
    let trace = ask(&strict, preflight("https://evil"));
    assert_eq!(
        answered(&trace).headers,
        [
            pair("access-control-allow-methods", "GET,POST"),
            pair("access-control-max-age", "60")
        ]
    );
    let trace = ask(&strict, get("/", &[("origin", "https://shop")]));
    let response = &forwarded(&trace).http.as_ref().unwrap().response;
    assert_eq!(response.len(), 2, "{response:?}");
    let trace = ask(&strict, get("/", &[("origin", "https://evil")]));
    assert!(forwarded(&trace).http.as_ref().unwrap().response.is_empty());
}

#[test]
fn rules_refuse_with_403() {
    let rules = json!({"rules": {"action": "ALLOW", "policies": {"ns[shop]-policy[p]-rule[0]": {
        "permissions": [{"urlPath": {"path": {"prefix": "/open"}}}], "principals": [{"any": true}],
    }}}});
    let proxy = with(vec![http_filter("rbac", "rbac.v3.RBAC", rules)], json!({}), json!({}));
    assert_eq!(end(&ask(&proxy, get("/open?x", &[]))), "a");
    let trace = ask(&proxy, get("/closed?x=/open", &[]));
    assert_eq!(
        (answered(&trace).status, answered(&trace).body.as_deref()),
        (403, Some("RBAC: access denied"))
    );
    let step = trace.steps.last().unwrap();
    assert!(step.why.contains("ns[shop]-policy[p]-rule[0]"), "{}", step.why);
}

fn token(claims: &Value) -> String {
    format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn with_tokens(requires: Value) -> Proxy {
    let provider = json!({
        "issuer": "me", "audiences": ["shop"], "payloadInMetadata": "payload", "clearRouteCache": true,
        "claimToHeaders": [{"headerName": "x-sub", "claimName": "sub"}], "localJwks": {"inlineString": "{}"},
    });
    let config = json!({"providers": {"p": provider}, "rules": [{"match": {"prefix": "/"}, "requires": requires}]});
    let group = json!({
        "prefix": "/", "dynamicMetadata": [{
            "filter": "envoy.filters.http.jwt_authn", "path": [{"key": "payload"}, {"key": "groups"}],
            "value": {"listMatch": {"oneOf": {"stringMatch": {"exact": "beta"}}}},
        }],
    });
    let table = json!({"virtualHosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": group, "route": {"cluster": "b"}}, {"match": {"prefix": "/"}, "route": {"cluster": "a"}},
    ]}]});
    router(
        table,
        vec![http_filter("jwt", "jwt_authn.v3.JwtAuthentication", config)],
        json!({}),
    )
}

#[test]
fn tokens_are_asked_for_and_decide_over_routes() {
    let bearer = |claims: Value| format!("Bearer {}", token(&claims));
    let optional = with_tokens(json!({"requiresAny": {"requirements": [{"providerName": "p"}, {"allowMissing": {}}]}}));
    let required = with_tokens(json!({"providerName": "p"}));
    assert_eq!(end(&ask(&optional, get("/", &[]))), "a");
    assert_eq!(end(&ask(&required, get("/", &[]))), "401");
    let of = |claims: Value| ask(&optional, get("/", &[("authorization", &bearer(claims))]));
    assert_eq!(end(&of(json!({"iss": "other", "aud": "shop"}))), "401");
    assert_eq!(end(&of(json!({"iss": "me", "aud": "bar"}))), "403");
    let trace = of(json!({"iss": "me", "aud": ["bar", "shop"], "sub": "bob"}));
    let headers = &forwarded(&trace).http.as_ref().unwrap().headers;
    assert_eq!(end(&trace), "a");
    assert!(headers.contains(&("x-sub".to_owned(), "bob".to_owned())));
    assert!(!headers.iter().any(|(name, _)| name == "authorization"), "{headers:?}");
    assert_eq!(
        end(&of(json!({"iss": "me", "aud": "shop", "groups": ["alpha", "beta"]}))),
        "b"
    );
    let query = format!("/?access_token={}", token(&json!({"iss": "me", "aud": "shop"})));
    assert_eq!(end(&ask(&required, get(&query, &[]))), "a");
}

#[test]
fn filters_that_are_not_simulated_are_named() {
    let filter = json!({"name": "lua", "typedConfig": {"@type": format!("{FILTERS}.lua.v3.Lua")}});
    let trace = ask(&with(vec![filter], json!({}), json!({})), get("/", &[]));
    assert_eq!(end(&trace), "a");
    let step = trace.steps.iter().find(|step| step.kind == Kind::HttpFilter).unwrap();
    assert_eq!(step.name, "lua");
    assert!(step.why.contains("not simulated"));
}

#[test]
fn a_route_may_switch_a_filter_off() {
    let rules = json!({"rules": {"action": "DENY", "policies": {"all": {"permissions": [{"any": true}], "principals": [{"any": true}]}}}});
    let filter = || vec![http_filter("rbac", "rbac.v3.RBAC", rules.clone())];
    assert_eq!(end(&ask(&with(filter(), json!({}), json!({})), get("/", &[]))), "403");
    let off = json!({"rbac": {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true}});
    assert_eq!(end(&ask(&with(filter(), off, json!({})), get("/", &[]))), "a");
}

#[test]
fn clients_are_told_by_as_many_proxies_as_are_trusted() {
    let rules = json!({"rules": {"action": "ALLOW", "policies": {"p": {
        "permissions": [{"any": true}], "principals": [{"remoteIp": {"addressPrefix": "192.0.2.0", "prefixLen": 24}}],
    }}}});
    let of = |manager: Value, told: Option<&str>| {
        let table = json!({"virtualHosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]}]});
        let proxy = router(table, vec![http_filter("rbac", "rbac.v3.RBAC", rules.clone())], manager);
        let headers: Vec<(&str, &str)> = told.iter().map(|told| ("x-forwarded-for", *told)).collect();
        end(&ask(&proxy, get("/", &headers)))
    };
    // The peer's own address, 10.1.1.1, is none of those allowed.
    assert_eq!(of(json!({}), None), "403");
    assert_eq!(of(json!({}), Some("10.0.0.9, 192.0.2.1")), "a");
    assert_eq!(of(json!({}), Some("192.0.2.1, 10.0.0.9")), "403");
    assert_eq!(of(json!({"useRemoteAddress": true}), Some("192.0.2.1")), "403");
    let trusted = json!({"useRemoteAddress": true, "xffNumTrustedHops": 1});
    assert_eq!(of(trusted.clone(), Some("10.0.0.9,192.0.2.1")), "a");
    assert_eq!(of(trusted, Some("192.0.2.1,10.0.0.9")), "403");
}

#[test]
fn gateways_write_down_who_came() {
    let table = json!({"virtualHosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]}]});
    let proxy = router(table, Vec::new(), json!({"useRemoteAddress": true}));
    let trace = ask(
        &proxy,
        get("/", &[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")]),
    );
    let headers = &forwarded(&trace).http.as_ref().unwrap().headers;
    assert!(
        headers.contains(&("x-forwarded-for".to_owned(), "192.0.2.1,10.1.1.1".to_owned())),
        "{headers:?}"
    );
    assert!(
        headers.contains(&("x-forwarded-proto".to_owned(), "http".to_owned())),
        "{headers:?}"
    );
}

#[test]
fn old_http_is_accepted_only_where_it_is_said() {
    let of = |more: Value| {
        let table = json!({"virtualHosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]}]});
        let old = Http {
            version: crate::Version::Http10,
            ..get("/", &[])
        };
        end(&ask(&router(table, Vec::new(), more), old))
    };
    assert_eq!(of(json!({})), "426");
    assert_eq!(of(json!({"httpProtocolOptions": {"acceptHttp10": true}})), "a");
}
