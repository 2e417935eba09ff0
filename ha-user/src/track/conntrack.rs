//! How full the kernel's conntrack table is.

use super::Verdict;
use super::rhythm::Ticks;
use crate::config::track::TrackedConntrack;
use ha_common::time::Instant;

/// `/proc/sys/net` shows the network namespace of the thread that opens it.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// The table's pressure, with a high mark where the demotion begins and a low one below which it ends.
pub struct Pressure {
    config: TrackedConntrack,
    ticks: Ticks,
    pressed: bool,
}

impl Pressure {
    pub fn new(config: TrackedConntrack, now: Instant) -> Self {
        Self { config, ticks: Ticks::new(config.interval, now), pressed: false }
    }

    /// Looks at the table when it is time to. Without connection tracking there is no pressure.
    pub fn advance(&mut self, now: Instant) -> Option<Verdict> {
        let [count, max] = self.ticks.is_due(now).then(|| [COUNT, MAX].map(|path| read(path).unwrap_or(0)))?;
        Some(self.judge(count, max))
    }

    /// When [`Self::advance`] is wanted.
    pub fn poll_at(&self) -> Instant {
        self.ticks.next()
    }

    /// `max` 0: the table is not limited.
    fn judge(&mut self, count: u64, max: u64) -> Verdict {
        let percent = count.saturating_mul(100).checked_div(max).unwrap_or(0);
        let mark = if self.pressed { self.config.low } else { self.config.high };
        self.pressed = percent >= u64::from(mark);
        if !self.pressed {
            return Verdict::Good;
        }
        Verdict::Bad { weight: self.config.weight, detail: format!("{percent} % of {max} entries") }
    }
}

fn read(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pressure() -> Pressure {
        let config = TrackedConntrack { high: 95, low: 85, weight: 20, interval: Duration::from_secs(1) };
        Pressure::new(config, Instant(0))
    }

    /// The demotion begins at the high mark and ends below the low one; in between it stays what it was.
    #[test]
    fn marks_have_hysteresis() {
        let mut pressure = pressure();
        let counts = [0, 940, 949, 950, 900, 850, 849, 949, 2000];
        let pressed = counts.map(|count| pressure.judge(count, 1000) != Verdict::Good);
        assert_eq!(pressed, [false, false, false, true, true, true, false, false, true]);
    }

    /// A table without limit, or none at all, is never full; numbers near the end of their range do not overflow.
    #[test]
    fn odd_numbers() {
        let mut pressure = pressure();
        assert_eq!(pressure.judge(5_000_000, 0), Verdict::Good);
        assert_eq!(pressure.judge(0, 0), Verdict::Good);
        assert_eq!(pressure.judge(u64::MAX, u64::MAX), Verdict::Good);
        assert_ne!(pressure.judge(u64::MAX, 1), Verdict::Good);
    }
}
