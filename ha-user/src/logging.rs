//! Structured logs on stderr, as text for people or JSON for machines; `log` records (aya-log) come along.
//!
//! Once the loops run, a thread of its own writes them: whoever reads the other end of stderr may stop reading, and the
//! control loop must not lose its lease over that. Lines that find the queue full are dropped and counted.

use crate::config::{Log, LogFormat};
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Chooses another filter than the file's.
pub const FILTER_VARIABLE: &str = "TWINWALL_LOG";

/// Lines that wait for a slow reader of stderr.
const LINES_MAX: usize = 4096;

/// The way to the thread that writes; until it runs, everybody writes for himself.
static QUEUE: OnceLock<NonBlocking> = OnceLock::new();

/// Replaces the filter of whatever form the log has.
type Change = Box<dyn Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error> + Send + Sync>;
static CHANGE: OnceLock<Change> = OnceLock::new();

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{FILTER_VARIABLE} is set in the daemon's environment and decides (restart without it)")]
    Overridden,
    #[error("logging has not been set up, or is gone")]
    Absent,
    #[error("{FILTER_VARIABLE}=\"{filter}\": {source} (write a level like debug, or TARGET=LEVEL,…)")]
    Filter { filter: String, source: tracing_subscriber::filter::ParseError },
    #[error("logging was set up twice")]
    Twice,
}

/// Lines that were dropped because nobody read stderr for long.
pub fn lines_dropped() -> u64 {
    let dropped = QUEUE.get().map(|queue| queue.error_counter().dropped_lines());
    dropped.map_or(0, |lines| u64::try_from(lines).unwrap_or(u64::MAX))
}

/// Leaves the writing to a thread from now on. To be called when privileges are given away, because the thread keeps
/// what the process has then. What waits is written when the guard is dropped.
#[must_use = "lines that wait are lost when the guard is dropped early"]
pub fn write_in_a_thread() -> WorkerGuard {
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).thread_name("log");
    let (writer, guard) = queue.finish(std::io::stderr());
    QUEUE.get_or_init(|| writer);
    guard
}

fn writer() -> Box<dyn Write> {
    match QUEUE.get() {
        Some(queue) => Box::new(queue.clone()),
        None => Box::new(std::io::stderr()),
    }
}

/// Starts logging for the whole process.
///
/// # Errors
/// When the filter of the environment is wrong, or logging runs already.
pub fn start(log: &Log) -> Result<(), LogError> {
    let filter = parse(&of_environment().unwrap_or_else(|| log.filter.clone()))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match log.format {
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            CHANGE.get_or_init(|| Box::new(move |filter| handle.reload(filter)));
            builder.try_init()
        }
        // The journal stamps each line itself.
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => {
            let builder = builder.without_time().with_filter_reloading();
            let handle = builder.reload_handle();
            CHANGE.get_or_init(|| Box::new(move |filter| handle.reload(filter)));
            builder.try_init()
        }
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            CHANGE.get_or_init(|| Box::new(move |filter| handle.reload(filter)));
            builder.try_init()
        }
    };
    started.map_err(|_| LogError::Twice)
}

/// Another filter while the daemon runs.
///
/// # Errors
/// When the filter is wrong, or the environment has chosen one.
pub fn change_level(filter: &str) -> Result<(), LogError> {
    if of_environment().is_some() {
        return Err(LogError::Overridden);
    }
    let filter = parse(filter)?;
    CHANGE.get().ok_or(LogError::Absent)?(filter).map_err(|_| LogError::Absent)
}

fn of_environment() -> Option<String> {
    std::env::var(FILTER_VARIABLE).ok().filter(|filter| !filter.is_empty())
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(filter).map_err(|source| LogError::Filter { filter: filter.to_owned(), source })
}
