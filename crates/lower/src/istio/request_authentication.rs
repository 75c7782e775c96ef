//! RequestAuthentication: which tokens a workload accepts.

use lateen_api::security::request_authentication as api;
use lateen_model::Diagnostic;
use lateen_model::policy::{JwtHeader, JwtRule, RequestAuthentication};
use lateen_validate::Subject;

use super::report::{Report, text, texts, time};
use super::scope::scope;
use crate::Context;
use crate::context::Meta;

/// Lowers a RequestAuthentication.
pub fn lower(
    object: &api::RequestAuthentication,
    meta: &Meta,
    _ctx: &Context<'_>,
    diags: &mut Vec<Diagnostic>,
) -> RequestAuthentication {
    let spec = &object.spec;
    let findings = lateen_validate::request_authentication::check(spec, &Subject::new(&object.metadata));
    Report::new(&meta.origin, findings, diags);
    RequestAuthentication {
        scope: scope(
            meta,
            spec.selector.as_ref(),
            spec.target_ref.as_ref(),
            &spec.target_refs,
        ),
        rules: spec.jwt_rules.iter().map(rule).collect(),
    }
}

fn rule(from: &api::JwtRule) -> JwtRule {
    JwtRule {
        issuer: from.issuer.as_str().into(),
        audiences: texts(&from.audiences),
        jwks_uri: text(&from.jwks_uri),
        jwks: text(&from.jwks),
        from_headers: (from.from_headers.iter())
            .map(|header| JwtHeader {
                name: header.name.as_str().into(),
                prefix: header.prefix.as_str().into(),
            })
            .collect(),
        from_params: texts(&from.from_params),
        from_cookies: texts(&from.from_cookies),
        output_payload_to_header: text(&from.output_payload_to_header),
        output_claims: (from.output_claim_to_headers.iter())
            .map(|output| (output.header.as_str().into(), output.claim.as_str().into()))
            .collect(),
        forward: from.forward_original_token,
        timeout: time(from.timeout),
        space_delimited_claims: texts(&from.space_delimited_claims),
        required: from.presence == Some(api::JwtPresence::Required),
    }
}
