//! The status of Gateway API objects: what is told of them, put beside what others tell.

use std::borrow::Cow;
use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use lateen_api::gateway_api::GROUP;
use lateen_model::status::{Address, Condition, ListenerStatus, ParentRef, ParentStatus, Status};
use serde_json::{Map, Value, json};

use super::desired::{Distribution, distributed, is_distributed, put};
use super::kinds::Shape;
use super::{DISTRIBUTED, Subject};

/// Conditions that nobody else sets where Lateen does: they are removed when they are told no more.
const OWN: [&str; 5] = [
    "Accepted",
    "Conflicted",
    "InsecureFrontendValidationMode",
    "Programmed",
    "ResolvedRefs",
];
/// How many ancestors a policy's status can have.
const MAX_ANCESTORS: usize = 16;

/// What lists of conditions are made with.
struct Telling<'a> {
    /// Of the object as a whole; `None` where nothing is known.
    distributed: Option<(&'static str, &'static str, String)>,
    wording_counts: bool,
    generation: i64,
    now: Timestamp,
    controllers: &'a BTreeSet<String>,
}

/// The status to write, or `None` when the object's own says the same. Times do not count.
pub(super) fn status(
    shape: Shape,
    subject: &Subject,
    told: &Status,
    distribution: &Distribution,
    controllers: &BTreeSet<String>,
    now: Timestamp,
) -> Option<Value> {
    let telling = Telling {
        distributed: distributed(distribution).filter(|_| shape != Shape::Class),
        wording_counts: matches!(distribution, Distribution::Rejected(_)),
        generation: subject.generation,
        now,
        controllers,
    };
    let current = &subject.status;
    let mut patch = Map::new();
    if let Shape::Parents(field) = shape {
        let parents = told.parents.as_deref().unwrap_or_default();
        patch.extend(
            telling
                .parents(field, &current[field], parents)
                .map(|list| (field.to_owned(), list)),
        );
    } else {
        let conditions = telling.conditions(&current["conditions"], &told.conditions);
        patch.extend(conditions.map(|list| ("conditions".to_owned(), list)));
    }
    if let Some(listeners) = &told.listeners {
        let listeners = telling.listeners(&current["listeners"], listeners);
        patch.extend(listeners.map(|list| ("listeners".to_owned(), list)));
    }
    let addresses: Vec<Value> = told.addresses.iter().map(address).collect();
    if !addresses.is_empty() && current["addresses"].as_array() != Some(&addresses) {
        patch.insert("addresses".to_owned(), addresses.into());
    }
    let features: Vec<Value> = told.features.iter().map(|name| json!({ "name": name })).collect();
    if shape == Shape::Class && current["supportedFeatures"].as_array().map_or(&[][..], Vec::as_slice) != features {
        patch.insert("supportedFeatures".to_owned(), features.into());
    }
    let sets = told.listener_sets;
    if current["attachedListenerSets"].as_u64().unwrap_or_default() != sets as u64 {
        patch.insert("attachedListenerSets".to_owned(), sets.into());
    }
    (!patch.is_empty()).then(|| patch.into())
}

/// Whether the status says already, wherever it could, that its generation is everywhere.
pub(super) fn is_distributed_everywhere(shape: Shape, subject: &Subject, controllers: &BTreeSet<String>) -> bool {
    match shape {
        Shape::Class => true,
        Shape::Istio | Shape::Listeners => is_distributed(&subject.status, subject.generation),
        Shape::Parents(field) => {
            let mut parents = subject.status[field]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|entry| is_ours(entry, controllers))
                .peekable();
            // An object of which nothing has been told yet says nothing.
            parents.peek().is_some() && parents.all(|entry| is_distributed(entry, subject.generation))
        }
    }
}

impl Telling<'_> {
    /// A list of conditions, if it differs.
    fn conditions(&self, current: &Value, wanted: &[Condition]) -> Option<Value> {
        let known = current.as_array().map_or(&[][..], Vec::as_slice);
        let mut list = Cow::Borrowed(known);
        let wants = |name: &Value| wanted.iter().any(|condition| *name == condition.kind);
        let is_left_over =
            |condition: &Value| OWN.iter().any(|own| condition["type"] == *own) && !wants(&condition["type"]);
        let mut differs = known.iter().any(is_left_over);
        if differs {
            list.to_mut().retain(|condition| !is_left_over(condition));
        }
        for condition in wanted {
            let status = if condition.holds { "True" } else { "False" };
            let what = (status, condition.reason, condition.message.to_string());
            differs |= put(&mut list, condition.kind, what, true, self.generation, self.now);
        }
        if let Some(what) = self.distributed.clone() {
            differs |= put(
                &mut list,
                DISTRIBUTED,
                what,
                self.wording_counts,
                self.generation,
                self.now,
            );
        }
        differs.then(|| list.into_owned().into())
    }

    fn listeners(&self, current: &Value, wanted: &[ListenerStatus]) -> Option<Value> {
        let alone = Self {
            distributed: None,
            ..*self
        };
        let known = current.as_array().map_or(&[][..], Vec::as_slice);
        let list = wanted.iter().map(|listener| {
            let before = known.iter().find(|known| known["name"] == *listener.name);
            let conditions = before.map_or(&Value::Null, |before| &before["conditions"]);
            let kinds = listener
                .kinds
                .iter()
                .map(|kind| json!({ "group": GROUP, "kind": kind }));
            json!({
                "name": &*listener.name,
                "supportedKinds": kinds.collect::<Vec<_>>(),
                "attachedRoutes": listener.routes,
                "conditions": alone.conditions(conditions, &listener.conditions).unwrap_or_else(|| conditions.clone()),
            })
        });
        let list: Vec<Value> = list.collect();
        (known != list).then(|| list.into())
    }

    /// The entries of all parents: others' as they are, Lateen's where they stood, new ones behind.
    fn parents(&self, field: &str, current: &Value, wanted: &[ParentStatus]) -> Option<Value> {
        let reference = match field {
            "ancestors" => "ancestorRef",
            _ => "parentRef",
        };
        let known = current.as_array().map_or(&[][..], Vec::as_slice);
        let mut missing: Vec<&ParentStatus> = wanted.iter().collect();
        let mut list: Vec<Value> = Vec::with_capacity(known.len() + wanted.len());
        for entry in known {
            if !is_ours(entry, self.controllers) {
                list.push(entry.clone());
                continue;
            }
            let parent = parent_of(&entry[reference]);
            let at = missing
                .iter()
                .position(|told| told.parent == parent && entry["controllerName"] == *told.controller);
            if let Some(at) = at {
                list.push(self.parent(missing.remove(at), reference, Some(entry)));
            }
        }
        list.extend(missing.into_iter().map(|told| self.parent(told, reference, None)));
        if field == "ancestors" {
            list.truncate(MAX_ANCESTORS);
        }
        (known != list).then(|| list.into())
    }

    fn parent(&self, told: &ParentStatus, reference: &str, before: Option<&Value>) -> Value {
        let conditions = before.map_or(&Value::Null, |before| &before["conditions"]);
        let parent = before.map_or_else(|| parent_json(&told.parent), |before| before[reference].clone());
        json!({
            reference: parent,
            "controllerName": &*told.controller,
            "conditions": self.conditions(conditions, &told.conditions).unwrap_or_else(|| conditions.clone()),
        })
    }
}

fn is_ours(entry: &Value, controllers: &BTreeSet<String>) -> bool {
    entry["controllerName"]
        .as_str()
        .is_some_and(|controller| controllers.contains(controller))
}

fn address(address: &Address) -> Value {
    match address {
        Address::Ip(value) => json!({ "type": "IPAddress", "value": &**value }),
        Address::Host(value) => json!({ "type": "Hostname", "value": &**value }),
    }
}

/// A parent as an entry names it, with the defaults that the API server would fill in.
fn parent_of(value: &Value) -> ParentRef {
    let text = |name: &str| value[name].as_str().filter(|text| !text.is_empty());
    ParentRef {
        group: value["group"].as_str().unwrap_or(GROUP).into(),
        kind: text("kind").unwrap_or("Gateway").into(),
        namespace: text("namespace").map(Into::into),
        name: text("name").unwrap_or_default().into(),
        section: text("sectionName").map(Into::into),
        port: value["port"].as_i64().and_then(|port| i32::try_from(port).ok()),
    }
}

fn parent_json(parent: &ParentRef) -> Value {
    let mut json = json!({ "group": &*parent.group, "kind": &*parent.kind, "name": &*parent.name });
    let optional = [
        ("namespace", parent.namespace.as_deref().map(Value::from)),
        ("sectionName", parent.section.as_deref().map(Value::from)),
        ("port", parent.port.map(Value::from)),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            json[name] = value;
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use lateen_names::{Name, ObjectKey, ObjectRef};

    use super::*;

    const OURS: &str = "istio.io/gateway-controller";
    const EVERYWHERE: Distribution = Distribution::Everywhere {
        proxies: 1,
        replicas: 1,
    };

    fn subject(status: Value) -> Subject {
        let key = ObjectKey {
            namespace: None,
            name: Name::new("a").unwrap(),
        };
        Subject {
            object: ObjectRef {
                kind: "HTTPRoute".into(),
                group: GROUP.into(),
                key,
            },
            uid: "u".to_owned(),
            generation: 3,
            version: 7,
            revision: None,
            status,
        }
    }

    fn write(shape: Shape, current: Value, told: &Status, distribution: &Distribution, second: i64) -> Option<Value> {
        let now = Timestamp::from_second(second).unwrap();
        let controllers = BTreeSet::from([OURS.to_owned()]);
        status(shape, &subject(current), told, distribution, &controllers, now)
    }

    fn accepted(holds: bool) -> Condition {
        match holds {
            true => Condition::holds("Accepted", "Accepted", ""),
            false => Condition::fails("Accepted", "NoMatchingParent", "none has this port"),
        }
    }

    fn at_parent(name: &str, holds: bool) -> ParentStatus {
        ParentStatus {
            parent: parent_of(&json!({ "name": name })),
            controller: OURS.into(),
            conditions: vec![accepted(holds)],
        }
    }

    fn route(parents: Vec<ParentStatus>) -> Status {
        Status {
            parents: Some(parents),
            ..Status::default()
        }
    }

    const ROUTE: Shape = Shape::Parents("parents");

    #[test]
    fn parents_of_others_stay_and_those_of_ours_that_are_told_no_more_go() {
        let other = json!({"controllerName": "example.org/other", "parentRef": {"name": "x"}, "conditions": []});
        let stale = json!({"controllerName": OURS, "parentRef": {"name": "gone"}, "conditions": []});
        // As some write it: without defaults.
        let known = json!({"controllerName": OURS, "parentRef": {"name": "a"}, "conditions": [{"type": "Mine", "status": "True"}]});
        let told = route(vec![at_parent("a", true), at_parent("b", false)]);
        let current = json!({ "parents": [stale, known, other] });
        let first = write(ROUTE, current, &told, &EVERYWHERE, 10).unwrap();
        let parents = first["parents"].as_array().unwrap();
        assert_eq!(parents.len(), 3);
        assert_eq!(parents[0]["parentRef"], json!({"name": "a"}));
        assert_eq!(parents[0]["conditions"][0]["type"], "Mine");
        assert_eq!(parents[0]["conditions"][1]["reason"], "Accepted");
        assert_eq!(parents[0]["conditions"][2]["type"], DISTRIBUTED);
        assert_eq!(parents[1], other);
        assert_eq!(
            parents[2]["parentRef"],
            json!({"group": GROUP, "kind": "Gateway", "name": "b"})
        );
        assert!(is_distributed_everywhere(
            ROUTE,
            &subject(first.clone()),
            &BTreeSet::from([OURS.to_owned()])
        ));
        // Once is enough.
        assert!(write(ROUTE, first.clone(), &told, &Distribution::Unchanged, 20).is_none());
        assert!(write(ROUTE, first.clone(), &told, &EVERYWHERE, 20).is_none());
        // What changes says since when, what does not keeps its time.
        let told = route(vec![at_parent("a", false), at_parent("b", false)]);
        let second = write(ROUTE, first, &told, &Distribution::Unchanged, 20).unwrap();
        let since = |parent: usize, condition: usize| {
            second["parents"][parent]["conditions"][condition]["lastTransitionTime"].clone()
        };
        assert_eq!(
            (since(0, 1), since(2, 0)),
            (json!("1970-01-01T00:00:20Z"), json!("1970-01-01T00:00:10Z"))
        );
        let emptied = write(ROUTE, second, &route(Vec::new()), &EVERYWHERE, 30).unwrap();
        assert_eq!(emptied["parents"], json!([other]));
        assert!(write(ROUTE, Value::Null, &route(Vec::new()), &EVERYWHERE, 30).is_none());
    }

    #[test]
    fn a_class_tells_what_it_can_do_once() {
        let told = Status {
            conditions: vec![accepted(true)],
            features: &["Gateway", "HTTPRoute"],
            ..Status::default()
        };
        let first = write(Shape::Class, json!({}), &told, &EVERYWHERE, 10).unwrap();
        let named = json!([{ "name": "Gateway" }, { "name": "HTTPRoute" }]);
        assert_eq!(first["supportedFeatures"], named);
        assert!(write(Shape::Class, first.clone(), &told, &EVERYWHERE, 20).is_none());
        let less = Status {
            features: &["Gateway"],
            ..told
        };
        let second = write(Shape::Class, first, &less, &EVERYWHERE, 30).unwrap();
        assert_eq!(second, json!({ "supportedFeatures": [{ "name": "Gateway" }] }));
    }

    #[test]
    fn a_gateway_tells_of_listeners_and_does_not_forget_its_address() {
        let told = |addresses: Vec<Address>, names: &[&str]| Status {
            conditions: vec![accepted(true)],
            listeners: Some(
                names
                    .iter()
                    .map(|name| ListenerStatus {
                        name: (*name).into(),
                        kinds: vec!["HTTPRoute"],
                        routes: 2,
                        conditions: vec![accepted(true)],
                    })
                    .collect(),
            ),
            addresses,
            ..Status::default()
        };
        let known =
            json!({"conditions": [{"type": "Programmed", "status": "Unknown"}, {"type": "Other", "status": "True"}]});
        let first = told(vec![Address::Ip("203.0.113.7".into())], &["one", "two"]);
        let first = write(Shape::Listeners, known, &first, &EVERYWHERE, 10).unwrap();
        let types: Vec<&str> = first["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|condition| condition["type"].as_str())
            .collect();
        assert_eq!(types, ["Other", "Accepted", DISTRIBUTED], "what is told no more goes");
        assert_eq!(first["listeners"][1]["attachedRoutes"], 2);
        assert_eq!(
            first["addresses"],
            json!([{"type": "IPAddress", "value": "203.0.113.7"}])
        );
        let second = write(
            Shape::Listeners,
            first,
            &told(Vec::new(), &["two"]),
            &Distribution::Unchanged,
            20,
        )
        .unwrap();
        assert_eq!(second["listeners"].as_array().unwrap().len(), 1);
        assert_eq!(
            second["listeners"][0]["conditions"][0]["lastTransitionTime"],
            "1970-01-01T00:00:10Z"
        );
        assert!(second.get("addresses").is_none() && second.get("conditions").is_none());
    }
}
