//! What became of the hooks: counted by the thread that runs them, read by status and metrics.

use super::event::Occasion;
use crate::clock;
use crate::status::{HookRunStatus, HookStatus};
use ha_common::time::Instant;
use std::sync::Mutex;

/// How a run ended; the name is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    Ok,
    /// Another exit code than 0, or a signal.
    Failed,
    TimedOut,
    /// Overtaken by a newer change, or by the end of the daemon.
    Skipped,
    CouldNotStart,
}

impl Outcome {
    pub const ALL: [Self; 5] = [Self::Ok, Self::Failed, Self::TimedOut, Self::Skipped, Self::CouldNotStart];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Skipped => "skipped",
            Self::CouldNotStart => "could_not_start",
        }
    }
}

/// Shared by the thread of the hooks and the services; the control loop never touches it.
#[derive(Debug, Default)]
pub struct Record(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    counts: [[u64; Outcome::ALL.len()]; Occasion::ALL.len()],
    last: Option<(Instant, HookRunStatus)>,
    running: Option<String>,
}

impl Record {
    /// Counts `by` runs that ended so.
    pub fn count(&self, occasion: Occasion, outcome: Outcome, by: u64) {
        let mut kept = self.lock();
        if let Some(count) = kept.counts.get_mut(occasion as usize).and_then(|row| row.get_mut(outcome as usize)) {
            *count = count.saturating_add(by);
        }
    }

    /// The run that ended last, for people.
    pub fn ended(&self, occasion: Occasion, outcome: Outcome, command: String, detail: String, now: Instant) {
        self.count(occasion, outcome, 1);
        let (hook, result) = (occasion.name().to_owned(), outcome.name().to_owned());
        let mut kept = self.lock();
        kept.last = Some((now, HookRunStatus { hook, command, result, detail, seconds_ago: 0.0 }));
        kept.running = None;
    }

    /// The run that has begun.
    pub fn begun(&self, command: String) {
        self.lock().running = Some(command);
    }

    /// Everything as plain values, zeros included.
    pub fn status(&self) -> HookStatus {
        let now = clock::now();
        let kept = self.lock();
        let row = |counts: &[u64; Outcome::ALL.len()]| {
            Outcome::ALL.iter().zip(counts).map(|(outcome, count)| (outcome.name().to_owned(), *count)).collect()
        };
        let runs =
            Occasion::ALL.iter().zip(&kept.counts).map(|(occasion, counts)| (occasion.name().to_owned(), row(counts)));
        let last = kept
            .last
            .as_ref()
            .map(|(at, last)| HookRunStatus { seconds_ago: now.since(*at).as_secs_f64(), ..last.clone() });
        HookStatus { runs: runs.collect(), last, running: kept.running.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        // A panic ends the whole process; what it left behind is only counts.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each outcome is counted in its own place, and the last run is shown until the next ends.
    #[test]
    fn outcomes_are_counted() {
        let record = Record::default();
        record.begun("/up eth0 10.0.0.1".to_owned());
        assert_eq!(record.status().running.as_deref(), Some("/up eth0 10.0.0.1"));
        record.ended(Occasion::Up, Outcome::Failed, "/up".to_owned(), "exit code 1".to_owned(), clock::now());
        record.count(Occasion::Any, Outcome::Skipped, 3);
        let status = record.status();
        assert_eq!(status.runs["up"]["failed"], 1);
        assert_eq!(status.runs["any"]["skipped"], 3);
        assert_eq!(status.runs.values().flat_map(|row| row.values()).sum::<u64>(), 4);
        let last = status.last.unwrap();
        assert_eq!((last.hook.as_str(), last.result.as_str(), status.running), ("up", "failed", None));
    }
}
