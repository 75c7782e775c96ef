//! What a CA signs, when it may, and who trusts it.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::time::{Duration, SystemTime};

use lateen_names::{Hostname, Namespace, ServiceAccount, SpiffeId, TrustDomain};
use lateen_pki::{
    CLOCK_SKEW_GRACE, CaFileProblem, CaFiles, Certificate, Chain, IssueError, PrivateKey, RenewalPolicy, Serial,
    SigningCa, TrustBundle, Validity, VerifyError,
};
use proptest::prelude::*;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const DAY: Duration = Duration::from_secs(24 * 3600);

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("fixtures/", $name)).as_slice()
    };
}

/// January 2030; the fixtures are valid then.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000)
}

fn serial(n: u8) -> Serial {
    Serial::new([n; 16])
}

fn identity() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap()
}

fn root(lifetime: Duration) -> SigningCa {
    let trust_domain = TrustDomain::new("cluster.local").unwrap();
    SigningCa::self_signed(
        &trust_domain,
        PrivateKey::generate().unwrap(),
        Validity::starting(now(), lifetime),
        serial(1),
    )
    .unwrap()
}

fn cacerts() -> CaFiles<'static> {
    CaFiles {
        ca_cert: fixture!("cacerts/ca-cert.pem"),
        ca_key: fixture!("cacerts/ca-key.pem"),
        root_cert: fixture!("cacerts/root-cert.pem"),
        cert_chain: fixture!("cacerts/cert-chain.pem"),
    }
}

fn leaf(ca: &SigningCa) -> Chain {
    let key = PrivateKey::generate().unwrap();
    ca.chain_of(
        ca.issue(key.public_key(), &identity(), Validity::starting(now(), DAY), serial(2))
            .unwrap(),
    )
}

#[test]
fn a_workload_certificate_is_an_x509_svid() {
    let ca = root(3650 * DAY);
    let leaf = leaf(&ca);
    let (_, parsed) = X509Certificate::from_der(leaf.leaf().der()).unwrap();
    assert!(parsed.subject().iter().next().is_none(), "the subject is empty");
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "names are critical when the subject is empty");
    assert_eq!(
        names.value.general_names,
        [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/cart")]
    );
    assert!(!parsed.is_ca());
    let usage = parsed.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && usage.value.key_encipherment());
    assert!(!usage.value.key_cert_sign());
    let extended = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert_eq!(leaf.leaf().not_before(), now() - CLOCK_SKEW_GRACE);
    assert_eq!(leaf.leaf().not_after(), now() + DAY);
    assert_eq!(leaf.leaf().serial(), serial(2).to_string());
    assert_eq!(ca.roots().verify(&leaf, now()).unwrap(), identity());
}

#[test]
fn a_root_has_istios_subject_and_may_only_sign() {
    let ca = root(3650 * DAY);
    assert_eq!(ca.certificate().subject(), "O=cluster.local");
    assert!(ca.certificate().is_ca() && ca.certificate().may_sign_certificates());
    let as_leaf = Chain::new(ca.certificate().clone(), []);
    assert!(matches!(
        ca.roots().verify_path(&as_leaf, now()),
        Err(VerifyError::Untrusted { .. })
    ));
}

#[test]
fn a_serving_certificate_has_its_hosts_and_addresses() {
    let ca = root(3650 * DAY);
    let key = PrivateKey::generate().unwrap();
    let hosts: Vec<Hostname> = ["istiod.istio-system.svc", "127.0.0.1", "::1"]
        .map(|host| Hostname::new(host).unwrap())
        .to_vec();
    let validity = Validity::starting(now(), DAY);
    let leaf = ca
        .issue_serving(key.public_key(), &hosts, None, validity, serial(3))
        .unwrap();
    assert_eq!(leaf.dns_names(), ["istiod.istio-system.svc"]);
    let (_, parsed) = X509Certificate::from_der(leaf.der()).unwrap();
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(names.contains(&GeneralName::IPAddress(&[127, 0, 0, 1])));
    assert_eq!(names.len(), 3);
    let nameless = ca.issue_serving(key.public_key(), &[], None, validity, serial(3));
    assert_eq!(nameless.unwrap_err(), IssueError::Nameless);
}

#[test]
fn a_plugged_in_intermediate_with_repeated_attributes_signs_chains_that_verify() {
    let ca = SigningCa::from_files(cacerts(), now()).unwrap();
    let leaf = leaf(&ca);
    assert_eq!(leaf.certificates().len(), 2, "leaf and intermediate, without the root");
    assert_eq!(ca.roots().verify(&leaf, now()).unwrap(), identity());
    let (_, parsed) = X509Certificate::from_der(leaf.leaf().der()).unwrap();
    let (_, issuer) = X509Certificate::from_der(ca.certificate().der()).unwrap();
    assert_eq!(parsed.issuer().as_raw(), issuer.subject().as_raw());
    // Without the chain file the signing certificate itself is sent; here that suffices.
    let alone = SigningCa::from_files(
        CaFiles {
            cert_chain: b"",
            ..cacerts()
        },
        now(),
    )
    .unwrap();
    assert_eq!(alone.intermediates(), ca.intermediates());
}

#[test]
fn a_self_signed_root_works_as_its_own_files() {
    let ca = root(3650 * DAY);
    let (cert, key) = (ca.certificate().pem(), ca.key().expose_pem());
    let files = CaFiles {
        ca_cert: cert.as_bytes(),
        ca_key: key.as_bytes(),
        root_cert: cert.as_bytes(),
        cert_chain: b"",
    };
    let loaded = SigningCa::from_files(files, now()).unwrap();
    assert_eq!(loaded.intermediates(), []);
    assert_eq!(ca.roots().verify(&leaf(&loaded), now()).unwrap(), identity());
}

#[test]
fn broken_files_are_named() {
    let other = root(3650 * DAY);
    let other_pem = other.certificate().pem();
    let other_key = other.key().expose_pem();
    let both = [cacerts().ca_cert, cacerts().root_cert].concat();
    let cases = [
        (
            CaFiles {
                ca_cert: b"nothing",
                ..cacerts()
            },
            "ca-cert.pem: no certificate found",
        ),
        (
            CaFiles {
                ca_cert: &both,
                ..cacerts()
            },
            "ca-cert.pem: it holds 2 certificates",
        ),
        (
            CaFiles {
                ca_cert: fixture!("not-a-ca.pem"),
                ..cacerts()
            },
            "ca-cert.pem: `CN=not a ca` is not a CA's",
        ),
        (
            CaFiles {
                ca_cert: fixture!("may-not-sign.pem"),
                ..cacerts()
            },
            "ca-cert.pem: `CN=may not sign` may not sign",
        ),
        (
            CaFiles {
                ca_key: b"",
                ..cacerts()
            },
            "ca-key.pem: no private key found",
        ),
        (
            CaFiles {
                ca_key: other_key.as_bytes(),
                ..cacerts()
            },
            "ca-key.pem: the key is not the one",
        ),
        (
            CaFiles {
                root_cert: b"",
                ..cacerts()
            },
            "root-cert.pem: no certificate found",
        ),
        (
            CaFiles {
                root_cert: other_pem.as_bytes(),
                cert_chain: b"",
                ..cacerts()
            },
            "cert-chain.pem: certificates of",
        ),
        (
            CaFiles {
                cert_chain: b"junk",
                ..cacerts()
            },
            "cert-chain.pem: no certificate found",
        ),
    ];
    for (files, expected) in cases {
        let error = SigningCa::from_files(files, now()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "expected {expected:?}, got {error:?}");
    }
    let late = SigningCa::from_files(cacerts(), now() + 200 * 365 * DAY).unwrap_err();
    assert!(
        matches!(late.problem, CaFileProblem::NotValidNow(_)) && late.file == "ca-cert.pem",
        "{late}"
    );
}

#[test]
fn trust_overlaps_while_roots_change() {
    let (old, new) = (root(30 * DAY), root(3650 * DAY));
    let (of_old, of_new) = (leaf(&old), leaf(&new));
    let mut bundle = TrustBundle::new([old.certificate().clone()]);
    assert!(bundle.verify(&of_old, now()).is_ok());
    assert!(bundle.verify(&of_new, now()).is_err());
    assert!(bundle.add(new.certificate().clone()));
    assert!(!bundle.add(new.certificate().clone()));
    assert!(bundle.verify(&of_old, now()).is_ok());
    assert!(bundle.verify(&of_new, now()).is_ok());
    assert_eq!(TrustBundle::parse_pem(bundle.pem().as_bytes()).unwrap(), bundle);
    assert!(bundle.retire(old.certificate()));
    assert!(bundle.verify(&of_new, now()).is_ok());
    let error = bundle.verify(&of_old, now()).unwrap_err().to_string();
    // Equal subjects, other keys: the signature is what tells them apart.
    assert!(error.contains("spiffe://cluster.local/ns/shop/sa/cart"), "{error}");
}

#[test]
fn an_expired_root_vouches_for_nobody_and_signs_nothing() {
    let ca = root(DAY);
    let leaf = leaf(&ca);
    assert!(ca.roots().verify(&leaf, now() + 2 * DAY).is_err());
    let key = PrivateKey::generate().unwrap();
    let later = Validity::starting(now() + 2 * DAY, DAY);
    let error = ca.issue(key.public_key(), &identity(), later, serial(4)).unwrap_err();
    assert!(matches!(error, IssueError::CaExpired { .. }), "{error}");
}

#[test]
fn certificates_of_servers_name_no_workload() {
    let ca = root(3650 * DAY);
    let key = PrivateKey::generate().unwrap();
    let host = [Hostname::new("istiod.istio-system.svc").unwrap()];
    let leaf = ca
        .issue_serving(key.public_key(), &host, None, Validity::starting(now(), DAY), serial(5))
        .unwrap();
    let error = ca.roots().verify(&ca.chain_of(leaf), now()).unwrap_err();
    assert!(error.to_string().contains("0 URI names"), "{error}");
}

#[test]
fn identities_that_spiffe_cannot_write_are_refused() {
    let ca = root(DAY);
    let key = PrivateKey::generate().unwrap();
    for account in ["a%2fb", "a?b", "a#b", "ü", "..", "a:b"] {
        let identity = SpiffeId {
            trust_domain: TrustDomain::new("cluster.local").unwrap(),
            namespace: Namespace::new("shop").unwrap(),
            service_account: ServiceAccount::new(account).unwrap(),
        };
        let issued = ca.issue(key.public_key(), &identity, Validity::starting(now(), DAY), serial(6));
        assert!(matches!(issued, Err(IssueError::Name { .. })), "{account}");
    }
}

#[test]
fn renewal_is_at_half_of_the_life_give_or_take_the_jitter() {
    let validity = Validity {
        not_before: now(),
        not_after: now() + 100 * DAY,
    };
    let policy = RenewalPolicy::default();
    assert_eq!(policy.renew_at(validity, 0.5), now() + 50 * DAY);
    assert_eq!(policy.renew_at(validity, 0.0), now() + 49 * DAY);
    assert_eq!(policy.renew_at(validity, 1.0), now() + 51 * DAY);
}

fn any_identity() -> impl Strategy<Value = SpiffeId> {
    (
        "[a-z0-9][a-z0-9.-]{0,60}",
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        "[a-z0-9][a-z0-9.-]{0,200}",
    )
        .prop_map(|(trust_domain, namespace, account)| SpiffeId {
            trust_domain: TrustDomain::new(&trust_domain).unwrap(),
            namespace: Namespace::new(&namespace).unwrap(),
            service_account: ServiceAccount::new(&account).unwrap(),
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_identity_reads_back_from_its_certificate(identity in any_identity()) {
        let ca = root(3650 * DAY);
        let key = PrivateKey::generate().unwrap();
        let leaf = ca.issue(key.public_key(), &identity, Validity::starting(now(), DAY), serial(7)).unwrap();
        let reread = Certificate::parse_pem(leaf.pem().as_bytes()).unwrap();
        prop_assert_eq!(reread[0].spiffe_id().unwrap(), identity.clone());
        prop_assert_eq!(ca.roots().verify(&ca.chain_of(leaf), now()).unwrap(), identity);
    }

    #[test]
    fn no_certificate_outlives_its_issuer(ca_seconds in 1u64..1_000_000, offset in 0u64..2_000_000, ttl in any::<u64>()) {
        let ca = root(Duration::from_secs(ca_seconds));
        let key = PrivateKey::generate().unwrap();
        let at = now() + Duration::from_secs(offset);
        match ca.issue(key.public_key(), &identity(), Validity::starting(at, Duration::from_secs(ttl)), serial(8)) {
            Ok(leaf) => {
                prop_assert!(leaf.not_after() <= ca.not_after());
                prop_assert!(leaf.not_before() >= ca.certificate().not_before());
                prop_assert!(leaf.not_before() < leaf.not_after());
            }
            Err(error) => prop_assert!(matches!(error, IssueError::CaExpired { .. }), "{error}"),
        }
    }

    #[test]
    fn renewal_lies_within_the_validity(length in 0u64..4_000_000_000, ratio in any::<f64>(), jitter in any::<f64>(),
                                        random in any::<f64>()) {
        let validity = Validity { not_before: now(), not_after: now() + Duration::from_secs(length) };
        let at = RenewalPolicy { grace_ratio: ratio, jitter_ratio: jitter }.renew_at(validity, random);
        prop_assert!(validity.contains(at));
    }
}
