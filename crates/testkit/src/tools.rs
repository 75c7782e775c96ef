//! Programs that tests start and that no package of this workspace builds.

use std::path::{Path, PathBuf};

/// A program in the directory that `LATEEN_TOOLS` names, in `target/tools` without it, or on the path.
pub fn find(name: &str) -> Option<PathBuf> {
    let own = match std::env::var_os("LATEEN_TOOLS") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools"),
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(own)
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}
