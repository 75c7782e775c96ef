//! Callers that need no proxy: whoever a row names, with a certificate of the mesh's own authority, or with one that should
//! be worth nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use lateen_ca::pki::{CaFileError, Certificate, Chain, PrivateKey, Serial, SigningCa, TrustBundle, Validity};
use lateen_names::SpiffeId;
use lateen_testkit::call::Wire;
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS12;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_rustls::TlsConnector;

const HOUR: Duration = Duration::from_secs(3600);
/// What sidecars offer toward sidecars, and so what a permissive port knows them by.
const MESH_ALPN: [&str; 3] = ["istio-http/1.1", "istio", "http/1.1"];
const MESH_ALPN_TWO: [&str; 3] = ["istio-h2", "istio", "h2"];

/// Who calls.
pub(crate) struct Callers {
    /// The control plane's own authority.
    ca: SigningCa,
    /// One that calls itself the same, with a key of its own.
    selfmade: SigningCa,
    configs: Mutex<BTreeMap<(String, bool), Arc<ClientConfig>>>,
}

impl Callers {
    /// Reads the key of the control plane's authority.
    pub(crate) fn new(data: &Path) -> Result<Self> {
        let read = |name: &str| std::fs::read(data.join("ca").join(name)).with_context(|| name.to_owned());
        let ca = SigningCa::from_root_pem(&read("ca-cert.pem")?, &read("ca-key.pem")?);
        let validity = Validity::starting(SystemTime::now(), HOUR);
        let selfmade = SigningCa::self_signed(
            &"cluster.local".parse()?,
            PrivateKey::generate()?,
            validity,
            Serial::new([7; 16]),
        )?;
        Ok(Self {
            ca: ca.map_err(|error: CaFileError| anyhow::anyhow!("{error}"))?,
            selfmade,
            configs: Mutex::default(),
        })
    }

    /// TLS as `who` speaks it. `plain` speaks none, `own` an application's own, `nobody` shows no certificate.
    /// `namespace/account` is an identity of the mesh, `domain/namespace/account` one of another trust domain with a
    /// certificate of the same root; `expired` before it ended an hour ago; `selfmade` before it comes from another root.
    pub(crate) fn tls(&self, who: &str, two: bool) -> Result<Option<Arc<ClientConfig>>> {
        if who == "plain" {
            return Ok(None);
        }
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (who.to_owned(), two);
        if let Some(config) = configs.get(&key) {
            return Ok(Some(Arc::clone(config)));
        }
        let config = Arc::new(self.config(who, two)?);
        configs.insert(key, Arc::clone(&config));
        Ok(Some(config))
    }

    /// A key with a certificate chain of the mesh for an identity.
    pub(crate) fn certify(&self, identity: &str) -> Result<(PrivateKey, Chain)> {
        let key = PrivateKey::generate()?;
        let validity = Validity::starting(SystemTime::now(), HOUR);
        let identity: SpiffeId = identity.parse()?;
        let leaf = self
            .ca
            .issue(key.public_key(), &identity, validity, Serial::new([9; 16]))?;
        Ok((key, self.ca.chain_of(leaf)))
    }

    fn config(&self, who: &str, two: bool) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let roots = (who != "own").then(|| self.ca.roots().clone());
        // TLS 1.3 tells a client of a refusal after its handshake only, when it may have written already.
        let worthless = who == "nobody" || who.contains(' ') || who.split('/').count() == 3;
        let versions: &[_] = if worthless { &[&TLS12] } else { rustls::DEFAULT_VERSIONS };
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OfTheMesh { roots, provider }));
        let mut config = match who {
            "own" | "nobody" => config.with_no_client_auth(),
            _ => {
                let (key, chain) = self.credential(who)?;
                config.with_client_auth_cert(chain.ders(), key.expose_der())?
            }
        };
        let alpn: &[&str] = match (who, two) {
            ("own", false) => &["http/1.1"],
            ("own", true) => &["h2"],
            (_, false) => &MESH_ALPN,
            (_, true) => &MESH_ALPN_TWO,
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }

    fn credential(&self, who: &str) -> Result<(PrivateKey, Chain)> {
        let (how, who) = who.split_once(' ').unwrap_or(("", who));
        let parts: Vec<&str> = who.split('/').collect();
        let identity = match parts[..] {
            [namespace, account] => format!("spiffe://cluster.local/ns/{namespace}/sa/{account}"),
            [domain, namespace, account] => format!("spiffe://{domain}/ns/{namespace}/sa/{account}"),
            _ => anyhow::bail!("`{who}` is nobody"),
        };
        let identity: SpiffeId = identity.parse()?;
        let key = PrivateKey::generate()?;
        let ca = match how {
            "" => &self.ca,
            "selfmade" => &self.selfmade,
            "expired" => {
                let chain = self.expired(&key, &identity)?;
                return Ok((key, chain));
            }
            other => anyhow::bail!("nobody is `{other}`"),
        };
        let validity = Validity::starting(SystemTime::now(), HOUR);
        let leaf = ca.issue(key.public_key(), &identity, validity, Serial::new([8; 16]))?;
        Ok((key, ca.chain_of(leaf)))
    }
}

impl Callers {
    /// What the authority itself would not sign any more.
    fn expired(&self, key: &PrivateKey, identity: &SpiffeId) -> Result<Chain> {
        let pair = |key: &PrivateKey| KeyPair::from_pem(&key.expose_pem());
        let issuer = Issuer::from_ca_cert_pem(&self.ca.certificate().pem(), pair(self.ca.key())?)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.not_before = (SystemTime::now() - 2 * HOUR).into();
        params.not_after = (SystemTime::now() - HOUR).into();
        let leaf = params.signed_by(&pair(key)?, &issuer)?;
        Ok(Chain::new(Certificate::from_der(leaf.der().clone())?, []))
    }
}

/// Puts TLS around a stream.
pub(crate) async fn secured(stream: Box<dyn Wire>, tls: Option<Arc<ClientConfig>>, sni: &str) -> Result<Box<dyn Wire>> {
    let Some(config) = tls else {
        return Ok(stream);
    };
    let name = ServerName::try_from(sni.to_owned())?;
    let stream = TlsConnector::from(config).connect(name, stream).await.context("TLS")?;
    Ok(Box::new(stream))
}

/// Takes servers that any identity of the mesh's root stands behind; without roots, any server.
#[derive(Debug)]
struct OfTheMesh {
    roots: Option<TrustBundle>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OfTheMesh {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            let ders: Vec<_> = std::iter::once(leaf.clone()).chain(others.iter().cloned()).collect();
            let refused = |error: &dyn std::fmt::Display| Error::General(format!("the server is nobody: {error}"));
            let chain = Chain::from_ders(&ders).map_err(|error| refused(&error))?;
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
            roots.verify(&chain, now).map_err(|error| refused(&error))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
