//! DestinationRule: how connections to a host are made. Rules for the same host are merged later, by whoever looks at
//! them from a proxy's side; here each stays as it is.

mod traffic_policy;

use lateen_api::networking::destination_rule as api;
use lateen_model::destination::{DestinationRule, Subset};
use lateen_model::{Diagnostic, Selector};
use lateen_validate::Subject;

use super::report::Report;
use crate::Context;
use crate::context::{Meta, labels};

pub use traffic_policy::{
    lower_client_tls, lower_connection_pool, lower_keepalive, lower_locality, lower_traffic_policy,
};

/// Lowers a DestinationRule; `None` where its host is none, so that it is about nothing.
pub fn lower(
    object: &api::DestinationRule,
    meta: &Meta,
    ctx: &Context<'_>,
    diags: &mut Vec<Diagnostic>,
) -> Option<DestinationRule> {
    let spec = &object.spec;
    let findings = lateen_validate::destination_rule::check(spec, &Subject::new(&object.metadata));
    let mut report = Report::new(&meta.origin, findings, diags);
    let host = report.name("spec.host", ctx.host(&spec.host, &meta.namespace))?;
    let policy = spec
        .traffic_policy
        .as_ref()
        .map(lower_traffic_policy)
        .unwrap_or_default();
    let subsets = spec.subsets.iter().map(|subset| Subset {
        name: subset.name.as_str().into(),
        labels: labels(Some(&subset.labels)),
        policy: subset
            .traffic_policy
            .as_ref()
            .map(lower_traffic_policy)
            .unwrap_or_default(),
    });
    let selector = spec.workload_selector.as_ref().map(|selector| Selector {
        labels: labels(Some(&selector.match_labels)),
    });
    Some(DestinationRule {
        origin: meta.origin.clone(),
        namespace: meta.namespace.clone(),
        created: meta.created,
        host,
        policy,
        subsets: subsets.collect(),
        export_to: ctx.export_to(
            &spec.export_to,
            &meta.namespace,
            &ctx.mesh.default_destination_rule_export_to,
        ),
        workload_selector: selector,
    })
}
