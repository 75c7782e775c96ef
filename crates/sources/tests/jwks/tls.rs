//! Over https, with roots of one's own, and by OpenID configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use lateen_lower::KeySource;
use lateen_sources::jwks::{FetchError, Fetcher};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer as Signer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::issuer::{Issuer, Names, PATIENCE, attempt, ok, permitting, set};

/// A root, and what a server of a name it vouches for serves with.
fn vouched_for(name: &str) -> (String, Arc<rustls::ServerConfig>) {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, "test root");
    let root_key = KeyPair::generate().unwrap();
    let pem = root.self_signed(&root_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Signer::new(root, root_key)).unwrap().pem();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    (pem, Arc::new(config))
}

#[tokio::test]
async fn https_needs_a_known_root_and_the_right_name() {
    let (root, config) = vouched_for("issuer.example");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let issuer = Issuer::start_at(any, Some(config), |_| ok(&set("tls"))).await.unwrap();
    let port = issuer.address.port();
    let directory = tempfile::tempdir().unwrap();
    let roots = directory.path().join("extra.pem");
    let policy = permitting(&["127.0.0.0/8"]);
    let fetcher = Fetcher::new(policy, Some(roots.clone()), Names::new(&[&["127.0.0.1"]]));
    let of = |host: &str| KeySource::Uri(format!("https://{host}:{port}/keys").into());
    let unknown = fetcher.fetch(&of("issuer.example"), PATIENCE).await;
    assert!(
        matches!(&unknown, Err(FetchError::Tls(said)) if said.contains("UnknownIssuer")),
        "{unknown:?}"
    );
    // The file is looked at again.
    std::fs::write(&roots, root).unwrap();
    assert_eq!(
        &*fetcher.fetch(&of("issuer.example"), PATIENCE).await.unwrap(),
        set("tls")
    );
    let other = fetcher.fetch(&of("other.example"), PATIENCE).await;
    assert!(matches!(&other, Err(FetchError::Tls(_))), "{other:?}");
    std::fs::remove_file(&roots).unwrap();
    assert!(matches!(
        fetcher.fetch(&of("issuer.example"), PATIENCE).await,
        Err(FetchError::Tls(_))
    ));
}

#[tokio::test]
async fn an_issuer_says_where_its_keys_are() {
    let other = Issuer::start(|_| ok(&set("other host"))).await;
    let address = other.address;
    let issuer = Issuer::start(move |path| match path {
        "/realm/.well-known/openid-configuration" => {
            ok(&format!(r#"{{"issuer":"x","jwks_uri":"http://{address}/keys"}}"#))
        }
        "/.well-known/openid-configuration" => ok(r#"{"issuer":"x"}"#),
        "/inside/.well-known/openid-configuration" => ok(r#"{"jwks_uri":"http://169.254.169.254/keys"}"#),
        _ => ok(&set("none of these")),
    })
    .await;
    let of = |path: &str| KeySource::Issuer(format!("http://{}{path}", issuer.address).into());
    for spelling in ["/realm", "/realm/"] {
        assert_eq!(
            &*attempt(&of(spelling), PATIENCE).await.unwrap(),
            set("other host"),
            "{spelling}"
        );
    }
    let without = attempt(&of(""), PATIENCE).await.unwrap_err();
    assert!(without.to_string().contains("jwks_uri"), "{without}");
    let inside = attempt(&of("/inside"), PATIENCE).await;
    assert!(matches!(inside, Err(FetchError::Refused { .. })), "{inside:?}");
}

#[tokio::test]
async fn what_came_by_https_does_not_lead_to_plain_text() {
    let plain = Issuer::start(|_| ok(&set("plain"))).await;
    let (root, config) = vouched_for("issuer.example");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let to = format!(
        r#"{{"jwks_uri":"http://issuer.example:{}/keys"}}"#,
        plain.address.port()
    );
    let issuer = Issuer::start_at(any, Some(config), move |_| ok(&to)).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let roots = directory.path().join("extra.pem");
    std::fs::write(&roots, root).unwrap();
    let fetcher = Fetcher::new(permitting(&["127.0.0.0/8"]), Some(roots), Names::new(&[&["127.0.0.1"]]));
    let source = KeySource::Issuer(format!("https://issuer.example:{}", issuer.address.port()).into());
    assert_eq!(fetcher.fetch(&source, PATIENCE).await, Err(FetchError::Redirect));
    assert_eq!(plain.connected(), 0);
}
