//! What an Envoy holds, against what it should hold.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::proxy_config::dump::{Dump, name};

/// The differences of one kind of resources.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    kind: &'static str,
    /// What Envoy should hold and does not.
    missing: Vec<String>,
    /// What it holds though it should not. Its own, from its bootstrap, is not among them.
    extra: Vec<String>,
    /// What it holds in another form.
    other: Vec<String>,
}

/// Clusters, listeners and route tables, compared.
pub(super) fn differences(wanted: &Dump, held: &Dump) -> Vec<Difference> {
    [
        ("Clusters", &wanted.clusters, &held.clusters),
        ("Listeners", &wanted.listeners, &held.listeners),
        ("Routes", &wanted.routes, &held.routes),
    ]
    .into_iter()
    .map(|(kind, all, held)| {
        let mut one = difference(kind, all, held);
        // Nobody may have used them yet.
        one.missing.retain(|name| !wanted.waiting.contains(name));
        one
    })
    .collect()
}

fn difference(kind: &'static str, wanted: &[Value], held: &[Value]) -> Difference {
    let (wanted, held) = (by_name(wanted), by_name(held));
    let names = |one: &ByName<'_>, other: &ByName<'_>| -> Vec<String> {
        let names = one.keys().filter(|name| !other.contains_key(*name));
        names.map(|name| (*name).to_owned()).collect()
    };
    let other = wanted
        .iter()
        .filter(|(name, one)| held.get(*name).is_some_and(|held| held != *one));
    Difference {
        kind,
        missing: names(&wanted, &held),
        extra: names(&held, &wanted)
            .into_iter()
            // Those of Envoy's bootstrap have no place in the control plane.
            .filter(|name| name.contains('|') || name.contains('_') && kind == "Listeners")
            .collect(),
        other: other.map(|(name, _)| (*name).to_owned()).collect(),
    }
}

type ByName<'a> = BTreeMap<&'a str, &'a Value>;

fn by_name(list: &[Value]) -> ByName<'_> {
    list.iter().map(|one| (name(one), one)).collect()
}

impl Difference {
    fn is_none(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.other.is_empty()
    }
}

pub(super) fn as_json(differences: &[Difference]) -> Value {
    let pairs = differences.iter().map(|one| {
        let value = json!({"missing": one.missing, "extra": one.extra, "other": one.other});
        (one.kind.to_lowercase(), value)
    });
    Value::Object(pairs.collect())
}

pub(super) fn as_text(differences: &[Difference]) -> String {
    let mut text = String::from("\n");
    for one in differences {
        if one.is_none() {
            text.push_str(&format!("{} Match\n", one.kind));
            continue;
        }
        text.push_str(&format!("{} Don't Match\n", one.kind));
        for (what, names) in [
            ("is not there", &one.missing),
            ("should not be there", &one.extra),
            ("differs", &one.other),
        ] {
            for name in names {
                text.push_str(&format!("  {name} {what}\n"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(list: &[(&str, &str)]) -> Vec<Value> {
        let cluster = |(name, timeout): &(&str, &str)| json!({"name": name, "connectTimeout": timeout});
        list.iter().map(cluster).collect()
    }

    #[test]
    fn nobody_need_have_used_what_comes_on_first_use() {
        let dump = |active: &[(&str, &str)], warming: &[(&str, &str)]| {
            let entries =
                |list| -> Vec<Value> { clusters(list).into_iter().map(|one| json!({"cluster": one})).collect() };
            let of = "type.googleapis.com/envoy.admin.v3.ClustersConfigDump";
            let (active, warming) = (entries(active), entries(warming));
            let config = json!({"@type": of, "dynamicActiveClusters": active, "dynamicWarmingClusters": warming});
            Dump::read(&json!({"configs": [config]})).unwrap()
        };
        let wanted = dump(&[("outbound|80||a", "1s")], &[("outbound|80||b", "1s")]);
        let held = |list| dump(list, &[]);
        assert!(differences(&wanted, &held(&[("outbound|80||a", "1s")]))[0].is_none());
        let used = held(&[("outbound|80||a", "1s"), ("outbound|80||b", "2s")]);
        assert_eq!(differences(&wanted, &used)[0].other, ["outbound|80||b"]);
        assert_eq!(differences(&wanted, &held(&[]))[0].missing, ["outbound|80||a"]);
    }

    #[test]
    fn what_is_missing_extra_and_other_is_named() {
        let wanted = clusters(&[
            ("outbound|80||a", "1s"),
            ("outbound|80||b", "1s"),
            ("outbound|80||c", "1s"),
        ]);
        let held = clusters(&[
            ("outbound|80||a", "1s"),
            ("outbound|80||b", "2s"),
            ("outbound|80||d", "1s"),
            ("prometheus_stats", "1s"),
        ]);
        let found = difference("Clusters", &wanted, &held);
        assert_eq!(
            as_text(&[found]),
            "\nClusters Don't Match\n  outbound|80||c is not there\n  outbound|80||d should not be there\n  outbound|80||b differs\n"
        );
        assert_eq!(
            as_text(&[difference("Clusters", &wanted, &wanted)]),
            "\nClusters Match\n"
        );
    }
}
