//! Which directories have to be watched, so that nothing that changes files is missed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use notify::{RecursiveMode, Watcher};

/// Links that are followed from one path; the system follows no more either.
const MAX_LINKS: usize = 40;

/// What is to be watched for a set of paths, as the file system is now.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// Directories of which everything matters, by their real paths.
    whole: BTreeSet<PathBuf>,
    /// Entries of other directories that matter: the given paths, and the links that lead from them to what they mean.
    entries: BTreeSet<PathBuf>,
}

impl Places {
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let mut places = Self::default();
        for path in paths {
            let real = places.follow(path);
            if real.is_dir() {
                places.whole.insert(real);
            }
        }
        places
    }

    /// Whether a change of this path may change what the given paths hold.
    pub(super) fn concern(&self, path: &Path) -> bool {
        self.entries.contains(path) || self.whole.iter().any(|whole| path.starts_with(whole))
    }

    /// Follows a path through links, which are among the entries then, to its real path, as far as there is one.
    fn follow(&mut self, path: &Path) -> PathBuf {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut ahead: Vec<PathBuf> = parts(&path);
        let mut real = PathBuf::new();
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            match part.components().next() {
                Some(Component::ParentDir) => {
                    real.pop();
                    continue;
                }
                Some(Component::CurDir) | None => continue,
                _ => {}
            }
            // A root replaces what is before it.
            real.push(&part);
            let Ok(target) = fs::read_link(&real) else { continue };
            links += 1;
            if links > MAX_LINKS {
                break;
            }
            self.entries.insert(real.clone());
            real.pop();
            ahead.extend(parts(&target));
        }
        self.entries.insert(real.clone());
        real
    }

    /// Every directory to watch, and whether with all that is below it.
    fn directories(&self) -> BTreeMap<PathBuf, RecursiveMode> {
        let inside = |path: &Path| self.whole.iter().any(|whole| path.starts_with(whole));
        let parents = self.entries.iter().filter_map(|entry| entry.parent());
        let parents = parents.filter(|parent| !inside(parent));
        let mut all: BTreeMap<PathBuf, RecursiveMode> = parents
            .map(|parent| (parent.to_owned(), RecursiveMode::NonRecursive))
            .collect();
        all.extend(self.whole.iter().map(|whole| (whole.clone(), RecursiveMode::Recursive)));
        all
    }

    /// Watches these places in place of those before. A directory that was replaced by another one is watched anew.
    ///
    /// # Errors
    /// When a directory that was given cannot be watched. Those above it are watched as far as the system allows.
    pub(super) fn watch(&self, before: Option<&Self>, watcher: &mut dyn Watcher) -> notify::Result<()> {
        let (old, new) = (before.map(Self::directories).unwrap_or_default(), self.directories());
        for path in old.keys() {
            // What is gone is no longer watched anyway.
            let _ = watcher.unwatch(path);
        }
        for (path, mode) in &new {
            let watched = watcher.watch(path, *mode);
            if *mode == RecursiveMode::Recursive {
                watched?;
            }
        }
        Ok(())
    }
}

/// The components of a path, last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = path.components().map(|part| PathBuf::from(part.as_os_str())).collect();
    parts.reverse();
    parts
}
