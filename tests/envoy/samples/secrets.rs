//! What an agent would do for its Envoy: secrets over a Unix socket. Names of trust are answered with a certificate to
//! trust, all others with one to show.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Result;
use futures::{Stream, StreamExt as _};
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

/// A running server of secrets.
pub(crate) struct Secrets {
    socket: PathBuf,
    _task: JoinSet<()>,
}

impl Secrets {
    pub(crate) fn serve(socket: &Path) -> Result<Self> {
        let certified = rcgen::generate_simple_self_signed(vec!["proxy.test".to_owned()])?;
        let service = Service(Arc::new(Identity {
            certificate: certified.cert.pem(),
            key: certified.signing_key.serialize_pem(),
        }));
        let incoming = UnixListenerStream::new(UnixListener::bind(socket)?);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(SecretDiscoveryServiceServer::new(service));
            // Without it Envoy holds less than is expected, and the test fails for that.
            let _ = server.serve_with_incoming(incoming).await;
        });
        Ok(Self {
            socket: socket.to_owned(),
            _task: task,
        })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

struct Identity {
    certificate: String,
    key: String,
}

impl Identity {
    fn secret(&self, name: &str) -> tls::Secret {
        let inline = |text: &str| {
            Some(DataSource {
                specifier: Some(Specifier::InlineString(text.to_owned())),
                ..Default::default()
            })
        };
        let is_trust = name == "ROOTCA" || name.starts_with("file-root:") || name.ends_with("-cacert");
        let content = if is_trust {
            tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
                trusted_ca: inline(&self.certificate),
                ..Default::default()
            })
        } else {
            tls::secret::Type::TlsCertificate(tls::TlsCertificate {
                certificate_chain: inline(&self.certificate),
                private_key: inline(&self.key),
                ..Default::default()
            })
        };
        tls::Secret {
            name: name.to_owned(),
            r#type: Some(content),
        }
    }
}

struct Service(Arc<Identity>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Service {
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Answers<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented(
            "listeners and clusters ask for secrets by StreamSecrets",
        ))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let identity = Arc::clone(&self.0);
        let answers = request.into_inner().filter_map(move |asked| {
            let answer = asked.map(|asked| asked.response_nonce.is_empty().then(|| answer(&identity, &asked)));
            async move { answer.transpose() }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("use StreamSecrets"))
    }
}

fn answer(identity: &Identity, asked: &DiscoveryRequest) -> DiscoveryResponse {
    let secrets = asked.resource_names.iter().map(|name| identity.secret(name));
    DiscoveryResponse {
        version_info: "1".to_owned(),
        nonce: "1".to_owned(),
        type_url: lateen_proto::type_url::<tls::Secret>(),
        resources: secrets.map(|secret| lateen_proto::any(&secret)).collect(),
        ..Default::default()
    }
}
