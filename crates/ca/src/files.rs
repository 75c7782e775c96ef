//! Files that are there whole or not at all, readable by their owner only.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use zeroize::Zeroizing;

/// A file of the CA cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}", path = path.display())]
pub struct FileError {
    /// The file or directory.
    pub path: PathBuf,
    /// What was tried, e.g. `read`.
    pub action: &'static str,
    /// What the system said.
    pub source: std::io::Error,
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> FileError {
    move |source| FileError {
        path: path.to_owned(),
        action,
        source,
    }
}

/// Makes the directory, for its owner only, if it is not there.
pub(crate) fn ensure_directory(path: &Path) -> Result<(), FileError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed(path, "make the directory"))
}

/// Whether something is there.
pub(crate) fn exists(path: &Path) -> Result<bool, FileError> {
    path.try_exists().map_err(failed(path, "read"))
}

/// Reads a file that must be there.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(failed(path, "read"))
}

/// Reads a file that must be there; the content is wiped from memory when dropped.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read(path).map(Zeroizing::new)
}

/// Reads a file that may be absent.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, "read")(error)),
    }
}

/// Writes a file that must not be there yet; of several writers one wins. Returns whether this one did.
pub(crate) fn create(path: &Path, content: &[u8]) -> Result<bool, FileError> {
    match written(path, content)?.persist_noclobber(path) {
        Ok(_) => sync_parent(path).map(|()| true),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(path, "write")(error.error)),
    }
}

/// Writes a file in the place of an older one, if any.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    written(path, content)?
        .persist(path)
        .map_err(|error| failed(path, "write")(error.error))?;
    sync_parent(path)
}

/// Moves a file over another.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    std::fs::rename(from, to).map_err(failed(from, "rename"))?;
    sync_parent(to)
}

/// Removes a file if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, "remove")(error)),
        _ => Ok(()),
    }
}

/// The content in a temporary file beside `path`, on the disk. Its mode is 0600; it is removed when dropped.
fn written(path: &Path, content: &[u8]) -> Result<NamedTempFile, FileError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(directory).map_err(failed(path, "write"))?;
    file.write_all(content).map_err(failed(path, "write"))?;
    file.as_file().sync_all().map_err(failed(path, "write"))?;
    Ok(file)
}

/// A rename is on the disk when its directory is.
fn sync_parent(path: &Path) -> Result<(), FileError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed(directory, "sync"))
}
