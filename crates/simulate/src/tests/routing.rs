//! Virtual hosts and routes.

use serde_json::{Value, json};

use crate::testing::{answered, ask, end, get, router, routes};
use crate::{Http, Kind};

fn fallback() -> Value {
    json!({"match": {"prefix": "/"}, "route": {"cluster": "c"}})
}

/// Where a request goes: `a` where the match fits, else `c`.
fn matched(condition: Value, http: Http) -> String {
    let proxy = routes(json!([{"match": condition, "route": {"cluster": "a"}}, fallback()]));
    end(&ask(&proxy, http))
}

fn fits(condition: Value, path: &str, headers: &[(&str, &str)]) -> bool {
    matched(condition, get(path, headers)) == "a"
}

#[test]
fn paths_are_compared_without_query() {
    for (condition, path, wanted) in [
        (json!({"prefix": "/a"}), "/ab?x", true),
        (json!({"prefix": "/a/"}), "/a", false),
        (json!({"path": "/a"}), "/a?b=c", true),
        (json!({"path": "/a"}), "/a/", false),
        (json!({"pathSeparatedPrefix": "/a"}), "/a", true),
        (json!({"pathSeparatedPrefix": "/a"}), "/a/b?c", true),
        (json!({"pathSeparatedPrefix": "/a"}), "/ab", false),
        (json!({"safeRegex": {"regex": "/a/[0-9]+"}}), "/a/12?x", true),
        (json!({"safeRegex": {"regex": "/a/[0-9]+"}}), "/a/12b", false),
        (json!({"prefix": "/A"}), "/a", false),
        (json!({"prefix": "/A", "caseSensitive": false}), "/ab", true),
        (json!({"path": "/A", "caseSensitive": false}), "/a", true),
    ] {
        assert_eq!(fits(condition.clone(), path, &[]), wanted, "{condition} {path}");
    }
}

#[test]
fn all_conditions_must_hold() {
    let condition = json!({
        "prefix": "/", "headers": [{"name": "user", "stringMatch": {"exact": "bob"}}, {"name": ":method", "stringMatch": {"exact": "GET"}}],
        "queryParameters": [{"name": "v", "stringMatch": {"prefix": "2"}}],
    });
    assert!(fits(condition.clone(), "/?v=21", &[("user", "bob")]));
    assert!(!fits(condition.clone(), "/?v=12", &[("user", "bob")]));
    assert!(!fits(condition.clone(), "/?v=21", &[("user", "eve")]));
    let post = Http {
        method: "POST".to_owned(),
        ..get("/?v=21", &[("user", "bob")])
    };
    assert_eq!(matched(condition, post), "c");
}

#[test]
fn grpc_is_told_by_its_content_type() {
    let condition = json!({"prefix": "/", "grpc": {}});
    assert!(fits(
        condition.clone(),
        "/",
        &[("content-type", "application/grpc+proto")]
    ));
    assert!(!fits(
        condition.clone(),
        "/",
        &[("content-type", "application/grpc-web")]
    ));
    assert!(!fits(condition, "/", &[]));
}

#[test]
fn the_first_route_that_fits_wins_and_tells_what_it_beat() {
    let proxy = routes(json!([
        {"name": "beta", "match": {"prefix": "/", "headers": [{"name": "beta", "presentMatch": true}]}, "route": {"cluster": "a"}},
        {"name": "main", "match": {"prefix": "/"}, "route": {"cluster": "b"}},
        {"name": "late", "match": {"prefix": "/x"}, "route": {"cluster": "c"}},
    ]));
    let trace = ask(&proxy, get("/x", &[]));
    assert_eq!(end(&trace), "b");
    let route = trace.steps.iter().find(|step| step.kind == Kind::Route).unwrap();
    assert_eq!((route.name.as_str(), route.place.as_ref().unwrap().index), ("main", 1));
    let beaten: Vec<(&str, &str)> = route.beaten.iter().map(|one| (&*one.name, &*one.reason)).collect();
    assert_eq!(
        beaten,
        [
            ("beta", "header beta must be there, is absent"),
            ("late", "it fits too, but comes later")
        ]
    );
}

#[test]
fn shares_of_requests_make_branches() {
    let proxy = routes(json!([
        {"match": {"prefix": "/", "runtimeFraction": {"defaultValue": {"numerator": 25}}}, "route": {"cluster": "a"}},
        fallback(),
    ]));
    assert_eq!(ask(&proxy, get("/", &[])).clusters(), [("a", 0.25), ("c", 0.75)]);
}

#[test]
fn nothing_that_fits_is_404() {
    let proxy = routes(json!([{"match": {"path": "/a"}, "route": {"cluster": "a"}}]));
    assert_eq!(answered(&ask(&proxy, get("/b", &[]))).status, 404);
    let proxy = router(json!({"virtualHosts": []}), Vec::new(), json!({}));
    assert_eq!(answered(&ask(&proxy, get("/", &[]))).status, 404);
}

fn hosts(ignore_port: bool) -> crate::Proxy {
    let to = |cluster: &str| json!([{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]);
    let status = |status: u16| json!([{"match": {"prefix": "/"}, "directResponse": {"status": status}}]);
    let table = json!({"ignorePortInHostMatching": ignore_port, "virtualHosts": [
        {"name": "any", "domains": ["*"], "routes": status(299)},
        {"name": "suffix", "domains": ["*.example.com"], "routes": to("a")},
        {"name": "longer", "domains": ["*.b.example.com"], "routes": to("b")},
        {"name": "prefix", "domains": ["www.*"], "routes": status(298)},
        {"name": "exact", "domains": ["x.example.com", "shop:8080"], "routes": to("c")},
    ]});
    router(table, Vec::new(), json!({}))
}

#[test]
fn hosts_match_exactly_then_by_longest_suffix_then_by_prefix() {
    for (host, wanted) in [
        ("x.example.com", "c"),
        ("X.Example.com", "c"),
        ("y.example.com", "a"),
        ("y.b.example.com", "b"),
        (".example.com", "299"),
        ("example.com", "299"),
        ("www.example.com", "a"),
        ("www.example.org", "298"),
        ("shop:8080", "c"),
        ("shop", "299"),
        ("x.example.com:80", "299"),
    ] {
        assert_eq!(end(&ask(&hosts(false), Http::get(host, "/"))), wanted, "{host}");
    }
    assert_eq!(end(&ask(&hosts(true), Http::get("x.example.com:1234", "/"))), "c");
}

#[test]
fn ports_in_the_host_are_taken_off_when_told_to() {
    let table = json!({"virtualHosts": [{"name": "v", "domains": ["shop"], "routes": [fallback()]}]});
    let of = |more: Value, host: &str| {
        let proxy = router(table.clone(), Vec::new(), more);
        end(&ask(&proxy, Http::get(host, "/")))
    };
    assert_eq!(of(json!({"stripMatchingHostPort": true}), "shop:80"), "c");
    assert_eq!(of(json!({"stripMatchingHostPort": true}), "shop:81"), "404");
    assert_eq!(of(json!({"stripAnyHostPort": true}), "shop:81"), "c");
    assert_eq!(of(json!({"stripTrailingHostDot": true}), "shop."), "c");
    assert_eq!(of(json!({}), "shop."), "404");
}

#[test]
fn a_virtual_host_may_want_tls() {
    let table = json!({"virtualHosts": [{"name": "v", "domains": ["*"], "requireTls": "ALL", "routes": [fallback()]}]});
    let trace = ask(&router(table, Vec::new(), json!({})), Http::get("shop:80", "/a?b"));
    let answer = answered(&trace);
    assert_eq!(answer.status, 301);
    assert_eq!(
        answer.headers,
        [("location".to_owned(), "https://shop:80/a?b".to_owned())]
    );
}
