//! One stream of Envoy's, relayed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::{BoxFuture, OptionFuture};
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::{Request, Status, Streaming};

use super::AdsProxy;
use super::codec::Raw;
use super::extensions::Extensions;
use super::nametable::{TYPE, Tables};
use super::on_demand::{CLUSTER, OnDemand};
use super::wire::{Protocol, delta_request_type, response_type};
use crate::config::FileCertificate;
use crate::grpc::{self, ClientIdentity};
use crate::wasm;

/// Requests of Envoy's that wait for the control plane; further ones wait in the socket.
const MAXIMUM_WAITING: usize = 64;
/// How long the first connection waits for the certificate that proves this workload.
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests that are kept to be said again, should the control plane go before it has answered any.
const MAXIMUM_KEPT: usize = 256;

/// A stream to the control plane. Some servers open their side only when they have something to say, so requests flow
/// before it is open.
struct Upstream {
    requests: mpsc::Sender<Bytes>,
    opening: Option<BoxFuture<'static, Result<Streaming<Bytes>, Status>>>,
    responses: Option<Streaming<Bytes>>,
}

/// Relays between Envoy's stream and one to the control plane. The result is what Envoy is sent.
pub(super) fn stream(
    proxy: Arc<AdsProxy>,
    protocol: Protocol,
    envoy: Streaming<Bytes>,
) -> BoxStream<'static, Result<Bytes, Status>> {
    let relay = Relay {
        connecting: None,
        pauses: Box::new(grpc::pauses()),
        with_certificate: true,
        upstream: None,
        waiting: VecDeque::new(),
        unanswered: Some(Vec::new()),
        tables: Tables::default(),
        subscribed: proxy.names.is_none(),
        extensions: proxy
            .modules
            .as_ref()
            .map(|modules| Extensions::new(Arc::clone(modules), protocol)),
        on_demand: proxy.on_demand.clone().filter(|_| protocol == Protocol::Delta),
        joined: false,
        proxy,
        protocol,
        envoy,
    };
    futures::stream::unfold(Some(relay), |relay| async move {
        let mut relay = relay?;
        match relay.next().await {
            Ok(Some(message)) => Some((Ok(message), Some(relay))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    })
    .boxed()
}

struct Relay {
    proxy: Arc<AdsProxy>,
    protocol: Protocol,
    envoy: Streaming<Bytes>,
    upstream: Option<Upstream>,
    connecting: Option<BoxFuture<'static, anyhow::Result<Upstream>>>,
    pauses: Box<dyn Iterator<Item = Duration> + Send>,
    /// Whether the next connection shows the workload's certificate beside the token.
    with_certificate: bool,
    /// What is to be said to the control plane next.
    waiting: VecDeque<Bytes>,
    /// What was said, as long as nothing was answered; none afterwards.
    unanswered: Option<Vec<Bytes>>,
    tables: Tables,
    /// The name table was asked for, or is not wanted.
    subscribed: bool,
    /// Configurations of filters, of which the agent fetches the modules; none when that is left to Envoy.
    extensions: Option<Extensions>,
    /// Clusters on demand; none where they come unasked only.
    on_demand: Option<Arc<OnDemand>>,
    /// Envoy has asked for clusters: more can be named besides.
    joined: bool,
}

enum Event {
    Request(Result<Option<Bytes>, Status>),
    /// There is room for a request.
    Room,
    /// The stream to the control plane no longer takes requests.
    NoRoom,
    Opened(Result<Streaming<Bytes>, Status>),
    Response(Result<Option<Bytes>, Status>),
    Connected(anyhow::Result<Upstream>),
    /// A configuration of filters is ready.
    Converted(Bytes),
    /// Clusters are to be named, or named no more.
    Named(Bytes),
}

impl Relay {
    /// The next message to Envoy; none when Envoy has ended its stream.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            // Envoy's first message carries the node, so there is nothing to say before it.
            if self.upstream.is_none() && self.connecting.is_none() && !self.waiting.is_empty() {
                self.connecting = Some(self.connect(None));
            }
            match self.event().await {
                Event::Request(Ok(Some(request))) => self.on_request(request),
                Event::Request(Ok(None) | Err(_)) => {
                    self.proxy.metrics.envoy_terminations.increment();
                    return Ok(None);
                }
                Event::Converted(message) => return Ok(Some(message)),
                Event::Named(request) => self.waiting.push_back(request),
                Event::Room => self.send(),
                Event::NoRoom => self.lost(Status::unavailable("the control plane ended the stream"))?,
                Event::Opened(Ok(responses)) => {
                    if let Some(upstream) = &mut self.upstream {
                        upstream.opening = None;
                        upstream.responses = Some(responses);
                    }
                }
                Event::Response(Ok(Some(response))) => {
                    self.unanswered = None;
                    if let Some(message) = self.on_response(response) {
                        return Ok(Some(message));
                    }
                }
                Event::Response(Ok(None)) => self.lost(Status::unavailable("the control plane ended the stream"))?,
                Event::Opened(Err(status)) | Event::Response(Err(status)) => self.lost(status)?,
                Event::Connected(Ok(upstream)) => {
                    tracing::info!(control_plane = self.proxy.config.address, "connected");
                    self.connecting = None;
                    self.upstream = Some(upstream);
                }
                Event::Connected(Err(error)) => {
                    self.proxy.metrics.connection_failures.increment();
                    self.again(&format!("{error:#}"));
                }
            }
        }
    }

    async fn event(&mut self) -> Event {
        let (mut room, mut opening, mut responses) = (None, None, None);
        if let Some(upstream) = &mut self.upstream {
            // While it opens, the channel is read by nobody that could fail, so room says nothing; it is bounded.
            room = (!self.waiting.is_empty()).then(|| upstream.requests.reserve());
            opening = upstream.opening.as_mut();
            responses = upstream.responses.as_mut().map(Streaming::message);
        }
        let named = self.on_demand.as_deref().filter(|_| self.joined).map(OnDemand::next);
        tokio::select! {
            request = self.envoy.message(), if self.waiting.len() < MAXIMUM_WAITING => Event::Request(request),
            Some(permit) = OptionFuture::from(room) => if permit.is_ok() { Event::Room } else { Event::NoRoom },
            Some(result) = OptionFuture::from(opening) => Event::Opened(result),
            Some(response) = OptionFuture::from(responses) => Event::Response(response),
            Some(result) = OptionFuture::from(self.connecting.as_mut()) => Event::Connected(result),
            Some(message) = OptionFuture::from(self.extensions.as_mut().map(Extensions::next)) => Event::Converted(message),
            Some(request) = OptionFuture::from(named), if self.waiting.len() < MAXIMUM_WAITING => Event::Named(request),
        }
    }

    fn on_request(&mut self, request: Bytes) {
        let request = match &mut self.extensions {
            Some(extensions) => extensions.forward(request),
            None => Some(request),
        };
        let Some(mut request) = request else { return };
        if let (Some(on_demand), false) = (&self.on_demand, self.joined)
            && delta_request_type(&request).is_some_and(|of| of == CLUSTER)
        {
            request = on_demand.join(request);
            self.joined = true;
        }
        self.waiting.push_back(request);
        if !self.subscribed {
            self.subscribed = true;
            self.waiting.push_back(self.protocol.subscribe(TYPE));
        }
    }

    fn send(&mut self) {
        let (Some(upstream), Some(request)) = (&self.upstream, self.waiting.pop_front()) else {
            return;
        };
        if let Err(error) = upstream.requests.try_send(request.clone()) {
            self.waiting.push_front(error.into_inner());
            return;
        }
        self.proxy.metrics.xds_requests.increment();
        if let Some(unanswered) = &mut self.unanswered {
            unanswered.push(request);
            if unanswered.len() > MAXIMUM_KEPT {
                self.unanswered = None;
            }
        }
    }

    /// What of a response goes to Envoy.
    fn on_response(&mut self, response: Bytes) -> Option<Bytes> {
        self.proxy.metrics.xds_responses.increment();
        let kind = response_type(&response);
        if let (Some(extensions), true) = (&mut self.extensions, kind.as_deref() == Some(wasm::TYPE.as_bytes())) {
            extensions.push(response);
            return None;
        }
        if let (Some(on_demand), Some(kind)) = (&self.on_demand, &kind) {
            on_demand.on_response(kind, &response);
        }
        if kind.is_none_or(|kind| kind != TYPE) {
            return Some(response);
        }
        match self.tables.take(self.protocol, response) {
            Ok((answer, table)) => {
                self.waiting.push_back(answer);
                if let (Some(table), Some(names)) = (table, &self.proxy.names) {
                    names.send_replace(Some(table));
                }
            }
            Err(error) => tracing::warn!(%error, "response with a name table does not decode"),
        }
        None
    }

    /// The stream to the control plane is gone. If it had not answered yet, Envoy need not know; else Envoy has to say
    /// anew what it holds, and its stream ends with this status.
    fn lost(&mut self, status: Status) -> Result<(), Status> {
        self.proxy.metrics.upstream_terminations.increment();
        let Some(unanswered) = self.unanswered.as_mut() else {
            tracing::info!(code = ?status.code(), reason = status.message(), "the control plane ended the stream");
            return Err(Status::new(status.code(), status.message()));
        };
        for request in unanswered.drain(..).rev() {
            self.waiting.push_front(request);
        }
        self.upstream = None;
        self.again(&format!("{}: {}", status.code(), status.message()));
        Ok(())
    }

    fn again(&mut self, error: &str) {
        let pause = self.pauses.next().unwrap_or(Duration::from_secs(10));
        // A control plane under another root refuses the certificate, one that wants it refuses the token alone.
        self.with_certificate = !self.with_certificate;
        tracing::warn!(
            error,
            control_plane = self.proxy.config.address,
            ?pause,
            "not connected, trying again"
        );
        self.connecting = Some(self.connect(Some(pause)));
    }

    /// Opens a stream to the control plane, with the certificates and the token of that moment.
    fn connect(&self, pause: Option<Duration>) -> BoxFuture<'static, anyhow::Result<Upstream>> {
        let (proxy, protocol) = (Arc::clone(&self.proxy), self.protocol);
        let with_certificate = self.with_certificate;
        async move {
            let config = &proxy.config;
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None if config.certificate_expected => proxy.store.first_identity(PATIENCE).await,
                None => {}
            }
            let token = grpc::token(&config.token_path)?;
            let client = client(&proxy, with_certificate || token.is_none())?;
            let channel = grpc::connect(&config.address, config.san.as_deref(), &config.roots, client.as_ref()).await?;
            let (requests, receiver) = mpsc::channel(1);
            let mut request = Request::new(ReceiverStream::new(receiver));
            *request.metadata_mut() = grpc::metadata(token.as_deref(), &config.headers)?;
            let mut grpc = Grpc::new(channel).max_decoding_message_size(usize::MAX);
            grpc.ready().await.context("control plane")?;
            let opening = async move { Ok(grpc.streaming(request, protocol.path(), Raw).await?.into_inner()) };
            Ok(Upstream {
                requests,
                opening: Some(opening.boxed()),
                responses: None,
            })
        }
        .boxed()
    }
}

/// The certificate to show: the workload's, or the provisioned one.
fn client(proxy: &AdsProxy, wanted: bool) -> anyhow::Result<Option<ClientIdentity>> {
    if !wanted {
        return Ok(None);
    }
    let now = std::time::SystemTime::now();
    if let Some(identity) = proxy.store.identity().filter(|identity| identity.is_valid(now)) {
        return Ok(Some(identity.client()));
    }
    let Some(folder) = &proxy.config.provisioned else {
        return Ok(None);
    };
    let files = FileCertificate::in_folder(folder);
    let chain = std::fs::read_to_string(&files.chain).with_context(|| files.chain.display().to_string())?;
    let key = std::fs::read_to_string(&files.key).with_context(|| files.key.display().to_string())?;
    Ok(Some(ClientIdentity {
        chain,
        key: zeroize::Zeroizing::new(key),
    }))
}
