//! Secrets that others keep in files: looked at regularly, because the way Kubernetes replaces a mounted folder (a
//! symbolic link that moves) and the way people do (a file written twice) look different to every notification API.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use lateen_pki::{Certificate, PrivateKey, RevocationList};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{Content, ROOTS, SecretStore, WORKLOAD};
use crate::config::{CertificateConfig, Roots};

const CERTIFICATE: &str = "file-cert:";
const ROOT: &str = "file-root:";

/// What a file or two hold.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    KeyPair {
        chain: PathBuf,
        key: PathBuf,
    },
    Roots(PathBuf),
    /// Roots of the whole mesh, joined with those that came with the certificate.
    MeshRoots(PathBuf),
    /// What is revoked in the whole mesh; the file may be missing.
    Revoked(PathBuf),
}

/// Whether a secret's name says which files it is in: `file-cert:<chain>~<key>` or `file-root:<roots>`.
pub(super) fn is_file_name(name: &str) -> bool {
    source(name).is_some()
}

fn source(name: &str) -> Option<Source> {
    if let Some(rest) = name.strip_prefix(CERTIFICATE) {
        let (chain, key) = rest.split_once('~')?;
        return Some(Source::KeyPair {
            chain: chain.into(),
            key: key.into(),
        });
    }
    name.strip_prefix(ROOT).map(|path| Source::Roots(path.into()))
}

/// Reads all files that are asked for, and again whenever they change, until told to stop.
pub(crate) async fn watch(config: CertificateConfig, store: SecretStore, stop: CancellationToken) {
    let mut wanted = store.wanted();
    let mut sources: BTreeMap<String, (Source, Option<Fingerprint>)> = BTreeMap::new();
    let mut add = |name: &str, source: Source| drop(sources.insert(name.to_owned(), (source, None)));
    if let Some(files) = &config.mounted {
        add(
            WORKLOAD,
            Source::KeyPair {
                chain: files.chain.clone(),
                key: files.key.clone(),
            },
        );
        add(ROOTS, Source::Roots(files.roots.clone()));
    } else if let Roots::File(path) = &config.ca_roots
        && !config.external_socket
    {
        add("", Source::MeshRoots(path.clone()));
    }
    // No name that Envoy asks for.
    add("revoked", Source::Revoked(config.revoked.clone()));
    loop {
        for name in wanted.borrow_and_update().iter() {
            if !sources.contains_key(name)
                && let Some(source) = source(name)
            {
                sources.insert(name.clone(), (source, None));
            }
        }
        for (name, (source, seen)) in &mut sources {
            let now = source.fingerprint();
            if *seen == Some(now.clone()) {
                continue;
            }
            match source.load(name, &store) {
                Ok(()) => *seen = Some(now),
                // Remembered nothing, so it is tried again; a certificate may be replaced a moment before its key.
                Err(error) if seen.is_some() => tracing::warn!(
                    error = format!("{error:#}"),
                    "changed file not taken, the former goes on"
                ),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "secret not read yet"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(config.poll_interval) => {}
            changed = wanted.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Device, inode, size and time of each file, through all links.
type Fingerprint = Vec<Option<(u64, u64, u64, i64, i64)>>;

// === impl Source ===

impl Source {
    fn fingerprint(&self) -> Fingerprint {
        let of = |path: &Path| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
        };
        match self {
            Self::KeyPair { chain, key } => vec![of(chain), of(key)],
            Self::Roots(path) | Self::MeshRoots(path) | Self::Revoked(path) => vec![of(path)],
        }
    }

    fn load(&self, name: &str, store: &SecretStore) -> anyhow::Result<()> {
        match self {
            Self::KeyPair { chain, key } => {
                let (chain, certificates) = certificates(chain)?;
                let pem = std::fs::read(key)
                    .map(Zeroizing::new)
                    .with_context(|| key.display().to_string())?;
                let private = PrivateKey::from_pem(&pem).with_context(|| key.display().to_string())?;
                let leaf = certificates.first().context("no certificate")?;
                anyhow::ensure!(
                    leaf.spki() == private.public_key().to_spki(),
                    "{} is not the key of the first certificate in its chain",
                    key.display()
                );
                store.publish(
                    name,
                    &Content::KeyPair {
                        chain,
                        key: Arc::new(private),
                    },
                );
            }
            Self::Roots(path) => store.publish(name, &Content::Roots(certificates(path)?.0)),
            Self::MeshRoots(path) => store.set_mesh_roots(certificates(path)?.1),
            Self::Revoked(path) => {
                let text = match std::fs::read_to_string(path) {
                    Ok(text) => text,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
                    Err(error) => return Err(error).with_context(|| path.display().to_string()),
                };
                // Envoy rejects roots whose lists do not read.
                if !text.trim().is_empty() {
                    RevocationList::parse_pem(text.as_bytes()).with_context(|| path.display().to_string())?;
                }
                store.set_revoked(text.trim().to_owned());
            }
        }
        Ok(())
    }
}

/// A PEM file, as text and read.
fn certificates(path: &Path) -> anyhow::Result<(String, Vec<Certificate>)> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let certificates = Certificate::parse_pem(text.as_bytes()).with_context(|| path.display().to_string())?;
    Ok((text, certificates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_where_secrets_are() {
        assert_eq!(
            source("file-cert:/a/c.pem~/a/k.pem"),
            Some(Source::KeyPair {
                chain: "/a/c.pem".into(),
                key: "/a/k.pem".into()
            })
        );
        assert_eq!(source("file-root:/a/r.pem"), Some(Source::Roots("/a/r.pem".into())));
        assert_eq!(source("file-cert:/a/c.pem"), None);
        assert!(!is_file_name("kubernetes://cert"));
    }
}
