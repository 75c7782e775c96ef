//! Logging to standard error, as lines for people or as JSON for machines.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::reload;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One readable line an event, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object an event, its fields at the top level.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not one of `tracing`'s, such as `info,lateen_xds=debug`.
    #[error("log filter `{filter}`: {source}")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The format's name is unknown.
    #[error("log format `{0}`: must be `text` or `json`")]
    Format(String),
    /// Another logger was set up before.
    #[error("logging is set up already")]
    Twice,
    /// The logger is gone.
    #[error("the levels of logging cannot be changed: {0}")]
    Gone(reload::Error),
}

/// The levels of what is logged, to be changed while the process runs.
#[derive(Clone)]
pub struct Levels {
    /// As the process was started.
    filter: Arc<str>,
    /// What was changed since, by target; the empty one is all that has none of its own.
    changed: Arc<Mutex<BTreeMap<String, String>>>,
    apply: Arc<Apply>,
}

type Apply = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

impl FromStr for Format {
    type Err = LoggingError;

    fn from_str(text: &str) -> Result<Self, LoggingError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LoggingError::Format(other.to_owned())),
        }
    }
}

/// Sends what is logged from now on to standard error, in `format`, as far as `filter` lets it through
/// (directives of `tracing`, such as `info,lateen_xds=debug`).
///
/// # Errors
/// When the filter cannot be read, or logging was set up before.
pub fn init(format: Format, filter: &str) -> Result<Levels, LoggingError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse(filter)?)
        .with_writer(std::io::stderr);
    let (done, apply): (_, Arc<Apply>) = match format {
        Format::Text => {
            let builder = builder
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .with_filter_reloading();
            let handle = builder.reload_handle();
            (builder.try_init(), Arc::new(move |filter| handle.reload(filter)))
        }
        Format::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            (builder.try_init(), Arc::new(move |filter| handle.reload(filter)))
        }
    };
    done.map_err(|_| LoggingError::Twice)?;
    Ok(Levels {
        filter: Arc::from(filter),
        changed: Arc::default(),
        apply,
    })
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| LoggingError::Filter {
            filter: filter.to_owned(),
            source,
        })
}

impl Levels {
    /// The level of a target (a module's path), or of all that have none of their own when it is empty.
    #[must_use]
    pub fn of(&self, target: &str) -> String {
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        level(&directives(&self.filter, &changed), target)
    }

    /// Changes the level of a target, or of all that have none of their own when it is empty.
    ///
    /// # Errors
    /// When `level` is none of `tracing`'s: `off`, `error`, `warn`, `info`, `debug`, `trace`.
    pub fn set(&self, target: &str, level: &str) -> Result<(), LoggingError> {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = changed.clone();
        next.insert(target.to_owned(), level.to_owned());
        let filter = parse(&directives(&self.filter, &next))?;
        (self.apply)(filter).map_err(LoggingError::Gone)?;
        *changed = next;
        Ok(())
    }
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Levels")
            .field("filter", &self.filter)
            .field("changed", &self.changed)
            .finish_non_exhaustive()
    }
}

/// What was changed follows what was there: the last directive about a target counts.
fn directives(filter: &str, changed: &BTreeMap<String, String>) -> String {
    let changed = changed.iter().map(|(target, level)| match &**target {
        "" => level.clone(),
        target => format!("{target}={level}"),
    });
    std::iter::once(filter.to_owned())
        .chain(changed)
        .collect::<Vec<_>>()
        .join(",")
}

/// The level that directives give a target itself, else the one that they give to all; `error` where they give none.
fn level(directives: &str, target: &str) -> String {
    let of = |wanted: &str| {
        let directives = directives.split(',').rev();
        let mut pairs = directives.map(|directive| directive.split_once('=').unwrap_or(("", directive)));
        pairs
            .find(|(target, level)| *target == wanted && !level.is_empty())
            .map(|(_, level)| level.to_owned())
    };
    of(target).or_else(|| of("")).unwrap_or_else(|| "error".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let error = init(Format::Text, "lateen=loudly").unwrap_err().to_string();
        assert!(error.contains("lateen=loudly"), "{error}");
        assert!("yaml".parse::<Format>().unwrap_err().to_string().contains("yaml"));
    }

    #[test]
    fn the_last_directive_about_a_target_counts() {
        let changed = BTreeMap::from([
            ("lateen_xds".to_owned(), "debug".to_owned()),
            (String::new(), "warn".to_owned()),
        ]);
        let all = directives("kube_client=off,info,lateen_xds=error", &changed);
        assert_eq!(all, "kube_client=off,info,lateen_xds=error,warn,lateen_xds=debug");
        assert_eq!(level(&all, ""), "warn");
        assert_eq!(level(&all, "lateen_ca"), "warn");
        assert_eq!(level(&all, "lateen_xds"), "debug");
        assert_eq!(level(&all, "kube_client"), "off");
        assert_eq!(level("kube_client=off", ""), "error");
    }
}
