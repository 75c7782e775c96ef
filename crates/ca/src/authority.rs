//! The certificate authority itself: what it signs with, whom the mesh trusts, and how both change while it runs.

mod held;
mod plugged;
mod self_signed;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lateen_names::{Hostname, Namespace, SpiffeId, TrustDomain};
use lateen_pki::{CaFileError, Chain, Csr, IssueError, KeyError, Serial, SigningCa, TrustBundle, Validity};
use prometheus::Registry;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::Clock;
use crate::files::FileError;
use crate::metrics::Metrics;
use crate::serving::ServingCertificate;

pub use held::RootContents;
pub use self_signed::{RootStep, RotationStage};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How often files are looked at and due work is done.
const TICK: Duration = Duration::from_secs(10);

/// What a CA is to be.
#[derive(Debug, Clone)]
pub struct CaConfig {
    /// The trust domain of every identity that is certified.
    pub trust_domain: TrustDomain,
    /// Where the signing certificate comes from.
    pub source: RootSource,
    /// How long a certificate lasts whose request names no duration (`DEFAULT_WORKLOAD_CERT_TTL`, 24 h).
    pub default_ttl: Duration,
    /// How long a certificate lasts at most (`MAX_WORKLOAD_CERT_TTL`, 90 days).
    pub max_ttl: Duration,
    /// How long a root made here lasts (`CITADEL_SELF_SIGNED_CA_CERT_TTL`, 10 years).
    pub root_ttl: Duration,
    /// When and how a root made here is replaced.
    pub rotation: RotationPolicy,
    /// Host names and addresses of the control plane's own serving certificate.
    pub serving_names: Vec<Hostname>,
    /// Roots that the mesh trusts besides the authority's own: those of signers elsewhere.
    pub also_trusted: TrustBundle,
}

/// Where the signing certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// A root of its own, made on first use and kept in this directory: `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`.
    SelfSigned(PathBuf),
    /// A directory with `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, `cert-chain.pem` and, where something is revoked,
    /// `ca-crl.pem`, as Istio's `cacerts`. Changes are taken over while running.
    PluggedIn(PathBuf),
    /// A root of its own that somebody else keeps, such as a Secret's keeper: it comes with
    /// [`CertificateAuthority::open_held`] and [`CertificateAuthority::adopt`]. The path names its place in errors.
    Held(PathBuf),
}

/// When and how a root made here is replaced. A new root is first only trusted; when that has reached everybody, it
/// signs; when the last certificate of the old root has ended, only the new one is trusted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RotationPolicy {
    /// The share of a root's life, in percent, that is left when its successor is made
    /// (`CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE`, 20).
    pub grace_percent: u8,
    /// How long a new root is only trusted before it signs (48 h). It must have reached every proxy by then: at the
    /// latest an agent learns of it when it renews its certificate, so this should be longer than
    /// [`CaConfig::default_ttl`].
    pub distribute_for: Duration,
}

/// The CA cannot start, or cannot change as asked.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file or directory cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file's content cannot be used.
    #[error("{directory}/{source}", directory = directory.display())]
    Content {
        /// The directory of the CA.
        directory: PathBuf,
        /// Which file, and what is wrong with it.
        source: CaFileError,
    },
    /// The key of a CA is gone while its certificate is there.
    #[error("{path} is missing while ca-cert.pem is there: restore it, or remove the whole directory for a new root", path = .0.display())]
    KeyMissing(PathBuf),
    /// A key cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A certificate of the CA's own cannot be made.
    #[error("cannot make a certificate of the CA's own: {0}")]
    Issue(#[from] IssueError),
    /// The TLS library refuses the serving certificate.
    #[error("cannot serve with the certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// The metrics are registered already.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Only a root that is kept in a directory of its own can be replaced from here.
    #[error("the root is kept in {directory}: replace it there", directory = .0.display())]
    NotOurRoot(PathBuf),
    /// The step does not fit where the rotation stands.
    #[error("cannot {step}: the rotation of the root stands at `{stage}`")]
    WrongStage {
        /// What was asked.
        step: &'static str,
        /// Where it stands.
        stage: &'static str,
    },
}

/// A certificate as issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The leaf and its intermediates.
    pub chain: Chain,
    /// The roots that the holder is to trust.
    pub bundle: Arc<TrustBundle>,
}

/// The certificate authority. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct CertificateAuthority(Arc<Inner>);

struct Inner {
    config: CaConfig,
    clock: Clock,
    state: watch::Sender<Arc<State>>,
    bundle: watch::Sender<Arc<TrustBundle>>,
    serving: ServingCertificate,
    metrics: Metrics,
    /// One change at a time; holds what of the files was last seen, so that the same failure is told once.
    changing: Mutex<plugged::Seen>,
}

/// What the CA works with; replaced whole.
struct State {
    signing: Arc<SigningCa>,
    /// Every root that is trusted, the signing one's included.
    bundle: Arc<TrustBundle>,
    rotation: self_signed::Rotation,
}

// === impl CaConfig ===

impl CaConfig {
    /// Istio's defaults, and the names of a control plane in `istio-system`.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, source: RootSource) -> Self {
        let serving_names = Namespace::new("istio-system")
            .map(|namespace| control_plane_names(&namespace, None))
            .unwrap_or_default();
        Self {
            trust_domain,
            source,
            default_ttl: DAY,
            max_ttl: 90 * DAY,
            root_ttl: 3650 * DAY,
            rotation: RotationPolicy::default(),
            serving_names,
            also_trusted: TrustBundle::default(),
        }
    }

    /// All that the mesh trusts.
    fn trusted(&self, own: &Arc<TrustBundle>) -> Arc<TrustBundle> {
        if self.also_trusted.roots().is_empty() {
            return Arc::clone(own);
        }
        let mut all = TrustBundle::clone(own);
        for root in self.also_trusted.roots() {
            all.add(root.clone());
        }
        Arc::new(all)
    }

    /// Where the signing certificate is kept, for errors.
    fn place(&self) -> &Path {
        match &self.source {
            RootSource::SelfSigned(place) | RootSource::PluggedIn(place) | RootSource::Held(place) => place,
        }
    }
}

impl Default for RotationPolicy {
    fn default() -> Self {
        Self {
            grace_percent: 20,
            distribute_for: 2 * DAY,
        }
    }
}

/// The host names under which proxies know the control plane in `namespace`: `istiod.<ns>.svc`, the revision's, and the
/// name of old (`istio-pilot`).
#[must_use]
pub fn control_plane_names(namespace: &Namespace, revision: Option<&str>) -> Vec<Hostname> {
    let revision = revision.filter(|revision| !matches!(*revision, "" | "default"));
    let services = [
        Some("istiod".to_owned()),
        revision.map(|name| format!("istiod-{name}")),
        Some("istio-pilot".to_owned()),
    ];
    services
        .into_iter()
        .flatten()
        .flat_map(|service| {
            [
                format!("{service}.{namespace}.svc"),
                format!("{service}.{namespace}.svc.cluster.local"),
            ]
        })
        .filter_map(|name| Hostname::new(&name).ok())
        .collect()
}

// === impl Issued ===

impl Issued {
    /// PEM texts in the order that Istio's agents expect: the leaf, its intermediates one by one, and every root in one
    /// last text.
    #[must_use]
    pub fn cert_chain(&self) -> Vec<String> {
        let mut texts: Vec<String> = self
            .chain
            .certificates()
            .iter()
            .map(|certificate| certificate.pem())
            .collect();
        texts.push(self.bundle.pem());
        texts
    }
}

// === impl CertificateAuthority ===

impl CertificateAuthority {
    /// Opens the CA: loads its files, or makes a root on first use, and makes the serving certificate. Several processes
    /// may open one directory at once: all get the same root.
    ///
    /// # Errors
    /// When a file cannot be read, written or used, or the registry has a CA's metrics already.
    pub fn open(config: CaConfig, clock: Clock, registry: &Registry) -> Result<Self, CaError> {
        let now = clock();
        let mut seen = plugged::Seen::default();
        let state = match &config.source {
            RootSource::SelfSigned(directory) => self_signed::open(directory, &config, now)?,
            RootSource::PluggedIn(directory) => plugged::open(directory, &mut seen, now)?,
            RootSource::Held(place) => return Err(CaError::KeyMissing(place.clone())),
        };
        Self::with_state(config, state, seen, clock, registry)
    }

    fn with_state(
        config: CaConfig,
        state: State,
        seen: plugged::Seen,
        clock: Clock,
        registry: &Registry,
    ) -> Result<Self, CaError> {
        let metrics = Metrics::register(registry, &clock)?;
        let now = clock();
        let serving = ServingCertificate::new(&state.signing, &config, now)?;
        let bundle = watch::Sender::new(config.trusted(&state.bundle));
        let inner = Inner {
            config,
            clock,
            state: watch::Sender::new(Arc::new(state)),
            bundle,
            serving,
            metrics,
            changing: Mutex::new(seen),
        };
        let authority = Self(Arc::new(inner));
        authority.0.record_ends();
        authority.tick();
        Ok(authority)
    }

    /// Certifies `identity` for the key of `request`. `ttl` is the duration that the caller asks for: none or zero means
    /// the default, and the maximum bounds it.
    ///
    /// The caller must have proved the identity; the trust domain is always the CA's own.
    ///
    /// # Errors
    /// When the CA has expired, or the identity cannot be written in a certificate.
    pub fn issue(&self, request: &Csr, identity: &SpiffeId, ttl: Option<Duration>) -> Result<Issued, IssueError> {
        let config = &self.0.config;
        let ttl = self.lifetime(ttl);
        let identity = SpiffeId {
            trust_domain: config.trust_domain.clone(),
            ..identity.clone()
        };
        let state = self.state();
        let validity = Validity::starting((self.0.clock)(), ttl);
        let leaf = state
            .signing
            .issue(request.public_key(), &identity, validity, new_serial())?;
        Ok(Issued {
            chain: state.signing.chain_of(leaf),
            bundle: Arc::clone(&self.0.bundle.borrow()),
        })
    }

    /// How long a certificate is to last for which a caller asks for this duration: none or zero means the default, and
    /// the maximum bounds it.
    pub(crate) fn lifetime(&self, asked: Option<Duration>) -> Duration {
        let config = &self.0.config;
        let asked = asked.filter(|asked| !asked.is_zero());
        asked.unwrap_or(config.default_ttl).min(config.max_ttl)
    }

    /// The trusted roots, and every change of them.
    #[must_use]
    pub fn trust_bundle(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.0.bundle.subscribe()
    }

    /// The trusted roots in PEM, as `istio-ca-root-cert` and the proxies' `ROOTCA` hold them.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        self.0.bundle.borrow().pem()
    }

    /// The trust domain of every identity that this CA certifies.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.config.trust_domain
    }

    /// The control plane's own certificate, renewed as long as [`CertificateAuthority::run`] runs.
    #[must_use]
    pub fn serving(&self) -> &ServingCertificate {
        &self.0.serving
    }

    /// A TLS configuration that serves with the control plane's own certificate and verifies a client's certificate, if
    /// it presents one, against the roots that are trusted at that moment. ALPN is `h2`.
    ///
    /// # Errors
    /// When the TLS library refuses its own defaults.
    pub fn server_tls_config(&self) -> Result<Arc<rustls::ServerConfig>, CaError> {
        Ok(self
            .0
            .serving
            .server_tls_config(self.trust_bundle(), Arc::clone(&self.0.clock))?)
    }

    /// Where the rotation of the root stands.
    #[must_use]
    pub fn rotation(&self) -> RotationStage {
        self.state().rotation.stage()
    }

    /// Begins to replace the root: makes a new one and has it trusted. It signs after
    /// [`RotationPolicy::distribute_for`], or when [`CertificateAuthority::switch_root`] is called.
    ///
    /// # Errors
    /// When the root is plugged in, a rotation is under way, or a file cannot be written.
    pub fn rotate_root(&self) -> Result<(), CaError> {
        self.rotate(RootStep::Announce)
    }

    /// Signs with the new root from now on. Every proxy must trust it by now.
    ///
    /// # Errors
    /// When no new root is there, or a file cannot be written.
    pub fn switch_root(&self) -> Result<(), CaError> {
        self.rotate(RootStep::Switch)
    }

    /// Trusts no root any more but the one that signs. No certificate of another may be in use by now.
    ///
    /// # Errors
    /// When no older root is there, or a file cannot be written.
    pub fn retire_old_roots(&self) -> Result<(), CaError> {
        self.rotate(RootStep::Retire)
    }

    /// Does what is due: takes over changed files, advances the rotation of the root, renews the serving certificate.
    /// What fails is logged and tried again the next time. [`CertificateAuthority::run`] calls it.
    pub fn tick(&self) {
        let inner = &self.0;
        let now = (inner.clock)();
        match &inner.config.source {
            RootSource::SelfSigned(directory) => {
                // Bounded: from one root to the next there are three steps.
                for _ in 0..3 {
                    let Some(step) = self_signed::due(&self.state(), &inner.config, now) else {
                        break;
                    };
                    if let Err(error) = self.rotate(step) {
                        warn!(%error, directory = %directory.display(), "the rotation of the root is stuck");
                        break;
                    }
                }
            }
            // Its keeper does what is due.
            RootSource::Held(_) => {}
            RootSource::PluggedIn(directory) => {
                let mut seen = inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
                match plugged::reload(directory, &mut seen, now) {
                    Ok(Some(state)) => {
                        info!(directory = %directory.display(), signing = ?state.signing.certificate(), "took over the plugged-in CA's new files");
                        inner.publish(state);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        warn!(%error, "the plugged-in CA's files cannot be used; the last good ones stay in use")
                    }
                }
            }
        }
        if let Err(error) = inner.serving.renew_if_due(&self.state().signing, &inner.config, now) {
            warn!(%error, "the control plane's own certificate cannot be renewed");
        }
    }

    /// Keeps the CA going; never returns. To be run by one supervised task.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(TICK).await;
            let authority = self.clone();
            // Reads and writes files.
            if let Err(error) = tokio::task::spawn_blocking(move || authority.tick()).await {
                warn!(%error, "the CA's regular work failed");
            }
        }
    }

    /// Counts lines of the audit log that could not be written.
    #[must_use]
    pub fn audit_lost(&self) -> prometheus::IntCounter {
        self.0.metrics.audit_lost.clone()
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.0.clock)()
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.0.state.borrow())
    }

    fn rotate(&self, step: RootStep) -> Result<(), CaError> {
        let inner = &self.0;
        let RootSource::SelfSigned(directory) = &inner.config.source else {
            return Err(CaError::NotOurRoot(inner.config.place().to_owned()));
        };
        let _changing = inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (inner.clock)();
        let state = self_signed::advance(&self.state(), step, directory, &inner.config, now)?;
        info!(stage = state.rotation.stage().name(), signing = ?state.signing.certificate(), roots = state.bundle.roots().len(), "the rotation of the root went on");
        inner.publish(state);
        inner.serving.renew_if_due(&self.state().signing, &inner.config, now)
    }
}

// === impl Inner ===

impl Inner {
    fn publish(&self, state: State) {
        let bundle = self.config.trusted(&state.bundle);
        self.state.send_replace(Arc::new(state));
        self.bundle.send_if_modified(|current| {
            let changed = *current != bundle;
            *current = bundle;
            changed
        });
        self.record_ends();
    }

    fn record_ends(&self) {
        let state = Arc::clone(&self.state.borrow());
        if let Some(root) = state.signing.roots().roots().first() {
            self.metrics.root_end.set(root.not_after());
        }
        self.metrics.chain_end.set(state.signing.certificate().not_after());
    }
}

/// A serial number no one can guess.
pub(crate) fn new_serial() -> Serial {
    Serial::new(rand::random())
}
