//! Keys on disk, for who starts again while an issuer is down.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_lower::keys::KeySource;
use serde::{Deserialize, Serialize};

use super::{KEPT, keys};

/// Keys, and when they were fetched.
pub(super) type Kept = (Arc<str>, SystemTime);

/// A file of keys. What cannot be read is as good as not there; what cannot be written is said once.
#[derive(Debug)]
pub(super) struct Store {
    path: Option<PathBuf>,
    failing: bool,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    keys: String,
    /// Seconds since 1970.
    fetched: u64,
}

impl Store {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, failing: false }
    }

    /// What was kept, as far as it is not too old.
    pub(super) fn load(&self, now: SystemTime) -> BTreeMap<KeySource, Kept> {
        let text = self.path.as_deref().and_then(|path| std::fs::read(path).ok());
        let entries: Vec<Entry> = text
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let kept = entries.into_iter().filter_map(|entry| {
            let source = match (entry.uri, entry.issuer) {
                (Some(uri), None) => KeySource::Uri(uri.into()),
                (None, Some(issuer)) => KeySource::Issuer(issuer.into()),
                _ => return None,
            };
            let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(entry.fetched))?;
            let young = now.duration_since(at).is_ok_and(|age| age < KEPT);
            // Read as if an issuer had sent them.
            let keys = keys::read(entry.keys.as_bytes()).ok()?;
            young.then_some((source, (keys, at)))
        });
        kept.collect()
    }

    /// Keeps these and no others.
    pub(super) fn save<'a>(&mut self, all: impl Iterator<Item = (&'a KeySource, &'a Kept)>) {
        let Some(path) = &self.path else { return };
        let entries: Vec<Entry> = all
            .map(|(source, (keys, at))| {
                let (uri, issuer) = match source {
                    KeySource::Uri(uri) => (Some(uri.to_string()), None),
                    KeySource::Issuer(issuer) => (None, Some(issuer.to_string())),
                };
                Entry {
                    uri,
                    issuer,
                    keys: keys.to_string(),
                    fetched: at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
                }
            })
            .collect();
        match write(path, &entries) {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, path = %path.display(), "issuers' keys are not kept for a restart");
                }
            }
        }
    }
}

/// Whole or not at all.
fn write(path: &Path, entries: &[Entry]) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut file = std::fs::File::create(&part)?;
    file.write_all(&serde_json::to_vec(entries)?)?;
    file.sync_all()?;
    std::fs::rename(&part, path)
}
