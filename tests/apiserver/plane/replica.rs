//! A replica of the control plane in this process: index, distribution and ADS as in `lateend`, fed from the API server
//! when the test says so. And proxies that connect to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use kube::api::ListParams;
use lateen_controllers::progress::{Holdings, Rejection, Replica as Named, Report, publish};
use lateen_controllers::status::kind_name;
use lateen_distribute::{Distributor, ProgressMetrics};
use lateen_lower::{Change, Event, Index, Kind, Object, Settings};
use lateen_model::Snapshot;
use lateen_names::ClusterId;
use lateen_runtime::Shutdown;
use lateen_runtime::metrics::Metrics;
use lateen_xds::types::{CLUSTER, LISTENER, ROUTE, VIRTUAL_HOST};
use lateen_xds::{AdsClient, AdsService, ClientState, Node, Sessions, XdsMetrics};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};

use crate::objects;

/// What a replica of these tests reads, from the namespace `default`.
const KINDS: [(Kind, &str, &str); 2] = [
    (Kind::Service, "v1", "services"),
    (Kind::VirtualService, "networking.istio.io/v1", "virtualservices"),
];

pub(crate) struct Replica {
    client: kube::Client,
    index: Index,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    holdings: Arc<Mutex<Holdings>>,
    changed: Arc<Notify>,
    address: SocketAddr,
    shutdown: Shutdown,
    tasks: JoinSet<()>,
}

/// A proxy; it rejects routes while it is told to.
pub(crate) struct Proxy {
    rejects: Arc<AtomicBool>,
    may_read: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Replica {
    pub(crate) async fn start(client: kube::Client, name: &str) -> Result<Self> {
        let (snapshots, seen) = watch::channel(None);
        let metrics = Metrics::new();
        let read = |node: &Node, snapshot: &Snapshot| {
            lateen_lower::node::proxy_from_node(node, snapshot).map_err(|error| error.to_string())
        };
        let distributor = Distributor::new(seen, Box::new(read), ProgressMetrics::new(&metrics)?);
        let shutdown = Shutdown::new();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let ads = AdsService::new(
            distributor.clone(),
            lateen_xds::Settings::default(),
            Sessions::new(),
            XdsMetrics::new(&metrics)?,
            shutdown.drain(),
        );
        let holdings = Arc::new(Mutex::new(Holdings::default()));
        let changed = Arc::new(Notify::new());
        let (report, reports) = watch::channel(Arc::default());
        let named = Named {
            namespace: "istio-system".to_owned(),
            name: name.to_owned(),
            revision: "default".to_owned(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(distributor.clone().run());
        tasks.spawn(tell(distributor, Arc::clone(&holdings), Arc::clone(&changed), report));
        tasks.spawn(publish(client.clone(), named, reports, shutdown.drain()));
        tasks.spawn(async move {
            let serving = Server::builder().add_service(ads);
            let _ = serving.serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
        let mut replica = Self {
            client,
            index: Index::new(Settings::new("")?),
            snapshots,
            holdings,
            changed,
            address,
            shutdown,
            tasks,
        };
        replica.read().await?;
        Ok(replica)
    }

    /// Reads what the API server holds, as a watch would bring it.
    pub(crate) async fn read(&mut self) -> Result<()> {
        let cluster = ClusterId::new("Kubernetes")?;
        let (mut events, mut versions) = (Vec::new(), std::collections::BTreeMap::new());
        for (kind, api_version, plural) in KINDS {
            let api = objects(&self.client, "default", api_version, kind.name(), plural);
            let list = api.list(&ListParams::default()).await?;
            for object in list.items {
                let mut value = serde_json::to_value(&object)?;
                value["apiVersion"] = api_version.into();
                value["kind"] = kind.name().into();
                if let Some(fields) = value.as_object_mut() {
                    fields.remove("status");
                }
                let change = Change::Apply(Arc::new(Object::decode(kind, &value)?.value));
                events.push(Event {
                    cluster: cluster.clone(),
                    change,
                });
            }
            let version = list.metadata.resource_version.context("a list without a version")?;
            versions.insert(kind_name(kind.name(), kind.group()), version.parse()?);
        }
        self.index.apply(events);
        let snapshot = self.index.publish();
        lock(&self.holdings).record(snapshot.generation, versions);
        self.snapshots.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &snapshot));
            *current = Some(snapshot);
            !same
        });
        self.changed.notify_one();
        Ok(())
    }

    /// Ends at once, as a killed process does: nothing is taken back.
    pub(crate) fn kill(mut self) {
        self.tasks.abort_all();
    }

    /// Ends as a process does that is asked to.
    pub(crate) fn end(&self) {
        self.shutdown.begin();
    }

    pub(crate) async fn proxy(&self, name: &str) -> Result<Proxy> {
        let node = Node {
            id: format!("sidecar~10.0.0.9~{name}.default~default.svc.cluster.local"),
            ..Node::default()
        };
        let rejects = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&rejects);
        let state = ClientState::new()
            .following()
            .subscribing(CLUSTER, &["*"])
            .subscribing(LISTENER, &["*"])
            .subscribing(VIRTUAL_HOST, &["*"])
            .judging(move |type_url, _| {
                match asked.load(Ordering::SeqCst) && [ROUTE, VIRTUAL_HOST].contains(&type_url) {
                    true => Err("this proxy takes no routes".to_owned()),
                    false => Ok(()),
                }
            });
        let channel = Endpoint::from_shared(format!("http://{}", self.address))?
            .connect()
            .await?;
        let (may_read, mut permission) = watch::channel(true);
        let mut task = JoinSet::new();
        let mut client = AdsClient::connect(channel, node, state).await?;
        task.spawn(async move {
            while permission.wait_for(|may| *may).await.is_ok() {
                tokio::select! {
                    update = client.next() => if update.is_err() { return },
                    _ = permission.changed() => {}
                }
            }
        });
        Ok(Proxy {
            rejects,
            may_read,
            _task: task,
        })
    }
}

impl Proxy {
    /// Takes what it is sent, or leaves it lying.
    pub(crate) fn reads(&self, does: bool) {
        self.may_read.send_replace(does);
    }

    pub(crate) fn rejects_routes(&self, does: bool) {
        self.rejects.store(does, Ordering::SeqCst);
    }
}

/// As `lateend` makes its report.
async fn tell(
    distributor: Distributor,
    holdings: Arc<Mutex<Holdings>>,
    changed: Arc<Notify>,
    report: watch::Sender<Arc<Report>>,
) {
    loop {
        let progress = distributor.progress();
        let rejections = progress.rejections.iter().flat_map(|rejection| {
            rejection.objects.iter().map(|object| Rejection {
                object: object.clone(),
                resource: rejection.name.to_string(),
                proxy: rejection.proxy.to_string(),
                reason: rejection.reason.to_string(),
            })
        });
        let now = {
            let holdings = lock(&holdings);
            Report {
                proxies: progress.proxies,
                held: holdings.at(progress.settled),
                seen: holdings.at(progress.newest),
                behind: progress.behind,
                behind_proxy: progress.behind_proxy.as_ref().map(ToString::to_string),
                rejections: rejections.collect(),
            }
        };
        report.send_if_modified(|known| {
            let differs = **known != now;
            *known = Arc::new(now);
            differs
        });
        tokio::select! {
            () = distributor.moved() => {}
            () = changed.notified() => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A condition of an object: status, reason, message, observed generation.
pub(crate) fn condition(object: &Value, name: &str) -> Option<(String, String, String, i64)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == name)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Some((
        text("status"),
        text("reason"),
        text("message"),
        found["observedGeneration"].as_i64()?,
    ))
}
