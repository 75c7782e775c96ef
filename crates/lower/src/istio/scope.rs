//! Which workloads a policy is about.

use lateen_api::selector::{PolicyTargetReference, WorkloadSelector};
use lateen_model::Selector;
use lateen_model::policy::{Scope, TargetRef};

use crate::context::{Meta, labels};

/// The scope of a policy; the old single `targetRef` counts like the only one of `targetRefs`.
pub(crate) fn scope(
    meta: &Meta,
    selector: Option<&WorkloadSelector>,
    target: Option<&PolicyTargetReference>,
    targets: &[PolicyTargetReference],
) -> Scope {
    let targets = if targets.is_empty() {
        target.into_iter().collect::<Vec<_>>()
    } else {
        targets.iter().collect()
    };
    Scope {
        origin: meta.origin.clone(),
        namespace: meta.namespace.clone(),
        created: meta.created,
        selector: Selector {
            labels: labels(selector.map(|selector| &selector.match_labels)),
        },
        targets: (targets.into_iter())
            .map(|target| TargetRef {
                // `core` is another way to write the group without name.
                group: if target.group == "core" {
                    "".into()
                } else {
                    target.group.as_str().into()
                },
                kind: target.kind.as_str().into(),
                name: target.name.as_str().into(),
            })
            .collect(),
    }
}
