//! What a session sent, applied to what the proxy had, equals what it should have: over random histories of changes,
//! rejections, lost connections and subscriptions, in both dialects, with messages on their way at any time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::proxy::Pair;
use crate::types::{CLUSTER, ENDPOINTS, LISTENER, NAME_TABLE, ROUTE, VIRTUAL_HOST};
use crate::{Dialect, Resource, ResourceSet, Wanted};

const TYPES: [&str; 6] = [CLUSTER, ENDPOINTS, LISTENER, ROUTE, VIRTUAL_HOST, NAME_TABLE];
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[derive(Debug, Clone)]
enum Step {
    Change(Vec<(usize, usize, Option<String>)>),
    Poll,
    Take,
    Serve,
    Deliver,
    Time(u64),
    Subscribe(usize, usize),
    Unsubscribe(usize, usize),
    Reconnect,
    /// Some of the types that come by wildcard come in part by name only, or whole again.
    Demand(bool),
}

fn body() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        6 => (0..4u8).prop_map(|i| Some(format!("good{i}"))),
        2 => (0..2u8).prop_map(|i| Some(format!("bad{i}"))),
        1 => (0..2u8).prop_map(|i| Some(format!("garbled{i}"))),
        3 => Just(None),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let (types, names) = (0..TYPES.len(), 0..NAMES.len());
    prop_oneof![
        4 => prop::collection::vec((types.clone(), names.clone(), body()), 1..6).prop_map(Step::Change),
        4 => Just(Step::Poll),
        4 => Just(Step::Take),
        4 => Just(Step::Serve),
        2 => Just(Step::Deliver),
        1 => (0..2500u64).prop_map(Step::Time),
        2 => (types.clone(), 0..=NAMES.len()).prop_map(|(t, n)| Step::Subscribe(t, n)),
        2 => (types, 0..=NAMES.len()).prop_map(|(t, n)| Step::Unsubscribe(t, n)),
        1 => Just(Step::Reconnect),
        1 => any::<bool>().prop_map(Step::Demand),
    ]
}

/// What is wanted, where these names of some types come on demand.
fn wanted(snapshot: u64, all: &BTreeMap<Arc<str>, ResourceSet>, on_demand: bool) -> Arc<Wanted> {
    let (mut sets, mut by_name) = (all.clone(), BTreeMap::<Arc<str>, ResourceSet>::new());
    for url in [CLUSTER, VIRTUAL_HOST].into_iter().filter(|_| on_demand) {
        let set = sets.get_mut(url).unwrap();
        by_name.insert(Arc::from(url), set.clone());
        for name in ["b", "c", "d"] {
            set.remove(name);
        }
    }
    for set in sets.values_mut().chain(by_name.values_mut()) {
        *set = made(snapshot, set);
    }
    Arc::new(Wanted {
        snapshot,
        version: Arc::from(format!("v{snapshot}")),
        changed_at: None,
        sets: sets.into_iter().collect(),
        by_name: by_name.into_iter().collect(),
    })
}

/// The same set, as it is made for one stream, for many, or of two others.
fn made(snapshot: u64, set: &ResourceSet) -> ResourceSet {
    match snapshot % 3 {
        0 => set.clone(),
        1 => set.clone().shared(),
        _ => {
            let mut first = set.clone();
            let more: ResourceSet = first.remove("b").into_iter().collect();
            ResourceSet::join([&first.shared(), &more].into_iter())
        }
    }
}

fn run(dialect: Dialect, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut sets: BTreeMap<Arc<str>, ResourceSet> =
        TYPES.iter().map(|url| (Arc::from(*url), ResourceSet::new())).collect();
    let (mut snapshot, mut on_demand) = (0, dialect == Dialect::Delta && steps.len().is_multiple_of(2));
    let mut pair = Pair::new(dialect, wanted(snapshot, &sets, on_demand));
    for url in TYPES {
        let by_name = url == ENDPOINTS || url == ROUTE;
        pair.start(url, if by_name { &["a", "b", "c"] } else { &[] });
    }
    for step in steps {
        match step {
            Step::Change(changes) => {
                for (at, name, body) in changes {
                    let set = sets.get_mut(TYPES[*at]).unwrap();
                    match body {
                        Some(body) => {
                            set.insert(Arc::new(Resource::new(NAMES[*name], body.clone().into_bytes().into())))
                        }
                        None => drop(set.remove(NAMES[*name])),
                    }
                }
                snapshot += 1;
                pair.session.on_wanted(wanted(snapshot, &sets, on_demand));
            }
            Step::Demand(now) => {
                on_demand = *now && dialect == Dialect::Delta;
                snapshot += 1;
                pair.session.on_wanted(wanted(snapshot, &sets, on_demand));
            }
            Step::Poll => drop(pair.poll()),
            Step::Take => drop(pair.take()),
            Step::Serve => drop(pair.serve()),
            Step::Deliver => pair.deliver(),
            Step::Time(milliseconds) => pair.now += Duration::from_millis(*milliseconds),
            Step::Subscribe(at, name) => pair.subscribe(TYPES[*at], &[NAMES.get(*name).copied().unwrap_or("*")], &[]),
            Step::Unsubscribe(at, name) => {
                // By an empty list of names, the state of the world would ask for everything again.
                let name = NAMES.get(*name).copied().unwrap_or("*");
                if dialect == Dialect::Delta || (TYPES[*at] == ROUTE && name != "*") {
                    pair.subscribe(TYPES[*at], &[], &[name]);
                }
            }
            Step::Reconnect => pair.reconnect(),
        }
    }
    pair.finish();
    let faults = pair.faults();
    prop_assert!(faults.is_empty(), "{:?}\nsent: {:#?}", faults, pair.log);
    Ok(())
}

/// As many cases as `PROPTEST_CASES` says, and no fewer than these.
fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig {
        cases: config.cases.max(1000),
        failure_persistence: None,
        ..config
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn delta_ends_where_it_should(steps in prop::collection::vec(step(), 1..60)) {
        run(Dialect::Delta, &steps)?;
    }

    #[test]
    fn the_state_of_the_world_ends_where_it_should(steps in prop::collection::vec(step(), 1..60)) {
        run(Dialect::StateOfTheWorld, &steps)?;
    }
}
