//! Lowering and validation cope with whatever they are given.

use std::sync::LazyLock;

use lateen_lower::Settings;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::world::{object, objects, reference, snapshot_with};

/// Objects that use many fields; those of the reference data are added where it is there.
static SEEDS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let mut seeds: Vec<Value> = include_str!("seeds.yaml")
        .split("\n---\n")
        .map(|text| lateen_lower::yaml::parse(text).unwrap())
        .filter(|value| !value.is_null())
        .collect();
    if let Some(folder) = reference("corpus") {
        let mut scenarios: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().join("input.yaml"))
            .collect();
        scenarios.sort();
        for text in scenarios.iter().filter_map(|path| std::fs::read_to_string(path).ok()) {
            seeds.extend(
                lateen_lower::yaml::documents(&text)
                    .map(Result::unwrap)
                    .filter(|document| {
                        document
                            .get("apiVersion")
                            .and_then(Value::as_str)
                            .is_some_and(|version| {
                                version.contains("istio.io/")
                                    || version.starts_with("gateway.")
                                    || version.starts_with("networking.k8s.io/")
                            })
                    }),
            );
        }
    }
    seeds
});

fn strange() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!("")),
        Just(json!("*")),
        Just(json!("ü/~.*\u{0}%(")),
        Just(json!("a".repeat(300))),
        Just(json!(-1)),
        Just(json!(0)),
        Just(json!(70000)),
        Just(json!(i64::MAX)),
        Just(json!(1e300)),
        Just(json!("-5s")),
        Just(json!("99999h")),
        Just(json!([])),
        Just(json!({})),
        Just(json!(true)),
        any::<String>().prop_map(Value::from),
    ]
}

/// How many values there are in a value.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(values) => values.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        _ => 0,
    }
}

/// Puts something else in the place of the value of that number.
fn replace(value: &mut Value, at: &mut usize, with: &Value) {
    if *at == 0 {
        *value = with.clone();
        *at = usize::MAX;
        return;
    }
    *at -= 1;
    let children: Vec<&mut Value> = match value {
        Value::Array(values) => values.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        if *at == usize::MAX {
            return;
        }
        replace(child, at, with);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_makes_it_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), strange()), 1..24)) {
        let mut documents: Vec<Value> = changes.iter().map(|(seed, ..)| seed.get(&SEEDS).clone()).collect();
        for (document, (_, place, with)) in documents.iter_mut().zip(&changes) {
            let Some(spec) = document.get_mut("spec") else { continue };
            let mut at = place.index(size(spec));
            replace(spec, &mut at, with);
        }
        let objects = documents.into_iter().filter_map(|document| object(document).ok().flatten());
        let snapshot = snapshot_with(Settings::new("").unwrap(), objects.collect());
        for diagnostic in snapshot.diagnostics.iter() {
            prop_assert!(!diagnostic.field.is_empty() && !diagnostic.message.is_empty(), "{diagnostic:?}");
        }
    }
}

#[test]
fn the_seeds_are_valid() {
    let snapshot = snapshot_with(Settings::new("").unwrap(), objects(include_str!("seeds.yaml")));
    let errors = crate::world::errors(&snapshot);
    let errors: Vec<_> = errors.into_iter().filter(|error| error.code != "IST0101").collect();
    assert!(errors.is_empty(), "{errors:?}");
}
