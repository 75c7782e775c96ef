//! What comes only to those who name it.

use std::sync::Arc;

use super::proxy::Pair;
use crate::types::{CLUSTER, ENDPOINTS, LISTENER, ROUTE};
use crate::{Dialect, Resource, ResourceSet, Sets, Wanted};

fn set(names: &[(&str, &str)]) -> ResourceSet {
    let resource = |(name, body): &(&str, &str)| Resource::new(*name, body.as_bytes().to_vec().into());
    names.iter().map(resource).collect()
}

/// Clusters that come unasked, and those that come by name; all have endpoints, and there is a listener and a table.
fn wanted(snapshot: u64, unasked: &[(&str, &str)], by_name: &[(&str, &str)]) -> Arc<Wanted> {
    let all = [unasked, by_name].concat();
    let mut wanted = Wanted::clone(&super::wanted(
        snapshot,
        &[
            (CLUSTER, unasked),
            (ENDPOINTS, &all),
            (LISTENER, &[("l", "1")]),
            (ROUTE, &[("r", "1")]),
        ],
    ));
    wanted.by_name.insert(CLUSTER, set(&all));
    Arc::new(wanted)
}

/// A proxy that took what comes unasked, with these endpoints.
fn started(wanted: Arc<Wanted>, endpoints: &[&str]) -> Pair {
    let mut pair = Pair::new(Dialect::Delta, wanted);
    pair.start(CLUSTER, &[]);
    pair.deliver();
    pair.start(ENDPOINTS, endpoints);
    pair.start(LISTENER, &[]);
    pair.start(ROUTE, &["r"]);
    pair.finish();
    pair
}

fn ask(pair: &mut Pair, name: &str) {
    pair.subscribe(CLUSTER, &[name], &[]);
    pair.deliver();
    if pair.types[CLUSTER].has.contains_key(name) {
        pair.subscribe(ENDPOINTS, &[name], &[]);
        pair.deliver();
    }
}

#[test]
fn a_name_brings_its_cluster_and_then_all_that_becomes_of_it() {
    let eager: &[(&str, &str)] = &[("eager", "1")];
    let mut pair = started(wanted(1, eager, &[("a", "1"), ("b", "1")]), &["eager"]);
    assert_eq!(pair.sent(), ["cds eager", "eds eager", "lds l", "rds r"]);
    let before = pair.session.own_names();
    ask(&mut pair, "a");
    assert_eq!(pair.sent(), ["cds a", "eds a"]);
    pair.finish();
    assert!(pair.session.own_names() <= before + 2, "the cluster and its endpoints");

    pair.session.on_wanted(wanted(2, eager, &[("a", "2"), ("b", "2")]));
    pair.finish();
    assert_eq!(pair.sent(), ["cds a", "eds a"], "nothing of what nobody named");

    pair.session.on_wanted(wanted(3, eager, &[("b", "2")]));
    pair.finish();
    assert_eq!(pair.sent(), ["cds -a", "eds -a"]);
    // Envoy does not ask again: it comes unasked, whenever it is there again.
    pair.session.on_wanted(wanted(4, eager, &[("a", "3"), ("b", "2")]));
    pair.finish();
    assert_eq!(pair.sent(), ["cds a", "eds a"]);
    assert_eq!(pair.faults(), [""; 0]);
}

#[test]
fn a_name_that_there_is_not_is_answered_at_once_while_everything_else_waits() {
    let mut pair = started(wanted(1, &[("eager", "1")], &[]), &["eager"]);
    pair.sent();
    // New clusters that are not acknowledged hold back routes, and routes hold back removals.
    pair.session.on_wanted(wanted(2, &[("eager", "1"), ("new", "1")], &[]));
    while pair.poll() {}
    pair.subscribe(CLUSTER, &["nobody"], &[]);
    pair.deliver();
    assert_eq!(pair.sent(), ["cds new", "cds -nobody"]);
    pair.session.on_wanted(wanted(3, &[("eager", "1")], &[("nobody", "1")]));
    pair.finish();
    assert_eq!(pair.sent(), ["cds nobody", "cds -new"]);
}

#[test]
fn a_new_stream_brings_what_was_named_and_missed() {
    let eager: &[(&str, &str)] = &[("eager", "1")];
    let mut pair = started(wanted(1, eager, &[("a", "1"), ("b", "1"), ("c", "1")]), &["eager"]);
    ask(&mut pair, "a");
    ask(&mut pair, "b");
    pair.reconnect();
    pair.sent();
    pair.finish();
    let sent = pair.sent();
    assert!(sent.iter().all(|line| !line.starts_with("cds")), "{sent:?}");

    pair.reconnect();
    pair.session.on_wanted(wanted(2, eager, &[("a", "2"), ("c", "1")]));
    pair.finish();
    let sent = pair.sent();
    assert!(
        sent.contains(&"cds a".to_owned()) && sent.contains(&"cds -b".to_owned()),
        "{sent:?}"
    );
    assert!(!pair.types[CLUSTER].has.contains_key("c"));
    assert_eq!(pair.faults(), [""; 0]);
}

#[test]
fn a_proxy_that_had_everything_keeps_it() {
    let all: &[(&str, &str)] = &[("a", "1"), ("eager", "1")];
    let mut eagerly = Wanted::clone(&wanted(1, all, &[]));
    eagerly.by_name = Sets::default();
    let mut pair = started(Arc::new(eagerly), &["a", "eager"]);
    pair.sent();
    // Old listeners would not ask.
    pair.session.on_wanted(wanted(2, &[("eager", "1")], &[("a", "1")]));
    pair.finish();
    assert_eq!(pair.sent(), [""; 0]);
    assert_eq!(pair.session.own_names(), 0);
    // Nor on another stream.
    pair.reconnect();
    pair.session.on_wanted(wanted(3, &[("eager", "1")], &[("a", "2")]));
    pair.finish();
    assert!(pair.sent().contains(&"cds a".to_owned()));
    pair.session.on_wanted(wanted(4, &[("eager", "1")], &[]));
    pair.finish();
    assert_eq!(pair.sent(), ["cds -a", "eds -a"]);
    assert_eq!(pair.faults(), [""; 0]);
}
