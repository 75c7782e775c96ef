//! Tokens checked by their issuer's published keys.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use lateen_names::{Namespace, ServiceAccount};
use serde::Deserialize;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::claims::{LEEWAY, echo, part, split};
use super::{TokenError, TokenSubject, TokenVerifier};
use crate::files::{self, FileError};

/// How often a file of keys is read again because a token names a key that is not in it.
const REREAD: Duration = Duration::from_secs(1);

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksSource {
    /// A JWKS document (RFC 7517, §5).
    Inline(String),
    /// A file with a JWKS document. It is read again when a token names a key that it did not have.
    File(PathBuf),
    /// Nowhere yet: every token is refused until [`JwtVerifier::set_keys`] brings keys.
    Later,
}

/// An issuer's keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The text is no JWKS.
    #[error("the keys of issuer `{issuer}` do not read as JWKS: {source}")]
    Malformed {
        /// Whose keys.
        issuer: String,
        /// What the reader said.
        source: serde_json::Error,
    },
    /// None of the keys can be used.
    #[error(
        "issuer `{0}` has no usable key: RSA of 2048 bits or more (RS256), EC P-256 (ES256) and Ed25519 (EdDSA) are taken"
    )]
    NoKey(String),
}

/// Checks the tokens of one issuer.
pub struct JwtVerifier {
    issuer: String,
    audiences: Vec<String>,
    source: JwksSource,
    keys: watch::Sender<Arc<[Key]>>,
    reread: Mutex<Option<SystemTime>>,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Option<Audience>,
    exp: f64,
    nbf: Option<f64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// What the API server adds to a bound token.
#[derive(Deserialize)]
struct Kubernetes {
    namespace: Option<String>,
    serviceaccount: Option<NamedObject>,
}

#[derive(Deserialize)]
struct NamedObject {
    name: String,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

// === impl JwtVerifier ===

impl JwtVerifier {
    /// Takes tokens of `issuer` for one of `audiences`.
    ///
    /// # Errors
    /// When the keys cannot be read, or none of them can be used.
    pub fn new(
        issuer: impl Into<String>,
        audiences: impl IntoIterator<Item = impl Into<String>>,
        source: JwksSource,
    ) -> Result<Self, JwksError> {
        let issuer = issuer.into();
        let keys = source.read(&issuer)?;
        Ok(Self {
            issuer,
            audiences: audiences.into_iter().map(Into::into).collect(),
            source,
            keys: watch::Sender::new(keys),
            reread: Mutex::new(None),
        })
    }

    /// Replaces the keys, e.g. by what the issuer's URL gave.
    ///
    /// # Errors
    /// When the text is no JWKS, or none of its keys can be used; the old keys stay in use.
    pub fn set_keys(&self, jwks: &str) -> Result<(), JwksError> {
        self.keys.send_replace(read_keys(&self.issuer, jwks.as_bytes())?);
        Ok(())
    }

    fn check(&self, token: &str, now: SystemTime) -> Result<TokenSubject, TokenError> {
        let (header, payload) = split(token)?;
        let header: Header = part(header).ok_or(TokenError::Malformed("its header does not read"))?;
        let algorithm = match header.alg.as_str() {
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            "EdDSA" => Algorithm::EdDSA,
            other => return Err(TokenError::Algorithm(echo(other))),
        };
        if header.crit.is_some() {
            return Err(TokenError::Malformed(
                "its header demands extensions (`crit`) that are not known here",
            ));
        }
        // Not verified yet: only chooses whose keys to verify with.
        let Issuer { iss } = part(payload).ok_or(TokenError::Malformed("its payload has no issuer (`iss`)"))?;
        if iss != self.issuer {
            return Err(TokenError::UnknownIssuer(echo(&iss)));
        }
        let claims = self.verify_signature(token, &header, algorithm, now)?;
        self.check_times(&claims, now)?;
        self.check_audience(&claims)?;
        self.subject(&claims)
    }

    fn verify_signature(
        &self,
        token: &str,
        header: &Header,
        algorithm: Algorithm,
        now: SystemTime,
    ) -> Result<Claims, TokenError> {
        let fits = |key: &&Key| {
            key.algorithm == algorithm && (header.kid.is_none() || key.id.is_none() || key.id == header.kid)
        };
        let mut keys = self.keys.borrow().clone();
        if !keys.iter().any(|key| fits(&key)) {
            keys = self.read_again(now).unwrap_or(keys);
        }
        let mut validation = Validation::new(algorithm);
        // The library reads the system's clock and names no values; `check_times` and `check_audience` do both better.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let mut outcome = Err(TokenError::UnknownKey {
            issuer: self.issuer.clone(),
            key_id: header.kid.as_deref().map(echo).unwrap_or_default(),
            algorithm: header.alg.clone(),
        });
        for key in keys.iter().filter(fits) {
            match jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) if matches!(error.kind(), jsonwebtoken::errors::ErrorKind::Json(_)) => {
                    return Err(TokenError::Malformed(
                        "one of the claims `sub`, `exp`, `nbf`, `aud` is missing or of the wrong type",
                    ));
                }
                Err(_) => outcome = Err(TokenError::Signature(self.issuer.clone())),
            }
        }
        outcome
    }

    fn read_again(&self, now: SystemTime) -> Option<Arc<[Key]>> {
        let JwksSource::File(path) = &self.source else {
            return None;
        };
        let mut last = self.reread.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = last
            .and_then(|last| now.duration_since(last).ok())
            .is_some_and(|ago| ago < REREAD);
        if recent {
            return None;
        }
        *last = Some(now);
        match self.source.read(&self.issuer) {
            Ok(keys) => {
                info!(issuer = self.issuer, path = %path.display(), keys = keys.len(), "read the issuer's keys again");
                self.keys.send_replace(Arc::clone(&keys));
                Some(keys)
            }
            Err(error) => {
                warn!(%error, issuer = self.issuer, "the issuer's keys cannot be read again; the old ones stay in use");
                None
            }
        }
    }

    fn check_times(&self, claims: &Claims, now: SystemTime) -> Result<(), TokenError> {
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let leeway = LEEWAY.as_secs_f64();
        if now >= claims.exp + leeway {
            return Err(TokenError::Expired((now - claims.exp) as u64));
        }
        if let Some(nbf) = claims.nbf
            && nbf > now + leeway
        {
            return Err(TokenError::NotYetValid((nbf - now) as u64));
        }
        Ok(())
    }

    fn check_audience(&self, claims: &Claims) -> Result<(), TokenError> {
        let found = match &claims.aud {
            None => &[][..],
            Some(Audience::One(audience)) => std::slice::from_ref(audience),
            Some(Audience::Several(audiences)) => audiences.as_slice(),
        };
        if found.iter().any(|audience| self.audiences.contains(audience)) {
            return Ok(());
        }
        let found = found.iter().take(8).map(|audience| echo(audience)).collect();
        Err(TokenError::Audience {
            found,
            expected: self.audiences.clone(),
        })
    }

    fn subject(&self, claims: &Claims) -> Result<TokenSubject, TokenError> {
        let refuse = || TokenError::Subject(echo(&claims.sub));
        let rest = claims.sub.strip_prefix("system:serviceaccount:").ok_or_else(refuse)?;
        let (namespace, account) = rest.split_once(':').ok_or_else(refuse)?;
        if account.contains(':') {
            return Err(refuse());
        }
        if let Some(bound) = &claims.kubernetes {
            let same = |claim: Option<&str>, value: &str| claim.is_none_or(|claim| claim == value);
            let bound_account = bound.serviceaccount.as_ref().map(|account| account.name.as_str());
            if !same(bound.namespace.as_deref(), namespace) || !same(bound_account, account) {
                return Err(refuse());
            }
        }
        Ok(TokenSubject {
            namespace: Namespace::new(namespace)?,
            service_account: ServiceAccount::new(account)?,
            issuer: self.issuer.clone(),
            pod: None,
        })
    }
}

impl TokenVerifier for JwtVerifier {
    fn verify<'a>(
        &'a self,
        token: &'a str,
        _: Option<IpAddr>,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<TokenSubject, TokenError>> {
        std::future::ready(self.check(token, now)).boxed()
    }
}

// === impl JwksSource ===

impl JwksSource {
    fn read(&self, issuer: &str) -> Result<Arc<[Key]>, JwksError> {
        match self {
            Self::Inline(text) => read_keys(issuer, text.as_bytes()),
            Self::File(path) => read_keys(issuer, &files::read(path)?),
            Self::Later => Ok(Arc::new([])),
        }
    }
}

/// Keys of other kinds than those taken are passed over: an issuer may publish some for other purposes.
fn read_keys(issuer: &str, jwks: &[u8]) -> Result<Arc<[Key]>, JwksError> {
    let jwks: Jwks = serde_json::from_slice(jwks).map_err(|source| JwksError::Malformed {
        issuer: issuer.to_owned(),
        source,
    })?;
    let keys: Arc<[Key]> = jwks.keys.into_iter().filter_map(|key| read_key(issuer, key)).collect();
    if keys.is_empty() {
        Err(JwksError::NoKey(issuer.to_owned()))
    } else {
        Ok(keys)
    }
}

fn read_key(issuer: &str, key: serde_json::Value) -> Option<Key> {
    let passed_over = |reason: &str| debug!(issuer, reason, "passed over a key of the issuer");
    let jwk: Jwk = serde_json::from_value(key)
        .inspect_err(|error| passed_over(&error.to_string()))
        .ok()?;
    if matches!(
        jwk.common.public_key_use,
        Some(PublicKeyUse::Encryption | PublicKeyUse::Other(_))
    ) {
        passed_over("it is not for signatures");
        return None;
    }
    let algorithm = match &jwk.algorithm {
        // 2048 bits are 256 bytes, 342 characters of base64.
        AlgorithmParameters::RSA(rsa) if rsa.n.trim_end_matches('=').len() >= 342 => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => {
            passed_over("its kind or size is not taken");
            return None;
        }
    };
    let key = DecodingKey::from_jwk(&jwk)
        .inspect_err(|error| passed_over(&error.to_string()))
        .ok()?;
    Some(Key {
        id: jwk.common.key_id,
        algorithm,
        key,
    })
}
