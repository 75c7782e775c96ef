//! What policies have in common: the workloads or objects that they are about.

use lateen_api::selector::{PolicyTargetReference, WorkloadSelector};

use crate::{Findings, Labels};

/// Kinds that a policy can be attached to.
const TARGETS: [(&str, &str); 4] = [
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
];

/// Selector and targets of a policy; at most one of them may be there.
pub(crate) fn attachment(
    selector: Option<&WorkloadSelector>,
    target: Option<&PolicyTargetReference>,
    targets: &[PolicyTargetReference],
    findings: &mut Findings,
) {
    let given = usize::from(selector.is_some()) + usize::from(target.is_some()) + usize::from(!targets.is_empty());
    if given > 1 {
        findings.error("spec", "set only one of `selector`, `targetRef` and `targetRefs`");
    }
    if let Some(selector) = selector {
        labels(&selector.match_labels, "spec.selector.matchLabels", findings);
        if selector.match_labels.is_empty() {
            findings.warning(
                "spec.selector",
                "the selector has no labels, so it selects every workload",
            );
        }
    }
    if let Some(target) = target {
        reference(target, "spec.targetRef", findings);
    }
    for (at, target) in targets.iter().enumerate() {
        reference(target, &format!("spec.targetRefs[{at}]"), findings);
    }
}

/// Labels of a selector.
pub(crate) fn labels(labels: &Labels, field: &str, findings: &mut Findings) {
    for (key, value) in labels {
        if key.is_empty() {
            findings.error(field, format!("the key of the label with value `{value}` is empty"));
        }
        if key.contains('*') || value.contains('*') {
            findings.error(field, format!("`{key}={value}`: selectors know no wildcards"));
        }
    }
}

fn reference(target: &PolicyTargetReference, field: &str, findings: &mut Findings) {
    if target.name.is_empty() {
        findings.error(format!("{field}.name"), "the name of the target is missing");
    }
    if !target.namespace.is_empty() {
        findings.error(
            format!("{field}.namespace"),
            "targets in other namespaces are not supported; remove the field",
        );
    }
    let group = if target.group == "core" {
        ""
    } else {
        target.group.as_str()
    };
    if !TARGETS.contains(&(group, target.kind.as_str())) {
        let message = format!(
            "`{}/{}` cannot be a target; use a Service, ServiceEntry, Gateway (gateway.networking.k8s.io) or GatewayClass",
            target.group, target.kind
        );
        findings.error(field, message);
    }
}
