//! Rules for pieces of text. Each says what is wrong in words that go behind the field's name.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use lateen_api::Duration;
use regex::Regex;

use crate::{Findings, Labels};

/// Longest regular expression; Envoy bounds the size of the compiled program, of which the length is a lower limit.
const LONGEST_REGEX: usize = 1024;

/// Whether the text is a DNS label (RFC 1123); upper case is taken too, as host names have no case.
pub(crate) fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

fn is_wildcard_label(text: &str) -> bool {
    match text.strip_prefix('*') {
        None => is_label(text),
        Some("") => true,
        Some(rest) => text.len() <= 63 && is_label(&format!("a{rest}")),
    }
}

/// A host name without wildcard.
pub(crate) fn fqdn(text: &str) -> Result<(), String> {
    length(text)?;
    labels(text, text)
}

/// A host name whose first label may be a wildcard.
pub(crate) fn wildcard_domain(text: &str) -> Result<(), String> {
    length(text)?;
    let (first, rest) = text
        .split_once('.')
        .map_or((text, None), |(first, rest)| (first, Some(rest)));
    if !is_wildcard_label(first) {
        return Err(format!("`{text}` is no host name: the label `{first}` is not valid"));
    }
    rest.map_or(Ok(()), |rest| labels(rest, text))
}

/// A host of a VirtualService at a gateway: where routes are chosen by SNI also the names that sidecars send to gateways
/// between networks, `outbound_.<port>_.<subset>_.<host>`.
pub(crate) fn gateway_domain(sni: bool, text: &str) -> Result<(), String> {
    if sni && text.starts_with("outbound_") {
        length(text)?;
        let parts: Vec<&str> = text.splitn(4, "_.").collect();
        return match parts[..] {
            ["outbound", port, _, host]
                if port.contains(|c: char| c.is_ascii_digit()) && host.contains(|c: char| c.is_ascii_alphabetic()) =>
            {
                Ok(())
            }
            _ => Err(format!(
                "`{text}` is not of the form outbound_.<port>_.<subset>_.<host>"
            )),
        };
    }
    wildcard_domain(text)
}

fn length(text: &str) -> Result<(), String> {
    match text.len() {
        0 => Err("the host name is empty".into()),
        length if length > 255 => Err(format!("the host name has {length} characters, 255 are allowed")),
        _ => Ok(()),
    }
}

fn labels(text: &str, whole: &str) -> Result<(), String> {
    // A name may end with the root's dot.
    let parts = text.strip_suffix('.').unwrap_or(text);
    match parts.split('.').find(|label| !is_label(label)) {
        Some(label) => Err(format!("`{whole}` is no host name: the label `{label}` is not valid")),
        None => match parts.rsplit('.').next() {
            Some(top) if top.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(format!("`{whole}` is no host name: the last label cannot be a number"))
            }
            _ => Ok(()),
        },
    }
}

/// `namespace/host` as Gateways and Sidecars have it. The namespace may be `*`, `.` or `~`.
pub(crate) fn namespaced_host(text: &str, gateway: bool) -> Result<(), String> {
    let Some((namespace, host)) = text.split_once('/') else {
        if gateway {
            return wildcard_domain(text);
        }
        return Err(format!("`{text}` must be of the form namespace/host"));
    };
    if namespace.is_empty() || host.is_empty() {
        return Err(format!(
            "`{text}` must be of the form namespace/host; neither part can be empty"
        ));
    }
    if !gateway && namespace == "~" && host == "*" {
        return Ok(());
    }
    let excluded = if gateway {
        namespace
    } else {
        namespace
            .strip_prefix('~')
            .filter(|rest| !rest.is_empty())
            .unwrap_or(namespace)
    };
    if !matches!(excluded, "*" | "." | "~") && !is_label(excluded) {
        return Err(format!("`{namespace}` is no namespace; use a name, `*` or `.`"));
    }
    wildcard_domain(host)
}

/// A port, 1 to 65535.
pub(crate) fn port(number: i64) -> Result<(), String> {
    if (1..=65535).contains(&number) {
        Ok(())
    } else {
        Err(format!("{number} is no port; use a number from 1 to 65535"))
    }
}

/// A duration of at least a millisecond, in whole milliseconds.
pub(crate) fn duration(value: Duration) -> Result<(), String> {
    if value.as_nanos() < 1_000_000 {
        return Err("the duration must be at least 1ms".into());
    }
    if value.as_nanos() % 1_000_000 != 0 {
        return Err("only durations to the millisecond are supported; drop the finer part".into());
    }
    Ok(())
}

/// A share in per cent that Envoy can tell from none.
pub(crate) fn percentage(value: f64) -> Result<(), String> {
    if value == 0.0 || (0.0001..=100.0).contains(&value) {
        Ok(())
    } else {
        Err(format!("{value} is no share; use 0, or 0.0001 to 100"))
    }
}

/// A whole number of per cent.
pub(crate) fn percent(value: i32) -> Result<(), String> {
    if (0..=100).contains(&value) {
        Ok(())
    } else {
        Err(format!("{value} is no share; use 0 to 100"))
    }
}

/// A regular expression (RE2) of bearable length.
pub(crate) fn regex(text: &str) -> Result<(), String> {
    if text.len() > LONGEST_REGEX {
        return Err(format!(
            "the regular expression has {} characters, {LONGEST_REGEX} are allowed",
            text.len()
        ));
    }
    match Regex::new(text) {
        Ok(_) | Err(regex::Error::CompiledTooBig(_)) => Ok(()),
        Err(error) => {
            let reason = error.to_string();
            let reason = reason
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned();
            Err(format!("`{text}` is no regular expression (RE2 syntax): {reason}"))
        }
    }
}

/// An address or a range of addresses.
pub(crate) fn subnet(text: &str) -> Result<(), String> {
    let (address, length) = text
        .split_once('/')
        .map_or((text, None), |(address, length)| (address, Some(length)));
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(format!(
            "`{text}` is neither an IP address nor a range such as 10.0.0.0/8"
        ));
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    match length.map(str::parse::<u8>) {
        None => Ok(()),
        Some(Ok(length)) if length <= longest => Ok(()),
        Some(_) => Err(format!(
            "`{text}` is no range: its prefix length must be 0 to {longest}"
        )),
    }
}

/// A path of a Unix socket, or an abstract one.
pub(crate) fn unix_socket(text: &str) -> Result<(), String> {
    if text.starts_with('@') || (Path::new(text).is_absolute() && !text.ends_with('/')) {
        Ok(())
    } else {
        Err(format!("`{text}` must be the absolute path of a file"))
    }
}

/// Whether Envoy treats the header as its own, so that it cannot be changed like others.
fn is_internal_header(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

/// Whether a header of that name sets the authority.
pub(crate) fn is_authority_header(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

/// A header that may be set or added on a request.
pub(crate) fn request_header(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the header has no name".into());
    }
    if is_internal_header(name) && !is_authority_header(name) {
        return Err(format!("the pseudo header `{name}` cannot be changed"));
    }
    Ok(())
}

/// A header that may be removed, or changed on a response.
pub(crate) fn other_header(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the header has no name".into());
    }
    if is_internal_header(name) {
        return Err(format!("the header `{name}` cannot be changed here"));
    }
    Ok(())
}

/// Name of a header to match on.
pub(crate) fn match_header(name: &str) -> Result<(), String> {
    if is_claim(name) || matches!(name, ":method" | ":scheme" | ":authority" | ":path" | ":status") {
        return Ok(());
    }
    header_name(name)
}

/// A header's name (RFC 9110 `token`, without the rarer signs).
pub(crate) fn header_name(name: &str) -> Result<(), String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "_-.!#$%&'*+^`|~".contains(c);
    if !name.is_empty() && name.chars().all(valid) {
        Ok(())
    } else {
        Err(format!("`{name}` is no name of a header"))
    }
}

/// Whether a condition on headers is one on a claim of the token, `@request.auth.claims.<name>`.
pub(crate) fn is_claim(name: &str) -> bool {
    name.to_ascii_lowercase()
        .strip_prefix("@request.auth.claims")
        .is_some_and(|rest| match rest.as_bytes().first() {
            Some(b'.') => rest.len() > 1,
            Some(b'[') => rest.ends_with(']') && rest.len() > 2,
            _ => false,
        })
}

/// A header's value: no control characters, and every `%` is either doubled or one end of `%VARIABLE(…)%`.
pub(crate) fn header_value(value: &str) -> Result<(), String> {
    if value.bytes().any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
        return Err("the value of the header contains control characters".into());
    }
    let unbalanced =
        || format!("`{value}` has a `%` that neither begins nor ends a variable; write `%%` for the sign itself");
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            rest = after;
            continue;
        }
        let stop = rest.find(['%', '(']).ok_or_else(unbalanced)?;
        if rest[stop..].starts_with('%') {
            rest = &rest[stop + 1..];
            continue;
        }
        let close = rest[stop..].find(')').ok_or_else(unbalanced)?;
        rest = rest[stop + close + 1..]
            .trim_start_matches(' ')
            .strip_prefix('%')
            .ok_or_else(unbalanced)?;
    }
    Ok(())
}

/// A name of a subset.
pub(crate) fn subset(name: &str) -> Result<(), String> {
    if is_label(name) {
        Ok(())
    } else {
        Err(format!(
            "`{name}` is no name of a subset; use letters, digits and inner hyphens, at most 63"
        ))
    }
}

/// A name of a port.
pub(crate) fn port_name(name: &str) -> Result<(), String> {
    if is_label(name) {
        Ok(())
    } else {
        Err(format!(
            "`{name}` is no name of a port; use letters, digits and inner hyphens"
        ))
    }
}

/// Protocols by the names that ports have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Requests can be told apart.
    Http,
    /// HTTPS or TLS.
    Tls,
    /// Everything else that is passed.
    Other,
}

/// A protocol by its name, in any case.
pub(crate) fn protocol(name: &str) -> Option<Protocol> {
    Some(match name.to_ascii_lowercase().as_str() {
        "http" | "http2" | "grpc" | "grpc-web" | "http_proxy" => Protocol::Http,
        "https" | "tls" => Protocol::Tls,
        "tcp" | "mongo" | "redis" | "mysql" | "udp" | "hbone" | "dynamic" => Protocol::Other,
        _ => return None,
    })
}

/// Labels that a workload can carry.
pub(crate) fn workload_labels(labels: &Labels, field: &str, findings: &mut Findings) {
    for (key, value) in labels {
        let (prefix, name) = key
            .rsplit_once('/')
            .map_or((None, key.as_str()), |(prefix, name)| (Some(prefix), name));
        let qualified = |text: &str| {
            let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
            let bytes = text.as_bytes();
            bytes.len() <= 63
                && edge(bytes.first())
                && edge(bytes.last())
                && bytes
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        };
        if !qualified(name)
            || prefix.is_some_and(|prefix| prefix.len() > 253 || prefix.split('.').any(|label| !is_label(label)))
        {
            findings.error(format!("{field}[{key}]"), format!("`{key}` is no key of a label"));
        }
        if !value.is_empty() && !qualified(value) {
            findings.error(format!("{field}[{key}]"), format!("`{value}` is no value of a label"));
        }
    }
}

/// Who may see an object.
pub(crate) fn export_to(list: &[String], namespace: &str, selects_workloads: bool, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for (at, entry) in list.iter().enumerate() {
        let field = format!("spec.exportTo[{at}]");
        let resolved = if entry == "." { namespace } else { entry.as_str() };
        if !seen.insert(resolved) {
            findings.error(
                &field,
                format!("`{entry}` is there twice (`.` is the namespace {namespace}); remove one"),
            );
        }
        if resolved != "*" && !is_label(resolved) {
            findings.error(&field, format!("`{entry}` is neither `.`, `*` nor a namespace"));
        }
    }
    if seen.contains("*") && list.len() > 1 {
        findings.error("spec.exportTo", "`*` already is everybody; remove the other entries");
    }
    if selects_workloads && !list.is_empty() && (seen.len() > 1 || !seen.contains(namespace)) {
        findings.error(
            "spec.exportTo",
            "a rule with workloadSelector holds in its own namespace only; use `.` or nothing",
        );
    }
}

/// A boolean as annotations have it (Go's `strconv.ParseBool`).
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_may_have_a_wildcard_as_their_first_label() {
        for good in ["*", "*.com", "a", "a.b-c.com", "*-x.com", "x.com.", "Upper.com"] {
            assert_eq!(wildcard_domain(good), Ok(()), "{good}");
        }
        for bad in ["", "a..b", "*.*.com", "a b", "-a.com", "a.*", "1.2.3.4"] {
            assert!(wildcard_domain(bad).is_err(), "{bad}");
        }
        assert!(gateway_domain(true, "outbound_.80_._.e2e.foobar.mesh").is_ok());
        assert!(gateway_domain(false, "outbound_.80_._.e2e.foobar.mesh").is_err());
    }

    #[test]
    fn hosts_of_gateways_and_sidecars_may_name_a_namespace() {
        for (text, gateway, sidecar) in [
            ("*/*", true, true),
            ("./*.com", true, true),
            ("ns/host", true, true),
            ("~/*", true, true),
            ("host", true, false),
            ("a b/host", false, false),
            ("ns/", false, false),
            ("/host", false, false),
        ] {
            assert_eq!(namespaced_host(text, true).is_ok(), gateway, "{text} at a gateway");
            assert_eq!(namespaced_host(text, false).is_ok(), sidecar, "{text} in a sidecar");
        }
    }

    #[test]
    fn variables_in_header_values_must_be_closed() {
        for good in [
            "",
            "foo",
            "%HOSTNAME%",
            "100%%",
            "prefix %HOSTNAME% suffix",
            "%REQ(x)%",
            "%PER_REQUEST_STATE(\"a\")%",
        ] {
            assert_eq!(header_value(good), Ok(()), "{good}");
        }
        for bad in ["abc%123", "%START_TIME%%", "%", "%REQ(x", "%REQ(x)", "a\nb"] {
            assert!(header_value(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn claims_have_names() {
        assert!(is_claim("@request.auth.claims.group.id"));
        assert!(is_claim("@request.auth.claims[group][id]"));
        assert!(!is_claim("@request.auth.claims"));
        assert!(!is_claim("x-claims"));
    }

    #[test]
    fn addresses_and_ranges() {
        for good in ["10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8"] {
            assert_eq!(subnet(good), Ok(()), "{good}");
        }
        for bad in ["10.0.0", "10.0.0.0/33", "host", "10.0.0.0/x"] {
            assert!(subnet(bad).is_err(), "{bad}");
        }
    }
}
