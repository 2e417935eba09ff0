//! The boot clock of a host against the time of the world: another origin, a rate of its own, and pauses that it misses.

use ha_common::time::Instant;
use std::time::Duration;

const MILLION: u64 = 1_000_000;

pub struct Clock {
    pace: Pace,
    /// How it went before, and what it showed last then.
    before: Vec<(Instant, Pace)>,
}

/// How a clock goes while nothing happens to it.
#[derive(Clone, Copy)]
struct Pace {
    /// World and local time when it began to.
    origin: Instant,
    epoch: Instant,
    /// Local nanoseconds in a million of the world's.
    rate: u64,
    /// Time that the clock did not count.
    missed: Duration,
}

impl Clock {
    /// `drift`: parts of a million that it runs too fast, or too slow.
    pub fn new(now: Instant, epoch: Instant, drift: i64) -> Self {
        Self { pace: Pace::new(now, epoch, drift), before: Vec::new() }
    }

    pub fn local(&self, now: Instant) -> Instant {
        self.pace.local(now)
    }

    /// When the clock will show at least `local`.
    pub fn world(&self, local: Instant) -> Instant {
        self.pace.world(local)
    }

    /// When it showed that.
    pub fn showed(&self, local: Instant) -> Instant {
        let then = self.before.iter().find(|(last, _)| local <= *last).map_or(self.pace, |(_, pace)| *pace);
        then.world(local)
    }

    /// A pause of the host over which the clock stands still.
    pub fn miss(&mut self, now: Instant, pause: Duration) {
        self.before.push((self.local(now), self.pace));
        self.pace.missed += pause;
    }

    /// From now on the clock runs at another rate.
    pub fn drift(&mut self, now: Instant, drift: i64) {
        let local = self.local(now);
        self.before.push((local, self.pace));
        self.pace = Pace::new(now, local, drift);
    }
}

impl Pace {
    fn new(now: Instant, epoch: Instant, drift: i64) -> Self {
        Self { origin: now, epoch, rate: MILLION.saturating_add_signed(drift), missed: Duration::ZERO }
    }

    fn local(&self, now: Instant) -> Instant {
        let elapsed = now.since(self.origin).as_nanos() as u64;
        // The longest run is minutes: the product fits.
        self.epoch + Duration::from_nanos(elapsed / MILLION * self.rate + elapsed % MILLION * self.rate / MILLION)
            - self.missed
    }

    fn world(&self, local: Instant) -> Instant {
        let ticks = (local + self.missed).since(self.epoch).as_nanos() as u64;
        let elapsed = ticks / self.rate * MILLION + (ticks % self.rate * MILLION).div_ceil(self.rate);
        // Rounded up twice: never before its time.
        self.origin + Duration::from_nanos(elapsed + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the rate and the pauses, the clock shows a deadline when the world says so, and not a microsecond earlier.
    #[test]
    fn deadlines_are_met() {
        for drift in [-50_000, -100, 0, 77, 50_000] {
            let mut clock = Clock::new(Instant(5_000_000_007), Instant(1_000_000_000), drift);
            clock.miss(Instant(5_000_000_007), Duration::from_millis(3));
            for ahead in [0, 1, 999, 1_000_003, 77_000_000_001] {
                let deadline = clock.local(Instant(6_000_000_000)) + Duration::from_nanos(ahead);
                let at = clock.world(deadline);
                assert!(clock.local(at) >= deadline, "{drift} {ahead}");
                assert!(clock.local(at - Duration::from_micros(1)) < deadline, "{drift} {ahead}");
            }
        }
    }

    /// What a clock showed before a pause that it did not count, and before its rate changed, it showed then.
    #[test]
    fn what_it_showed_it_showed_then() {
        let mut clock = Clock::new(Instant(5_000_000_000), Instant(1_000_000_000), 20_000);
        let at = |ms: u64| Instant(5_000_000_000 + ms * 1_000_000);
        let first = (at(10), clock.local(at(10)));
        clock.miss(at(20), Duration::from_millis(40));
        let second = (at(70), clock.local(at(70)));
        clock.drift(at(80), -20_000);
        let third = (at(90), clock.local(at(90)));
        for (world, local) in [first, second, third] {
            assert!(clock.showed(local).since(world) <= Duration::from_nanos(2) && world <= clock.showed(local));
        }
    }
}
