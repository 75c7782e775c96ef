//! How the connection manager rewrites a path before it is matched.

use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::PathWithEscapedSlashesAction;

/// What becomes of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Normalized {
    /// It is used so.
    Path(String),
    /// The client is told to ask for this one.
    Redirect(String),
    /// The request is refused with 400.
    Invalid(&'static str),
}

/// A path without query.
pub(crate) fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

pub(crate) fn normalize(path: &str, manager: &HttpConnectionManager) -> Normalized {
    if path.contains('#') {
        return Normalized::Invalid("paths with a fragment are refused");
    }
    let (mut plain, query) = match path.split_once('?') {
        Some((plain, query)) => (plain.to_owned(), Some(query)),
        None => (path.to_owned(), None),
    };
    if plain == "*" || !plain.starts_with('/') {
        return Normalized::Path(path.to_owned());
    }
    let with_query = |plain: String| match query {
        Some(query) => format!("{plain}?{query}"),
        None => plain,
    };
    let mut redirect = false;
    let unescaped = replace_escapes(&plain, |byte| matches!(byte, b'/' | b'\\'));
    if unescaped != plain {
        match manager.path_with_escaped_slashes_action() {
            PathWithEscapedSlashesAction::RejectRequest => {
                return Normalized::Invalid("paths with escaped slashes are refused");
            }
            PathWithEscapedSlashesAction::UnescapeAndRedirect => {
                redirect = true;
                plain = unescaped;
            }
            PathWithEscapedSlashesAction::UnescapeAndForward => plain = unescaped,
            _ => {}
        }
    }
    if manager.normalize_path.unwrap_or_default() {
        if plain.to_ascii_lowercase().contains("%00") {
            return Normalized::Invalid("paths with an escaped zero are refused");
        }
        let plainer = replace_escapes(&plain.replace('\\', "/"), |byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
        });
        plain = escaped(&without_dots(&plainer));
    }
    if manager.merge_slashes {
        while plain.contains("//") {
            plain = plain.replace("//", "/");
        }
    }
    if redirect {
        return Normalized::Redirect(with_query(plain));
    }
    Normalized::Path(with_query(plain))
}

/// Writes out percent-escapes of the bytes that `which` chooses.
fn replace_escapes(text: &str, which: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let byte = rest
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) if byte.is_ascii() && which(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            _ => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// Escapes what may not stand in a path.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter.is_ascii_graphic() && !matches!(letter, '"' | '<' | '>' | '`' | '{' | '}' | '^' | '|') {
            out.push(letter);
        } else {
            let mut bytes = [0; 4];
            for byte in letter.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    out
}

/// Resolves `.` and `..` (RFC 3986, 5.2.4).
fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (index, segment) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        match *segment {
            "." if last => parts.push(""),
            "." => {}
            ".." => {
                parts.pop();
                if last {
                    parts.push("");
                }
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(normalize: bool, merge: bool, escaped: PathWithEscapedSlashesAction) -> HttpConnectionManager {
        HttpConnectionManager {
            normalize_path: Some(normalize),
            merge_slashes: merge,
            path_with_escaped_slashes_action: escaped.into(),
            ..Default::default()
        }
    }

    fn path(text: &str) -> Normalized {
        Normalized::Path(text.to_owned())
    }

    #[test]
    fn normalizing_resolves_dots_and_keeps_the_query() {
        let on = manager(true, false, PathWithEscapedSlashesAction::KeepUnchanged);
        for (from, to) in [
            ("/a/../b?x=/../y", "/b?x=/../y"),
            ("/a/./b/.", "/a/b/"),
            ("/../..", "/"),
            ("/a\\b", "/a/b"),
            ("/%61%2fb/%2e%2e/c", "/c"),
            ("/a//b", "/a//b"),
            ("/a%20b", "/a%20b"),
            ("/a\"b<c>", "/a%22b%3Cc%3E"),
        ] {
            assert_eq!(normalize(from, &on), path(to), "{from}");
        }
        assert!(matches!(normalize("/a%00", &on), Normalized::Invalid(_)));
        let off = manager(false, false, PathWithEscapedSlashesAction::KeepUnchanged);
        assert_eq!(normalize("/a/../b", &off), path("/a/../b"));
    }

    #[test]
    fn slashes_are_merged_and_unescaped_when_told_to() {
        let merge = manager(true, true, PathWithEscapedSlashesAction::UnescapeAndForward);
        assert_eq!(normalize("/a%2F%5cb//c", &merge), path("/a/b/c"));
        let redirect = manager(true, false, PathWithEscapedSlashesAction::UnescapeAndRedirect);
        assert_eq!(
            normalize("/a%2fb?q", &redirect),
            Normalized::Redirect("/a/b?q".to_owned())
        );
        let reject = manager(false, false, PathWithEscapedSlashesAction::RejectRequest);
        assert!(matches!(normalize("/a%2fb", &reject), Normalized::Invalid(_)));
        assert!(matches!(normalize("/a#b", &reject), Normalized::Invalid(_)));
    }
}
