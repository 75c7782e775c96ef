//! Requests of the state of the world.

use std::collections::BTreeSet;

use lateen_proto::envoy::service::discovery::v3::DiscoveryRequest;
use xxhash_rust::xxh3::Xxh3;

use super::Violation;
use super::core::{Answer, Core};

pub(super) fn on_request(core: &mut Core, request: &DiscoveryRequest) -> Result<(), Violation> {
    let (at, first) = core.type_state(&request.type_url)?;
    // A nonce in a type's first request is from an earlier stream. Later requests may lack one, when they were sent
    // before the first response came; some clients never repeat it when they change their names.
    if !first && !request.response_nonce.is_empty() {
        if !core.state(at).0.answers_last(&request.response_nonce) {
            // A later response is on its way; the proxy repeats its names when it answers that one.
            core.expired(at);
            return Ok(());
        }
        if core.state(at).0.outstanding.is_some() {
            let answer = request.error_detail.as_ref().map_or(Answer::Ack, |error| Answer::Nack {
                code: error.code,
                reason: &error.message,
            });
            core.answered(at, &request.response_nonce, &answer);
        }
    }
    if first && !request.version_info.is_empty() {
        core.state(at).0.has_a_past();
    }
    let hash = hash(&request.resource_names);
    if !first && hash == core.state(at).0.names_hash {
        return Ok(());
    }
    let names: BTreeSet<&str> = request
        .resource_names
        .iter()
        .map(String::as_str)
        .filter(|name| *name != "*")
        .collect();
    let (state, wanted) = core.state(at);
    state.names_hash = hash;
    // Without names all there is, until the first time that some were named.
    let legacy = request.resource_names.is_empty() && state.kind.wildcard && !state.named_before;
    let all = legacy || request.resource_names.iter().any(|name| name == "*");
    state.named_before |= !request.resource_names.is_empty();
    match (state.is_wildcard(), all) {
        (false, true) => state.subscribe_all(),
        (true, false) => state.unsubscribe_all(),
        _ => {}
    }
    let had = state.asked();
    for name in &names {
        if !had.contains(*name) {
            state.subscribe(name, &wanted);
        }
    }
    for name in had.iter().filter(|name| !names.contains(&***name)) {
        core.unsubscribe(at, name);
    }
    core.check_names(at)
}

fn hash(names: &[String]) -> u64 {
    let mut hash = Xxh3::new();
    for name in names {
        hash.update(name.as_bytes());
        hash.update(&[0]);
    }
    hash.digest()
}
