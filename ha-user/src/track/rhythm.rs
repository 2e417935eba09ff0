//! When the next check is due.

use ha_common::time::Instant;
use std::time::Duration;

/// A regular beat, the first at once. Beats that were missed are not made up for.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    interval: Duration,
    next: Instant,
}

impl Ticks {
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, next: now }
    }

    /// True once for each beat that has come.
    pub fn is_due(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        let next = self.next + self.interval;
        self.next = if next > now { next } else { now + self.interval };
        true
    }

    pub fn next(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beats keep their rhythm when they are a little late, and begin anew when some were missed.
    #[test]
    fn late_beats_keep_the_rhythm_and_missed_ones_are_gone() {
        let mut ticks = Ticks::new(Duration::from_nanos(10), Instant(100));
        let due = [100, 104, 113, 119, 120, 145, 154, 155].map(|at| ticks.is_due(Instant(at)));
        assert_eq!(due, [true, false, true, false, true, true, false, true]);
        assert_eq!(ticks.next(), Instant(165));
    }
}
