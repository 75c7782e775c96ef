//! Strategic merge patches of pods, and of what deploys them, by the rules of Kubernetes: some lists are merged by a key,
//! all others replaced.
//!
//! Understood are `null` (removes a field), `$patch: delete|replace`, `$retainKeys` and `$deleteFromPrimitiveList/…`;
//! `$setElementOrder/…` is ignored, for the order of the patch counts.

use serde_json::{Map, Value};

/// Where in an object a value stands, as far as merging cares.
#[derive(Clone, Copy)]
enum Place {
    /// An object of a kind whose own lists are all replaced.
    Object,
    Deployment,
    DeploymentSpec,
    Service,
    ServiceSpec,
    ServiceAccount,
    Pod,
    Metadata,
    Spec,
    Container,
    Elsewhere,
}

/// How a list is merged.
enum Strategy {
    /// Items with the same value of this field are merged.
    ByKey(&'static str, Place),
    /// A set of plain values.
    Set,
    /// The patch's list replaces the other.
    Replace,
}

impl Place {
    fn field(self, field: &str) -> Self {
        match (self, field) {
            (Self::Object | Self::Deployment | Self::Service | Self::ServiceAccount | Self::Pod, "metadata") => {
                Self::Metadata
            }
            (Self::Deployment, "spec") => Self::DeploymentSpec,
            (Self::DeploymentSpec, "template") => Self::Pod,
            (Self::Service, "spec") => Self::ServiceSpec,
            (Self::Pod, "spec") => Self::Spec,
            _ => Self::Elsewhere,
        }
    }

    fn list(self, field: &str) -> Strategy {
        match (self, field) {
            (Self::Spec, "containers" | "initContainers" | "ephemeralContainers") => {
                Strategy::ByKey("name", Self::Container)
            }
            (Self::Spec, "volumes" | "imagePullSecrets" | "resourceClaims" | "schedulingGates")
            | (Self::Container, "env") => Strategy::ByKey("name", Self::Elsewhere),
            (Self::ServiceAccount, "secrets" | "imagePullSecrets") => Strategy::ByKey("name", Self::Elsewhere),
            (Self::ServiceSpec, "ports") => Strategy::ByKey("port", Self::Elsewhere),
            (Self::Spec, "hostAliases") => Strategy::ByKey("ip", Self::Elsewhere),
            (Self::Spec, "topologySpreadConstraints") => Strategy::ByKey("topologyKey", Self::Elsewhere),
            (Self::Container, "ports") => Strategy::ByKey("containerPort", Self::Elsewhere),
            (Self::Container, "volumeMounts") => Strategy::ByKey("mountPath", Self::Elsewhere),
            (Self::Container, "volumeDevices") => Strategy::ByKey("devicePath", Self::Elsewhere),
            (Self::Metadata, "ownerReferences") => Strategy::ByKey("uid", Self::Elsewhere),
            (Self::Metadata, "finalizers") => Strategy::Set,
            _ => Strategy::Replace,
        }
    }
}

/// Lays a strategic merge patch over a pod.
pub fn strategic_merge(pod: &Value, patch: &Value) -> Value {
    merge(pod, patch, Place::Pod)
}

/// Lays a strategic merge patch over an object of this kind: a Pod, Deployment, Service, ServiceAccount, or one of a kind
/// whose lists are all replaced, such as HorizontalPodAutoscaler and PodDisruptionBudget.
pub fn strategic_merge_of(kind: &str, object: &Value, patch: &Value) -> Value {
    let place = match kind {
        "Pod" => Place::Pod,
        "Deployment" => Place::Deployment,
        "Service" => Place::Service,
        "ServiceAccount" => Place::ServiceAccount,
        _ => Place::Object,
    };
    merge(object, patch, place)
}

fn merge(object: &Value, patch: &Value, place: Place) -> Value {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => Value::Object(merge_objects(object, patch, place)),
        (object, Value::Null) => object.clone(),
        (_, patch) => fresh(patch),
    }
}

fn merge_objects(original: &Map<String, Value>, patch: &Map<String, Value>, place: Place) -> Map<String, Value> {
    let mut merged = match directive(patch) {
        Some("replace") => Map::new(),
        Some("delete") => return Map::new(),
        _ => original.clone(),
    };
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Some(gone)) = (merged.get_mut(list), value.as_array()) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if key.starts_with('$') {
            continue;
        }
        let value = match (merged.get(key), value) {
            (_, Value::Null) => {
                merged.remove(key);
                continue;
            }
            (Some(Value::Object(original)), Value::Object(patch)) => {
                if directive(patch) == Some("delete") {
                    merged.remove(key);
                    continue;
                }
                Value::Object(merge_objects(original, patch, place.field(key)))
            }
            (original, Value::Array(patch)) => {
                let original = original.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                Value::Array(merge_lists(original, patch, place.list(key)))
            }
            (_, value) => fresh(value),
        };
        merged.insert(key.clone(), value);
    }
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        merged.retain(|key, _| keep.iter().any(|kept| kept.as_str() == Some(key)));
    }
    merged
}

fn merge_lists(original: &[Value], patch: &[Value], strategy: Strategy) -> Vec<Value> {
    let (key, place) = match strategy {
        Strategy::ByKey(key, place) => (key, place),
        Strategy::Set => {
            let mut merged = original.to_vec();
            merged.extend(patch.iter().filter(|item| !original.contains(item)).cloned());
            return merged;
        }
        Strategy::Replace => return patch.iter().map(fresh).collect(),
    };
    let of = |item: &Value| item.as_object().and_then(directive).map(str::to_owned);
    let original = if patch.iter().any(|item| of(item).as_deref() == Some("replace")) {
        &[]
    } else {
        original
    };
    let same = |a: &Value, b: &Value| identity(a, key).is_some_and(|value| Some(value) == identity(b, key));
    let mut kept: Vec<Value> = original.to_vec();
    let mut named: Vec<Value> = Vec::new();
    for item in patch {
        match of(item).as_deref() {
            Some("delete") => {
                kept.retain(|other| !same(other, item));
                named.retain(|other| !same(other, item));
            }
            Some("replace") if item.get(key).is_none() => {}
            _ => {
                let place_of = named.iter().position(|other| same(other, item));
                let before = match place_of {
                    Some(at) => Some(named[at].clone()),
                    None => kept
                        .iter()
                        .position(|other| same(other, item))
                        .map(|at| kept.remove(at)),
                };
                let merged = match (before, item) {
                    (Some(Value::Object(before)), Value::Object(patch)) => {
                        Value::Object(merge_objects(&before, patch, place))
                    }
                    _ => fresh(item),
                };
                match place_of {
                    Some(at) => named[at] = merged,
                    None => named.push(merged),
                }
            }
        }
    }
    interleave(original, kept, named, key)
}

/// The patch's items in its order; the others in theirs, each before the first of the patch's that it stood before.
fn interleave(original: &[Value], kept: Vec<Value>, named: Vec<Value>, key: &str) -> Vec<Value> {
    let index = |item: &Value| {
        let found = identity(item, key)?;
        original.iter().position(|other| identity(other, key) == Some(found))
    };
    let mut merged = Vec::with_capacity(kept.len() + named.len());
    let mut kept = kept.into_iter().peekable();
    for item in named {
        if let Some(at) = index(&item) {
            while let Some(other) = kept.next_if(|other| index(other).is_some_and(|before| before < at)) {
                merged.push(other);
            }
        }
        merged.push(item);
    }
    merged.extend(kept);
    merged
}

/// What tells an item from others. Of ports also the protocol, though Kubernetes' own patches do without: one number for
/// TCP and UDP is two ports, of which none may get lost.
fn identity<'a>(item: &'a Value, key: &str) -> Option<(&'a Value, &'a str)> {
    let protocol = match key {
        "containerPort" | "port" => item["protocol"].as_str().unwrap_or("TCP"),
        _ => "",
    };
    Some((item.get(key)?, protocol))
}

fn directive(patch: &Map<String, Value>) -> Option<&str> {
    patch.get("$patch")?.as_str()
}

/// A patch where there was nothing before: without nulls and directives.
fn fresh(patch: &Value) -> Value {
    match patch {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(key, value)| !key.starts_with('$') && !value.is_null())
                .map(|(key, value)| (key.clone(), fresh(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(
            items
                .iter()
                .filter(|item| {
                    let map = item.as_object();
                    map.and_then(directive) != Some("delete")
                        && !map.is_some_and(|map| map.len() == 1 && directive(map).is_some())
                })
                .map(fresh)
                .collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_with_a_key_are_merged_and_others_replaced() {
        let pod = json!({"spec": {"containers": [
            {"name": "app", "image": "a", "args": ["x"], "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}]},
            {"name": "two"},
        ]}});
        let patch = json!({"spec": {"containers": [
            {"name": "new"},
            {"name": "app", "args": ["y"], "env": [{"name": "C", "value": "3"}, {"name": "B", "value": "2"}]},
        ]}});
        let merged = strategic_merge(&pod, &patch);
        assert_eq!(
            merged,
            json!({"spec": {"containers": [
                {"name": "new"},
                {"name": "app", "image": "a", "args": ["y"], "env": [
                    {"name": "C", "value": "3"}, {"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
                {"name": "two"},
            ]}})
        );
        assert_eq!(strategic_merge(&merged, &patch), merged, "once more changes nothing");
    }

    #[test]
    fn what_deploys_pods_is_merged_too() {
        let deployment = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "auto"}]}}}});
        let patch =
            json!({"spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "a", "args": ["x"]}]}}}});
        assert_eq!(
            strategic_merge_of("Deployment", &deployment, &patch),
            json!({"spec": {"replicas": 2, "template": {"spec": {"containers": [
                {"name": "a", "image": "auto", "args": ["x"]}]}}}})
        );
        let service = json!({"spec": {"ports": [{"name": "h", "port": 80, "protocol": "TCP"}, {"port": 443}]}});
        let patch = json!({"spec": {"ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 80, "protocol": "UDP"}]}});
        assert_eq!(
            strategic_merge_of("Service", &service, &patch)["spec"]["ports"],
            json!([{"name": "h", "port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 80, "protocol": "UDP"}, {"port": 443}])
        );
        let scaler = json!({"spec": {"metrics": [{"type": "Resource"}]}});
        let patch = json!({"spec": {"metrics": [{"type": "Pods"}]}});
        assert_eq!(strategic_merge_of("HorizontalPodAutoscaler", &scaler, &patch), patch);
    }

    #[test]
    fn directives_remove_and_replace() {
        let pod = json!({
            "metadata": {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}},
            "spec": {
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}],
                "containers": [{"name": "app", "env": [{"name": "A"}], "securityContext": {"runAsUser": 1}}],
            },
        });
        let patch = json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"], "labels": {"x": null}},
            "spec": {
                "volumes": [{"name": "v", "$patch": "delete"}, {"name": "w", "$retainKeys": ["name", "csi"], "csi": {"driver": "d"}}],
                "containers": [{"name": "app", "env": [{"$patch": "replace"}, {"name": "Z"}], "securityContext": {"$patch": "replace", "privileged": false}}],
            },
        });
        assert_eq!(
            strategic_merge(&pod, &patch),
            json!({
                "metadata": {"finalizers": ["b", "c"], "labels": {"y": "2"}},
                "spec": {
                    "volumes": [{"name": "w", "csi": {"driver": "d"}}],
                    "containers": [{"name": "app", "env": [{"name": "Z"}], "securityContext": {"privileged": false}}],
                },
            })
        );
    }
}
