//! Which flows changed lately: the first to be sent when a whole table is, because they are the most likely to be alive.
//!
//! Versions are a clock that all nodes share, so a note of its value now and then is enough, and a change costs nothing.

use crate::time::Instant;
use core::time::Duration;

/// What changed within the last one or two of these is recent.
const LATELY: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Recent {
    noted: Option<Instant>,
    newest: u64,
    since: u64,
}

impl Recent {
    /// Versions above this one are recent.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// The version clock has this value now.
    pub fn note(&mut self, now: Instant, clock: u64) {
        if self.noted.is_none_or(|noted| now.since(noted) >= LATELY) {
            self.noted = Some(now);
            self.since = core::mem::replace(&mut self.newest, clock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever changed within thirty seconds is recent, and nothing that is older than sixty.
    #[test]
    fn lately_is_between_thirty_and_sixty_seconds() {
        let mut recent = Recent::default();
        // The clock counts seconds here.
        for second in 0..300 {
            recent.note(Instant(second * 1_000_000_000), second);
            assert!(recent.since() <= second.saturating_sub(30), "at {second}");
            assert!(recent.since() >= second.saturating_sub(60), "at {second}");
        }
    }
}
