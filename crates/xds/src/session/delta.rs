//! Requests of the delta protocol.

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use super::Violation;
use super::core::{Answer, Core};
use crate::resource::parse_version;

pub(super) fn on_request(core: &mut Core, request: &DeltaDiscoveryRequest) -> Result<(), Violation> {
    let (at, first) = core.type_state(&request.type_url)?;
    // A nonce in a type's first request is from an earlier stream.
    if !first && !request.response_nonce.is_empty() {
        let answer = request.error_detail.as_ref().map_or(Answer::Ack, |error| Answer::Nack {
            code: error.code,
            reason: &error.message,
        });
        core.answered(at, &request.response_nonce, &answer);
    }
    let (state, wanted) = core.state(at);
    if first && request.resource_names_subscribe.is_empty() && state.kind.wildcard {
        state.subscribe_all();
    }
    let names = &request.resource_names_subscribe;
    let all_there_is = state.subscribe_to_all_of(names, &wanted);
    for name in names.iter().filter(|_| !all_there_is) {
        if name == "*" {
            state.subscribe_all();
        } else {
            state.subscribe(name, &wanted);
        }
    }
    if first {
        let awaited: BTreeSet<&String> = {
            let versions = request.initial_resource_versions.keys();
            versions.filter(|name| core.awaits_endpoints(at, name)).collect()
        };
        let now_wanted = Arc::clone(core.wanted());
        let (state, _) = core.state(at);
        if state.has_unnamed(request.initial_resource_versions.keys(), &now_wanted) {
            state.keep_all();
        }
        for (name, version) in &request.initial_resource_versions {
            let version = if awaited.contains(name) {
                None
            } else {
                parse_version(version)
            };
            state.already_has(name, version, &wanted);
        }
        if !request.initial_resource_versions.is_empty() {
            state.owes_no_answer();
        }
    }
    for name in &request.resource_names_unsubscribe {
        if name == "*" {
            core.state(at).0.unsubscribe_all();
        } else {
            core.unsubscribe(at, name);
        }
    }
    core.check_names(at)
}
