//! Compares, and writes what differs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use lateen_names::ObjectKey;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::desired::{self, Distribution};
use super::{PATIENCE, Subject, SubjectKey};
use crate::MANAGER;
use crate::progress::{Rejection, Report, observe};
use crate::queue::Queue;

/// All objects that have a status.
pub type Subjects = BTreeMap<SubjectKey, Arc<Subject>>;

type Reports = BTreeMap<String, Report>;

const WRITES_PER_SECOND: u32 = 50;
const BURST: u32 = 100;
/// Everything is compared at most this often.
const PAUSE: Duration = Duration::from_millis(100);

/// What is remembered of an object.
struct Tracked {
    uid: Arc<str>,
    generation: i64,
    /// The version in which this generation was first seen.
    appeared: u64,
    since: Instant,
    /// What was written, with the version that it made, until the watch tells of it.
    written: Option<(u64, Value)>,
    /// Nothing was to be written for these.
    right: Option<(Arc<Subject>, Distribution)>,
}

struct Writer {
    client: Client,
    tracked: BTreeMap<SubjectKey, Tracked>,
}

/// Rejections by kind and key of the objects that they are about.
type Rejections<'a> = BTreeMap<(&'a str, &'a ObjectKey), Vec<(&'a Report, &'a Rejection)>>;

/// Keeps the status of all subjects right, from what the replicas in `namespace` tell. Runs until it is dropped: only
/// the leader may run it.
pub async fn keep(client: Client, namespace: String, mut subjects: watch::Receiver<Arc<Subjects>>) {
    let (told, mut reports) = watch::channel(Arc::new(Reports::new()));
    let mut observing = std::pin::pin!(observe(client.clone(), namespace, told));
    let mut writer = Writer {
        client,
        tracked: BTreeMap::new(),
    };
    let mut queue = Queue::new(WRITES_PER_SECOND, BURST);
    let mut look_at = Some(Instant::now());
    loop {
        let look = async {
            match look_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = &mut observing => return,
            Ok(()) = subjects.changed() => look_at = Some(soon(look_at)),
            Ok(()) = reports.changed() => look_at = Some(soon(look_at)),
            () = look => {
                let (subjects, reports) = (Arc::clone(&subjects.borrow_and_update()), Arc::clone(&reports.borrow_and_update()));
                look_at = writer.look(&subjects, &reports, &mut queue);
            }
            key = queue.next() => {
                queue.write_allowed().await;
                let (subjects, reports) = (Arc::clone(&subjects.borrow()), Arc::clone(&reports.borrow()));
                writer.write(key, &subjects, &reports, &mut queue).await;
            }
        }
    }
}

fn soon(planned: Option<Instant>) -> Instant {
    let soon = Instant::now() + PAUSE;
    planned.map_or(soon, |planned| planned.min(soon))
}

impl Writer {
    /// Queues every object whose status differs; says when to look again though nothing happened.
    fn look(&mut self, subjects: &Subjects, reports: &Reports, queue: &mut Queue<SubjectKey>) -> Option<Instant> {
        self.tracked.retain(|key, _| subjects.contains_key(key));
        let rejections = rejections(reports);
        let mut again: Option<Instant> = None;
        for (key, subject) in subjects {
            let tracked = self.tracked.entry(key.clone()).or_insert_with(|| Tracked::new(subject));
            tracked.follow(subject);
            let Some(distribution) = tracked.distribution(key, subject, reports, &rejections) else {
                let due = tracked.since + PATIENCE;
                again = Some(again.map_or(due, |again| again.min(due)));
                continue;
            };
            if tracked.is_right(subject, &distribution) {
                continue;
            }
            if desired::status(subject, tracked.current(subject), &distribution, Timestamp::now()).is_some() {
                queue.add(key.clone());
            } else {
                tracked.right = Some((Arc::clone(subject), distribution));
            }
        }
        again
    }

    async fn write(&mut self, key: SubjectKey, subjects: &Subjects, reports: &Reports, queue: &mut Queue<SubjectKey>) {
        let (Some(subject), Some(tracked)) = (subjects.get(&key), self.tracked.get_mut(&key)) else {
            queue.done(&key);
            return;
        };
        tracked.follow(subject);
        let status = tracked
            .distribution(&key, subject, reports, &rejections(reports))
            .and_then(|distribution| {
                desired::status(subject, tracked.current(subject), &distribution, Timestamp::now())
            });
        let (Some(status), Some(resource)) = (status, resource(&key)) else {
            queue.done(&key);
            return;
        };
        let version = tracked
            .written
            .as_ref()
            .map_or(subject.version, |(version, _)| (*version).max(subject.version));
        match patch(&self.client, &key, &resource, version, status).await {
            Ok(object) => {
                let version = object
                    .metadata
                    .resource_version
                    .as_deref()
                    .and_then(|text| text.parse().ok());
                tracked.written = version.map(|version| (version, object.data["status"].clone()));
                queue.done(&key);
            }
            Err(kube::Error::Api(status)) if status.code == 404 => queue.done(&key),
            // The object changed meanwhile: the watch tells what it is now.
            Err(kube::Error::Api(status)) if status.code == 409 => queue.retry(key),
            Err(error) => {
                tracing::warn!(%error, kind = key.kind, object = %key.key, "cannot write an object's status");
                queue.retry(key);
            }
        }
    }
}

impl Tracked {
    fn new(subject: &Subject) -> Self {
        Self {
            uid: Arc::clone(&subject.uid),
            generation: subject.generation,
            appeared: subject.version,
            since: Instant::now(),
            written: None,
            right: None,
        }
    }

    /// Begins anew with a new generation, or with another object of the same name.
    fn follow(&mut self, subject: &Subject) {
        if (&self.uid, self.generation) != (&subject.uid, subject.generation) {
            *self = Self::new(subject);
        }
        if self
            .written
            .as_ref()
            .is_some_and(|(version, _)| *version <= subject.version)
        {
            self.written = None;
        }
    }

    /// The status as it stands, own writes included.
    fn current<'a>(&'a self, subject: &'a Subject) -> &'a Value {
        self.written.as_ref().map_or(&subject.status, |(_, status)| status)
    }

    fn is_right(&self, subject: &Arc<Subject>, distribution: &Distribution) -> bool {
        self.right
            .as_ref()
            .is_some_and(|(right, of)| Arc::ptr_eq(right, subject) && of == distribution)
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
        let rejected = rejections.get(&(key.kind, &key.key)).into_iter().flatten();
        let mut rejected = rejected.filter(|(report, _)| version(&report.seen, &kind) >= self.appeared);
        if let Some((_, rejection)) = rejected.next() {
            return Some(Distribution::Rejected(format!(
                "proxy {} rejected `{}`: {}",
                rejection.proxy, rejection.resource, rejection.reason
            )));
        }
        if desired::is_distributed(self.current(subject), subject.generation) {
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
            let about = (&*rejection.object.kind, &rejection.object.key);
            all.entry(about).or_default().push((report, rejection));
        }
    }
    all
}

fn resource(key: &SubjectKey) -> Option<ApiResource> {
    let info = lateen_api::KINDS
        .iter()
        .find(|info| info.group == key.group && info.kind == key.kind)?;
    Some(ApiResource {
        group: info.group.to_owned(),
        version: info.storage_version.to_owned(),
        api_version: format!("{}/{}", info.group, info.storage_version),
        kind: info.kind.to_owned(),
        plural: info.plural.to_owned(),
    })
}

async fn patch(
    client: &Client,
    key: &SubjectKey,
    resource: &ApiResource,
    version: u64,
    status: Value,
) -> Result<DynamicObject, kube::Error> {
    let api: Api<DynamicObject> = match &key.key.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace.as_str(), resource),
        None => Api::all_with(client.clone(), resource),
    };
    // The list of conditions is replaced whole: the version keeps anybody else's newer ones.
    let patch = json!({ "metadata": { "resourceVersion": version.to_string() }, "status": status });
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    api.patch_status(key.key.name.as_str(), &params, &Patch::Merge(&patch))
        .await
}
