//! Callers of the secure port that are not as they should be: each is told what is wrong, and nobody else notices.

use std::sync::Once;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf as _, BufMut as _, Bytes};
use lateen_ca::TokenIssuer;
use lateen_ca::pki::{Csr, PrivateKey};
use lateen_names::{Namespace, ServiceAccount, SpiffeId};
use lateen_proto::envoy::config::core::v3::Node;
use lateen_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use lateen_proto::envoy::service::status::v3::{ClientConfig, ConfigStatus};
use lateen_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use lateen_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use lateen_proto::{Struct, Value, value::Kind};
use lateen_testkit::{Load, eventually};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use crate::scene::{PATIENCE, Scene, scene};

const HOUR: Duration = Duration::from_secs(3600);
const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_told_what_is_wrong_and_hurt_nobody() -> Result<()> {
    scene(async |scene| {
        let good = lateen_testkit::world::virtual_service("shop", "good", "good.test", "echo-0", "on", &[(None, 100)]);
        scene.world.write("good.yaml", &[&good])?;
        scene.marked("good.test", "on").await?;
        let load = Load::start(scene.door, &["good.test"], 2);
        load.more(50, PATIENCE).await?;

        let town = Town::new(scene)?;
        let unharmed = async |what: &str, told: Result<()>| -> Result<()> {
            told.with_context(|| what.to_owned())?;
            ensure!(scene.lateend.ready().await, "{what}: lateend is no longer ready");
            load.more(30, PATIENCE).await
        };
        unharmed("requests for certificates", town.certificates().await).await?;
        unharmed("proofs of identity", town.proofs().await).await?;
        unharmed("streams", town.streams().await).await?;
        unharmed("nodes", town.nodes().await).await?;
        unharmed("noise", town.noise().await).await?;
        unharmed("questions", town.questions().await).await?;
        // Whoever is as they should be is still served.
        town.workload("ratings").await?;
        let better = good.replace("\"on\"", "\"still-on\"");
        scene.world.write("good.yaml", &[&better])?;
        scene.marked("good.test", "still-on").await?;
        load.stop().await?.none_failed()
    })
    .await
}

/// Where the strangers come from.
struct Town<'a> {
    scene: &'a Scene,
    tokens: TokenIssuer,
    roots: String,
}

/// A refusal has the code, and says all of these.
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &[&str]) -> Result<()> {
    let status = match answer {
        Ok(answer) => anyhow::bail!("{words:?}: not refused: {answer:?}"),
        Err(status) => status,
    };
    println!("{code:?}: {}", status.message());
    ensure!(status.code() == code, "{words:?}: {status}");
    for word in words {
        ensure!(status.message().contains(word), "`{word}` is not said: {status}");
    }
    Ok(())
}

impl<'a> Town<'a> {
    fn new(scene: &'a Scene) -> Result<Self> {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // Another test of this process may have been first.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let data = scene.world.directory().join("data");
        Ok(Self {
            scene,
            tokens: TokenIssuer::open_or_create(&data.join("tokens"))?,
            roots: std::fs::read_to_string(data.join("ca/root-cert.pem"))?,
        })
    }

    async fn channel(&self, identity: Option<(&PrivateKey, &str)>) -> Result<Channel> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.roots))
            .domain_name("localhost");
        if let Some((key, chain)) = identity {
            tls = tls.identity(Identity::from_pem(chain, key.expose_pem().as_str()));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.scene.lateend.secure()))?;
        Ok(endpoint.tls_config(tls)?.connect().await?)
    }

    fn token(&self, account: &str, audience: &str, age: Duration) -> Result<String> {
        let now = SystemTime::now() - age;
        let (namespace, account) = (Namespace::new("shop")?, ServiceAccount::new(account)?);
        Ok(self.tokens.issue_for(&[audience], &namespace, &account, HOUR, now)?)
    }

    async fn certify(&self, csr: &str, token: Option<&str>) -> Result<Result<IstioCertificateResponse, Status>> {
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr.to_owned(),
            ..IstioCertificateRequest::default()
        });
        if let Some(token) = token {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse()?);
        }
        let mut client = IstioCertificateServiceClient::new(self.channel(None).await?);
        Ok(client
            .create_certificate(request)
            .await
            .map(tonic::Response::into_inner))
    }

    /// A key with its certificates, had as an agent has them.
    async fn workload(&self, account: &str) -> Result<(PrivateKey, String)> {
        let key = PrivateKey::generate()?;
        let identity: SpiffeId = format!("spiffe://cluster.local/ns/shop/sa/{account}").parse()?;
        let csr = Csr::create(&key, &identity)?.pem();
        let token = self.token(account, lateen_ca::TOKEN_AUDIENCE, Duration::ZERO)?;
        let mut chain = self.certify(&csr, Some(&token)).await??.cert_chain;
        chain.pop().context("no root")?;
        Ok((key, chain.concat()))
    }

    /// Requests for certificates that are none.
    async fn certificates(&self) -> Result<()> {
        let token = self.token("mallory", lateen_ca::TOKEN_AUDIENCE, Duration::ZERO)?;
        let label = "CERTIFICATE REQUEST";
        for garbage in [
            "garbage".to_owned(),
            String::new(),
            format!("-----BEGIN {label}-----\nZ2FyYmFnZQ==\n-----END {label}-----\n"),
        ] {
            let answer = self.certify(&garbage, Some(&token)).await?;
            refused(
                answer,
                Code::InvalidArgument,
                &["certificate request", "ns/shop/sa/mallory"],
            )?;
        }
        let refusals = "citadel_server_csr_parsing_err_count 3";
        let metrics = self.scene.lateend.monitoring("/metrics").await?.body;
        ensure!(metrics.lines().any(|line| line == refusals), "{metrics}");
        self.logged(&["refused to certify", "sa/mallory", "127.0.0.1:"]).await
    }

    /// Tokens that prove nothing.
    async fn proofs(&self) -> Result<()> {
        let csr = Csr::create(
            &PrivateKey::generate()?,
            &"spiffe://cluster.local/ns/shop/sa/mallory".parse()?,
        )?
        .pem();
        let expired = self.token("mallory", lateen_ca::TOKEN_AUDIENCE, 3 * HOUR)?;
        let other = self.token("mallory", "vault", Duration::ZERO)?;
        let mut forged = self.token("mallory", lateen_ca::TOKEN_AUDIENCE, Duration::ZERO)?;
        forged.truncate(forged.len() - 8);
        forged.push_str("AAAAAAAA");
        for (token, words) in [
            (None, &["no proof of identity"][..]),
            (Some("garbage"), &["token refused", "not a JWT"][..]),
            (Some(&*expired), &["token refused", "expired"][..]),
            (Some(&*other), &["token refused", "audience", "vault", "istio-ca"][..]),
            (Some(&*forged), &["token refused", "signature"][..]),
        ] {
            refused(self.certify(&csr, token).await?, Code::Unauthenticated, words)?;
        }
        self.logged(&["refused to certify", "audience", "127.0.0.1:"]).await
    }

    /// Streams of callers without proof, and of callers who are somebody else.
    async fn streams(&self) -> Result<()> {
        let request = |id: &str| DiscoveryRequest {
            node: Some(Node {
                id: id.to_owned(),
                ..Node::default()
            }),
            type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
            ..DiscoveryRequest::default()
        };
        let own = request("sidecar~10.0.0.9~mallory.shop~shop.svc.cluster.local");
        let answer = stream(self.channel(None).await?, own.encode_to_vec()).await;
        refused(answer, Code::Unauthenticated, &["no proof of identity"])?;

        let (key, chain) = self.workload("mallory").await?;
        let known = self.channel(Some((&key, &chain))).await?;
        ensure!(stream(known.clone(), own.encode_to_vec()).await.is_ok());
        let other = request("sidecar~10.0.0.9~victim.bank~bank.svc.cluster.local");
        let answer = stream(known.clone(), other.encode_to_vec()).await;
        refused(answer, Code::PermissionDenied, &["bank", "shop"])?;
        self.logged(&["refused", "victim.bank", "mallory"]).await
    }

    /// What is no request, or says nothing that makes sense of who sends it.
    async fn nodes(&self) -> Result<()> {
        let (key, chain) = self.workload("mallory").await?;
        let known = self.channel(Some((&key, &chain))).await?;
        let request = |node: Option<Node>| {
            let request = DiscoveryRequest {
                node,
                ..DiscoveryRequest::default()
            };
            request.encode_to_vec()
        };
        let nameless = request(Some(Node {
            id: "who~knows".to_owned(),
            ..Node::default()
        }));
        // A field of protobuf's group type, which nobody ends.
        let garbage = vec![0x0b; 1000];
        for (bytes, code, words) in [
            (garbage, Code::InvalidArgument, &["does not decode"][..]),
            (request(None), Code::InvalidArgument, &["must carry a Node"][..]),
            (nameless, Code::InvalidArgument, &["node", "who~knows"][..]),
            (
                request(Some(heavy())),
                Code::ResourceExhausted,
                &["bytes", "Node's metadata"][..],
            ),
        ] {
            refused(stream(known.clone(), bytes).await, code, words)?;
        }
        self.logged(&["Node's metadata", "127.0.0.1:", "sa/mallory"]).await
    }

    /// Bytes that are no TLS, and TLS that is no HTTP/2.
    async fn noise(&self) -> Result<()> {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for address in [self.scene.lateend.secure(), self.scene.lateend.plaintext()] {
            for _ in 0..5 {
                let mut stream = TcpStream::connect(address).await?;
                let bytes: Vec<u8> = std::iter::repeat_with(|| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed.to_le_bytes()[0]
                })
                .take(4096)
                .collect();
                // The other end may close before it has read all.
                let _ = stream.write_all(&bytes).await;
                let mut answer = Vec::new();
                let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
                    .await
                    .context("the connection stays open")?;
            }
        }
        Ok(())
    }

    /// What `istioctl` asks, with a token: all is told to identities of the control plane's namespace only.
    async fn questions(&self) -> Result<()> {
        let ask = async |namespace: &str, what: &str, names: &[&str]| -> Result<Result<DiscoveryResponse, Status>> {
            let (namespace, account) = (Namespace::new(namespace)?, ServiceAccount::new("default")?);
            let now = SystemTime::now();
            let token = self.tokens.issue(&namespace, &account, HOUR, now)?;
            let request = DiscoveryRequest {
                type_url: format!("istio.io/debug{what}"),
                resource_names: names.iter().map(|&name| name.to_owned()).collect(),
                ..DiscoveryRequest::default()
            };
            let answer = stream_with(self.channel(None).await?, request.encode_to_vec(), Some(&token)).await;
            Ok(match answer {
                Ok(bytes) => Ok(DiscoveryResponse::decode(bytes)?),
                Err(status) => Err(status),
            })
        };
        let answer = ask("istio-system", "/syncz", &[]).await??;
        let identifier = answer.control_plane.context("no control plane")?.identifier;
        let identifier: serde_json::Value = serde_json::from_str(&identifier)?;
        ensure!(
            identifier["Component"] == "istiod" && identifier["Info"]["version"] == "1.32.0",
            "{identifier}"
        );
        let configs: Vec<ClientConfig> = (answer.resources.iter())
            .map(|any| {
                ensure!(any.type_url == "type.googleapis.com/envoy.service.status.v3.ClientConfig");
                Ok(ClientConfig::decode(&any.value[..])?)
            })
            .collect::<Result<_>>()?;
        let node = |config: &ClientConfig| config.node.as_ref().map(|node| node.id.clone()).unwrap_or_default();
        let gateway = configs.iter().find(|config| node(config) == "gateway.edge");
        let gateway = gateway.with_context(|| format!("{configs:#?}"))?;
        let status = |end: &str| {
            let mut all = gateway.generic_xds_configs.iter();
            all.find(|one| one.type_url.ends_with(end))
                .map(|one| one.config_status())
        };
        ensure!(status(".Cluster") == Some(ConfigStatus::Synced), "{gateway:#?}");

        let dump = ask("istio-system", "/config_dump", &["gateway.edge"]).await??.resources;
        ensure!(
            dump.len() == 7 && dump[1].type_url.ends_with("ClustersConfigDump"),
            "{dump:?}"
        );
        ensure!(
            ask("istio-system", "/config_dump", &["nobody.edge"])
                .await??
                .resources
                .is_empty()
        );
        let connections = ask("istio-system", "", &["connections"]).await??.resources;
        let connections: serde_json::Value = serde_json::from_slice(&connections[0].value)?;
        ensure!(connections["totalClients"].as_u64() >= Some(1), "{connections}");

        // Of another namespace, nothing is told of the gateway.
        ensure!(ask("shop", "/syncz", &[]).await??.resources.is_empty());
        ensure!(
            ask("shop", "/config_dump", &["gateway.edge"])
                .await??
                .resources
                .is_empty()
        );
        refused(
            ask("shop", "", &["configz"]).await?,
            Code::PermissionDenied,
            &["configz", "istio-system"],
        )?;
        refused(
            ask("istio-system", "/nonsense", &[]).await?,
            Code::InvalidArgument,
            &["istio.io/debug/nonsense", "istio.io/debug/syncz"],
        )
    }

    /// Waits for a line of the log that has all of these words.
    async fn logged(&self, words: &[&str]) -> Result<()> {
        eventually(&format!("a line of the log says {words:?}"), PATIENCE, async || {
            let log = self.scene.lateend.log();
            let found = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
            found.then_some(())
        })
        .await
    }
}

/// A Node with 10 MB of metadata.
fn heavy() -> Node {
    let text = Value {
        kind: Some(Kind::StringValue("x".repeat(10_000))),
    };
    let fields = (0..1000).map(|i| (format!("KEY_{i}"), text.clone())).collect();
    Node {
        id: "sidecar~10.0.0.9~mallory.shop~shop.svc.cluster.local".to_owned(),
        metadata: Some(Struct { fields }),
        ..Node::default()
    }
}

/// Sends one message of these bytes on a stream of ADS; the first answer, or the refusal.
async fn stream(channel: Channel, bytes: Vec<u8>) -> Result<Bytes, Status> {
    stream_with(channel, bytes, None).await
}

async fn stream_with(channel: Channel, bytes: Vec<u8>, token: Option<&str>) -> Result<Bytes, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| Status::unknown(format!("the connection is gone: {error}")))?;
    // The stream stays open until there is an answer.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender
        .send(Bytes::from(bytes))
        .await
        .map_err(|error| Status::unknown(error.to_string()))?;
    let mut requests = Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    if let Some(token) = token {
        let value = format!("Bearer {token}");
        let value = value.parse().map_err(|_| Status::unknown("no token"))?;
        requests.metadata_mut().insert("authorization", value);
    }
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(ADS);
    let answers = client.streaming(requests, path, Raw).await?;
    let answer = tokio::time::timeout(PATIENCE, answers.into_inner().message()).await;
    let answer = answer.map_err(|_| Status::deadline_exceeded("no answer in time"))??;
    drop(sender);
    answer.ok_or_else(|| Status::unknown("the stream ended without an answer"))
}

/// Messages as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
