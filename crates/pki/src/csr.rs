//! Certificate requests (PKCS #10). Of a request only the public key counts, and that its owner signed it: whatever
//! names it asks for are never looked at, because the CA certifies the identity that the caller proved.

use lateen_names::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, SanType};
use rustls_pki_types::pem::{PemObject, SectionKind};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384,
};
use x509_parser::prelude::FromDer;

use crate::key::{KeyError, PrivateKey, PublicKey, pem};

/// A certificate request is refused, or cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`Csr::MAX_BYTES`].
    #[error("the request has {0} bytes; at most {max} are read", max = Csr::MAX_BYTES)]
    TooLong(usize),
    /// The text has no PEM block of the right kind, or more than one.
    #[error("expected exactly one PEM block `CERTIFICATE REQUEST`, found {0}")]
    NotOneBlock(usize),
    /// The PEM armour is broken.
    #[error("the PEM text does not read: {0}")]
    Pem(String),
    /// The content is no PKCS #10 request.
    #[error("the request is malformed: {0}")]
    Malformed(String),
    /// The signature is made with an outdated or unknown algorithm.
    #[error("the request is signed with algorithm {0}; use ECDSA or RSA (PKCS #1 v1.5) with SHA-256 or stronger")]
    SignatureAlgorithm(String),
    /// The request is not signed by the key that it holds.
    #[error("the request's signature is not of the key that it asks to certify")]
    Signature,
    /// The key is of a kind that is not certified.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The request cannot be made for this identity.
    #[error("cannot make a request for {identity}: {reason}")]
    Create {
        /// For whom.
        identity: String,
        /// What the encoder said.
        reason: String,
    },
}

/// A request for a certificate: a public key, signed by its owner.
#[derive(Debug, Clone)]
pub struct Csr {
    der: Vec<u8>,
    public_key: PublicKey,
}

impl Csr {
    /// The longest request that is read, PEM or DER. An RSA-8192 request with a name has about 3 KiB.
    pub const MAX_BYTES: usize = 16 * 1024;

    /// Makes a request that names `identity`, for CAs that look at the name; Lateen's does not.
    ///
    /// # Errors
    /// When the identity has characters that a URI name cannot hold, or signing fails.
    pub fn create(key: &PrivateKey, identity: &SpiffeId) -> Result<Self, CsrError> {
        let fail = |reason: String| CsrError::Create {
            identity: identity.to_string(),
            reason,
        };
        let uri = identity
            .to_string()
            .try_into()
            .map_err(|error: rcgen::Error| fail(error.to_string()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri)];
        let request = params
            .serialize_request(key.pair())
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self {
            der: request.der().to_vec(),
            public_key: key.public_key().clone(),
        })
    }

    /// Reads and checks a request in PEM.
    ///
    /// # Errors
    /// When it is too long, not exactly one request, malformed, not signed by its own key, or its key is refused.
    pub fn parse_pem(text: &[u8]) -> Result<Self, CsrError> {
        if text.len() > Self::MAX_BYTES {
            return Err(CsrError::TooLong(text.len()));
        }
        let mut requests = Vec::new();
        let mut blocks = 0;
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let (kind, der) = section.map_err(|error| CsrError::Pem(error.to_string()))?;
            blocks += 1;
            if matches!(kind, SectionKind::Csr) {
                requests.push(der);
            }
        }
        match (requests.pop(), blocks) {
            (Some(request), 1) => Self::parse_der(&request),
            _ => Err(CsrError::NotOneBlock(blocks)),
        }
    }

    /// Reads and checks a request in DER.
    ///
    /// # Errors
    /// As [`Csr::parse_pem`].
    pub fn parse_der(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > Self::MAX_BYTES {
            return Err(CsrError::TooLong(der.len()));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|error| CsrError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed(format!("{} bytes follow it", rest.len())));
        }
        let public_key = PublicKey::from_parsed(&request.certification_request_info.subject_pki)?;
        let algorithm = &request.signature_algorithm.algorithm;
        let taken = [
            OID_SIG_ECDSA_WITH_SHA256,
            OID_SIG_ECDSA_WITH_SHA384,
            OID_PKCS1_SHA256WITHRSA,
            OID_PKCS1_SHA384WITHRSA,
            OID_PKCS1_SHA512WITHRSA,
        ];
        if !taken.contains(algorithm) {
            return Err(CsrError::SignatureAlgorithm(algorithm.to_id_string()));
        }
        request.verify_signature().map_err(|_| CsrError::Signature)?;
        Ok(Self {
            der: der.to_vec(),
            public_key,
        })
    }

    /// Whether it asks for this identity and for nothing else, as whoever signs what is asked for must be sure of: one URI
    /// name, and not to be an authority.
    #[must_use]
    pub fn asks_only_for(&self, identity: &SpiffeId) -> bool {
        let Ok((_, request)) = X509CertificationRequest::from_der(&self.der) else {
            return false;
        };
        let mut names = 0;
        for extension in request.requested_extensions().into_iter().flatten() {
            match extension {
                ParsedExtension::SubjectAlternativeName(asked) => {
                    names += asked.general_names.len();
                    let own =
                        |name: &GeneralName<'_>| matches!(name, GeneralName::URI(uri) if *uri == identity.to_string());
                    if !asked.general_names.iter().all(own) {
                        return false;
                    }
                }
                ParsedExtension::BasicConstraints(asked) if asked.ca => return false,
                ParsedExtension::KeyUsage(asked) if asked.key_cert_sign() || asked.crl_sign() => return false,
                ParsedExtension::BasicConstraints(_)
                | ParsedExtension::KeyUsage(_)
                | ParsedExtension::ExtendedKeyUsage(_)
                | ParsedExtension::SubjectKeyIdentifier(_) => {}
                _ => return false,
            }
        }
        names == 1
    }

    /// The request in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem("CERTIFICATE REQUEST", &self.der)
    }

    /// The request in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The key to certify.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}
