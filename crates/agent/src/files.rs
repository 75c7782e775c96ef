//! Files that other processes read.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Puts a file in place whole, and its folder: readers see the old one or the new one. The temporary name has an
/// extension that nobody reads.
///
/// # Errors
/// When it cannot be written; the message names it.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let name = || path.display().to_string();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(name)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    // An old file of that name could have other rights.
    remove(&temporary)?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .with_context(name)?;
    file.write_all(content).with_context(name)?;
    file.sync_all().with_context(name)?;
    drop(file);
    std::fs::rename(&temporary, path).with_context(name)
}

/// Removes a file that may be there.
///
/// # Errors
/// When it is still there; the message names it.
pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| path.display().to_string()),
        _ => Ok(()),
    }
}
