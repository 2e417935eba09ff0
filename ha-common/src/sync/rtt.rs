//! How long an acknowledgement takes, and how long to wait for one.

use core::time::Duration;

pub(super) const RTO_MIN: Duration = Duration::from_millis(20);
pub(super) const RTO_MAX: Duration = Duration::from_millis(400);
pub(super) const RTO_FIRST: Duration = Duration::from_millis(50);

/// Round-trip estimate (RFC 6298 section 2).
#[derive(Default)]
pub(super) struct Rtt {
    pub smooth: Option<Duration>,
    variation: Duration,
    backoff: u32,
}

impl Rtt {
    /// A frame was acknowledged this long after it was sent.
    pub fn sample(&mut self, rtt: Duration) {
        self.backoff = 0;
        match self.smooth {
            Some(smooth) => {
                self.variation = (self.variation * 3 + smooth.abs_diff(rtt)) / 4;
                self.smooth = Some((smooth * 7 + rtt) / 8);
            }
            None => {
                self.smooth = Some(rtt);
                self.variation = rtt / 2;
            }
        }
    }

    /// Nothing was acknowledged in time: wait longer.
    pub fn back_off(&mut self) {
        self.backoff += 1;
    }

    /// Age at which an unacknowledged frame is given up.
    pub fn timeout(&self) -> Duration {
        let base = self.smooth.map_or(RTO_FIRST, |smooth| (smooth + self.variation * 4).max(RTO_MIN));
        base.saturating_mul(1 << self.backoff.min(8)).min(RTO_MAX)
    }
}
