//! Revocation lists: certificates that count no more, though they have not ended.

use std::fmt;
use std::sync::Arc;

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject as _;
use webpki::{CertRevocationList, OwnedCertRevocationList};

use crate::key::pem;

/// Text cannot be used as revocation lists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// There is no list in it.
    #[error("no revocation list found: expected PEM blocks `X509 CRL`")]
    Missing,
    /// The PEM armour is broken, or a list does not parse.
    #[error("a revocation list does not read: {0}")]
    Malformed(String),
}

/// A revocation list of one issuer (RFC 5280, §5).
#[derive(Clone)]
pub struct RevocationList {
    der: Arc<[u8]>,
    parsed: Arc<CertRevocationList<'static>>,
}

impl RevocationList {
    /// Reads every list in a PEM text. Signatures are checked where a list is used.
    ///
    /// # Errors
    /// When there is none, or one is malformed.
    pub fn parse_pem(text: &[u8]) -> Result<Vec<Self>, RevocationError> {
        let malformed = |error: &dyn fmt::Display| RevocationError::Malformed(error.to_string());
        let mut lists = Vec::new();
        for list in CertificateRevocationListDer::pem_slice_iter(text) {
            let list = list.map_err(|error| malformed(&error))?;
            let parsed = OwnedCertRevocationList::from_der(&list).map_err(|error| malformed(&format!("{error:?}")))?;
            lists.push(Self {
                der: list.as_ref().into(),
                parsed: Arc::new(CertRevocationList::from(parsed)),
            });
        }
        if lists.is_empty() {
            return Err(RevocationError::Missing);
        }
        Ok(lists)
    }

    /// The list in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem("X509 CRL", &self.der)
    }

    pub(crate) fn parsed(&self) -> &CertRevocationList<'static> {
        &self.parsed
    }
}

impl PartialEq for RevocationList {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for RevocationList {}

impl fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RevocationList({} bytes)", self.der.len())
    }
}
