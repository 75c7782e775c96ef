//! Conditions of a route in Envoy's form.

use lateen_model::route::{HttpMatch, NamedMatch, PathMatch, TextMatch};
use lateen_proto::envoy::config::core::v3::RuntimeFractionalPercent;
use lateen_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use lateen_proto::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use lateen_proto::envoy::config::route::v3::route_match::PathSpecifier;
use lateen_proto::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher, RouteMatch};
use lateen_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use lateen_proto::envoy::r#type::matcher::v3::{MetadataMatcher, RegexMatcher, StringMatcher};
use lateen_proto::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};

use lateen_model::route::Percent;

use crate::listener::security::matchers::text_claim;

/// A route match that everything fits.
pub(super) fn everything() -> RouteMatch {
    RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    }
}

/// An RE2 expression.
pub(super) fn regex(expression: &str) -> RegexMatcher {
    RegexMatcher {
        regex: expression.to_owned(),
        ..Default::default()
    }
}

/// A text condition other than presence.
pub(super) fn text(condition: &TextMatch, ignore_case: bool) -> StringMatcher {
    let pattern = match condition {
        TextMatch::Exact(value) => MatchPattern::Exact(value.to_string()),
        TextMatch::Prefix(value) => MatchPattern::Prefix(value.to_string()),
        TextMatch::Regex(value) => MatchPattern::SafeRegex(regex(value)),
        TextMatch::Present => MatchPattern::SafeRegex(regex(".*")),
    };
    StringMatcher {
        ignore_case: ignore_case && !matches!(pattern, MatchPattern::SafeRegex(_)),
        match_pattern: Some(pattern),
    }
}

/// A share in Envoy's finest denominator.
pub(super) fn fraction(percent: Percent) -> FractionalPercent {
    FractionalPercent {
        numerator: percent.0,
        denominator: DenominatorType::Million.into(),
    }
}

/// A share that is taken with a runtime key's absence: always the default.
pub(super) fn runtime_fraction(percent: Percent) -> RuntimeFractionalPercent {
    RuntimeFractionalPercent {
        default_value: Some(fraction(percent)),
        ..Default::default()
    }
}

/// The conditions of one alternative.
pub(super) fn route_match(condition: &HttpMatch) -> RouteMatch {
    let path = match &condition.path {
        None => PathSpecifier::Prefix("/".to_owned()),
        Some(PathMatch::Exact(path)) => PathSpecifier::Path(path.to_string()),
        Some(PathMatch::Prefix(path)) => PathSpecifier::Prefix(path.to_string()),
        Some(PathMatch::PathPrefix(path)) if path.is_empty() || &**path == "/" => PathSpecifier::Prefix("/".to_owned()),
        Some(PathMatch::PathPrefix(path)) => {
            PathSpecifier::PathSeparatedPrefix(path.strip_suffix('/').unwrap_or(path).to_owned())
        }
        Some(PathMatch::Regex(expression)) => PathSpecifier::SafeRegex(regex(expression)),
    };
    let mut headers: Vec<HeaderMatcher> = Vec::new();
    let mut dynamic_metadata: Vec<MetadataMatcher> = Vec::new();
    for (conditions, invert) in [(&condition.headers, false), (&condition.without_headers, true)] {
        for condition in conditions {
            match claim_path(&condition.name) {
                Some(path) => dynamic_metadata.push(claim(&path, &condition.value, invert)),
                None => headers.push(header(condition, invert)),
            }
        }
    }
    for (name, value) in [
        (":method", &condition.method),
        (":authority", &condition.authority),
        (":scheme", &condition.scheme),
    ] {
        if let Some(value) = value {
            headers.push(header(
                &NamedMatch {
                    name: name.into(),
                    value: value.clone(),
                },
                false,
            ));
        }
    }
    RouteMatch {
        case_sensitive: condition.ignore_path_case.then_some(false),
        headers,
        query_parameters: condition.query.iter().map(query).collect(),
        dynamic_metadata,
        path_specifier: Some(path),
        ..Default::default()
    }
}

/// What stands for a header where a claim of the request's token is meant.
const CLAIMS: &str = "@request.auth.claims";

/// The path of the claim that a "header" means: `@request.auth.claims.a.b` or `@request.auth.claims[a][b]`, the latter for
/// names with dots in them. None for headers.
fn claim_path(name: &str) -> Option<Vec<&str>> {
    let (start, rest) = name.split_at_checked(CLAIMS.len())?;
    if !start.eq_ignore_ascii_case(CLAIMS) || rest.len() < 2 {
        return None;
    }
    if let Some(path) = rest.strip_prefix('.') {
        return Some(path.split('.').collect());
    }
    let path = rest.strip_prefix('[')?.strip_suffix(']')?;
    (!path.is_empty()).then(|| path.split("][").collect())
}

/// A condition on a claim, which the filter of tokens has left in its metadata.
fn claim(path: &[&str], value: &TextMatch, invert: bool) -> MetadataMatcher {
    MetadataMatcher {
        invert,
        ..text_claim(path, text(value, false))
    }
}

/// A condition on a header. A header that must not match may be absent.
fn header(condition: &NamedMatch, invert: bool) -> HeaderMatcher {
    let specifier = match &condition.value {
        TextMatch::Present => HeaderMatchSpecifier::PresentMatch(true),
        value => HeaderMatchSpecifier::StringMatch(text(value, false)),
    };
    HeaderMatcher {
        name: condition.name.to_string(),
        invert_match: invert,
        treat_missing_header_as_empty: invert && !matches!(condition.value, TextMatch::Present),
        header_match_specifier: Some(specifier),
    }
}

fn query(condition: &NamedMatch) -> QueryParameterMatcher {
    let specifier = match &condition.value {
        TextMatch::Present => QueryParameterMatchSpecifier::PresentMatch(true),
        value => QueryParameterMatchSpecifier::StringMatch(text(value, false)),
    };
    QueryParameterMatcher {
        name: condition.name.to_string(),
        query_parameter_match_specifier: Some(specifier),
    }
}

/// Whether every request fits.
pub(super) fn is_catch_all(condition: &HttpMatch) -> bool {
    let path = match &condition.path {
        None => true,
        Some(PathMatch::Prefix(path) | PathMatch::PathPrefix(path)) => &**path == "/" || path.is_empty(),
        Some(PathMatch::Regex(expression)) => &**expression == ".*" || &**expression == "/.*",
        Some(PathMatch::Exact(_)) => false,
    };
    path && condition.headers.is_empty()
        && condition.without_headers.is_empty()
        && condition.query.is_empty()
        && condition.method.is_none()
        && condition.authority.is_none()
        && condition.scheme.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_told_from_headers() {
        assert_eq!(claim_path("@request.auth.claims.org.team"), Some(vec!["org", "team"]));
        assert_eq!(claim_path("@Request.Auth.Claims[a.b][c]"), Some(vec!["a.b", "c"]));
        for name in [
            "end-user",
            "@request.auth.claims",
            "@request.auth.claims.",
            "@request.auth.claims[]",
            "@request.auth.claimsx",
        ] {
            assert_eq!(claim_path(name), None, "{name}");
        }
    }

    #[test]
    fn a_claim_is_matched_in_metadata_and_never_in_a_header() {
        let of = |name: &str| NamedMatch {
            name: name.into(),
            value: TextMatch::Exact("beta".into()),
        };
        let matched = route_match(&HttpMatch {
            headers: vec![of("@request.auth.claims.groups"), of("end-user")],
            without_headers: vec![of("@request.auth.claims[sub]")],
            ..HttpMatch::default()
        });
        let names: Vec<&str> = matched.headers.iter().map(|header| &*header.name).collect();
        assert_eq!(names, ["end-user"]);
        let inverted: Vec<bool> = matched.dynamic_metadata.iter().map(|matcher| matcher.invert).collect();
        assert_eq!(inverted, [false, true]);
        assert!(matched.dynamic_metadata.iter().all(|matcher| matcher.path.len() == 2));
    }
}
