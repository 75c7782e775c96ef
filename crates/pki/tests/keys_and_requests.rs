//! Keys in every format that users have, and requests from friendly and hostile clients.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use lateen_names::SpiffeId;
use lateen_pki::{Csr, CsrError, KeyAlgorithm, KeyError, PrivateKey};
use proptest::prelude::*;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("fixtures/", $name)).as_slice()
    };
}

fn identity() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap()
}

#[test]
fn keys_of_openssl_are_read_in_every_format() {
    for (pem, algorithm) in [
        (fixture!("p256-sec1.pem"), KeyAlgorithm::EcdsaP256),
        (fixture!("p384-sec1.pem"), KeyAlgorithm::EcdsaP384),
        (fixture!("rsa-pkcs1.pem"), KeyAlgorithm::Rsa),
        (fixture!("rsa-pkcs8.pem"), KeyAlgorithm::Rsa),
    ] {
        let key = PrivateKey::from_pem(pem).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        let again = PrivateKey::from_pem(key.expose_pem().as_bytes()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        let request = Csr::create(&key, &identity()).unwrap();
        assert_eq!(
            Csr::parse_pem(request.pem().as_bytes()).unwrap().public_key(),
            key.public_key()
        );
    }
    let rsa = |pem| PrivateKey::from_pem(pem).unwrap().public_key().clone();
    assert_eq!(rsa(fixture!("rsa-pkcs1.pem")), rsa(fixture!("rsa-pkcs8.pem")));
}

#[test]
fn a_private_key_shows_nothing_of_itself() {
    let key = PrivateKey::generate().unwrap();
    let shown = format!("{key:?} {key:#?}");
    let pem = key.expose_pem();
    for line in pem.lines().filter(|line| !line.starts_with('-')) {
        assert!(!shown.contains(line));
    }
    assert_eq!(format!("{key:?}"), "PrivateKey(EcdsaP256, content withheld)");
}

#[test]
fn what_is_no_single_key_is_refused() {
    assert_eq!(PrivateKey::from_pem(b"").unwrap_err(), KeyError::Missing);
    assert_eq!(PrivateKey::from_pem(b"hello").unwrap_err(), KeyError::Missing);
    let two = [fixture!("rsa-pkcs1.pem"), fixture!("p384-sec1.pem")].concat();
    assert_eq!(PrivateKey::from_pem(&two).unwrap_err(), KeyError::Several(2));
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert_eq!(PrivateKey::from_pem(encrypted).unwrap_err(), KeyError::Missing);
    let junk = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(matches!(PrivateKey::from_pem(junk), Err(KeyError::Unusable(_))));
}

#[test]
fn requests_of_openssl_are_read_and_their_names_ignored() {
    let request = Csr::parse_pem(fixture!("rsa.csr.pem")).unwrap();
    assert_eq!(request.public_key().algorithm(), KeyAlgorithm::Rsa);
    let request = Csr::parse_pem(fixture!("p384.csr.pem")).unwrap();
    assert_eq!(request.public_key().algorithm(), KeyAlgorithm::EcdsaP384);
}

#[test]
fn weak_and_foreign_keys_are_refused_with_the_reason() {
    let reason = |pem| Csr::parse_pem(pem).unwrap_err().to_string();
    assert!(
        reason(fixture!("rsa1024.csr.pem")).contains("1024 bits"),
        "{}",
        reason(fixture!("rsa1024.csr.pem"))
    );
    assert!(reason(fixture!("ed25519.csr.pem")).contains("neither an elliptic curve key nor an RSA key"));
    assert!(reason(fixture!("p521.csr.pem")).contains("neither P-256 nor P-384"));
    assert!(matches!(
        Csr::parse_pem(fixture!("sha1.csr.pem")),
        Err(CsrError::SignatureAlgorithm(_))
    ));
}

#[test]
fn a_request_signed_by_another_key_is_refused() {
    let (a, b) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let mut der = Csr::create(&a, &identity()).unwrap().der().to_vec();
    let key_of_a = a.public_key().raw();
    let at = der
        .windows(key_of_a.len())
        .position(|window| window == key_of_a)
        .unwrap();
    der[at..at + key_of_a.len()].copy_from_slice(b.public_key().raw());
    assert_eq!(Csr::parse_der(&der).unwrap_err(), CsrError::Signature);
}

#[test]
fn oversized_and_multiple_requests_are_refused() {
    let pem = Csr::create(&PrivateKey::generate().unwrap(), &identity())
        .unwrap()
        .pem();
    let long = format!("{}{pem}", " ".repeat(Csr::MAX_BYTES));
    assert_eq!(
        Csr::parse_pem(long.as_bytes()).unwrap_err(),
        CsrError::TooLong(long.len())
    );
    let long = vec![0x30; Csr::MAX_BYTES + 1];
    assert_eq!(
        Csr::parse_der(&long).unwrap_err(),
        CsrError::TooLong(Csr::MAX_BYTES + 1)
    );
    assert_eq!(
        Csr::parse_pem(format!("{pem}{pem}").as_bytes()).unwrap_err(),
        CsrError::NotOneBlock(2)
    );
    assert_eq!(
        Csr::parse_pem(fixture!("rsa-pkcs8.pem")).unwrap_err(),
        CsrError::NotOneBlock(1)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        prop_assert!(Csr::parse_der(&bytes).is_err());
        prop_assert!(Csr::parse_pem(&bytes).is_err());
        prop_assert!(PrivateKey::from_pem(&bytes).is_err());
        prop_assert!(lateen_pki::Certificate::from_der(bytes.clone().into()).is_err());
        prop_assert!(lateen_pki::TrustBundle::parse_pem(&bytes).is_err());
    }

    /// What a request asks for is under its signature; only the wrapping around it can change unnoticed.
    #[test]
    fn a_damaged_request_asks_for_nothing_else_and_does_not_panic(at in any::<prop::sample::Index>(), flip in 1u8..=255) {
        let mut der = request();
        let at = at.index(der.len());
        der[at] ^= flip;
        if let Ok(read) = Csr::parse_der(&der) {
            let whole = Csr::parse_der(&request()).unwrap();
            prop_assert_eq!(read.public_key(), whole.public_key());
        }
    }

    #[test]
    fn a_truncated_or_extended_request_is_refused(cut in any::<prop::sample::Index>(), tail in any::<u8>()) {
        let der = request();
        prop_assert!(Csr::parse_der(&der[..cut.index(der.len())]).is_err());
        prop_assert!(Csr::parse_der(&[der, vec![tail]].concat()).is_err());
    }

    #[test]
    fn damaged_armour_is_read_or_refused_without_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut pem = fixture!("rsa.csr.pem").to_vec();
        let at = at.index(pem.len());
        pem[at] = byte;
        let _ = Csr::parse_pem(&pem);
        let mut pem = fixture!("rsa-pkcs1.pem").to_vec();
        let at = at % pem.len();
        pem[at] = byte;
        let _ = PrivateKey::from_pem(&pem);
    }
}

fn request() -> Vec<u8> {
    use std::sync::OnceLock;
    static REQUEST: OnceLock<Vec<u8>> = OnceLock::new();
    REQUEST
        .get_or_init(|| {
            Csr::create(&PrivateKey::generate().unwrap(), &identity())
                .unwrap()
                .der()
                .to_vec()
        })
        .clone()
}
