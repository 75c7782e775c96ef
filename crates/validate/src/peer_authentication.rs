//! PeerAuthentication.

use lateen_api::security::peer_authentication::PeerAuthenticationSpec;

use crate::{Finding, Findings, Subject, policy, text};

/// What is wrong with a PeerAuthentication.
pub fn check(spec: &PeerAuthenticationSpec, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.metadata(subject, false);
    policy::attachment(spec.selector.as_ref(), None, &[], &mut findings);
    let selects = spec
        .selector
        .as_ref()
        .is_some_and(|selector| !selector.match_labels.is_empty());
    if !selects && !spec.port_level_mtls.is_empty() {
        findings.error(
            "spec.portLevelMtls",
            "ports belong to workloads: select some with `selector`",
        );
    }
    for port in spec.port_level_mtls.keys() {
        let field = format!("spec.portLevelMtls[{port}]");
        match port.parse::<i64>() {
            Ok(number) => findings.check(field, text::port(number)),
            Err(_) => findings.error(field, format!("`{port}` is no port; use a number from 1 to 65535")),
        }
    }
    findings.0
}
