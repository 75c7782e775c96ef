//! Compares, and writes what differs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use lateen_api::KindInfo;
use lateen_names::{Name, Namespace, ObjectKey, ObjectRef};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::desired::{self, Distribution};
use super::{Findings, PATIENCE, Scope, Subject, SubjectKey};
use crate::MANAGER;
use crate::progress::{Rejection, Report, observe};
use crate::queue::Queue;
use crate::watched::Watched;

type Reports = BTreeMap<String, Report>;

const WRITES_PER_SECOND: u32 = 50;
const BURST: u32 = 100;
/// Everything is compared at most this often.
const PAUSE: Duration = Duration::from_millis(100);

/// What is remembered of an object.
struct Tracked {
    uid: String,
    generation: i64,
    /// The version in which this generation was first seen.
    appeared: u64,
    since: Instant,
}

struct Writer {
    client: Client,
    /// By the kind's place in [`lateen_api::KINDS`].
    watched: Vec<Watched<DynamicObject, Subject>>,
    tracked: BTreeMap<SubjectKey, Tracked>,
    queue: Queue<SubjectKey>,
}

/// What is to be done next.
enum Next {
    /// Something is different.
    Changed,
    /// It is time to compare everything.
    Look,
    /// This object is due.
    Write(SubjectKey),
}

/// What a status is made from, beside the object.
struct World {
    findings: Arc<Findings>,
    scope: Scope,
    reports: Arc<Reports>,
}

/// Rejections by the objects that they are about.
type Rejections<'a> = BTreeMap<&'a ObjectRef, Vec<(&'a Report, &'a Rejection)>>;

/// Keeps the status of Istio's kinds right, from `findings` and from what the replicas in `namespace` tell. Runs until
/// it is dropped: only the leader may run it.
pub async fn keep(
    client: Client,
    namespace: String,
    mut scope: watch::Receiver<Scope>,
    mut findings: watch::Receiver<Arc<Findings>>,
) {
    let (told, mut reports) = watch::channel(Arc::new(Reports::new()));
    let mut observing = std::pin::pin!(observe(client.clone(), namespace, told));
    let mut writer = Writer {
        watched: lateen_api::KINDS.iter().map(|info| watch_kind(&client, info)).collect(),
        client,
        tracked: BTreeMap::new(),
        queue: Queue::new(WRITES_PER_SECOND, BURST),
    };
    let mut look_at = Some(Instant::now());
    loop {
        let look = async {
            match look_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            () = &mut observing => return,
            next = writer.next() => next,
            Ok(()) = findings.changed() => Next::Changed,
            Ok(()) = scope.changed() => Next::Changed,
            Ok(()) = reports.changed() => Next::Changed,
            () = look => Next::Look,
        };
        let world = || World {
            findings: Arc::clone(&findings.borrow()),
            scope: scope.borrow().clone(),
            reports: Arc::clone(&reports.borrow()),
        };
        match next {
            Next::Changed => look_at = Some(soon(look_at)),
            Next::Look => look_at = writer.look(&world()),
            Next::Write(key) => writer.write(key, &world()).await,
        }
    }
}

fn soon(planned: Option<Instant>) -> Instant {
    let soon = Instant::now() + PAUSE;
    planned.map_or(soon, |planned| planned.min(soon))
}

impl Writer {
    /// The next change of an object, or the next object to write. Dropping the future loses nothing.
    async fn next(&mut self) -> Next {
        let (watched, queue) = (&mut self.watched, &mut self.queue);
        loop {
            // Whichever is first; the others lose nothing.
            let changed = futures::future::select_all(watched.iter_mut().map(|watched| watched.changed().boxed()));
            tokio::select! {
                (changed, ..) = changed => if !changed.is_empty() { return Next::Changed },
                key = queue.next() => return Next::Write(key),
            }
        }
    }

    /// Queues every object whose status differs; says when to look again though nothing happened.
    fn look(&mut self, world: &World) -> Option<Instant> {
        let rejections = rejections(&world.reports);
        let mut again: Option<Instant> = None;
        let mut before = std::mem::take(&mut self.tracked);
        for (kind, watched) in self.watched.iter().enumerate() {
            for (name, subject) in watched.facts() {
                let name = name.clone();
                let key = SubjectKey { kind, name };
                let tracked = Tracked::of(before.remove(&key), subject);
                if world.covers(subject) {
                    match tracked.distribution(&key, subject, &world.reports, &rejections) {
                        Some(distribution) => {
                            if world.status(subject, &distribution).is_some() {
                                self.queue.add(key.clone());
                            }
                        }
                        None => {
                            let due = tracked.since + PATIENCE;
                            again = Some(again.map_or(due, |again| again.min(due)));
                        }
                    }
                }
                self.tracked.insert(key, tracked);
            }
        }
        again
    }

    async fn write(&mut self, key: SubjectKey, world: &World) {
        let subject = self
            .watched
            .get(key.kind)
            .and_then(|watched| watched.facts().get(&key.name));
        let (Some(subject), Some(tracked)) = (subject, self.tracked.remove(&key)) else {
            self.queue.done(&key);
            return;
        };
        let tracked = Tracked::of(Some(tracked), subject);
        let status = tracked
            .distribution(&key, subject, &world.reports, &rejections(&world.reports))
            .filter(|_| world.covers(subject))
            .and_then(|distribution| world.status(subject, &distribution));
        self.tracked.insert(key.clone(), tracked);
        let Some(status) = status else {
            self.queue.done(&key);
            return;
        };
        self.queue.write_allowed().await;
        match patch(&self.client, key.info(), subject, status).await {
            Ok(object) => {
                self.queue.done(&key);
                self.watched[key.kind].note(&object);
            }
            Err(kube::Error::Api(status)) if status.code == 404 => self.queue.done(&key),
            // The object changed meanwhile: the watch tells what it is now.
            Err(kube::Error::Api(status)) if status.code == 409 => self.queue.retry(key),
            Err(error) => {
                tracing::warn!(%error, object = %subject.object, "cannot write an object's status");
                self.queue.retry(key);
            }
        }
    }
}

impl World {
    /// Whether the object's status is to be written from here.
    fn covers(&self, subject: &Subject) -> bool {
        let revision = subject.revision.as_deref().unwrap_or(&self.scope.revision);
        let namespace = subject.object.key.namespace.as_ref();
        revision == self.scope.revision && namespace.is_none_or(|of| self.scope.namespaces.contains(of))
    }

    fn status(&self, subject: &Subject, distribution: &Distribution) -> Option<Value> {
        let findings = self.findings.get(&subject.object).map_or(&[][..], Vec::as_slice);
        desired::status(subject, findings, distribution, Timestamp::now())
    }
}

impl Tracked {
    /// Begins anew with a new generation, or with another object of the same name.
    fn of(before: Option<Self>, subject: &Subject) -> Self {
        before
            .filter(|before| before.uid == subject.uid && before.generation == subject.generation)
            .unwrap_or_else(|| Self {
                uid: subject.uid.clone(),
                generation: subject.generation,
                appeared: subject.version,
                since: Instant::now(),
            })
    }

    /// How far the object's generation has come; `None` while it is too early to say.
    fn distribution(
        &self,
        key: &SubjectKey,
        subject: &Subject,
        reports: &Reports,
        rejections: &Rejections<'_>,
    ) -> Option<Distribution> {
        let kind = key.kind_name();
        // A replica that does not know this generation yet speaks of an earlier one.
        let rejected = rejections.get(&subject.object).into_iter().flatten();
        let mut rejected = rejected.filter(|(report, _)| version(&report.seen, &kind) >= self.appeared);
        if let Some((_, rejection)) = rejected.next() {
            return Some(Distribution::Rejected(format!(
                "proxy {} rejected `{}`: {}",
                rejection.proxy, rejection.resource, rejection.reason
            )));
        }
        if desired::is_distributed(&subject.status, subject.generation) {
            return Some(Distribution::Unchanged);
        }
        let waits = |report: &&Report| version(&report.held, &kind) < self.appeared;
        let behind: Vec<&Report> = reports.values().filter(waits).collect();
        if behind.is_empty() && !reports.is_empty() {
            return Some(Distribution::Everywhere {
                proxies: reports.values().map(|report| report.proxies).sum(),
                replicas: reports.len(),
            });
        }
        (self.since.elapsed() >= PATIENCE).then(|| Distribution::Pending(waiting(reports, &behind)))
    }
}

/// What a change waits for, for people.
fn waiting(reports: &Reports, behind: &[&Report]) -> String {
    if reports.is_empty() {
        return "no replica has told yet how far its proxies have come".to_owned();
    }
    let proxies: usize = behind.iter().map(|report| report.behind).sum();
    match behind.iter().find_map(|report| report.behind_proxy.as_deref()) {
        Some(proxy) => format!("waits for {proxies} proxies, of which one is {proxy}"),
        None => format!(
            "waits for {} of {} replicas to read the change",
            behind.len(),
            reports.len()
        ),
    }
}

fn version(versions: &BTreeMap<String, u64>, kind: &str) -> u64 {
    versions.get(kind).copied().unwrap_or_default()
}

fn rejections(reports: &Reports) -> Rejections<'_> {
    let mut all = Rejections::new();
    for report in reports.values() {
        for rejection in &report.rejections {
            all.entry(&rejection.object).or_default().push((report, rejection));
        }
    }
    all
}

fn watch_kind(client: &Client, info: &'static KindInfo) -> Watched<DynamicObject, Subject> {
    let api = Api::all_with(client.clone(), &resource(info));
    Watched::new(api, Config::default(), info.kind, read)
}

fn resource(info: &KindInfo) -> ApiResource {
    ApiResource {
        group: info.group.to_owned(),
        version: info.storage_version.to_owned(),
        api_version: format!("{}/{}", info.group, info.storage_version),
        kind: info.kind.to_owned(),
        plural: info.plural.to_owned(),
    }
}

fn read(object: &DynamicObject) -> Option<(String, Subject)> {
    let meta = &object.metadata;
    let key = ObjectKey {
        namespace: meta
            .namespace
            .as_deref()
            .and_then(|namespace| Namespace::new(namespace).ok()),
        name: Name::new(meta.name.as_deref()?).ok()?,
    };
    let types = object.types.as_ref()?;
    let group = types.api_version.split_once('/').map_or("", |(group, _)| group);
    let labels = meta.labels.as_ref();
    let subject = Subject {
        uid: meta.uid.clone()?,
        generation: meta.generation?,
        version: meta.resource_version.as_deref()?.parse().ok()?,
        revision: labels.and_then(|labels| labels.get("istio.io/rev")).cloned(),
        status: object.data.get("status").cloned().unwrap_or_default(),
        object: ObjectRef {
            kind: types.kind.as_str().into(),
            group: group.into(),
            key: key.clone(),
        },
    };
    Some((key.to_string(), subject))
}

async fn patch(
    client: &Client,
    info: &KindInfo,
    subject: &Subject,
    status: Value,
) -> Result<DynamicObject, kube::Error> {
    let (resource, key) = (resource(info), &subject.object.key);
    let api: Api<DynamicObject> = match &key.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace.as_str(), &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    // The list of conditions is replaced whole: the version keeps anybody else's newer ones.
    let patch = json!({ "metadata": { "resourceVersion": subject.version.to_string() }, "status": status });
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    api.patch_status(key.name.as_str(), &params, &Patch::Merge(&patch))
        .await
}
