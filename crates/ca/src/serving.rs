//! The control plane's own certificate, and TLS with it.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use lateen_pki::{Certificate, Chain, PrivateKey, RenewalPolicy, SigningCa, TrustBundle, Validity};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig, SignatureScheme};
use tokio::sync::watch;
use tracing::info;

use crate::Clock;
use crate::authority::{CaConfig, CaError, new_serial};

/// A certificate of the control plane that renews itself. Cheap to clone; a rustls resolver, so that every handshake
/// gets the current one.
#[derive(Clone)]
pub struct ServingCertificate(watch::Sender<Arc<Served>>);

struct Served {
    key: Arc<CertifiedKey>,
    chain: Chain,
    renew_at: SystemTime,
    signed_by: Certificate,
}

/// Verifies clients against the roots that are trusted at the moment of the handshake.
struct ClientVerifier {
    bundle: watch::Receiver<Arc<TrustBundle>>,
    clock: Clock,
    provider: Arc<CryptoProvider>,
}

// === impl ServingCertificate ===

impl ServingCertificate {
    pub(crate) fn new(signing: &SigningCa, config: &CaConfig, now: SystemTime) -> Result<Self, CaError> {
        Ok(Self(watch::Sender::new(Arc::new(Served::issue(signing, config, now)?))))
    }

    /// Issues it anew when its time has come or another certificate signs.
    pub(crate) fn renew_if_due(&self, signing: &SigningCa, config: &CaConfig, now: SystemTime) -> Result<(), CaError> {
        let due = {
            let served = self.0.borrow();
            served.renew_at <= now || served.signed_by != *signing.certificate()
        };
        if due {
            let served = Served::issue(signing, config, now)?;
            info!(certificate = ?served.chain.leaf(), "renewed the control plane's own certificate");
            self.0.send_replace(Arc::new(served));
        }
        Ok(())
    }

    /// The chain in use, leaf first.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.0.borrow().chain.clone()
    }

    pub(crate) fn server_tls_config(
        &self,
        bundle: watch::Receiver<Arc<TrustBundle>>,
        clock: Clock,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let verifier = ClientVerifier {
            bundle,
            clock,
            provider: Arc::clone(&provider),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would vouch for a certificate that may have ended, or whose root is trusted no more.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.borrow().key))
    }
}

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServingCertificate")
            .field(self.0.borrow().chain.leaf())
            .finish()
    }
}

impl Served {
    fn issue(signing: &SigningCa, config: &CaConfig, now: SystemTime) -> Result<Self, CaError> {
        let key = PrivateKey::generate()?;
        let validity = Validity::starting(now, config.default_ttl.min(config.max_ttl));
        let leaf = signing.issue_serving(key.public_key(), &config.serving_names, None, validity, new_serial())?;
        let renew_at = RenewalPolicy::default().renew_at(leaf.validity(), rand::random());
        let chain = signing.chain_of(leaf);
        let signer = ring::sign::any_supported_type(&key.expose_der())?;
        Ok(Self {
            key: Arc::new(CertifiedKey::new(chain.ders(), signer)),
            chain,
            renew_at,
            signed_by: signing.certificate().clone(),
        })
    }
}

// === impl ClientVerifier ===

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        // A new workload has nothing but its token.
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let ders: Vec<_> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
        let refused = |error: Arc<dyn std::error::Error + Send + Sync>| {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(OtherError(error)))
        };
        let chain = Chain::from_ders(&ders).map_err(|error| refused(Arc::new(error)))?;
        let bundle = Arc::clone(&self.bundle.borrow());
        bundle
            .verify_path(&chain, (self.clock)())
            .map_err(|error| refused(Arc::new(error)))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientVerifier")
    }
}
