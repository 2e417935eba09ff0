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

#[derive(Debug, thiserror::Error)]
pub enum LogError {
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
    let filter = std::env::var(FILTER_VARIABLE).ok().filter(|filter| !filter.is_empty());
    let filter = filter.unwrap_or_else(|| log.filter.clone());
    let filter = EnvFilter::builder().parse(&filter).map_err(|source| LogError::Filter { filter, source })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match log.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        // The journal stamps each line itself.
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => builder.without_time().try_init(),
        LogFormat::Text => builder.try_init(),
    };
    started.map_err(|_| LogError::Twice)
}
