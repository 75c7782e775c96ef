//! Modules that have been fetched, as files by their own SHA-256; bounded in time and in bytes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::archive;
use super::config::WasmConfig;
use super::fetch::Fetcher;
use super::registry::{Reference, Repository};

/// Bytes of all modules together, beyond which those go first that have not been used for longest.
const MOST_BYTES: usize = 1 << 30;

/// SHA-256 in hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// `oci://…`, `http://…` or `https://…`.
    pub(super) url: String,
    /// Of the module, or of the image's manifest; empty for any.
    pub(super) sha256: String,
    /// The configuration that asks.
    pub(super) resource: String,
    /// Changes with the user's object.
    pub(super) version: String,
    pub(super) policy: Policy,
    /// Docker configuration with credentials.
    pub(super) secret: Option<zeroize::Zeroizing<String>>,
    /// For everything together.
    pub(super) timeout: Duration,
}

/// When a module is fetched again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// `Always` for the tag `latest` of images, else `IfNotPresent`.
    Unspecified,
    /// When there is none.
    IfNotPresent,
    /// When the user's object has changed.
    Always,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cache {
    fetcher: Fetcher,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By URL and the SHA-256 that was asked for (empty for any).
    known: BTreeMap<(String, String), Known>,
    /// By SHA-256 of the module.
    files: BTreeMap<String, File>,
}

/// What a URL led to when it was last followed.
#[derive(Debug)]
struct Known {
    module: String,
    /// The version of the object when it was, by configuration.
    versions: BTreeMap<String, String>,
}

#[derive(Debug)]
struct File {
    bytes: usize,
    used: Instant,
}

impl Cache {
    /// An empty cache; what a former process left is removed.
    pub(super) fn new(config: WasmConfig) -> Self {
        match std::fs::remove_dir_all(&config.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, folder = %config.folder.display(), "old WebAssembly modules are left");
            }
            _ => {}
        }
        Self {
            fetcher: Fetcher { config },
            state: Mutex::default(),
        }
    }

    /// The file of a module: the one that is there, or a new one.
    ///
    /// # Errors
    /// When it cannot be fetched, is not what was asked for, or is no module.
    pub(super) async fn get(&self, order: &Order) -> anyhow::Result<PathBuf> {
        if let Some(path) = self.lookup(order) {
            return Ok(path);
        }
        let module = tokio::time::timeout(order.timeout, self.fetch(order))
            .await
            .with_context(|| format!("not fetched within {:?}", order.timeout))??;
        self.keep(order, module)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The lock is never held while anything can fail.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, module: &str) -> PathBuf {
        self.fetcher.config.folder.join(format!("{module}.wasm"))
    }

    fn lookup(&self, order: &Order) -> Option<PathBuf> {
        let expiry = self.fetcher.config.expiry;
        let mut state = self.state();
        let expired = state.files.iter().filter(|(_, file)| file.used.elapsed() > expiry);
        let expired: Vec<String> = expired.map(|(module, _)| module.clone()).collect();
        for module in expired {
            self.forget(&mut state, &module);
        }
        let always = match order.policy {
            Policy::Always => true,
            Policy::IfNotPresent => false,
            Policy::Unspecified => is_latest(&order.url),
        };
        // What is told by its content cannot become another.
        let pinned = !order.sha256.is_empty() || order.url.contains("@sha256:");
        let known = state.known.get_mut(&(order.url.clone(), order.sha256.clone()))?;
        let same = known.versions.get(&order.resource) == Some(&order.version);
        if always && !pinned && !same {
            return None;
        }
        known.versions.insert(order.resource.clone(), order.version.clone());
        let module = known.module.clone();
        let path = self.path(&module);
        let file = state.files.get_mut(&module)?;
        file.used = Instant::now();
        path.exists().then_some(path)
    }

    async fn fetch(&self, order: &Order) -> anyhow::Result<Vec<u8>> {
        let Some(image) = order.url.strip_prefix("oci://") else {
            let body = self.fetcher.download(&order.url).await?;
            let module = archive::unpack(body.into(), self.fetcher.config.largest)?;
            check(&order.sha256, &[&digest(&module)])?;
            return Ok(module);
        };
        let reference = Reference::parse(image)?;
        let secret = order.secret.as_ref().map(|secret| secret.as_bytes());
        let mut repository = Repository::new(&self.fetcher, &reference, secret)?;
        let image = repository.image().await?;
        let known: Vec<&str> = std::iter::once(&*image.digest).chain(image.index.as_deref()).collect();
        check(&order.sha256, &known)?;
        repository.module(&image).await
    }

    fn keep(&self, order: &Order, bytes: Vec<u8>) -> anyhow::Result<PathBuf> {
        let module = digest(&bytes);
        let path = self.path(&module);
        if !path.exists() {
            // Envoy may run as another user than the agent.
            crate::files::replace(&path, &bytes, 0o644)?;
        }
        let mut state = self.state();
        let file = File {
            bytes: bytes.len(),
            used: Instant::now(),
        };
        state.files.insert(module.clone(), file);
        let known = state
            .known
            .entry((order.url.clone(), order.sha256.clone()))
            .or_insert_with(|| Known {
                module: module.clone(),
                versions: BTreeMap::new(),
            });
        known.module.clone_from(&module);
        known.versions.insert(order.resource.clone(), order.version.clone());
        while state.files.values().map(|file| file.bytes).sum::<usize>() > MOST_BYTES {
            let others = state.files.iter().filter(|(other, _)| **other != module);
            let Some(oldest) = others.min_by_key(|(_, file)| file.used).map(|(other, _)| other.clone()) else {
                break;
            };
            self.forget(&mut state, &oldest);
        }
        Ok(path)
    }

    /// Envoy has read what it runs, so the file is not needed any more.
    fn forget(&self, state: &mut State, module: &str) {
        state.files.remove(module);
        state.known.retain(|_, known| known.module != module);
        if let Err(error) = crate::files::remove(&self.path(module)) {
            tracing::warn!(error = format!("{error:#}"), "a WebAssembly module is left");
        }
    }
}

/// Whether a URL means the newest image, whatever that is.
fn is_latest(url: &str) -> bool {
    let image = url
        .strip_prefix("oci://")
        .and_then(|image| Reference::parse(image).ok());
    image.is_some_and(|image| image.digest.is_none() && image.tag == "latest")
}

fn check(wanted: &str, found: &[&str]) -> anyhow::Result<()> {
    if !wanted.is_empty() && !found.contains(&wanted) {
        bail!("the SHA-256 is {}, not {wanted}", found.join(" or "));
    }
    Ok(())
}
