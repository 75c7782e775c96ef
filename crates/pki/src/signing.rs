//! The certificate that signs, and what it signs.

use std::net::IpAddr;
use std::time::SystemTime;

use lateen_names::{Hostname, SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use time::OffsetDateTime;

use crate::bundle::TrustBundle;
use crate::certificate::{Certificate, CertificateError, Chain, Serial};
use crate::der::{Unsigned, sign_with_issuer};
use crate::key::{PrivateKey, PublicKey};
use crate::rotation::Validity;

/// A certificate cannot be issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// A certificate of the CA ends before the new one would begin.
    #[error("the CA's own certificate ({subject}) has expired or expires at once: replace it")]
    CaExpired {
        /// The signing certificate's subject.
        subject: String,
    },
    /// The name cannot stand in a certificate.
    #[error("`{name}` cannot be certified: {reason}")]
    Name {
        /// The identity or host name.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// Neither identity nor host name.
    #[error("a certificate needs an identity or a host name")]
    Nameless,
    /// A date lies beyond what certificates can say.
    #[error("a date of the certificate is out of range")]
    Date,
    /// Encoding or signing failed.
    #[error("signing failed: {0}")]
    Signing(String),
    /// What was signed does not read back.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// A CA that signs workloads' certificates: its key, its certificate, the intermediates between that and a root, and
/// the roots that go with it.
#[derive(Debug)]
pub struct SigningCa {
    key: PrivateKey,
    /// The signing certificate first, the one under the root last; empty when the root itself signs.
    intermediates: Vec<Certificate>,
    certificate: Certificate,
    roots: TrustBundle,
    /// The soonest end on the way from the signing certificate to its root.
    end: SystemTime,
}

impl SigningCa {
    /// Makes a root that signs workloads itself, with Istio's subject: `O=<trust domain>`.
    ///
    /// # Errors
    /// When a date is out of range or signing fails.
    pub fn self_signed(
        trust_domain: &TrustDomain,
        key: PrivateKey,
        validity: Validity,
        serial: Serial,
    ) -> Result<Self, IssueError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, trust_domain.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(serial.bytes()));
        params.not_before = date(validity.not_before)?;
        params.not_after = date(validity.not_after)?;
        let certificate = params
            .self_signed(key.pair())
            .map_err(|error| IssueError::Signing(error.to_string()))?;
        let certificate = Certificate::from_der(certificate.der().clone())?;
        Ok(Self::from_root(key, certificate))
    }

    /// A root that signs workloads itself. The caller has checked that key and certificate belong together.
    pub(crate) fn from_root(key: PrivateKey, certificate: Certificate) -> Self {
        Self {
            key,
            intermediates: Vec::new(),
            roots: TrustBundle::new([certificate.clone()]),
            end: certificate.not_after(),
            certificate,
        }
    }

    /// A CA under (or equal to) one of `roots`. The caller has checked all of it.
    pub(crate) fn from_parts(
        key: PrivateKey,
        certificate: Certificate,
        intermediates: Vec<Certificate>,
        roots: TrustBundle,
        end: SystemTime,
    ) -> Self {
        Self {
            key,
            intermediates,
            certificate,
            roots,
            end,
        }
    }

    /// Certifies a workload: an X.509-SVID with the identity as its one URI name, an empty subject, for servers and
    /// clients. The end is cut to the CA's own.
    ///
    /// # Errors
    /// When the CA has expired, the identity cannot be written as a SPIFFE ID, or signing fails.
    pub fn issue(
        &self,
        public_key: &PublicKey,
        identity: &SpiffeId,
        validity: Validity,
        serial: Serial,
    ) -> Result<Certificate, IssueError> {
        self.sign(public_key, vec![uri_name(identity)?], validity, &serial)
    }

    /// Certifies a server by its host names (and IP addresses), and by an identity if it has one.
    ///
    /// # Errors
    /// As [`SigningCa::issue`], and when there is no name at all.
    pub fn issue_serving(
        &self,
        public_key: &PublicKey,
        hosts: &[Hostname],
        identity: Option<&SpiffeId>,
        validity: Validity,
        serial: Serial,
    ) -> Result<Certificate, IssueError> {
        let mut names = identity.map(uri_name).into_iter().collect::<Result<Vec<_>, _>>()?;
        for host in hosts {
            names.push(match host.as_str().parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(ia5(host.as_str())?),
            });
        }
        self.sign(public_key, names, validity, &serial)
    }

    /// A leaf of this CA with the intermediates that lead to its root.
    #[must_use]
    pub fn chain_of(&self, leaf: Certificate) -> Chain {
        Chain::new(leaf, self.intermediates.iter().cloned())
    }

    /// The certificate that signs.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The key that signs, to be persisted.
    #[must_use]
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// What lies between a leaf and the root, the signing certificate first; empty when the root itself signs.
    #[must_use]
    pub fn intermediates(&self) -> &[Certificate] {
        &self.intermediates
    }

    /// The roots that go with this CA.
    #[must_use]
    pub fn roots(&self) -> &TrustBundle {
        &self.roots
    }

    /// The end of whatever this CA signs: the soonest on the way from its certificate to its root.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.end
    }

    fn sign(
        &self,
        public_key: &PublicKey,
        names: Vec<SanType>,
        validity: Validity,
        serial: &Serial,
    ) -> Result<Certificate, IssueError> {
        if names.is_empty() {
            return Err(IssueError::Nameless);
        }
        let validity = Validity {
            not_before: validity.not_before.max(self.certificate.not_before()),
            not_after: validity.not_after.min(self.end),
        };
        if validity.not_after <= validity.not_before {
            return Err(IssueError::CaExpired {
                subject: self.certificate.subject().to_owned(),
            });
        }
        let failed = |error: rcgen::Error| IssueError::Signing(error.to_string());
        let mut params = CertificateParams::default();
        // The subject stays empty, which makes the names critical (RFC 5280, §4.1.2.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from_slice(serial.bytes()));
        params.use_authority_key_identifier_extension = true;
        params.not_before = date(validity.not_before)?;
        params.not_after = date(validity.not_after)?;

        let mut issuer = CertificateParams::default();
        if let Some(id) = self.certificate.subject_key_id() {
            issuer.key_identifier_method = KeyIdMethod::PreSpecified(id.to_vec());
        }
        let issuer = Issuer::new(issuer, Unsigned(&self.key));
        let unsigned = params.signed_by(&Certified(public_key), &issuer).map_err(failed)?;
        let signed = sign_with_issuer(unsigned.der(), self.certificate.subject_der(), &self.key).map_err(failed)?;
        Ok(Certificate::from_der(signed.into())?)
    }
}

/// rcgen wants a sized key by reference.
struct Certified<'a>(&'a PublicKey);

impl PublicKeyData for Certified<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        PublicKeyData::algorithm(self.0)
    }
}

fn uri_name(identity: &SpiffeId) -> Result<SanType, IssueError> {
    // SPIFFE ID standard, §2.2: a path segment has letters, digits, `.`, `-` and `_`, and is neither `.` nor `..`.
    let account = identity.service_account.as_str();
    let plain = account
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if !plain || matches!(account, "." | "..") {
        let reason = "the service account may have letters, digits, `.`, `-` and `_` only (SPIFFE ID standard, §2.2)";
        return Err(IssueError::Name {
            name: identity.to_string(),
            reason,
        });
    }
    Ok(SanType::URI(ia5(&identity.to_string())?))
}

fn ia5(name: &str) -> Result<rcgen::string::Ia5String, IssueError> {
    let reason = "it has characters outside of ASCII";
    name.try_into().map_err(|_: rcgen::Error| IssueError::Name {
        name: name.to_owned(),
        reason,
    })
}

fn date(at: SystemTime) -> Result<OffsetDateTime, IssueError> {
    let seconds = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| IssueError::Date)?
        .as_secs();
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(IssueError::Date)
}
