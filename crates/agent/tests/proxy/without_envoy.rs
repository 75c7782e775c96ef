//! The agent's sockets as Envoy uses them, with a client in Envoy's place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use lateen_pki::Certificate;
use lateen_proto::envoy::config::core::v3::{DataSource, Node, data_source::Specifier};
use lateen_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use lateen_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use lateen_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use lateen_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::agent::{self, Agent, eventually};
use crate::control_plane::ControlPlane;

const SDS: &str = "var/run/secrets/workload-spiffe-uds/socket";
const XDS: &str = "etc/istio/proxy/XDS";
const LISTENERS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const NEXT: Duration = Duration::from_secs(60);

async fn connect(socket: PathBuf) -> Channel {
    eventually("the agent's socket", || async {
        UnixStream::connect(&socket).await.is_ok()
    })
    .await;
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://agent")
        .connect_with_connector(connector)
        .await
        .unwrap()
}

async fn next(stream: &mut Streaming<DiscoveryResponse>) -> DiscoveryResponse {
    let message = tokio::time::timeout(NEXT, stream.message())
        .await
        .expect("nothing comes");
    message.unwrap().expect("the stream ended")
}

/// A state-of-the-world subscription to secrets.
async fn secrets(channel: Channel, names: &[&str]) -> (mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>) {
    let (sender, receiver) = mpsc::channel(4);
    let request = DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    sender.send(request).await.unwrap();
    let mut client = SecretDiscoveryServiceClient::new(channel);
    let stream = client
        .stream_secrets(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    (sender, stream)
}

fn secret(response: &DiscoveryResponse) -> Secret {
    Secret::decode(response.resources[0].value.as_slice()).unwrap()
}

fn inline(source: Option<DataSource>) -> Vec<u8> {
    match source.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => bytes.to_vec(),
        other => panic!("not inline: {}", other.is_some()),
    }
}

fn roots(secret: Secret) -> Vec<u8> {
    match secret.r#type {
        Some(secret::Type::ValidationContext(context)) => inline(context.trusted_ca),
        _ => panic!("{} holds no roots", secret.name),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_come_from_the_ca_and_from_files() {
    let ip = agent::loopback();
    let plane = ControlPlane::start(None).await;
    let agent = Agent::new(Path::new("none"), ip, &plane)
        .env("DISABLE_ENVOY", "true")
        .env("OUTPUT_CERTS", "certs")
        .env("LATEEN_FILE_POLL_INTERVAL", "50ms")
        .start();
    let channel = connect(agent.file(SDS)).await;

    let (_default, mut stream) = secrets(channel.clone(), &["default"]).await;
    let workload = secret(&next(&mut stream).await);
    let Some(secret::Type::TlsCertificate(certificate)) = workload.r#type else {
        panic!("no certificate")
    };
    let chain = Certificate::parse_pem(&inline(certificate.certificate_chain)).unwrap();
    assert_eq!(
        chain[0].spiffe_id().unwrap().to_string(),
        "spiffe://cluster.local/ns/shop/sa/web"
    );
    assert_eq!(chain.len(), 1, "the root is not part of the chain");
    let key = lateen_pki::PrivateKey::from_pem(&inline(certificate.private_key)).unwrap();
    assert_eq!(key.public_key().to_spki(), chain[0].spki());

    let (_roots, mut stream) = secrets(channel.clone(), &["ROOTCA"]).await;
    assert_eq!(roots(secret(&next(&mut stream).await)), plane.roots().as_bytes());
    // A root that is being introduced is there as soon as it is in the mesh's file, before any renewal.
    let new = ControlPlane::start(None).await.roots();
    std::fs::write(agent.file("roots.pem"), format!("{}{new}", plane.roots())).unwrap();
    assert_eq!(
        roots(secret(&next(&mut stream).await)),
        format!("{}{new}", plane.roots()).as_bytes()
    );

    let output = agent.file("certs/root-cert.pem");
    eventually("applications that read files trust it, too", || async {
        std::fs::read_to_string(&output).is_ok_and(|roots| roots.contains(new.trim()))
    })
    .await;

    // A file that comes later, and then changes.
    let file = agent.file("other.pem");
    let name = format!("file-root:{}", file.display());
    let (_file, mut stream) = secrets(channel, &[&name]).await;
    std::fs::write(&file, plane.roots()).unwrap();
    assert_eq!(roots(secret(&next(&mut stream).await)), plane.roots().as_bytes());
    std::fs::write(&file, "no certificate at all").unwrap();
    std::fs::write(&file, &new).unwrap();
    assert_eq!(roots(secret(&next(&mut stream).await)), new.as_bytes());

    use std::os::unix::fs::PermissionsExt as _;
    let key = std::fs::metadata(agent.file("certs/key.pem")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600, "others may read the key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoys_stream_waits_for_the_control_plane() {
    let ip = agent::loopback();
    let plane = ControlPlane::start(None).await;
    let (address, agent) = (
        plane.address(),
        Agent::new(Path::new("none"), ip, &plane).env("DISABLE_ENVOY", "true"),
    );
    let saved = plane.stop().await;
    let agent = agent.start();
    let channel = connect(agent.file(XDS)).await;
    let (sender, receiver) = mpsc::channel(4);
    let node = Node {
        id: format!("sidecar~{ip}~web-1.shop~shop.svc.cluster.local"),
        ..Default::default()
    };
    let request = DiscoveryRequest {
        node: Some(node),
        type_url: LISTENERS.into(),
        ..Default::default()
    };
    sender.send(request).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let mut stream = client
        .stream_aggregated_resources(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();

    // State of the world is passed on like delta, once the control plane is there.
    let plane = ControlPlane::start(Some((address, saved))).await;
    plane.set_listeners(vec![super::listener("first", ip, 1)]);
    let response = next(&mut stream).await;
    assert_eq!((response.type_url.as_str(), response.resources.len()), (LISTENERS, 1));
    assert!(plane.node().unwrap().id.contains("web-1"));

    // What has been answered must be said anew: the stream ends with the control plane's.
    plane.stop().await;
    let ended = tokio::time::timeout(NEXT, stream.message())
        .await
        .expect("the stream goes on");
    assert!(ended.is_err(), "{ended:?}");
}

#[test]
fn missing_roots_are_named_at_the_start() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_lateen-agent"))
        .args(["proxy", "sidecar"])
        .env("XDS_ROOT_CA", "/nowhere/roots.pem")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("no roots at /nowhere/roots.pem"), "{error}");
}
