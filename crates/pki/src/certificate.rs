//! Certificates as read from files and from the network.

use std::fmt;
use std::time::{Duration, SystemTime};

use lateen_names::{InvalidName, SpiffeId};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject, SectionKind};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::key::pem;
use crate::rotation::Validity;

/// A certificate, or a text of several, is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The text has no `CERTIFICATE` block.
    #[error("no certificate found: expected at least one PEM block `CERTIFICATE`")]
    Missing,
    /// The PEM armour is broken.
    #[error("the PEM text does not read: {0}")]
    Pem(String),
    /// One of the certificates does not parse; counted from 1.
    #[error("certificate {index} is malformed: {reason}")]
    Malformed {
        /// Which of the text's certificates, from 1.
        index: usize,
        /// What the parser said.
        reason: String,
    },
    /// The X.509-SVID standard, §2, wants exactly one URI name.
    #[error("the certificate has {0} URI names where exactly one, the SPIFFE ID, is expected")]
    NotOneUri(usize),
    /// The URI name is not a workload identity.
    #[error("the certificate's URI name is no workload identity: {0}")]
    Identity(#[from] InvalidName),
}

/// A certificate's serial number: 16 bytes, positive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Serial([u8; 16]);

/// One X.509 certificate, parsed. Two are equal when their encodings are.
#[derive(Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    facts: Facts,
}

/// What Lateen reads off a certificate.
#[derive(Clone)]
struct Facts {
    validity: Validity,
    serial: String,
    /// The subject's Name as encoded.
    subject: Vec<u8>,
    subject_text: String,
    spki: Vec<u8>,
    subject_key_id: Option<Vec<u8>>,
    uris: Vec<String>,
    dns_names: Vec<String>,
    ca: bool,
    may_sign_certificates: bool,
}

/// A leaf and the intermediates that lead from it toward a root, in that order, without the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    certificates: Vec<Certificate>,
}

// === impl Serial ===

impl Serial {
    /// Makes a serial number of 16 bytes from a random source (RFC 5280, §4.1.2.2, and 64 bits of entropy at least).
    /// The top two bits are set to `01`, so that the number is positive and never zero.
    #[must_use]
    pub fn new(mut random: [u8; 16]) -> Self {
        random[0] = (random[0] & 0x3f) | 0x40;
        Self(random)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    /// Lower-case hexadecimal, as [`Certificate::serial`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

// === impl Certificate ===

impl Certificate {
    /// Reads one certificate in DER.
    ///
    /// # Errors
    /// When the bytes are not exactly one well-formed certificate.
    pub fn from_der(der: CertificateDer<'static>) -> Result<Self, CertificateError> {
        let facts = Facts::read(&der).map_err(|reason| CertificateError::Malformed { index: 1, reason })?;
        Ok(Self { der, facts })
    }

    /// Reads every certificate in a PEM text, in its order. Blocks of other kinds are passed over.
    ///
    /// # Errors
    /// When there is none, or one is malformed.
    pub fn parse_pem(text: &[u8]) -> Result<Vec<Self>, CertificateError> {
        let mut certificates = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let (kind, der) = section.map_err(|error| CertificateError::Pem(error.to_string()))?;
            if matches!(kind, SectionKind::Certificate) {
                let index = certificates.len() + 1;
                let facts = Facts::read(&der).map_err(|reason| CertificateError::Malformed { index, reason })?;
                certificates.push(Self { der: der.into(), facts });
            }
        }
        if certificates.is_empty() {
            Err(CertificateError::Missing)
        } else {
            Ok(certificates)
        }
    }

    /// The certificate as encoded.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The certificate as one PEM block, ending with a newline.
    #[must_use]
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// From when to when it is valid.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.facts.validity
    }

    /// The first second of its validity.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.facts.validity.not_before
    }

    /// The last second of its validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.facts.validity.not_after
    }

    /// The serial number in lower-case hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.facts.serial
    }

    /// The subject for people to read; empty for workloads.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.facts.subject_text
    }

    /// The workload identity: the certificate's one and only URI name (X.509-SVID standard, §2).
    ///
    /// # Errors
    /// When there is no URI name or several, or it is not a workload identity of Istio's form.
    pub fn spiffe_id(&self) -> Result<SpiffeId, CertificateError> {
        match self.facts.uris.as_slice() {
            [uri] => Ok(uri.parse()?),
            uris => Err(CertificateError::NotOneUri(uris.len())),
        }
    }

    /// Its DNS names.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.facts.dns_names
    }

    /// Whether its basic constraints say that it is a CA's.
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.facts.ca
    }

    /// Whether it may sign certificates: its key usage says so, or it has none (RFC 5280, §4.2.1.3).
    #[must_use]
    pub fn may_sign_certificates(&self) -> bool {
        self.facts.may_sign_certificates
    }

    /// The certified key as SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.facts.spki
    }

    pub(crate) fn subject_der(&self) -> &[u8] {
        &self.facts.subject
    }

    pub(crate) fn subject_key_id(&self) -> Option<&[u8]> {
        self.facts.subject_key_id.as_deref()
    }

    /// Whether `issuer` is named as this certificate's issuer and its key made the signature.
    pub(crate) fn is_signed_by(&self, issuer: &Self) -> bool {
        let (Ok((_, own)), Ok((_, issuer))) = (
            X509Certificate::from_der(&self.der),
            X509Certificate::from_der(&issuer.der),
        ) else {
            return false;
        };
        own.issuer().as_raw() == issuer.subject().as_raw() && own.verify_signature(Some(issuer.public_key())).is_ok()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("subject", &self.facts.subject_text)
            .field("serial", &self.facts.serial)
            .field("uris", &self.facts.uris)
            .field("dns_names", &self.facts.dns_names)
            .field("not_after", &self.facts.validity.not_after)
            .finish_non_exhaustive()
    }
}

impl Facts {
    fn read(der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow it", rest.len()));
        }
        let text = |error: x509_parser::error::X509Error| error.to_string();
        let constraints = certificate.basic_constraints().map_err(text)?;
        let usage = certificate.key_usage().map_err(text)?;
        let mut uris = Vec::new();
        let mut dns_names = Vec::new();
        if let Some(names) = certificate.subject_alternative_name().map_err(text)? {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                    GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                    _ => {}
                }
            }
        }
        let subject_key_id = certificate
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
        let validity = certificate.validity();
        Ok(Self {
            validity: Validity {
                not_before: system_time(validity.not_before.timestamp())?,
                not_after: system_time(validity.not_after.timestamp())?,
            },
            serial: certificate
                .raw_serial()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            subject: certificate.subject().as_raw().to_vec(),
            subject_text: certificate.subject().to_string(),
            spki: certificate.public_key().raw.to_vec(),
            subject_key_id,
            uris,
            dns_names,
            ca: constraints.is_some_and(|constraints| constraints.value.ca),
            may_sign_certificates: usage.is_none_or(|usage| usage.value.key_cert_sign()),
        })
    }
}

fn system_time(seconds: i64) -> Result<SystemTime, String> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    }
    .ok_or_else(|| "a date is out of range".to_owned())
}

// === impl Chain ===

impl Chain {
    /// Wraps a leaf and what leads from it toward a root.
    #[must_use]
    pub fn new(leaf: Certificate, intermediates: impl IntoIterator<Item = Certificate>) -> Self {
        Self {
            certificates: std::iter::once(leaf).chain(intermediates).collect(),
        }
    }

    /// Reads a PEM text whose first certificate is the leaf.
    ///
    /// # Errors
    /// When there is none, or one is malformed.
    pub fn parse_pem(text: &[u8]) -> Result<Self, CertificateError> {
        Certificate::parse_pem(text).map(|certificates| Self { certificates })
    }

    /// Takes over what a TLS peer presented, leaf first.
    ///
    /// # Errors
    /// When there is none, or one is malformed.
    pub fn from_ders(ders: &[CertificateDer<'_>]) -> Result<Self, CertificateError> {
        let mut certificates = Vec::with_capacity(ders.len());
        for der in ders {
            let index = certificates.len() + 1;
            let facts = Facts::read(der).map_err(|reason| CertificateError::Malformed { index, reason })?;
            certificates.push(Certificate {
                der: der.clone().into_owned(),
                facts,
            });
        }
        if certificates.is_empty() {
            Err(CertificateError::Missing)
        } else {
            Ok(Self { certificates })
        }
    }

    /// The first certificate.
    #[must_use]
    pub fn leaf(&self) -> &Certificate {
        // Every constructor makes sure that there is one.
        &self.certificates[0]
    }

    /// What follows the leaf.
    #[must_use]
    pub fn intermediates(&self) -> &[Certificate] {
        &self.certificates[1..]
    }

    /// All of it, leaf first.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// All of it in DER, leaf first, as TLS libraries take it.
    #[must_use]
    pub fn ders(&self) -> Vec<CertificateDer<'static>> {
        self.certificates
            .iter()
            .map(|certificate| certificate.der.clone())
            .collect()
    }

    /// All of it in PEM, leaf first.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificates.iter().map(Certificate::pem).collect()
    }
}
