//! Connected proxies, and what each is told to hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lateen_compile::{Classes, Family};
use lateen_model::proxy::ProxyKind;
use lateen_model::{Diagnostic, Proxy, Snapshot};
use lateen_names::{Name, ObjectKey, ObjectRef, SpiffeId};
use lateen_xds::{Dialect, Discovery, Event, Node, Peer, Refusal, ResourceSet, Sets, Subscription, Wanted};
use tokio::sync::{Notify, watch};

use crate::directory::Directory;
use crate::families::{Families, class_name};
use crate::progress::{Progress, ProgressMetrics, Rejection};
use crate::rounds::{Part, Rounds};
use crate::wave::Wave;

/// Reads a Node as a proxy, in the light of a snapshot. The error is what the proxy is told.
pub type ReadProxy = dyn Fn(&Node, &Snapshot) -> Result<Proxy, String> + Send + Sync;

/// Compiles snapshots for connected proxies. Clones share everything.
#[derive(Clone)]
pub struct Distributor {
    read: Arc<ReadProxy>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    state: Arc<Mutex<State>>,
    moved: Arc<Notify>,
    wave: Arc<Wave>,
    metrics: ProgressMetrics,
}

struct State {
    families: Families,
    proxies: BTreeMap<u64, Connected>,
    directory: Directory,
    next: u64,
}

const NOT_COMPLETE: &str = "the configuration is not complete yet; try again";

/// What a snapshot brings to the proxies of a class.
struct ClassPush {
    wanted: Arc<Wanted>,
    noticed: Instant,
    /// What is to be held, marked with the time of the change.
    stamped: Option<Arc<Wanted>>,
    /// What the last proxy that was compared held, and whether that differs. Most of a class held the same.
    compared: Option<(Arc<Wanted>, bool)>,
}

impl ClassPush {
    fn new(wanted: Arc<Wanted>, noticed: Instant) -> Self {
        Self {
            wanted,
            noticed,
            stamped: None,
            compared: None,
        }
    }

    /// What a proxy is to hold that should hold `current` so far, and whether that differs.
    fn next(&mut self, current: &Arc<Wanted>) -> (Arc<Wanted>, bool) {
        let differs = match &self.compared {
            Some((held, differs)) if held.is_same(current) => *differs,
            _ => self.differs(current),
        };
        self.compared = Some((Arc::clone(current), differs));
        let next = if differs {
            self.stamped.get_or_insert_with(|| {
                Arc::new(Wanted {
                    changed_at: Some(self.noticed),
                    ..(*self.wanted).clone()
                })
            })
        } else {
            &self.wanted
        };
        (Arc::clone(next), differs)
    }

    fn differs(&self, current: &Wanted) -> bool {
        let newer = |old: Option<&ResourceSet>, set: &ResourceSet| {
            old.is_none_or(|old| !old.is_same(set) && old.diff(set).next().is_some())
        };
        let any = |sets: &Sets, old: &Sets| sets.iter().any(|(of, set)| newer(old.get(of), set));
        any(&self.wanted.sets, &current.sets)
            || any(&self.wanted.by_name, &current.by_name)
            || self.wanted.by_name.len() != current.by_name.len()
    }
}

/// A type's URL, and the name of a resource of it.
type TypeAndName = (Arc<str>, Arc<str>);

struct Connected {
    /// Where it sits, by which proxies take turns.
    seat: u64,
    node: Arc<Node>,
    proxy: Arc<Proxy>,
    classes: Arc<Classes>,
    wanted: watch::Sender<Arc<Wanted>>,
    /// The snapshot with which its resources last changed: later ones ask nothing of it.
    changed: u64,
    /// The newest snapshot that it said it holds. The stream writes it without waiting for a compilation.
    settled: Arc<AtomicU64>,
    /// What it rejected: hash and its words, by type and name. It counts while the same content is wanted.
    rejected: BTreeMap<TypeAndName, (u64, Arc<str>)>,
}

/// A connected proxy, for debug endpoints.
#[derive(Debug, Clone)]
pub struct ConnectedProxy {
    /// The proxy as it was read from its Node.
    pub proxy: Arc<Proxy>,
    /// Its Node.
    pub node: Arc<Node>,
    /// A short text that is equal for proxies that share everything.
    pub class: String,
    /// What it should hold.
    pub wanted: Arc<Wanted>,
    /// The newest snapshot that it holds completely.
    pub settled: u64,
}

impl Distributor {
    /// A distributor of the snapshots that come over the channel; there is none before all sources have synced.
    pub fn new(
        snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
        read: Box<ReadProxy>,
        metrics: ProgressMetrics,
    ) -> Self {
        let state = State {
            families: Families::default(),
            proxies: BTreeMap::new(),
            directory: Directory::default(),
            next: 1,
        };
        Self {
            read: Arc::from(read),
            snapshots,
            state: Arc::new(Mutex::new(state)),
            moved: Arc::default(),
            wave: Arc::default(),
            metrics,
        }
    }

    /// Pushes new snapshots to all proxies; runs until the channel closes. Compilation runs on a thread of its own.
    ///
    /// A change that comes while nothing is under way is pushed at once. Those that follow wait until the push before has
    /// been taken by most and for a while longer, and are pushed together, to a part of the proxies after the other if
    /// there are many.
    pub async fn run(self) {
        let mut snapshots = self.snapshots.clone();
        let mut rounds = Rounds::new();
        loop {
            let Some((part, noticed)) = rounds.turn() else {
                if snapshots.changed().await.is_err() {
                    return;
                }
                rounds.noticed(Instant::now());
                continue;
            };
            // Not marked as seen: one that comes only now is noticed below, for all parts.
            let Some(snapshot) = snapshots.borrow().clone() else {
                continue;
            };
            let begun = Instant::now();
            let this = self.clone();
            let pushed = tokio::task::spawn_blocking(move || this.push_to(part, &snapshot, noticed)).await;
            if let Err(error) = pushed {
                tracing::error!(%error, "compiling a snapshot failed; proxies keep what they have");
            }
            let mut rest = pin!(self.wave.rest(begun, part.of()));
            let spent = loop {
                tokio::select! {
                    biased;
                    spent = &mut rest => break spent,
                    Ok(()) = snapshots.changed() => rounds.noticed(Instant::now()),
                }
            };
            rounds.pushed(spent);
        }
    }

    /// Compiles a snapshot for every class of connected proxies, and wakes those whose resources changed.
    pub fn push(&self, snapshot: &Arc<Snapshot>, noticed: Instant) {
        self.push_to(Part::ALL, snapshot, noticed);
    }

    /// As [`Self::push`], and wakes those of a part only.
    fn push_to(&self, part: Part, snapshot: &Arc<Snapshot>, noticed: Instant) {
        let mut state = self.lock();
        state.families.turn(snapshot);
        self.read_again(&mut state);
        let State { families, proxies, .. } = &mut *state;
        families.keep_up();
        self.wave.begin(snapshot.generation);
        // What is new to a class, found out once for all its proxies that held the same.
        let mut pushes: HashMap<*const Classes, ClassPush> = HashMap::new();
        for connected in proxies.values_mut().filter(|connected| part.has(connected.seat)) {
            let push = pushes
                .entry(Arc::as_ptr(&connected.classes))
                .or_insert_with(|| ClassPush::new(families.wanted(&connected.classes), noticed));
            connected.wanted.send_if_modified(|current| {
                let (next, differs) = push.next(current);
                if differs {
                    connected.changed = next.snapshot;
                    self.wave.add();
                }
                *current = next;
                differs
            });
        }
        families.forget_before();
        let (sets, resources) = families.sizes();
        self.metrics.sets.set(i64::try_from(sets).unwrap_or(i64::MAX));
        self.metrics.resources.set(i64::try_from(resources).unwrap_or(i64::MAX));
        let generation = families.generation();
        self.metrics.snapshot.set(i64::try_from(generation).unwrap_or(i64::MAX));
        drop(state);
        self.moved.notify_one();
    }

    /// Reads the Nodes of those whom a turn since the last call concerns, and their classes.
    fn read_again(&self, state: &mut State) {
        let State {
            families,
            proxies,
            directory,
            ..
        } = state;
        let turns = families.take_turns();
        let concerned: BTreeSet<u64> = if turns.iter().any(|turn| turn.everybody) {
            proxies.keys().copied().collect()
        } else {
            let each = turns.iter().flat_map(|turn| directory.concerned(&turn.changes));
            each.collect()
        };
        for number in concerned {
            let Some(connected) = proxies.get_mut(&number) else {
                continue;
            };
            let before = Arc::clone(&connected.proxy);
            self.read_one_again(connected, families);
            if !Arc::ptr_eq(&before, &connected.proxy) {
                directory.strike(number, &before);
                directory.enter(number, &connected.proxy);
            }
        }
    }

    fn read_one_again(&self, connected: &mut Connected, families: &mut Families) {
        let Some(snapshot) = families.snapshot().cloned() else {
            return;
        };
        match (self.read)(&connected.node, &snapshot) {
            Ok(mut proxy) => {
                // Once a proxy has tables whole it keeps them so: in between it would have none.
                proxy.capabilities.virtual_hosts = connected.classes.outbound.capabilities.virtual_hosts;
                // What its identity decided when it connected holds for as long as it is connected.
                proxy.options.without_secrets = connected.proxy.options.without_secrets;
                if proxy.service_account.is_empty() {
                    proxy.service_account = Arc::clone(&connected.proxy.service_account);
                }
                if proxy != *connected.proxy {
                    connected.proxy = Arc::new(proxy);
                }
            }
            Err(error) => tracing::warn!(%error, proxy = %connected.node.id, "node no longer makes sense"),
        }
        if let Some(classes) = families.classes_of(&connected.proxy) {
            connected.classes = classes;
        }
    }

    /// How far the connected proxies have come.
    pub fn progress(&self) -> Progress {
        let state = self.lock();
        let newest = state.families.generation();
        let mut progress = Progress {
            newest,
            settled: newest,
            ..Progress::default()
        };
        let mut rejected = BTreeSet::new();
        for connected in state.proxies.values() {
            progress.proxies += 1;
            let settled = connected.settled();
            if settled < newest {
                progress.behind += 1;
                if progress.behind_proxy.is_none() || settled < progress.settled {
                    progress.behind_proxy = Some(connected.node.id.as_str().into());
                }
                progress.settled = progress.settled.min(settled);
            }
            for (type_url, name, reason) in connected.rejections() {
                if !rejected.insert((type_url, name)) {
                    continue;
                }
                progress.rejections.push(Rejection {
                    objects: find_origins(&state.families, type_url, name),
                    type_url: Arc::clone(type_url),
                    name: Arc::clone(name),
                    proxy: connected.node.id.as_str().into(),
                    reason: Arc::clone(reason),
                });
            }
        }
        progress
    }

    /// Returns once [`Self::progress`] may have changed since this last returned. For one caller: of several, each change
    /// wakes one.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    /// All connected proxies, in the order in which they connected.
    pub fn proxies(&self) -> Vec<ConnectedProxy> {
        let state = self.lock();
        state
            .proxies
            .values()
            .map(|connected| ConnectedProxy {
                proxy: Arc::clone(&connected.proxy),
                node: Arc::clone(&connected.node),
                class: class_name(&connected.classes),
                wanted: connected.wanted.borrow().clone(),
                settled: connected.settled(),
            })
            .collect()
    }

    /// Findings of the builds in use.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        self.lock().families.diagnostics()
    }

    /// Which objects made a resource.
    pub fn origins(&self, family: Family, name: &str) -> Arc<[ObjectRef]> {
        self.lock().families.origins(name, family)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn register(&self, node: Node, peer: &Peer, dialect: Dialect) -> Result<Registration, Refusal> {
        let Some(newest) = self.snapshots.borrow().clone() else {
            return Err(Refusal::Unavailable(NOT_COMPLETE.to_owned()));
        };
        let mut state = self.lock();
        let State {
            families,
            proxies,
            directory,
            next,
        } = &mut *state;
        // All proxies turn to a newer one together, with the next push: to turn for one of them would leave the sets of all
        // others behind, which then would have to be selected whole.
        let snapshot = families.snapshot().unwrap_or(&newest).clone();
        families.turn(&snapshot);
        let mut proxy = (self.read)(&node, &snapshot).map_err(Refusal::BadNode)?;
        authorize(&mut proxy, peer, &newest)?;
        proxy.capabilities.virtual_hosts = dialect == Dialect::Delta && proxy.kind == ProxyKind::Sidecar;
        let Some(classes) = families.classes_of(&proxy) else {
            return Err(Refusal::Unavailable(NOT_COMPLETE.to_owned()));
        };
        let (wanted, receiver) = watch::channel(families.wanted(&classes));
        let id = *next;
        *next += 1;
        let settled = Arc::new(AtomicU64::new(0));
        directory.enter(id, &proxy);
        let connected = Connected {
            seat: families.seat(&classes),
            node: Arc::new(node),
            proxy: Arc::new(proxy),
            classes,
            wanted,
            changed: snapshot.generation,
            settled: Arc::clone(&settled),
            rejected: BTreeMap::new(),
        };
        proxies.insert(id, connected);
        self.metrics
            .proxies
            .set(i64::try_from(proxies.len()).unwrap_or(i64::MAX));
        drop(state);
        self.moved.notify_one();
        Ok(Registration {
            id,
            receiver,
            settled,
            state: Arc::clone(&self.state),
            moved: Arc::clone(&self.moved),
            wave: Arc::clone(&self.wave),
            proxies: self.metrics.proxies.clone(),
        })
    }
}

impl Connected {
    /// The newest snapshot that it holds completely, or needed no byte of.
    fn settled(&self) -> u64 {
        let settled = self.settled.load(Ordering::Relaxed);
        if settled >= self.changed {
            self.wanted.borrow().snapshot.max(settled)
        } else {
            settled
        }
    }

    /// What it rejected that it would still be sent: type, name, its words.
    fn rejections(&self) -> Vec<(&Arc<str>, &Arc<str>, &Arc<str>)> {
        if self.rejected.is_empty() {
            return Vec::new();
        }
        let wanted = self.wanted.borrow();
        let counts = |type_url: &str, name: &str, hash: u64| {
            wanted
                .all(type_url)
                .and_then(|set| set.get(name))
                .is_some_and(|resource| resource.hash == hash)
        };
        let rejected = self.rejected.iter();
        rejected
            .filter(|((type_url, name), (hash, _))| counts(type_url, name, *hash))
            .map(|((type_url, name), (_, reason))| (type_url, name, reason))
            .collect()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panic while compiling leaves caches that are merely incomplete.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream gets the configuration of the identity that its certificate proves, and of no other. What the Node says of its
/// account counts only as far as it is the same, and a pod that is known has the account that Kubernetes knows.
fn authorize(proxy: &mut Proxy, peer: &Peer, snapshot: &Snapshot) -> Result<(), Refusal> {
    proxy.options.without_secrets = peer.without_secrets;
    let Some(identity) = &peer.identity else { return Ok(()) };
    if identity.namespace != proxy.namespace {
        return Err(Refusal::Denied(format!(
            "the node is in namespace `{}`, but its certificate is for `{}`",
            proxy.namespace, identity.namespace
        )));
    }
    let account = identity.service_account.as_str();
    if proxy.service_account.is_empty() {
        proxy.service_account = account.into();
    } else if *proxy.service_account != *account {
        return Err(Refusal::Denied(format!(
            "the node claims service account `{}`, but its certificate is for `{account}`",
            proxy.service_account
        )));
    }
    let key = Name::new(&proxy.name).map(|name| ObjectKey {
        namespace: Some(proxy.namespace.clone()),
        name,
    });
    // A Node whose name is none can be no pod's.
    let workload = key
        .ok()
        .and_then(|key| snapshot.workloads.get(&(proxy.cluster.clone(), key)));
    let known = workload.and_then(|workload| workload.identity.as_deref()?.parse::<SpiffeId>().ok());
    match known {
        Some(known) if known.service_account != identity.service_account => Err(Refusal::Denied(format!(
            "the node claims to be pod `{}`, which runs as service account `{}`, but its certificate is for `{account}`",
            proxy.name, known.service_account
        ))),
        _ => Ok(()),
    }
}

impl Discovery for Distributor {
    type Subscription = Registration;

    async fn connect(&self, node: Node, peer: &Peer, dialect: Dialect) -> Result<Registration, Refusal> {
        let this = self.clone();
        let peer = peer.clone();
        tokio::task::spawn_blocking(move || this.register(node, &peer, dialect))
            .await
            .map_err(|error| Refusal::Unavailable(format!("compilation failed: {error}")))?
    }
}

/// A connected proxy's place; dropping it forgets the proxy.
pub struct Registration {
    id: u64,
    receiver: watch::Receiver<Arc<Wanted>>,
    settled: Arc<AtomicU64>,
    state: Arc<Mutex<State>>,
    moved: Arc<Notify>,
    wave: Arc<Wave>,
    proxies: prometheus::IntGauge,
}

impl Subscription for Registration {
    fn wanted(&self) -> watch::Receiver<Arc<Wanted>> {
        self.receiver.clone()
    }

    fn on_event(&mut self, event: &Event) {
        match event {
            Event::Settled { snapshot } => {
                let before = self.settled.fetch_max(*snapshot, Ordering::Relaxed);
                self.wave.taken(before, *snapshot);
                self.moved.notify_one();
            }
            Event::Rejected {
                type_url,
                name,
                reason,
                hash,
            } => {
                let mut state = lock(&self.state);
                let origins = find_origins(&state.families, type_url, name);
                let origins: Vec<String> = origins.iter().map(ToString::to_string).collect();
                tracing::warn!(%type_url, %name, %reason, ?origins, "a proxy rejected a resource");
                if let Some(connected) = state.proxies.get_mut(&self.id) {
                    let of = (Arc::clone(type_url), Arc::clone(name));
                    connected.rejected.insert(of, (*hash, Arc::clone(reason)));
                }
                drop(state);
                self.moved.notify_one();
            }
            _ => {}
        }
    }
}

fn find_origins(families: &Families, type_url: &str, name: &str) -> Arc<[ObjectRef]> {
    let family = Family::ALL.into_iter().find(|family| family.type_url() == type_url);
    family.map_or_else(|| [].into(), |family| families.origins(name, family))
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if let Some(connected) = state.proxies.remove(&self.id) {
            state.directory.strike(self.id, &connected.proxy);
        }
        self.proxies.set(i64::try_from(state.proxies.len()).unwrap_or(i64::MAX));
        drop(state);
        self.moved.notify_one();
    }
}
