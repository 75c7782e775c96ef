//! Headers, and what configuration does to them.

use lateen_proto::envoy::config::core::v3::HeaderValueOption;
use lateen_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use serde::Serialize;

/// Headers in order, names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

/// One change to headers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeaderChange {
    /// Takes it away.
    Remove(String),
    /// Overwrites or adds it.
    Set(String, String),
    /// Adds a further value.
    Append(String, String),
    /// Adds it where it is absent.
    AddIfAbsent(String, String),
    /// Overwrites it where it is there.
    Overwrite(String, String),
}

impl Headers {
    /// Headers of pairs; names are compared without regard to case from then on.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
        Self(pairs.into_iter().map(lower).collect())
    }

    /// All values of a header, joined by commas, as Envoy's matchers see them.
    pub fn get(&self, name: &str) -> Option<String> {
        let name = canonical(name);
        let values: Vec<&str> = self
            .0
            .iter()
            .filter(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
            .collect();
        (!values.is_empty()).then(|| values.join(","))
    }

    /// Overwrites a header.
    pub fn set(&mut self, name: &str, value: &str) {
        let name = canonical(name);
        match self.0.iter().position(|(known, _)| *known == name) {
            Some(at) => {
                self.0[at].1 = value.to_owned();
                let mut index = 0;
                self.0.retain(|(known, _)| {
                    index += 1;
                    *known != name || index == at + 1
                });
            }
            None => self.0.push((name, value.to_owned())),
        }
    }

    /// Takes a header away.
    pub fn remove(&mut self, name: &str) {
        let name = canonical(name);
        self.0.retain(|(known, _)| *known != name);
    }

    /// Applies changes in order.
    pub fn apply(&mut self, changes: &[HeaderChange]) {
        for change in changes {
            match change {
                HeaderChange::Remove(name) => self.remove(name),
                HeaderChange::Set(name, value) => self.set(name, value),
                HeaderChange::Append(name, value) => self.append(name, value),
                HeaderChange::AddIfAbsent(name, value) => {
                    if self.get(name).is_none() {
                        self.set(name, value);
                    }
                }
                HeaderChange::Overwrite(name, value) => {
                    if self.get(name).is_some() {
                        self.set(name, value);
                    }
                }
            }
        }
    }

    fn append(&mut self, name: &str, value: &str) {
        self.0.push((canonical(name), value.to_owned()));
    }

    /// Headers without those that HTTP/2 writes with a colon.
    pub fn plain(&self) -> Vec<(String, String)> {
        self.0
            .iter()
            .filter(|(name, _)| !name.starts_with(':'))
            .cloned()
            .collect()
    }
}

/// `Host` is `:authority` within Envoy.
fn canonical(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    if name == "host" { ":authority".to_owned() } else { name }
}

/// What one place of configuration does: it removes first, then overwrites, then adds.
pub(crate) fn changes(add: &[HeaderValueOption], remove: &[String], request: &Headers) -> Vec<HeaderChange> {
    let mut all: Vec<HeaderChange> = remove
        .iter()
        .map(|name| HeaderChange::Remove(name.to_ascii_lowercase()))
        .collect();
    let (mut overwriting, mut adding) = (Vec::new(), Vec::new());
    for option in add {
        let Some(header) = &option.header else { continue };
        let value = formatted(&header.value, request);
        if value.is_empty() && !option.keep_empty_value {
            continue;
        }
        let name = header.key.to_ascii_lowercase();
        // The older field wins where it is set.
        match (option.append, option.append_action()) {
            (Some(true), _) | (None, HeaderAppendAction::AppendIfExistsOrAdd) => {
                adding.push(HeaderChange::Append(name, value));
            }
            (Some(false), _) | (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => {
                overwriting.push(HeaderChange::Set(name, value));
            }
            (None, HeaderAppendAction::AddIfAbsent) => adding.push(HeaderChange::AddIfAbsent(name, value)),
            (None, HeaderAppendAction::OverwriteIfExists) => overwriting.push(HeaderChange::Overwrite(name, value)),
        }
    }
    all.extend(overwriting);
    all.extend(adding);
    all
}

/// Replaces what is known of Envoy's formatters: `%%` and `%REQ(…)%`. Others stay as they are written.
fn formatted(value: &str, request: &Headers) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(more) = after.strip_prefix('%') {
            out.push('%');
            rest = more;
            continue;
        }
        let Some(end) = after.find('%') else {
            out.push('%');
            rest = after;
            continue;
        };
        match requested(&after[..end], request) {
            Some(text) => out.push_str(&text),
            None => out.push_str(&rest[at..at + end + 2]),
        }
        rest = &after[end + 1..];
    }
    out + rest
}

fn requested(command: &str, request: &Headers) -> Option<String> {
    let inner = command.strip_prefix("REQ(")?;
    let (names, limit) = inner.split_once(')')?;
    let found = names.split('?').find_map(|name| request.get(name));
    let limit = limit.strip_prefix(':').and_then(|limit| limit.parse().ok());
    Some(match (found, limit) {
        (Some(text), Some(limit)) => text.chars().take(limit).collect(),
        (Some(text), None) => text,
        (None, _) => String::new(),
    })
}

#[cfg(test)]
mod tests {
    use lateen_proto::envoy::config::core::v3::HeaderValue;

    use super::*;

    fn option(name: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
        HeaderValueOption {
            header: Some(HeaderValue {
                key: name.to_owned(),
                value: value.to_owned(),
                ..Default::default()
            }),
            append_action: action.into(),
            ..Default::default()
        }
    }

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers::new(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
    }

    #[test]
    fn one_place_removes_then_overwrites_then_adds() {
        let mut request = headers(&[("A", "1"), ("b", "2"), ("a", "3")]);
        let options = [
            option("b", "added", HeaderAppendAction::AppendIfExistsOrAdd),
            option("B", "set", HeaderAppendAction::OverwriteIfExistsOrAdd),
            option("a", "again", HeaderAppendAction::AddIfAbsent),
            option("c", "never", HeaderAppendAction::OverwriteIfExists),
            option("d", "", HeaderAppendAction::AppendIfExistsOrAdd),
        ];
        let changes = changes(&options, &["A".to_owned()], &request);
        request.apply(&changes);
        assert_eq!(request, headers(&[("b", "set"), ("b", "added"), ("a", "again")]));
    }

    #[test]
    fn setting_leaves_one_value_in_the_place_of_the_first() {
        let mut request = headers(&[("a", "1"), ("b", "2"), ("a", "3")]);
        assert_eq!(request.get("A").as_deref(), Some("1,3"));
        request.set("a", "x");
        assert_eq!(request, headers(&[("a", "x"), ("b", "2")]));
    }

    #[test]
    fn host_is_the_authority() {
        let mut request = headers(&[(":authority", "a"), ("x", "1")]);
        request.set("Host", "b");
        assert_eq!(request.get(":authority").as_deref(), Some("b"));
        assert_eq!(request.plain(), [("x".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn formatters_that_are_known_are_replaced() {
        let request = headers(&[(":path", "/a"), ("x-id", "12345")]);
        let of = |text: &str| formatted(text, &request);
        assert_eq!(of("100%% of %REQ(:path)%"), "100% of /a");
        assert_eq!(of("%REQ(none?x-id):3%"), "123");
        assert_eq!(of("a%REQ(none)%"), "a");
        assert_eq!(of("%DOWNSTREAM_REMOTE_ADDRESS%!"), "%DOWNSTREAM_REMOTE_ADDRESS%!");
    }
}
