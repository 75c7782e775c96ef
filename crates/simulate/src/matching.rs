//! Envoy's small matchers: texts, headers, query parameters, metadata, addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use lateen_proto::envoy::config::core::v3::{CidrRange, RuntimeFractionalPercent};
use lateen_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use lateen_proto::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use lateen_proto::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher};
use lateen_proto::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use lateen_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use lateen_proto::envoy::r#type::matcher::v3::{
    MetadataMatcher, RegexMatchAndSubstitute, StringMatcher, ValueMatcher, double_matcher, list_matcher, value_matcher,
};
use lateen_proto::envoy::r#type::v3::FractionalPercent;
use lateen_proto::envoy::r#type::v3::fractional_percent::DenominatorType;
use lateen_proto::value::Kind;
use lateen_proto::{Struct, Value};
use regex::Regex;

use crate::headers::Headers;

/// What filters have left behind, by their names.
pub(crate) type Metadata = BTreeMap<String, Struct>;

/// Whether the whole text matches. An expression that is none matches nothing: Envoy refuses it.
pub(crate) fn full_match(expression: &str, text: &str) -> bool {
    Regex::new(&format!(r"\A(?:{expression})\z")).is_ok_and(|regex| regex.is_match(text))
}

/// Replaces all that matches; `\1` in the substitution stands for a group.
pub(crate) fn substitute(rewrite: &RegexMatchAndSubstitute, text: &str) -> String {
    let expression = rewrite.pattern.as_ref().map(|pattern| pattern.regex.as_str());
    let Some(regex) = expression.and_then(|expression| Regex::new(expression).ok()) else {
        return text.to_owned();
    };
    let mut replacement = String::new();
    let mut letters = rewrite.substitution.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '$' => replacement.push_str("$$"),
            '\\' => match letters.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    replacement.push_str("${");
                    replacement.push(digit);
                    replacement.push('}');
                }
                Some(other) => replacement.push(other),
                None => {}
            },
            other => replacement.push(other),
        }
    }
    regex.replace_all(text, replacement.as_str()).into_owned()
}

/// Whether a text matches.
pub(crate) fn text(matcher: &StringMatcher, value: &str) -> bool {
    let lower = |text: &str| {
        if matcher.ignore_case {
            text.to_ascii_lowercase()
        } else {
            text.to_owned()
        }
    };
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(wanted)) => lower(value) == lower(wanted),
        Some(MatchPattern::Prefix(wanted)) => lower(value).starts_with(&lower(wanted)),
        Some(MatchPattern::Suffix(wanted)) => lower(value).ends_with(&lower(wanted)),
        Some(MatchPattern::Contains(wanted)) => lower(value).contains(&lower(wanted)),
        Some(MatchPattern::SafeRegex(wanted)) => full_match(&wanted.regex, value),
        Some(MatchPattern::Custom(_)) | None => false,
    }
}

/// A text condition in words.
pub(crate) fn text_in_words(matcher: &StringMatcher) -> String {
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(wanted)) => format!("`{wanted}`"),
        Some(MatchPattern::Prefix(wanted)) => format!("`{wanted}…`"),
        Some(MatchPattern::Suffix(wanted)) => format!("`…{wanted}`"),
        Some(MatchPattern::Contains(wanted)) => format!("`…{wanted}…`"),
        Some(MatchPattern::SafeRegex(wanted)) => format!("what matches `{}`", wanted.regex),
        Some(MatchPattern::Custom(_)) | None => "something that is not simulated".to_owned(),
    }
}

/// Whether a header matches. One that is absent matches only where it is taken as empty, or its absence is asked for.
pub(crate) fn header(matcher: &HeaderMatcher, headers: &Headers) -> bool {
    use HeaderMatchSpecifier as Specifier;
    let found = headers.get(&matcher.name);
    let (found, missing) = match found {
        Some(value) => (value, false),
        None => (String::new(), true),
    };
    let missing = missing && !matcher.treat_missing_header_as_empty;
    let matched = match &matcher.header_match_specifier {
        None => !missing,
        Some(Specifier::PresentMatch(wanted)) => *wanted != missing,
        Some(_) if missing => return false,
        Some(Specifier::ExactMatch(wanted)) => found == *wanted,
        Some(Specifier::PrefixMatch(wanted)) => found.starts_with(wanted),
        Some(Specifier::SuffixMatch(wanted)) => found.ends_with(wanted),
        Some(Specifier::ContainsMatch(wanted)) => found.contains(wanted),
        Some(Specifier::SafeRegexMatch(wanted)) => full_match(&wanted.regex, &found),
        Some(Specifier::StringMatch(wanted)) => text(wanted, &found),
        Some(Specifier::RangeMatch(range)) => found
            .parse()
            .is_ok_and(|number: i64| (range.start..range.end).contains(&number)),
    };
    matched != matcher.invert_match
}

/// A condition on a header in words, for a request that does not fulfil it.
pub(crate) fn header_in_words(matcher: &HeaderMatcher, headers: &Headers) -> String {
    use HeaderMatchSpecifier as Specifier;
    let wanted = match &matcher.header_match_specifier {
        None | Some(Specifier::PresentMatch(true)) => "there".to_owned(),
        Some(Specifier::PresentMatch(false)) => "absent".to_owned(),
        Some(Specifier::ExactMatch(wanted)) => format!("`{wanted}`"),
        Some(Specifier::PrefixMatch(wanted)) => format!("`{wanted}…`"),
        Some(Specifier::SuffixMatch(wanted)) => format!("`…{wanted}`"),
        Some(Specifier::ContainsMatch(wanted)) => format!("`…{wanted}…`"),
        Some(Specifier::SafeRegexMatch(wanted)) => format!("what matches `{}`", wanted.regex),
        Some(Specifier::StringMatch(wanted)) => text_in_words(wanted),
        Some(Specifier::RangeMatch(range)) => format!("from {} to below {}", range.start, range.end),
    };
    let is = headers
        .get(&matcher.name)
        .map_or_else(|| "absent".to_owned(), |value| format!("`{value}`"));
    let not = if matcher.invert_match { "not " } else { "" };
    format!("header {} must {not}be {wanted}, is {is}", matcher.name)
}

/// The first value of a query parameter, as it is written.
pub(crate) fn query_value<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = path.split_once('?')?;
    let query = query.split('#').next().unwrap_or_default();
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find_map(|(known, value)| (known == name).then_some(value))
}

/// Whether a query parameter matches.
pub(crate) fn query(matcher: &QueryParameterMatcher, path: &str) -> bool {
    let value = query_value(path, &matcher.name);
    match &matcher.query_parameter_match_specifier {
        None => value.is_some(),
        Some(QueryParameterMatchSpecifier::PresentMatch(wanted)) => value.is_some() == *wanted,
        Some(QueryParameterMatchSpecifier::StringMatch(wanted)) => value.is_some_and(|value| text(wanted, value)),
    }
}

/// Whether what a filter left behind matches.
pub(crate) fn metadata(matcher: &MetadataMatcher, all: &Metadata) -> bool {
    let mut value: Option<&Value> = None;
    let mut fields = all.get(&matcher.filter).map(|of| &of.fields);
    for segment in &matcher.path {
        let Some(Segment::Key(key)) = &segment.segment else {
            return false;
        };
        value = fields.and_then(|fields| fields.get(key));
        fields = match value.and_then(|value| value.kind.as_ref()) {
            Some(Kind::StructValue(inner)) => Some(&inner.fields),
            _ => None,
        };
    }
    let matched = matcher
        .value
        .as_ref()
        .is_some_and(|wanted| value_matches(wanted, value));
    matched != matcher.invert
}

fn value_matches(matcher: &ValueMatcher, value: Option<&Value>) -> bool {
    use value_matcher::MatchPattern as Pattern;
    let kind = value.and_then(|value| value.kind.as_ref());
    match &matcher.match_pattern {
        None => false,
        Some(Pattern::NullMatch(_)) => matches!(kind, Some(Kind::NullValue(_))),
        Some(Pattern::PresentMatch(wanted)) => kind.is_some() == *wanted,
        Some(Pattern::BoolMatch(wanted)) => matches!(kind, Some(Kind::BoolValue(is)) if is == wanted),
        Some(Pattern::StringMatch(wanted)) => matches!(kind, Some(Kind::StringValue(is)) if text(wanted, is)),
        Some(Pattern::DoubleMatch(wanted)) => match (kind, &wanted.match_pattern) {
            (Some(Kind::NumberValue(is)), Some(double_matcher::MatchPattern::Exact(exact))) => is == exact,
            (Some(Kind::NumberValue(is)), Some(double_matcher::MatchPattern::Range(range))) => {
                (range.start..range.end).contains(is)
            }
            _ => false,
        },
        Some(Pattern::ListMatch(list)) => match (kind, &list.match_pattern) {
            (Some(Kind::ListValue(values)), Some(list_matcher::MatchPattern::OneOf(wanted))) => {
                values.values.iter().any(|value| value_matches(wanted, Some(value)))
            }
            _ => false,
        },
        Some(Pattern::OrMatch(any)) => any.value_matchers.iter().any(|wanted| value_matches(wanted, value)),
    }
}

/// The network of a range; `None` for one that Envoy refuses.
pub(crate) fn network(range: &CidrRange) -> Option<IpNet> {
    let ip: IpAddr = range.address_prefix.parse().ok()?;
    let length = u8::try_from(range.prefix_len.unwrap_or_default()).ok()?;
    IpNet::new(ip, length).ok()
}

/// A share, 0 to 1.
pub(crate) fn fraction(percent: &FractionalPercent) -> f64 {
    let of = match percent.denominator() {
        DenominatorType::Hundred => 100.0,
        DenominatorType::TenThousand => 10_000.0,
        DenominatorType::Million => 1_000_000.0,
    };
    (f64::from(percent.numerator) / of).min(1.0)
}

/// The share without any runtime layer. Without a default it is none.
pub(crate) fn runtime_fraction(percent: &RuntimeFractionalPercent) -> f64 {
    percent.default_value.as_ref().map_or(0.0, fraction)
}

#[cfg(test)]
mod tests {
    use lateen_proto::envoy::r#type::matcher::v3::RegexMatcher;

    use super::*;

    fn exact(value: &str) -> StringMatcher {
        StringMatcher {
            match_pattern: Some(MatchPattern::Exact(value.to_owned())),
            ignore_case: false,
        }
    }

    fn matcher(specifier: HeaderMatchSpecifier, invert: bool, empty: bool) -> HeaderMatcher {
        HeaderMatcher {
            name: "X-User".to_owned(),
            invert_match: invert,
            treat_missing_header_as_empty: empty,
            header_match_specifier: Some(specifier),
        }
    }

    fn with(value: Option<&str>) -> Headers {
        Headers::new(value.map(|value| ("x-user".to_owned(), value.to_owned())))
    }

    #[test]
    fn an_absent_header_matches_only_as_empty_or_where_absence_is_asked_for() {
        let is = |invert, empty, value| {
            header(
                &matcher(HeaderMatchSpecifier::StringMatch(exact("bob")), invert, empty),
                &with(value),
            )
        };
        assert!(is(false, false, Some("bob")) && !is(false, false, Some("eve")) && !is(false, false, None));
        assert!(is(true, false, Some("eve")) && !is(true, false, Some("bob")));
        // Without the switch, even an inverted match ignores an absent header.
        assert!(!is(true, false, None));
        assert!(is(true, true, None));
        let present = |wanted, invert, value| {
            header(
                &matcher(HeaderMatchSpecifier::PresentMatch(wanted), invert, false),
                &with(value),
            )
        };
        assert!(present(true, false, Some("")) && !present(true, false, None));
        assert!(present(true, true, None) && present(false, false, None) && !present(false, false, Some("x")));
    }

    #[test]
    fn expressions_match_the_whole_text() {
        assert!(full_match("a|ab", "ab"));
        assert!(!full_match("a", "ab"));
        assert!(full_match(".*b", "aab") && !full_match("b.*", "aab"));
        assert!(!full_match("(", "("));
    }

    #[test]
    fn substitutions_know_groups_and_leave_dollars_alone() {
        let rewrite = |pattern: &str, substitution: &str, text: &str| {
            substitute(
                &RegexMatchAndSubstitute {
                    pattern: Some(RegexMatcher {
                        regex: pattern.to_owned(),
                        ..Default::default()
                    }),
                    substitution: substitution.to_owned(),
                },
                text,
            )
        };
        assert_eq!(rewrite("^/a/(.*)/(.*)$", r"/\2/\1", "/a/b/c"), "/c/b");
        assert_eq!(rewrite(".*", "/$1", "/a"), "/$1");
        assert_eq!(rewrite("o", "0", "/foo"), "/f00");
        assert_eq!(rewrite(r"^/a(/?)(.*)", r"/\2", "/a"), "/");
    }

    #[test]
    fn the_first_of_equal_query_parameters_counts() {
        let matcher = |value: Option<&str>| QueryParameterMatcher {
            name: "q".to_owned(),
            query_parameter_match_specifier: Some(match value {
                Some(value) => QueryParameterMatchSpecifier::StringMatch(exact(value)),
                None => QueryParameterMatchSpecifier::PresentMatch(true),
            }),
        };
        assert!(query(&matcher(Some("1")), "/?q=1&q=2") && !query(&matcher(Some("2")), "/?q=1&q=2"));
        assert!(query(&matcher(None), "/?a&q") && !query(&matcher(None), "/q=1"));
        assert!(query(&matcher(Some("a%20b")), "/?q=a%20b"));
    }
}
