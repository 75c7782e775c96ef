//! Trust bundles: the roots that a mesh trusts, several while it moves from one to the next.

use std::time::SystemTime;

use lateen_names::SpiffeId;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use crate::certificate::{Certificate, CertificateError, Chain};
use crate::crl::RevocationList;

/// A chain of certificates is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The chain does not lead to a trusted root, is not valid now, or breaks a constraint.
    #[error("the certificate chain is not trusted: {reason} (issued to {subject})")]
    Untrusted {
        /// The identity that the leaf claims, or its subject.
        subject: String,
        /// What the verifier said.
        reason: String,
    },
    /// The chain is trusted, but names no workload.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Root certificates, in the order in which they came, without repetition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustBundle {
    roots: Vec<Certificate>,
    revoked: Vec<RevocationList>,
}

impl TrustBundle {
    /// Wraps roots.
    #[must_use]
    pub fn new(roots: impl IntoIterator<Item = Certificate>) -> Self {
        let mut bundle = Self::default();
        for root in roots {
            bundle.add(root);
        }
        bundle
    }

    /// Reads every root in a PEM text.
    ///
    /// # Errors
    /// When there is none, or one is malformed.
    pub fn parse_pem(text: &[u8]) -> Result<Self, CertificateError> {
        Certificate::parse_pem(text).map(Self::new)
    }

    /// Adds a root, the first step of a rotation. Returns whether it is new.
    pub fn add(&mut self, root: Certificate) -> bool {
        let new = !self.roots.contains(&root);
        if new {
            self.roots.push(root);
        }
        new
    }

    /// Trusts every root but `root`, the last step of a rotation. Returns whether it was there.
    pub fn retire(&mut self, root: &Certificate) -> bool {
        let before = self.roots.len();
        self.roots.retain(|kept| kept != root);
        self.roots.len() < before
    }

    /// Takes what these lists revoke for untrusted. A list counts for the certificates of its own issuer, and longer than
    /// it says itself: that its successor is late must not bring back what was revoked.
    #[must_use]
    pub fn with_revoked(mut self, lists: impl IntoIterator<Item = RevocationList>) -> Self {
        self.revoked.extend(lists);
        self
    }

    /// The revocation lists in PEM; empty where there are none.
    #[must_use]
    pub fn revoked_pem(&self) -> String {
        self.revoked.iter().map(RevocationList::pem).collect()
    }

    /// The roots.
    #[must_use]
    pub fn roots(&self) -> &[Certificate] {
        &self.roots
    }

    /// The roots in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.roots.iter().map(Certificate::pem).collect()
    }

    /// Verifies that a chain leads to one of the roots and may authenticate a client at `at`, and reads its identity.
    ///
    /// # Errors
    /// When the chain is not trusted at that time, or names no workload.
    pub fn verify(&self, chain: &Chain, at: SystemTime) -> Result<SpiffeId, VerifyError> {
        self.verify_path(chain, at)?;
        Ok(chain.leaf().spiffe_id()?)
    }

    /// Verifies that a chain leads to one of the roots and may authenticate a client at `at`, whoever it names.
    ///
    /// # Errors
    /// When the chain is not trusted at that time.
    pub fn verify_path(&self, chain: &Chain, at: SystemTime) -> Result<(), VerifyError> {
        let leaf = chain.leaf();
        let untrusted = |reason: String| VerifyError::Untrusted {
            subject: leaf
                .spiffe_id()
                .map_or_else(|_| leaf.subject().to_owned(), |identity| identity.to_string()),
            reason,
        };
        let certificate = EndEntityCert::try_from(leaf.der()).map_err(|error| untrusted(describe(&error)))?;
        let anchors: Vec<TrustAnchor<'_>> = self
            .roots
            .iter()
            // An anchor's own end is not checked by the verifier.
            .filter(|root| root.validity().contains(at))
            .filter_map(|root| webpki::anchor_from_trusted_cert(root.der()).ok())
            .collect();
        let intermediates: Vec<CertificateDer<'_>> = chain
            .intermediates()
            .iter()
            .map(|certificate| certificate.der().clone())
            .collect();
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().map(RevocationList::parsed).collect();
        // Without any list there are no options.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        certificate
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &intermediates,
                UnixTime::since_unix_epoch(since_epoch),
                KeyUsage::client_auth(),
                revocation,
                None,
            )
            .map(drop)
            .map_err(|error| untrusted(describe(&error)))
    }
}

fn describe(error: &webpki::Error) -> String {
    match error {
        webpki::Error::UnknownIssuer => "no trusted root vouches for it".to_owned(),
        webpki::Error::CertExpired { .. } => "it has expired".to_owned(),
        webpki::Error::CertNotValidYet { .. } => "it is not valid yet".to_owned(),
        webpki::Error::CertRevoked => "it is revoked".to_owned(),
        webpki::Error::CaUsedAsEndEntity => "it is a CA's certificate, not a workload's".to_owned(),
        webpki::Error::InvalidSignatureForPublicKey => "a signature in it is wrong".to_owned(),
        other => format!("{other:?}"),
    }
}
