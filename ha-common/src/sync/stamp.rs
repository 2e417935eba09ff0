//! Since when something waits, kept coarsely: a queue may hold a million of them.

use crate::time::Instant;
use core::time::Duration;

/// The unit of [`Stamp`].
const LENGTH: Duration = Duration::from_nanos(1 << 16);

/// A point in time in units of 65.5 µs, wrapping after 78 hours: for ages only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u32);

impl Stamp {
    pub fn at(now: Instant) -> Self {
        Self((now.0 >> 16) as u32)
    }

    pub fn age(self, now: Instant) -> Duration {
        Duration::from_nanos(u64::from(Self::at(now).0.wrapping_sub(self.0)) << 16)
    }

    /// Certainly less than `age` ago, though times are kept coarsely.
    pub fn is_younger(self, now: Instant, age: Duration) -> bool {
        self.age(now) + LENGTH < age
    }
}

/// The older one of two that are less than half the range apart.
pub(super) fn older(a: Option<Stamp>, b: Option<Stamp>) -> Option<Stamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.0.wrapping_sub(a.0) < u32::MAX / 2 { a } else { b }),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000_000;

    /// Ages and orders hold where the counter wraps.
    #[test]
    fn wraps() {
        let (before, after) = (Stamp::at(Instant(78 * HOUR)), Stamp::at(Instant(79 * HOUR)));
        assert!(after.0 < before.0);
        assert_eq!(older(Some(after), Some(before)), Some(before));
        assert_eq!(older(Some(before), Some(after)), Some(before));
        assert_eq!(older(None, Some(after)), Some(after));
        let age = before.age(Instant(79 * HOUR));
        assert!(age.abs_diff(Duration::from_secs(3600)) <= LENGTH);
    }

    /// What is exactly as old, or may be for all that is kept of its time, is not younger.
    #[test]
    fn is_younger_only_for_certain() {
        let (then, now) = (Stamp::at(Instant((1 << 16) - 1)), Instant(1 << 20));
        let age = now.since(Instant((1 << 16) - 1));
        assert!(!then.is_younger(now, age));
        assert!(!then.is_younger(now, age + LENGTH));
        assert!(then.is_younger(now, age + LENGTH * 3));
    }
}
