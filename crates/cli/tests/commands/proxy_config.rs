//! `lateen proxy-config`.

use std::fs;

use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};

use crate::dumps::dumps;
use crate::support::{against, json_of, lateen, stderr, stdout};

#[test]
fn proxy_config_shows_dumps_of_both_kinds() {
    let directory = tempfile::tempdir().unwrap();
    for (index, dump) in dumps().iter().enumerate() {
        let path = directory.path().join(format!("{index}.json"));
        fs::write(&path, dump.to_string()).unwrap();
        let path = path.to_str().unwrap();
        let show = |what: &str| {
            let text = stdout(&lateen(&["proxy-config", what, "-f", path]));
            text.lines()
                .skip(1)
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            show("cluster"),
            [
                "PassthroughCluster - - - ORIGINAL_DST",
                "ratings.shop.svc.cluster.local 9080 v1 outbound EDS ratings.shop",
            ]
        );
        assert_eq!(
            show("listener"),
            [
                "0.0.0.0 15006 Trans: tls; Addr: *:9080 Route: 9080",
                "0.0.0.0 15006 ALL InboundPassthroughCluster",
            ]
        );
        assert_eq!(
            show("route"),
            ["9080 ratings:9080 ratings, ratings.shop /api* ratings.shop"]
        );
        assert_eq!(
            show("endpoint"),
            ["[fd00::1]:9080 UNHEALTHY r1/z1 outbound|9080|v1|ratings.shop.svc.cluster.local"]
        );
        let secrets = show("secret");
        assert!(secrets[0].starts_with("default Cert Chain ACTIVE true "), "{secrets:?}");
        assert!(secrets[1].starts_with("kubernetes://late WARMING false"), "{secrets:?}");

        let all = stdout(&lateen(&["proxy-config", "all", "-f", path]));
        for part in [
            "# clusters",
            "# listeners",
            "# routes",
            "# endpoints",
            "# secrets",
            "PassthroughCluster",
        ] {
            assert!(all.contains(part), "{all}");
        }
        for format in ["json", "yaml", "table"] {
            let text = stdout(&lateen(&["proxy-config", "all", "-f", path, "-o", format]));
            assert!(!text.contains("hidden"), "a private key is shown: {text}");
        }
        let one = json_of(&lateen(&[
            "proxy-config",
            "cluster",
            "-f",
            path,
            "--name",
            "ratings",
            "-o",
            "json",
        ]));
        assert_eq!(one.as_array().unwrap().len(), 1);
        // Whatever the dump's spelling was, JSON is proto-JSON.
        assert_eq!(one[0]["connectTimeout"], "5s");
    }
}

#[test]
fn proxy_config_takes_istioctls_filters() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dump.json");
    fs::write(&path, dumps()[1].to_string()).unwrap();
    let lines = |arguments: &str| {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let text = stdout(&lateen(
            &[&["pc"], &arguments[..], &["-f", path.to_str().unwrap()]].concat(),
        ));
        text.lines().count() - 1
    };
    for (arguments, expected) in [
        ("cluster", 2),
        ("cluster --fqdn ratings", 1),
        ("cluster --port 9080", 1),
        ("cluster --port 80", 0),
        ("cluster --subset v1 --direction outbound", 1),
        ("cluster --direction inbound", 0),
        ("listener --port 15006", 2),
        ("listener --port 15006 --verbose=false -o short", 1),
        ("listener --type HTTP+TCP", 2),
        ("listener --type tcp", 0),
        ("listener --ip 0.0.0.0", 2),
        ("route --name 9080 --verbose=false", 1),
        ("endpoint --status unhealthy", 1),
        ("endpoint --status healthy", 0),
        ("endpoint --ip fd00::1 --port 9080", 1),
        ("endpoint --ip [fd00::1]:9080", 1),
        ("endpoint --cluster outbound|9080|v1|ratings.shop.svc.cluster.local", 1),
        ("endpoint --cluster other", 0),
    ] {
        assert_eq!(lines(arguments), expected, "{arguments}");
    }
}

#[tokio::test]
async fn what_the_control_plane_says_to_a_bad_question_is_shown() {
    let answer = |RawQuery(query): RawQuery| async move {
        (StatusCode::NOT_FOUND, format!("no proxy for {}\n", query.unwrap()))
    };
    let router = Router::new().route("/debug/config_dump", get(answer));
    let output = against(router, &["proxy-config", "cluster", "a-1.shop"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("a-1.shop") && said.contains("no proxy for proxyID=a-1.shop"),
        "{said}"
    );
}

#[tokio::test]
async fn proxies_are_named_as_for_istioctl() {
    for arguments in [&["a-1.shop"][..], &["pod/a-1.shop"], &["a-1", "-n", "shop"]] {
        let echo = |RawQuery(query): RawQuery| async move { (StatusCode::NOT_FOUND, query.unwrap()) };
        let router = Router::new().route("/debug/config_dump", get(echo));
        let output = against(router, &[&["pc", "all"][..], arguments].concat()).await;
        assert!(
            stderr(&output).contains("proxyID=a-1.shop&"),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    let output = lateen(&["pc", "all", "deployment/a"]);
    assert!(
        stderr(&output).contains("a deployment is no proxy"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn proxy_config_asks_the_control_plane() {
    let [dump, _] = dumps();
    let router = Router::new().route("/debug/config_dump", get(move || async move { Json(dump) }));
    let text = stdout(&against(router, &["proxy-config", "endpoint", "a-1.shop"]).await);
    assert!(text.contains("[fd00::1]:9080"), "{text}");
}

#[test]
fn proxy_config_says_what_is_wrong_with_its_input() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dump.json");
    for (text, part) in [("{", "is not JSON"), ("{}", "no configuration dump")] {
        fs::write(&path, text).unwrap();
        let output = lateen(&["proxy-config", "all", "-f", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
    let output = lateen(&["proxy-config", "all", "pod-without-namespace"]);
    assert!(stderr(&output).contains("<pod>.<namespace>"), "{}", stderr(&output));
    assert_eq!(lateen(&["proxy-config"]).status.code(), Some(2));
}
