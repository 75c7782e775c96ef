//! A CA plugged in from a directory.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use lateen_pki::{CaFiles, SigningCa};

use super::self_signed::Rotation;
use super::{CaError, State};
use crate::files;

/// The files' contents when they were last looked at, good or not.
#[derive(Default)]
pub(super) struct Seen(Option<Contents>);

#[derive(PartialEq, Eq)]
struct Contents {
    ca_cert: Vec<u8>,
    ca_key: Vec<u8>,
    root_cert: Vec<u8>,
    cert_chain: Vec<u8>,
    /// What is revoked, if anything is.
    ca_crl: Option<Vec<u8>>,
}

/// Loads the CA.
///
/// # Errors
/// When a file is missing or cannot be used.
pub(super) fn open(directory: &Path, seen: &mut Seen, now: SystemTime) -> Result<State, CaError> {
    let contents = Contents::read(directory)?;
    let state = load(directory, &contents, now);
    seen.0 = Some(contents);
    state
}

/// Loads the CA if its files have changed since they were last looked at.
///
/// # Errors
/// When a file is missing or cannot be used.
pub(super) fn reload(directory: &Path, seen: &mut Seen, now: SystemTime) -> Result<Option<State>, CaError> {
    let contents = Contents::read(directory)?;
    if seen.0.as_ref() == Some(&contents) {
        return Ok(None);
    }
    let state = load(directory, &contents, now);
    seen.0 = Some(contents);
    state.map(Some)
}

fn load(directory: &Path, contents: &Contents, now: SystemTime) -> Result<State, CaError> {
    let files = CaFiles {
        ca_cert: &contents.ca_cert,
        ca_key: &contents.ca_key,
        root_cert: &contents.root_cert,
        cert_chain: &contents.cert_chain,
    };
    let unusable = |source| CaError::Content {
        directory: directory.to_owned(),
        source,
    };
    let signing = SigningCa::from_files(files, now).map_err(unusable)?;
    let bundle = Arc::new(match &contents.ca_crl {
        Some(lists) => signing.roots_with_revoked(lists, now).map_err(unusable)?,
        None => signing.roots().clone(),
    });
    Ok(State {
        signing: Arc::new(signing),
        bundle,
        rotation: Rotation::default(),
    })
}

impl Contents {
    fn read(directory: &Path) -> Result<Self, CaError> {
        Ok(Self {
            ca_cert: files::read(&directory.join("ca-cert.pem"))?,
            ca_key: files::read(&directory.join("ca-key.pem"))?,
            root_cert: files::read(&directory.join("root-cert.pem"))?,
            // A root that signs by itself has no chain.
            cert_chain: files::read_if_there(&directory.join("cert-chain.pem"))?.unwrap_or_default(),
            // An empty file revokes nothing.
            ca_crl: files::read_if_there(&directory.join("ca-crl.pem"))?.filter(|lists| !lists.trim_ascii().is_empty()),
        })
    }
}
