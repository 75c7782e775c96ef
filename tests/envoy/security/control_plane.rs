//! What attackers try at the control plane itself: certificates that are not theirs, tokens that prove nothing, files that
//! are not its own.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lateen_ca::TokenIssuer;
use lateen_ca::pki::{Certificate, Chain, Csr, PrivateKey, Serial, SigningCa, Validity};
use lateen_names::{Namespace, ServiceAccount, SpiffeId};
use lateen_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use lateen_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use lateen_proto::{Struct, Value, value::Kind};
use lateen_testkit::{Lateend, World, eventually};
use rcgen::{CertificateParams, KeyPair, SanType};
use tokio::task::JoinSet;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use crate::callers::Callers;

const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(10);
const MALLORY: &str = "spiffe://cluster.local/ns/shop/sa/mallory";
const VICTIM: &str = "spiffe://cluster.local/ns/bank/sa/vault";

/// What becomes of a request with a certificate that proves nothing. In TLS 1.3 the client's half is done before the server
/// refuses, so that it is the connection's end which tells: found before the request is written (`Cancelled`), or after.
const WORTHLESS: [Code; 5] = [
    Code::Unauthenticated,
    Code::PermissionDenied,
    Code::Unknown,
    Code::Unavailable,
    Code::Cancelled,
];

/// A control plane, and who may sign for it.
struct Town {
    lateend: Lateend,
    world: World,
    tokens: TokenIssuer,
    callers: Callers,
    roots: String,
}

impl Town {
    async fn start() -> Result<Self> {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // Another test of this process may have been first.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let world = World::new()?;
        let lateend = Lateend::start(&world).await?;
        let data = world.directory().join("data");
        Ok(Self {
            tokens: TokenIssuer::open_or_create(&data.join("tokens"))?,
            callers: Callers::new(&data)?,
            roots: std::fs::read_to_string(data.join("ca/root-cert.pem"))?,
            lateend,
            world,
        })
    }

    /// A connection, with a certificate where one is shown.
    async fn channel(&self, shown: Option<(&PrivateKey, &Chain)>) -> Result<Channel> {
        self.channel_from(shown, None).await
    }

    /// From an address of loopback.
    async fn channel_from(&self, shown: Option<(&PrivateKey, &Chain)>, from: Option<IpAddr>) -> Result<Channel> {
        let roots = tonic::transport::Certificate::from_pem(&self.roots);
        let mut tls = ClientTlsConfig::new().ca_certificate(roots).domain_name("localhost");
        if let Some((key, chain)) = shown {
            tls = tls.identity(Identity::from_pem(chain.pem(), key.expose_pem().as_str()));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.lateend.secure()))?;
        Ok(endpoint.tls_config(tls)?.local_address(from).connect().await?)
    }

    fn token(&self, account: &str, audience: &str, since: SystemTime) -> Result<String> {
        let (namespace, account) = (Namespace::new("shop")?, ServiceAccount::new(account)?);
        Ok(self.tokens.issue_for(&[audience], &namespace, &account, HOUR, since)?)
    }

    fn good(&self) -> Result<String> {
        self.token("mallory", lateen_ca::TOKEN_AUDIENCE, SystemTime::now())
    }
}

async fn certify(
    channel: Channel,
    csr: String,
    token: Option<&str>,
    metadata: Option<Struct>,
) -> Result<Result<IstioCertificateResponse, Status>> {
    let mut request = Request::new(IstioCertificateRequest {
        csr,
        metadata,
        ..IstioCertificateRequest::default()
    });
    if let Some(token) = token {
        let bearer = format!("Bearer {token}").parse()?;
        request.metadata_mut().insert("authorization", bearer);
    }
    let answer = IstioCertificateServiceClient::new(channel)
        .create_certificate(request)
        .await;
    Ok(answer.map(tonic::Response::into_inner))
}

/// The certificate that came, which must be for this identity and nothing else.
fn issued(answer: Result<IstioCertificateResponse, Status>, identity: &str) -> Result<()> {
    let chain = answer?.cert_chain;
    let leaf = Certificate::parse_pem(chain.first().context("no certificate")?.as_bytes())?;
    let leaf = leaf.first().context("no certificate")?;
    ensure!(
        leaf.spiffe_id()?.to_string() == identity,
        "it is for {:?}",
        leaf.spiffe_id()
    );
    ensure!(leaf.dns_names().is_empty() && !leaf.is_ca(), "{:?}", leaf.dns_names());
    Ok(())
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, codes: &[Code], what: &str) -> Result<()> {
    match answer {
        Ok(answer) => anyhow::bail!("{what}: not refused: {answer:?}"),
        Err(status) => ensure!(codes.contains(&status.code()), "{what}: {status}"),
    }
    Ok(())
}

/// A request for a certificate that names whoever it likes, and asks to be an authority.
fn smuggler() -> Result<String> {
    let mut params = CertificateParams::new(vec!["istiod.istio-system.svc".to_owned(), "vault.bank".to_owned()])?;
    params.subject_alt_names.push(SanType::URI(VICTIM.try_into()?));
    params.subject_alt_names.push(SanType::URI(
        "spiffe://cluster.local/ns/istio-system/sa/istiod".try_into()?,
    ));
    params.distinguished_name.push(rcgen::DnType::CommonName, VICTIM);
    Ok(params.serialize_request(&KeyPair::generate()?)?.pem()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_smuggled_into_a_request_are_not_certified() -> Result<()> {
    let town = Town::start().await?;
    let token = town.good()?;
    issued(
        certify(town.channel(None).await?, smuggler()?, Some(&token), None).await?,
        MALLORY,
    )?;
    // A node proxy's field for another's identity is nobody's here.
    let asked = Value {
        kind: Some(Kind::StringValue(VICTIM.to_owned())),
    };
    let metadata = Struct {
        fields: [("ImpersonatedIdentity".to_owned(), asked)].into_iter().collect(),
    };
    let answer = certify(town.channel(None).await?, smuggler()?, Some(&token), Some(metadata)).await?;
    refused(answer, &[Code::PermissionDenied], "another's identity")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_renews_only_its_own_identity() -> Result<()> {
    let town = Town::start().await?;
    let (key, chain) = town.callers.certify(MALLORY)?;
    let own = town.channel(Some((&key, &chain))).await?;
    issued(certify(own, smuggler()?, None, None).await?, MALLORY)?;
    // Beside it, a token of another names nobody else.
    let own = town.channel(Some((&key, &chain))).await?;
    let other = town.token("ratings", lateen_ca::TOKEN_AUDIENCE, SystemTime::now())?;
    issued(certify(own, smuggler()?, Some(&other), None).await?, MALLORY)?;

    // The victim's certificate is public; its key is not.
    let (_, stolen) = town.callers.certify(VICTIM)?;
    let answer = town.channel(Some((&PrivateKey::generate()?, &stolen))).await;
    if let Ok(channel) = answer {
        refused(
            certify(channel, smuggler()?, None, None).await?,
            &WORTHLESS,
            "a certificate without its key",
        )?;
    }
    // The same name, from an authority that calls itself the same.
    let validity = Validity::starting(SystemTime::now(), HOUR);
    let serial = || Serial::new([5; 16]);
    let selfmade = SigningCa::self_signed(&"cluster.local".parse()?, PrivateKey::generate()?, validity, serial())?;
    let victim: SpiffeId = VICTIM.parse()?;
    let leaf = selfmade.issue(key.public_key(), &victim, validity, serial())?;
    worthless(&town, &key, &selfmade.chain_of(leaf), "from another root").await?;
    // Of the mesh's root, but of another trust domain.
    let (key, chain) = town.callers.certify("spiffe://evil.test/ns/bank/sa/vault")?;
    worthless(&town, &key, &chain, "of another trust domain").await
}

/// A certificate proves nothing: the connection fails, or the request does.
async fn worthless(town: &Town, key: &PrivateKey, chain: &Chain, what: &str) -> Result<()> {
    let Ok(channel) = town.channel(Some((key, chain))).await else {
        return Ok(());
    };
    refused(certify(channel, smuggler()?, None, None).await?, &WORTHLESS, what)
}

/// Tokens that look like the control plane's own.
fn forgeries(town: &Town) -> Result<Vec<(&'static str, String)>> {
    let now = SystemTime::now();
    let good = town.good()?;
    let (head, signature) = good.rsplit_once('.').context("no token")?;
    let payload = head.split_once('.').context("no token")?.1;
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let mac = |secret: &[u8]| {
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
        anyhow::Ok(jsonwebtoken::encode(
            &header,
            &claims,
            &jsonwebtoken::EncodingKey::from_secret(secret),
        )?)
    };
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(payload)?)?;
    let renamed = part(&text.replace("mallory", "victory"));
    let stranger = TokenIssuer::open_or_create(&town.world.directory().join("stranger"))?;
    let (namespace, account) = (Namespace::new("bank")?, ServiceAccount::new("vault")?);
    Ok(vec![
        ("another audience", town.token("mallory", "vault", now)?),
        (
            "expired",
            town.token("mallory", lateen_ca::TOKEN_AUDIENCE, now - 3 * HOUR)?,
        ),
        (
            "not valid yet",
            town.token("mallory", lateen_ca::TOKEN_AUDIENCE, now + 3 * HOUR)?,
        ),
        ("unsigned", format!("{}.{payload}.", part(r#"{"alg":"none"}"#))),
        (
            "unsigned, by signature",
            format!("{}.{payload}.{signature}", part(r#"{"alg":"none"}"#)),
        ),
        ("a MAC under the published keys", mac(town.tokens.jwks().as_bytes())?),
        (
            "another's name",
            format!("{}.{renamed}.{signature}", head.split_once('.').context("no token")?.0),
        ),
        ("another's key", stranger.issue(&namespace, &account, HOUR, now)?),
        (
            "another issuer",
            stranger
                .with_issuer("https://evil.test")
                .issue(&namespace, &account, HOUR, now)?,
        ),
        ("no token", "garbage".to_owned()),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_and_forged_tokens_are_refused() -> Result<()> {
    let town = Town::start().await?;
    for (what, token) in forgeries(&town)? {
        let answer = certify(town.channel(None).await?, smuggler()?, Some(&token), None).await?;
        refused(answer, &[Code::Unauthenticated], what)?;
    }
    issued(
        certify(town.channel(None).await?, smuggler()?, Some(&town.good()?), None).await?,
        MALLORY,
    )
}

/// How many bad tokens are shown at least.
const FLOOD: u64 = 2_000;
/// How long an honest caller may wait meanwhile.
const HONEST: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_bad_tokens_keeps_nobody_else_out() -> Result<()> {
    let town = Town::start().await?;
    let bad: Arc<Vec<String>> = Arc::new(forgeries(&town)?.into_iter().map(|(_, token)| token).collect());
    let csr = Csr::create(&PrivateKey::generate()?, &MALLORY.parse()?)?.pem();
    let (shown, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut flood = JoinSet::new();
    // Whoever proves nothing again and again is not listened to: honest callers are somewhere else.
    let elsewhere = IpAddr::from([127, 0, 0, 2]);
    for _ in 0..4 {
        let channel = town.channel_from(None, Some(elsewhere)).await?;
        for _ in 0..8 {
            let (channel, bad, csr) = (channel.clone(), Arc::clone(&bad), csr.clone());
            let (shown, stop) = (Arc::clone(&shown), Arc::clone(&stop));
            flood.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let number = shown.fetch_add(1, Ordering::Relaxed);
                    let token = &bad[usize::try_from(number)? % bad.len()];
                    let answer = certify(channel.clone(), csr.clone(), Some(token), None).await?;
                    refused(answer, &[Code::Unauthenticated, Code::ResourceExhausted], "a bad token")?;
                }
                anyhow::Ok(())
            });
        }
    }
    let begun = Instant::now();
    let (mut honest, mut slowest) = (0, Duration::ZERO);
    while shown.load(Ordering::Relaxed) < FLOOD {
        let since = Instant::now();
        let answer = certify(town.channel(None).await?, csr.clone(), Some(&town.good()?), None).await?;
        issued(answer, MALLORY)?;
        slowest = slowest.max(since.elapsed());
        honest += 1;
        ensure!(town.lateend.ready().await, "it is no longer ready");
    }
    let rate = shown.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64() * 60.0;
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = flood.join_next().await {
        done??;
    }
    println!("{rate:.0} bad tokens a minute; {honest} honest callers meanwhile, the slowest in {slowest:?}");
    ensure!(slowest < HONEST, "an honest caller waited {slowest:?}");
    Ok(())
}

fn entry(name: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: shop}}
spec: {{hosts: [{name}.test], resolution: NONE, ports: [{{number: 80, name: http, protocol: HTTP}}]}}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_lead_nowhere_outside_of_the_configuration() -> Result<()> {
    let town = Town::start().await?;
    let (config, outside) = (town.world.config(), town.world.directory().join("outside"));
    std::fs::create_dir(&outside)?;
    std::fs::write(outside.join("loot.yaml"), entry("loot"))?;
    let link = |to: &std::path::Path, name: &str| std::os::unix::fs::symlink(to, config.join(name));
    link(&outside.join("loot.yaml"), "file.yaml")?;
    link(&outside, "folder")?;
    link(std::path::Path::new("../outside/loot.yaml"), "upwards.yaml")?;
    link(std::path::Path::new("/etc/passwd"), "passwd.yaml")?;
    link(std::path::Path::new("circle.yaml"), "circle.yaml")?;
    // As the kubelet mounts a ConfigMap: a link to a link of a folder beside it.
    std::fs::create_dir(config.join("..2026"))?;
    std::fs::write(config.join("..2026/mounted.yaml"), entry("mounted"))?;
    link(std::path::Path::new("..2026"), "..data")?;
    link(std::path::Path::new("..data/mounted.yaml"), "mounted.yaml")?;
    eventually("what is mounted is read", PATIENCE, async || {
        let services = town.lateend.http("/debug/registryz").await.ok()?.body;
        services.contains("mounted.test").then_some(())
    })
    .await?;
    let services = town.lateend.http("/debug/registryz").await?.body;
    ensure!(!services.contains("loot.test"), "a link led out of the directory");
    let status = town.lateend.push_status().await?.to_string();
    ensure!(!status.contains("root:"), "a file outside is quoted");
    Ok(())
}
