//! The pods inside workloads: Deployments, Jobs, lists of them and so on.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::decision::{Decision, Skip, decide};
use crate::inject::{InjectError, Injected, Request, inject};
use crate::owner::Owner;
use crate::pod;
use crate::settings::InjectionSettings;

/// An object after injection.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The object.
    pub object: Value,
    /// Workloads that got a sidecar, as `Kind namespace/name`.
    pub injected: Vec<String>,
    /// Workloads that got none, and why.
    pub skipped: Vec<(String, Skip)>,
    /// What the user should know, with the workload's name.
    pub warnings: Vec<String>,
}

/// A workload cannot get its sidecar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{workload}: {error}")]
pub struct WorkloadError {
    /// Which, as `Kind namespace/name`.
    pub workload: String,
    /// Why.
    #[source]
    pub error: InjectError,
}

/// Where the pod is in an object of this kind; `None` for kinds that have none.
fn place(object: &Value) -> Option<&'static [&'static str]> {
    let group = object["apiVersion"]
        .as_str()?
        .rsplit_once('/')
        .map_or("", |(group, _)| group);
    match (group, object["kind"].as_str()?) {
        ("", "Pod") => Some(&[]),
        ("batch", "CronJob") => Some(&["spec", "jobTemplate", "spec", "template"]),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "DaemonSet" | "ReplicaSet" | "StatefulSet")
        | ("batch", "Job")
        | ("" | "apps.openshift.io", "DeploymentConfig") => Some(&["spec", "template"]),
        _ => None,
    }
}

/// Gives the pods of an object their sidecars. Objects without pods, and pods that get none, stay as they are.
///
/// # Errors
/// Names the workload, and the annotation or template that cannot be followed.
pub fn inject_object(object: &Value, settings: &InjectionSettings) -> Result<Done, WorkloadError> {
    let mut done = Done {
        object: object.clone(),
        injected: Vec::new(),
        skipped: Vec::new(),
        warnings: Vec::new(),
    };
    if object["kind"] == "List"
        && let Some(items) = done.object["items"].as_array_mut()
    {
        for item in items {
            let of_item = inject_object(item, settings)?;
            *item = of_item.object;
            done.injected.extend(of_item.injected);
            done.skipped.extend(of_item.skipped);
            done.warnings.extend(of_item.warnings);
        }
        return Ok(done);
    }
    let Some(place) = place(object) else {
        return Ok(done);
    };
    let template = place.iter().fold(object, |value, key| &value[key]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let meta = &object["metadata"];
    let wanted = json!({ "metadata": template["metadata"], "spec": template["spec"] });
    let namespace = match text(&wanted["metadata"]["namespace"]) {
        namespace if namespace.is_empty() => text(&meta["namespace"]),
        namespace => namespace,
    };
    let owner = if place.is_empty() {
        Owner::of_pod(object)
    } else {
        Owner {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            name: text(&meta["name"]),
            namespace: text(&meta["namespace"]),
        }
    };
    let mut name = text(&meta["name"]);
    if !namespace.is_empty() {
        name = format!("{namespace}/{name}");
    }
    let workload = format!("{} {name}", text(&object["kind"]));
    if let Decision::Skip(reason) = decide(&wanted, &namespace, &settings.policy) {
        done.skipped.push((workload, reason));
        return Ok(done);
    }
    let request = Request {
        pod: &wanted,
        namespace: &namespace,
        owner: Some(&owner),
        environment: &BTreeMap::new(),
    };
    let Injected { pod: given, warnings } = inject(request, settings).map_err(|error| WorkloadError {
        workload: workload.clone(),
        error,
    })?;
    let target = place.iter().fold(&mut done.object, |value, key| {
        pod::as_object(value).entry(*key).or_insert(Value::Null)
    });
    for key in ["metadata", "spec"] {
        pod::as_object(target).insert(key.to_owned(), given[key].clone());
    }
    done.warnings
        .extend(warnings.into_iter().map(|warning| format!("{workload}: {warning}")));
    done.injected.push(workload);
    Ok(done)
}
