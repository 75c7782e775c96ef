//! Values of policies as Envoy's matchers: `*` alone is anything that is there, at either end a suffix or a prefix.

use std::sync::Arc;

use lateen_proto::envoy::config::route::v3::HeaderMatcher;
use lateen_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use lateen_proto::envoy::r#type::matcher::v3::metadata_matcher::{PathSegment, path_segment::Segment};
use lateen_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use lateen_proto::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, OrMatcher, RegexMatcher, StringMatcher, ValueMatcher, list_matcher, value_matcher,
};

/// The filter whose metadata hold the token's claims.
const TOKENS: &str = "envoy.filters.http.jwt_authn";
/// The key in its metadata under which the claims stand.
pub(super) const PAYLOAD: &str = "payload";

/// What a value says.
enum Pattern<'a> {
    Anything,
    Suffix(&'a str),
    Prefix(&'a str),
    Exact(&'a str),
}

impl<'a> Pattern<'a> {
    fn of(value: &'a str) -> Self {
        if value == "*" {
            Self::Anything
        } else if let Some(suffix) = value.strip_prefix('*') {
            Self::Suffix(suffix)
        } else if let Some(prefix) = value.strip_suffix('*') {
            Self::Prefix(prefix)
        } else {
            Self::Exact(value)
        }
    }

    /// Envoy's pattern; none for anything.
    fn matched(&self) -> Option<MatchPattern> {
        match self {
            Self::Anything => None,
            Self::Suffix(text) => Some(MatchPattern::Suffix((*text).to_owned())),
            Self::Prefix(text) => Some(MatchPattern::Prefix((*text).to_owned())),
            Self::Exact(text) => Some(MatchPattern::Exact((*text).to_owned())),
        }
    }
}

fn string(pattern: MatchPattern) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(pattern),
        ..Default::default()
    }
}

pub(super) fn exact(text: impl Into<String>) -> StringMatcher {
    string(MatchPattern::Exact(text.into()))
}

pub(super) fn prefix(text: impl Into<String>) -> StringMatcher {
    string(MatchPattern::Prefix(text.into()))
}

pub(super) fn suffix(text: impl Into<String>) -> StringMatcher {
    string(MatchPattern::Suffix(text.into()))
}

/// An expression that the whole text must match.
pub(super) fn regex(expression: impl Into<String>) -> StringMatcher {
    string(MatchPattern::SafeRegex(RegexMatcher {
        regex: expression.into(),
        ..Default::default()
    }))
}

/// A text as an expression that matches just it. RE2's own set of characters, so that expressions read as Istio's do.
pub(super) fn escaped(text: &str) -> String {
    let mut expression = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            expression.push('\\');
        }
        expression.push(c);
    }
    expression
}

/// Any text but the empty one.
pub(super) fn anything() -> StringMatcher {
    regex(".+")
}

/// A value as text.
pub(super) fn text(value: &str) -> StringMatcher {
    Pattern::of(value).matched().map_or_else(anything, string)
}

/// A value as the rest of a text that begins with `scheme`. A suffix becomes an expression, for the scheme must be there.
pub(super) fn after(scheme: &str, value: &str) -> StringMatcher {
    match Pattern::of(value) {
        Pattern::Anything => anything(),
        Pattern::Suffix(rest) => regex(format!("{scheme}.*{}", escaped(rest))),
        Pattern::Prefix(start) => prefix(format!("{scheme}{start}")),
        Pattern::Exact(rest) => exact(format!("{scheme}{rest}")),
    }
}

/// A header that has the value. Hosts are compared without regard to case.
pub(super) fn header(name: &str, value: &str, ignore_case: bool) -> HeaderMatcher {
    let specifier = match Pattern::of(value).matched() {
        None => HeaderMatchSpecifier::PresentMatch(true),
        Some(pattern) => HeaderMatchSpecifier::StringMatch(StringMatcher {
            ignore_case,
            match_pattern: Some(pattern),
        }),
    };
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

/// The name of a header as external authorizers are told it; a lone `*` has no form.
pub(super) fn header_name(value: &str) -> Option<StringMatcher> {
    Some(StringMatcher {
        ignore_case: true,
        match_pattern: Some(Pattern::of(value).matched()?),
    })
}

fn value(pattern: value_matcher::MatchPattern) -> ValueMatcher {
    ValueMatcher {
        match_pattern: Some(pattern),
    }
}

pub(super) fn string_value(matcher: StringMatcher) -> ValueMatcher {
    value(value_matcher::MatchPattern::StringMatch(matcher))
}

/// A list one of whose elements matches.
pub(super) fn list_value(element: ValueMatcher) -> ValueMatcher {
    let one_of = list_matcher::MatchPattern::OneOf(Box::new(element));
    value(value_matcher::MatchPattern::ListMatch(Box::new(ListMatcher {
        match_pattern: Some(one_of),
    })))
}

/// One of several; a single one stands for itself.
pub(super) fn one_of(mut values: Vec<ValueMatcher>) -> ValueMatcher {
    match (values.pop(), values.is_empty()) {
        (Some(only), true) => only,
        (last, _) => {
            values.extend(last);
            value(value_matcher::MatchPattern::OrMatch(OrMatcher {
                value_matchers: values,
            }))
        }
    }
}

/// Something in a filter's metadata.
pub(super) fn metadata<T: AsRef<str>>(filter: &str, path: &[T], value: ValueMatcher) -> MetadataMatcher {
    let segment = |key: &T| PathSegment {
        segment: Some(Segment::Key(key.as_ref().to_owned())),
    };
    MetadataMatcher {
        filter: filter.to_owned(),
        path: path.iter().map(segment).collect(),
        value: Some(value),
        ..Default::default()
    }
}

/// A claim of the token that is a text.
pub(super) fn claim(name: &str, matcher: StringMatcher) -> MetadataMatcher {
    metadata(TOKENS, &[PAYLOAD, name], string_value(matcher))
}

/// A claim, perhaps within others, that is one of the values, or a list that has one of them.
pub(super) fn claim_of(path: &[&str], values: &[Arc<str>]) -> MetadataMatcher {
    claim_that(
        path,
        one_of(values.iter().map(|value| string_value(text(value))).collect()),
    )
}

/// A claim, perhaps within others, that is a text as wanted, or a list that has one.
pub(crate) fn text_claim(path: &[&str], wanted: StringMatcher) -> MetadataMatcher {
    claim_that(path, string_value(wanted))
}

fn claim_that(path: &[&str], wanted: ValueMatcher) -> MetadataMatcher {
    let full: Vec<&str> = std::iter::once(PAYLOAD).chain(path.iter().copied()).collect();
    metadata(TOKENS, &full, one_of(vec![list_value(wanted.clone()), wanted]))
}
