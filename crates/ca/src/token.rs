//! The embedded default's own issuer of service account tokens: no cluster is needed to prove an identity.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, EllipticCurveKeyParameters, EllipticCurveKeyType, Jwk,
    JwkSet, KeyAlgorithm as JwkAlgorithm, PublicKeyUse, ThumbprintHash,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lateen_names::{Namespace, ServiceAccount};
use lateen_pki::{KeyAlgorithm, KeyError, PrivateKey};
use serde_json::json;

use crate::TOKEN_AUDIENCE;
use crate::authenticate::jwt::{JwksError, JwksSource, JwtVerifier};
use crate::files::{self, FileError};

/// The issuer's name in tokens, unless another is chosen.
const ISSUER: &str = "https://lateen.local";
const KEY: &str = "token-key.pem";

/// Tokens cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum TokenIssuerError {
    /// The key's file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key's file holds no usable key.
    #[error("{path}: {source}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
    /// The key is of another kind.
    #[error("{path}: tokens are signed with ES256, which needs an ECDSA P-256 key, not {algorithm:?}", path = path.display())]
    KeyKind {
        /// The file.
        path: PathBuf,
        /// Of which kind it is.
        algorithm: KeyAlgorithm,
    },
    /// Signing failed.
    #[error("cannot sign the token: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// Signs tokens as the API server signs those bound to a service account, with a key kept in a directory.
#[derive(Debug)]
pub struct TokenIssuer {
    issuer: String,
    key: PrivateKey,
    jwk: Jwk,
}

impl TokenIssuer {
    /// Loads `token-key.pem` of the directory, or makes it on first use; of several processes all get the same.
    ///
    /// # Errors
    /// When the directory or the file cannot be read, written or used.
    pub fn open_or_create(directory: &Path) -> Result<Self, TokenIssuerError> {
        files::ensure_directory(directory)?;
        let path = directory.join(KEY);
        let at = |source| TokenIssuerError::Key {
            path: path.clone(),
            source,
        };
        if !files::exists(&path)? {
            files::create(&path, PrivateKey::generate().map_err(at)?.expose_pem().as_bytes())?;
        }
        let key = PrivateKey::from_pem(&files::read_secret(&path)?).map_err(at)?;
        if key.algorithm() != KeyAlgorithm::EcdsaP256 {
            return Err(TokenIssuerError::KeyKind {
                algorithm: key.algorithm(),
                path,
            });
        }
        Ok(Self {
            issuer: ISSUER.to_owned(),
            jwk: jwk(&key),
            key,
        })
    }

    /// Names itself otherwise in its tokens.
    #[must_use]
    pub fn with_issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = issuer.into();
        self
    }

    /// Its name in its tokens (`iss`).
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// A token for the CA that proves to be this service account from `now` on for `ttl`.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue(
        &self,
        namespace: &Namespace,
        service_account: &ServiceAccount,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<String, TokenIssuerError> {
        self.issue_for(&[TOKEN_AUDIENCE], namespace, service_account, ttl, now)
    }

    /// As [`TokenIssuer::issue`], for other audiences.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue_for(
        &self,
        audiences: &[&str],
        namespace: &Namespace,
        service_account: &ServiceAccount,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<String, TokenIssuerError> {
        let issued = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let id: [u8; 16] = rand::random();
        let claims = json!({
            "iss": self.issuer,
            "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
            "aud": audiences,
            "iat": issued,
            "nbf": issued,
            "exp": issued.saturating_add(ttl.as_secs()),
            "jti": URL_SAFE_NO_PAD.encode(id),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": { "name": service_account },
            },
        });
        let mut header = Header::new(Algorithm::ES256);
        header.kid.clone_from(&self.jwk.common.key_id);
        let key = EncodingKey::from_ec_der(self.key.expose_der().secret_der());
        Ok(jsonwebtoken::encode(&header, &claims, &key)?)
    }

    /// The public keys that its tokens verify with, as a JWKS document.
    #[must_use]
    pub fn jwks(&self) -> String {
        // Plain text fields only: always has a JSON form.
        serde_json::to_string(&JwkSet {
            keys: vec![self.jwk.clone()],
        })
        .unwrap_or_default()
    }

    /// Checks its own tokens for the CA.
    ///
    /// # Errors
    /// When its own key cannot be used, which its kind rules out.
    pub fn verifier(&self) -> Result<JwtVerifier, JwksError> {
        JwtVerifier::new(self.issuer.clone(), [TOKEN_AUDIENCE], JwksSource::Inline(self.jwks()))
    }
}

fn jwk(key: &PrivateKey) -> Jwk {
    // An uncompressed point: 04 ‖ x ‖ y.
    let (x, y) = key.public_key().raw()[1..].split_at(32);
    let mut jwk = Jwk {
        common: CommonParameters {
            public_key_use: Some(PublicKeyUse::Signature),
            key_algorithm: Some(JwkAlgorithm::ES256),
            ..CommonParameters::default()
        },
        algorithm: AlgorithmParameters::EllipticCurve(EllipticCurveKeyParameters {
            key_type: EllipticCurveKeyType::EC,
            curve: EllipticCurve::P256,
            x: URL_SAFE_NO_PAD.encode(x),
            y: URL_SAFE_NO_PAD.encode(y),
        }),
    };
    jwk.common.key_id = Some(jwk.thumbprint(ThumbprintHash::SHA256));
    jwk
}
