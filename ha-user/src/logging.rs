//! Structured logs on stderr, as text for people or JSON for machines; `log` records (aya-log) come along.

use crate::config::{Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Chooses another filter than the file's.
pub const FILTER_VARIABLE: &str = "TWINWALL_LOG";

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{FILTER_VARIABLE}=\"{filter}\": {source} (write a level like debug, or TARGET=LEVEL,…)")]
    Filter { filter: String, source: tracing_subscriber::filter::ParseError },
    #[error("logging was set up twice")]
    Twice,
}

/// Starts logging for the whole process.
///
/// # Errors
/// When the filter of the environment is wrong, or logging runs already.
pub fn start(log: &Log) -> Result<(), LogError> {
    let filter = std::env::var(FILTER_VARIABLE).ok().filter(|filter| !filter.is_empty());
    let filter = filter.unwrap_or_else(|| log.filter.clone());
    let filter = EnvFilter::builder().parse(&filter).map_err(|source| LogError::Filter { filter, source })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match log.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        // The journal stamps each line itself.
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => builder.without_time().try_init(),
        LogFormat::Text => builder.try_init(),
    };
    started.map_err(|_| LogError::Twice)
}
