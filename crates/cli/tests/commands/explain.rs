//! `lateen explain`.

use std::process::Output;

use serde_json::Value;

use crate::support::{lateen, stderr, stdout};

const WORLD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/commands/explain.yaml");

fn explain(arguments: &[&str]) -> Output {
    lateen(&[&["explain", "-f", WORLD], arguments].concat())
}

/// What is told as JSON, and the exit code.
fn told(arguments: &[&str]) -> (Value, i32) {
    let output = explain(&[arguments, &["-o", "json"]].concat());
    let code = output.status.code().unwrap();
    assert!(code == 0 || code == 3, "{code}: {}", stderr(&output));
    (serde_json::from_slice(&output.stdout).unwrap(), code)
}

/// Proxies on the way, with the verdict of the first outcome at each.
fn hops(journey: &Value) -> Vec<(&str, String)> {
    let verdict = |hop: &Value| {
        let verdict = &hop["trace"]["outcomes"][0]["verdict"];
        let cluster = verdict["forwarded"]["cluster"].as_str().map(str::to_owned);
        let status = verdict["answered"]["status"].as_u64().map(|status| status.to_string());
        cluster.or(status).unwrap_or_else(|| "refused".to_owned())
    };
    let hops = journey["hops"].as_array().unwrap();
    hops.iter()
        .map(|hop| (hop["proxy"].as_str().unwrap(), verdict(hop)))
        .collect()
}

fn outbound(subset: &str) -> String {
    format!("outbound|9080|{subset}|reviews.shop.svc.cluster.local")
}

#[test]
fn explain_tells_people_the_way_of_a_request() {
    let ran = explain(&["--from", "page-1.shop", "--to", "http://reviews:9080/reviews/1"]);
    assert_eq!(stdout(&ran), include_str!("explain.txt"));
}

#[test]
fn explain_names_the_route_that_took_the_request_and_what_it_beat() {
    let (journey, code) = told(&[
        "--from",
        "page-1.shop",
        "--to",
        "http://reviews.shop:9080/reviews/1",
        "--header",
        "End-User=jason",
    ]);
    assert_eq!(code, 0);
    assert_eq!(journey["resolved"]["address"], "10.96.0.2");
    let inbound = "inbound|9080||".to_owned();
    assert_eq!(
        hops(&journey),
        [("page-1.shop", outbound("v2")), ("reviews-2.shop", inbound)]
    );
    let steps = journey["hops"][0]["trace"]["steps"].as_array().unwrap();
    let route = steps.iter().find(|step| step["kind"] == "route").unwrap();
    assert_eq!(route["origin"], "VirtualService shop/reviews spec.http[0].match[0]");
    assert_eq!(route["beaten"][0]["origin"], "VirtualService shop/reviews spec.http[1]");
    assert_eq!(route["beaten"][0]["reason"], "it fits too, but comes later");
}

#[test]
fn explain_tells_of_rules_at_the_callee() {
    let ask = |from: &str, method: &str| {
        let to = "http://ratings:9080/1";
        let (journey, code) = told(&["--from", from, "--to", to, "--method", method]);
        let last = hops(&journey)
            .last()
            .map(|(proxy, end)| ((*proxy).to_owned(), end.clone()));
        (last.unwrap(), code)
    };
    let at = |end: &str| ("ratings-1.shop".to_owned(), end.to_owned());
    assert_eq!(ask("page-1.shop", "GET"), (at("inbound|9080||"), 0));
    assert_eq!(ask("page-1.shop", "POST"), (at("403"), 3));
    assert_eq!(ask("reviews-1.shop", "GET"), (at("403"), 3));
}

#[test]
fn explain_tells_that_plain_text_meets_mutual_tls() {
    let ran = explain(&["--from", "legacy-1.shop", "--to", "http://reviews:9080/"]);
    assert_eq!(ran.status.code(), Some(3));
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(text.contains("nothing says that this pod has a sidecar"), "{text}");
    assert!(
        text.contains("mutual TLS is demanded: PeerAuthentication shop/default"),
        "{text}"
    );
    assert!(
        text.contains("closed      no filter chain fits the connection"),
        "{text}"
    );
}

#[test]
fn explain_begins_at_a_gateway() {
    let (journey, code) = told(&["--from", "door-1.shop", "--to", "http://shop.example/"]);
    assert_eq!(code, 0);
    // The Service sends port 80 on to 8080.
    assert_eq!(journey["hops"][0]["address"], "10.0.0.6:8080");
    let inbound = || "inbound|9080||".to_owned();
    assert_eq!(
        hops(&journey),
        [
            ("door-1.shop", outbound("v1")),
            ("reviews-1.shop", inbound()),
            ("reviews-2.shop", inbound())
        ]
    );
    let (journey, code) = told(&["--from", "door-1.shop", "--to", "http://other.example/"]);
    assert_eq!((hops(&journey), code), (vec![("door-1.shop", "404".to_owned())], 3));
    let (journey, code) = told(&["--from", "door-1.shop", "--to", "http://shop.example:81/"]);
    assert_eq!((hops(&journey), code), (vec![("door-1.shop", "refused".to_owned())], 3));
}

#[test]
fn explain_follows_names_and_addresses_outside_of_the_mesh() {
    let (journey, code) = told(&[
        "--from",
        "page-1.shop",
        "--to",
        "https://example.com/",
        "--address",
        "192.0.2.7",
    ]);
    assert_eq!(code, 0);
    assert_eq!(hops(&journey), [("page-1.shop", "PassthroughCluster".to_owned())]);
    let forward = &journey["hops"][0]["trace"]["outcomes"][0]["verdict"]["forwarded"];
    assert_eq!(forward["upstream"]["endpoints"][0]["address"], "192.0.2.7:443");
    let (journey, _) = told(&[
        "--from",
        "page-1.shop",
        "--to",
        "http://10.96.0.2:9080/",
        "--header",
        "host=elsewhere",
    ]);
    assert_eq!(hops(&journey), [("page-1.shop", "PassthroughCluster".to_owned())]);
}

#[test]
fn explain_says_what_is_wrong() {
    let fails = |arguments: &[&str], code: i32| {
        let output = explain(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        stderr(&output)
    };
    let said = fails(&["--from", "nobody.shop", "--to", "http://reviews"], 1);
    assert!(
        said.contains("no Pod shop/nobody") && said.contains("page-1.shop"),
        "{said}"
    );
    let said = fails(&["--from", "page-1.shop", "--to", "ftp://reviews"], 2);
    assert!(said.contains("http, https, grpc, tcp, tls"), "{said}");
    let said = fails(&["--from", "page-1.shop", "--to", "http://reviews", "--header", "x"], 2);
    assert!(said.contains("NAME=VALUE"), "{said}");
    let said = stderr(&lateen(&[
        "explain",
        "--from",
        "a.b",
        "--to",
        "http://a",
        "--kubeconfig",
        "/does/not/exist",
    ]));
    assert!(said.contains("/does/not/exist") && said.contains("-f"), "{said}");
}
