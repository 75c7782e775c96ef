//! A root made here and kept as one piece, such as a Secret: it is replaced whole or not at all.
//!
//! The keys are those of Istio's `istio-ca-secret`: `ca-cert.pem` and `ca-key.pem` sign, `root-cert.pem` holds every
//! trusted root. While a rotation is under way `next-ca-cert.pem`, `next-ca-key.pem` and `rotation.json` are there too,
//! as in a directory.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::PoisonError;
use std::time::SystemTime;

use lateen_pki::{CaFileError, CaFileProblem, PrivateKey, SigningCa, TrustBundle};
use prometheus::Registry;
use tracing::info;
use zeroize::Zeroizing;

use super::self_signed::{
    self, CERT, KEY, NEXT_CERT, NEXT_KEY, ROOTS, ROTATION, RecordedStage, RootStep, Rotation, content, encode_record,
    new_root, read_record, state_of,
};
use super::{CaConfig, CaError, CertificateAuthority, RootSource, State};
use crate::Clock;

/// The content of a root: texts by key. Wiped from memory when dropped; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct RootContents(BTreeMap<String, Zeroizing<Vec<u8>>>);

// === impl RootContents ===

impl RootContents {
    /// Wraps what was read.
    pub fn new(texts: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self(
            texts
                .into_iter()
                .map(|(key, text)| (key, Zeroizing::new(text)))
                .collect(),
        )
    }

    /// A new root.
    ///
    /// # Errors
    /// When a key or the certificate cannot be made.
    pub fn generate(config: &CaConfig, now: SystemTime) -> Result<Self, CaError> {
        let root = new_root(config, PrivateKey::generate()?, now)?;
        let certificate = root.certificate().pem();
        let mut contents = Self(BTreeMap::new());
        contents.set(CERT, certificate.as_bytes());
        contents.set(KEY, root.key().expose_pem().as_bytes());
        contents.set(ROOTS, certificate.as_bytes());
        Ok(contents)
    }

    /// The texts by key, to be written where nobody else reads them.
    pub(crate) fn expose(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(key, text)| (key.as_str(), text.as_slice()))
    }

    fn get(&self, key: &str) -> &[u8] {
        self.0.get(key).map(|text| text.as_slice()).unwrap_or_default()
    }

    fn set(&mut self, key: &str, text: &[u8]) {
        self.0.insert(key.to_owned(), Zeroizing::new(text.to_vec()));
    }
}

impl fmt::Debug for RootContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootContents(withheld)")
    }
}

// === impl CertificateAuthority ===

impl CertificateAuthority {
    /// Opens a CA whose root somebody else keeps ([`RootSource::Held`]), with what is there now.
    ///
    /// # Errors
    /// When the content cannot be used, or the registry has a CA's metrics already.
    pub fn open_held(
        config: CaConfig,
        contents: &RootContents,
        clock: Clock,
        registry: &Registry,
    ) -> Result<Self, CaError> {
        let state = load(contents, config.place(), &config, clock())?;
        Self::with_state(config, state, super::plugged::Seen::default(), clock, registry)
    }

    /// Takes over what is kept elsewhere now. What it cannot use is an error, and the last good root stays in use.
    ///
    /// # Errors
    /// When the content cannot be used.
    pub fn adopt(&self, contents: &RootContents) -> Result<(), CaError> {
        let inner = &self.0;
        let _changing = inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (inner.clock)();
        let state = load(contents, inner.config.place(), &inner.config, now)?;
        info!(stage = state.rotation.stage().name(), signing = ?state.signing.certificate(), roots = state.bundle.roots().len(), "took over the root that is kept");
        inner.publish(state);
        inner.serving.renew_if_due(&self.state().signing, &inner.config, now)
    }

    /// The step of the root's replacement that is due, if any.
    #[must_use]
    pub fn due_step(&self) -> Option<RootStep> {
        let inner = &self.0;
        match inner.config.source {
            RootSource::PluggedIn(_) => None,
            _ => self_signed::due(&self.state(), &inner.config, (inner.clock)()),
        }
    }

    /// The content after a step of the root's replacement; whoever keeps it writes it, then has it adopted.
    ///
    /// # Errors
    /// When the content cannot be used, or the step does not fit where the rotation stands.
    pub fn advance(&self, contents: &RootContents, step: RootStep) -> Result<RootContents, CaError> {
        let inner = &self.0;
        advance(contents, inner.config.place(), step, &inner.config, (inner.clock)())
    }
}

/// Reads the root and where its rotation stands. `place` is named in errors.
fn load(contents: &RootContents, place: &Path, config: &CaConfig, now: SystemTime) -> Result<State, CaError> {
    let signing =
        SigningCa::from_root_pem(contents.get(CERT), contents.get(KEY)).map_err(|error| content(place, error))?;
    // Istio's older releases kept no list of roots.
    let mut bundle = match contents.get(ROOTS) {
        text if text.trim_ascii().is_empty() => TrustBundle::default(),
        text => TrustBundle::parse_pem(text).map_err(|error| {
            let problem = CaFileProblem::Certificate(error);
            content(place, CaFileError { file: ROOTS, problem })
        })?,
    };
    bundle.add(signing.certificate().clone());
    let next = match (contents.get(NEXT_CERT), contents.get(NEXT_KEY)) {
        ([], _) | (_, []) => None,
        (certificate, key) => Some(SigningCa::from_root_pem(certificate, key).map_err(|error| content(place, error))?),
    };
    let record = match contents.get(ROTATION) {
        [] => None,
        json => read_record(place, json),
    };
    Ok(state_of(signing, bundle, next, record, config, now))
}

/// The content after a step.
fn advance(
    contents: &RootContents,
    place: &Path,
    step: RootStep,
    config: &CaConfig,
    now: SystemTime,
) -> Result<RootContents, CaError> {
    let state = step.of(&load(contents, place, config, now)?, config, now)?;
    let mut after = contents.clone();
    match &state.rotation {
        Rotation::Announced { next, switch_at, old } => {
            after.set(NEXT_KEY, next.key().expose_pem().as_bytes());
            after.set(NEXT_CERT, next.certificate().pem().as_bytes());
            after.set(ROOTS, state.bundle.pem().as_bytes());
            after.set(ROTATION, &encode_record(RecordedStage::Announced, *switch_at, old));
        }
        Rotation::Switched { retire_at, old } => {
            after.set(KEY, state.signing.key().expose_pem().as_bytes());
            after.set(CERT, state.signing.certificate().pem().as_bytes());
            after.0.remove(NEXT_KEY);
            after.0.remove(NEXT_CERT);
            after.set(ROTATION, &encode_record(RecordedStage::Switched, *retire_at, old));
        }
        Rotation::Stable => {
            after.set(ROOTS, state.bundle.pem().as_bytes());
            after.0.remove(ROTATION);
        }
    }
    Ok(after)
}
