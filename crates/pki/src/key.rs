//! Private keys that cannot be shown by accident, and the public keys that may be certified.

use std::fmt;

use base64::Engine;
use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION};
use x509_parser::prelude::FromDer;
use x509_parser::public_key;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::{Zeroize, Zeroizing};

use crate::der;

/// What keys may be: the kinds that Envoy and rustls both take in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256, what Lateen makes itself.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// RSA with 2048 to 8192 bits.
    Rsa,
}

/// A key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The PEM text has no key in it, or does not read.
    #[error("no private key found: expected one PEM block `PRIVATE KEY`, `EC PRIVATE KEY` or `RSA PRIVATE KEY`")]
    Missing,
    /// More than one key.
    #[error("{0} private keys found where one was expected: keep the one that is meant")]
    Several(usize),
    /// The bytes are no key, or of a kind that is not supported.
    #[error("not a usable private key: {0}; ECDSA P-256, ECDSA P-384 and RSA of 2048 to 8192 bits are supported")]
    Unusable(String),
    /// A public key of a kind that is not certified.
    #[error("public key refused: {0}; ECDSA P-256, ECDSA P-384 and RSA of 2048 to 8192 bits are supported")]
    PublicKey(String),
    /// The random source failed while a key was made.
    #[error("cannot make a key: {0}")]
    Generate(String),
}

/// A private key. Its content appears nowhere but where a method named `expose_…` is called; `Debug` shows its kind.
/// The encoded form is wiped from memory when the key is dropped.
pub struct PrivateKey {
    pair: KeyPair,
    public: PublicKey,
}

/// A public key that may be certified: ECDSA P-256 or P-384, or RSA of at least 2048 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: KeyAlgorithm,
    /// The content of `subjectPublicKey`: an uncompressed point, or an RSAPublicKey.
    raw: Vec<u8>,
}

// === impl PrivateKey ===

impl PrivateKey {
    /// Makes a new ECDSA P-256 key.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub fn generate() -> Result<Self, KeyError> {
        Self::from_pair(KeyPair::generate().map_err(|error| KeyError::Generate(error.to_string()))?)
    }

    /// Reads the one key in a PEM text: PKCS #8, SEC 1 (`EC PRIVATE KEY`) or PKCS #1 (`RSA PRIVATE KEY`). Other blocks
    /// (`EC PARAMETERS`, certificates) are passed over.
    ///
    /// # Errors
    /// When there is no key or more than one, it is encrypted, or of a kind that is not supported.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let (kind, der) = section.map_err(|error| KeyError::Unusable(error.to_string()))?;
            let der = Zeroizing::new(der);
            match kind {
                SectionKind::PrivateKey => keys.push(der),
                SectionKind::RsaPrivateKey => keys.push(der::pkcs8_of_rsa(&der)),
                SectionKind::EcPrivateKey => {
                    keys.push(der::pkcs8_of_ec(&der).map_err(|reason| KeyError::Unusable(reason.to_owned()))?);
                }
                _ => {}
            }
        }
        match keys.as_slice() {
            [] => Err(KeyError::Missing),
            [key] => Self::from_pkcs8(key),
            several => Err(KeyError::Several(several.len())),
        }
    }

    /// The key as PKCS #8 in PEM, to be written where only its owner reads it. The text is wiped when dropped.
    #[must_use]
    pub fn expose_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem("PRIVATE KEY", self.pair.serialized_der()))
    }

    /// The key as PKCS #8 in DER, for a TLS library. The copy is not wiped by its type: hand it on at once.
    #[must_use]
    pub fn expose_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialized_der().to_vec()))
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// What kind of key it is.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.public.algorithm
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.pair.sign(message)
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair =
            KeyPair::try_from(&PrivatePkcs8KeyDer::from(der)).map_err(|error| KeyError::Unusable(error.to_string()))?;
        Self::from_pair(pair)
    }

    fn from_pair(pair: KeyPair) -> Result<Self, KeyError> {
        let public = PublicKey::from_spki(&pair.subject_public_key_info()).map_err(|error| match error {
            KeyError::PublicKey(reason) => KeyError::Unusable(reason),
            other => other,
        })?;
        Ok(Self { pair, public })
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({:?}, content withheld)", self.public.algorithm)
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

// === impl PublicKey ===

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280, §4.1.2.7).
    ///
    /// # Errors
    /// When it does not parse, or is of a kind or size that is not certified.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let (rest, spki) =
            SubjectPublicKeyInfo::from_der(der).map_err(|error| KeyError::PublicKey(error.to_string()))?;
        if !rest.is_empty() {
            return Err(KeyError::PublicKey("bytes follow the key".to_owned()));
        }
        Self::from_parsed(&spki)
    }

    pub(crate) fn from_parsed(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, KeyError> {
        let refuse = |reason: &str| Err(KeyError::PublicKey(reason.to_owned()));
        let raw = spki.subject_public_key.data.to_vec();
        if spki.subject_public_key.unused_bits != 0 {
            return refuse("the key is not a whole number of bytes");
        }
        let kind = &spki.algorithm.algorithm;
        let algorithm = if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = spki
                .algorithm
                .parameters
                .as_ref()
                .and_then(|parameters| parameters.as_oid().ok());
            let (algorithm, length) = match curve {
                Some(curve) if curve == OID_EC_P256 => (KeyAlgorithm::EcdsaP256, 65),
                Some(curve) if curve == OID_NIST_EC_P384 => (KeyAlgorithm::EcdsaP384, 97),
                _ => return refuse("the elliptic curve is neither P-256 nor P-384"),
            };
            if raw.len() != length || raw.first() != Some(&4) {
                return refuse("the elliptic curve point is not in uncompressed form");
            }
            algorithm
        } else if *kind == OID_PKCS1_RSAENCRYPTION {
            let Ok(public_key::PublicKey::RSA(rsa)) = spki.parsed() else {
                return refuse("the RSA key does not parse");
            };
            // The encoded integers carry a leading zero where the top bit is set.
            let modulus: &[u8] = rsa.modulus.strip_prefix(&[0]).unwrap_or(rsa.modulus);
            let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
            if !(2048..=8192).contains(&bits) {
                return Err(KeyError::PublicKey(format!("the RSA key has {bits} bits")));
            }
            if rsa.exponent.last().is_none_or(|byte| byte % 2 == 0) || matches!(rsa.exponent, [1] | [0, 1]) {
                return refuse("the RSA exponent is even or one");
            }
            KeyAlgorithm::Rsa
        } else {
            return refuse("it is neither an elliptic curve key nor an RSA key");
        };
        Ok(Self { algorithm, raw })
    }

    /// What kind of key it is.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The key itself without its SubjectPublicKeyInfo: an uncompressed point (`04 ‖ x ‖ y`) or a PKCS #1 RSAPublicKey.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The key as SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn to_spki(&self) -> Vec<u8> {
        self.subject_public_key_info()
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.raw
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.algorithm {
            KeyAlgorithm::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyAlgorithm::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyAlgorithm::Rsa => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

/// One PEM block (RFC 7468): 64 characters a line, ends with a newline.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}
