//! Reads a key set (RFC 7517), and writes what of it proxies need.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Keys that are read of one set.
const MOST_KEYS: usize = 100;
/// The longest value of a member that is taken: a modulus of 16,384 bits has 2,731 characters.
const LONGEST_VALUE: usize = 4096;
/// The shortest modulus that signatures may rest on (RFC 7518, §3.3), in bytes.
const SHORTEST_MODULUS: usize = 256;

/// What an answer must be is what it is not. Says nothing of what it is: that may be somebody's secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is no set of keys.
    #[error("the answer is no JSON Web Key Set")]
    NotAKeySet,
    /// It has more keys than are read.
    #[error("the set has more than {MOST_KEYS} keys")]
    TooManyKeys,
    /// It has no key that tokens may be verified with.
    #[error(
        "the set has no usable key: an RSA key of at least 2048 bits, or one of a curve P-256, P-384, P-521, Ed25519"
    )]
    NoKey,
    /// It is no OpenID configuration, or one without keys.
    #[error("the answer is no OpenID configuration with a `jwks_uri`")]
    NotADiscovery,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<BTreeMap<String, Value>>,
}

#[derive(Serialize)]
struct PublicSet {
    keys: Vec<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Discovery {
    jwks_uri: String,
}

/// The public keys of a set, in an order of their own: the same keys give the same text however they were listed.
pub(super) fn read(answer: &[u8]) -> Result<Arc<str>, KeySetError> {
    let set: Set = serde_json::from_slice(answer).map_err(|_| KeySetError::NotAKeySet)?;
    if set.keys.len() > MOST_KEYS {
        return Err(KeySetError::TooManyKeys);
    }
    let mut keys: Vec<_> = set.keys.iter().filter_map(public).collect();
    if keys.is_empty() {
        return Err(KeySetError::NoKey);
    }
    keys.sort();
    keys.dedup();
    let text = serde_json::to_string(&PublicSet { keys }).map_err(|_| KeySetError::NotAKeySet)?;
    Ok(text.into())
}

/// Where an OpenID configuration says that keys are.
pub(super) fn read_discovery(answer: &[u8]) -> Result<String, KeySetError> {
    let discovery: Discovery = serde_json::from_slice(answer).map_err(|_| KeySetError::NotADiscovery)?;
    Ok(discovery.jwks_uri)
}

/// The public members of a key, if it is one to verify signatures with. Symmetric keys are none: published, they let
/// everybody sign.
fn public(key: &BTreeMap<String, Value>) -> Option<BTreeMap<String, String>> {
    let text = |name: &str| {
        key.get(name)
            .and_then(Value::as_str)
            .filter(|text| text.len() <= LONGEST_VALUE)
    };
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    if let Some(Value::Array(operations)) = key.get("key_ops")
        && !operations.iter().any(|operation| operation == "verify")
    {
        return None;
    }
    let needed: &[&str] = match (text("kty")?, text("crv")) {
        ("RSA", _) => &["n", "e"],
        ("EC", Some("P-256" | "P-384" | "P-521")) => &["x", "y"],
        ("OKP", Some("Ed25519")) => &["x"],
        _ => return None,
    };
    let mut public = BTreeMap::new();
    for name in needed {
        let value = text(name)?.trim_end_matches('=');
        let bytes = URL_SAFE_NO_PAD.decode(value).ok()?;
        let significant = bytes.iter().skip_while(|byte| **byte == 0).count();
        if significant == 0 || (*name == "n" && significant < SHORTEST_MODULUS) {
            return None;
        }
        public.insert((*name).to_owned(), value.to_owned());
    }
    for name in ["kty", "crv", "kid", "alg", "use"] {
        if let Some(value) = text(name) {
            public.insert(name.to_owned(), value.to_owned());
        }
    }
    Some(public)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ec(kid: &str) -> Value {
        let point = URL_SAFE_NO_PAD.encode([7; 32]);
        json!({"kty": "EC", "crv": "P-256", "x": point, "y": point, "kid": kid})
    }

    fn rsa(bytes: usize) -> Value {
        json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(vec![200; bytes]), "e": "AQAB", "kid": "rsa"})
    }

    fn read_value(set: &Value) -> Result<Value, KeySetError> {
        read(set.to_string().as_bytes()).map(|text| serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn only_public_members_of_usable_keys_are_handed_on() {
        let mut with_private = rsa(256);
        with_private["d"] = json!("c2VjcmV0");
        with_private["x5c"] = json!(["x"]);
        let mut for_encryption = ec("enc");
        for_encryption["use"] = json!("enc");
        let set = json!({"keys": [
            with_private, for_encryption, rsa(128), ec("b"), ec("a"), ec("a"),
            {"kty": "oct", "k": "c2VjcmV0"}, {"kty": "EC", "crv": "P-256", "x": "!", "y": "AA"}, {"kid": 7},
        ], "secret": "aws"});
        let read = read_value(&set).unwrap();
        assert_eq!(
            read,
            json!({"keys": [
                {"crv": "P-256", "kid": "a", "kty": "EC", "x": ec("a")["x"], "y": ec("a")["y"]},
                {"crv": "P-256", "kid": "b", "kty": "EC", "x": ec("b")["x"], "y": ec("b")["y"]},
                {"e": "AQAB", "kid": "rsa", "kty": "RSA", "n": rsa(256)["n"]},
            ]})
        );
    }

    #[test]
    fn what_is_no_key_set_says_nothing_of_what_it_is() {
        for answer in [
            "",
            "hunter2",
            "[]",
            "{}",
            r#"{"keys":{}}"#,
            r#"{"AccessKeyId":"hunter2"}"#,
        ] {
            let error = read(answer.as_bytes()).unwrap_err();
            assert_eq!(error, KeySetError::NotAKeySet, "{answer}");
            assert!(!error.to_string().contains("hunter2"));
        }
        assert_eq!(read_value(&json!({"keys": []})), Err(KeySetError::NoKey));
        assert_eq!(read_value(&json!({"keys": [rsa(255)]})), Err(KeySetError::NoKey));
        let many: Vec<Value> = (0..=MOST_KEYS).map(|at| ec(&at.to_string())).collect();
        assert_eq!(read_value(&json!({"keys": many})), Err(KeySetError::TooManyKeys));
        let deep = "[".repeat(100_000);
        assert_eq!(read(deep.as_bytes()), Err(KeySetError::NotAKeySet));
    }
}
