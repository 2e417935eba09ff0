//! How fast frames go out that nobody acknowledges.
//!
//! Without acknowledgements nothing tells that the peer cannot follow, and what its socket has no room for is lost. So
//! the rate is one that any peer follows, 12.5 MB/s: some two hundred flows a millisecond, half of what a core writes into
//! a kernel's table in that time (`baselines` section 2). What is sent at once fits into a socket's default buffer
//! (net.core.rmem_default, 212,992 bytes, of which a frame of an Ethernet takes 2304).

use crate::time::Instant;

const NANOSECONDS_PER_BYTE: u64 = 80;
/// So far a sender may be ahead of the rate: eight milliseconds, 100 kB.
const BURST_NANOSECONDS: u64 = 8_000_000;

/// The time by which everything sent so far is paid for at the rate.
#[derive(Debug, Default)]
pub(super) struct Pace(u64);

impl Pace {
    pub fn is_open(&self, now: Instant) -> bool {
        self.opens_at() <= now
    }

    /// When the next frame may go.
    pub fn opens_at(&self) -> Instant {
        Instant(self.0.saturating_sub(BURST_NANOSECONDS))
    }

    /// A datagram of so many bytes was sent.
    pub fn spend(&mut self, now: Instant, bytes: usize) {
        self.0 = self.0.max(now.0).saturating_add((bytes as u64).saturating_mul(NANOSECONDS_PER_BYTE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A burst of a hundred kilobytes goes at once after a pause, however long; a second of sending is 12.5 MB more.
    #[test]
    fn rate_and_burst() {
        const FRAME: usize = 1400;
        let mut pace = Pace::default();
        let mut now = Instant(77_000_000_000);
        let mut burst = |now: Instant| {
            let mut bytes = 0;
            while pace.is_open(now) {
                pace.spend(now, FRAME);
                bytes += FRAME;
            }
            bytes
        };
        assert_eq!(burst(now).div_ceil(FRAME), 100_000_usize.div_ceil(FRAME));
        let mut sent = 0;
        for _ in 0..1000 {
            now = Instant(now.0 + 1_000_000);
            sent += burst(now);
        }
        assert!((12_400_000..12_600_000).contains(&sent), "{sent}");
        let mut pace = Pace::default();
        pace.spend(now, 200_000);
        assert!(!pace.is_open(now) && pace.is_open(pace.opens_at()));
    }
}
