//! Where the workload's certificate comes from when it is not the control plane: another CA, SPIRE, files.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use lateen_pki::PrivateKey;
use lateen_proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use lateen_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use lateen_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use lateen_proto::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::LISTENER;
use crate::agent::{self, Agent, eventually};
use crate::client::Client;
use crate::control_plane::ControlPlane;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_ca_signs_where_it_is_named() {
    let Some(envoy) = agent::envoy() else { return };
    let ip = agent::loopback();
    let (plane, ca) = (ControlPlane::start(None).await, ControlPlane::start(None).await);
    plane.set_listeners(vec![super::listener("first", ip, LISTENER)]);
    let agent = Agent::new(&envoy, ip, &plane).env("CA_ADDR", &format!("localhost:{}", ca.address().port()));
    let roots = agent.file("ca-roots.pem");
    std::fs::write(&roots, ca.roots()).unwrap();
    let agent = agent.env("CA_ROOT_CA", roots.to_str().unwrap()).start();
    agent.ready().await;
    // The control plane has another root, and so refuses the certificate: the token alone is good.
    let client = Client::new(&ca, SocketAddr::new(ip, LISTENER));
    let seen = client.once().await.unwrap();
    assert!(
        ca.issued().contains(&seen.serial),
        "the CA did not issue {}",
        seen.serial
    );
    assert_eq!(plane.issued(), Vec::<String>::new());
    let stranger = Client::new(&plane, SocketAddr::new(ip, LISTENER));
    assert!(stranger.once().await.is_err(), "a certificate of another root is taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_is_let_in_no_more() {
    let Some(envoy) = agent::envoy() else { return };
    let ip = agent::loopback();
    let plane = ControlPlane::start(None).await;
    plane.set_listeners(vec![super::listener("first", ip, LISTENER)]);
    let agent = Agent::new(&envoy, ip, &plane);
    let lists = agent.file("ca-crl.pem");
    let agent = agent
        .env("LATEEN_CRL_FILE", lists.to_str().unwrap())
        .flag("--file-poll-interval=100ms")
        .start();
    agent.ready().await;
    let (good, lost) = (
        Client::new(&plane, SocketAddr::new(ip, LISTENER)),
        Client::new(&plane, SocketAddr::new(ip, LISTENER)),
    );
    eventually("the first answer", || async { lost.once().await.is_ok() }).await;
    std::fs::write(&lists, plane.revoking(&[&lost.serial])).unwrap();
    eventually("the revoked one is refused", || async { lost.once().await.is_err() }).await;
    good.once().await.unwrap();
    std::fs::write(&lists, plane.revoking(&[&good.serial, &lost.serial])).unwrap();
    eventually("the other one is refused, too", || async { good.once().await.is_err() }).await;
    assert!(lost.once().await.is_err());
    std::fs::remove_file(&lists).unwrap();
    eventually("both are let in again", || async {
        good.once().await.is_ok() && lost.once().await.is_ok()
    })
    .await;
}

/// SPIRE's agent, as far as Envoy sees it: SDS on a socket.
struct Spire(JoinSet<()>);

#[derive(Clone)]
struct Secrets {
    chain: String,
    key: zeroize::Zeroizing<String>,
    roots: String,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::InlineBytes(text.as_bytes().to_vec().into())),
        ..Default::default()
    })
}

impl Secrets {
    fn named(&self, name: &str) -> tls::Secret {
        let kind = if name == "ROOTCA" {
            tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
                trusted_ca: inline(&self.roots),
                ..Default::default()
            })
        } else {
            tls::secret::Type::TlsCertificate(tls::TlsCertificate {
                certificate_chain: inline(&self.chain),
                private_key: inline(&self.key),
                ..Default::default()
            })
        };
        tls::Secret {
            name: name.to_owned(),
            r#type: Some(kind),
        }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Secrets {
    type StreamSecretsStream = Answers<DiscoveryResponse>;
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let secrets = self.clone();
        let first = request.into_inner().filter_map(move |request| {
            let secrets = secrets.clone();
            async move {
                let request = request.ok()?;
                // Acknowledgements want no answer.
                request.response_nonce.is_empty().then(|| {
                    let named = request
                        .resource_names
                        .iter()
                        .map(|name| lateen_proto::any(&secrets.named(name)));
                    Ok(DiscoveryResponse {
                        version_info: "1".into(),
                        resources: named.collect(),
                        type_url: lateen_proto::type_url::<tls::Secret>(),
                        nonce: "1".into(),
                        ..Default::default()
                    })
                })
            }
        });
        Ok(Response::new(first.boxed()))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("delta"))
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("fetch"))
    }
}

impl Spire {
    fn start(socket: &Path, secrets: Secrets) -> Self {
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let service = SecretDiscoveryServiceServer::new(secrets);
            tonic::transport::Server::builder()
                .serve_with_incoming(service, incoming)
                .await
                .unwrap();
        });
        Self(server)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spire_socket_is_the_source_of_certificates() {
    let Some(envoy) = agent::envoy() else { return };
    for variable in [None, Some("spire-agent.sock")] {
        let ip = agent::loopback();
        let (plane, authority) = (ControlPlane::start(None).await, ControlPlane::start(None).await);
        plane.set_listeners(vec![super::listener("first", ip, LISTENER)]);
        let mut agent = Agent::new(&envoy, ip, &plane);
        if let Some(name) = variable {
            agent = agent.env("WORKLOAD_IDENTITY_SOCKET_FILE", name);
        }
        let (chain, key) = authority.issue("web");
        let serial = lateen_pki::Certificate::parse_pem(chain.as_bytes()).unwrap()[0]
            .serial()
            .to_owned();
        let secrets = Secrets {
            chain,
            key: key.expose_pem(),
            roots: authority.roots(),
        };
        let folder = agent.file("var/run/secrets/workload-spiffe-uds");
        let mut spire = Spire::start(&folder.join(variable.unwrap_or("socket")), secrets);
        let agent = agent.start();
        agent.ready().await;
        let client = Client::new(&authority, SocketAddr::new(ip, LISTENER));
        assert_eq!(client.once().await.unwrap().serial, serial);
        assert_eq!(
            plane.issued(),
            Vec::<String>::new(),
            "the control plane was asked for a certificate"
        );
        drop(agent);
        spire.0.shutdown().await;
    }
}

fn mount(folder: &Path, chain: &str, key: &PrivateKey, roots: &str) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("cert-chain.pem"), chain).unwrap();
    std::fs::write(folder.join("key.pem"), key.expose_pem().as_bytes()).unwrap();
    std::fs::write(folder.join("root-cert.pem"), roots).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounted_certificates_are_served_and_replaced() {
    let Some(envoy) = agent::envoy() else { return };
    let ip = agent::loopback();
    let (plane, authority) = (ControlPlane::start(None).await, ControlPlane::start(None).await);
    plane.set_listeners(vec![super::listener("first", ip, LISTENER)]);
    let agent = Agent::new(&envoy, ip, &plane)
        .env("FILE_MOUNTED_CERTS", "true")
        .env("LATEEN_FILE_POLL_INTERVAL", "50ms");
    let folder = agent.file("etc/certs");
    let (chain, key) = authority.issue("web");
    mount(&folder, &chain, &key, &authority.roots());
    let agent = agent.start();
    agent.ready().await;
    let client = Client::new(&authority, SocketAddr::new(ip, LISTENER));
    let mut kept = client.stay().await;
    let first = client.once().await.unwrap().serial;
    let (chain, key) = authority.issue("web");
    mount(&folder, &chain, &key, &authority.roots());
    eventually("the replaced certificate", || async {
        client
            .once()
            .await
            .expect("a request failed while the files were replaced")
            .serial
            != first
    })
    .await;
    kept.again()
        .await
        .expect("a connection made before the replacement is gone");
    assert_eq!(
        plane.issued(),
        Vec::<String>::new(),
        "the control plane was asked for a certificate"
    );
}
