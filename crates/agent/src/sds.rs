//! Secrets to Envoy, over a Unix socket: state of the world and delta. A secret that is not there yet is sent when it
//! comes; a changed one is pushed to who asked for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use lateen_proto::envoy::extensions::transport_sockets::tls::v3::Secret as SecretMessage;
use lateen_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use lateen_proto::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::certificates::{Secret, SecretStore};
use crate::grpc;

/// Serves secrets on `socket` until told to stop.
///
/// # Errors
/// When the socket cannot be bound.
pub(crate) async fn serve(socket: &Path, store: SecretStore, stop: CancellationToken) -> anyhow::Result<()> {
    let incoming = grpc::listen(socket)?;
    let service = SecretDiscoveryServiceServer::new(Service { store });
    let server = tonic::transport::Server::builder().serve_with_incoming(service, incoming);
    tokio::select! {
        result = server => Ok(result?),
        () = stop.cancelled() => Ok(()),
    }
}

struct Service {
    store: SecretStore,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Service {
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Answers<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(Response::new(answers(
            request.into_inner(),
            self.store.clone(),
            Delta::default(),
        )))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(Response::new(answers(
            request.into_inner(),
            self.store.clone(),
            Whole::default(),
        )))
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("use StreamSecrets or DeltaSecrets"))
    }
}

/// One stream's protocol: what it asked for and was sent. No I/O.
trait Protocol: Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    /// Takes a request; the names in the result are new to the stream.
    fn on_request(&mut self, request: Self::Request) -> Vec<String>;
    /// What is due, given what there is.
    fn due(&mut self, get: &dyn Fn(&str) -> Option<Secret>) -> Option<Self::Response>;
}

struct Session<P: Protocol> {
    requests: Streaming<P::Request>,
    changes: watch::Receiver<u64>,
    store: SecretStore,
    protocol: P,
}

fn answers<P: Protocol>(requests: Streaming<P::Request>, store: SecretStore, protocol: P) -> Answers<P::Response> {
    let state = Session {
        requests,
        changes: store.changes(),
        store,
        protocol,
    };
    futures::stream::unfold(state, |mut state| async move {
        loop {
            if let Some(response) = state.protocol.due(&|name| state.store.get(name)) {
                return Some((Ok(response), state));
            }
            tokio::select! {
                request = state.requests.message() => {
                    // Envoy closed the stream, or broke it: either way it asks anew on another.
                    let Ok(Some(request)) = request else { return None };
                    for name in state.protocol.on_request(request) {
                        if !state.store.want(&name) {
                            tracing::warn!(name, "Envoy asks for a secret that the agent does not have");
                        }
                    }
                }
                changed = state.changes.changed() => if changed.is_err() { return None },
            }
        }
    })
    .boxed()
}

fn note_rejection(error: Option<&lateen_proto::google::rpc::Status>, names: &str) {
    if let Some(error) = error {
        tracing::error!(reason = error.message, names, "Envoy rejected a secret");
    }
}

/// State of the world: each answer has all secrets asked for that there are.
#[derive(Default)]
struct Whole {
    names: Vec<String>,
    sent: BTreeMap<String, u64>,
    nonce: u64,
}

impl Protocol for Whole {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn on_request(&mut self, request: DiscoveryRequest) -> Vec<String> {
        note_rejection(request.error_detail.as_ref(), &request.resource_names.join(","));
        let new = request
            .resource_names
            .iter()
            .filter(|name| !self.names.contains(name))
            .cloned()
            .collect();
        self.sent.retain(|name, _| request.resource_names.contains(name));
        self.names = request.resource_names;
        new
    }

    fn due(&mut self, get: &dyn Fn(&str) -> Option<Secret>) -> Option<DiscoveryResponse> {
        let held: Vec<(String, Secret)> = self
            .names
            .iter()
            .filter_map(|name| Some((name.clone(), get(name)?)))
            .collect();
        let versions: BTreeMap<String, u64> = held
            .iter()
            .map(|(name, secret)| (name.clone(), secret.version))
            .collect();
        if versions == self.sent {
            return None;
        }
        self.sent = versions;
        self.nonce += 1;
        Some(DiscoveryResponse {
            version_info: self.nonce.to_string(),
            resources: held.iter().map(|(_, secret)| secret.any()).collect(),
            type_url: lateen_proto::type_url::<SecretMessage>(),
            nonce: self.nonce.to_string(),
            ..Default::default()
        })
    }
}

/// Delta: each answer has what is new.
#[derive(Default)]
struct Delta {
    /// Names asked for, with the version sent, zero before any.
    names: BTreeMap<String, u64>,
    nonce: u64,
}

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn on_request(&mut self, request: DeltaDiscoveryRequest) -> Vec<String> {
        let names: Vec<&str> = self.names.keys().map(String::as_str).collect();
        note_rejection(request.error_detail.as_ref(), &names.join(","));
        for name in &request.resource_names_unsubscribe {
            self.names.remove(name);
        }
        // Asking again means that Envoy has lost it.
        let asked = request.resource_names_subscribe;
        asked
            .into_iter()
            .filter(|name| self.names.insert(name.clone(), 0).is_none())
            .collect()
    }

    fn due(&mut self, get: &dyn Fn(&str) -> Option<Secret>) -> Option<DeltaDiscoveryResponse> {
        let mut resources = Vec::new();
        for (name, sent) in &mut self.names {
            let Some(secret) = get(name).filter(|secret| secret.version != *sent) else {
                continue;
            };
            *sent = secret.version;
            resources.push(Resource {
                name: name.clone(),
                version: secret.version.to_string(),
                resource: Some(secret.any()),
                ..Default::default()
            });
        }
        if resources.is_empty() {
            return None;
        }
        self.nonce += 1;
        Some(DeltaDiscoveryResponse {
            system_version_info: self.nonce.to_string(),
            resources,
            type_url: lateen_proto::type_url::<SecretMessage>(),
            nonce: self.nonce.to_string(),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::certificates::Content;

    use super::*;

    fn ask(names: &[&str]) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_secret_is_sent_when_it_comes_and_when_it_changes() {
        let store = SecretStore::new();
        let mut stream = Whole::default();
        let get = |name: &str| store.get(name);
        assert_eq!(stream.on_request(ask(&["ROOTCA"])), ["ROOTCA"]);
        assert!(stream.due(&get).is_none());
        store.publish("ROOTCA", &Content::Roots("one".into()));
        let first = stream.due(&get).unwrap();
        assert_eq!(first.resources.len(), 1);
        assert!(stream.due(&get).is_none());
        // The acknowledgement asks for the same again.
        assert!(stream.on_request(ask(&["ROOTCA"])).is_empty());
        assert!(stream.due(&get).is_none());
        store.publish("other", &Content::Roots("two".into()));
        assert!(stream.due(&get).is_none());
        store.publish("ROOTCA", &Content::Roots("two".into()));
        assert_ne!(stream.due(&get).unwrap().nonce, first.nonce);
    }

    #[test]
    fn delta_sends_only_what_is_new() {
        let store = SecretStore::new();
        let mut stream = Delta::default();
        let get = |name: &str| store.get(name);
        store.publish("ROOTCA", &Content::Roots("one".into()));
        let subscribe = |names: &[&str]| DeltaDiscoveryRequest {
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        stream.on_request(subscribe(&["ROOTCA", "file-root:/x"]));
        assert_eq!(stream.due(&get).unwrap().resources[0].name, "ROOTCA");
        store.publish("file-root:/x", &Content::Roots("x".into()));
        let response = stream.due(&get).unwrap();
        assert_eq!(
            (response.resources.len(), response.resources[0].name.as_str()),
            (1, "file-root:/x")
        );
        assert!(stream.due(&get).is_none());
        stream.on_request(subscribe(&["ROOTCA"]));
        assert_eq!(stream.due(&get).unwrap().resources[0].name, "ROOTCA");
    }
}
