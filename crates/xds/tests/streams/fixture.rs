//! A server on a free port, for a world that the test changes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lateen_proto::Any;
use lateen_proto::envoy::config::core::v3::Node;
use lateen_runtime::metrics::Metrics;
use lateen_runtime::{Drain, Shutdown};
use lateen_xds::{
    AdsService, Dialect, Discovery, Event, NamedAny, Peer, Question, Refusal, Resource, SessionRecord, Sessions,
    Settings, Subscription, Wanted, XdsMetrics,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A world that is the same for every proxy.
pub(crate) struct World {
    wanted: watch::Sender<Arc<Wanted>>,
    events: Arc<Mutex<Vec<Event>>>,
}

pub(crate) struct WorldSubscription {
    wanted: watch::Receiver<Arc<Wanted>>,
    events: Arc<Mutex<Vec<Event>>>,
    panics: bool,
}

/// A server and what to look at. It ends when this is dropped.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) sessions: Sessions,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
    wanted: watch::Sender<Arc<Wanted>>,
    events: Arc<Mutex<Vec<Event>>>,
    tasks: JoinSet<()>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            wanted: watch::Sender::default(),
            events: Arc::default(),
        }
    }
}

impl Discovery for World {
    type Subscription = WorldSubscription;

    async fn connect(&self, node: Node, _: &Peer, _: Dialect) -> Result<WorldSubscription, Refusal> {
        match &*node.id {
            "stranger" => Err(Refusal::Denied("namespace is not the certificate's".to_owned())),
            "panics" => panic!("connect"),
            id => Ok(WorldSubscription {
                wanted: self.wanted.subscribe(),
                events: Arc::clone(&self.events),
                panics: id == "panics-later",
            }),
        }
    }

    async fn inspect(&self, question: Question, _: &Peer) -> Result<Vec<NamedAny>, Refusal> {
        echo(&question)
    }
}

/// It answers with the names it is asked about.
fn echo(question: &Question) -> Result<Vec<NamedAny>, Refusal> {
    if question.names.is_empty() {
        return Err(Refusal::BadQuestion("about what?".to_owned()));
    }
    let one = |name: &String| NamedAny {
        name: name.clone(),
        body: Any {
            type_url: question.type_url.clone(),
            value: name.clone().into_bytes(),
        },
    };
    Ok(question.names.iter().map(one).collect())
}

impl Subscription for WorldSubscription {
    fn wanted(&self) -> watch::Receiver<Arc<Wanted>> {
        self.wanted.clone()
    }

    fn on_event(&mut self, event: &Event) {
        assert!(!self.panics, "event");
        self.events.lock().unwrap().push(event.clone());
    }
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::with(World::new(), Settings::default(), "127.0.0.1:0".parse().unwrap()).await
    }

    /// `address` may have been another server's before.
    pub(crate) async fn with(world: World, settings: Settings, address: SocketAddr) -> Self {
        let (wanted, events) = (world.wanted.clone(), Arc::clone(&world.events));
        let mut server = Self::serve(world, settings, address).await;
        server.wanted = wanted;
        server.events = events;
        server
    }

    pub(crate) async fn serve<D: Discovery>(discovery: D, settings: Settings, address: SocketAddr) -> Self {
        let (sessions, metrics, shutdown) = (Sessions::new(), Metrics::new(), Shutdown::new());
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = shutdown.drain();
        let xds = XdsMetrics::new(&metrics).unwrap();
        let service = AdsService::new(discovery, settings, sessions.clone(), xds, drain.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(run(listener, service, drain));
        Self {
            address,
            sessions,
            metrics,
            shutdown,
            wanted: watch::Sender::default(),
            events: Arc::default(),
            tasks,
        }
    }

    /// Ends its streams and gives its port back.
    pub(crate) async fn stop(mut self) {
        self.shutdown.begin();
        self.tasks.join_next().await.unwrap().unwrap();
    }

    /// Has every proxy hold this from now on, besides what it holds of other types.
    pub(crate) fn publish(&self, sets: &[(&str, &[Resource])]) -> u64 {
        let mut published = 0;
        self.wanted.send_modify(|wanted| {
            let mut next = Wanted::clone(wanted);
            next.snapshot += 1;
            next.version = Arc::from(format!("v{}", next.snapshot));
            next.changed_at = Some(Instant::now());
            for (url, resources) in sets {
                next.sets.insert(*url, resources.iter().cloned().collect());
            }
            published = next.snapshot;
            *wanted = Arc::new(next);
        });
        published
    }

    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    /// What happened on all streams, since the last call.
    pub(crate) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }

    /// Waits until every proxy holds a snapshot.
    pub(crate) async fn settled(&self, snapshot: u64) -> Vec<SessionRecord> {
        let sessions = || self.sessions.snapshot();
        eventually("every proxy holds the snapshot", || {
            let records = sessions();
            (!records.is_empty() && records.iter().all(|record| record.settled >= Some(snapshot))).then_some(records)
        })
        .await
    }

    /// A line of the metrics.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let text = self.metrics.encode().unwrap();
        let line = text
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

async fn run<D: Discovery>(listener: TcpListener, service: AdsService<D>, drain: Drain) {
    let incoming = TcpListenerStream::new(listener);
    Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, drain.started_owned())
        .await
        .unwrap();
}

/// Looks again and again until it is so.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut look = async || look();
    eventually_async(what, &mut look).await
}

/// Looks again and again until it is so.
pub(crate) async fn eventually_async<T>(what: &str, look: &mut impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    let mut again = tokio::time::interval(Duration::from_millis(10));
    loop {
        again.tick().await;
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "not so after {LIMIT:?}: {what}");
    }
}

/// A node by that name.
pub(crate) fn node(id: &str) -> Node {
    Node {
        id: id.to_owned(),
        ..Default::default()
    }
}
