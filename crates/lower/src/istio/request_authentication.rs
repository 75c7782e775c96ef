//! RequestAuthentication: which tokens a workload accepts.

use lateen_api::security::request_authentication as api;
use lateen_model::policy::{JwtHeader, JwtRule, KeySource, RequestAuthentication};
use lateen_model::{Diagnostic, Severity};
use lateen_validate::Subject;

use super::report::{Report, text, texts, time};
use super::scope::scope;
use crate::context::{Meta, diagnostic};
use crate::keys::Fetched;

/// Lateen's own code for keys of an issuer that are not to be had.
const NO_KEYS: &str = "LTN0103";

/// Lowers a RequestAuthentication, with the keys that were fetched for it.
pub fn lower(
    object: &api::RequestAuthentication,
    meta: &Meta,
    keys: &Fetched,
    diags: &mut Vec<Diagnostic>,
) -> RequestAuthentication {
    let spec = &object.spec;
    let findings = lateen_validate::request_authentication::check(spec, &Subject::new(&object.metadata));
    Report::new(&meta.origin, findings, diags);
    let mut rules: Vec<JwtRule> = spec.jwt_rules.iter().map(rule).collect();
    for (at, rule) in rules.iter_mut().enumerate() {
        let source = rule.key_source();
        let known = source.as_ref().and_then(|source| keys.get(source));
        rule.fetched = known.and_then(|known| known.keys.clone());
        let field = match &source {
            Some(KeySource::Uri(_)) => format!("spec.jwtRules[{at}].jwksUri"),
            Some(KeySource::Issuer(_)) | None => format!("spec.jwtRules[{at}].issuer"),
        };
        let problem = match (source, known.and_then(|known| known.problem.as_deref())) {
            (Some(source), Some(problem)) => match &rule.fetched {
                Some(_) => format!("the keys cannot be fetched anew, the last ones stay in force: {source}: {problem}"),
                None => format!("the keys cannot be fetched, so that every token of this issuer is refused: {source}: {problem}"),
            },
            (None, _) if rule.jwks.as_deref().is_none_or(str::is_empty) => {
                "nothing says where the keys are, so that every token of this issuer is refused: give `jwks` or `jwksUri`, \
                 or an issuer that is a URL with an OpenID configuration"
                    .to_owned()
            }
            _ => continue,
        };
        diags.push(diagnostic(&meta.origin, &field, Severity::Warning, NO_KEYS, &problem));
    }
    RequestAuthentication {
        scope: scope(
            meta,
            spec.selector.as_ref(),
            spec.target_ref.as_ref(),
            &spec.target_refs,
        ),
        rules,
    }
}

fn rule(from: &api::JwtRule) -> JwtRule {
    JwtRule {
        issuer: from.issuer.as_str().into(),
        audiences: texts(&from.audiences),
        jwks_uri: text(&from.jwks_uri),
        jwks: text(&from.jwks),
        fetched: None,
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
