//! What callers prove themselves with: requests for certificates, certificates, tokens.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use lateen_ca::{JwksSource, JwtVerifier, TokenVerifier as _};
use lateen_pki::{Certificate, Chain, Csr, PrivateKey, PublicKey, TrustBundle};

/// The time of all checks.
const NOW: Duration = Duration::from_secs(1_800_000_000);
/// An audience that no token of the corpus has, so that no token may pass.
const AUDIENCE: &str = "nobody";
/// Keys with which tokens of the corpus are really signed.
const KEYS: &str = include_str!("keys.json");
const ISSUER: &str = "fuzz";
/// A root that has signed nothing.
const ROOT: &[u8] = include_bytes!("root.pem");

static BUNDLE: LazyLock<Option<TrustBundle>> = LazyLock::new(|| TrustBundle::parse_pem(ROOT).ok());

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + NOW
}

/// A request for a certificate, as PEM and as DER. What is taken must read again, to the same key.
pub fn csr(data: &[u8]) {
    let read = [Csr::parse_pem(data), Csr::parse_der(data)];
    for csr in read.into_iter().flatten() {
        let again = Csr::parse_der(csr.der()).map(|again| again.public_key().to_spki());
        assert_eq!(
            again,
            Ok(csr.public_key().to_spki()),
            "it reads otherwise the second time"
        );
        let key = PublicKey::from_spki(&csr.public_key().to_spki());
        assert!(key.is_ok(), "a key that was taken is refused: {key:?}");
    }
}

/// Certificates, chains and keys, as PEM and as DER. No chain may lead to a root that has signed nothing.
pub fn certificate(data: &[u8]) {
    let bundle = BUNDLE.as_ref();
    assert!(bundle.is_some(), "the root does not read");
    let single = Certificate::from_der(data.to_vec().into()).map(|leaf| Chain::new(leaf, []));
    let chains = [single, Chain::parse_pem(data)];
    for chain in chains.into_iter().flatten() {
        for certificate in chain.certificates() {
            // What is read of it must not depend on how it is asked.
            assert_eq!(certificate.spiffe_id().ok(), certificate.spiffe_id().ok());
            let _ = (
                certificate.validity().length(),
                certificate.dns_names(),
                certificate.is_ca(),
            );
        }
        if let Some(bundle) = bundle {
            assert!(bundle.verify(&chain, now()).is_err(), "nobody signed it");
            assert!(bundle.verify_path(&chain, now()).is_err(), "nobody signed it");
        }
    }
    // Roots come from files that users write, and so do keys.
    let _ = TrustBundle::parse_pem(data);
    let _ = PrivateKey::from_pem(data);
}

/// A token, or keys and after a zero byte a token. No token may pass: none is for this audience.
pub fn jwt(data: &[u8]) {
    let verifier = JwtVerifier::new(ISSUER, [AUDIENCE], JwksSource::Inline(KEYS.to_owned()));
    let Ok(verifier) = verifier else {
        panic!("the keys do not read");
    };
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    if second.is_some()
        && let Ok(keys) = std::str::from_utf8(first)
    {
        let _ = verifier.set_keys(keys);
    }
    if let Ok(token) = std::str::from_utf8(second.unwrap_or(first)) {
        let answer = verifier.verify(token, None, now()).now_or_never();
        assert!(matches!(answer, Some(Err(_))), "a token passed: {answer:?}");
    }
}
