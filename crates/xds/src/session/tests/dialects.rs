//! The protocol's rules: subscriptions, nonces, rejections.

use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

use super::proxy::{Pair, envoy};
use super::wanted;
use crate::session::Violation;
use crate::types::{CLUSTER, ENDPOINTS, LISTENER, NAME_TABLE, ROUTE, VIRTUAL_HOST};
use crate::{Dialect, Event, Session};

fn rejected(pair: &Pair) -> Vec<String> {
    let name = |event: &Event| match event {
        Event::Rejected { name, reason, .. } => Some(format!("{name}: {reason}")),
        _ => None,
    };
    pair.events.iter().filter_map(name).collect()
}

fn nacks(pair: &Pair) -> usize {
    pair.events
        .iter()
        .filter(|event| matches!(event, Event::Nacked { .. }))
        .count()
}

#[test]
fn an_empty_world_is_an_answer() {
    for dialect in [Dialect::Delta, Dialect::StateOfTheWorld] {
        let mut pair = Pair::new(dialect, wanted(1, &[]));
        pair.start(CLUSTER, &[]);
        pair.start(LISTENER, &[]);
        pair.start(ROUTE, &["missing"]);
        pair.finish();
        let missing = if dialect == Dialect::Delta {
            "rds -missing"
        } else {
            "rds"
        };
        assert_eq!(pair.sent(), ["cds", "lds", missing]);
        // It appears later.
        pair.session
            .on_wanted(wanted(2, &[(ROUTE, &[("missing", "1"), ("other", "1")])]));
        pair.finish();
        assert_eq!(pair.sent(), ["rds missing"]);
    }
}

#[test]
fn only_differences_are_sent_after_a_lost_connection() {
    let names: &[(&str, &str)] = &[("a", "1"), ("b", "1"), ("c", "1")];
    let world = wanted(
        1,
        &[(CLUSTER, names), (ENDPOINTS, names), (LISTENER, names), (ROUTE, names)],
    );
    let mut pair = envoy(Dialect::Delta, world, &["a", "b"]);
    pair.sent();
    pair.reconnect();
    pair.finish();
    assert_eq!(pair.sent(), [""; 0]);
    assert_eq!(
        pair.session.own_names(),
        2,
        "one name of three, of two types, is not asked for"
    );

    pair.reconnect();
    let names: &[(&str, &str)] = &[("b", "1"), ("c", "2")];
    pair.session.on_wanted(wanted(
        2,
        &[(CLUSTER, names), (ENDPOINTS, names), (LISTENER, names), (ROUTE, names)],
    ));
    pair.finish();
    assert_eq!(pair.sent(), ["cds c", "eds -a", "lds c -a", "rds -a", "cds -a"]);
    assert_eq!(pair.faults(), [""; 0]);
}

#[test]
fn a_name_that_is_asked_for_again_is_sent_again() {
    let mut pair = Pair::new(Dialect::Delta, wanted(1, &[(ROUTE, &[("r", "1")])]));
    pair.start(ROUTE, &["r"]);
    pair.finish();
    pair.subscribe(ROUTE, &["r"], &[]);
    pair.finish();
    assert_eq!(pair.sent(), ["rds r", "rds r"]);
}

#[test]
fn a_subscription_may_change_while_a_response_is_under_way() {
    for dialect in [Dialect::Delta, Dialect::StateOfTheWorld] {
        let mut pair = Pair::new(dialect, wanted(1, &[(ROUTE, &[("a", "1"), ("b", "1")])]));
        pair.start(ROUTE, &["a"]);
        for snapshot in 2..4 {
            pair.serve();
            pair.poll();
            pair.subscribe(ROUTE, &["b"], &["a"]);
            pair.subscribe(ROUTE, &["a"], &[]);
            pair.finish();
            assert_eq!(pair.faults(), [""; 0]);
            let body = snapshot.to_string();
            pair.session
                .on_wanted(wanted(snapshot, &[(ROUTE, &[("a", &body), ("b", &body)])]));
        }
        if dialect == Dialect::StateOfTheWorld {
            // The second time, both requests answered a response that was not the last any more.
            let expired = pair
                .events
                .iter()
                .filter(|event| matches!(event, Event::ExpiredNonce { .. }))
                .count();
            assert_eq!(expired, 2);
        }
    }
}

#[test]
fn wildcards_come_and_go() {
    let names: &[(&str, &str)] = &[("a", "1"), ("b", "1")];
    let mut pair = Pair::new(Dialect::Delta, wanted(1, &[(VIRTUAL_HOST, names)]));
    pair.start(VIRTUAL_HOST, &["a"]);
    pair.finish();
    pair.subscribe(VIRTUAL_HOST, &["*"], &[]);
    pair.finish();
    assert_eq!(pair.sent(), ["vhds a", "vhds b"]);
    pair.subscribe(VIRTUAL_HOST, &[], &["*"]);
    pair.session
        .on_wanted(wanted(2, &[(VIRTUAL_HOST, &[("a", "2"), ("b", "2")])]));
    pair.finish();
    assert_eq!(pair.sent(), ["vhds a"]);
    assert_eq!(pair.faults(), [""; 0]);
}

#[test]
fn envoys_empty_request_for_routes_is_not_a_wildcard() {
    for dialect in [Dialect::Delta, Dialect::StateOfTheWorld] {
        let mut pair = Pair::new(
            dialect,
            wanted(1, &[(ROUTE, &[("r", "1")]), (NAME_TABLE, &[("t", "1")])]),
        );
        pair.start(ROUTE, &[]);
        pair.start(NAME_TABLE, &[]);
        pair.finish();
        assert_eq!(pair.sent(), ["nds t"]);
    }
}

#[test]
fn a_rejected_listener_holds_back_nobody() {
    for dialect in [Dialect::Delta, Dialect::StateOfTheWorld] {
        let good = [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")];
        let mut pair = envoy(dialect, wanted(1, &[(LISTENER, &good)]), &[]);
        pair.session.on_wanted(wanted(
            2,
            &[(LISTENER, &[("a", "2"), ("b", "bad"), ("c", "2"), ("d", "2")])],
        ));
        pair.finish();
        assert_eq!(pair.faults(), [""; 0]);
        assert_eq!(rejected(&pair), ["b: Error adding/updating lds(s) b: not good"]);
        assert!(pair.types[LISTENER].has.contains_key("b"), "the version before is kept");
        let status = pair.session.status();
        let listeners = status.iter().find(|status| &*status.type_url == LISTENER).unwrap();
        assert_eq!(listeners.rejected.iter().map(|name| &**name).collect::<Vec<_>>(), ["b"]);

        // Other changes go on, also in the state of the world, and the bad bytes are not sent again.
        let before = nacks(&pair);
        pair.sent();
        pair.session.on_wanted(wanted(
            3,
            &[(LISTENER, &[("a", "3"), ("b", "bad"), ("c", "2"), ("d", "2")])],
        ));
        pair.finish();
        assert_eq!(nacks(&pair), before);
        assert_eq!(pair.faults(), [""; 0]);
        assert!(pair.types[LISTENER].has.contains_key("b"));
        // Until they are mended.
        pair.session.on_wanted(wanted(
            4,
            &[(LISTENER, &[("a", "3"), ("b", "4"), ("c", "2"), ("d", "2")])],
        ));
        pair.finish();
        assert_eq!(pair.faults(), [""; 0]);
        assert!(pair.session.status().iter().all(|status| status.rejected.is_empty()));
    }
}

#[test]
fn culprits_are_found_by_halves() {
    for dialect in [Dialect::Delta, Dialect::StateOfTheWorld] {
        let name = |i: usize| format!("r{i:02}");
        let names: Vec<String> = (0..32).map(name).collect();
        let body = |i: usize| if i == 7 || i == 20 { "bad" } else { "good" };
        let routes: Vec<(&str, &str)> = names.iter().enumerate().map(|(i, name)| (&**name, body(i))).collect();
        let asked: Vec<&str> = names.iter().map(|name| &**name).collect();
        let mut pair = Pair::new(dialect, wanted(1, &[(ROUTE, &routes)]));
        pair.start(ROUTE, &asked);
        pair.finish();
        assert_eq!(pair.faults(), [""; 0]);
        assert_eq!(rejected(&pair), ["r07: all of it", "r20: all of it"]);
        assert!(nacks(&pair) <= 11, "{} rejections", nacks(&pair));
    }
}

#[test]
fn what_does_not_decode_is_found_by_halves_too() {
    for dialect in [Dialect::Delta, Dialect::StateOfTheWorld] {
        let clusters = [("a", "1"), ("b", "1"), ("c", "garbled"), ("d", "1"), ("e", "1")];
        let mut pair = envoy(dialect, wanted(1, &[(CLUSTER, &clusters)]), &[]);
        assert_eq!(pair.faults(), [""; 0]);
        assert_eq!(rejected(&pair), ["c: does not decode"]);
        pair.sent();
        pair.session.on_wanted(wanted(
            2,
            &[(CLUSTER, &[("b", "2"), ("c", "garbled"), ("d", "1"), ("e", "1")])],
        ));
        pair.finish();
        assert_eq!(pair.faults(), [""; 0]);
    }
}

#[test]
fn nonsense_ends_the_stream() {
    let mut session = Session::new(Dialect::Delta, wanted(1, &[]));
    assert_eq!(
        session.on_delta_request(&DeltaDiscoveryRequest::default()),
        Err(Violation::NoType)
    );
    assert_eq!(
        session.on_sotw_request(&DiscoveryRequest::default()),
        Err(Violation::Dialect)
    );
    let many = (0..=64).map(|i| {
        session.on_delta_request(&DeltaDiscoveryRequest {
            type_url: format!("type/{i}"),
            ..Default::default()
        })
    });
    assert_eq!(many.last(), Some(Err(Violation::TooManyTypes)));
}

#[test]
fn a_thousand_proxies_in_step_own_nothing() {
    let names: Vec<String> = (0..1000)
        .map(|i| format!("outbound|80||s{i}.shop.svc.cluster.local"))
        .collect();
    let set: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "1")).collect();
    let asked: Vec<&str> = names.iter().map(|name| &**name).collect();
    for dialect in [Dialect::Delta, Dialect::StateOfTheWorld] {
        let mut pair = envoy(dialect, wanted(1, &[(CLUSTER, &set), (ENDPOINTS, &set)]), &asked);
        assert_eq!(pair.session.own_names(), 1000, "routes that do not exist");
        let status = pair.session.status();
        assert_eq!(status[1].subscribed, 1000);
        // One change costs one name.
        let mut changed = set.clone();
        changed[500].1 = "2";
        pair.sent();
        pair.session
            .on_wanted(wanted(2, &[(CLUSTER, &set), (ENDPOINTS, &changed)]));
        pair.finish();
        assert_eq!(pair.sent(), [format!("eds {}", names[500])]);
        assert_eq!(pair.session.own_names(), 1000);
    }
}
