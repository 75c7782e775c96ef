//! Tokens: what is taken and what is not.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lateen_ca::{JwksSource, JwtVerifier, TokenError, TokenIssuer, TokenSubject, TokenVerifier};
use lateen_names::{Namespace, ServiceAccount};
use serde_json::{Value, json};

use crate::support::*;

const ISSUER: &str = "https://issuer.example";
const RSA_KEY: &[u8] = include_bytes!("../../../pki/tests/fixtures/rsa-pkcs1.pem");
const ED_KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIHiI6biQT9WZRvRSJRf0EzYASzXltKgb688XMKNva0hR
-----END PRIVATE KEY-----
";
const ED_PUBLIC: &str = "JjMFfdrgmgS1J27W02CU1mXqY0b_AZV39RxIcj3Y_PM";

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn claims(now: SystemTime) -> Value {
    json!({
        "iss": ISSUER, "sub": "system:serviceaccount:shop:cart", "aud": ["other", "istio-ca"],
        "exp": seconds(now) + 600, "nbf": seconds(now),
        "kubernetes.io": { "namespace": "shop", "serviceaccount": { "name": "cart", "uid": "1" }, "pod": { "name": "p" } },
    })
}

/// A token that claims to need no signature.
pub(crate) fn unsigned(audience: &str, now: SystemTime) -> String {
    let mut claims = claims(now);
    claims["aud"] = json!(audience);
    claims["iss"] = json!("https://lateen.local");
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(json!({ "alg": "none", "typ": "JWT" })), part(claims))
}

struct Rsa(EncodingKey);

impl Rsa {
    fn new() -> Self {
        Self(EncodingKey::from_rsa_pem(RSA_KEY).unwrap())
    }

    fn jwk(&self, id: &str) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.0, Algorithm::RS256).unwrap();
        jwk.common.key_id = Some(id.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some("rsa".to_owned());
        jsonwebtoken::encode(&header, claims, &self.0).unwrap()
    }

    fn verifier(&self) -> JwtVerifier {
        let jwks = json!({ "keys": [self.jwk("rsa")] }).to_string();
        JwtVerifier::new(ISSUER, ["istio-ca"], JwksSource::Inline(jwks)).unwrap()
    }
}

async fn check(verifier: &JwtVerifier, token: &str, now: SystemTime) -> Result<TokenSubject, TokenError> {
    verifier.verify(token, None, now).await
}

#[tokio::test]
async fn tokens_of_a_cluster_are_taken() {
    let (rsa, now) = (Rsa::new(), SystemTime::now());
    let subject = check(&rsa.verifier(), &rsa.sign(&claims(now)), now).await.unwrap();
    assert_eq!(subject.namespace, "shop");
    assert_eq!(subject.service_account, "cart");
    assert_eq!(subject.issuer, ISSUER);
    let mut one_audience = claims(now);
    one_audience["aud"] = json!("istio-ca");
    assert!(check(&rsa.verifier(), &rsa.sign(&one_audience), now).await.is_ok());
}

#[tokio::test]
async fn ed25519_tokens_are_taken_and_key_kinds_not_confused() {
    let now = SystemTime::now();
    let rsa = Rsa::new();
    let ed = json!({ "kty": "OKP", "crv": "Ed25519", "x": ED_PUBLIC, "kid": "ed" });
    let unknown = json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" });
    let jwks = json!({ "keys": [unknown, rsa.jwk("ed"), ed] }).to_string();
    let verifier = JwtVerifier::new(ISSUER, ["istio-ca"], JwksSource::Inline(jwks)).unwrap();
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some("ed".to_owned());
    let key = EncodingKey::from_ed_pem(ED_KEY.as_bytes()).unwrap();
    let token = jsonwebtoken::encode(&header, &claims(now), &key).unwrap();
    assert!(check(&verifier, &token, now).await.is_ok());
    // The public RSA key as the secret of an HMAC: the classic confusion.
    let secret = EncodingKey::from_secret(rsa.jwk("rsa")["n"].as_str().unwrap().as_bytes());
    let confused = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(now), &secret).unwrap();
    assert_eq!(
        check(&verifier, &confused, now).await.unwrap_err(),
        TokenError::Algorithm("HS256".to_owned())
    );
}

#[tokio::test]
async fn wrong_claims_are_named() {
    let (rsa, now) = (Rsa::new(), SystemTime::now());
    let verifier = rsa.verifier();
    let with = |field: &str, value: Value| {
        let mut claims = claims(now);
        claims[field] = value;
        rsa.sign(&claims)
    };
    let mut upper = claims(now);
    upper["sub"] = json!("system:serviceaccount:Shop:cart");
    upper["kubernetes.io"] = Value::Null;
    let cases = [
        (with("exp", json!(seconds(now) - 100)), "expired 100 s ago"),
        (with("exp", json!("soon")), "claims"),
        (with("exp", Value::Null), "claims"),
        (with("exp", json!(-1e300)), "expired"),
        (with("nbf", json!(seconds(now) + 300)), "valid only in"),
        (with("aud", json!(["istio-ca-2"])), "audience is [\"istio-ca-2\"]"),
        (with("aud", json!([])), "audience is []"),
        (with("aud", Value::Null), "audience is []"),
        (
            with("iss", json!("https://other")),
            "issuer `https://other` is not configured",
        ),
        (with("sub", json!("admin")), "subject `admin`"),
        (with("sub", json!("system:serviceaccount:shop")), "subject"),
        (with("sub", json!("system:serviceaccount:shop:cart:x")), "subject"),
        (rsa.sign(&upper), "not a valid namespace"),
        (with("sub", json!("system:serviceaccount:shop:other")), "contradict"),
        (with("kubernetes.io", json!({ "namespace": "prod" })), "contradict"),
    ];
    for (token, reason) in cases {
        let error = check(&verifier, &token, now).await.unwrap_err().to_string();
        assert!(error.contains(reason), "expected {reason:?} in {error:?}");
    }
    // Clocks may be a little off.
    assert!(
        check(&verifier, &with("exp", json!(seconds(now) - 30)), now)
            .await
            .is_ok()
    );
    assert!(
        check(&verifier, &with("nbf", json!(seconds(now) + 30)), now)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_changed_token_is_refused() {
    let (rsa, now) = (Rsa::new(), SystemTime::now());
    let token = rsa.sign(&claims(now));
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut changed = claims(now);
    changed["sub"] = json!("system:serviceaccount:kube-system:admin");
    changed["kubernetes.io"] = Value::Null;
    parts[1] = URL_SAFE_NO_PAD.encode(changed.to_string());
    let error = check(&rsa.verifier(), &parts.join("."), now).await.unwrap_err();
    assert_eq!(error, TokenError::Signature(ISSUER.to_owned()));
    for bad in [
        "",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        &"x".repeat(20_000),
        &format!("{token}.x"),
        "é.é.é",
    ] {
        let error = check(&rsa.verifier(), bad, now).await.unwrap_err();
        assert!(matches!(error, TokenError::Malformed(_)), "{error}");
    }
}

#[tokio::test]
async fn new_keys_of_an_issuer_are_read_from_its_file() {
    let (rsa, clock) = (Rsa::new(), TestClock::new());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    std::fs::write(&path, json!({ "keys": [rsa.jwk("older")] }).to_string()).unwrap();
    let verifier = JwtVerifier::new(ISSUER, ["istio-ca"], JwksSource::File(path.clone())).unwrap();
    let token = rsa.sign(&claims(clock.now()));
    let error = check(&verifier, &token, clock.now()).await.unwrap_err();
    assert!(matches!(error, TokenError::UnknownKey { .. }), "{error}");
    std::fs::write(&path, json!({ "keys": [rsa.jwk("rsa")] }).to_string()).unwrap();
    assert!(
        check(&verifier, &token, clock.now()).await.is_err(),
        "the file is not read for every bad token"
    );
    clock.advance(Duration::from_secs(2));
    assert!(check(&verifier, &token, clock.now()).await.is_ok());
    // A broken file leaves the last good keys in use.
    std::fs::write(&path, "{").unwrap();
    clock.advance(Duration::from_secs(2));
    assert!(check(&verifier, &token, clock.now()).await.is_ok());
    assert!(verifier.set_keys("{}").is_err());
    assert!(check(&verifier, &token, clock.now()).await.is_ok());
}

#[tokio::test]
async fn keys_may_come_later() {
    let (rsa, now) = (Rsa::new(), SystemTime::now());
    let verifier = JwtVerifier::new(ISSUER, ["istio-ca"], JwksSource::Later).unwrap();
    let token = rsa.sign(&claims(now));
    assert!(matches!(
        check(&verifier, &token, now).await,
        Err(TokenError::UnknownKey { .. })
    ));
    verifier
        .set_keys(&json!({ "keys": [rsa.jwk("rsa")] }).to_string())
        .unwrap();
    assert!(check(&verifier, &token, now).await.is_ok());
}

#[test]
fn keys_that_cannot_be_used_are_refused_at_the_start() {
    let error = |jwks: &str| {
        JwtVerifier::new(ISSUER, ["istio-ca"], JwksSource::Inline(jwks.to_owned()))
            .err()
            .unwrap()
            .to_string()
    };
    assert!(error("not json").contains(ISSUER));
    assert!(error("{\"keys\":[]}").contains("no usable key"));
    assert!(error("{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}").contains("no usable key"));
    let missing = JwtVerifier::new(ISSUER, ["istio-ca"], JwksSource::File("/nowhere/jwks.json".into()));
    assert!(missing.err().unwrap().to_string().contains("/nowhere/jwks.json"));
}

#[tokio::test]
async fn the_own_issuer_keeps_its_key_and_names_itself() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let issue = || {
        let issuer = TokenIssuer::open_or_create(directory.path()).unwrap();
        let (namespace, account) = (Namespace::new("shop").unwrap(), ServiceAccount::new("cart").unwrap());
        issuer.issue(&namespace, &account, HOUR, now).unwrap()
    };
    let verifier = TokenIssuer::open_or_create(directory.path())
        .unwrap()
        .verifier()
        .unwrap();
    let token = issue();
    let subject = check(&verifier, &token, now).await.unwrap();
    assert_eq!(subject.issuer, "https://lateen.local");
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let payload: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(payload["kubernetes.io"]["serviceaccount"]["name"], "cart");
    assert_eq!(payload["aud"], json!(["istio-ca"]));
    assert_ne!(issue(), token, "every token is one of its own");
    assert!(check(&verifier, &issue(), now + 2 * HOUR).await.is_err());
}
