//! What a token says, before anybody has verified it: good for refusing early and for logs, never for trust.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::TokenError;

/// How far the issuer's clock may be off.
pub(super) const LEEWAY: Duration = Duration::from_secs(60);
/// Longer than any token of an API server; bounds the work that a stranger can cause.
const MAX_TOKEN: usize = 16 * 1024;
/// How much of a stranger's text an error repeats.
const MAX_ECHO: usize = 256;

/// The unverified claims of a token.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// `iss`.
    pub(crate) issuer: String,
    /// `sub`, shortened.
    pub(crate) subject: Option<String>,
    /// `aud`; none where the token names none.
    audiences: Option<Vec<String>>,
    /// `exp`, in seconds since 1970.
    expires: Option<f64>,
    /// The pod of a bound token: name and UID.
    pub(crate) pod: Option<(String, String)>,
    /// The namespace of a bound token.
    pub(crate) namespace: Option<String>,
}

impl Claims {
    /// Reads them.
    pub(crate) fn read(token: &str) -> Result<Self, TokenError> {
        let (_, payload) = split(token)?;
        let Some(payload @ Value::Object(_)) = part(payload) else {
            return Err(TokenError::Malformed("its payload does not read"));
        };
        let text = |value: &Value| value.as_str().map(echo);
        let audiences = match &payload["aud"] {
            Value::String(one) => Some(vec![echo(one)]),
            Value::Array(several) => Some(several.iter().take(8).filter_map(text).collect()),
            _ => None,
        };
        let bound = &payload["kubernetes.io"];
        Ok(Self {
            issuer: text(&payload["iss"]).unwrap_or_default(),
            subject: text(&payload["sub"]),
            audiences,
            expires: payload["exp"].as_f64(),
            pod: text(&bound["pod"]["name"]).zip(text(&bound["pod"]["uid"])),
            namespace: text(&bound["namespace"]),
        })
    }

    /// Refuses what nobody could vouch for.
    pub(crate) fn check(&self, audiences: &[String], now: SystemTime) -> Result<(), TokenError> {
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        if let Some(expires) = self.expires
            && now >= expires + LEEWAY.as_secs_f64()
        {
            return Err(TokenError::Expired((now - expires) as u64));
        }
        match &self.audiences {
            Some(found) if !found.iter().any(|audience| audiences.contains(audience)) => Err(TokenError::Audience {
                found: found.clone(),
                expected: audiences.to_vec(),
            }),
            _ => Ok(()),
        }
    }
}

/// The header and the payload of a token, encoded.
pub(super) fn split(token: &str) -> Result<(&str, &str), TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed("it is longer than 16 KiB"));
    }
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(_), None) => Ok((header, payload)),
        _ => Err(TokenError::Malformed("three parts separated by dots are expected")),
    }
}

/// What a part of a token says.
pub(super) fn part<T: DeserializeOwned>(encoded: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

/// A stranger's text, as an error repeats it.
pub(super) fn echo(text: &str) -> String {
    text.chars()
        .take(MAX_ECHO)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
