//! A proxy's side of delta ADS: subscribes, applies, answers. For tests, tools and load.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lateen_proto::Any;
use lateen_proto::envoy::config::cluster::v3::Cluster;
use lateen_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use lateen_proto::envoy::config::core::v3::Node;
use lateen_proto::envoy::config::listener::v3::{Listener, filter::ConfigType};
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use lateen_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use lateen_proto::google::rpc;
use prost::{Message as _, Name as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::types::{CLUSTER, ENDPOINTS, LISTENER, ROUTE};

/// Requests that may wait to be sent.
const QUEUE: usize = 64;

/// What a proxy holds of one type.
#[derive(Debug, Clone, Default)]
pub struct ClientType {
    /// It subscribed to all there is.
    pub wildcard: bool,
    /// What it named.
    pub names: BTreeSet<String>,
    /// What it holds, by name.
    pub resources: BTreeMap<String, ClientResource>,
}

/// A resource that a proxy holds.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientResource {
    /// Its version.
    pub version: String,
    /// Its content.
    pub body: Any,
}

/// One response, applied and answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The type of its resources.
    pub type_url: String,
    /// The server's version.
    pub version: String,
    /// Names that it holds.
    pub changed: Vec<String>,
    /// Names that it removes.
    pub removed: Vec<String>,
    /// Why it was rejected, if it was; then nothing of it was applied.
    pub rejected: Option<String>,
}

/// What a proxy holds, and outlives its connections.
#[derive(Default)]
pub struct ClientState {
    types: BTreeMap<String, ClientType>,
    follows: bool,
    judge: Option<Judge>,
}

/// Says whether a proxy takes a resource of a type.
type Judge = Box<dyn FnMut(&str, &Resource) -> Result<(), String> + Send + Sync>;

/// A proxy's stream.
pub struct AdsClient {
    state: ClientState,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

// === impl ClientState ===

impl ClientState {
    /// Holds nothing and takes everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks, as Envoy does, for the endpoints of the clusters it gets, and for the route tables of the listeners.
    #[must_use]
    pub fn following(mut self) -> Self {
        self.follows = true;
        self
    }

    /// Rejects responses with a resource that `judge` rejects, with its words.
    #[must_use]
    pub fn judging(mut self, judge: impl FnMut(&str, &Resource) -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.judge = Some(Box::new(judge));
        self
    }

    /// What it holds of a type.
    pub fn of(&self, type_url: &str) -> Option<&ClientType> {
        self.types.get(type_url)
    }

    fn apply(&mut self, response: &DeltaDiscoveryResponse) -> Result<(), String> {
        if let Some(judge) = &mut self.judge {
            response
                .resources
                .iter()
                .try_for_each(|resource| judge(&response.type_url, resource))?;
        }
        let held = self.types.entry(response.type_url.clone()).or_default();
        for resource in &response.resources {
            let body = resource
                .resource
                .clone()
                .ok_or_else(|| format!("resource {} without content", resource.name))?;
            let version = resource.version.clone();
            held.resources
                .insert(resource.name.clone(), ClientResource { version, body });
        }
        for name in &response.removed_resources {
            held.resources.remove(name);
        }
        Ok(())
    }

    /// The names that the clusters or listeners it holds refer to: of which type, and which.
    fn referred(&self, type_url: &str) -> Option<(&'static str, BTreeSet<String>)> {
        let bodies = self
            .types
            .get(type_url)?
            .resources
            .values()
            .map(|resource| &resource.body.value);
        match type_url {
            CLUSTER => {
                let clusters = bodies.filter_map(|body| Cluster::decode(body.as_slice()).ok());
                Some((ENDPOINTS, clusters.filter_map(endpoints_of).collect()))
            }
            LISTENER => {
                let listeners = bodies.filter_map(|body| Listener::decode(body.as_slice()).ok());
                Some((ROUTE, listeners.flat_map(|listener| routes_of(&listener)).collect()))
            }
            _ => None,
        }
    }

    /// The first request for a type on a new stream.
    fn first_request(&self, type_url: &str) -> DeltaDiscoveryRequest {
        let held = self.types.get(type_url).cloned().unwrap_or_default();
        let mut subscribe: Vec<String> = held.names.into_iter().collect();
        if held.wildcard {
            subscribe.push("*".to_owned());
        }
        DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: subscribe,
            initial_resource_versions: held
                .resources
                .into_iter()
                .map(|(name, held)| (name, held.version))
                .collect(),
            ..Default::default()
        }
    }
}

// === impl AdsClient ===

impl AdsClient {
    /// Opens a stream and says who it is. Types that `state` knows of from an earlier stream are asked for again, with
    /// the versions it holds.
    ///
    /// # Errors
    /// What the server or the connection says.
    pub async fn connect(channel: Channel, node: Node, state: ClientState) -> Result<Self, Status> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let mut urls: Vec<&String> = state.types.keys().collect();
        urls.sort_by_key(|url| crate::types::kind_of(url).0);
        // Nothing is read before the stream is open, so what is not queued here would wait for ever.
        let mut first: Vec<DeltaDiscoveryRequest> = urls.into_iter().map(|url| state.first_request(url)).collect();
        match first.first_mut() {
            Some(request) => request.node = Some(node),
            None => return Err(Status::failed_precondition("subscribe to a type before connecting")),
        }
        let requests_in_order =
            futures::stream::StreamExt::chain(tokio_stream::iter(first), ReceiverStream::new(queue));
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        let responses = client.delta_aggregated_resources(requests_in_order).await?.into_inner();
        Ok(Self {
            state,
            requests,
            responses,
        })
    }

    /// What it holds.
    pub fn state(&self) -> &ClientState {
        &self.state
    }

    /// Closes the stream and keeps what it holds.
    pub fn disconnect(self) -> ClientState {
        self.state
    }

    /// Asks for names, or for `*`.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn subscribe(&mut self, type_url: &str, names: &[&str]) -> Result<(), Status> {
        let first = !self.state.types.contains_key(type_url);
        self.state.subscribe(type_url, names);
        let request = if first {
            self.state.first_request(type_url)
        } else {
            DeltaDiscoveryRequest {
                type_url: type_url.to_owned(),
                resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
                ..Default::default()
            }
        };
        self.send(request).await
    }

    /// Asks for names, or `*`, no longer.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn unsubscribe(&mut self, type_url: &str, names: &[&str]) -> Result<(), Status> {
        let held = self.state.types.entry(type_url.to_owned()).or_default();
        for name in names {
            held.wildcard &= *name != "*";
            held.names.remove(*name);
            held.resources.remove(*name);
        }
        self.send(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_unsubscribe: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        })
        .await
    }

    /// Waits for a response, applies it and answers.
    ///
    /// # Errors
    /// The status that the stream ended with.
    pub async fn next(&mut self) -> Result<Update, Status> {
        let response = self.responses.message().await?;
        let response = response.ok_or_else(|| Status::unavailable("the server closed the stream"))?;
        let verdict = self.state.apply(&response);
        let rejected = verdict.err();
        let error_detail = rejected.clone().map(|message| rpc::Status {
            code: Code::InvalidArgument as i32,
            message,
            ..Default::default()
        });
        let DeltaDiscoveryResponse {
            type_url,
            nonce,
            system_version_info,
            resources,
            removed_resources,
            ..
        } = response;
        let answer = DeltaDiscoveryRequest {
            type_url: type_url.clone(),
            response_nonce: nonce,
            error_detail,
            ..Default::default()
        };
        self.send(answer).await?;
        if self.state.follows && rejected.is_none() {
            self.follow(&type_url).await?;
        }
        Ok(Update {
            type_url,
            version: system_version_info,
            changed: resources.into_iter().map(|resource| resource.name).collect(),
            removed: removed_resources,
            rejected,
        })
    }

    /// Takes responses until `done`, for at most `limit`.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED when it takes longer, and what [`Self::next`] says.
    pub async fn until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&ClientState) -> bool,
    ) -> Result<Vec<Update>, Status> {
        let mut updates = Vec::new();
        let waiting = async {
            while !done(&self.state) {
                updates.push(self.next().await?);
            }
            Ok::<_, Status>(())
        };
        match timeout(limit, waiting).await {
            Ok(done) => done.map(|()| updates),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "not so after {limit:?}; updates: {updates:?}"
            ))),
        }
    }

    /// Asks for what the clusters or listeners it holds refer to, and for that only.
    async fn follow(&mut self, type_url: &str) -> Result<(), Status> {
        let Some((url, names)) = self.state.referred(type_url) else {
            return Ok(());
        };
        let known = self
            .state
            .types
            .get(url)
            .map(|held| held.names.clone())
            .unwrap_or_default();
        let less: Vec<&str> = known.difference(&names).map(String::as_str).collect();
        let more: Vec<&str> = names.difference(&known).map(String::as_str).collect();
        if !less.is_empty() {
            self.unsubscribe(url, &less).await?;
        }
        if !more.is_empty() {
            self.subscribe(url, &more).await?;
        }
        Ok(())
    }

    async fn send(&self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        self.requests
            .send(request)
            .await
            .map_err(|_| Status::unavailable("the stream has ended"))
    }
}

impl ClientState {
    /// What to ask for: names, or `*` for all there is.
    #[must_use]
    pub fn subscribing(mut self, type_url: &str, names: &[&str]) -> Self {
        self.subscribe(type_url, names);
        self
    }

    fn subscribe(&mut self, type_url: &str, names: &[&str]) {
        let held = self.types.entry(type_url.to_owned()).or_default();
        for name in names {
            if *name == "*" {
                held.wildcard = true;
            } else {
                held.names.insert((*name).to_owned());
            }
        }
    }
}

/// The name under which a cluster's endpoints are asked for.
fn endpoints_of(cluster: Cluster) -> Option<String> {
    let eds = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32));
    let service = cluster
        .eds_cluster_config
        .map(|config| config.service_name)
        .filter(|name| !name.is_empty());
    (cluster.cluster_discovery_type == eds).then(|| service.unwrap_or(cluster.name))
}

/// The route tables that a listener's connection managers ask for.
fn routes_of(listener: &Listener) -> Vec<String> {
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    let configs = chains
        .flat_map(|chain| &chain.filters)
        .filter_map(|filter| match &filter.config_type {
            Some(ConfigType::TypedConfig(any)) => Some(any),
            _ => None,
        });
    let api = listener
        .api_listener
        .iter()
        .filter_map(|listener| listener.api_listener.as_ref());
    configs
        .chain(api)
        .filter(|any| any.type_url == HttpConnectionManager::type_url())
        .filter_map(|any| HttpConnectionManager::decode(any.value.as_slice()).ok())
        .filter_map(|manager| match manager.route_specifier {
            Some(RouteSpecifier::Rds(rds)) => Some(rds.route_config_name),
            _ => None,
        })
        .collect()
}
