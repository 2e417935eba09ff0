//! When a link that changes counts as changed: at once, after a delay, and later while it flaps.
//!
//! Damping is mild by intent: a node whose link has come back may be the only one left, and must not sit out for long.

use ha_common::time::Instant;
use std::time::Duration;

/// A link lost again within this time after it came back flaps.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// So many flaps are forgiven: a cable that is moved, a switch that restarts.
const FLAPS_FREE: u32 = 2;
/// Each further one doubles the up delay, at most this often.
const DOUBLINGS_MAX: u32 = 3;

/// What the kernel says of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Up,
    Down,
    /// No interface of this name exists: down without any delay.
    Missing,
}

impl Carrier {
    /// From whether the interface exists, and whether it is up with carrier.
    pub fn of(exists: bool, up: bool) -> Self {
        match (exists, up) {
            (false, _) => Self::Missing,
            (true, true) => Self::Up,
            (true, false) => Self::Down,
        }
    }
}

/// One link. The first observation counts at once, whatever it is.
#[derive(Clone, Debug)]
pub struct Damper {
    up_delay: Duration,
    down_delay: Duration,
    /// What counts; `None` before the first observation.
    counts: Option<bool>,
    /// When the opposite of what counts will count, if nothing changes until then.
    due: Option<Instant>,
    /// When the link last came to count as up.
    up_since: Option<Instant>,
    flaps: u32,
}

impl Damper {
    pub fn new(up_delay: Duration, down_delay: Duration) -> Self {
        Self { up_delay, down_delay, counts: None, due: None, up_since: None, flaps: 0 }
    }

    /// Takes what the kernel says now; ask [`Self::is_up`] afterwards.
    pub fn observe(&mut self, carrier: Carrier, now: Instant) {
        self.settle(now);
        let up = carrier == Carrier::Up;
        match self.counts {
            None => self.change(up, now),
            Some(counts) if counts == up => self.due = None,
            Some(_) => {
                let delay = match carrier {
                    Carrier::Up => self.damped_up_delay(),
                    Carrier::Down => self.down_delay,
                    Carrier::Missing => Duration::ZERO,
                };
                // A change that waits already keeps its time, unless the interface vanished meanwhile.
                let due = now + delay;
                self.due = Some(self.due.map_or(due, |waiting| waiting.min(due)));
                self.settle(now);
            }
        }
    }

    /// Lets a change count whose time has come; true when one did.
    pub fn settle(&mut self, now: Instant) -> bool {
        let (Some(counts), Some(due)) = (self.counts, self.due) else { return false };
        if due > now {
            return false;
        }
        self.change(!counts, now);
        true
    }

    /// Does the link count as up?
    pub fn is_up(&self) -> bool {
        self.counts == Some(true)
    }

    /// Has it been lost again soon after its return, more often than is forgiven, and not been steady since?
    pub fn is_flapping(&self, now: Instant) -> bool {
        self.flaps > FLAPS_FREE && self.up_since.is_none_or(|since| now.since(since) < STEADY_AFTER)
    }

    /// When [`Self::settle`] is wanted.
    pub fn poll_at(&self) -> Option<Instant> {
        self.due
    }

    fn change(&mut self, up: bool, now: Instant) {
        if up {
            self.up_since = Some(now);
        } else if let Some(since) = self.up_since.take() {
            self.flaps = if now.since(since) < STEADY_AFTER { self.flaps.saturating_add(1) } else { 0 };
        }
        self.counts = Some(up);
        self.due = None;
    }

    /// Losses after a steady time cost the plain delay; one flap after the other doubles it.
    fn damped_up_delay(&self) -> Duration {
        let factor = 1 << self.flaps.saturating_sub(FLAPS_FREE).min(DOUBLINGS_MAX);
        self.up_delay.saturating_mul(factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(ms: u64) -> Instant {
        Instant(0) + MS * u32::try_from(ms).unwrap()
    }

    fn damper() -> Damper {
        Damper::new(500 * MS, Duration::ZERO)
    }

    /// The first observation counts at once, a loss too, and a return only after the delay.
    #[test]
    fn up_is_delayed_and_down_is_not() {
        let mut link = damper();
        assert!(!link.is_up());
        link.observe(Carrier::Up, at(0));
        assert!(link.is_up());
        link.observe(Carrier::Down, at(100_000));
        assert!(!link.is_up());
        link.observe(Carrier::Up, at(100_010));
        assert_eq!((link.is_up(), link.poll_at()), (false, Some(at(100_510))));
        assert!(!link.settle(at(100_509)));
        assert!(link.settle(at(100_510)));
        assert_eq!((link.is_up(), link.poll_at()), (true, None));
    }

    /// A return that does not last never counts, and repeated events do not push the time away.
    #[test]
    fn a_short_return_never_counts() {
        let mut link = damper();
        link.observe(Carrier::Down, at(0));
        link.observe(Carrier::Up, at(10));
        link.observe(Carrier::Up, at(300));
        assert_eq!(link.poll_at(), Some(at(510)));
        link.observe(Carrier::Down, at(509));
        assert_eq!((link.poll_at(), link.is_up()), (None, false));
    }

    /// A down delay bridges a short loss, but not the loss of the interface itself.
    #[test]
    fn a_down_delay_bridges_a_short_loss() {
        let mut link = Damper::new(500 * MS, 200 * MS);
        link.observe(Carrier::Up, at(0));
        link.observe(Carrier::Down, at(1000));
        assert!(link.is_up());
        link.observe(Carrier::Up, at(1100));
        assert_eq!((link.is_up(), link.poll_at()), (true, None));
        link.observe(Carrier::Down, at(2000));
        link.observe(Carrier::Missing, at(2010));
        assert_eq!((link.is_up(), link.poll_at()), (false, None));
    }

    /// From the third loss within a minute of the return on, each doubles the delay up to eightfold; a steady minute
    /// forgives all.
    #[test]
    fn flaps_double_the_delay() {
        let mut link = damper();
        let mut now = 0;
        link.observe(Carrier::Up, at(now));
        let mut delays = Vec::new();
        for _ in 0..9 {
            link.observe(Carrier::Down, at(now));
            link.observe(Carrier::Up, at(now));
            let due = link.poll_at().unwrap();
            delays.push(due.since(at(now)).as_millis());
            assert!(link.settle(due));
            now += u64::try_from(due.since(at(now)).as_millis()).unwrap();
        }
        assert_eq!(delays, [500, 500, 1000, 2000, 4000, 4000, 4000, 4000, 4000]);
        assert!(link.is_flapping(at(now + 59_999)));
        now += 60_000;
        assert!(!link.is_flapping(at(now)));
        link.observe(Carrier::Down, at(now));
        link.observe(Carrier::Up, at(now));
        assert_eq!(link.poll_at(), Some(at(now + 500)));
    }

    /// An event that arrives after the deadline finds the change done, as a timer would have.
    #[test]
    fn a_late_event_settles_first() {
        let mut link = damper();
        link.observe(Carrier::Down, at(0));
        link.observe(Carrier::Up, at(1));
        link.observe(Carrier::Up, at(900));
        assert!(link.is_up());
    }
}
