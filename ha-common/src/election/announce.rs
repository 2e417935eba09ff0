//! When to announce the virtual addresses: a burst with back-off after a takeover, then a periodic refresh.

use crate::time::{Instant, earliest};
use core::time::Duration;

/// A refresh more often than this would only be noise on the segment.
const REFRESH_MIN: Duration = Duration::from_millis(100);

/// The schedule of gratuitous ARP / unsolicited NA. The first announcement, at the start of a burst, is the caller's.
#[derive(Clone, Debug)]
pub(super) struct Announcer {
    /// Offsets from the start of the burst, ascending, none zero.
    burst: Vec<Duration>,
    refresh: Option<Duration>,
    running: Option<Running>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    started: Instant,
    /// How many offsets of the burst are done.
    done: usize,
    refresh_at: Option<Instant>,
}

impl Announcer {
    pub(super) fn new(burst: &[Duration], refresh: Option<Duration>) -> Self {
        let mut burst: Vec<Duration> = burst.iter().copied().filter(|offset| !offset.is_zero()).collect();
        burst.sort_unstable();
        Self { burst, refresh: refresh.map(|every| every.max(REFRESH_MIN)), running: None }
    }

    /// Begins a burst; the caller announces now.
    pub(super) fn start(&mut self, now: Instant) {
        self.running = Some(Running { started: now, done: 0, refresh_at: self.refresh.map(|every| now + every) });
    }

    /// Nothing is announced by a node that is not master.
    pub(super) fn stop(&mut self) {
        self.running = None;
    }

    /// Whether to announce now. What was missed by a late call is made up for by one announcement.
    pub(super) fn due(&mut self, now: Instant) -> bool {
        let Some(running) = &mut self.running else { return false };
        let mut due = false;
        while self.burst.get(running.done).is_some_and(|offset| running.started + *offset <= now) {
            running.done += 1;
            due = true;
        }
        if running.refresh_at.is_some_and(|at| at <= now) {
            running.refresh_at = self.refresh.map(|every| now + every);
            due = true;
        }
        due
    }

    pub(super) fn poll_at(&self) -> Option<Instant> {
        let running = self.running.as_ref()?;
        let burst = self.burst.get(running.done).map(|offset| running.started + *offset);
        earliest(burst, running.refresh_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant(5_000_000_000);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Runs the schedule exactly at its own deadlines and lists the offsets (ms) of the announcements.
    fn offsets(announcer: &mut Announcer, until: Duration) -> Vec<u128> {
        let mut seen = Vec::new();
        while let Some(at) = announcer.poll_at().filter(|at| at.since(START) <= until) {
            assert!(announcer.due(at), "a deadline must be due");
            assert!(!announcer.due(at), "once");
            seen.push(at.since(START).as_millis());
        }
        seen
    }

    /// Offsets in any order run in ascending order; zero is the caller's; the refresh counts from the start.
    #[test]
    fn burst_then_refresh() {
        let mut announcer = Announcer::new(&[ms(500), ms(0), ms(100), ms(2000)], Some(ms(30_000)));
        assert_eq!(announcer.poll_at(), None);
        announcer.start(START);
        assert_eq!(offsets(&mut announcer, ms(70_000)), [100, 500, 2000, 30_000, 60_000]);
        announcer.stop();
        assert_eq!(announcer.poll_at(), None);
        assert!(!announcer.due(START + ms(100_000)));
    }

    /// A loop that was late announces once, not as often as it missed.
    #[test]
    fn missed_offsets_are_made_up_once() {
        let mut announcer = Announcer::new(&[ms(100), ms(200), ms(300)], None);
        announcer.start(START);
        assert!(announcer.due(START + ms(250)));
        assert!(!announcer.due(START + ms(299)));
        assert!(announcer.due(START + ms(300)));
        assert_eq!(announcer.poll_at(), None);
    }

    /// A refresh of zero must not become a busy loop.
    #[test]
    fn refresh_has_a_floor() {
        let mut announcer = Announcer::new(&[], Some(Duration::ZERO));
        announcer.start(START);
        assert_eq!(announcer.poll_at(), Some(START + REFRESH_MIN));
    }
}
