//! The self-signed root in a Secret, as Istio keeps it: all replicas have the same, whoever comes first makes it.
//!
//! Nothing is decided by who is first to look: the Secret is created only if it is absent, and replaced only if it is
//! still what was read. Who loses reads what is there.

use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use lateen_names::Namespace;
use prometheus::Registry;
use tracing::{info, warn};

use crate::Clock;
use crate::authority::{CaConfig, CaError, CertificateAuthority, RootContents, RootSource, RootStep};

/// The Secret's name.
pub const SECRET: &str = "istio-ca-secret";
/// The Secret's type.
const TYPE: &str = "istio.io/ca-root";
/// How often due work is looked for.
const TICK: Duration = Duration::from_secs(10);
/// How often an API server that does not answer is asked at the start, and how long between.
const ATTEMPTS: u32 = 30;
const BETWEEN: Duration = Duration::from_secs(1);

/// Keeps the root in a Secret.
#[derive(Clone)]
pub struct SecretRoot {
    secrets: Api<Secret>,
    place: PathBuf,
}

/// The root in the Secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretRootError {
    /// The CA cannot work with it.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The API server does not let it be read or written.
    #[error("{place}: {source}", place = place.display())]
    Kube {
        /// Which Secret.
        place: PathBuf,
        /// What the API server said.
        source: Box<kube::Error>,
    },
}

/// The content with the version that it was read in.
struct Read {
    contents: RootContents,
    version: Option<String>,
}

// === impl SecretRoot ===

impl SecretRoot {
    /// The root of the mesh that is run from `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &Namespace) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace.as_str()),
            place: PathBuf::from(format!("secret {namespace}/{SECRET}")),
        }
    }

    /// Opens a CA with the root of the Secret; makes both when there is none. Of several replicas that start at once all
    /// get the same. Waits some time for an API server that does not answer.
    ///
    /// # Errors
    /// When the Secret cannot be read, written or used.
    pub async fn open(
        &self,
        config: CaConfig,
        clock: Clock,
        registry: &Registry,
    ) -> Result<CertificateAuthority, SecretRootError> {
        let config = CaConfig {
            source: RootSource::Held(self.place.clone()),
            ..config
        };
        let mut attempt = 1;
        let contents = loop {
            match self.read_or_make(&config, &clock).await {
                Err(SecretRootError::Kube { source, .. }) if attempt < ATTEMPTS && is_passing(&source) => {
                    warn!(error = %source, attempt, "the API server does not answer yet");
                    tokio::time::sleep(BETWEEN).await;
                    attempt += 1;
                }
                other => break other?,
            }
        };
        Ok(CertificateAuthority::open_held(config, &contents, clock, registry)?)
    }

    /// Keeps a CA that was opened here and the Secret in step; never returns. Changes of the Secret are taken over, due
    /// steps of the root's replacement are taken, and a deleted Secret is put back: without it the next replica would
    /// start with a root that nobody trusts.
    pub async fn keep(self, authority: CertificateAuthority) {
        let selection = Config::default().fields(&format!("metadata.name={SECRET}"));
        let mut events = watcher(self.secrets.clone(), selection).default_backoff().boxed();
        let mut current: Option<RootContents> = None;
        let mut listed = false;
        let mut tick = tokio::time::interval(TICK);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                _ = tick.tick() => {
                    self.take_due_steps(&authority).await;
                    continue;
                }
            };
            let gone = match event {
                Some(Ok(Event::Apply(secret) | Event::InitApply(secret))) => {
                    listed = true;
                    self.take_over(&authority, &mut current, contents(&secret));
                    false
                }
                Some(Ok(Event::Init)) => {
                    listed = false;
                    false
                }
                Some(Ok(Event::Delete(_))) => true,
                Some(Ok(Event::InitDone)) => !listed,
                Some(Err(error)) => {
                    warn!(%error, place = %self.place.display(), "watch interrupted; it begins anew");
                    false
                }
                // A watcher never ends by itself.
                None => std::future::pending().await,
            };
            if gone && let Some(contents) = &current {
                warn!(place = %self.place.display(), "the root's secret was deleted and is put back");
                if let Err(error) = self.create(contents).await {
                    warn!(%error, place = %self.place.display(), "cannot put the root's secret back");
                }
            }
        }
    }

    /// Takes a step of the root's replacement now and has the CA adopt it. When another replica changes the Secret at the
    /// same time, nothing is done.
    ///
    /// # Errors
    /// When the Secret cannot be read or written, or the step does not fit.
    pub async fn advance(&self, authority: &CertificateAuthority, step: RootStep) -> Result<(), SecretRootError> {
        let Some(read) = self.read().await? else { return Ok(()) };
        let after = authority.advance(&read.contents, step)?;
        let secret = self.secret(&after, read.version);
        match self.secrets.replace(SECRET, &PostParams::default(), &secret).await {
            Ok(_) => Ok(authority.adopt(&after)?),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn take_over(&self, authority: &CertificateAuthority, current: &mut Option<RootContents>, contents: RootContents) {
        if current.as_ref() == Some(&contents) {
            return;
        }
        match authority.adopt(&contents) {
            Ok(()) => *current = Some(contents),
            Err(error) => warn!(%error, "the root's secret cannot be used; the last good root stays in use"),
        }
    }

    async fn take_due_steps(&self, authority: &CertificateAuthority) {
        if let Some(step) = authority.due_step()
            && let Err(error) = self.advance(authority, step).await
        {
            warn!(%error, "the rotation of the root is stuck");
        }
    }

    async fn read_or_make(&self, config: &CaConfig, clock: &Clock) -> Result<RootContents, SecretRootError> {
        loop {
            if let Some(read) = self.read().await? {
                return Ok(read.contents);
            }
            let made = RootContents::generate(config, clock())?;
            if self.create(&made).await? {
                info!(place = %self.place.display(), "made a new root");
                return Ok(made);
            }
        }
    }

    async fn read(&self) -> Result<Option<Read>, SecretRootError> {
        let secret = self.secrets.get_opt(SECRET).await.map_err(|error| self.failed(error))?;
        Ok(secret.map(|secret| Read {
            contents: contents(&secret),
            version: secret.metadata.resource_version,
        }))
    }

    /// Creates the Secret; false when it is there already.
    async fn create(&self, contents: &RootContents) -> Result<bool, SecretRootError> {
        match self
            .secrets
            .create(&PostParams::default(), &self.secret(contents, None))
            .await
        {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn secret(&self, contents: &RootContents, version: Option<String>) -> Secret {
        let data = contents
            .expose()
            .map(|(key, text)| (key.to_owned(), ByteString(text.to_vec())));
        Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            type_: Some(TYPE.to_owned()),
            data: Some(data.collect()),
            ..Secret::default()
        }
    }

    fn failed(&self, error: kube::Error) -> SecretRootError {
        SecretRootError::Kube {
            place: self.place.clone(),
            source: Box::new(error),
        }
    }
}

fn contents(secret: &Secret) -> RootContents {
    let data = secret.data.iter().flatten();
    RootContents::new(data.map(|(key, text)| (key.clone(), text.0.clone())))
}

/// Whether it may be otherwise in a moment: a connection that failed, or a server that is not ready.
fn is_passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500 || status.code == 429,
        _ => true,
    }
}
