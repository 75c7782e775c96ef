//! RequestAuthentication.

use lateen_api::security::request_authentication::{JwtRule, RequestAuthenticationSpec};
use serde_json::Value;

use crate::{Finding, Findings, Subject, policy, text};

/// What is wrong with a RequestAuthentication.
pub fn check(spec: &RequestAuthenticationSpec, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.metadata(subject, false);
    policy::attachment(
        spec.selector.as_ref(),
        spec.target_ref.as_ref(),
        &spec.target_refs,
        &mut findings,
    );
    for (at, rule) in spec.jwt_rules.iter().enumerate() {
        jwt_rule(rule, &format!("spec.jwtRules[{at}]"), &mut findings);
    }
    findings.0
}

fn jwt_rule(rule: &JwtRule, field: &str, findings: &mut Findings) {
    if rule.issuer.is_empty() && rule.jwks_uri.is_empty() {
        findings.error(format!("{field}.issuer"), "give `issuer` or `jwksUri`");
    }
    if rule.audiences.iter().any(String::is_empty) {
        findings.error(format!("{field}.audiences"), "an audience is empty");
    }
    if !rule.jwks_uri.is_empty() && !rule.jwks_uri.starts_with("https://") && !rule.jwks_uri.starts_with("http://") {
        findings.error(
            format!("{field}.jwksUri"),
            format!("`{}` is no URL with http:// or https://", rule.jwks_uri),
        );
    }
    if !rule.jwks.is_empty() {
        jwks(&rule.jwks, &format!("{field}.jwks"), findings);
    }
    for (at, header) in rule.from_headers.iter().enumerate() {
        if header.name.is_empty() {
            findings.error(format!("{field}.fromHeaders[{at}].name"), "the header has no name");
        }
    }
    if rule.from_params.iter().any(String::is_empty) {
        findings.error(format!("{field}.fromParams"), "a query parameter has no name");
    }
    if rule.from_cookies.iter().any(String::is_empty) {
        findings.error(format!("{field}.fromCookies"), "a cookie has no name");
    }
    for (at, output) in rule.output_claim_to_headers.iter().enumerate() {
        let field = format!("{field}.outputClaimToHeaders[{at}]");
        if output.claim.is_empty() || output.header.is_empty() {
            findings.error(field, "give both `header` and `claim`");
        } else if !output
            .header
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        {
            findings.error(
                format!("{field}.header"),
                format!("`{}` is no name of a header", output.header),
            );
        }
    }
    if let Some(timeout) = rule.timeout {
        findings.check(format!("{field}.timeout"), text::duration(timeout));
    }
}

/// A key set (RFC 7517), or a single key.
fn jwks(jwks: &str, field: &str, findings: &mut Findings) {
    let value: Value = match serde_json::from_str(jwks) {
        Ok(value) => value,
        Err(error) => return findings.error(field, format!("is no JSON: {error}")),
    };
    let keys = match value.get("keys") {
        Some(Value::Array(keys)) => keys.iter().collect::<Vec<_>>(),
        Some(_) => return findings.error(field, "`keys` must be a list of keys"),
        None => vec![&value],
    };
    for (at, key) in keys.into_iter().enumerate() {
        let needs: &[&str] = match key.get("kty").and_then(Value::as_str) {
            Some("RSA") => &["n", "e"],
            Some("EC") => &["crv", "x", "y"],
            Some("OKP") => &["crv", "x"],
            Some("oct") => &["k"],
            _ => return findings.error(field, format!("key {at} has no known `kty`; use RSA, EC, OKP or oct")),
        };
        if let Some(missing) = needs
            .iter()
            .find(|name| key.get(**name).and_then(Value::as_str).is_none())
        {
            findings.error(field, format!("key {at} lacks `{missing}`"));
        }
        if key.get("d").is_some() || key.get("k").is_some() {
            findings.warning(
                field,
                format!("key {at} contains its private part, which everybody can read here; remove it"),
            );
        }
    }
}
