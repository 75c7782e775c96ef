//! What was injected before, and what users say of the mesh's containers in containers of the same name.
//!
//! Two annotations remember it: `sidecar.istio.io/status` names what was injected, so that it can be told from what the
//! user wrote; `proxy.istio.io/overrides` keeps the user's containers of the mesh's names as they were, for the next
//! injection.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::annotations::{OVERRIDES, STATUS};
use crate::context::Context;
use crate::inject::InjectError;
use crate::merge::strategic_merge;
use crate::pod;

/// The image name with which users leave the image to the injector.
const AUTO: &str = "auto";

/// The annotation `sidecar.istio.io/status`. Empty lists are null there.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    init_containers: Option<Vec<String>>,
    containers: Option<Vec<String>>,
    volumes: Option<Vec<String>>,
    image_pull_secrets: Option<Vec<String>>,
    revision: String,
}

impl Status {
    fn of(pod: &Value) -> Option<Self> {
        serde_json::from_str(pod::annotation(pod, STATUS)?).ok()
    }

    /// In which list does not matter: a later injection may put the proxy into the other one.
    fn has(&self, name: &str) -> bool {
        let mut names = self.containers.iter().chain(&self.init_containers).flatten();
        names.any(|known| known == name)
    }
}

/// The annotation that names what a template injects.
pub(crate) fn status(template: &Value, revision: &str) -> String {
    let names = |key: &str| {
        let names: Vec<String> = pod::list(template, key)
            .iter()
            .map(|item| pod::name(item).to_owned())
            .collect();
        (!names.is_empty()).then_some(names)
    };
    let status = Status {
        init_containers: names(pod::INIT_CONTAINERS),
        containers: names(pod::CONTAINERS),
        volumes: names("volumes"),
        image_pull_secrets: names("imagePullSecrets"),
        revision: if revision.is_empty() { "default" } else { revision }.to_owned(),
    };
    serde_json::to_string(&status).unwrap_or_default()
}

/// The pod as its user wrote it, as far as templates read it: without what was injected, and with the user's own
/// containers of the mesh's names.
pub(crate) fn as_written(injected: &Value) -> Result<Value, InjectError> {
    let Some(status) = Status::of(injected) else {
        return Ok(injected.clone());
    };
    let mut pod = injected.clone();
    let overrides = kept(&pod)?;
    for key in [pod::CONTAINERS, pod::INIT_CONTAINERS] {
        let own = overrides
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        if let Some(containers) = pod::list_mut(&mut pod, key) {
            containers.retain(|container| !status.has(pod::name(container)));
        }
        let missing: Vec<Value> = own
            .into_iter()
            .filter(|container| pod::find(pod::list(&pod, key), pod::name(container)).is_none())
            .collect();
        if missing.is_empty() {
            continue;
        }
        let spec = pod::object(pod::as_object(&mut pod), "spec");
        let containers = spec.entry(key).or_insert_with(|| json!([]));
        if let Some(containers) = containers.as_array_mut() {
            containers.extend(missing);
        }
    }
    Ok(pod)
}

/// The user's containers that were kept at the first injection.
fn kept(pod: &Value) -> Result<Map<String, Value>, InjectError> {
    let Some(text) = pod::annotation(pod, OVERRIDES) else {
        return Ok(Map::new());
    };
    serde_json::from_str(text).map_err(|error| InjectError::Annotation {
        name: OVERRIDES.to_owned(),
        value: text.to_owned(),
        reason: error.to_string(),
    })
}

/// Lays the user's containers over those that the template has of the same name: the user wins. At the first injection
/// they are kept in an annotation.
pub(crate) fn reapply(merged: Value, original: &Value, template: &Value) -> Result<Value, InjectError> {
    let status = Status::of(original);
    let before = kept(original)?;
    let mut merged = merged;
    let mut found: Map<String, Value> = Map::new();
    for key in [pod::CONTAINERS, pod::INIT_CONTAINERS] {
        for container in pod::list(template, key) {
            let name = pod::name(container);
            let kept = before.get(key).and_then(Value::as_array);
            let kept = kept.and_then(|containers| pod::find(containers, name));
            // An application's container has been changed since by others too: as it is now, it is the user's.
            let kept = kept.filter(|_| pod::is_ours(name));
            let injected = status.as_ref().is_some_and(|status| status.has(name));
            let own = match kept {
                Some(kept) => Some(kept),
                None if injected && pod::is_ours(name) => None,
                None if injected && before.is_empty() => None,
                None if key == pod::CONTAINERS => pod::find(pod::list(original, key), name),
                None => pod::container(original, name),
            };
            let Some(own) = own else { continue };
            let mut own = pod::without_nulls(own);
            if own["image"] == AUTO {
                pod::as_object(&mut own).remove("image");
                // The API server writes this for every image without a tag; it says nothing about the one meant.
                if own["imagePullPolicy"] == "Always" {
                    pod::as_object(&mut own).remove("imagePullPolicy");
                    forget_pull_policy(&mut merged, name, container);
                }
            }
            merged = strategic_merge(&merged, &json!({ "spec": { key: [own] } }));
            let list = found.entry(key).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(own);
            }
        }
    }
    if status.is_none() && !found.is_empty() {
        pod::annotate(&mut merged, OVERRIDES, Value::Object(found).to_string());
    }
    Ok(merged)
}

/// Leaves the pull policy of a container to the template, or to Kubernetes where that has none.
fn forget_pull_policy(merged: &mut Value, name: &str, template: &Value) {
    if let Some(container) = pod::container_mut(merged, name) {
        match template.get("imagePullPolicy") {
            Some(policy) => container["imagePullPolicy"] = policy.clone(),
            None => drop(pod::as_object(container).remove("imagePullPolicy")),
        }
    }
}

/// Makes redirection and proxy agree on the user ID, where the user gives the proxy one.
pub(crate) fn agree_on_user(merged: &mut Value, context: &Context<'_>) {
    let Some(security) = pod::container(context.pod, pod::PROXY).map(|proxy| &proxy["securityContext"]) else {
        return;
    };
    let (uid, gid) = (security["runAsUser"].as_i64(), security["runAsGroup"].as_i64());
    if uid.is_none() && gid.is_none() {
        return;
    }
    let init = [pod::INIT, pod::VALIDATION];
    let init = init
        .into_iter()
        .find(|name| pod::find(pod::list(merged, pod::INIT_CONTAINERS), name).is_some());
    let Some(init) = init else { return };
    // Only root can bind to addresses that are not its own.
    if context.is_tproxy() {
        if uid.is_some()
            && let Some(proxy) = pod::container_mut(merged, pod::PROXY)
        {
            pod::object(pod::as_object(proxy), "securityContext").insert("runAsUser".to_owned(), 0.into());
        }
    } else if init == pod::VALIDATION
        && let Some(container) = pod::container_mut(merged, init)
    {
        for (field, id) in [("runAsUser", uid), ("runAsGroup", gid)] {
            if let Some(id) = id {
                pod::object(pod::as_object(container), "securityContext").insert(field.to_owned(), id.into());
            }
        }
    }
    // Redirection cannot leave root's traffic alone: that would be the application's too.
    let Some(uid) = uid.filter(|uid| *uid != 0) else { return };
    let arguments = pod::container_mut(merged, init).and_then(|container| container["args"].as_array_mut());
    if let Some(arguments) = arguments
        && let Some(at) = arguments.iter().position(|argument| argument == "-u")
        && let Some(value) = arguments.get_mut(at + 1)
    {
        *value = uid.to_string().into();
    }
}

/// OpenShift gives all containers of a pod one user ID, the proxy's among them, which would exempt the application from
/// redirection. An ID of the user's proxy container that is the application's too is OpenShift's, and goes.
pub(crate) fn forget_shared_user(pod: &mut Value) {
    let uid = |container: &Value| container["securityContext"]["runAsUser"].as_i64();
    let Some(of_proxy) = pod::container(pod, pod::PROXY).and_then(uid) else {
        return;
    };
    let others = [pod::CONTAINERS, pod::INIT_CONTAINERS];
    let mut others = others.iter().flat_map(|key| pod::list(pod, key));
    let shared = others.any(|container| !pod::is_ours(pod::name(container)) && uid(container) == Some(of_proxy));
    if !shared {
        return;
    }
    let security = pod::container_mut(pod, pod::PROXY).and_then(|proxy| proxy["securityContext"].as_object_mut());
    if let Some(security) = security {
        security.remove("runAsUser");
        security.remove("runAsGroup");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_auto_leaves_its_pull_policy_to_the_template() {
        let template = json!({"spec": {"containers": [{"name": "istio-proxy", "image": "proxy:1"}]}});
        let with = |policy: &str| {
            let original = json!({"spec": {"containers": [
                {"name": "istio-proxy", "image": "auto", "imagePullPolicy": policy},
            ]}});
            let merged = strategic_merge(&original, &template);
            let merged = reapply(merged, &original, &template).unwrap();
            merged["spec"]["containers"][0].clone()
        };
        assert_eq!(with("Always"), json!({"name": "istio-proxy", "image": "proxy:1"}));
        assert_eq!(
            with("Never"),
            json!({"name": "istio-proxy", "image": "proxy:1", "imagePullPolicy": "Never"})
        );
    }
}
