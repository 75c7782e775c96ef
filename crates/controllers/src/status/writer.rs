//! Compares, and writes what differs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use lateen_model::status::Statuses;
use lateen_names::{Name, Namespace, ObjectKey, ObjectRef};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::desired::{self, Distribution};
use super::kinds::{self, KINDS, Served, Shape};
use super::{Findings, PATIENCE, Scope, Subject, SubjectKey, Told, gateway_api};
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
    /// By the kind's place in [`KINDS`]; only kinds that are served.
    watched: BTreeMap<usize, Followed>,
    tracked: BTreeMap<SubjectKey, Tracked>,
    queue: Queue<SubjectKey>,
}

/// The objects of a kind, in the version in which it is served.
struct Followed {
    version: &'static str,
    objects: Watched<DynamicObject, Subject>,
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
    statuses: Arc<Statuses>,
    scope: Scope,
    reports: Arc<Reports>,
}

/// Rejections by the objects that they are about.
type Rejections<'a> = BTreeMap<&'a ObjectRef, Vec<(&'a Report, &'a Rejection)>>;

/// Keeps the status of Istio's kinds and of the Gateway API's right, from what is `told` of them and from what the
/// replicas in `namespace` tell. Runs until it is dropped: only the leader may run it.
pub async fn keep(client: Client, namespace: String, mut scope: watch::Receiver<Scope>, told: Told) {
    let Told {
        mut findings,
        mut statuses,
    } = told;
    let (told, mut reports) = watch::channel(Arc::new(Reports::new()));
    let mut observing = std::pin::pin!(observe(client.clone(), namespace, told));
    let (told, mut served) = watch::channel(Arc::new(kinds::always_served()));
    let mut asking = std::pin::pin!(kinds::follow(client.clone(), told));
    let mut writer = Writer {
        watched: BTreeMap::new(),
        client,
        tracked: BTreeMap::new(),
        queue: Queue::new(WRITES_PER_SECOND, BURST),
    };
    served.mark_changed();
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
            () = &mut asking => return,
            Ok(()) = served.changed() => {
                writer.follow(&served.borrow_and_update());
                Next::Changed
            }
            next = writer.next() => next,
            Ok(()) = findings.changed() => Next::Changed,
            Ok(()) = statuses.changed() => Next::Changed,
            Ok(()) = scope.changed() => Next::Changed,
            Ok(()) = reports.changed() => Next::Changed,
            () = look => Next::Look,
        };
        let world = || World {
            findings: Arc::clone(&findings.borrow()),
            statuses: Arc::clone(&statuses.borrow()),
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
    /// Follows the kinds that are served, each in its version.
    fn follow(&mut self, served: &Served) {
        let is_same = |at: &usize, followed: &mut Followed| served.get(at) == Some(&followed.version);
        self.watched.retain(is_same);
        for (at, version) in served {
            self.watched.entry(*at).or_insert_with(|| {
                let kind = &KINDS[*at];
                let api = Api::all_with(self.client.clone(), &kind.resource(version));
                Followed {
                    version,
                    objects: Watched::new(api, Config::default(), kind.kind, read),
                }
            });
        }
    }

    /// The next change of an object, or the next object to write. Dropping the future loses nothing.
    async fn next(&mut self) -> Next {
        let (watched, queue) = (&mut self.watched, &mut self.queue);
        loop {
            // Whichever is first; the others lose nothing.
            let changed = watched.values_mut().map(|followed| followed.objects.changed().boxed());
            let changed: Vec<_> = changed.collect();
            let changed = async {
                match changed.is_empty() {
                    true => std::future::pending().await,
                    false => futures::future::select_all(changed).await.0,
                }
            };
            tokio::select! {
                changed = changed => if !changed.is_empty() { return Next::Changed },
                key = queue.next() => return Next::Write(key),
            }
        }
    }

    /// Queues every object whose status differs; says when to look again though nothing happened.
    fn look(&mut self, world: &World) -> Option<Instant> {
        let rejections = rejections(&world.reports);
        let mut again: Option<Instant> = None;
        let mut before = std::mem::take(&mut self.tracked);
        for (kind, followed) in &self.watched {
            for (name, subject) in followed.objects.facts() {
                let key = SubjectKey {
                    kind: *kind,
                    name: name.clone(),
                };
                let tracked = Tracked::of(before.remove(&key), subject);
                if world.covers(subject) {
                    match tracked.distribution(&key, subject, world, &rejections) {
                        Some(distribution) => {
                            if world.status(&key, subject, &distribution).is_some() {
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
            .get(&key.kind)
            .and_then(|followed| Some((followed.version, followed.objects.facts().get(&key.name)?)));
        let (Some((version, subject)), Some(tracked)) = (subject, self.tracked.remove(&key)) else {
            self.queue.done(&key);
            return;
        };
        let tracked = Tracked::of(Some(tracked), subject);
        let status = tracked
            .distribution(&key, subject, world, &rejections(&world.reports))
            .filter(|_| world.covers(subject))
            .and_then(|distribution| world.status(&key, subject, &distribution));
        self.tracked.insert(key.clone(), tracked);
        let Some(status) = status else {
            self.queue.done(&key);
            return;
        };
        self.queue.write_allowed().await;
        let resource = key.info().resource(version);
        match patch(&self.client, &resource, subject, status).await {
            Ok(object) => {
                self.queue.done(&key);
                if let Some(followed) = self.watched.get_mut(&key.kind) {
                    followed.objects.note(&object);
                }
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

    fn status(&self, key: &SubjectKey, subject: &Subject, distribution: &Distribution) -> Option<Value> {
        let now = Timestamp::now();
        match key.info().shape {
            Shape::Istio => {
                let findings = self.findings.get(&subject.object).map_or(&[][..], Vec::as_slice);
                desired::status(subject, findings, distribution, now)
            }
            shape => {
                // What is known of another generation is not true of this one; what is known will come.
                let told = self.statuses.get(&subject.object);
                let told = told.filter(|told| told.generation == subject.generation)?;
                gateway_api::status(shape, subject, told, distribution, &self.scope.controllers, now)
            }
        }
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
        world: &World,
        rejections: &Rejections<'_>,
    ) -> Option<Distribution> {
        let (kind, reports) = (key.kind_name(), &world.reports);
        // A replica that does not know this generation yet speaks of an earlier one.
        let rejected = rejections.get(&subject.object).into_iter().flatten();
        let mut rejected = rejected.filter(|(report, _)| version(&report.seen, &kind) >= self.appeared);
        if let Some((_, rejection)) = rejected.next() {
            return Some(Distribution::Rejected(format!(
                "proxy {} rejected `{}`: {}",
                rejection.proxy, rejection.resource, rejection.reason
            )));
        }
        if gateway_api::is_distributed_everywhere(key.info().shape, subject, &world.scope.controllers) {
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
    resource: &ApiResource,
    subject: &Subject,
    status: Value,
) -> Result<DynamicObject, kube::Error> {
    let key = &subject.object.key;
    let api: Api<DynamicObject> = match &key.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace.as_str(), resource),
        None => Api::all_with(client.clone(), resource),
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
