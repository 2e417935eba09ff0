//! The longest gap seen lately: a maximum that fades.

use crate::time::Instant;
use core::time::Duration;

/// After so long half of it is forgotten.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// A maximum that halves every [`HALF_LIFE`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WorstGap {
    value: Duration,
    at: Instant,
}

impl WorstGap {
    pub fn observe(&mut self, now: Instant, gap: Duration) {
        if gap >= self.at(now) {
            *self = Self { value: gap, at: now };
        }
    }

    /// What is left of it: whole halves exactly, in between on a straight line.
    pub fn at(&self, now: Instant) -> Duration {
        let age = now.since(self.at).as_nanos();
        let half = HALF_LIFE.as_nanos();
        let value = self.value.as_nanos();
        let halved = u32::try_from(age / half).ok().and_then(|halves| value.checked_shr(halves)).unwrap_or(0);
        let faded = halved - halved * (age % half) / (2 * half);
        Duration::from_nanos(u64::try_from(faded).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gap is remembered in full, by half after the half-life, and only a longer one than is left replaces it.
    #[test]
    fn it_fades() {
        let ms = Duration::from_millis;
        let start = Instant(5_000_000_000);
        let mut worst = WorstGap::default();
        worst.observe(start, ms(8));
        assert_eq!(worst.at(start), ms(8));
        assert_eq!(worst.at(start + HALF_LIFE / 2), ms(6));
        assert_eq!(worst.at(start + HALF_LIFE * 2), ms(2));
        worst.observe(start + HALF_LIFE, ms(3));
        assert_eq!(worst.at(start + HALF_LIFE), ms(4));
        worst.observe(start + HALF_LIFE, ms(5));
        assert_eq!(worst.at(start + HALF_LIFE), ms(5));
    }

    /// Any time and any gap: it neither overflows nor grows by itself.
    #[test]
    fn extremes() {
        let mut worst = WorstGap::default();
        worst.observe(Instant(0), Duration::MAX);
        assert_eq!(worst.at(Instant(u64::MAX)), Duration::ZERO);
        worst.observe(Instant(u64::MAX), Duration::from_millis(1));
        assert_eq!(worst.at(Instant(0)), Duration::from_millis(1));
    }
}
