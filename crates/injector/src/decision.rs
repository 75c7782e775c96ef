//! Whether a pod gets a sidecar.
//!
//! Two questions, answered by two parties: [`selects`] is what the API server asks by the selectors of the webhook's
//! configuration, from labels of the namespace and the pod; [`decide`] is what the webhook asks of the pods it is sent.

use std::collections::BTreeMap;

use lateen_api::mesh::config::LabelSelector;
use serde_json::Value;

use crate::pod;
use crate::settings::Policy;

/// Namespaces whose pods keep the cluster alive.
const IGNORED: &[&str] = &["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// Label (and older annotation) by which a pod asks for a sidecar, or for none.
const INJECT: &str = "sidecar.istio.io/inject";

/// What is to happen to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It gets a sidecar.
    Inject,
    /// It gets none.
    Skip(Skip),
}

/// Why a pod gets no sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It has the node's network, where redirection would hit everything on the node.
    HostNetwork,
    /// Its namespace is one of the cluster's own.
    SystemNamespace,
    /// It says so, by label or annotation.
    Asked,
    /// A `neverInjectSelector` matches it.
    NeverSelector,
    /// It says nothing, and the policy is `disabled`.
    Policy,
}

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::HostNetwork => "it has host networking enabled",
            Self::SystemNamespace => "its namespace is one of the cluster's own",
            Self::Asked => "it has sidecar injection disabled",
            Self::NeverSelector => "a neverInjectSelector matches its labels",
            Self::Policy => "it does not ask for a sidecar, and the policy is disabled",
        })
    }
}

/// Whether a pod gets a sidecar. The label goes before the annotation; where neither is `true` or `false`, the
/// selectors count, never before always; where they say nothing, the policy.
pub fn decide(pod: &Value, namespace: &str, policy: &Policy) -> Decision {
    if pod["spec"]["hostNetwork"] == true {
        return Decision::Skip(Skip::HostNetwork);
    }
    if IGNORED.contains(&namespace) {
        return Decision::Skip(Skip::SystemNamespace);
    }
    match pod::label(pod, INJECT).or_else(|| pod::annotation(pod, INJECT)) {
        Some("true") => return Decision::Inject,
        Some("false") => return Decision::Skip(Skip::Asked),
        _ => {}
    }
    let labels: BTreeMap<&str, &str> = pod::metadata(pod, "labels").collect();
    let any = |selectors: &[LabelSelector]| selectors.iter().any(|selector| matches(selector, &labels));
    if any(&policy.never) {
        Decision::Skip(Skip::NeverSelector)
    } else if any(&policy.always) || policy.enabled {
        Decision::Inject
    } else {
        Decision::Skip(Skip::Policy)
    }
}

/// Whether labels match. An empty selector matches nothing here, and neither does one with an unknown operator.
fn matches(selector: &LabelSelector, labels: &BTreeMap<&str, &str>) -> bool {
    if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
        return false;
    }
    let equal = |(key, value): (&String, &String)| labels.get(key.as_str()) == Some(&value.as_str());
    selector.match_labels.iter().all(equal)
        && selector.match_expressions.iter().all(|expression| {
            let found = labels.get(expression.key.as_str());
            let among = found.is_some_and(|value| expression.values.iter().any(|other| other == value));
            match expression.operator.as_str() {
                "In" => among,
                "NotIn" => !among,
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

/// Whether the webhook of a control plane is asked about a pod. `names` are its revision and its tags, `default` among
/// them where it is the default one; `everywhere` is `enableNamespacesByDefault`.
///
/// A namespace's `istio-injection` goes before its `istio.io/rev`, and both before the pod's `istio.io/rev`; a pod's
/// `sidecar.istio.io/inject: false` before everything.
pub fn selects(
    namespace_labels: &BTreeMap<String, String>,
    pod_labels: &BTreeMap<String, String>,
    names: &[&str],
    everywhere: bool,
) -> bool {
    let default = names.contains(&"default") || names.contains(&"");
    let asked = pod_labels.get(INJECT).map(String::as_str);
    if asked == Some("false") {
        return false;
    }
    let of = |labels: &BTreeMap<String, String>, key: &str| labels.get(key).cloned();
    let pod_revision = of(pod_labels, "istio.io/rev");
    match (
        of(namespace_labels, "istio-injection"),
        of(namespace_labels, "istio.io/rev"),
    ) {
        (Some(injection), _) => default && injection == "enabled",
        (None, Some(revision)) => names.contains(&revision.as_str()),
        (None, None) => match pod_revision {
            Some(revision) => names.contains(&revision.as_str()),
            None => default && (asked == Some("true") || (everywhere && asked.is_none())),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selector(key: &str, operator: &str) -> LabelSelector {
        serde_json::from_value(json!({"matchExpressions": [{"key": key, "operator": operator}]})).unwrap()
    }

    #[test]
    fn precedence_is_label_annotation_never_always_policy() {
        let policy = Policy {
            enabled: false,
            never: vec![selector("never", "Exists")],
            always: vec![LabelSelector::default(), selector("always", "Exists")],
            ..Policy::default()
        };
        let of = |labels: Value, annotations: Value| {
            decide(
                &json!({"metadata": {"labels": labels, "annotations": annotations}}),
                "ns",
                &policy,
            )
        };
        assert_eq!(
            of(json!({INJECT: "true", "never": ""}), json!({INJECT: "false"})),
            Decision::Inject
        );
        assert_eq!(
            of(json!({INJECT: "false"}), json!({INJECT: "true"})),
            Decision::Skip(Skip::Asked)
        );
        assert_eq!(of(json!({"never": ""}), json!({INJECT: "true"})), Decision::Inject);
        assert_eq!(
            of(json!({"never": "", "always": ""}), json!({INJECT: "maybe"})),
            Decision::Skip(Skip::NeverSelector)
        );
        assert_eq!(of(json!({"always": ""}), json!({})), Decision::Inject);
        assert_eq!(of(json!({}), json!({})), Decision::Skip(Skip::Policy));
        let forced = json!({"metadata": {"labels": {INJECT: "true"}}, "spec": {"hostNetwork": true}});
        assert_eq!(decide(&forced, "ns", &policy), Decision::Skip(Skip::HostNetwork));
        let forced = json!({"metadata": {"labels": {INJECT: "true"}}});
        assert_eq!(
            decide(&forced, "kube-system", &policy),
            Decision::Skip(Skip::SystemNamespace)
        );
    }

    #[test]
    fn the_namespace_chooses_the_revision_before_the_pod() {
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let asks = |namespace: &[(&str, &str)], pod: &[(&str, &str)], names: &[&str]| {
            selects(&labels(namespace), &labels(pod), names, false)
        };
        assert!(asks(&[("istio-injection", "enabled")], &[], &["default"]));
        assert!(!asks(&[("istio-injection", "enabled")], &[], &["canary"]));
        assert!(!asks(
            &[("istio-injection", "disabled")],
            &[("istio.io/rev", "canary")],
            &["canary"]
        ));
        assert!(asks(&[("istio.io/rev", "prod")], &[], &["canary", "prod"]));
        assert!(!asks(&[("istio.io/rev", "prod")], &[(INJECT, "false")], &["prod"]));
        assert!(asks(&[], &[("istio.io/rev", "canary")], &["canary"]));
        assert!(asks(&[], &[(INJECT, "true")], &["default"]));
        assert!(!asks(
            &[],
            &[(INJECT, "true"), ("istio.io/rev", "canary")],
            &["default"]
        ));
        assert!(!asks(&[], &[], &["default"]));
        assert!(selects(&labels(&[]), &labels(&[]), &["default"], true));
    }
}
