//! What routes do.

use serde_json::{Value, json};

use crate::testing::{answered, ask, end, forwarded, get, router, routes};
use crate::{HeaderChange, Headers, Http, HttpForward, Trace, Verdict};

fn one(route: Value) -> crate::Proxy {
    routes(json!([route]))
}

fn http(trace: &Trace) -> &HttpForward {
    forwarded(trace).http.as_ref().unwrap()
}

fn location(redirect: Value, host: &str, path: &str) -> (u16, String) {
    let matched = json!({"prefix": "/old"});
    let trace = ask(
        &one(json!({"match": matched, "redirect": redirect})),
        Http::get(host, path),
    );
    let answer = answered(&trace);
    (answer.status, answer.headers[0].1.clone())
}

#[test]
fn redirects_change_what_they_name_and_keep_the_rest() {
    for (redirect, host, wanted) in [
        (json!({"pathRedirect": "/new"}), "shop", "http://shop/new?q=1"),
        (json!({"pathRedirect": "/new?x"}), "shop", "http://shop/new?x"),
        (
            json!({"pathRedirect": "/new", "stripQuery": true}),
            "shop",
            "http://shop/new",
        ),
        (json!({"prefixRewrite": "/new"}), "shop", "http://shop/new/a?q=1"),
        (
            json!({"regexRewrite": {"pattern": {"regex": "^/old/(.*)$"}, "substitution": "/\\1/n"}}),
            "shop",
            "http://shop/a/n?q=1",
        ),
        (json!({"hostRedirect": "other"}), "shop:80", "http://other/old/a?q=1"),
        (json!({"httpsRedirect": true}), "shop:80", "https://shop/old/a?q=1"),
        (
            json!({"httpsRedirect": true}),
            "shop:8080",
            "https://shop:8080/old/a?q=1",
        ),
        (json!({"schemeRedirect": "http"}), "shop:80", "http://shop:80/old/a?q=1"),
        (json!({"portRedirect": 81}), "shop:80", "http://shop:81/old/a?q=1"),
    ] {
        assert_eq!(
            location(redirect.clone(), host, "/old/a?q=1"),
            (301, wanted.to_owned()),
            "{redirect} {host}"
        );
    }
    let found = json!({"pathRedirect": "/", "responseCode": "TEMPORARY_REDIRECT"});
    assert_eq!(location(found, "shop", "/old").0, 307);
}

#[test]
fn direct_answers_carry_body_and_headers_of_the_route() {
    let route = json!({
        "match": {"prefix": "/"}, "directResponse": {"status": 418, "body": {"inlineString": "tea"}},
        "responseHeadersToAdd": [{"header": {"key": "X-Pot", "value": "1"}}],
    });
    let trace = ask(&one(route.clone()), get("/", &[]));
    let answer = answered(&trace);
    assert_eq!((answer.status, answer.body.as_deref()), (418, Some("tea")));
    assert_eq!(answer.headers, [("x-pot".to_owned(), "1".to_owned())]);
    let made = ask(
        &one(json!({"match": {"prefix": "/"}, "directResponse": {"status": 201}})),
        get("/a?b", &[]),
    );
    assert_eq!(
        answered(&made).headers,
        [("location".to_owned(), "http://shop/a?b".to_owned())]
    );
    let trace = ask(&one(route), get("/", &[("content-type", "application/grpc")]));
    let answer = answered(&trace);
    assert_eq!(answer.status, 200);
    assert!(answer.headers.contains(&("grpc-status".to_owned(), "2".to_owned())));
}

#[test]
fn weights_are_shares_and_zero_is_none() {
    let route = json!({"match": {"prefix": "/"}, "route": {"weightedClusters": {"clusters": [
        {"name": "a", "weight": 3}, {"name": "b", "weight": 1}, {"name": "c", "weight": 0},
    ]}}});
    assert_eq!(ask(&one(route), get("/", &[])).clusters(), [("a", 0.75), ("b", 0.25)]);
}

fn rewritten(matched: Value, action: Value, path: &str) -> String {
    let mut action = action;
    action["cluster"] = "a".into();
    let trace = ask(&one(json!({"match": matched, "route": action})), get(path, &[]));
    http(&trace).path.clone()
}

#[test]
fn rewrites_replace_what_was_matched_and_keep_the_query() {
    for (matched, action, path, wanted) in [
        (
            json!({"prefix": "/a"}),
            json!({"prefixRewrite": "/b"}),
            "/a/x?q=/a",
            "/b/x?q=/a",
        ),
        (json!({"prefix": "/a/"}), json!({"prefixRewrite": "/"}), "/a/x", "/x"),
        (json!({"prefix": "/a"}), json!({"prefixRewrite": "/"}), "/a/x", "//x"),
        (json!({"path": "/a"}), json!({"prefixRewrite": "/b"}), "/a?q", "/b?q"),
        (
            json!({"pathSeparatedPrefix": "/a"}),
            json!({"prefixRewrite": "/b"}),
            "/a",
            "/b",
        ),
        (
            json!({"safeRegex": {"regex": "/a/.*"}}),
            json!({"regexRewrite": {"pattern": {"regex": "^/a/([^/]*)"}, "substitution": "/\\1/a"}}),
            "/a/x/y?q",
            "/x/a/y?q",
        ),
    ] {
        assert_eq!(rewritten(matched.clone(), action, path), wanted, "{matched} {path}");
    }
}

#[test]
fn headers_change_from_the_inner_to_the_outer_place() {
    let set =
        |value: &str| json!([{"header": {"key": "x", "value": value}, "appendAction": "OVERWRITE_IF_EXISTS_OR_ADD"}]);
    let add = |value: &str| json!([{"header": {"key": "y", "value": value}}]);
    let table = json!({
        "requestHeadersToAdd": set("table"), "responseHeadersToAdd": add("table"),
        "virtualHosts": [{"name": "v", "domains": ["*"], "requestHeadersToAdd": set("host"), "responseHeadersToAdd": add("host"), "routes": [{
            "match": {"prefix": "/"}, "requestHeadersToAdd": set("route"), "requestHeadersToRemove": ["z"], "responseHeadersToAdd": add("route"),
            "route": {"weightedClusters": {"clusters": [
                {"name": "a", "weight": 1, "requestHeadersToAdd": set("cluster"), "responseHeadersToAdd": add("cluster"), "hostRewriteLiteral": "inner"},
            ]}},
        }]}],
    });
    let trace = ask(
        &router(table.clone(), Vec::new(), json!({})),
        get("/", &[("z", "1"), ("x", "client")]),
    );
    let forward = http(&trace);
    let values = |name: &str| {
        forward
            .headers
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(values("x"), ["table"]);
    assert!(values("z").is_empty());
    assert_eq!(forward.authority, "inner");
    let mut answer = Headers::new([("y".to_owned(), "upstream".to_owned())]);
    answer.apply(&forward.response);
    assert_eq!(answer.get("y").as_deref(), Some("upstream,cluster,route,host,table"));

    let mut specific = table;
    specific["mostSpecificHeaderMutationsWins"] = true.into();
    let trace = ask(&router(specific, Vec::new(), json!({})), get("/", &[]));
    assert!(http(&trace).headers.contains(&("x".to_owned(), "cluster".to_owned())));
    assert_eq!(
        http(&trace).response[0],
        HeaderChange::Append("y".to_owned(), "table".to_owned())
    );
}

#[test]
fn hosts_are_rewritten_after_headers() {
    let action = |more: Value| {
        let mut route = json!({"cluster": "a"});
        route
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().cloned().unwrap());
        let trace = ask(
            &one(json!({"match": {"prefix": "/"}, "route": route})),
            get("/t/x", &[("target", "from-header")]),
        );
        http(&trace).authority.clone()
    };
    assert_eq!(action(json!({"hostRewriteLiteral": "other"})), "other");
    assert_eq!(action(json!({"hostRewriteHeader": "target"})), "from-header");
    assert_eq!(action(json!({"hostRewriteHeader": "none"})), "shop");
    let by_path = json!({"hostRewritePathRegex": {"pattern": {"regex": "^/(.+)/.+$"}, "substitution": "\\1.example"}});
    assert_eq!(action(by_path), "t.example");
}

#[test]
fn timeouts_retries_and_mirrors_are_told() {
    let route = json!({"match": {"prefix": "/"}, "route": {
        "cluster": "a", "timeout": "2.5s", "hostRewriteLiteral": "b:8080",
        "retryPolicy": {"retryOn": "5xx", "numRetries": 3, "perTryTimeout": "0.5s"},
        "requestMirrorPolicies": [{"cluster": "b", "runtimeFraction": {"defaultValue": {"numerator": 5}}}],
        "hashPolicy": [{"header": {"headerName": "user"}}],
    }});
    let trace = ask(&one(route), get("/", &[]));
    let forward = http(&trace);
    assert_eq!(forward.timeout, Some(2500));
    let retries = forward.retries.as_ref().unwrap();
    assert_eq!(
        (retries.on.as_str(), retries.attempts, retries.per_try_timeout),
        ("5xx", 3, Some(500))
    );
    let mirror = &forward.mirrors[0];
    assert_eq!(
        (mirror.cluster.as_str(), mirror.share, mirror.authority.as_str()),
        ("b", 0.05, "b-shadow:8080")
    );
    assert_eq!(forward.hash, ["header user"]);
    let of = |timeout: Value| {
        let trace = ask(
            &one(json!({"match": {"prefix": "/"}, "route": {"cluster": "a", "timeout": timeout}})),
            get("/", &[]),
        );
        http(&trace).timeout
    };
    assert_eq!(of(json!("0s")), None);
    assert_eq!(of(Value::Null), Some(15_000));
}

#[test]
fn clusters_that_are_not_there_are_answered_for() {
    let of = |more: &str| {
        let route = json!({"cluster": "nowhere", "clusterNotFoundResponseCode": more});
        end(&ask(
            &one(json!({"match": {"prefix": "/"}, "route": route})),
            get("/", &[]),
        ))
    };
    assert_eq!(of("SERVICE_UNAVAILABLE"), "503");
    assert_eq!(of("INTERNAL_SERVER_ERROR"), "500");
}

#[test]
fn paths_that_are_refused_never_reach_a_route() {
    let proxy = one(json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}}));
    let trace = ask(&proxy, get("/a#b", &[]));
    assert!(matches!(trace.verdict(), Some(Verdict::Answered(answer)) if answer.status == 400));
}
