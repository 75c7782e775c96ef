//! From a pod to the pod with its sidecar.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::annotations::{self, REWRITE_PROBES, STATUS, TEMPLATES};
use crate::context::{self, Context, PROXY_UID};
use crate::merge::strategic_merge;
use crate::owner::Owner;
use crate::settings::InjectionSettings;
use crate::{overrides, pod, probes, prometheus, proxy_config, template};

/// The variables that the proxy learns its cluster and network by.
const CLUSTER: &str = "ISTIO_META_CLUSTER_ID";
const NETWORK: &str = "ISTIO_META_NETWORK";
/// The label that names a pod's network.
const NETWORK_LABEL: &str = "topology.istio.io/network";

/// A pod cannot get what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// An annotation has a value that it cannot have.
    #[error("metadata.annotations[{name}]: invalid value `{value}`: {reason}")]
    Annotation {
        /// The annotation.
        name: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A template that the pod or the settings ask for is of no use.
    #[error("injection template `{name}`: {reason}")]
    Template {
        /// Its name.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// What came out cannot be compared with what went in.
    #[error("cannot write the patch: {0}")]
    Patch(String),
}

/// A pod that is to get a sidecar.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The pod, as JSON.
    pub pod: &'a Value,
    /// The namespace that it is made in.
    pub namespace: &'a str,
    /// The workload, where it is known better than by the pod.
    pub owner: Option<&'a Owner>,
    /// Variables that the caller sets on the proxy, such as `ISTIO_META_CLUSTER_ID` for a remote cluster.
    pub environment: &'a BTreeMap<String, String>,
}

/// A pod with its sidecar.
#[derive(Debug, Clone, PartialEq)]
pub struct Injected {
    /// The pod.
    pub pod: Value,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Gives a pod its sidecar. A pod that has one gets it anew, with what the user changed about it.
///
/// # Errors
/// Names the annotation or the template that cannot be followed.
pub fn inject(request: Request<'_>, settings: &InjectionSettings) -> Result<Injected, InjectError> {
    annotations::check(request.pod)?;
    let mut original = request.pod.clone();
    let annotations = settings.namespaces.get(request.namespace);
    if annotations.is_some_and(|annotations| annotations.keys().any(|key| key.starts_with("openshift.io/sa.scc."))) {
        overrides::forget_shared_user(&mut original);
    }
    let written = overrides::as_written(&original)?;
    let proxy_config = proxy_config::effective(settings, &written, request.namespace)?;
    let guessed;
    let owner = match request.owner {
        Some(owner) => owner,
        None => {
            let mut owner = Owner::of_pod(&written);
            if owner.namespace.is_empty() {
                request.namespace.clone_into(&mut owner.namespace);
            }
            guessed = owner;
            &guessed
        }
    };
    let (uid, gid) = context::proxy_ids(annotations);
    let context = Context {
        settings,
        pod: &written,
        owner,
        proxy_config: &proxy_config,
        native: context::is_native(settings, &original),
        uid,
        gid,
    };
    let (merged, template) = merge_templates(&original, &context)?;
    let mut merged = overrides::reapply(merged, &original, &template)?;
    overrides::agree_on_user(&mut merged, &context);
    let port = context::status_port(&merged, &proxy_config);
    set_environment(&mut merged, &environment(request, settings));
    prometheus::merge(&mut merged, &settings.mesh, port)?;
    prometheus::secure_port(&mut merged);
    let asked = pod::annotation(&merged, REWRITE_PROBES).and_then(annotations::flag);
    if asked.unwrap_or_else(|| settings.values.flag("sidecarInjectorWebhook.rewriteAppHTTPProbe")) {
        probes::rewrite(&mut merged, port);
    }
    pod::annotate(&mut merged, STATUS, overrides::status(&template, &settings.revision));
    for (key, value) in &settings.policy.annotations {
        pod::annotate(&mut merged, key, value.as_str());
    }
    reorder(&mut merged, context.holds_application());
    let warnings = warnings(&merged);
    Ok(Injected { pod: merged, warnings })
}

/// The difference between two pods as JSON Patch (RFC 6902).
///
/// # Errors
/// When it cannot be written as JSON.
pub fn patch(before: &Value, after: &Value) -> Result<Value, InjectError> {
    let patch = json_patch::diff(before, after);
    serde_json::to_value(patch).map_err(|error| InjectError::Patch(error.to_string()))
}

/// Lays the pod's templates over it, in order; also gives the templates alone.
fn merge_templates(original: &Value, context: &Context<'_>) -> Result<(Value, Value), InjectError> {
    let asked = pod::annotation(original, TEMPLATES);
    let mut merged = original.clone();
    let mut template = json!({});
    for name in context.settings.policy.templates(asked) {
        let mut patch = template::render(&name, context)?;
        // A user's overlay need not know whether the sidecar is an init container.
        move_proxy(&mut patch, &template);
        template = strategic_merge(&template, &patch);
        move_proxy(&mut merged, &template);
        merged = strategic_merge(&merged, &patch);
    }
    Ok((merged, template))
}

/// A user's container `istio-proxy` belongs where the template has it.
fn move_proxy(pod: &mut Value, template: &Value) {
    for (from, to) in [
        (pod::CONTAINERS, pod::INIT_CONTAINERS),
        (pod::INIT_CONTAINERS, pod::CONTAINERS),
    ] {
        let there = pod::find(pod::list(template, to), pod::PROXY).is_some();
        let here = pod::list(pod, from)
            .iter()
            .position(|container| pod::name(container) == pod::PROXY);
        let (true, Some(at)) = (there, here) else { continue };
        let Some(mut container) = pod::list_mut(pod, from).map(|containers| containers.remove(at)) else {
            continue;
        };
        if to == pod::CONTAINERS
            && let Some(fields) = container.as_object_mut()
        {
            fields.remove("restartPolicy");
        }
        let spec = pod::object(pod::as_object(pod), "spec");
        if let Some(containers) = spec.entry(to).or_insert_with(|| json!([])).as_array_mut() {
            containers.push(container);
        }
    }
}

/// What the caller, the installation and the pod say of cluster and network, the later before the earlier.
fn environment(request: Request<'_>, settings: &InjectionSettings) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    for (name, path) in [
        (CLUSTER, "global.multiCluster.clusterName"),
        (NETWORK, "global.network"),
    ] {
        environment.insert(name.to_owned(), settings.values.text(path));
    }
    for (name, value) in request.environment {
        if !value.is_empty() || ![CLUSTER, NETWORK].contains(&name.as_str()) {
            environment.insert(name.clone(), value.clone());
        }
    }
    if let Some(network) = pod::label(request.pod, NETWORK_LABEL) {
        environment.insert(NETWORK.to_owned(), network.to_owned());
    }
    environment.retain(|name, value| !value.is_empty() || ![CLUSTER, NETWORK].contains(&name.as_str()));
    environment
}

fn set_environment(pod: &mut Value, environment: &BTreeMap<String, String>) {
    if let Some(network) = environment.get(NETWORK) {
        pod::set_label(pod, NETWORK_LABEL, network.as_str());
    }
    let Some(proxy) = pod::container_mut(pod, pod::PROXY) else {
        return;
    };
    for (name, value) in environment {
        let variables = pod::as_object(proxy).entry("env").or_insert_with(|| json!([]));
        let Some(variables) = variables.as_array_mut() else {
            return;
        };
        let variable = json!({ "name": name, "value": value });
        match variables.iter_mut().find(|known| pod::name(known) == name) {
            Some(known) => *known = variable,
            None => variables.push(variable),
        }
    }
}

/// A proxy beside the application comes last, so that `kubectl exec` finds the application, or first where the
/// application waits for it. Among init containers the proxy comes before all that may want to use the mesh, and
/// redirection right before it; without such a proxy redirection comes last, for nothing would take the traffic.
fn reorder(pod: &mut Value, hold: bool) {
    if hold {
        pod::move_first(pod, pod::CONTAINERS, pod::PROXY);
    } else {
        pod::move_last(pod, pod::CONTAINERS, pod::PROXY);
    }
    if pod::find(pod::list(pod, pod::INIT_CONTAINERS), pod::PROXY).is_some() {
        for name in [pod::CORE_DUMP, pod::PROXY, pod::VALIDATION, pod::INIT] {
            pod::move_first(pod, pod::INIT_CONTAINERS, name);
        }
    } else {
        pod::move_first(pod, pod::INIT_CONTAINERS, pod::VALIDATION);
        pod::move_last(pod, pod::INIT_CONTAINERS, pod::INIT);
        pod::move_last(pod, pod::INIT_CONTAINERS, pod::CORE_DUMP);
    }
}

fn warnings(pod: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    match pod["spec"]["dnsPolicy"].as_str() {
        None | Some("ClusterFirst" | "ClusterFirstWithHostNet") => {}
        Some(other) => warnings.push(format!(
            "spec.dnsPolicy: with {other} the sidecar may not find the control plane; use ClusterFirst"
        )),
    }
    let of_pod = pod["spec"]["securityContext"]["runAsUser"].as_i64();
    for container in pod::list(pod, pod::CONTAINERS) {
        let name = pod::name(container);
        let user = container["securityContext"]["runAsUser"].as_i64().or(of_pod);
        if name != pod::PROXY && user == Some(PROXY_UID) {
            warnings.push(format!(
                "container {name} runs as user {PROXY_UID}, whose traffic does not go through the sidecar; use another user"
            ));
        }
    }
    warnings
}
