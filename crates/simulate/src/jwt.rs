//! Tokens. Signatures cannot be judged here: a token that its issuer might have signed is taken as valid.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lateen_proto::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;
use lateen_proto::envoy::extensions::filters::http::jwt_authn::v3::requirement_rule::RequirementType;
use lateen_proto::envoy::extensions::filters::http::jwt_authn::v3::{JwtAuthentication, JwtProvider, JwtRequirement};
use lateen_proto::value::Kind;
use lateen_proto::{Struct, Value};
use prost_types::ListValue;
use serde_json::Value as Json;

use crate::exchange::Exchange;
use crate::matching::query_value;
use crate::route;

/// What the filter does with a request.
pub(crate) enum Judged {
    /// It passes; whether its route is looked up anew.
    Passes { again: bool, why: String },
    /// It is refused.
    Refused { status: u16, why: String },
}

/// Why a token does not satisfy a requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    Missing,
    OtherIssuer,
    Wrong(u16, String),
}

struct Token {
    /// The header that it stands in, if it does.
    header: Option<String>,
    payload: String,
    claims: serde_json::Map<String, Json>,
}

/// Runs the filter: valid tokens leave their claims behind.
pub(crate) fn run(config: &JwtAuthentication, exchange: &mut Exchange<'_>) -> Judged {
    let preflight = exchange.method() == "OPTIONS"
        && exchange.headers.get("origin").is_some()
        && exchange.headers.get("access-control-request-method").is_some();
    if config.bypass_cors_preflight && preflight {
        return passes(false, "tokens are not asked for in preflight requests");
    }
    let rule = config.rules.iter().find(|rule| {
        let matched = rule.r#match.as_ref();
        matched.is_none_or(|matched| route::fits(matched, exchange).is_ok())
    });
    let requirement = match rule.and_then(|rule| rule.requirement_type.as_ref()) {
        Some(RequirementType::Requires(requirement)) => Some(requirement),
        Some(RequirementType::RequirementName(name)) => config.requirement_map.get(name),
        None => None,
    };
    let Some(requirement) = requirement else {
        return passes(false, "no token is asked for");
    };
    let mut used: Vec<&JwtProvider> = Vec::new();
    match satisfied(requirement, config, exchange, &mut used) {
        Ok(()) if used.is_empty() => passes(false, "it has no token, and needs none"),
        Ok(()) => {
            let again = used.iter().any(|provider| provider.clear_route_cache);
            let issuers: Vec<&str> = used.iter().map(|provider| provider.issuer.as_str()).collect();
            for provider in &used {
                take(provider, exchange);
            }
            passes(
                again,
                &format!(
                    "its token of {} is taken as valid; signatures are not checked here",
                    issuers.join(", ")
                ),
            )
        }
        Err(Failure::Missing) => refused(401, "Jwt is missing"),
        Err(Failure::OtherIssuer) => refused(401, "Jwt issuer is not configured"),
        Err(Failure::Wrong(status, why)) => refused(status, &why),
    }
}

fn passes(again: bool, why: &str) -> Judged {
    Judged::Passes {
        again,
        why: why.to_owned(),
    }
}

fn refused(status: u16, why: &str) -> Judged {
    Judged::Refused {
        status,
        why: why.to_owned(),
    }
}

fn satisfied<'a>(
    requirement: &JwtRequirement,
    config: &'a JwtAuthentication,
    exchange: &Exchange<'_>,
    used: &mut Vec<&'a JwtProvider>,
) -> Result<(), Failure> {
    match &requirement.requires_type {
        None | Some(RequiresType::AllowMissingOrFailed(()) | RequiresType::ExtractOnlyWithoutValidation(_)) => Ok(()),
        Some(RequiresType::AllowMissing(())) => Ok(()),
        Some(RequiresType::ProviderName(name)) => provider(name, &[], config, exchange, used),
        Some(RequiresType::ProviderAndAudiences(named)) => {
            provider(&named.provider_name, &named.audiences, config, exchange, used)
        }
        Some(RequiresType::RequiresAll(all)) => all
            .requirements
            .iter()
            .try_for_each(|one| satisfied(one, config, exchange, used)),
        Some(RequiresType::RequiresAny(any)) => {
            let mut failure = Failure::Missing;
            let mut missing = false;
            for one in &any.requirements {
                if matches!(one.requires_type, Some(RequiresType::AllowMissing(()))) {
                    missing = true;
                    continue;
                }
                let before = used.len();
                match satisfied(one, config, exchange, used) {
                    Ok(()) => return Ok(()),
                    Err(one) => {
                        used.truncate(before);
                        if matches!(failure, Failure::Missing) || matches!(one, Failure::Wrong(..)) {
                            failure = one;
                        }
                    }
                }
            }
            if missing && failure == Failure::Missing {
                Ok(())
            } else {
                Err(failure)
            }
        }
    }
}

fn provider<'a>(
    name: &str,
    audiences: &[String],
    config: &'a JwtAuthentication,
    exchange: &Exchange<'_>,
    used: &mut Vec<&'a JwtProvider>,
) -> Result<(), Failure> {
    let Some(provider) = config.providers.get(name) else {
        return Err(Failure::Missing);
    };
    let Some(text) = text_of(provider, exchange) else {
        return Err(Failure::Missing);
    };
    let Some(token) = token(text) else {
        return Err(Failure::Wrong(
            401,
            "Jwt is not in the form of Header.Payload.Signature".to_owned(),
        ));
    };
    let issuer = token.claims.get("iss").and_then(Json::as_str).unwrap_or_default();
    if !provider.issuer.is_empty() && issuer != provider.issuer {
        return Err(Failure::OtherIssuer);
    }
    let wanted = if audiences.is_empty() {
        &provider.audiences[..]
    } else {
        audiences
    };
    let named: Vec<&str> = match token.claims.get("aud") {
        Some(Json::String(one)) => vec![one],
        Some(Json::Array(many)) => many.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    };
    if !wanted.is_empty() && !wanted.iter().any(|one| named.contains(&one.as_str())) {
        return Err(Failure::Wrong(403, "Audiences in Jwt are not allowed".to_owned()));
    }
    used.push(provider);
    Ok(())
}

/// The token's text, and the header that it stands in.
fn text_of(provider: &JwtProvider, exchange: &Exchange<'_>) -> Option<(String, Option<String>)> {
    let anywhere =
        provider.from_headers.is_empty() && provider.from_params.is_empty() && provider.from_cookies.is_empty();
    let path = exchange.path();
    if anywhere {
        let bearer = exchange
            .headers
            .get("authorization")
            .and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned))
            .map(|text| (text, Some("authorization".to_owned())));
        return bearer.or_else(|| query_value(&path, "access_token").map(|text| (text.to_owned(), None)));
    }
    let in_header = provider.from_headers.iter().find_map(|place| {
        let value = exchange.headers.get(&place.name)?;
        let at = value.find(&place.value_prefix)?;
        let text = value[at + place.value_prefix.len()..].trim().to_owned();
        Some((text, Some(place.name.clone())))
    });
    let in_query = || {
        let names = provider.from_params.iter();
        names
            .filter_map(|name| query_value(&path, name))
            .map(|text| (text.to_owned(), None))
            .next()
    };
    let in_cookie = || {
        let cookies = exchange.headers.get("cookie")?;
        let found = provider.from_cookies.iter().find_map(|name| {
            let pairs = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
            pairs
                .into_iter()
                .find_map(|(known, value)| (known == name).then(|| value.to_owned()))
        });
        found.map(|text| (text, None))
    };
    in_header.or_else(in_query).or_else(in_cookie)
}

fn token((text, header): (String, Option<String>)) -> Option<Token> {
    let mut parts = text.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let bytes = URL_SAFE_NO_PAD.decode(payload).ok()?;
    match serde_json::from_slice(&bytes).ok()? {
        Json::Object(claims) => Some(Token {
            header,
            payload: payload.to_owned(),
            claims,
        }),
        _ => None,
    }
}

/// What a valid token leaves behind.
fn take(provider: &JwtProvider, exchange: &mut Exchange<'_>) {
    let Some(token) = text_of(provider, exchange).and_then(token) else {
        return;
    };
    if let (false, Some(header)) = (provider.forward, &token.header) {
        exchange.headers.remove(header);
    }
    if !provider.forward_payload_header.is_empty() {
        exchange.headers.set(&provider.forward_payload_header, &token.payload);
    }
    for to in &provider.claim_to_headers {
        let mut value = Some(&Json::Object(token.claims.clone())).cloned();
        for key in to.claim_name.split('.') {
            value = value.and_then(|value| value.get(key).cloned());
        }
        match value {
            Some(Json::String(text)) => exchange.headers.set(&to.header_name, &text),
            Some(value @ (Json::Bool(_) | Json::Number(_))) => {
                exchange.headers.set(&to.header_name, &value.to_string());
            }
            _ => {}
        }
    }
    if provider.payload_in_metadata.is_empty() {
        return;
    }
    let lists = provider
        .normalize_payload_in_metadata
        .as_ref()
        .map(|settings| settings.space_delimited_claims.as_slice())
        .unwrap_or_default();
    let claims = token.claims.into_iter().map(|(name, value)| {
        let value = match value {
            Json::String(text) if lists.contains(&name) => {
                Json::Array(text.split(' ').map(|part| Json::String(part.to_owned())).collect())
            }
            other => other,
        };
        (name, proto(value))
    });
    let payload = Value {
        kind: Some(Kind::StructValue(Struct {
            fields: claims.collect(),
        })),
    };
    exchange
        .metadata
        .entry("envoy.filters.http.jwt_authn".to_owned())
        .or_default()
        .fields
        .insert(provider.payload_in_metadata.clone(), payload);
}

fn proto(value: Json) -> Value {
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(is) => Kind::BoolValue(is),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => Kind::ListValue(ListValue {
            values: values.into_iter().map(proto).collect(),
        }),
        Json::Object(fields) => Kind::StructValue(Struct {
            fields: fields.into_iter().map(|(name, value)| (name, proto(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}
