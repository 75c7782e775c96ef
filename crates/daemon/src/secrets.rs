//! Who may have Secrets: whose account may read those of its namespace, as the API server says (SubjectAccessReview).
//!
//! A Gateway's key goes to proxies that say they are its. Whoever can run a pod in the namespace could say so; only
//! accounts that could read the Secret anyhow gain nothing by it.
//!
//! Failure policy: the last word counts while the API server does not answer; a proxy about which there is none is told
//! to come again, and keeps what it has meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use lateen_distribute::Distributor;
use lateen_names::SpiffeId;
use lateen_xds::{Discovery, Event, Refusal, Subscription, Wanted};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long a yes counts: nothing is lost when an account that could read a Secret has it a little longer.
const YES: Duration = Duration::from_secs(300);
/// How long a no counts: a role that was just bound is to count soon.
const NO: Duration = Duration::from_secs(5);
/// How often it is asked again for gateways that are connected.
const AGAIN: Duration = Duration::from_secs(10);
/// Questions at once: many proxies connect at once.
const AT_ONCE: usize = 64;

/// A proxy's place at the distributor.
type Registration = <Distributor as Discovery>::Subscription;

/// By namespace and service account: the answer, and until when it counts.
type Answers = HashMap<(String, String), (bool, Instant)>;

/// Asks the API server. Clones share what is known.
#[derive(Clone)]
pub(crate) struct Secrets {
    client: Client,
    asking: Arc<Semaphore>,
    answers: Arc<Mutex<Answers>>,
}

/// What a proxy holds on to: its place, and for gateways the answer that it was given on.
pub(crate) struct Held {
    registration: Registration,
    /// Ends when the answer is another.
    wanted: Option<watch::Receiver<Arc<Wanted>>>,
    _asking: JoinSet<()>,
}

// === impl Secrets ===

impl Secrets {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            asking: Arc::new(Semaphore::new(AT_ONCE)),
            answers: Arc::default(),
        }
    }

    /// Whether an identity may read the Secrets of its namespace.
    ///
    /// # Errors
    /// When the API server does not answer and never has.
    pub(crate) async fn may_read(&self, identity: &SpiffeId) -> Result<bool, Refusal> {
        let key = (identity.namespace.to_string(), identity.service_account.to_string());
        let known = self.known(&key);
        if let Some((answer, until)) = known
            && Instant::now() < until
        {
            return Ok(answer);
        }
        let _turn = self.asking.acquire().await;
        // Another proxy of this account may have asked meanwhile.
        if let Some((answer, until)) = self.known(&key)
            && Instant::now() < until
        {
            return Ok(answer);
        }
        match self.ask(&key).await {
            Ok(answer) => {
                let until = Instant::now() + if answer { YES } else { NO };
                self.answers
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(key, (answer, until));
                Ok(answer)
            }
            Err(error) => match known {
                Some((answer, _)) => Ok(answer),
                None => Err(Refusal::Unavailable(format!(
                    "whether {identity} may read Secrets cannot be asked: {error}"
                ))),
            },
        }
    }

    fn known(&self, key: &(String, String)) -> Option<(bool, Instant)> {
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .copied()
    }

    async fn ask(&self, (namespace, account): &(String, String)) -> Result<bool, kube::Error> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{namespace}:{account}")),
                groups: Some(vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated".to_owned(),
                ]),
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(namespace.clone()),
                    verb: Some("list".to_owned()),
                    resource: Some("secrets".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// Keeps a gateway's stream as long as the answer stays what it was: with another one it connects anew.
    pub(crate) fn hold(&self, registration: Registration, identity: SpiffeId, answer: bool) -> Held {
        let mut from = registration.wanted();
        let (to, wanted) = watch::channel(Arc::clone(&from.borrow_and_update()));
        let this = self.clone();
        let mut asking = JoinSet::new();
        asking.spawn(async move {
            let mut again = tokio::time::interval(AGAIN);
            again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            again.reset();
            loop {
                tokio::select! {
                    changed = from.changed() => match changed {
                        Ok(()) => {
                            let next = Arc::clone(&from.borrow_and_update());
                            to.send_replace(next);
                        }
                        Err(_) => return,
                    },
                    _ = again.tick() => {
                        if this.may_read(&identity).await.is_ok_and(|now| now != answer) {
                            tracing::info!(%identity, may_read_secrets = !answer, "a gateway connects anew");
                            return;
                        }
                    }
                }
            }
        });
        Held {
            registration,
            wanted: Some(wanted),
            _asking: asking,
        }
    }
}

// === impl Held ===

impl Held {
    /// Holds on to the place, whatever is answered about its account later.
    pub(crate) fn plain(registration: Registration) -> Self {
        Self {
            registration,
            wanted: None,
            _asking: JoinSet::new(),
        }
    }
}

impl Subscription for Held {
    fn wanted(&self) -> watch::Receiver<Arc<Wanted>> {
        self.wanted.clone().unwrap_or_else(|| self.registration.wanted())
    }

    fn on_event(&mut self, event: &Event) {
        self.registration.on_event(event);
    }
}
