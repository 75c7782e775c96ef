//! A pod as JSON: what the rest of the crate needs to look at and to change.

use serde_json::{Map, Value};

/// The proxy's container.
pub(crate) const PROXY: &str = "istio-proxy";
/// The init container that redirects traffic.
pub(crate) const INIT: &str = "istio-init";
/// The init container that makes sure the CNI plugin has redirected traffic.
pub(crate) const VALIDATION: &str = "istio-validation";
/// An init container that older templates had.
pub(crate) const CORE_DUMP: &str = "enable-core-dump";

/// `spec.containers`.
pub(crate) const CONTAINERS: &str = "containers";
/// `spec.initContainers`.
pub(crate) const INIT_CONTAINERS: &str = "initContainers";

/// Whether a container of this name belongs to the mesh.
pub(crate) fn is_ours(name: &str) -> bool {
    [PROXY, INIT, VALIDATION, CORE_DUMP].contains(&name)
}

/// A list in the pod's `spec`.
pub(crate) fn list<'a>(pod: &'a Value, key: &str) -> &'a [Value] {
    pod["spec"][key].as_array().map_or(&[], Vec::as_slice)
}

/// A list in the pod's `spec`, to change; `None` where there is none.
pub(crate) fn list_mut<'a>(pod: &'a mut Value, key: &str) -> Option<&'a mut Vec<Value>> {
    pod.get_mut("spec")?.get_mut(key)?.as_array_mut()
}

/// The name of a container, volume or variable.
pub(crate) fn name(item: &Value) -> &str {
    item["name"].as_str().unwrap_or_default()
}

/// The item of that name.
pub(crate) fn find<'a>(items: &'a [Value], wanted: &str) -> Option<&'a Value> {
    items.iter().find(|item| name(item) == wanted)
}

/// The container of that name, among containers first.
pub(crate) fn container<'a>(pod: &'a Value, wanted: &str) -> Option<&'a Value> {
    find(list(pod, CONTAINERS), wanted).or_else(|| find(list(pod, INIT_CONTAINERS), wanted))
}

/// The container of that name, to change.
pub(crate) fn container_mut<'a>(pod: &'a mut Value, wanted: &str) -> Option<&'a mut Value> {
    let key = if find(list(pod, CONTAINERS), wanted).is_some() {
        CONTAINERS
    } else {
        INIT_CONTAINERS
    };
    list_mut(pod, key)?.iter_mut().find(|item| name(item) == wanted)
}

/// Moves a container to the front, where it is in that list.
pub(crate) fn move_first(pod: &mut Value, key: &str, wanted: &str) {
    if let Some(items) = list_mut(pod, key)
        && let Some(at) = items.iter().position(|item| name(item) == wanted)
    {
        let item = items.remove(at);
        items.insert(0, item);
    }
}

/// Moves a container to the end, where it is in that list.
pub(crate) fn move_last(pod: &mut Value, key: &str, wanted: &str) {
    if let Some(items) = list_mut(pod, key)
        && let Some(at) = items.iter().position(|item| name(item) == wanted)
    {
        let item = items.remove(at);
        items.push(item);
    }
}

/// The pod's annotations or labels.
pub(crate) fn metadata<'a>(pod: &'a Value, key: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let map = pod["metadata"][key].as_object();
    map.into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

/// One annotation.
pub(crate) fn annotation<'a>(pod: &'a Value, key: &str) -> Option<&'a str> {
    pod["metadata"]["annotations"].get(key)?.as_str()
}

/// One label.
pub(crate) fn label<'a>(pod: &'a Value, key: &str) -> Option<&'a str> {
    pod["metadata"]["labels"].get(key)?.as_str()
}

/// Sets an annotation.
pub(crate) fn annotate(pod: &mut Value, key: &str, value: impl Into<Value>) {
    object(object_of(pod, "metadata"), "annotations").insert(key.to_owned(), value.into());
}

/// Sets a label.
pub(crate) fn set_label(pod: &mut Value, key: &str, value: impl Into<Value>) {
    object(object_of(pod, "metadata"), "labels").insert(key.to_owned(), value.into());
}

/// The object under a key; made where there is none.
pub(crate) fn object<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    as_object(parent.entry(key).or_insert(Value::Null))
}

fn object_of<'a>(parent: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    object(as_object(parent), key)
}

/// The value as an object; becomes one where it is none.
pub(crate) fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => {
            *other = Value::Object(Map::new());
            as_object(other)
        }
    }
}

/// Removes nulls, at any depth.
pub(crate) fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}
