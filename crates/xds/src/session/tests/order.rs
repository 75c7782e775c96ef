//! The order of pushes, make before break, and warming.

use std::time::Duration;

use super::proxy::{Pair, envoy};
use super::wanted;
use crate::session::PATIENCE;
use crate::types::{CLUSTER, ENDPOINTS, LISTENER, ROUTE, SECRET, VIRTUAL_HOST};
use crate::{Dialect, Event};

const BOTH: [Dialect; 2] = [Dialect::Delta, Dialect::StateOfTheWorld];

/// Delivers what is on its way from the proxy, then lets the server send what it can.
fn round(pair: &mut Pair) -> Vec<String> {
    while pair.take() {}
    while pair.serve() {}
    while pair.poll() {}
    pair.sent()
}

#[test]
fn a_new_stream_is_served_in_envoys_order() {
    for dialect in BOTH {
        let all: &[(&str, &str)] = &[("a", "1"), ("b", "1")];
        let world = wanted(1, &[(ROUTE, all), (LISTENER, all), (ENDPOINTS, all), (CLUSTER, all)]);
        let mut pair = envoy(dialect, world, &["a", "b"]);
        assert_eq!(pair.sent(), ["cds a b", "eds a b", "lds a b", "rds a b"]);
        assert_eq!(pair.faults(), [""; 0]);
        assert!(pair.events.contains(&Event::Settled { snapshot: 1 }));
        assert_eq!(pair.session.own_names(), 0);
    }
}

#[test]
fn routes_wait_for_new_clusters_and_removals_for_routes() {
    for dialect in BOTH {
        let old: &[(&str, &str)] = &[("old", "1")];
        let mut pair = envoy(
            dialect,
            wanted(
                1,
                &[
                    (CLUSTER, old),
                    (ENDPOINTS, old),
                    (LISTENER, &[("l", "1")]),
                    (ROUTE, &[("r", "old")]),
                ],
            ),
            &["old", "r"],
        );
        pair.sent();
        let new: &[(&str, &str)] = &[("new", "1")];
        pair.session.on_wanted(wanted(
            2,
            &[
                (CLUSTER, new),
                (ENDPOINTS, new),
                (LISTENER, &[("l", "2")]),
                (ROUTE, &[("r", "new")]),
            ],
        ));
        // The state of the world keeps a cluster by saying it again.
        let first = if dialect == Dialect::Delta {
            "cds new"
        } else {
            "cds new old"
        };
        assert_eq!(round(&mut pair), [first]);
        assert_eq!(round(&mut pair), [""; 0], "routes wait for the new cluster's endpoints");
        pair.subscribe(ENDPOINTS, &["new"], &[]);
        assert_eq!(round(&mut pair), ["eds new"]);
        assert_eq!(round(&mut pair), ["lds l", "rds r"]);
        let last = round(&mut pair);
        if dialect == Dialect::Delta {
            assert_eq!(last, ["cds -old", "eds -old"]);
            pair.subscribe(ENDPOINTS, &[], &["old"]);
        } else {
            assert_eq!(last, ["cds new"]);
        }
        pair.finish();
        assert_eq!(pair.faults(), [""; 0]);
    }
}

#[test]
fn waiting_is_bounded() {
    for dialect in BOTH {
        let mut pair = envoy(
            dialect,
            wanted(1, &[(CLUSTER, &[("old", "1")]), (ROUTE, &[("r", "1")])]),
            &["r"],
        );
        pair.sent();
        let new: &[(&str, &str)] = &[("new", "1")];
        pair.session
            .on_wanted(wanted(2, &[(CLUSTER, new), (ENDPOINTS, new), (ROUTE, &[("r", "2")])]));
        // Nobody asks for the endpoints.
        assert_eq!(round(&mut pair).len(), 1);
        assert_eq!(round(&mut pair), [""; 0]);
        assert_eq!(pair.session.deadline(), Some(pair.now + PATIENCE));
        pair.now += PATIENCE - Duration::from_millis(1);
        assert_eq!(round(&mut pair), [""; 0]);
        pair.now += Duration::from_millis(1);
        // The route is not answered: the cluster's removal waits for it, and no longer than that.
        while pair.poll() {}
        assert_eq!(pair.sent(), ["rds r"]);
        pair.now += PATIENCE;
        while pair.poll() {}
        assert_eq!(pair.sent().len(), 1, "the removal");
    }
}

#[test]
fn unrelated_changes_do_not_wait() {
    let mut pair = envoy(
        Dialect::Delta,
        wanted(
            1,
            &[
                (CLUSTER, &[("a", "1")]),
                (ENDPOINTS, &[("a", "1")]),
                (ROUTE, &[("r", "1")]),
            ],
        ),
        &["a", "r"],
    );
    pair.sent();
    // A changed cluster is known to the proxy: routes may go on, its endpoints are sent again.
    pair.session.on_wanted(wanted(
        2,
        &[
            (CLUSTER, &[("a", "2")]),
            (ENDPOINTS, &[("a", "1")]),
            (ROUTE, &[("r", "2")]),
            (SECRET, &[("s", "1")]),
        ],
    ));
    assert_eq!(round(&mut pair), ["cds a", "eds a", "rds r"]);
}

#[test]
fn a_changed_cluster_gets_its_endpoints_again() {
    for dialect in BOTH {
        let endpoints: &[(&str, &str)] = &[("a", "1"), ("b", "1")];
        let mut pair = envoy(
            dialect,
            wanted(1, &[(CLUSTER, endpoints), (ENDPOINTS, endpoints)]),
            &["a", "b"],
        );
        pair.sent();
        pair.session.on_wanted(wanted(
            2,
            &[(CLUSTER, &[("a", "2"), ("b", "1")]), (ENDPOINTS, endpoints)],
        ));
        pair.finish();
        let clusters = if dialect == Dialect::Delta { "cds a" } else { "cds a b" };
        assert_eq!(pair.sent(), [clusters, "eds a"]);
        assert_eq!(pair.faults(), [""; 0]);
    }
}

#[test]
fn endpoints_under_way_are_sent_again_for_a_cluster_that_changed_since() {
    let mut pair = envoy(
        Dialect::Delta,
        wanted(1, &[(CLUSTER, &[("a", "1")]), (ENDPOINTS, &[("a", "1")])]),
        &["a"],
    );
    pair.sent();
    pair.session
        .on_wanted(wanted(2, &[(CLUSTER, &[("a", "1")]), (ENDPOINTS, &[("a", "2")])]));
    assert!(pair.poll());
    pair.session
        .on_wanted(wanted(3, &[(CLUSTER, &[("a", "2")]), (ENDPOINTS, &[("a", "2")])]));
    pair.finish();
    assert_eq!(pair.sent(), ["eds a", "cds a", "eds a"]);
    assert_eq!(pair.faults(), [""; 0]);
}

#[test]
fn endpoints_of_the_first_clusters_of_a_stream_are_sent_whatever_the_proxy_says() {
    let endpoints: &[(&str, &str)] = &[("a", "1"), ("b", "1")];
    let mut pair = envoy(
        Dialect::Delta,
        wanted(1, &[(CLUSTER, endpoints), (ENDPOINTS, endpoints)]),
        &["a", "b"],
    );
    // One cluster changes while the proxy is away.
    pair.session.on_wanted(wanted(
        2,
        &[(CLUSTER, &[("a", "2"), ("b", "1")]), (ENDPOINTS, endpoints)],
    ));
    pair.sent();
    pair.reconnect();
    pair.finish();
    assert_eq!(pair.sent()[..2], ["cds a", "eds a"]);
    assert_eq!(pair.faults(), [""; 0]);
}

#[test]
fn changes_are_folded_while_a_response_is_under_way() {
    for dialect in BOTH {
        let mut pair = envoy(dialect, wanted(1, &[(LISTENER, &[("l", "0")])]), &[]);
        pair.sent();
        for i in 2..100 {
            pair.session
                .on_wanted(wanted(i, &[(LISTENER, &[("l", &i.to_string())])]));
            while pair.poll() {}
        }
        assert_eq!(pair.sent(), ["lds l"]);
        pair.finish();
        assert_eq!(pair.sent(), ["lds l"]);
        assert_eq!(pair.faults(), [""; 0]);
    }
}

#[test]
fn virtual_hosts_are_sent_after_their_table() {
    let hosts: &[(&str, &str)] = &[("late/a", "1"), ("late/b", "1"), ("later/a", "1"), ("r/a", "1")];
    let world = wanted(1, &[(ROUTE, &[("late", "1"), ("r", "1")]), (VIRTUAL_HOST, hosts)]);
    let mut pair = envoy(Dialect::Delta, world, &["r"]);
    pair.start(VIRTUAL_HOST, &[]);
    pair.finish();
    pair.sent();
    pair.subscribe(ROUTE, &["late"], &[]);
    pair.finish();
    assert_eq!(pair.sent(), ["rds late", "vhds late/a late/b"]);
}
