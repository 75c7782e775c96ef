//! A root made here: kept in a directory, replaced in three steps that each survive a crash.
//!
//! `ca-cert.pem` and `ca-key.pem` sign; `root-cert.pem` holds every trusted root. While a rotation is under way
//! `next-ca-cert.pem` and `next-ca-key.pem` hold the successor and `rotation.json` says how far it got. Certificates of
//! both roots verify from the first step to the last.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_pki::{CLOCK_SKEW_GRACE, CaFileError, CaFileProblem, PrivateKey, SigningCa, TrustBundle, Validity};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{CaConfig, CaError, State, new_serial};
use crate::files;

pub(super) const CERT: &str = "ca-cert.pem";
pub(super) const KEY: &str = "ca-key.pem";
pub(super) const ROOTS: &str = "root-cert.pem";
pub(super) const NEXT_CERT: &str = "next-ca-cert.pem";
pub(super) const NEXT_KEY: &str = "next-ca-key.pem";
pub(super) const ROTATION: &str = "rotation.json";

/// Where the replacement of the root stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationStage {
    /// No replacement is under way.
    Stable,
    /// A new root is trusted beside the one that signs.
    Announced {
        /// When the new root begins to sign.
        switch_at: SystemTime,
    },
    /// The new root signs; the old one is still trusted.
    Switched {
        /// When the old root's last certificate has ended.
        retire_at: SystemTime,
    },
}

/// The stage, with what it needs.
#[derive(Default)]
pub(super) enum Rotation {
    #[default]
    Stable,
    Announced {
        next: Arc<SigningCa>,
        switch_at: SystemTime,
        old: String,
    },
    Switched {
        retire_at: SystemTime,
        old: String,
    },
}

/// `rotation.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    stage: RecordedStage,
    /// When the next step is due, in seconds since 1970.
    due: u64,
    /// The old root's serial number.
    old: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum RecordedStage {
    Announced,
    Switched,
}

/// One step of a root's replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootStep {
    /// Make a new root and have it trusted.
    Announce,
    /// Sign with the new root.
    Switch,
    /// Trust the old root no more.
    Retire,
}

// === impl RotationStage ===

impl RotationStage {
    /// The stage's name for logs and errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Announced { .. } => "announced",
            Self::Switched { .. } => "switched",
        }
    }
}

impl Rotation {
    pub(super) fn stage(&self) -> RotationStage {
        match self {
            Self::Stable => RotationStage::Stable,
            Self::Announced { switch_at, .. } => RotationStage::Announced { switch_at: *switch_at },
            Self::Switched { retire_at, .. } => RotationStage::Switched { retire_at: *retire_at },
        }
    }
}

impl RootStep {
    /// The state after the step; whoever keeps the root writes down what is new in it.
    ///
    /// # Errors
    /// When the step does not fit where the rotation stands, or a root cannot be made.
    pub(super) fn of(self, state: &State, config: &CaConfig, now: SystemTime) -> Result<State, CaError> {
        let wrong_stage = |step| CaError::WrongStage {
            step,
            stage: state.rotation.stage().name(),
        };
        match (self, &state.rotation) {
            (Self::Announce, Rotation::Stable) => {
                let next = new_root(config, PrivateKey::generate()?, now)?;
                let mut bundle = (*state.bundle).clone();
                bundle.add(next.certificate().clone());
                Ok(State {
                    signing: Arc::clone(&state.signing),
                    bundle: Arc::new(bundle),
                    rotation: Rotation::Announced {
                        next: Arc::new(next),
                        switch_at: now + config.rotation.distribute_for,
                        old: state.signing.certificate().serial().to_owned(),
                    },
                })
            }
            (Self::Switch, Rotation::Announced { next, old, .. }) => Ok(State {
                signing: Arc::clone(next),
                bundle: Arc::clone(&state.bundle),
                rotation: Rotation::Switched {
                    retire_at: state.signing.not_after().min(now + config.max_ttl + CLOCK_SKEW_GRACE),
                    old: old.clone(),
                },
            }),
            (Self::Retire, Rotation::Switched { old, .. }) => {
                let kept = state.bundle.roots().iter().filter(|root| root.serial() != old).cloned();
                Ok(State {
                    signing: Arc::clone(&state.signing),
                    bundle: Arc::new(TrustBundle::new(kept)),
                    rotation: Rotation::Stable,
                })
            }
            (Self::Announce, _) => Err(wrong_stage("make a new root")),
            (Self::Switch, _) => Err(wrong_stage("sign with a new root")),
            (Self::Retire, _) => Err(wrong_stage("retire the old root")),
        }
    }
}

/// Loads the root and where its rotation stands, or makes a root. Whatever is due is done at once.
///
/// # Errors
/// When a file cannot be read, written or used.
pub(super) fn open(directory: &Path, config: &CaConfig, now: SystemTime) -> Result<State, CaError> {
    files::ensure_directory(directory)?;
    let mut state = load(directory, config, now)?;
    for _ in 0..3 {
        let Some(step) = due(&state, config, now) else { break };
        state = advance(&state, step, directory, config, now)?;
    }
    Ok(state)
}

/// The step that is due at `now`, if any.
pub(super) fn due(state: &State, config: &CaConfig, now: SystemTime) -> Option<RootStep> {
    let validity = state.signing.certificate().validity();
    match &state.rotation {
        Rotation::Stable => {
            let left = validity.not_after.duration_since(now).unwrap_or_default();
            let grace = validity.length() / 100 * u32::from(config.rotation.grace_percent.min(100));
            (left <= grace).then_some(RootStep::Announce)
        }
        Rotation::Announced { switch_at, .. } => {
            (*switch_at <= now || validity.not_after <= now).then_some(RootStep::Switch)
        }
        Rotation::Switched { retire_at, .. } => (*retire_at <= now).then_some(RootStep::Retire),
    }
}

/// Takes a step, and writes the files in an order from which [`load`] tells how far a step got that was cut short.
pub(super) fn advance(
    state: &State,
    step: RootStep,
    directory: &Path,
    config: &CaConfig,
    now: SystemTime,
) -> Result<State, CaError> {
    let after = step.of(state, config, now)?;
    let path = |name| directory.join(name);
    match &after.rotation {
        Rotation::Announced { next, switch_at, old } => {
            files::replace(&path(NEXT_KEY), next.key().expose_pem().as_bytes())?;
            files::replace(&path(NEXT_CERT), next.certificate().pem().as_bytes())?;
            files::replace(&path(ROOTS), after.bundle.pem().as_bytes())?;
            let record = encode_record(RecordedStage::Announced, *switch_at, old);
            files::replace(&path(ROTATION), &record)?;
        }
        Rotation::Switched { retire_at, old } => {
            files::rename(&path(NEXT_KEY), &path(KEY))?;
            files::rename(&path(NEXT_CERT), &path(CERT))?;
            let record = encode_record(RecordedStage::Switched, *retire_at, old);
            files::replace(&path(ROTATION), &record)?;
        }
        Rotation::Stable => {
            files::replace(&path(ROOTS), after.bundle.pem().as_bytes())?;
            files::remove(&path(ROTATION))?;
        }
    }
    Ok(after)
}

pub(super) fn new_root(config: &CaConfig, key: PrivateKey, now: SystemTime) -> Result<SigningCa, CaError> {
    Ok(SigningCa::self_signed(
        &config.trust_domain,
        key,
        Validity::starting(now, config.root_ttl),
        new_serial(),
    )?)
}

pub(super) fn encode_record(stage: RecordedStage, due: SystemTime, old: &str) -> Vec<u8> {
    let due = due.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    // Three plain fields: always has a JSON form.
    serde_json::to_vec(&Record {
        stage,
        due,
        old: old.to_owned(),
    })
    .unwrap_or_default()
}

fn load(directory: &Path, config: &CaConfig, now: SystemTime) -> Result<State, CaError> {
    let signing = load_signing(directory, config, now)?;
    let bundle = load_roots(directory, &signing)?;
    let record = files::read_if_there(&directory.join(ROTATION))?.and_then(|json| read_record(directory, &json));
    let next = load_next(directory)?;
    Ok(state_of(signing, bundle, next, record, config, now))
}

/// The state, with where the rotation stands, from what was kept of it.
pub(super) fn state_of(
    signing: SigningCa,
    mut bundle: TrustBundle,
    next: Option<SigningCa>,
    record: Option<Record>,
    config: &CaConfig,
    now: SystemTime,
) -> State {
    let at = |record: &Record| SystemTime::UNIX_EPOCH + Duration::from_secs(record.due);
    let rotation = match (next, record) {
        (Some(next), Some(record)) if record.stage == RecordedStage::Announced => Rotation::Announced {
            next: Arc::new(next),
            switch_at: at(&record),
            old: record.old,
        },
        // The announcement was cut short: all of the time to distribute it is still needed.
        (Some(next), _) => Rotation::Announced {
            next: Arc::new(next),
            switch_at: now + config.rotation.distribute_for,
            old: signing.certificate().serial().to_owned(),
        },
        (None, Some(record)) if record.old != signing.certificate().serial() => {
            let retire_at = match record.stage {
                RecordedStage::Switched => at(&record),
                // The switch was cut short before it was recorded.
                RecordedStage::Announced => now + config.max_ttl + CLOCK_SKEW_GRACE,
            };
            Rotation::Switched {
                retire_at,
                old: record.old,
            }
        }
        (None, _) => Rotation::Stable,
    };
    if let Rotation::Announced { next, .. } = &rotation {
        bundle.add(next.certificate().clone());
    }
    State {
        signing: Arc::new(signing),
        bundle: Arc::new(bundle),
        rotation,
    }
}

/// The signing root. On first use it is made: the key first, which one of several processes wins, then the certificate.
fn load_signing(directory: &Path, config: &CaConfig, now: SystemTime) -> Result<SigningCa, CaError> {
    let (cert_path, key_path) = (directory.join(CERT), directory.join(KEY));
    let has_certificate = files::exists(&cert_path)?;
    if !files::exists(&key_path)? {
        if has_certificate {
            return Err(CaError::KeyMissing(key_path));
        }
        if files::create(&key_path, PrivateKey::generate()?.expose_pem().as_bytes())? {
            info!(directory = %directory.display(), "made the key of a new root");
        }
    }
    let key = files::read_secret(&key_path)?;
    if !has_certificate {
        let content = |error| {
            content(
                directory,
                CaFileError {
                    file: KEY,
                    problem: CaFileProblem::Key(error),
                },
            )
        };
        let root = new_root(config, PrivateKey::from_pem(&key).map_err(content)?, now)?;
        if files::create(&cert_path, root.certificate().pem().as_bytes())? {
            info!(directory = %directory.display(), root = ?root.certificate(), "made a new root certificate");
        }
    }
    let signing = SigningCa::from_root_pem(&files::read(&cert_path)?, &key);
    match signing {
        Err(CaFileError {
            problem: CaFileProblem::KeyMismatch,
            ..
        }) => finish_switch(directory, &key),
        signing => signing.map_err(|source| content(directory, source)),
    }
}

/// The key was already exchanged when the process ended, the certificate not yet.
fn finish_switch(directory: &Path, key: &[u8]) -> Result<SigningCa, CaError> {
    let next = directory.join(NEXT_CERT);
    let mismatch = CaFileError {
        file: KEY,
        problem: CaFileProblem::KeyMismatch,
    };
    let Some(certificate) = files::read_if_there(&next)? else {
        return Err(content(directory, mismatch));
    };
    let signing = SigningCa::from_root_pem(&certificate, key).map_err(|_| content(directory, mismatch))?;
    files::rename(&next, &directory.join(CERT))?;
    Ok(signing)
}

fn load_roots(directory: &Path, signing: &SigningCa) -> Result<TrustBundle, CaError> {
    let path = directory.join(ROOTS);
    files::create(&path, signing.certificate().pem().as_bytes())?;
    let mut roots = TrustBundle::parse_pem(&files::read(&path)?).map_err(|error| {
        content(
            directory,
            CaFileError {
                file: ROOTS,
                problem: CaFileProblem::Certificate(error),
            },
        )
    })?;
    roots.add(signing.certificate().clone());
    Ok(roots)
}

/// The successor, if it is whole. Half of one was never trusted by anybody.
fn load_next(directory: &Path) -> Result<Option<SigningCa>, CaError> {
    let certificate = files::read_if_there(&directory.join(NEXT_CERT))?;
    let key = files::read_if_there(&directory.join(NEXT_KEY))?.map(Zeroizing::new);
    let (Some(certificate), Some(key)) = (certificate, key) else {
        return Ok(None);
    };
    match SigningCa::from_root_pem(&certificate, &key) {
        Ok(next) => Ok(Some(next)),
        Err(error) => {
            warn!(%error, directory = %directory.display(), "the next root's files cannot be used and are passed over");
            Ok(None)
        }
    }
}

pub(super) fn read_record(directory: &Path, json: &[u8]) -> Option<Record> {
    serde_json::from_slice(json)
        .inspect_err(|error| warn!(%error, file = ROTATION, directory = %directory.display(), "cannot read how far the rotation got"))
        .ok()
}

pub(super) fn content(directory: &Path, source: CaFileError) -> CaError {
    CaError::Content {
        directory: directory.to_owned(),
        source,
    }
}
