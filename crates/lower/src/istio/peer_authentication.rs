//! PeerAuthentication: whether a workload takes plain text, mutual TLS, or both.

use std::collections::BTreeMap;

use lateen_api::security::peer_authentication as api;
use lateen_model::Diagnostic;
use lateen_model::policy::{MtlsMode, PeerAuthentication};
use lateen_validate::Subject;

use super::report::Report;
use super::scope::scope;
use crate::Context;
use crate::context::Meta;

/// Lowers a PeerAuthentication.
pub fn lower(
    object: &api::PeerAuthentication,
    meta: &Meta,
    _ctx: &Context<'_>,
    diags: &mut Vec<Diagnostic>,
) -> PeerAuthentication {
    let spec = &object.spec;
    let findings = lateen_validate::peer_authentication::check(spec, &Subject::new(&object.metadata));
    let mut report = Report::new(&meta.origin, findings, diags);
    let mut ports = BTreeMap::new();
    for (port, mtls) in &spec.port_level_mtls {
        match port.parse::<u16>() {
            Ok(number) if number > 0 => {
                ports.insert(number, mode(mtls.mode));
            }
            _ => report.error(
                &format!("spec.portLevelMtls[{port}]"),
                "a port is a number from 1 to 65535",
            ),
        }
    }
    PeerAuthentication {
        scope: scope(meta, spec.selector.as_ref(), None, &[]),
        mode: spec.mtls.as_ref().map_or(MtlsMode::Unset, |mtls| mode(mtls.mode)),
        ports,
    }
}

fn mode(mode: api::MutualTlsMode) -> MtlsMode {
    match mode {
        api::MutualTlsMode::Disable => MtlsMode::Disable,
        api::MutualTlsMode::Permissive => MtlsMode::Permissive,
        api::MutualTlsMode::Strict => MtlsMode::Strict,
        _ => MtlsMode::Unset,
    }
}
