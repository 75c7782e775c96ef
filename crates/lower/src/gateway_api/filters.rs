//! Filters of routes: what is done to requests and responses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lateen_api::gateway_api as api;
use lateen_model::route::{Cors, HeaderOps, PathRewrite, Redirect, RedirectPort, Rewrite, TextMatch};

use crate::istio::report::{text, texts};

/// Header operations, and the authority that they set. `Err` where a value could not be sent.
pub(super) fn headers(from: &api::HeaderModifier) -> Result<(HeaderOps, Option<Arc<str>>), String> {
    for header in from.set.iter().chain(&from.add) {
        if header
            .value
            .bytes()
            .any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f)
        {
            return Err(format!(
                "the value of header {} contains control characters",
                header.name
            ));
        }
    }
    // Names have no case, and of equal ones the first counts.
    let map = |headers: &[api::HttpHeader]| {
        let mut map = BTreeMap::<Arc<str>, Arc<str>>::new();
        for header in headers {
            map.entry(header.name.to_ascii_lowercase().into())
                .or_insert_with(|| header.value.as_str().into());
        }
        map
    };
    let (mut set, mut add) = (map(&from.set), map(&from.add));
    let authority = [":authority", "host"]
        .iter()
        .find_map(|name| set.remove(*name).or_else(|| add.remove(*name)));
    let changeable = |name: &str| !name.starts_with(':') && name != "host";
    let pairs = |map: BTreeMap<Arc<str>, Arc<str>>| map.into_iter().filter(|(name, _)| changeable(name)).collect();
    let remove = from.remove.iter().filter(|name| changeable(&name.to_ascii_lowercase()));
    let remove = remove.map(|name| name.as_str().into()).collect();
    Ok((
        HeaderOps {
            set: pairs(set),
            add: pairs(add),
            remove,
        },
        authority,
    ))
}

pub(super) fn rewrite(from: &api::UrlRewrite) -> Rewrite {
    let path = from.path.as_ref().and_then(|path| match path.r#type {
        api::PathModifierType::ReplaceFullPath => path
            .replace_full_path
            .as_deref()
            .map(|path| PathRewrite::Full(path.into())),
        api::PathModifierType::ReplacePrefixMatch => path.replace_prefix_match.as_deref().map(|prefix| {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            // Nothing in its place: the prefix goes away.
            PathRewrite::Prefix(if prefix.is_empty() { "/" } else { prefix }.into())
        }),
    });
    Rewrite {
        path,
        authority: from.hostname.as_deref().and_then(text),
    }
}

pub(super) fn redirect(from: &api::RequestRedirect) -> Redirect {
    let path = from.path.as_ref().and_then(|path| match path.r#type {
        api::PathModifierType::ReplaceFullPath => {
            path.replace_full_path.as_deref().and_then(text).map(PathRewrite::Full)
        }
        api::PathModifierType::ReplacePrefixMatch => path
            .replace_prefix_match
            .as_deref()
            .and_then(text)
            .map(PathRewrite::Prefix),
    });
    let port = match from.port.and_then(|port| u16::try_from(port).ok()) {
        Some(port) => RedirectPort::Number(port),
        None if from.scheme.is_some() => RedirectPort::ProtocolDefault,
        None => RedirectPort::RequestPort,
    };
    Redirect {
        path,
        authority: from.hostname.as_deref().and_then(text),
        port: Some(port),
        scheme: from.scheme.as_deref().and_then(text),
        status: u16::try_from(from.status_code).unwrap_or(302),
    }
}

pub(super) fn cors(from: &api::Cors) -> Cors {
    Cors {
        allow_origins: from
            .allow_origins
            .iter()
            .filter(|origin| !origin.is_empty())
            .map(|origin| allowed_origin(origin))
            .collect(),
        allow_methods: texts(&from.allow_methods),
        allow_headers: texts(&from.allow_headers),
        expose_headers: texts(&from.expose_headers),
        max_age: u64::try_from(from.max_age)
            .ok()
            .filter(|age| *age > 0)
            .map(Duration::from_secs),
        allow_credentials: from.allow_credentials.filter(|allow| *allow),
        forward_unmatched_preflights: Some(false),
    }
}

/// An origin, in which `*` stands for any text.
fn allowed_origin(origin: &str) -> TextMatch {
    if origin == "*" {
        // Any origin there can be: scheme, host and maybe a port (RFC 6454), but no path.
        return TextMatch::Regex(r"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s?#]+$".into());
    }
    match origin.split_once('*') {
        None => TextMatch::Exact(origin.into()),
        Some((prefix, "")) => TextMatch::Prefix(prefix.into()),
        Some(_) => {
            let parts: Vec<String> = origin.split('*').map(quote).collect();
            TextMatch::Regex(format!("^{}$", parts.join(".*")).into())
        }
    }
}

/// The text with the signs escaped that mean something in regular expressions.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for sign in text.chars() {
        if r"\.+*?()|[]{}^$".contains(sign) {
            quoted.push('\\');
        }
        quoted.push(sign);
    }
    quoted
}
