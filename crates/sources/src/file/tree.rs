//! Which files there are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::FileError;

/// Directories within directories, deeper than anybody nests configuration.
const MAX_DEPTH: usize = 32;

/// The files of the given paths: a file itself, whatever its name; of a directory all `.yaml`, `.yml` and `.json` files
/// in it, at any depth, sorted. Names that begin with a dot are left out, and so are links that lead out of it.
pub(super) fn files(roots: &[PathBuf]) -> Result<Vec<PathBuf>, FileError> {
    let mut found = Vec::new();
    for root in roots {
        let error = |source| FileError {
            path: root.clone(),
            source,
        };
        let real = fs::canonicalize(root).map_err(error)?;
        if real.is_dir() {
            Walk {
                root: &real,
                seen: BTreeSet::new(),
                found: &mut found,
            }
            .directory(root, &real, 0)
            .map_err(error)?;
        } else {
            found.push(root.clone());
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|path| seen.insert(path.clone()));
    Ok(found)
}

struct Walk<'a> {
    /// The given directory's real path.
    root: &'a Path,
    /// Directories by their real paths, since links may lead in circles.
    seen: BTreeSet<PathBuf>,
    found: &'a mut Vec<PathBuf>,
}

impl Walk<'_> {
    fn directory(&mut self, path: &Path, real: &Path, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH || !self.seen.insert(real.to_owned()) {
            return Ok(());
        }
        let mut paths: Vec<PathBuf> = fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        paths.sort();
        for path in paths {
            let hidden = path
                .file_name()
                .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            // What vanishes between the listing and here is no error: the watch tells of it.
            let Ok(real) = fs::canonicalize(&path) else { continue };
            if hidden || !real.starts_with(self.root) {
                continue;
            }
            if real.is_dir() {
                match self.directory(&path, &real, depth + 1) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    result => result?,
                }
            } else if is_configuration(&path) {
                self.found.push(path);
            }
        }
        Ok(())
    }
}

fn is_configuration(path: &Path) -> bool {
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("yaml" | "yml" | "json"))
}
