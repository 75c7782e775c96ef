//! What every source hands on: changes of objects, and what is wrong with what it reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lateen_lower::Kind;
use lateen_lower::object::Event;
use serde::Serialize;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is left out that nobody misses, such as a kind that Lateen does not read.
    Notice,
    /// Something is probably not what was meant.
    Warning,
    /// The file or the object does not count; what it held before does.
    Error,
}

/// Something in a file or in a cluster that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file; for objects of a cluster the cluster's name.
    pub file: PathBuf,
    /// Line, from 1, where known.
    pub line: Option<usize>,
    /// Column, from 1, where known.
    pub column: Option<usize>,
    /// The object, as `Kind namespace/name`, where known.
    pub object: Option<String>,
    /// Path of the field, e.g. `spec.http[0].timeout`; empty where the whole document is meant.
    pub field: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, and what to do.
    pub message: String,
}

/// What changed since the last update.
#[derive(Debug)]
pub struct Update {
    /// Differences, in one batch; may be empty when only problems changed. The first update is everything.
    pub events: Vec<Event>,
    /// The highest `resourceVersion` that was seen of each of the mesh's own kinds: every change up to it is in this update or in an earlier one. Files have none.
    pub versions: BTreeMap<Kind, u64>,
    /// All that is wrong now with what the source reads.
    pub problems: Arc<[Problem]>,
}

// === impl Problem ===

impl Problem {
    pub(crate) fn of_file(path: &Path, severity: Severity, message: String) -> Self {
        Self {
            file: path.to_path_buf(),
            line: None,
            column: None,
            object: None,
            field: String::new(),
            severity,
            message,
        }
    }
}

impl fmt::Display for Problem {
    /// `file:line:column: Kind namespace/name: field: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        write!(f, ": ")?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Logs the problems that were not there before.
pub(crate) fn log_new(old: &[Problem], new: &[Problem]) {
    let old: BTreeSet<&Problem> = old.iter().collect();
    for problem in new.iter().filter(|problem| !old.contains(problem)) {
        match problem.severity {
            Severity::Error => tracing::error!(%problem, "configuration"),
            Severity::Warning => tracing::warn!(%problem, "configuration"),
            Severity::Notice => tracing::info!(%problem, "configuration"),
        }
    }
}
