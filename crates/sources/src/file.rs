//! Configuration from files: one or many files or directories of YAML and JSON, watched.
//!
//! A reload is atomic: all files are read, and the difference of the objects in them is handed on as one batch. A file
//! may hold many documents, and lists of objects. Where several files hold the same object the later one counts, in the
//! order of the given paths and then of names, as if the files were applied one after another.
//!
//! Failure policy: nothing that a file holds stops the source. A file that is no YAML keeps all the objects that it had;
//! an object that admission would refuse keeps its version before, if it had one, while everything else in the file counts.
//! Each is a [`Problem`] with file, line, column and field. Symbolic links are followed where they lead to something within
//! the given directory (so mounted ConfigMaps work), never beyond.

mod parse;
mod places;
mod tree;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lateen_lower::Admission;
use lateen_lower::object::{Change, Event, Kind, Object};
use lateen_names::{ClusterId, ObjectKey, ObjectRef};

use parse::Parsed;
pub use watch::{WatchError, watch};

pub use crate::update::{Problem, Severity, Update};

/// The largest file that is read. An API server takes 1.5 MiB per object; this is a great many objects.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// A path cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct FileError {
    /// The path.
    pub path: PathBuf,
    /// What the system says.
    pub source: std::io::Error,
}

/// Objects, each with its key.
pub type FileObjects = Vec<(Kind, ObjectKey, Arc<Object>)>;

/// What admission says to one custom resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `networking.istio.io/v1` and so on, as given.
    pub api_version: String,
    /// Which object.
    pub object: ObjectRef,
    /// What the schema of the kind refuses: unknown fields, wrong types, broken limits.
    pub schema: Vec<String>,
    /// What validation refuses beyond the schema.
    pub errors: Vec<String>,
    /// What it warns of.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// Whether the object is let in.
    pub fn accepted(&self) -> bool {
        self.schema.is_empty() && self.errors.is_empty()
    }
}

/// What paths hold, read once.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Objects; of several with one name the last.
    pub objects: FileObjects,
    /// What admission says to custom resources, by file and place; of several with one name each.
    pub verdicts: Vec<Verdict>,
    /// What is wrong, by file and line.
    pub problems: Vec<Problem>,
}

/// Reads files and directories once. With `keep_rejected`, objects that admission would refuse count all the same.
///
/// # Errors
/// When a path that was named does not exist or cannot be read; what is wrong inside of files is among the problems.
pub fn load_once(paths: &[PathBuf], cluster: ClusterId, keep_rejected: bool) -> Result<Loaded, FileError> {
    let mut source = FileSource::new(paths.to_vec(), cluster).keep_rejected(keep_rejected);
    source.reload()?;
    let verdicts = source
        .files
        .values()
        .flat_map(|file| file.verdicts.iter().cloned())
        .collect();
    let objects = source
        .current
        .into_iter()
        .map(|((kind, key), (object, _))| (kind, key, object))
        .collect();
    Ok(Loaded {
        objects,
        verdicts,
        problems: source.problems,
    })
}

/// Files and directories, and what they held when last read.
#[derive(Debug)]
pub struct FileSource {
    paths: Vec<PathBuf>,
    cluster: ClusterId,
    keep_rejected: bool,
    admission: Admission,
    files: BTreeMap<PathBuf, File>,
    current: BTreeMap<(Kind, ObjectKey), (Arc<Object>, PathBuf)>,
    problems: Vec<Problem>,
}

/// One file as it was read last.
#[derive(Debug, Default)]
struct File {
    /// Hash of its bytes; `None` where it could not be read.
    hash: Option<u128>,
    /// What counts of it, in its order.
    objects: FileObjects,
    problems: Vec<Problem>,
    verdicts: Vec<Verdict>,
    /// Kinds that Lateen does not read, as `apiVersion`, kind and line.
    unknown: Vec<(String, String, Option<usize>)>,
}

impl FileSource {
    /// A source that has read nothing yet.
    pub fn new(paths: Vec<PathBuf>, cluster: ClusterId) -> Self {
        Self {
            paths,
            cluster,
            keep_rejected: false,
            admission: Admission::new(),
            files: BTreeMap::new(),
            current: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// Whether objects that admission would refuse count all the same.
    pub fn keep_rejected(mut self, keep: bool) -> Self {
        self.keep_rejected = keep;
        self
    }

    /// The paths that it was given.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// What is wrong with the files, by file and line.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The objects that it holds.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.current.values().map(|(object, _)| object)
    }

    /// Reads what has changed and returns what is different, in one batch. Blocks.
    ///
    /// # Errors
    /// When a path that was named does not exist or cannot be read; nothing changes then.
    pub fn reload(&mut self) -> Result<Vec<Event>, FileError> {
        let order = tree::files(&self.paths)?;
        let mut before = std::mem::take(&mut self.files);
        for path in &order {
            let old = before.remove(path).unwrap_or_default();
            if let Some(file) = self.read(path, old) {
                self.files.insert(path.clone(), file);
            }
        }
        Ok(self.compare(&order))
    }

    /// A file as it is now; as it was, where its bytes are the same. `None` when it vanished since it was listed.
    fn read(&self, path: &Path, old: File) -> Option<File> {
        let text = match read_text(path) {
            Ok(text) => text,
            Err(Unreadable::Gone) => return None,
            Err(Unreadable::Broken(reason)) => {
                let problem = Problem::of_file(path, Severity::Error, format!("{reason}; what it held before counts"));
                return Some(File {
                    hash: None,
                    problems: vec![problem],
                    ..old
                });
            }
        };
        let hash = xxhash_rust::xxh3::xxh3_128(text.as_bytes());
        if old.hash == Some(hash) {
            return Some(old);
        }
        let Parsed {
            items,
            problems,
            verdicts,
            unknown,
            broken,
        } = parse::parse(path, &text, &self.admission, self.keep_rejected);
        if broken {
            return Some(File {
                hash: Some(hash),
                problems,
                ..old
            });
        }
        let known: BTreeMap<(Kind, ObjectKey), Arc<Object>> = old
            .objects
            .into_iter()
            .map(|(kind, key, object)| ((kind, key), object))
            .collect();
        let mut objects: FileObjects = Vec::with_capacity(items.len());
        let mut place: BTreeMap<(Kind, ObjectKey), usize> = BTreeMap::new();
        for (kind, key, object) in items {
            let id = (kind, key.clone());
            // Where a version is refused, the one before it counts: in this text, or when the file was read last.
            let object = match object {
                Some(object) => object,
                None if place.contains_key(&id) => continue,
                None => match known.get(&id) {
                    Some(object) => Arc::clone(object),
                    None => continue,
                },
            };
            match place.get(&id) {
                Some(index) => objects[*index].2 = object,
                None => {
                    place.insert(id, objects.len());
                    objects.push((kind, key, object));
                }
            }
        }
        Some(File {
            hash: Some(hash),
            objects,
            problems,
            verdicts,
            unknown,
        })
    }

    /// Makes the new world of objects and says how it differs from the last one.
    fn compare(&mut self, order: &[PathBuf]) -> Vec<Event> {
        let mut problems: Vec<Problem> = self
            .files
            .values()
            .flat_map(|file| file.problems.iter().cloned())
            .collect();
        let mut next: BTreeMap<(Kind, ObjectKey), (Arc<Object>, PathBuf)> = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        for (path, file) in order.iter().filter_map(|path| self.files.get_key_value(path)) {
            for (api_version, kind, line) in &file.unknown {
                // Once for all files: a cluster's manifests are full of Deployments.
                if unknown.insert((api_version, kind)) {
                    let message = format!("{kind} of {api_version} is not a kind that Lateen reads; it is left out");
                    problems.push(Problem {
                        line: *line,
                        ..Problem::of_file(path, Severity::Notice, message)
                    });
                }
            }
            for (kind, key, object) in &file.objects {
                let entry = (Arc::clone(object), path.clone());
                if let Some((_, earlier)) = next.insert((*kind, key.clone()), entry) {
                    let message = format!(
                        "is defined in {} too; this one counts, as the last that is applied",
                        earlier.display()
                    );
                    problems.push(Problem {
                        object: Some(format!("{kind} {key}")),
                        ..Problem::of_file(path, Severity::Warning, message)
                    });
                }
            }
        }
        problems.sort();
        self.problems = problems;
        let event = |change| Event {
            cluster: self.cluster.clone(),
            change,
        };
        let mut events = Vec::new();
        for (kind, key) in self.current.keys().filter(|name| !next.contains_key(*name)) {
            events.push(event(Change::Delete {
                kind: *kind,
                key: key.clone(),
            }));
        }
        for (name, (object, _)) in &next {
            if self
                .current
                .get(name)
                .is_none_or(|(old, _)| !Arc::ptr_eq(old, object) && **old != **object)
            {
                events.push(event(Change::Apply(Arc::clone(object))));
            }
        }
        self.current = next;
        events
    }
}

enum Unreadable {
    /// It vanished between listing and reading.
    Gone,
    Broken(String),
}

fn read_text(path: &Path) -> Result<String, Unreadable> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Unreadable::Gone,
        _ => Unreadable::Broken(format!("cannot be read: {error}")),
    };
    let mut bytes = Vec::new();
    // One byte more than allowed tells a large file from one that just fits.
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Unreadable::Broken(format!("is larger than {} MiB", MAX_FILE >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        Unreadable::Broken(format!("is not UTF-8 in line {line}"))
    })
}

#[cfg(test)]
mod tests;
