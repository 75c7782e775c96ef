//! One stream: requests in, responses out, everything written down.

mod inspect;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::stream::{BoxStream, StreamExt as _, unfold};
use http_body::{Body, Frame};
use lateen_proto::envoy::config::core::v3::Node;
use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use lateen_proto::value::Kind;
use lateen_runtime::metrics::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{sleep_until, timeout};
use tonic::{Code, Status};

use super::{Shared, trailers};
use crate::sessions::Registered;
use crate::types::short_name;
use crate::wire::{Requests, Writer};
use crate::{Dialect, Discovery, Event, Peer, Session, SessionRecord, Subscription, Wanted, XdsMetrics};

/// Everything of one stream.
struct Driver<D: Discovery, B> {
    shared: Arc<Shared<D>>,
    requests: Requests<B>,
    peer: Peer,
    dialect: Dialect,
    running: Option<Running<D::Subscription>>,
    writing: Option<(Writer, Instant)>,
    /// The answer to a question about the control plane itself.
    answer: Option<Bytes>,
    /// How many such answers were made; the last one's nonce.
    answers: u64,
}

/// A stream whose Node is known.
struct Running<S> {
    node_id: Arc<str>,
    session: Session,
    subscription: S,
    wanted: watch::Receiver<Arc<Wanted>>,
    record: Registered,
    connected: Connected,
    /// The snapshot that the stream began with: what came before says nothing of how fast changes arrive.
    first_snapshot: u64,
    ends_at: Option<Instant>,
    rejecting: Vec<(Arc<str>, i32)>,
    /// What it asks for may have changed since the record was written.
    asked: bool,
    turn: Option<Turn>,
}

/// A stream's place among those that are being filled. It is given back once the proxy has what it asked for, so that what
/// first requests and responses hold in memory is bounded by the number of places rather than of proxies.
struct Turn {
    _place: OwnedSemaphorePermit,
    /// When it ends though there is more to do: a slow proxy keeps others waiting so long and no longer.
    limit: Instant,
    /// When it ends if nothing happens before.
    ends_at: Instant,
}

/// How long a stream has its place at most.
const LONGEST_TURN: Duration = Duration::from_secs(1);
/// How long a proxy that has what it asked for may think of what else it wants.
const AFTERTHOUGHT: Duration = Duration::from_millis(50);

/// Counts the stream while it lasts.
struct Connected(IntGauge);

enum Input {
    Request(Request),
    Wanted,
    Time,
}

enum Request {
    Delta(Box<DeltaDiscoveryRequest>),
    StateOfTheWorld(Box<DiscoveryRequest>),
}

impl Input {
    /// Whether it may change what the stream asks for: a request that does more than answer a response.
    fn asks(&self) -> bool {
        match self {
            Self::Request(Request::Delta(request)) => {
                request.response_nonce.is_empty()
                    || !request.resource_names_subscribe.is_empty()
                    || !request.resource_names_unsubscribe.is_empty()
                    || !request.initial_resource_versions.is_empty()
            }
            Self::Request(Request::StateOfTheWorld(_)) => true,
            Self::Wanted | Self::Time => false,
        }
    }
}

/// The frames of a stream's response.
pub(super) fn frames<D, B>(
    shared: Arc<Shared<D>>,
    body: B,
    peer: Peer,
    dialect: Dialect,
) -> BoxStream<'static, Frame<Bytes>>
where
    D: Discovery,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display,
{
    let requests = Requests::new(body, shared.settings.request_limit);
    let driver = Box::new(Driver {
        shared,
        requests,
        peer,
        dialect,
        running: None,
        writing: None,
        answer: None,
        answers: 0,
    });
    unfold(Some(driver), |driver| async move {
        let mut driver = driver?;
        // A fault in one stream ends that stream only.
        let status = match AssertUnwindSafe(driver.next()).catch_unwind().await {
            Ok(Ok(Some(chunk))) => return Some((Frame::data(chunk), Some(driver))),
            Ok(Ok(None)) => Status::ok(""),
            Ok(Err(status)) => status,
            Err(panic) => driver.panicked(panic.as_ref()),
        };
        driver.ended(&status);
        Some((Frame::trailers(trailers(&status)), None))
    })
    .boxed()
}

impl<D, B> Driver<D, B>
where
    D: Discovery,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display,
{
    /// The next piece of a response, or `None` when the proxy has said everything. Waits for it.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some((writer, since)) = &mut self.writing {
                if let Some(chunk) = writer.next_chunk() {
                    return Ok(Some(chunk));
                }
                self.shared.metrics.send_time.observe(since.elapsed().as_secs_f64());
                self.writing = None;
            }
            if let Some(answer) = self.answer.take() {
                return Ok(Some(answer));
            }
            if self.running.is_none() {
                if !self.connect().await? {
                    return Ok(None);
                }
            } else if !self.push()? {
                match self.input().await? {
                    None => return Ok(None),
                    Some(input) => match inspect::asked(&input) {
                        // An agent asks on its proxy's stream, which a refusal must not end.
                        Some(asked) => self.answer = self.inspect(asked).await.unwrap_or_default(),
                        None => self.take(input)?,
                    },
                }
            }
        }
    }

    /// Reads the first request and asks what its Node should hold, or answers a question. Whether there was a request.
    async fn connect(&mut self) -> Result<bool, Status> {
        let shared = Arc::clone(&self.shared);
        let limit = shared.settings.first_request_timeout;
        let first = tokio::select! {
            first = timeout(limit, read(self.dialect, &mut self.requests, &shared.metrics)) => first,
            () = shared.drain.started() => return Err(draining()),
        };
        let Some(mut request) = first.map_err(|_| Status::deadline_exceeded("no request"))?? else {
            return Ok(false);
        };
        if let Some(question) = inspect::question(&request) {
            self.answer = self.inspect(question).await?;
            return Ok(true);
        }
        let node = match &mut request {
            Request::Delta(request) => request.node.take(),
            Request::StateOfTheWorld(request) => request.node.take(),
        };
        let node = node.filter(|node| !node.id.is_empty());
        let node = node.ok_or_else(|| Status::invalid_argument("the first request must carry a Node with an id"))?;

        let queued = Instant::now();
        let turn = tokio::select! {
            turn = Arc::clone(&shared.connects).acquire_owned() => turn,
            () = shared.drain.started() => return Err(draining()),
        };
        let limit = now() + LONGEST_TURN;
        let turn = Turn {
            _place: turn.map_err(|_| draining())?,
            limit,
            ends_at: limit,
        };
        shared.metrics.queue_time.observe(queued.elapsed().as_secs_f64());
        self.begin(node, turn).await?;
        self.take(Input::Request(request))?;
        // The first response is made while it is this stream's turn, and sent when the connection takes it.
        self.push()?;
        Ok(true)
    }

    async fn begin(&mut self, node: Node, turn: Turn) -> Result<(), Status> {
        let shared = &self.shared;
        let node_id: Arc<str> = Arc::from(&*node.id);
        let (cluster_id, proxy_version) = (metadata(&node, "CLUSTER_ID"), metadata(&node, "ISTIO_VERSION"));
        let subscription = shared
            .discovery
            .connect(node, &self.peer, self.dialect)
            .await
            .map_err(|refusal| {
                tracing::warn!(node = %node_id, peer = ?self.peer.identity, error = %refusal, "refused a proxy");
                Status::from(refusal)
            })?;
        let mut watch = subscription.wanted();
        let wanted = Arc::clone(&watch.borrow_and_update());
        let id = shared.sessions.next_id();
        let gauge = shared.metrics.connected.with_label_values(&[&*proxy_version]);
        gauge.inc();
        let record = shared.sessions.register(SessionRecord {
            id,
            node_id: Arc::clone(&node_id),
            cluster_id,
            proxy_version,
            peer: self.peer.clone(),
            dialect: self.dialect,
            connected_at: shared.clock.now(),
            wanted: Arc::clone(&wanted),
            settled: None,
            types: Vec::new(),
        });
        tracing::info!(node = %node_id, peer = ?self.peer.address, dialect = ?self.dialect, "proxy connected");
        self.running = Some(Running {
            node_id,
            first_snapshot: wanted.snapshot,
            session: Session::new(self.dialect, wanted),
            subscription,
            wanted: watch,
            record,
            connected: Connected(gauge),
            ends_at: shared.settings.max_age.map(|age| now() + spread(age, id)),
            rejecting: Vec::new(),
            asked: false,
            turn: Some(turn),
        });
        Ok(())
    }

    /// Waits until something happens.
    async fn input(&mut self) -> Result<Option<Input>, Status> {
        let Self {
            shared,
            requests,
            dialect,
            running: Some(running),
            ..
        } = self
        else {
            return Ok(None);
        };
        let turn = running.turn.as_mut().map(|turn| {
            let calm = running.session.is_settled();
            turn.ends_at = if calm {
                turn.limit.min(now() + AFTERTHOUGHT)
            } else {
                turn.limit
            };
            turn.ends_at
        });
        let deadline = [running.session.deadline(), running.ends_at, turn]
            .into_iter()
            .flatten()
            .min();
        let time = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            request = read(*dialect, requests, &shared.metrics) => request.map(|request| request.map(Input::Request)),
            changed = running.wanted.changed() => {
                changed.map(|()| Some(Input::Wanted)).map_err(|_| Status::unavailable("to be configured anew"))
            }
            () = time => Ok(Some(Input::Time)),
            // Last: all streams share it, and it is waited for only where nothing else is to be done.
            () = shared.drain.started() => Err(draining()),
        }
    }

    fn take(&mut self, input: Input) -> Result<(), Status> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        running.asked |= input.asks();
        match input {
            Input::Request(Request::Delta(request)) => running.session.on_delta_request(&request)?,
            Input::Request(Request::StateOfTheWorld(request)) => running.session.on_sotw_request(&request)?,
            Input::Wanted => {
                let wanted = Arc::clone(&running.wanted.borrow_and_update());
                running.record.wanted(&wanted);
                running.session.on_wanted(wanted);
            }
            Input::Time => {
                if running.ends_at.is_some_and(|at| at <= now()) {
                    return Err(Status::unavailable("connected long enough, connect anew"));
                }
                running.turn.take_if(|turn| turn.ends_at <= now());
            }
        }
        Ok(())
    }

    /// Begins to write the next response, if there is one.
    fn push(&mut self) -> Result<bool, Status> {
        let Some(running) = &mut self.running else {
            return Ok(false);
        };
        let since = Instant::now();
        let push = running.session.poll(now());
        let metrics = &self.shared.metrics;
        if let Some(push) = &push {
            let short = short_name(&push.type_url);
            metrics
                .push_time
                .with_label_values(&[short])
                .observe(since.elapsed().as_secs_f64());
        }
        running.note(&self.shared);
        let Some(push) = push else { return Ok(false) };
        let writer = Writer::new(push, &self.shared.control_plane);
        let writer = writer.ok_or_else(|| Status::resource_exhausted("a response of 4 GiB cannot be sent"))?;
        self.writing = Some((writer, since));
        Ok(true)
    }

    fn panicked(&self, panic: &(dyn Any + Send)) -> Status {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        self.shared.metrics.internal_errors.inc();
        tracing::error!(node = ?self.node_id(), error = text, "panic in a stream");
        Status::internal("fault of the control plane, connect anew")
    }

    fn ended(&self, status: &Status) {
        let (node, code, reason) = (self.node_id(), status.code(), status.message());
        if matches!(
            code,
            Code::Ok | Code::Cancelled | Code::Unavailable | Code::DeadlineExceeded
        ) {
            tracing::info!(node, ?code, reason, "stream ends");
            return;
        }
        let identity = self.peer.identity.as_ref().map(tracing::field::display);
        let peer = self.peer.address.map(tracing::field::display);
        tracing::warn!(node, identity, peer, ?code, reason, "stream refused");
    }

    fn node_id(&self) -> Option<&str> {
        self.running.as_ref().map(|running| &*running.node_id)
    }
}

impl<S: Subscription> Running<S> {
    /// Writes down what happened, and tells.
    fn note<D>(&mut self, shared: &Shared<D>) {
        if std::mem::take(&mut self.asked) {
            self.record.describe(self.session.status());
        }
        let events = self.session.events();
        if events.is_empty() {
            return;
        }
        let status = |type_url: &str| self.session.status_of(type_url);
        self.record.update(&events, status, shared.clock.now());
        for event in &events {
            self.count(event, shared);
            self.subscription.on_event(event);
        }
    }

    fn count<D>(&mut self, event: &Event, shared: &Shared<D>) {
        let metrics = &shared.metrics;
        match event {
            Event::Sent { response, bytes, .. } => {
                let short = short_name(&response.type_url);
                metrics.pushes.with_label_values(&[short]).inc();
                #[expect(clippy::cast_precision_loss, reason = "no response has 2^52 bytes")]
                metrics.size.with_label_values(&[short]).observe(*bytes as f64);
            }
            Event::Acked { response } => self.accepts(&response.type_url, shared),
            Event::Nacked { response, code, reason } => {
                metrics
                    .rejects
                    .with_label_values(&[short_name(&response.type_url)])
                    .inc();
                self.rejects(&response.type_url, *code, shared);
                tracing::warn!(node = %self.node_id, r#type = %response.type_url, nonce = response.nonce, %reason, "proxy rejected a response");
            }
            Event::Rejected {
                type_url, name, reason, ..
            } => {
                tracing::warn!(node = %self.node_id, r#type = %type_url, resource = %name, %reason, "proxy rejected a resource");
            }
            Event::ExpiredNonce { type_url } => metrics.expired.with_label_values(&[short_name(type_url)]).inc(),
            Event::Settled { snapshot } => {
                let changed = self
                    .session
                    .wanted()
                    .changed_at
                    .filter(|_| *snapshot > self.first_snapshot);
                if let Some(changed) = changed {
                    metrics.convergence.observe(changed.elapsed().as_secs_f64());
                }
            }
        }
    }

    fn rejects<D>(&mut self, type_url: &Arc<str>, code: i32, shared: &Shared<D>) {
        if let Some(gauge) = shared.metrics.rejecting(type_url) {
            gauge.with_label_values(&[&*self.node_id, &code.to_string()]).set(1);
            let entry = (Arc::clone(type_url), code);
            if !self.rejecting.contains(&entry) {
                self.rejecting.push(entry);
            }
        }
    }

    fn accepts<D>(&mut self, type_url: &str, shared: &Shared<D>) {
        let node_id = &self.node_id;
        for (_, code) in self.rejecting.extract_if(.., |(rejected, _)| &**rejected == type_url) {
            if let Some(gauge) = shared.metrics.rejecting(type_url) {
                // An error says that the gauge is gone already.
                let _ = gauge.remove_label_values(&[&**node_id, &code.to_string()]);
            }
        }
    }
}

impl<D: Discovery, B> Drop for Driver<D, B> {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        for (type_url, _) in running.rejecting.clone() {
            running.accepts(&type_url, &self.shared);
        }
        drop(running.connected);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The next request. Cancel safe.
async fn read<B>(dialect: Dialect, requests: &mut Requests<B>, metrics: &XdsMetrics) -> Result<Option<Request>, Status>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let read = match dialect {
        Dialect::Delta => requests
            .next()
            .await?
            .map(|(request, size)| (Request::Delta(Box::new(request)), size)),
        Dialect::StateOfTheWorld => requests
            .next()
            .await?
            .map(|(request, size)| (Request::StateOfTheWorld(Box::new(request)), size)),
    };
    Ok(read.map(|(request, size)| {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        if size > metrics.largest_request.get() {
            metrics.largest_request.set(size);
        }
        request
    }))
}

/// The time as tokio has it, so that tests can pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Up to an eighth longer, so that streams that began at once do not end at once.
fn spread(age: Duration, id: u64) -> Duration {
    age + age / 8 * u32::try_from(id % 64).unwrap_or(0) / 64
}

fn draining() -> Status {
    Status::unavailable("the control plane is draining, connect to another replica")
}

/// A text in a Node's metadata, or nothing.
fn metadata(node: &Node, key: &str) -> Arc<str> {
    let value = node.metadata.as_ref().and_then(|metadata| metadata.fields.get(key));
    match value.and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => Arc::from(&**text),
        _ => Arc::from(""),
    }
}
