//! Certificates and keys that users gave in Secrets and ConfigMaps.

use std::fmt;
use std::sync::Arc;

use lateen_names::ObjectKey;

/// Bytes that are never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Sensitive(Arc<[u8]>);

impl Sensitive {
    /// Wraps the bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for the one place that hands them to the proxy that owns them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Key material of a Secret or ConfigMap (`tls.crt`/`tls.key`/`ca.crt`/`ca.crl`, or Istio's `cert`/`key`/`cacert`/`crl`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    /// The key by which it stands in the snapshot: of a Secret its own, of a ConfigMap its own with `configmap:` before
    /// the name.
    pub key: ObjectKey,
    /// Certificate chain, PEM.
    pub certificate: Option<Arc<[u8]>>,
    /// Private key, PEM.
    pub private_key: Option<Sensitive>,
    /// Authorities, PEM.
    pub ca: Option<Arc<[u8]>>,
    /// Revocation list, PEM.
    pub crl: Option<Arc<[u8]>>,
    /// OCSP staple.
    pub ocsp_staple: Option<Arc<[u8]>>,
}
