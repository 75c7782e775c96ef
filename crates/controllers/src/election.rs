//! Leader election by a Lease of `coordination.k8s.io/v1`.
//!
//! Clocks of different machines are never compared: a Lease is taken over when this process has seen no renewal of it
//! for the Lease's own duration. The holder stops leading when it could not renew for less than that, so that two
//! never lead at once as long as their clocks run equally fast.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use lateen_runtime::Drain;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::MANAGER;

/// Which Lease, who wants it, and the times.
#[derive(Debug, Clone)]
pub struct Election {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub name: String,
    /// Who this is: unique among the candidates, e.g. the pod's name.
    pub identity: String,
    /// How long others wait for a renewal before they take the Lease (15 s).
    pub duration: Duration,
    /// How long the holder leads without a successful renewal (10 s); shorter than `duration`.
    pub renew_within: Duration,
    /// How often the holder renews and the others look (2 s).
    pub interval: Duration,
}

/// Takes part in an election.
pub struct Elector {
    leases: Api<Lease>,
    election: Election,
    state: watch::Sender<Option<Instant>>,
    /// The Lease as last seen, and when it was first seen so.
    seen: Option<(String, Instant)>,
}

/// Whether this process leads. Clones share it.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

/// The outcome of one attempt.
enum Attempt {
    Held,
    HeldByAnother,
}

// === impl Election ===

impl Election {
    /// The usual times.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            renew_within: Duration::from_secs(10),
            interval: Duration::from_secs(2),
        }
    }
}

// === impl Elector ===

impl Elector {
    /// A candidate, and what its controllers ask.
    #[must_use]
    pub fn new(client: Client, election: Election) -> (Self, Leadership) {
        let (state, leadership) = watch::channel(None);
        let elector = Self {
            leases: Api::namespaced(client, &election.namespace),
            election,
            state,
            seen: None,
        };
        (elector, Leadership(leadership))
    }

    /// Takes part until the drain begins, then gives the Lease back, so that another need not wait for its end.
    pub async fn run(mut self, drain: Drain) {
        loop {
            let pause = tokio::select! {
                pause = self.turn() => pause,
                () = drain.started() => break,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = drain.started() => break,
            }
        }
        if self.state.send_replace(None).is_some() {
            match tokio::time::timeout(self.election.interval, self.release()).await {
                Ok(Ok(())) => tracing::info!(lease = self.election.name, "gave the lease back"),
                Ok(Err(error)) => tracing::warn!(%error, lease = self.election.name, "cannot give the lease back"),
                Err(_) => tracing::warn!(lease = self.election.name, "giving the lease back timed out"),
            }
        }
    }

    /// One attempt to get or to renew the Lease; says how long to wait for the next.
    async fn turn(&mut self) -> Duration {
        let asked = Instant::now();
        let led = *self.state.borrow();
        // An answer that comes after the deadline is worth nothing.
        let attempt = tokio::time::timeout(self.election.renew_within / 2, self.attempt()).await;
        match attempt {
            Ok(Ok(Attempt::Held)) => {
                self.state.send_replace(Some(asked + self.election.renew_within));
                if led.is_none() {
                    tracing::info!(lease = self.election.name, identity = self.election.identity, "leads");
                }
            }
            Ok(Ok(Attempt::HeldByAnother)) => self.lose("another holds the lease"),
            Ok(Err(error)) => self.failed(led, &error.to_string()),
            Err(_) => self.failed(led, "no answer in time"),
        }
        self.election.interval
    }

    fn failed(&self, led: Option<Instant>, error: &str) {
        tracing::warn!(error, lease = self.election.name, "cannot reach the lease");
        // Before the deadline, or the next attempt could come too late to notice.
        if led.is_some_and(|until| Instant::now() + self.election.interval >= until) {
            self.lose("the lease could not be renewed");
        }
    }

    fn lose(&self, reason: &'static str) {
        if self.state.send_replace(None).is_some() {
            tracing::warn!(reason, lease = self.election.name, "leads no more");
        }
    }

    async fn attempt(&mut self) -> Result<Attempt, kube::Error> {
        let Some(lease) = self.leases.get_opt(&self.election.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.election.name.clone()),
                    namespace: Some(self.election.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.claim(None)),
            };
            return outcome(self.leases.create(&params(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if !holder.is_empty() && holder != self.election.identity && !self.is_over(&lease, &spec) {
            return Ok(Attempt::HeldByAnother);
        }
        // The version makes the server refuse when anybody was faster.
        let claimed = Lease {
            metadata: lease.metadata,
            spec: Some(self.claim(Some(spec))),
        };
        outcome(self.leases.replace(&self.election.name, &params(), &claimed).await)
    }

    /// Whether its holder has not renewed it for its duration, as seen from here.
    fn is_over(&mut self, lease: &Lease, spec: &LeaseSpec) -> bool {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let now = Instant::now();
        match &self.seen {
            Some((seen, since)) if *seen == version => {
                let duration = spec
                    .lease_duration_seconds
                    .and_then(|seconds| u64::try_from(seconds).ok())
                    .map_or(self.election.duration, Duration::from_secs);
                now.duration_since(*since) >= duration
            }
            _ => {
                self.seen = Some((version, now));
                false
            }
        }
    }

    fn claim(&self, before: Option<LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let before = before.unwrap_or_default();
        let kept = before.holder_identity.as_deref() == Some(&*self.election.identity);
        LeaseSpec {
            holder_identity: Some(self.election.identity.clone()),
            lease_duration_seconds: Some(seconds(self.election.duration)),
            acquire_time: before.acquire_time.filter(|_| kept).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(before.lease_transitions.map_or(0, |count| count + i32::from(!kept))),
            ..LeaseSpec::default()
        }
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.leases.get_opt(&self.election.name).await? else {
            return Ok(());
        };
        if let Some(spec) = lease.spec.as_mut()
            && spec.holder_identity.as_deref() == Some(&*self.election.identity)
        {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            self.leases.replace(&self.election.name, &params(), &lease).await?;
        }
        Ok(())
    }
}

// === impl Leadership ===

impl Leadership {
    /// Whether this process may write now. Without its elector it may not.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.has_changed().is_ok() && self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Returns once this process leads.
    pub async fn gained(&self) {
        let mut state = self.0.clone();
        loop {
            state.mark_unchanged();
            if self.is_held() {
                return;
            }
            if state.changed().await.is_err() {
                // The elector is gone: nobody leads from here any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns once this process does not lead any more.
    pub async fn lost(&self) {
        let mut state = self.0.clone();
        loop {
            let Some(until) = *state.borrow_and_update() else {
                return;
            };
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    /// Runs `work` whenever this process leads, dropping it when it does so no more; returns when the drain begins.
    pub async fn lead<F: Future<Output = ()>>(&self, drain: Drain, mut work: impl FnMut() -> F) {
        loop {
            tokio::select! {
                () = self.gained() => {}
                () = drain.started() => return,
            }
            tokio::select! {
                // In this order: a process that was stopped for a while must not write before it looks at the time.
                biased;
                () = drain.started() => return,
                () = self.lost() => {}
                // Work that ended has nothing to watch any more; it begins anew.
                () = work() => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }
}

/// A conflict means that somebody else was faster.
fn outcome(answer: Result<Lease, kube::Error>) -> Result<Attempt, kube::Error> {
    match answer {
        Ok(_) => Ok(Attempt::Held),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Attempt::HeldByAnother),
        Err(error) => Err(error),
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// Whole seconds, one at least: the API takes no others.
fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX).max(1)
}
