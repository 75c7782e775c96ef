//! Issuers of tokens, and the tokens that rows and attacks show.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lateen_ca::pki::PrivateKey;
use serde_json::{Value, json};

/// A key of tests, no secret.
const RSA: &str = include_str!("../../../crates/pki/tests/fixtures/rsa-pkcs8.pem");
const RSA_PUBLIC: &str = include_str!("rsa.json");

/// Who signs tokens: `good.test`, `other.test` and, with an RSA key, `rsa.test`.
pub(crate) struct Tokens {
    good: PrivateKey,
    other: PrivateKey,
    tokens: BTreeMap<&'static str, String>,
}

impl Tokens {
    pub(crate) fn new() -> Result<Self> {
        let mut made = Self {
            good: PrivateKey::generate()?,
            other: PrivateKey::generate()?,
            tokens: BTreeMap::new(),
        };
        made.tokens = made.all()?;
        Ok(made)
    }

    /// A token by its name.
    pub(crate) fn get(&self, name: &str) -> Result<&str> {
        self.tokens
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("no token is called `{name}`"))
    }

    /// Text with the issuers' keys and with tokens put in: `${jwks-good}`, `${token-good}`.
    pub(crate) fn filled(&self, text: &str) -> Result<String> {
        let mut text = text
            .replace("${jwks-good}", &jwks(&[ec("good", &self.good)]))
            .replace("${jwks-other}", &jwks(&[ec("other", &self.other)]))
            .replace("${jwks-rsa}", &jwks(&[serde_json::from_str(RSA_PUBLIC)?]));
        for (name, token) in &self.tokens {
            text = text.replace(&format!("${{token-{name}}}"), token);
        }
        Ok(text)
    }

    fn all(&self) -> Result<BTreeMap<&'static str, String>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = |changes: Value| {
            let mut claims = json!({
                "iss": "good.test", "sub": "alice", "aud": ["shop", "bank"], "iat": now, "exp": now + 3600,
                "azp": "app", "groups": ["dev", "admin"], "role": {"name": "boss", "level": "7"},
                "scope": "read write", "email": "alice@good.test", "verified": true,
            });
            if let (Some(claims), Some(changes)) = (claims.as_object_mut(), changes.as_object()) {
                for (name, value) in changes {
                    claims.insert(name.clone(), value.clone());
                }
            }
            claims
        };
        let (good, other) = (ec_key(&self.good), ec_key(&self.other));
        let rsa = EncodingKey::from_rsa_pem(RSA.as_bytes())?;
        let es = |key: &EncodingKey, kid: &str, claims: &Value| sign(Algorithm::ES256, Some(kid), claims, key);
        let plain = claims(json!({}));
        let of_other = claims(json!({"iss": "other.test", "sub": "olga", "aud": "shop"}));
        let of_rsa = claims(json!({"iss": "rsa.test", "sub": "rita"}));
        let token = es(&good, "good", &plain)?;
        let mut tokens = BTreeMap::new();
        tokens.insert("good", token.clone());
        tokens.insert(
            "bob",
            es(
                &good,
                "good",
                &claims(
                    json!({"sub": "bob", "groups": ["dev"], "azp": "tool", "role": {"name": "clerk"}, "aud": "shop"}),
                ),
            )?,
        );
        tokens.insert("no-kid", sign(Algorithm::ES256, None, &plain, &good)?);
        tokens.insert("other", es(&other, "other", &of_other)?);
        tokens.insert("rsa", sign(Algorithm::RS256, Some("rsa"), &of_rsa, &rsa)?);
        tokens.insert("expired", es(&good, "good", &claims(json!({"exp": now - 3600})))?);
        tokens.insert("soon", es(&good, "good", &claims(json!({"nbf": now + 3600})))?);
        tokens.insert("wrong-audience", es(&good, "good", &claims(json!({"aud": "vault"})))?);
        tokens.insert("no-audience", es(&good, "good", &claims(json!({"aud": null})))?);
        tokens.insert(
            "unknown-issuer",
            es(&good, "good", &claims(json!({"iss": "evil.test"})))?,
        );
        // Signed by somebody else, with a key ID that says otherwise.
        tokens.insert("wrong-key", es(&other, "good", &plain)?);
        tokens.insert("key-of-another-issuer", es(&other, "other", &plain)?);
        tokens.insert("none", unsigned(&json!({"alg": "none", "kid": "good"}), &plain));
        tokens.insert(
            "none-in-capitals",
            unsigned(&json!({"alg": "NONE", "kid": "good"}), &plain),
        );
        tokens.insert(
            "no-signature",
            format!("{}.", token.rsplit_once('.').context("no token")?.0),
        );
        tokens.insert("hs256-by-public-key", hmac("good", &plain, pem(&self.good).as_bytes())?);
        tokens.insert(
            "hs256-by-public-der",
            hmac("good", &plain, &self.good.public_key().to_spki())?,
        );
        tokens.insert(
            "hs256-by-jwk",
            hmac("good", &plain, jwks(&[ec("good", &self.good)]).as_bytes())?,
        );
        let rsa_public = PrivateKey::from_pem(RSA.as_bytes())?;
        tokens.insert("hs256-by-rsa-key", hmac("rsa", &of_rsa, pem(&rsa_public).as_bytes())?);
        tokens.insert("rs256-for-ec", sign(Algorithm::RS256, Some("good"), &plain, &rsa)?);
        // A token that brings its own key.
        let mut header = Header::new(Algorithm::ES256);
        header.jwk = Some(serde_json::from_value(ec("good", &self.other))?);
        header.kid = Some("good".to_owned());
        tokens.insert("own-key-inside", jsonwebtoken::encode(&header, &plain, &other)?);
        let mut header = Header::new(Algorithm::ES256);
        header.jku = Some("http://evil.test/keys".to_owned());
        tokens.insert("keys-from-elsewhere", jsonwebtoken::encode(&header, &plain, &other)?);
        // One character of the payload is another.
        let (head, rest) = token.split_once('.').context("no token")?;
        let (_, signature) = rest.split_once('.').context("no token")?;
        let boss = URL_SAFE_NO_PAD.encode(claims(json!({"sub": "root"})).to_string());
        tokens.insert("changed", format!("{head}.{boss}.{signature}"));
        tokens.insert("garbage", "garbage".to_owned());
        tokens.insert("empty", String::new());
        Ok(tokens)
    }
}

fn ec_key(key: &PrivateKey) -> EncodingKey {
    EncodingKey::from_ec_der(key.expose_der().secret_der())
}

fn sign(algorithm: Algorithm, kid: Option<&str>, claims: &Value, key: &EncodingKey) -> Result<String> {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    let mut claims = claims.clone();
    if let Some(claims) = claims.as_object_mut() {
        claims.retain(|_, value| !value.is_null());
    }
    Ok(jsonwebtoken::encode(&header, &claims, key)?)
}

/// A token whose signature is a MAC under what everybody knows.
fn hmac(kid: &str, claims: &Value, secret: &[u8]) -> Result<String> {
    sign(Algorithm::HS256, Some(kid), claims, &EncodingKey::from_secret(secret))
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(header), part(claims))
}

/// A public key, as RFC 7517 has it.
fn ec(kid: &str, key: &PrivateKey) -> Value {
    // An uncompressed point: 04 ‖ x ‖ y.
    let (x, y) = key.public_key().raw()[1..].split_at(32);
    json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid,
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
}

fn jwks(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

fn pem(key: &PrivateKey) -> String {
    let text = STANDARD.encode(key.public_key().to_spki());
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .map(|at| &text[at..text.len().min(at + 64)])
        .collect();
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        lines.join("\n")
    )
}
