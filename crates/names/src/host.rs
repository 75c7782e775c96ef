//! Host names with Istio's wildcards.

use crate::text::{InvalidName, text};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

text! {
    /// A host name as Istio's configuration uses it: a fully qualified name, or one with a wildcard as its whole first
    /// label (`*`, `*.example.com`, and also `*-suffix.example.com`), or an IP address. Always lower case.
    Hostname, "host name", check
}

impl Hostname {
    /// Wraps the text after turning it to lower case.
    ///
    /// # Errors
    /// When the text is not a host name.
    pub fn lower(text: &str) -> Result<Self, InvalidName> {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            Self::new(&text.to_ascii_lowercase())
        } else {
            Self::new(text)
        }
    }

    /// Whether the name stands for many hosts.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.as_str().starts_with('*')
    }

    /// Whether some host is meant by both names (Istio's `host.Matches`): equal names, or a wildcard that covers the other.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Whether every host meant by `other` is meant by `self` (Istio's `host.SubsetOf`, seen from the wider side).
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match self.as_str().strip_prefix('*') {
            None => self == other,
            Some(suffix) => {
                let other = other.as_str();
                let rest = other.strip_prefix('*').unwrap_or(other);
                rest.len() >= suffix.len() && rest.ends_with(suffix)
            }
        }
    }

    /// Order for choosing the most specific of several names: longer first, exact before wildcard, then alphabetical.
    #[must_use]
    pub fn specificity(&self, other: &Self) -> std::cmp::Ordering {
        (self.is_wildcard().cmp(&other.is_wildcard()))
            .then(other.as_str().len().cmp(&self.as_str().len()))
            .then(self.cmp(other))
    }
}

fn check(text: &str) -> Option<&'static str> {
    if text.is_empty() || text.len() > 253 {
        return Some("must have 1 to 253 characters");
    }
    if text.parse::<std::net::IpAddr>().is_ok() {
        return None;
    }
    let rest = text.strip_prefix('*').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    if rest.contains('*') {
        return Some("a wildcard may stand only at the beginning");
    }
    if rest
        .bytes()
        .any(|b| !(b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_')))
    {
        return Some("must consist of lower-case letters, digits, `-`, `_` and `.`");
    }
    let labels = rest.strip_prefix('.').unwrap_or(rest);
    let labels = labels.strip_suffix('.').unwrap_or(labels);
    if labels.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Some("every label must have 1 to 63 characters");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Hostname {
        Hostname::new(text).unwrap()
    }

    #[test]
    fn wildcards_cover_longer_names_and_each_other() {
        assert!(host("*").covers(&host("a.b")));
        assert!(host("*.b.com").covers(&host("a.b.com")));
        assert!(host("*.com").covers(&host("*.b.com")));
        assert!(!host("*.b.com").covers(&host("*.com")));
        assert!(!host("*.b.com").covers(&host("b.com")));
        assert!(!host("a.com").covers(&host("*.com")));
        assert!(host("a.com").matches(&host("*.com")));
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        for bad in ["", "a..b", "a b", "*.*.com", "a/b", "UPPER"] {
            assert!(Hostname::new(bad).is_err(), "{bad}");
        }
        assert_eq!(Hostname::lower("UPPER.io").unwrap(), "upper.io");
    }

    #[test]
    fn the_most_specific_name_comes_first() {
        let mut hosts = [host("*"), host("*.com"), host("a.com"), host("*.b.com")];
        hosts.sort_by(Hostname::specificity);
        assert_eq!(
            hosts.iter().map(Hostname::as_str).collect::<Vec<_>>(),
            ["a.com", "*.b.com", "*.com", "*"]
        );
    }
}
