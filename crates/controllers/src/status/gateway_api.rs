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
