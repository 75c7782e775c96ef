//! Logging to standard error, as lines for people or as JSON for machines.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

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
}

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
pub fn init(format: Format, filter: &str) -> Result<(), LoggingError> {
    let directives = EnvFilter::builder()
        .parse(filter)
        .map_err(|source| LoggingError::Filter {
            filter: filter.to_owned(),
            source,
        })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(directives)
        .with_writer(std::io::stderr);
    let done = match format {
        Format::Text => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    done.map_err(|_| LoggingError::Twice)
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
}
